//! How much of an instance's output is kept: a bucket of bytes. What does not fit is dropped and
//! counted, so that one program's flood costs neither the disk nor the others.

use std::time::Duration;

/// Kept on average, and at once after a quiet time.
pub(crate) const BYTES_PER_SECOND: u64 = 1024 * 1024;
pub(crate) const BURST_BYTES: u64 = 4 * 1024 * 1024;

/// State of one instance's bucket.
#[derive(Debug)]
pub(crate) struct Rate {
    left: u64,
    /// Time up to which `left` was filled; parts of a byte are not lost.
    filled_at: Duration,
    dropped: Dropped,
}

/// What was not kept since it was last told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Dropped {
    pub(crate) lines: u64,
    pub(crate) bytes: u64,
}

impl Rate {
    /// Full; `now` is the time on any clock that does not go back.
    pub(crate) fn new(now: Duration) -> Self {
        Self {
            left: BURST_BYTES,
            filled_at: now,
            dropped: Dropped::default(),
        }
    }

    /// Whether so many bytes more are kept.
    pub(crate) fn admit(&mut self, bytes: u64, now: Duration) -> bool {
        self.fill(now);
        if bytes > self.left {
            return false;
        }
        self.left -= bytes;
        true
    }

    /// Whether nothing at all is kept just now, so that nobody need look for lines.
    pub(crate) fn is_empty(&mut self, now: Duration) -> bool {
        self.fill(now);
        self.left == 0 || self.dropped != Dropped::default() && self.left < BYTES_PER_SECOND
    }

    pub(crate) fn drop_lines(&mut self, lines: u64, bytes: u64) {
        self.dropped.lines += lines;
        self.dropped.bytes += bytes;
    }

    /// What to tell of before anything else is kept.
    pub(crate) fn take_dropped(&mut self) -> Option<Dropped> {
        let dropped = std::mem::take(&mut self.dropped);
        (dropped != Dropped::default()).then_some(dropped)
    }

    fn fill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.filled_at);
        let nanos = u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX);
        let per_byte = 1_000_000_000 / BYTES_PER_SECOND;
        let earned = nanos / per_byte;
        if self.left + earned.min(BURST_BYTES) >= BURST_BYTES {
            (self.left, self.filled_at) = (BURST_BYTES, now);
        } else {
            self.left += earned;
            self.filled_at += Duration::from_nanos(earned * per_byte);
        }
    }
}

impl std::fmt::Display for Dropped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { lines, bytes } = self;
        write!(
            f,
            "(dropped {lines} lines, {bytes} bytes: more than 1 MiB a second)"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_is_kept_then_so_much_a_second() {
        let mut rate = Rate::new(SECOND);
        assert!(rate.admit(BURST_BYTES, SECOND));
        assert!(!rate.admit(1, SECOND));
        assert!(rate.is_empty(SECOND));
        rate.drop_lines(1, 1);
        // After a drop it waits for a whole second's worth, so that what is told is not a line each.
        assert!(rate.is_empty(SECOND + SECOND / 2));
        assert!(!rate.is_empty(SECOND * 3));
        assert_eq!(rate.take_dropped(), Some(Dropped { lines: 1, bytes: 1 }));
        assert_eq!(rate.take_dropped(), None);
        assert!(rate.admit(BYTES_PER_SECOND, SECOND * 3));
        // Never more than the burst, however long it was quiet.
        assert!(!rate.admit(BURST_BYTES + 1, SECOND * 1_000_000));
        assert!(rate.admit(BURST_BYTES, SECOND * 1_000_000));
    }

    #[test]
    fn many_short_times_earn_as_much_as_a_long_one() {
        let mut rate = Rate::new(Duration::ZERO);
        assert!(rate.admit(BURST_BYTES, Duration::ZERO));
        let mut kept = 0;
        for n in 1..=10_000u32 {
            kept += u64::from(rate.admit(100, SECOND / 10_000 * n)) * 100;
        }
        assert!(
            (BYTES_PER_SECOND * 9 / 10..=BYTES_PER_SECOND * 11 / 10).contains(&kept),
            "{kept}"
        );
    }
}
