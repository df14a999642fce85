//! At most one owner acts for a shard in an epoch (03-actors A1, P5).

use std::collections::BTreeMap;

use nihilo_types::id::{Epoch, ShardId};

use super::Verdict;
use crate::world::Address;

#[derive(Debug, Default)]
pub(crate) struct Owners(BTreeMap<(ShardId, Epoch), Address>);

impl Owners {
    /// A turn's effect leaves an actor of this process.
    pub(crate) fn acts(&mut self, shard: ShardId, epoch: Epoch, who: Address) -> Verdict {
        let first = *self.0.entry((shard, epoch)).or_insert(who);
        if first == who {
            return Ok(());
        }
        Err(format!(
            "shard {shard}, epoch {epoch}: node {} (life {}) acts, and so did node {} (life {})",
            who.0 + 1,
            who.1,
            first.0 + 1,
            first.1
        ))
    }
}
