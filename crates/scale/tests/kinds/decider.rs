//! `decider`: observations over time, and each decision with its panic state.

use std::collections::BTreeMap;

use nihilo_scale::burst::Told;
use nihilo_scale::config::{RevisionScale, ScaleConfig};
use nihilo_scale::decider::{Decider, Observed};
use serde::Deserialize;

use super::{Checker, Ready, present};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    start: Start,
    steps: Vec<Step>,
}

/// Members that differ from the defaults of a revision without settings.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Spec {
    pub(crate) target: Option<f64>,
    pub(crate) total: Option<f64>,
    tbc: Option<f64>,
    panic_threshold: Option<f64>,
    max_scale_up_rate: Option<f64>,
    max_scale_down_rate: Option<f64>,
    stable_window_ms: Option<u64>,
    panic_window_ms: Option<u64>,
    scale_down_delay_ms: Option<u64>,
    activation_scale: Option<i32>,
    initial_scale: Option<i32>,
    reachable: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Start {
    at_ms: u64,
    n_ready: Ready,
    /// What the previous owner has recorded: then the decider resumes, else it begins anew.
    recorded: Option<i32>,
    /// The panic state of a takeover.
    panic_since_ms: Option<u64>,
    max_panic: Option<i32>,
    want: Want,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    at_ms: u64,
    #[serde(default)]
    stable: f64,
    #[serde(default)]
    panic: f64,
    #[serde(default)]
    no_data: bool,
    n_ready: Ready,
    #[serde(default)]
    set: Spec,
    #[serde(default)]
    want: Want,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Want {
    valid: Option<bool>,
    desired: Option<f64>,
    ebc: Option<f64>,
    /// `null` = not in panic.
    #[serde(deserialize_with = "present")]
    panic_since_ms: Option<Option<f64>>,
    max_panic: Option<f64>,
    notify: Option<bool>,
}

impl Spec {
    pub(crate) fn apply(&self, scale: &mut RevisionScale, reachable: &mut bool) {
        fn put<T: Copy>(from: Option<T>, to: &mut T) {
            *to = from.unwrap_or(*to);
        }
        put(self.target, &mut scale.target);
        put(self.target, &mut scale.concurrency_target);
        put(self.total, &mut scale.total);
        put(self.tbc, &mut scale.target_burst_capacity);
        put(self.panic_threshold, &mut scale.panic_threshold);
        put(self.max_scale_up_rate, &mut scale.max_scale_up_rate);
        put(self.max_scale_down_rate, &mut scale.max_scale_down_rate);
        put(self.stable_window_ms, &mut scale.stable_window_ms);
        put(self.panic_window_ms, &mut scale.panic_window_ms);
        put(self.scale_down_delay_ms, &mut scale.scale_down_delay_ms);
        put(self.activation_scale, &mut scale.activation_scale);
        put(self.initial_scale, &mut scale.initial_scale);
        put(self.reachable, reachable);
    }
}

impl Start {
    fn decider(&self, scale: &RevisionScale) -> Decider {
        let n_ready = self.n_ready.0.unwrap_or(0);
        if let Some(recorded) = self.recorded {
            return Decider::resume(scale, self.at_ms, n_ready, recorded);
        }
        if self.panic_since_ms.is_none() && self.max_panic.is_none() {
            return Decider::new(scale, self.at_ms, n_ready);
        }
        let max_panic = self.max_panic.unwrap_or(n_ready.cast_signed());
        Decider::taken_over(scale, self.panic_since_ms, max_panic)
    }
}

pub(crate) fn check(case: &Case, checker: &mut Checker) {
    let mut scale = RevisionScale::resolve(&BTreeMap::new(), 0, &ScaleConfig::default());
    let mut reachable = true;
    case.spec.apply(&mut scale, &mut reachable);
    let mut decider = case.start.decider(&scale);
    let mut told = Told::at_creation(&scale);
    checker.at("start");
    check_state(&case.start.want, &decider, told, checker);
    for step in &case.steps {
        checker.at(step.at_ms);
        let old = scale.clone();
        step.set.apply(&mut scale, &mut reachable);
        decider.reconfigure(&old, &scale);
        let observed = Observed {
            now_ms: step.at_ms,
            stable: step.stable,
            panic: step.panic,
            n_ready: step.n_ready.0,
            reachable,
        };
        let decision = match step.no_data {
            true => None,
            false => decider.decide(&scale, observed),
        };
        let notify = decision
            .as_ref()
            .is_some_and(|decision| told.tell(decision));
        checker.same("valid", step.want.valid, decision.is_some());
        checker.same("notify", step.want.notify, notify);
        check_state(&step.want, &decider, told, checker);
    }
}

/// What subscribers know stays as it is where nothing is decided.
fn check_state(want: &Want, decider: &Decider, told: Told, checker: &mut Checker) {
    checker.number("desired", want.desired, told.desired);
    checker.number("ebc", want.ebc, told.excess_burst);
    checker.number("max panic", want.max_panic, decider.max_panic());
    match (want.panic_since_ms, decider.panic_since_ms()) {
        (Some(Some(want)), Some(got)) => checker.count("panic since", Some(want), got),
        (Some(want), got) => checker.same("in panic", Some(want.is_some()), got.is_some()),
        (None, _) => {}
    }
}
