//! The node agent: runs instances, says truthfully what runs, and obeys only current owners.
//!
//! Two drivers: `process` for programs, `fake` for simulated instances. Instances die with the
//! node's process (`kill`); adoption after a restart belongs to a later step, so output goes
//! through pipes, not FIFOs.

pub mod agent;
mod command_ledger;
pub mod driver;
pub mod fake;
pub mod launch;
pub mod life;
mod log_rate;
pub mod logs;
pub mod ports;
pub mod process;
pub mod startstop;

pub use agent::{Agent, AgentConfig, AgentError, DriverConfig};
pub use fake::FakeConfig;
