//! Whether demand reaches an owner, shard by shard, and what becomes of requests while it does not
//! (05-gateway §13). Pure: it is told what happened and when. Times are milliseconds of this node's
//! own clock, which begins with the process.

use std::collections::{BTreeMap, BTreeSet};

use nihilo_types::id::ShardId;

/// Requests of a shard without an owner wait so long for one beyond [`Contact::t_dead_ms`] of
/// silence: a new leader, however it was elected, names another owner at once.
pub(crate) const LAST_WAIT_MS: u64 = 1_000;

/// What becomes of requests that nothing can serve yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Hold,
    Refuse,
}

/// What this node knows of those who could have a request of one shard served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Contact {
    /// When the leader last answered this node; `None` = never since it started.
    pub(crate) leader_at_ms: Option<u64>,
    /// Silence after which the leader is not just late, or being elected.
    pub(crate) t_dead_ms: u64,
    /// When the first signal left that no owner has taken, with none since that one did; `None` =
    /// the last one was taken, or none was sent.
    pub(crate) unheard_since_ms: Option<u64>,
}

/// Requests are refused once the owner has not been reached for [`LAST_WAIT_MS`] in which nobody
/// could name another: a living leader would have, within that time.
pub(crate) fn verdict(contact: Contact, now_ms: u64) -> Verdict {
    let Some(unheard_since) = contact.unheard_since_ms else {
        return Verdict::Hold;
    };
    let alone_since = contact.leader_at_ms.unwrap_or(0) + contact.t_dead_ms;
    match alone_since.max(unheard_since) + LAST_WAIT_MS <= now_ms {
        true => Verdict::Refuse,
        false => Verdict::Hold,
    }
}

/// One signal on its way to an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signal {
    pub(crate) shard: ShardId,
    /// Grows with each signal sent.
    pub(crate) number: u64,
    pub(crate) sent_ms: u64,
}

/// What became of the signals, by shard; at most one entry for each of the 256.
#[derive(Debug, Default)]
pub(crate) struct Reach(BTreeMap<ShardId, Newest>);

/// Of one shard.
#[derive(Debug, Default)]
struct Newest {
    number: u64,
    unheard_since_ms: Option<u64>,
}

impl Reach {
    /// Takes in whether a signal found its owner. A late word of an older signal counts for nothing.
    pub(crate) fn note(&mut self, signal: Signal, is_taken: bool) {
        let newest = self.0.entry(signal.shard).or_default();
        if signal.number < newest.number {
            return;
        }
        newest.number = signal.number;
        newest.unheard_since_ms = match is_taken {
            true => None,
            false => Some(newest.unheard_since_ms.unwrap_or(signal.sent_ms)),
        };
    }

    /// Whether any shard's last signal found nobody.
    pub(crate) fn is_any_unheard(&self) -> bool {
        self.0
            .values()
            .any(|newest| newest.unheard_since_ms.is_some())
    }

    /// Shards whose requests are refused now. Once the leader was heard within T_dead, what was not
    /// taken before is forgotten: owners may be others by now, and are asked first.
    pub(crate) fn refused(
        &mut self,
        leader_at_ms: Option<u64>,
        t_dead_ms: u64,
        now_ms: u64,
    ) -> BTreeSet<ShardId> {
        if leader_at_ms.is_some_and(|at| now_ms < at + t_dead_ms) {
            for newest in self.0.values_mut() {
                newest.unheard_since_ms = None;
            }
        }
        let is_refused = |newest: &Newest| {
            let contact = Contact {
                leader_at_ms,
                t_dead_ms,
                unheard_since_ms: newest.unheard_since_ms,
            };
            verdict(contact, now_ms) == Verdict::Refuse
        };
        let refused = self.0.iter().filter(|(_, newest)| is_refused(newest));
        refused.map(|(shard, _)| *shard).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T_DEAD: u64 = 700;

    #[test]
    fn requests_are_held_while_an_owner_or_a_leader_may_still_come() {
        use Verdict::{Hold, Refuse};
        for (name, leader_at_ms, unheard_since_ms, now_ms, want) in [
            ("nothing was sent", Some(0), None, 60_000, Hold),
            ("all is well", Some(9_950), None, 10_000, Hold),
            ("a leader lives", Some(9_950), Some(1_000), 10_000, Hold),
            ("an election", Some(9_000), Some(9_000), 10_600, Hold),
            ("just before", Some(9_000), Some(9_000), 10_699, Hold),
            ("both are gone", Some(9_000), Some(9_000), 10_700, Refuse),
            ("first asked", Some(1_000), Some(9_500), 10_000, Hold),
            ("a second later", Some(1_000), Some(9_500), 10_500, Refuse),
            ("no leader ever", None, Some(100), 1_699, Hold),
            ("none since long", None, Some(100), 1_700, Refuse),
            ("the owner answers", None, None, 60_000, Hold),
        ] {
            let contact = Contact {
                leader_at_ms,
                t_dead_ms: T_DEAD,
                unheard_since_ms,
            };
            assert_eq!(verdict(contact, now_ms), want, "{name}");
        }
    }

    fn signal(shard: u16, number: u64, sent_ms: u64) -> Signal {
        let shard = ShardId(shard);
        Signal {
            shard,
            number,
            sent_ms,
        }
    }

    #[test]
    fn only_shards_whose_owner_is_not_reached_are_refused_and_a_taken_signal_ends_it() {
        let mut reach = Reach::default();
        reach.note(signal(1, 1, 5_000), false);
        reach.note(signal(2, 2, 5_000), true);
        assert!(reach.refused(Some(1_000), T_DEAD, 5_999).is_empty());
        // The first that found nobody counts, not the last.
        reach.note(signal(1, 3, 5_900), false);
        let refused = reach.refused(Some(1_000), T_DEAD, 6_000);
        assert_eq!(refused, BTreeSet::from([ShardId(1)]));
        reach.note(signal(1, 5, 6_200), true);
        reach.note(signal(1, 4, 5_950), false);
        assert!(!reach.is_any_unheard(), "the older one's word came late");
        assert!(reach.refused(Some(1_000), T_DEAD, 60_000).is_empty());
    }

    #[test]
    fn with_a_leader_again_owners_are_asked_before_anything_is_refused() {
        let mut reach = Reach::default();
        reach.note(signal(1, 1, 5_000), false);
        assert!(!reach.refused(Some(1_000), T_DEAD, 9_000).is_empty());
        assert!(reach.refused(Some(9_000), T_DEAD, 9_050).is_empty());
        assert!(!reach.is_any_unheard());
        // Lost again, it begins anew.
        assert!(reach.refused(Some(9_050), T_DEAD, 30_000).is_empty());
        reach.note(signal(1, 2, 30_000), false);
        assert!(reach.refused(Some(9_050), T_DEAD, 30_900).is_empty());
        assert!(!reach.refused(Some(9_050), T_DEAD, 31_000).is_empty());
    }
}
