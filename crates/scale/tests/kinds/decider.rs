//! `decider`: observations over time, and each decision with its panic state.

use std::collections::BTreeMap;

use nihilo_scale::config::{RevisionScale, ScaleConfig};
use nihilo_scale::decider::{Decider, Observed};
use serde::{Deserialize, Deserializer};

use super::Checker;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    #[serde(rename = "name")]
    _name: String,
    #[serde(rename = "tol")]
    _tol: Option<f64>,
    spec: Spec,
    start: Start,
    steps: Vec<Step>,
}

/// Members that differ from the defaults of a revision without settings.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Spec {
    target: Option<f64>,
    total: Option<f64>,
    tbc: Option<f64>,
    panic_threshold: Option<f64>,
    max_scale_up_rate: Option<f64>,
    max_scale_down_rate: Option<f64>,
    stable_window_ms: Option<u64>,
    scale_down_delay_ms: Option<u64>,
    activation_scale: Option<i32>,
    reachable: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Start {
    #[serde(default)]
    at_ms: u64,
    n_ready: u32,
    /// What the previous owner has recorded: then the decider resumes, else it begins anew.
    recorded: Option<i32>,
    #[serde(default)]
    want: Want,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    at_ms: u64,
    stable: f64,
    panic: f64,
    n_ready: Ready,
    #[serde(default)]
    set: Spec,
    #[serde(default)]
    want: Want,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Ready {
    Counted(u32),
    Unknown(Unknown),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Unknown {
    Unknown,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Want {
    valid: Option<bool>,
    desired: Option<i32>,
    ebc: Option<f64>,
    /// `null` = not in panic.
    #[serde(deserialize_with = "present")]
    panic_since_ms: Option<Option<u64>>,
    max_panic: Option<i32>,
}

fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Option<u64>>, D::Error> {
    Option::deserialize(from).map(Some)
}

impl Spec {
    fn apply(&self, scale: &mut RevisionScale, reachable: &mut bool) {
        fn put<T: Copy>(from: Option<T>, to: &mut T) {
            *to = from.unwrap_or(*to);
        }
        put(self.target, &mut scale.target);
        put(self.total, &mut scale.total);
        put(self.tbc, &mut scale.target_burst_capacity);
        put(self.panic_threshold, &mut scale.panic_threshold);
        put(self.max_scale_up_rate, &mut scale.max_scale_up_rate);
        put(self.max_scale_down_rate, &mut scale.max_scale_down_rate);
        put(self.stable_window_ms, &mut scale.stable_window_ms);
        put(self.scale_down_delay_ms, &mut scale.scale_down_delay_ms);
        put(self.activation_scale, &mut scale.activation_scale);
        put(self.reachable, reachable);
    }
}

pub(crate) fn check(case: &Case, checker: &mut Checker) {
    let mut scale = RevisionScale::resolve(&BTreeMap::new(), 0, &ScaleConfig::default());
    let mut reachable = true;
    case.spec.apply(&mut scale, &mut reachable);
    let Start { at_ms, n_ready, .. } = case.start;
    let mut decider = match case.start.recorded {
        Some(recorded) => Decider::resume(&scale, at_ms, n_ready, recorded),
        None => Decider::new(&scale, at_ms, n_ready),
    };
    checker.at("start");
    check_state(&case.start.want, &decider, checker);
    for step in &case.steps {
        checker.at(step.at_ms);
        let old = scale.clone();
        step.set.apply(&mut scale, &mut reachable);
        decider.reconfigure(&old, &scale);
        let n_ready = match &step.n_ready {
            Ready::Counted(n) => Some(*n),
            Ready::Unknown(_) => None,
        };
        let decision = decider.decide(
            &scale,
            Observed {
                now_ms: step.at_ms,
                stable: step.stable,
                panic: step.panic,
                n_ready,
                reachable,
            },
        );
        checker.same("valid", step.want.valid, decision.is_some());
        if let Some(decision) = decision {
            checker.same("desired", step.want.desired, decision.desired);
            checker.number("ebc", step.want.ebc, decision.excess_burst);
        }
        check_state(&step.want, &decider, checker);
    }
}

fn check_state(want: &Want, decider: &Decider, checker: &mut Checker) {
    checker.same("panic since", want.panic_since_ms, decider.panic_since_ms());
    checker.same("max panic", want.max_panic, decider.max_panic());
}
