//! The sliding window of one-second buckets (04-autoscaler §4), with upstream's arithmetic.
//!
//! Source: knative/serving:pkg/autoscaler/aggregation/bucketing.go (TimedFloat64Buckets,
//! WeightedFloat64Buckets).

use serde::{Deserialize, Serialize};

/// How the seconds of a window become one number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Aggregation {
    /// The mean; every second weighs the same.
    #[default]
    Linear,
    /// Newer seconds weigh more: each one back weighs (1 − coefficient) of the next.
    WeightedExponential,
}

/// The weights of a whole window add up to at least this.
const WEIGHT_PRECISION: f64 = 0.9999;
/// A smaller coefficient would make a long window all but linear.
const MIN_COEFFICIENT: f64 = 0.2;

/// Sliding window over whole seconds. Linear: the divisor is the seconds since the first write
/// until the window is full; trailing silence does not count, missing seconds inside count as
/// zero.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Window {
    buckets: Vec<f64>,
    /// Kept by adding and subtracting, as upstream does: the order of additions is part of the
    /// result.
    total: f64,
    first: Option<u64>,
    last: u64,
    aggregation: Aggregation,
}

impl Window {
    /// `seconds`: 1..=3600.
    pub fn new(seconds: u64, aggregation: Aggregation) -> Self {
        let n = usize::try_from(seconds.max(1)).unwrap_or(1);
        Self {
            buckets: vec![0.0; n],
            total: 0.0,
            first: None,
            last: 0,
            aggregation,
        }
    }

    /// Its length in seconds.
    pub fn seconds(&self) -> u64 {
        self.buckets.len() as u64
    }

    fn slot(&self, second: u64) -> usize {
        (second % self.seconds()) as usize
    }

    /// Adds `value` to the bucket of `second`; values of one second add up, too old ones are
    /// ignored.
    pub fn record(&mut self, second: u64, value: f64) {
        let written = self.first.is_some();
        if written && second != self.last && second + self.seconds() <= self.last {
            return;
        }
        if !written || self.first.is_some_and(|first| second < first) {
            self.first = Some(second);
        }
        if !written {
            self.last = second;
        } else if second > self.last {
            self.slide_to(second);
        }
        let slot = self.slot(second);
        self.buckets[slot] += value;
        self.total += value;
    }

    fn slide_to(&mut self, second: u64) {
        if second - self.last >= self.seconds() {
            self.first = Some(second);
            self.buckets.fill(0.0);
            self.total = 0.0;
        } else {
            for passed in self.last + 1..=second {
                let slot = self.slot(passed);
                self.total -= self.buckets[slot];
                self.buckets[slot] = 0.0;
            }
        }
        self.last = second;
    }

    /// Average at `second`; 0 when nothing was written inside the window.
    pub fn average(&self, second: u64) -> f64 {
        match self.aggregation {
            Aggregation::Linear => self.mean(second),
            Aggregation::WeightedExponential => self.weighted(second),
        }
    }

    /// Rounded to 6 decimals so that float dust cannot lift a ceiling, and never −0.
    fn mean(&self, second: u64) -> f64 {
        let Some(first) = self.first else { return 0.0 };
        if second >= self.last + self.seconds() {
            return 0.0;
        }
        let span = self.last - first + 1;
        let passed = second.saturating_sub(self.last);
        let divisor = span.min(self.seconds() - passed);
        (self.sum(second) / divisor as f64 * 1e6).round() / 1e6 + 0.0
    }

    /// Sum of what is still inside the window at `second`; never −0.
    pub fn sum(&self, second: u64) -> f64 {
        if self.first.is_none() || second >= self.last + self.seconds() {
            return 0.0;
        }
        let mut rest = self.total;
        for slid_out in self.last + 1..=second {
            rest -= self.buckets[self.slot(slid_out)];
        }
        rest + 0.0
    }

    /// The seconds of the window that ends at `second`, or at the newest write if that is later;
    /// oldest first.
    pub fn values(&self, second: u64) -> Vec<f64> {
        let end = second.max(self.last);
        let seconds = (0..self.seconds()).rev().map(|back| end.checked_sub(back));
        let value = |at: Option<u64>| match at {
            Some(at) if self.holds(at) => self.buckets[self.slot(at)],
            _ => 0.0,
        };
        seconds.map(value).collect()
    }

