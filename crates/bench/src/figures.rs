//! What is made of samples: percentiles, medians, and ratios of interleaved pairs.

use std::time::Duration;

use serde::Serialize;

/// Values of one kind, sorted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<f64>);

/// Median with its range.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Samples {
    pub(crate) fn new(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    /// In milliseconds.
    pub(crate) fn of_ms(durations: impl IntoIterator<Item = Duration>) -> Self {
        Self::new(durations.into_iter().map(milliseconds))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The smallest value that `quantile` (0 to 1) of all are not above; NaN without samples.
    pub(crate) fn quantile(&self, quantile: f64) -> f64 {
        let rank = (quantile * self.0.len() as f64).ceil().max(1.0) as usize;
        self.0.get(rank - 1).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn spread(&self) -> Spread {
        Spread {
            median: self.quantile(0.5),
            min: self.0.first().copied().unwrap_or(f64::NAN),
            max: self.0.last().copied().unwrap_or(f64::NAN),
        }
    }
}

/// Each of `ours` over the one of `theirs` that was measured beside it.
pub(crate) fn ratios(ours: &[f64], theirs: &[f64]) -> Samples {
    Samples::new(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs))
}

pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let samples = Samples::new((1..=100).rev().map(f64::from));
        assert_eq!(samples.quantile(0.5), 50.0);
        assert_eq!(samples.quantile(0.99), 99.0);
        assert_eq!((samples.quantile(0.0), samples.quantile(1.0)), (1.0, 100.0));
        let few = Samples::new([3.0, 1.0, 2.0]).spread();
        assert_eq!((few.median, few.min, few.max), (2.0, 1.0, 3.0));
        assert!(Samples::default().quantile(0.5).is_nan());
    }

    #[test]
    fn pairs_are_compared_with_each_other_only() {
        let spread = ratios(&[10.0, 40.0, 90.0], &[10.0, 20.0, 30.0]).spread();
        assert_eq!((spread.min, spread.median, spread.max), (1.0, 2.0, 3.0));
    }
}
