//! When a leader that no quorum answers sends entries: in the same periods as it sends heartbeats.
//!
//! A leader whom everybody hears and who hears nobody must fall silent, or its followers never
//! campaign. openraft does so for heartbeats (its `docs/protocol/check_quorum.md`); an entry that
//! waits for its acknowledgement is sent again and again all the same, and each of these sendings
//! renews the followers' lease. This gate holds them back in the same periods.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::profile::Timing;

#[derive(Debug)]
pub(crate) struct QuorumGate {
    lease: Duration,
    period: Duration,
    acked_at: Mutex<Option<Instant>>,
}

impl QuorumGate {
    pub(crate) fn new(timing: Timing) -> Self {
        Self {
            lease: Duration::from_millis(timing.election_max_ms),
            period: Duration::from_millis(timing.quorum_loss_probe_ms),
            acked_at: Mutex::new(None),
        }
    }

    /// How long ago a quorum last answered; `None` for a node that does not lead, or not yet with a
    /// quorum.
    pub(crate) fn set_ack_age(&self, age: Option<Duration>) {
        *self.acked_at.lock() = age.and_then(|age| Instant::now().checked_sub(age));
    }

    pub(crate) fn is_open(&self) -> bool {
        let acked_at = *self.acked_at.lock();
        acked_at.is_none_or(|at| may_send(at.elapsed(), self.lease, self.period))
    }
}

/// Whether a leader may send, `age` after a quorum last answered: yes within the lease, then in
/// every second period, the first one being quiet.
fn may_send(age: Duration, lease: Duration, period: Duration) -> bool {
    let Some(past) = age.checked_sub(lease) else {
        return true;
    };
    let n_periods = past.as_millis() / period.as_millis().max(1);
    n_periods % 2 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_that_nobody_answers_falls_silent_in_turns() {
        let ms = Duration::from_millis;
        let table = [
            (0, true),
            (499, true),
            (500, false),
            (1_999, false),
            (2_000, true),
            (3_499, true),
            (3_500, false),
        ];
        for (age, expected) in table {
            assert_eq!(may_send(ms(age), ms(500), ms(1_500)), expected, "{age} ms");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_opens_it_at_once() {
        let gate = QuorumGate::new(Timing::of(nihilo_types::node_config::Profile::Balanced));
        assert!(gate.is_open(), "nobody was asked yet");
        gate.set_ack_age(Some(Duration::ZERO));
        tokio::time::advance(Duration::from_millis(251)).await;
        assert!(!gate.is_open());
        gate.set_ack_age(Some(Duration::ZERO));
        assert!(gate.is_open());
    }
}
