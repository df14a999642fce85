//! Binds the pure entities to the actor runtime: owner look-up, effect execution, liveness,
//! statistics and endpoints. Knows the log only as a `Proposer` and a `StateSource`; knows no
//! openraft, no RocksDB, no hyper.

pub mod adapter;
pub mod agents;
pub mod demand;
pub mod effects;
pub mod endpoints;
mod explanations;
pub mod follow;
pub mod handover;
pub mod node;
pub mod ports;
pub mod proposals;
mod reach;
pub mod scale_log;
pub mod session;
pub mod shards;
pub mod stats;
mod system;

pub use node::{Control, ControlConfig, ControlPorts};
