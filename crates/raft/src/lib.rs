//! Consensus of one node: openraft on the durable store, peers over gRPC, proposals from any node,
//! linearizable reads on any node. Nothing outside sees openraft.

pub mod board;
pub mod clock;
pub mod dial;
pub mod disk;
mod fast_path;
pub mod introduction;
mod membership;
pub mod network;
pub mod node;
pub mod peer_server;
pub mod profile;
pub mod proposer;
mod quorum_gate;
pub mod reader;
mod runtime;
pub mod status;

pub use introduction::StoreReplaced;
pub use nihilo_store::{
    Compacted, Identity, OpenError, StateDigest, StateHandle, check_unused, create, is_blank,
};
pub use nihilo_store::{anew, backup};
pub use node::{Ground, RaftConfig, RaftNode, StartError};
pub use peer_server::{PeerServer, removed_text};
pub use profile::Timing;
pub use proposer::{Outcome, ProposeError};
pub use status::{RaftStatus, Role};

use nihilo_store::{StateMachine, TypeConfig};

pub(crate) type Raft = openraft::Raft<TypeConfig, StateMachine>;
