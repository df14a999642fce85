//! How long the last requests took, for what can still meet its deadline and when to come again.

use std::time::Duration;

use tokio::time::Instant;

/// Requests remembered.
const WINDOW: usize = 64;
/// Fewer say nothing.
const MIN_SAMPLES: usize = 8;
/// Seconds of `Retry-After`.
const RETRY_RANGE: (f64, f64) = (1.0, 30.0);
/// Either way, so that those refused together do not come again together.
const JITTER: f64 = 0.2;

#[derive(Debug, Default)]
pub(super) struct ServiceTimes {
    times: Vec<(Instant, Duration)>,
    next: usize,
}

impl ServiceTimes {
    pub(super) fn add(&mut self, now: Instant, took: Duration) {
        if self.times.len() < WINDOW {
            self.times.push((now, took));
        } else {
            self.times[self.next] = (now, took);
        }
        self.next = (self.next + 1) % WINDOW;
    }

    /// The median; zero while too little is known.
    pub(super) fn p50(&self) -> Duration {
        if self.times.len() < MIN_SAMPLES {
            return Duration::ZERO;
        }
        let mut times: Vec<_> = self.times.iter().map(|(_, took)| *took).collect();
        let middle = times.len() / 2;
        *times.select_nth_unstable(middle).1
    }

    /// Seconds until `n_ahead` will have been served at the pace of the last ones.
    /// `random` is in [0, 1).
    pub(super) fn retry_after(&self, now: Instant, n_ahead: usize, random: f64) -> u32 {
        let oldest = self.times.iter().map(|(at, _)| *at).min();
        let span = oldest.map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
        let rate = self.times.len() as f64 / span.max(0.001);
        let wait = if self.times.is_empty() {
            0.0
        } else {
            n_ahead as f64 / rate
        };
        let jitter = 1.0 + JITTER * (2.0 * random - 1.0);
        let seconds = (wait * jitter).clamp(RETRY_RANGE.0, RETRY_RANGE.1).ceil();
        // In the range, so it fits.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "1 to 30"
        )]
        let seconds = seconds as u32;
        seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_of_the_last_and_says_nothing_of_few() {
        let (mut times, now) = (ServiceTimes::default(), Instant::now());
        for n in 0..MIN_SAMPLES as u64 - 1 {
            times.add(now, Duration::from_millis(n));
        }
        assert_eq!(times.p50(), Duration::ZERO);
        for _ in 0..WINDOW {
            times.add(now, Duration::from_millis(7));
        }
        assert_eq!(times.p50(), Duration::from_millis(7));
    }

    #[test]
    fn who_is_refused_comes_again_when_the_line_has_passed() {
        let (mut times, start) = (ServiceTimes::default(), Instant::now());
        assert_eq!(times.retry_after(start, 100, 0.5), 1);
        for n in 0..WINDOW as u64 {
            times.add(
                start + Duration::from_millis(100 * n),
                Duration::from_millis(1),
            );
        }
        let now = start + Duration::from_millis(6_400);
        assert_eq!(times.retry_after(now, 100, 0.5), 10);
        assert_eq!(times.retry_after(now, 100, 0.0), 8);
        assert_eq!(times.retry_after(now, 100_000, 0.5), 30);
        assert_eq!(times.retry_after(now, 0, 0.5), 1);
    }
}
