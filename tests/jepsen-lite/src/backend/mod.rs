//! Where the nodes of a trial run.

mod compose;
mod container;
mod disk;
mod local;
mod network;
mod node;
mod strace;

pub use container::Container;
pub use disk::Disk;
pub use local::{LocalCluster, Place};
pub use network::{Manner, Network};
pub use node::{Ended, LocalNode, log_of};
pub use strace::{Injection, SyncFault};

/// Nodes of every cluster: the smallest that survives the loss of one.
pub const N_NODES: usize = 3;

/// A node by its place, from 0; its id is one more.
pub type NodeIndex = usize;
