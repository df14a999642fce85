//! `fast`, `fast_hold`: what a demand edge asks for, and for how long.

use std::collections::BTreeMap;

use nihilo_scale::config::{RevisionScale, ScaleConfig};
use nihilo_scale::fast::{self, Burst, FastFloor};
use serde::Deserialize;

use super::Checker;
use super::decider::Spec;

/// One edge.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    in_flight: u64,
    #[serde(default)]
    queued: u64,
    /// Places of all that is ready, together; absent = they take any number.
    slots: Option<u64>,
    /// Absent: as many as give the slots, at `total` places each.
    n_ready: Option<u32>,
    #[serde(default)]
    service_ms: f64,
    #[serde(default = "first_boot")]
    boot_ms: f64,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    decided: i32,
    want: Want,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Want {
    #[serde(rename = "final")]
    at_last: Option<f64>,
    floor: Option<f64>,
    hold_ms: Option<f64>,
}

fn first_boot() -> f64 {
    500.0
}

fn settings(spec: &Spec) -> RevisionScale {
    let mut scale = RevisionScale::resolve(&BTreeMap::new(), 0, &ScaleConfig::default());
    spec.apply(&mut scale, &mut true);
    scale
}

pub(crate) fn check(case: &Case, checker: &mut Checker) {
    let scale = settings(&case.spec);
    let of_slots = |slots: u64| match slots {
        0 => 0,
        slots => (slots as f64 / scale.total).round().max(1.0) as u32,
    };
    let burst = Burst {
        in_flight: case.in_flight,
        queued: case.queued,
        n_ready: case.n_ready.unwrap_or(case.slots.map_or(1, of_slots)),
        slots: case.slots,
        service_ms: case.service_ms,
        boot_ms: case.boot_ms,
    };
    let mut floor = FastFloor::default();
    floor.demand(&scale, 0, &burst);
    let hold_ms = floor.ends_at_ms(0).unwrap_or(0);
    assert_eq!(fast::counts(&burst) && case.in_flight > 0, hold_ms > 0);
    checker.number("floor", case.want.floor, floor.at(0));
    checker.number("final", case.want.at_last, floor.at(0).max(case.decided));
    checker.count("hold", case.want.hold_ms, hold_ms);
}

/// Edges over time while nothing is ready.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HoldCase {
    #[serde(default)]
    spec: Spec,
    steps: Vec<Step>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    at_ms: u64,
    /// Requests in flight at a demand edge; absent = only look.
    demand: Option<u64>,
    want: Option<f64>,
}

pub(crate) fn check_hold(case: &HoldCase, checker: &mut Checker) {
    let scale = settings(&case.spec);
    let mut floor = FastFloor::default();
    for step in &case.steps {
        checker.at(step.at_ms);
        if let Some(demand) = step.demand {
            let burst = Burst {
                in_flight: demand,
                queued: demand,
                n_ready: 0,
                slots: Some(0),
                service_ms: 0.0,
                boot_ms: first_boot(),
            };
            floor.demand(&scale, step.at_ms, &burst);
        }
        checker.number("floor", step.want, floor.at(step.at_ms));
    }
}
