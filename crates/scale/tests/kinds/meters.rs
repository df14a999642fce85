//! `integrator`, `fast`: what a gateway measures, and the floor that a burst sets.

use nihilo_scale::fast::FastFloor;
use nihilo_scale::integrator::Integrator;
use serde::Deserialize;

use super::Checker;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct IntegratorCase {
    #[serde(rename = "name")]
    _name: String,
    #[serde(rename = "tol")]
    _tol: Option<f64>,
    events: Vec<Event>,
}

/// What happened at one moment; the members are taken in this order.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Event {
    at_ms: u64,
    /// So many requests were admitted.
    #[serde(default, rename = "in")]
    n_in: u32,
    /// So many have ended.
    #[serde(default, rename = "out")]
    n_out: u32,
    report: Option<ReportWant>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReportWant {
    average: Option<f64>,
    count: Option<u64>,
    in_flight: Option<u64>,
}

pub(crate) fn check_integrator(case: &IntegratorCase, checker: &mut Checker) {
    let mut integrator = Integrator::default();
    for event in &case.events {
        let now_us = event.at_ms * 1000;
        (0..event.n_in).for_each(|_| integrator.started(now_us));
        (0..event.n_out).for_each(|_| integrator.ended(now_us));
        let Some(want) = &event.report else { continue };
        checker.at(event.at_ms);
        let report = integrator.report(now_us);
        let average = match report.used_us {
            0 => 0.0,
            used => report.area_us as f64 / used as f64,
        };
        checker.number("average", want.average, average);
        checker.same("count", want.count, report.n_started);
        checker.same("in_flight", want.in_flight, report.in_flight);
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FastCase {
    #[serde(rename = "name")]
    _name: String,
    target: f64,
    #[serde(default)]
    activation_scale: i32,
    up: i32,
    hold_ms: u64,
    steps: Vec<FastStep>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FastStep {
    at_ms: u64,
    /// Requests in flight at a demand edge; absent = only look.
    demand: Option<u64>,
    want: Option<i32>,
}

pub(crate) fn check_fast(case: &FastCase, checker: &mut Checker) {
    let mut floor = FastFloor::default();
    for step in &case.steps {
        checker.at(step.at_ms);
        if let Some(demand) = step.demand {
            floor.demand(
                step.at_ms,
                demand,
                case.target,
                case.activation_scale,
                case.up,
                case.hold_ms,
            );
        }
        checker.same("floor", step.want, floor.at(step.at_ms));
    }
}
