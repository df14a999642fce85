//! `integrator`: requests that come and go, and what each report says.

use nihilo_scale::integrator::Integrator;
use serde::Deserialize;

use super::Checker;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    events: Vec<Event>,
}

/// `in` and `out` are `true`, or a number of requests.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Event {
    at_ms: f64,
    #[serde(default, rename = "in")]
    n_in: Times,
    #[serde(default, rename = "out")]
    n_out: Times,
    #[serde(default)]
    report: bool,
    #[serde(default)]
    want: Want,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Times {
    Once(bool),
    Many(u64),
}

impl Default for Times {
    fn default() -> Self {
        Times::Once(false)
    }
}

impl Times {
    fn n(self) -> u64 {
        match self {
            Times::Once(once) => u64::from(once),
            Times::Many(n) => n,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Want {
    average: Option<f64>,
    count: Option<f64>,
    in_flight: Option<f64>,
}

pub(crate) fn check(case: &Case, checker: &mut Checker) {
    let mut integrator = Integrator::new(0);
    for event in &case.events {
        let now_us = (event.at_ms * 1000.0).round() as u64;
        (0..event.n_in.n()).for_each(|_| integrator.started(now_us));
        (0..event.n_out.n()).for_each(|_| integrator.ended(now_us));
        if !event.report {
            continue;
        }
        checker.at(event.at_ms);
        let report = integrator.report(now_us);
        let average = match report.used_us {
            0 => 0.0,
            used => report.area_us as f64 / used as f64,
        };
        checker.number("average", event.want.average, average);
        checker.count("count", event.want.count, report.n_started);
        checker.count("in_flight", event.want.in_flight, report.in_flight);
    }
}
