//! `window`, `max_window`: values written over time, and what the window makes of them.

use nihilo_scale::max_window::MaxWindow;
use nihilo_scale::window::{Aggregation, Window};
use serde::Deserialize;

use super::Checker;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    #[serde(rename = "name")]
    _name: String,
    #[serde(rename = "tol")]
    _tol: Option<f64>,
    algorithm: Algorithm,
    window_ms: u64,
    ops: Vec<Op>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Algorithm {
    Linear,
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
    is_empty: Option<bool>,
    n_buckets: Option<u64>,
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
            Op::Want(want) => {
                checker.at(want.at_ms);
                let second = want.at_ms / 1000;
                checker.number("average", want.average, window.average(second));
                checker.same("is_empty", want.is_empty, window.is_empty(second));
                checker.same("n_buckets", want.n_buckets, window.seconds());
                checker.number("coefficient", want.coefficient, window.coefficient());
            }
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MaxCase {
    #[serde(rename = "name")]
    _name: String,
    delay_ms: u64,
    ops: Vec<MaxOp>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MaxOp {
    at_ms: u64,
    value: i32,
    want: Option<i32>,
}

pub(crate) fn check_max(case: &MaxCase, checker: &mut Checker) {
    let mut window = MaxWindow::new(case.delay_ms);
    for op in &case.ops {
        checker.at(op.at_ms);
        checker.same("maximum", op.want, window.record(op.at_ms, op.value));
    }
}
