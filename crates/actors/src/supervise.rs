//! What happens after a panic: reload with growing pauses, then quarantine. The node never goes
//! down for an actor.

use std::time::Duration;

use tokio::time::Instant;

pub(crate) const BACKOFF_MIN: Duration = Duration::from_millis(10);
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// More panics than this within [`WINDOW`] ⇒ quarantine.
pub(crate) const MAX_PANICS: usize = 5;
pub(crate) const WINDOW: Duration = Duration::from_secs(60);
pub(crate) const QUARANTINE: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    ReloadAfter(Duration),
    Quarantine,
}

/// Panics of one actor, newest last.
#[derive(Debug, Default)]
pub(crate) struct Record {
    panics: Vec<Instant>,
}

impl Record {
    pub(crate) fn panicked(&mut self, now: Instant) -> Verdict {
        self.panics.retain(|at| now.duration_since(*at) < WINDOW);
        self.panics.push(now);
        if self.panics.len() > MAX_PANICS {
            return Verdict::Quarantine;
        }
        let doublings = u32::try_from(self.panics.len() - 1).unwrap_or(u32::MAX);
        Verdict::ReloadAfter((BACKOFF_MIN * 2u32.saturating_pow(doublings)).min(BACKOFF_MAX))
    }
}
