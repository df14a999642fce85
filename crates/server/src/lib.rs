//! One node: configuration in, listeners out. Plugs the crates together and holds no rule of
//! theirs.

pub mod admin;
pub mod bundle_gc;
mod config_source;
mod data_plane;
pub mod demo_app;
mod demo_ledger;
pub mod entry;
mod live_settings;
mod log;
mod node_check;
pub mod offline;
mod on_node_exit;
mod own_endpoints;
pub mod peer;
pub mod ports;
mod process;
mod restart;
pub mod secrets_key;
mod service_manager;
pub mod wiring;
