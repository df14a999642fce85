//! LogTime: the leader's stamp on entries (02-store §14).

use parking_lot::Mutex;
use tokio::time::Instant;

/// LogTime of the last apply plus monotonic time since; a wall-clock jump changes nothing.
#[derive(Debug)]
pub(crate) struct LogClock(Mutex<(Instant, u64)>);

impl LogClock {
    pub(crate) fn new(applied_log_ms: u64) -> Self {
        Self(Mutex::new((Instant::now(), applied_log_ms)))
    }

    /// Returns the next stamp: never below what was applied, never going back.
    pub(crate) fn now(&self, applied_log_ms: u64) -> u64 {
        let mut base = self.0.lock();
        let elapsed = u64::try_from(base.0.elapsed().as_millis()).unwrap_or(u64::MAX);
        let now = base.1.saturating_add(elapsed);
        if applied_log_ms > now {
            *base = (Instant::now(), applied_log_ms);
            return applied_log_ms;
        }
        now
    }
}

/// Milliseconds since the Unix epoch, for display only.
pub(crate) fn wall_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}
