//! Owners that nobody can ask to start anything (05-gateway §13), and when their clients are to come
//! again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use nihilo_types::id::ShardId;
use tokio::time::Instant;

/// A refused request still asks for its owner, but a line asks no more often than this.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// Seconds of `Retry-After`: what a quorum needs once one of its nodes is started again, and more.
const RETRY_RANGE: (u32, u32) = (4, 6);

/// The shards of such owners, as control last said; shared by all lines.
#[derive(Debug, Clone, Default)]
pub struct OutOfReach(Arc<ArcSwap<BTreeSet<ShardId>>>);

impl OutOfReach {
    pub fn set(&self, shards: BTreeSet<ShardId>) {
        self.0.store(Arc::new(shards));
    }

    pub(super) fn holds(&self, shard: ShardId) -> bool {
        self.0.load().contains(&shard)
    }
}

/// When one line last asked in vain.
#[derive(Debug, Default)]
pub(super) struct Asked(Option<Instant>);

impl Asked {
    /// Whether it is time to ask again; it counts as asked then.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.0.is_none_or(|last| now >= last + ASK_EVERY);
        if is_due {
            self.0 = Some(now);
        }
        is_due
    }
}

/// Seconds after which a refused client may come again; apart, so that all do not come at once.
pub(super) fn retry_after() -> u32 {
    rand::random_range(RETRY_RANGE.0..=RETRY_RANGE.1)
}
