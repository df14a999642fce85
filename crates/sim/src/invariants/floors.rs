//! A node's agent obeys no epoch below one it has obeyed before, in this life or an earlier one,
//! and no call older than an answered list (03-actors §4).

use std::collections::BTreeMap;

use nihilo_types::id::{Epoch, ShardId};

use super::Verdict;

/// Per node and shard: the highest epoch obeyed, and the newest list answered under it.
#[derive(Debug, Default)]
pub(crate) struct FloorsSeen(BTreeMap<(usize, ShardId), (Epoch, u64)>);

impl FloorsSeen {
    pub(crate) fn accepted(&mut self, n: usize, shard: ShardId, epoch: Epoch, seq: u64) -> Verdict {
        let (highest, listed) = self.0.entry((n, shard)).or_default();
        if epoch < *highest {
            return Err(format!(
                "node {} obeys epoch {epoch} for shard {shard} after epoch {highest}",
                n + 1
            ));
        }
        if epoch > *highest {
            (*highest, *listed) = (epoch, 0);
        }
        if seq < *listed {
            return Err(format!(
                "node {} obeys call {seq} for shard {shard} after answering list {listed}",
                n + 1
            ));
        }
        Ok(())
    }

    pub(crate) fn listed(&mut self, n: usize, shard: ShardId, seq: u64) {
        if let Some((_, listed)) = self.0.get_mut(&(n, shard)) {
            *listed = seq.max(*listed);
        }
    }
}
