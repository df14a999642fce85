//! The node agent: runs instances, says truthfully what runs, and obeys only current owners.
//!
//! Three drivers: `process` for programs, `docker` for container images, `fake` for simulated
//! instances. Programs die with the node's process (`kill`), containers at its next start; adoption
//! after a restart belongs to a later step, so output goes through pipes, not FIFOs.

pub mod agent;
mod command_ledger;
pub mod docker;
pub mod driver;
pub mod fake;
pub mod launch;
pub mod life;
pub mod logs;
pub mod ports;
pub mod process;
pub mod startstop;

pub use agent::{Agent, AgentConfig, AgentError, DriverConfig};
pub use fake::FakeConfig;
