//! The one concrete openraft type configuration.

use std::fmt;

use bytes::Bytes;
use nihilo_machine::Reply;

openraft::declare_raft_types!(
    /// Terms and node ids are `u64`, leader ids are "advanced" (term, node).
    pub TypeConfig:
        D = EntryBytes,
        R = ApplyReply,
        NodeId = u64,
        Node = Node,
);

/// One encoded log entry, replicated and stored byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryBytes(pub Bytes);

impl fmt::Display for EntryBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// What applying an entry answered; `None` for blank and membership entries.
#[derive(Debug, Clone, PartialEq)]
pub struct ApplyReply(pub Option<Reply>);

impl fmt::Display for ApplyReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(reply) => write!(f, "applied at {}", reply.index),
            None => f.write_str("no reply"),
        }
    }
}

/// A member as the membership log knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// `host:port` of its peer listener.
    pub address: String,
}

pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub type Vote = openraft::alias::VoteOf<TypeConfig>;
pub type LeaderId = openraft::alias::LeaderIdOf<TypeConfig>;
pub type Entry = openraft::alias::EntryOf<TypeConfig>;
pub type Membership = openraft::Membership<u64, Node>;
pub type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
