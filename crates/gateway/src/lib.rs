//! The data plane of one node: ingress, activator and limiter in one, on a thread of its own.
//!
//! Knows route tables and endpoints as data; knows no Raft, no actors. A request waits for
//! capacity in exactly one place, the line of its revision.

pub mod body;
pub mod gateway;
pub mod limiter;
pub mod line;
pub mod ports;
pub mod proxy;
pub mod rescue;
mod reservations;
pub mod router;
pub mod rules;
pub mod upstream;

pub use gateway::{Gateway, GatewayConfig, StartError};
pub use limiter::LocalInstances;
pub use ports::{DemandSignal, RevisionStat, ScaleUp};
