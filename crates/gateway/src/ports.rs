//! What the gateway needs from others, and what it tells them.

use std::sync::Arc;

use nihilo_types::id::{ObjectKey, ShardId};

/// The way to the owning actor. Must not block; a lost signal is repeated.
pub trait ScaleUp: Send + Sync + 'static {
    fn demand(&self, signal: DemandSignal);
}

/// Requests wait and nothing, or not enough, can serve them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DemandSignal {
    pub revision: ObjectKey,
    pub uid: Arc<str>,
    pub shard: ShardId,
    pub n_waiting: u64,
    pub in_flight: u64,
    pub oldest_age_ms: u64,
}

/// One revision's traffic since the last report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevisionStat {
    pub revision: ObjectKey,
    pub uid: Arc<str>,
    pub shard: ShardId,
    pub area_us: u64,
    pub used_us: u64,
    pub n_started: u64,
    pub in_flight: u64,
    pub queued: u64,
    pub oldest_ms: u64,
}
