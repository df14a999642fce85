//! `window`, `max_window`: values written over time, and what the window makes of them.

use nihilo_scale::max_window::MaxWindow;
use nihilo_scale::window::{Aggregation, Window};
use serde::Deserialize;

use super::Checker;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    #[serde(default)]
    algorithm: Algorithm,
    window_ms: u64,
    ops: Vec<Op>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Algorithm {
    #[default]
    #[serde(alias = "")]
    Linear,
    #[serde(alias = "weightedExponential", alias = "weighted")]
    WeightedExponential,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Op {
    Record { at_ms: u64, value: f64 },
    Resize { at_ms: u64, window_ms: u64 },
    Want(Want),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Want {
    at_ms: u64,
    average: Option<f64>,
    sum: Option<f64>,
    /// All of the window, oldest first.
    buckets: Option<Vec<f64>>,
    is_empty: Option<bool>,
    n_buckets: Option<f64>,
    coefficient: Option<f64>,
}

pub(crate) fn check(case: &Case, checker: &mut Checker) {
    let aggregation = match case.algorithm {
        Algorithm::Linear => Aggregation::Linear,
        Algorithm::WeightedExponential => Aggregation::WeightedExponential,
    };
    let mut window = Window::new(case.window_ms.div_ceil(1000), aggregation);
    for op in &case.ops {
        match op {
            Op::Record { at_ms, value } => window.record(at_ms / 1000, *value),
            Op::Resize { at_ms, window_ms } => {
                window.resize(window_ms.div_ceil(1000), at_ms / 1000);
            }
            Op::Want(want) => check_now(want, &window, checker),
        }
    }
}

fn check_now(want: &Want, window: &Window, checker: &mut Checker) {
    checker.at(want.at_ms);
    let second = want.at_ms / 1000;
    checker.number("average", want.average, window.average(second));
    checker.number("sum", want.sum, window.sum(second));
    checker.same("is_empty", want.is_empty, window.is_empty(second));
    checker.count("n_buckets", want.n_buckets, window.seconds());
    checker.number("coefficient", want.coefficient, window.coefficient());
    if let Some(buckets) = &want.buckets {
        let got = window.values(second);
        checker.same("length of buckets", Some(buckets.len()), got.len());
        for (i, (want, got)) in buckets.iter().zip(got).enumerate() {
            checker.number(&format!("bucket {i}"), Some(*want), got);
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MaxCase {
    delay_ms: Option<u64>,
    capacity: Option<u64>,
    ops: Vec<MaxOp>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MaxOp {
    at_ms: Option<u64>,
    idx: Option<u64>,
    value: i32,
    want: Option<f64>,
}

pub(crate) fn check_max(case: &MaxCase, checker: &mut Checker) {
    let mut window = match (case.capacity, case.delay_ms) {
        (Some(slots), None) => MaxWindow::with_slots(slots),
        (None, Some(delay_ms)) => MaxWindow::new(delay_ms),
        _ => return checker.holds(false, || "needs either capacity or delay_ms".into()),
    };
    for op in &case.ops {
        let maximum = match (op.idx, op.at_ms) {
            (Some(slot), None) => {
                checker.at(slot);
                window.record_slot(slot, op.value)
            }
            (None, Some(at_ms)) => {
                checker.at(at_ms);
                window.record(at_ms, op.value)
            }
            _ => return checker.holds(false, || "an op needs either idx or at_ms".into()),
        };
        checker.number("maximum", op.want, maximum);
    }
}
