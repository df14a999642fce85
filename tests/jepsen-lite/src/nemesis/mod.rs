//! What is done to the cluster, and to whom.

pub mod cuts;
pub mod disconnect;
pub mod disks;
pub mod faults;
pub mod instances;
pub mod links;
pub mod target;
