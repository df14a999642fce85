//! Durations counted by magnitude, small enough to be sent once a second.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Values of one magnitude are told apart in this many steps: 3 % or better.
const STEPS: u64 = 32;

/// How often each duration was seen, in microseconds, rounded up to about 3 %.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts(BTreeMap<u64, u64>);

impl Counts {
    pub(crate) fn add(&mut self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        *self.0.entry(bucket(us)).or_default() += 1;
    }

    pub(crate) fn add_all(&mut self, durations: &[Duration]) {
        durations.iter().for_each(|duration| self.add(*duration));
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (us, n) in &other.0 {
            *self.0.entry(*us).or_default() += n;
        }
    }

    /// What was counted since `before`, an earlier state of the same counts.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let counts = self.0.iter().filter_map(|(us, n)| {
            let new = n - before.0.get(us).copied().unwrap_or(0).min(*n);
            (new > 0).then_some((*us, new))
        });
        Self(counts.collect())
    }

    pub(crate) fn len(&self) -> u64 {
        self.0.values().sum()
    }

    /// Milliseconds; 0 when nothing was counted.
    pub(crate) fn quantile_ms(&self, quantile: f64) -> f64 {
        let rank = (quantile * self.len() as f64).ceil().max(1.0) as u64;
        let mut n_below = 0;
        for (us, n) in &self.0 {
            n_below += n;
            if n_below >= rank {
                return *us as f64 / 1e3;
            }
        }
        0.0
    }

    pub(crate) fn max_ms(&self) -> f64 {
        self.0.keys().next_back().map_or(0.0, |us| *us as f64 / 1e3)
    }
}

fn bucket(us: u64) -> u64 {
    let mut step = 1;
    while us / step >= 2 * STEPS {
        step *= 2;
    }
    us.div_ceil(step).saturating_mul(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(us: impl IntoIterator<Item = u64>) -> Counts {
        let mut counts = Counts::default();
        us.into_iter()
            .for_each(|us| counts.add(Duration::from_micros(us)));
        counts
    }

    #[test]
    fn values_are_rounded_up_by_three_percent_at_most() {
        for us in [0, 1, 63, 64, 65, 999, 12_345, 9_999_999] {
            let rounded = bucket(us);
            assert!(rounded >= us && (rounded - us) * STEPS <= us, "{us}");
        }
    }

    #[test]
    fn quantiles_survive_merging_and_the_way_by_json() {
        let mut all = counts(1..=500);
        all.merge(&counts(501..=1_000));
        let json = serde_json::to_string(&all).unwrap();
        let all: Counts = serde_json::from_str(&json).unwrap();
        assert_eq!(all.len(), 1_000);
        assert!((all.quantile_ms(0.5) - 0.5).abs() < 0.02);
        assert!((all.max_ms() - 1.0).abs() < 0.04);
        assert_eq!(Counts::default().quantile_ms(0.99), 0.0);
    }

    #[test]
    fn a_difference_holds_what_came_later() {
        let before = counts([10, 20]);
        let mut after = before.clone();
        after.merge(&counts([20, 50_000]));
        let new = after.since(&before);
        assert_eq!((new.len(), new.quantile_ms(0.5)), (2, 0.02));
    }
}
