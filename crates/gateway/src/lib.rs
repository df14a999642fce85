//! The data plane of one node: ingress, activator and limiter in one, on a thread of its own.
//!
//! Knows route tables and endpoints as data; knows no Raft, no actors. A request waits for
//! capacity in exactly one place, the line of its revision.

pub mod access_log;
pub mod asleep;
pub mod body;
mod cold;
pub mod connection;
mod finish;
pub mod gateway;
mod h2_form;
mod health;
mod heard;
pub mod limiter;
pub mod line;
pub mod listener;
pub mod mesh;
mod mesh_door;
mod mesh_server;
pub mod metrics;
pub mod pool;
pub mod ports;
mod prepare;
pub mod proxy;
mod record;
pub mod rescue;
mod reservations;
pub mod router;
pub mod rules;
mod send;
mod sweep;
#[cfg(test)]
mod testkit;
pub mod tls;
pub mod tunnel;
pub mod upstream;

pub use gateway::{Gateway, GatewayConfig, StartError, Unanswered};
pub use limiter::LocalInstances;
pub use ports::{DemandSignal, RevisionStat, ScaleUp};
