//! What is done to the cluster, and to whom.

mod apps;
pub mod cuts;
pub mod disconnect;
pub mod disks;
pub mod faults;
pub mod instances;
pub mod links;
pub mod membership;
mod overload;
pub mod target;
mod wall_clocks;
