//! The node agent: runs instances, says truthfully what runs, and obeys only current owners.
//!
//! Three drivers: `process` for programs, `docker` for container images, `fake` for simulated
//! instances. Programs die with the node's process (`kill`), or outlive it and are adopted by its next
//! one (`adopt`): that one reads what was written down of each ([`handle`]), goes on with what it finds
//! ([`recovery`]), and later ends what belongs to nobody ([`sweep`]). Containers end at its next start.

pub mod agent;
pub mod bundle;
mod command_ledger;
pub mod config;
pub mod docker;
pub mod driver;
mod durable;
mod ended;
pub mod fake;
mod handle;
pub mod launch;
pub mod life;
mod log_rate;
pub mod logs;
pub mod ports;
mod probe;
pub mod process;
mod recovery;
pub mod startstop;
mod sweep;

pub use agent::{Agent, AgentConfig, AgentError, DriverConfig};
pub use bundle::{BundleStore, Bundles};
pub use fake::FakeConfig;
