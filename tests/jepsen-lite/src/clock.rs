//! Time: the host's boot clock for everything recorded, and waiting for a level with a limit.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

/// Nanoseconds since the host booted: one clock for all processes on it, as in `startstop.log`.
pub fn boottime_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let ns = i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec);
    u64::try_from(ns).unwrap_or(0)
}

/// Waits for a moment of a schedule.
pub async fn at(moment: Instant) {
    tokio::time::sleep_until(moment).await;
}

/// A pause of a schedule. Never used to wait for something to have happened.
pub async fn pause(duration: Duration) {
    at(Instant::now() + duration).await;
}

/// Looks every `period` until `look` has an answer.
///
/// # Errors
/// The last reason why not, once `limit` has passed.
pub async fn until<T, F, Fut>(limit: Duration, period: Duration, mut look: F) -> Result<T, String>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, String>>,
{
    let deadline = Instant::now() + limit;
    loop {
        let reason = match look().await {
            Ok(found) => return Ok(found),
            Err(reason) => reason,
        };
        if Instant::now() >= deadline {
            return Err(format!("not within {} s: {reason}", limit.as_secs()));
        }
        pause(period).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_level_that_never_comes_ends_with_its_reason() {
        let (limit, period) = (Duration::from_secs(2), Duration::from_millis(100));
        let mut n = 0;
        let found = until(limit, period, || {
            n += 1;
            std::future::ready(if n < 3 { Err("no".to_owned()) } else { Ok(n) })
        });
        assert_eq!(found.await, Ok(3));
        let never = until(limit, period, || {
            std::future::ready(Err::<(), _>("no".to_owned()))
        });
        assert_eq!(never.await, Err("not within 2 s: no".to_owned()));
    }
}
