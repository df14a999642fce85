//! Who belongs to the cluster, and who may join: what is wanted, as the log says it. Consensus
//! follows it (crates/raft), so that a change that its leader did not finish is finished by the next.

use nihilo_types::id::{LogIndex, NodeId};
use serde::{Deserialize, Serialize};

/// A node of this cluster, or one that was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The index of the entry that added it; of a founder, what its configuration says.
    pub id: NodeId,
    /// Unique among the nodes that were not removed.
    pub name: String,
    /// `host:port` of its peer listener.
    pub peer_address: String,
    /// `host:port` of its admin listener.
    pub admin_address: String,
    pub standing: Standing,
    /// It belonged to the founding members.
    pub is_founder: bool,
    /// What its operator lets it do.
    #[serde(default, skip_serializing_if = "Duty::is_full")]
    pub duty: Duty,
}

/// What a node should be in consensus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// It holds the log and does not vote.
    Learner,
    Voter,
    /// For good.
    Removed {
        at: LogIndex,
    },
}

/// What work a node is given. Its gateway serves and its vote counts in either case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Duty {
    #[default]
    Full,
    /// No new instance is placed there; what runs stays.
    Cordoned,
    /// Nothing is placed there, and what it has goes elsewhere: instances, shards, leadership.
    Drained,
}

impl Duty {
    pub fn is_full(&self) -> bool {
        *self == Duty::Full
    }
}

impl Member {
    pub fn is_removed(&self) -> bool {
        matches!(self.standing, Standing::Removed { .. })
    }

    pub fn is_voter(&self) -> bool {
        self.standing == Standing::Voter
    }
}

/// A permission for one node to join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    pub id: String,
    /// SHA-256 of the secret, hexadecimal.
    pub secret_hash: String,
    /// Whoever joins by it becomes a voter as soon as it has caught up.
    pub voter: bool,
    /// LogTime after which it is worth nothing, in milliseconds.
    pub expires_log_ms: u64,
}
