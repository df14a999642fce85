//! What is done to the cluster, and to whom.

pub mod faults;
pub mod target;
