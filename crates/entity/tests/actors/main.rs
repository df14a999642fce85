//! The actors by tables: what is there, what happens, and exactly what is done about it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod autoscaler;
mod bound;
mod domain;
mod drain;
mod idle;
mod revision;
mod route;
mod service;
mod stage;
