//! Consensus of one node: openraft on the durable store, peers over gRPC, proposals from any node,
//! linearizable reads on any node. Nothing outside sees openraft.

pub mod clock;
pub mod dial;
pub mod disk;
pub mod network;
pub mod node;
pub mod peer_server;
pub mod profile;
pub mod proposer;
pub mod reader;
mod runtime;
pub mod status;

pub use nihilo_store::{Compacted, Identity, OpenError, StateHandle, check_unused};
pub use node::{Ground, RaftConfig, RaftNode, StartError};
pub use peer_server::PeerServer;
pub use profile::Timing;
pub use proposer::{Outcome, ProposeError};
pub use status::{RaftStatus, Role};

use nihilo_store::{StateMachine, TypeConfig};

pub(crate) type Raft = openraft::Raft<TypeConfig, StateMachine>;
