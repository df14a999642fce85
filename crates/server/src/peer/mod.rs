//! Node to node: the services on the peer port, and the clients that call them.

pub mod accepted;
mod agent_logs;
pub mod agent_service;
pub mod bundle_service;
pub mod bundle_source;
pub mod channels;
pub mod convert;
pub mod liveness_service;
pub mod owner_ledger;
pub mod owner_service;
pub mod relay;
pub mod remote;
pub mod sniff;