    fn holds(&self, second: u64) -> bool {
        self.first.is_some() && second <= self.last && second + self.seconds() > self.last
    }

    /// Moves every second by the difference of two clocks.
    pub fn shift(&mut self, by_seconds: i64) {
        let moved = |at: u64| at.saturating_add_signed(by_seconds);
        let mut next = self.clone();
        (next.last, next.first) = (moved(self.last), self.first.map(moved));
        for back in 0..self.seconds().min(self.last + 1).min(next.last + 1) {
            let slot = next.slot(next.last - back);
            next.buckets[slot] = self.buckets[self.slot(self.last - back)];
        }
        *self = next;
    }

    fn weighted(&self, second: u64) -> f64 {
        if self.is_empty(second) {
            return 0.0;
        }
        let passed = second.saturating_sub(self.last).min(self.seconds());
        let kept = 1.0 - self.coefficient();
        let mut weight = self.coefficient() * kept.powf(passed as f64);
        let mut average = 0.0;
        for back in 0..self.seconds() - passed {
            // One turn of the ring ahead, so that the subtraction cannot go below zero.
            let slot = self.slot(self.last + self.seconds() - back);
            average += self.buckets[slot] * weight;
            weight *= kept;
        }
        average
    }

    /// Weight of the newest second under [`Aggregation::WeightedExponential`], in (0, 1).
    pub fn coefficient(&self) -> f64 {
        let n = self.seconds() as f64;
        (1.0 - (1.0 - WEIGHT_PRECISION).powf(1.0 / n)).max(MIN_COEFFICIENT)
    }

    /// Nothing was written for longer than the window.
    pub fn is_empty(&self, second: u64) -> bool {
        self.first.is_none() || second > self.last + self.seconds()
    }

    /// Changes the length; keeps the newest values if the last write is still inside. As upstream
    /// does, a window that was not full yet counts as full afterwards.
    pub fn resize(&mut self, seconds: u64, now: u64) {
        let mut next = Self::new(seconds, self.aggregation);
        if next.seconds() == self.seconds() {
            return;
        }
        if self.first.is_some() && now <= self.last + self.seconds() {
            next.last = self.last;
            next.first = Some((self.last + 1).saturating_sub(self.seconds()));
            for back in 0..self.seconds().min(next.seconds()).min(self.last + 1) {
                let second = self.last - back;
                let value = self.buckets[self.slot(second)];
                let slot = next.slot(second);
                next.buckets[slot] = value;
                next.total += value;
            }
        }
        *self = next;
    }

    /// Changes how the seconds are weighed; what was written stays.
    pub fn aggregate_by(&mut self, aggregation: Aggregation) {
        self.aggregation = aggregation;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worked_example_moves_in_silence() {
        let mut window = Window::new(10, Aggregation::Linear);
        for (second, value) in [(100, 4.0), (101, 6.0), (103, 8.0)] {
            window.record(second, value);
        }
        let want = [
            (103, 4.5),
            (109, 4.5),
            (110, 4.666_667),
            (111, 4.0),
            (112, 8.0),
            (113, 0.0),
        ];
        for (second, average) in want {
            assert_eq!(window.average(second), average, "at {second}");
        }
        assert!(!window.is_empty(113) && window.is_empty(114));
    }

    #[test]
    fn values_of_one_second_add_up_and_old_ones_are_ignored() {
        let mut window = Window::new(6, Aggregation::Linear);
        window.record(50, 1.0);
        window.record(50, 2.0);
        assert_eq!(window.average(50), 3.0);
        window.record(44, 100.0);
        assert_eq!(window.average(50), 3.0);
        window.record(60, 5.0);
        assert_eq!(window.average(60), 5.0);
    }

    #[test]
    fn a_resized_window_keeps_its_newest_seconds() {
        let mut window = Window::new(10, Aggregation::Linear);
        for second in 100..110 {
            window.record(second, second as f64);
        }
        window.resize(2, 109);
        assert_eq!(window.average(109), 108.5);
    }
}
