//! The immutable view that gateways route by: derived on every node from the same log entries.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::id::{LogIndex, ObjectKey, ShardId};

/// Hosts to revisions as of one [`LogIndex`]. A change clones the map of `Arc`s, not the entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteTable {
    pub index: LogIndex,
    /// Key: lower-case host without port and trailing dot.
    pub hosts: BTreeMap<Arc<str>, Arc<HostEntry>>,
}

/// One host: the main host of a route, or that of one of its tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostEntry {
    pub route: ObjectKey,
    /// Index of the assignment that made this entry.
    pub index: LogIndex,
    /// Set on a tag's host.
    pub tag: Option<Arc<str>>,
    /// Shares with percent > 0, in the order of `status.traffic`; they sum to 100.
    pub split: Vec<Share>,
    /// Tag to revision, for the header `Knative-Serving-Tag` on the main host.
    pub tags: BTreeMap<Arc<str>, Arc<RevisionTarget>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    pub percent: u32,
    pub target: Arc<RevisionTarget>,
}

/// What the data plane must know of a revision to serve it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevisionTarget {
    pub revision: ObjectKey,
    pub uid: Arc<str>,
    pub service: Arc<str>,
    pub configuration: Arc<str>,
    pub shard: ShardId,
    pub container_concurrency: u32,
    pub timeout_ms: u64,
    /// 0 = same as `timeout_ms`.
    pub response_start_timeout_ms: u64,
    /// 0 = off.
    pub idle_timeout_ms: u64,
    /// The instance speaks HTTP/2 by prior knowledge.
    pub h2c: bool,
}
