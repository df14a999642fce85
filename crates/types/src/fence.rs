//! Epoch floors of a node's agent: a lower epoch is refused for ever (03-actors §4).

use std::collections::BTreeMap;

use crate::id::{Epoch, ShardId};

/// Per shard, the highest epoch seen, and the newest list answered under it.
#[derive(Debug, Default)]
pub struct Floors(BTreeMap<ShardId, (Epoch, u64)>);

/// Why a call is too old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stale {
    /// A newer owner exists, since this epoch.
    Epoch(Epoch),
    /// A list that was asked for later has been answered.
    Seq,
}

impl Floors {
    /// Takes a call in: raises the floor, or refuses the call.
    ///
    /// # Errors
    /// The call is older than what was seen before.
    pub fn admit(&mut self, shard: ShardId, epoch: Epoch, seq: u64) -> Result<(), Stale> {
        let (floor, listed) = self.0.entry(shard).or_default();
        if epoch < *floor {
            return Err(Stale::Epoch(*floor));
        }
        if epoch > *floor {
            (*floor, *listed) = (epoch, 0);
        }
        if seq < *listed {
            Err(Stale::Seq)
        } else {
            Ok(())
        }
    }

    /// A list was answered: calls sent before it are void from now on.
    pub fn listed(&mut self, shard: ShardId, seq: u64) {
        if let Some((_, listed)) = self.0.get_mut(&shard) {
            *listed = seq.max(*listed);
        }
    }

    /// Floors of the applied owner table.
    pub fn raise(&mut self, shard: ShardId, epoch: Epoch) {
        let (floor, listed) = self.0.entry(shard).or_default();
        if epoch > *floor {
            (*floor, *listed) = (epoch, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: ShardId = ShardId(3);

    #[test]
    fn a_lower_epoch_is_refused_for_ever() {
        let mut floors = Floors::default();
        assert_eq!(floors.admit(S, Epoch(5), 1), Ok(()));
        assert_eq!(floors.admit(S, Epoch(4), 9), Err(Stale::Epoch(Epoch(5))));
        floors.raise(S, Epoch(8));
        assert_eq!(floors.admit(S, Epoch(5), 2), Err(Stale::Epoch(Epoch(8))));
        assert_eq!(floors.admit(ShardId(4), Epoch(1), 1), Ok(()));
    }

    #[test]
    fn a_call_sent_before_an_answered_list_is_void() {
        let mut floors = Floors::default();
        floors.admit(S, Epoch(5), 10).unwrap();
        floors.listed(S, 10);
        assert_eq!(floors.admit(S, Epoch(5), 9), Err(Stale::Seq));
        assert_eq!(floors.admit(S, Epoch(5), 11), Ok(()));
        assert_eq!(floors.admit(S, Epoch(6), 1), Ok(()));
    }
}
