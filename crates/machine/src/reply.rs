//! What a proposer is told. A refusal is a reply, the same on every node.

use nihilo_types::config_map::ConfigMap;
use nihilo_types::domain::{ClusterDomainClaim, DomainMapping};
use nihilo_types::id::{Epoch, LogIndex, NodeId, ObjectKey, SessionId};
use nihilo_types::secret::SecretOutline;
use nihilo_types::service::Service;
use serde::{Deserialize, Serialize};

/// The answer to one applied entry, with the entry's index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    pub index: LogIndex,
    pub result: Result<Outcome, Rejection>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// It took effect; nothing more to say.
    Done,
    Service {
        service: Box<Service>,
        change: Change,
    },
    ConfigMap {
        config_map: Box<ConfigMap>,
        change: Change,
    },
    DomainMapping {
        domain_mapping: Box<DomainMapping>,
        change: Change,
    },
    DomainClaim {
        claim: Box<ClusterDomainClaim>,
        change: Change,
    },
    Session(SessionId),
    /// Scales whose fence was stale or whose revision is gone; the others stand.
    Scales {
        refused: Vec<ObjectKey>,
    },
    /// A node was let in under this id.
    Node(NodeId),
    Secret {
        secret: Box<SecretOutline>,
        change: Change,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    Created,
    Updated,
    Unchanged,
    Deleted,
}

/// Why an entry had no effect. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Rejection {
    #[error("{0}")]
    Invalid(String),
    #[error("`{0}` already exists")]
    AlreadyExists(ObjectKey),
    #[error("`{0}` not found")]
    NotFound(ObjectKey),
    #[error("`{key}` has version {have}, the request was made on another one")]
    Conflict { key: ObjectKey, have: LogIndex },
    #[error("the shard is owned by session {owner} since epoch {epoch}")]
    Fenced { owner: SessionId, epoch: Epoch },
    #[error("the request id was used for another request")]
    RequestIdReused,
    #[error("session {0} is closed")]
    SessionClosed(SessionId),
    #[error(
        "node {0} has lost its store: its id belongs to the one before; wipe the directory and \
         join under a new id"
    )]
    StoreReplaced(NodeId),
    #[error("the cluster is initialised already")]
    AlreadyInitialised,
    #[error("the owner table has moved on")]
    StaleMove,
    #[error("revision name `{0}` is taken by a conflicting revision")]
    RevisionNameTaken(String),
    #[error("{0}")]
    LimitReached(String),
    /// Why, without saying what a right one would be.
    #[error("join token `{id}` {why}")]
    TokenRefused { id: String, why: String },
    #[error("{0}")]
    NodeTaken(String),
    #[error("node {0} is not a member")]
    NoSuchNode(NodeId),
    #[error("node {node} was removed from the cluster at index {at}; its id is never used again")]
    NodeRemoved { node: NodeId, at: LogIndex },
    #[error("node {0} is the last voter; without it there is no cluster")]
    LastVoter(NodeId),
    #[error("the cluster has version {have}, the next one is not {wanted}")]
    WrongVersion { have: u32, wanted: u32 },
    /// With the next command.
    #[error("{0}")]
    UnknownBundle(String),
    #[error("{0}")]
    BundleInUse(String),
}
