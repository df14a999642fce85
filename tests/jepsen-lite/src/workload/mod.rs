//! What clients do while the cluster is hurt.

pub mod counters;
pub mod from_zero;
pub mod load;
pub mod register;
pub mod services;
pub mod stages;
