//! The state machine by tables and properties: command in, reply and exact changes out.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod actors;
mod bundles;
mod config_maps;
mod domains;
mod golden;
mod hosts;
mod members;
mod once;
mod replay;
mod secrets;
mod service;
mod sessions;
mod world;
