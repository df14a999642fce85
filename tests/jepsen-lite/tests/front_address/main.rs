//! One address in front of three gateways, by each way that there is a recipe for: what becomes of
//! requests when a node dies, is told to stop, is restarted in place, or loses its network.
//!
//! Three nodes in network namespaces. Where those, or a recipe's program, are missing, the test says so
//! and ends.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod balanced;
mod boxes;
mod keepalived;
