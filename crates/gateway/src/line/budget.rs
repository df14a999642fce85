//! How many requests of a revision may be sent again: a fifth of those of the last seconds, and a few
//! a second beside, so that retries never become the load (05-gateway §11).

use std::time::Duration;

use tokio::time::Instant;

/// Earned by each request.
const SHARE: f64 = 0.2;
/// Earned by each second.
const FLOOR_PER_SECOND: f64 = 10.0;
/// What was earned counts for so long, and up to twice that.
const WINDOW: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, Default)]
struct Account {
    n_requests: u32,
    n_retries: u32,
}

#[derive(Debug)]
pub(super) struct RetryBudget {
    since: Instant,
    now: Account,
    before: Account,
}

impl RetryBudget {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            now: Account::default(),
            before: Account::default(),
        }
    }

    pub(super) fn request(&mut self) {
        self.now.n_requests = self.now.n_requests.saturating_add(1);
    }

    /// Takes one, if there is one.
    pub(super) fn retry(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.since);
        if passed >= WINDOW {
            let is_next = passed < 2 * WINDOW;
            self.before = if is_next {
                self.now
            } else {
                Account::default()
            };
            (self.now, self.since) = (Account::default(), now);
        }
        let n_requests = f64::from(self.now.n_requests) + f64::from(self.before.n_requests);
        let floor = FLOOR_PER_SECOND * WINDOW.as_secs_f64();
        let n_retries = f64::from(self.now.n_retries) + f64::from(self.before.n_retries);
        let may = n_retries < n_requests * SHARE + floor;
        self.now.n_retries += u32::from(may);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_of_the_last_requests_and_a_floor() {
        let start = Instant::now();
        let mut budget = RetryBudget::new(start);
        let retries =
            |budget: &mut RetryBudget, at| (0..10_000).filter(|_| budget.retry(at)).count();
        assert_eq!(retries(&mut budget, start), 100);
        for _ in 0..1_000 {
            budget.request();
        }
        assert_eq!(retries(&mut budget, start), 200);
        // What was spent counts as long as what was earned.
        assert_eq!(retries(&mut budget, start + WINDOW), 0);
        assert_eq!(retries(&mut budget, start + 4 * WINDOW), 100);
    }
}
