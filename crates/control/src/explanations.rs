//! The newest decisions about the revisions of owned shards, for those who ask why.

use std::collections::BTreeMap;

use nihilo_entity::decision::{DecisionRecord, Decisions};
use nihilo_types::id::{ObjectKey, ShardId};
use parking_lot::Mutex;
use serde_json::json;

type OfShard = BTreeMap<ObjectKey, Decisions>;

/// They die with the ownership of their shard; the log keeps what was recorded.
#[derive(Debug, Default)]
pub(crate) struct Explanations(Mutex<BTreeMap<ShardId, OfShard>>);

impl Explanations {
    pub(crate) fn push(&self, shard: ShardId, revision: ObjectKey, record: DecisionRecord) {
        let mut all = self.0.lock();
        let of_shard = all.entry(shard).or_default();
        of_shard.entry(revision).or_default().push(record);
    }

    pub(crate) fn forget(&self, shard: ShardId) {
        self.0.lock().remove(&shard);
    }

    pub(crate) fn forget_gone(&self, exists: impl Fn(&ObjectKey) -> bool) {
        let mut all = self.0.lock();
        for of_shard in all.values_mut() {
            of_shard.retain(|revision, _| exists(revision));
        }
    }

    /// The newest decision, and the changes that led to it, as JSON; `None` = nothing decided here.
    pub(crate) fn report(&self, revision: &ObjectKey, now_ms: u64) -> Option<Box<str>> {
        let all = self.0.lock();
        let decisions = all.values().find_map(|of_shard| of_shard.get(revision))?;
        let told = |record: &DecisionRecord| {
            json!({
                "ageMs": now_ms.saturating_sub(record.at_ms),
                "says": record.sentence(),
                "record": record,
            })
        };
        let newest = told(decisions.newest()?);
        let history: Vec<_> = decisions.kept().map(told).collect();
        let report = json!({
            "revision": revision.to_string(),
            "newest": newest,
            "history": history,
        });
        Some(report.to_string().into())
    }
}
