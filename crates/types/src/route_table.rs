//! The immutable view that gateways route by: derived on every node from the same log entries.

mod hosts;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use hosts::Hosts;

use crate::id::{LogIndex, ObjectKey, ShardId};
use crate::probe_paths::ProbePaths;

/// Hosts to revisions as of one [`LogIndex`]. A change of it costs what has changed: see [`Hosts`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteTable {
    pub index: LogIndex,
    /// Last labels of the hosts that are not one's own: `name.namespace.domain`.
    pub domain: Arc<str>,
    pub hosts: Hosts,
}

impl Default for RouteTable {
    fn default() -> Self {
        Self {
            index: LogIndex::default(),
            domain: Arc::from(""),
            hosts: Hosts::default(),
        }
    }
}

/// One host: the main host of a route, or that of one of its tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostEntry {
    pub route: ObjectKey,
    /// Index of the assignment that made this entry.
    pub index: LogIndex,
    /// Set on a tag's host.
    pub tag: Option<Arc<str>>,
    pub visibility: Visibility,
    /// Shares with percent > 0, in the order of `status.traffic`; they sum to 100.
    pub split: Vec<Share>,
    /// Tag to revision, for the header `Knative-Serving-Tag` on the main host.
    pub tags: BTreeMap<Arc<str>, Arc<RevisionTarget>>,
}

/// Who may use a host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Visibility {
    #[default]
    Public,
    /// Unknown on public listeners.
    ClusterLocal,
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
    /// Requests that may wait per gateway; 0 = the gateway's own limit.
    pub queue_depth: u32,
    /// 0 = no limit.
    pub max_scale: u32,
    /// Requests that only ask how it is.
    pub probe_paths: ProbePaths,
}
