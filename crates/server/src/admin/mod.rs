//! The admin API on port 7070: any node answers, writes are forwarded to the leader.

pub mod backup;
pub mod bundle;
pub mod cluster;
pub mod config;
pub mod domain;
mod drain;
pub mod error;
mod lines;
pub mod members;
pub(crate) mod metrics;
pub mod names;
pub mod observe;
pub mod read;
mod secret;
pub mod serving;
pub mod watch;
mod write;
