//! The sliding window of one-second buckets (04-autoscaler §4), with upstream's arithmetic.
//!
//! Source: knative/serving:pkg/autoscaler/aggregation/bucketing.go (TimedFloat64Buckets).

/// Linear window over whole seconds. The divisor is the seconds since the first write until the
/// window is full; trailing silence does not count, missing seconds inside count as zero.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    buckets: Vec<f64>,
    total: f64,
    first: Option<u64>,
    last: u64,
}

impl Window {
    /// `seconds`: 1..=3600.
    pub fn new(seconds: u64) -> Self {
        let n = usize::try_from(seconds.max(1)).unwrap_or(1);
        Self {
            buckets: vec![0.0; n],
            total: 0.0,
            first: None,
            last: 0,
        }
    }

    fn len(&self) -> u64 {
        self.buckets.len() as u64
    }

    fn slot(&self, second: u64) -> usize {
        (second % self.len()) as usize
    }

    /// Adds `value` to the bucket of `second`; values of one second add up, too old ones are
    /// ignored.
    pub fn record(&mut self, second: u64, value: f64) {
        let written = self.first.is_some();
        if written && second != self.last && second + self.len() <= self.last {
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
        if second - self.last >= self.len() {
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

    /// Average at `second`, rounded to 6 decimals so that float dust cannot lift a ceiling; 0 when
    /// nothing was written inside the window.
    pub fn average(&self, second: u64) -> f64 {
        let Some(first) = self.first else { return 0.0 };
        if second >= self.last + self.len() {
            return 0.0;
        }
        let span = self.last - first + 1;
        let passed = second.saturating_sub(self.last);
        let slid_out: f64 = (self.last + 1..=self.last + passed)
            .map(|s| self.buckets[self.slot(s)])
            .sum();
        let divisor = span.min(self.len() - passed);
        ((self.total - slid_out) / divisor as f64 * 1e6).round() / 1e6
    }

    /// Nothing was written for longer than the window.
    pub fn is_empty(&self, second: u64) -> bool {
        self.first.is_none() || second > self.last + self.len()
    }

    /// Changes the length; keeps the newest values if the last write is still inside.
    pub fn resize(&mut self, seconds: u64, now: u64) {
        let mut next = Self::new(seconds);
        if next.len() == self.len() {
            return;
        }
        if let Some(first) = self.first.filter(|_| now < self.last + self.len()) {
            let keep = self.len().min(next.len());
            let oldest = (self.last + 1).saturating_sub(keep).max(first);
            for second in oldest..=self.last {
                next.record(second, self.buckets[self.slot(second)]);
            }
        }
        *self = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worked_example_moves_in_silence() {
        let mut window = Window::new(10);
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
        let mut window = Window::new(6);
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
        let mut window = Window::new(10);
        for second in 100..110 {
            window.record(second, second as f64);
        }
        window.resize(2, 109);
        assert_eq!(window.average(109), 108.5);
    }
}
