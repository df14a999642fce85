//! Where the nodes of a trial run.

mod compose;
mod container;
mod disk;
mod joining;
mod local;
mod network;
mod node;
mod strace;
mod wall_clock;

pub use container::Container;
pub use disk::Disk;
pub use local::{LocalCluster, Place, Settings};
pub use network::{Manner, Network};
pub use node::{Ended, LocalNode, log_of};
pub use strace::{Injection, SyncFault};
pub use wall_clock::WallClock;

/// Nodes of every cluster: the smallest that survives the loss of one.
pub const N_NODES: usize = 3;

/// A node by its place, from 0. The id of a founder is one more; a node that took a founder's place
/// has another one.
pub type NodeIndex = usize;

/// The place of a node that is there beside those of the cluster, for a while.
pub const GUEST: NodeIndex = N_NODES;
