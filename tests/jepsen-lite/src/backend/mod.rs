//! Where the nodes of a trial run.

mod local;
mod network;
mod node;

pub use local::{LocalCluster, Place};
pub use network::Network;
pub use node::{Ended, LocalNode};

/// Nodes of every cluster: the smallest that survives the loss of one.
pub const N_NODES: usize = 3;

/// A node by its place, from 0; its id is one more.
pub type NodeIndex = usize;
