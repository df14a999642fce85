//! `settings`, `target`, `bounds`, `panic_window`, `activators`: what users write, and what it
//! means.

use std::collections::BTreeMap;

use nihilo_scale::burst;
use nihilo_scale::config::{RevisionScale, ScaleConfig};
use nihilo_scale::to_zero;
use serde::Deserialize;

use super::to_zero::Reachability;
use super::{Checker, Ready};

pub(crate) type Texts = BTreeMap<String, String>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    #[serde(default)]
    annotations: Texts,
    #[serde(default)]
    config: Texts,
    #[serde(default, rename = "containerConcurrency")]
    container_concurrency: u32,
    #[serde(default)]
    reachability: Reachability,
    #[serde(default)]
    initialized: bool,
    #[serde(default)]
    n_ready: Ready,
    total: Option<f64>,
    tbc: Option<f64>,
    want: BTreeMap<String, f64>,
}

pub(crate) fn check(case: &Case, checker: &mut Checker) {
    let config = ScaleConfig::from_map(&case.config).unwrap();
    let mut scale = RevisionScale::resolve(&case.annotations, case.container_concurrency, &config);
    scale.total = case.total.unwrap_or(scale.total);
    scale.target_burst_capacity = case.tbc.unwrap_or(scale.target_burst_capacity);
    let (min, max) = to_zero::bounds(&scale, case.reachability.into(), case.initialized);
    for (member, want) in &case.want {
        let got = match member.as_str() {
            "target" => scale.target,
            "total" => scale.total,
            "concurrency_target" => scale.concurrency_target,
            "tbc" => scale.target_burst_capacity,
            "stable_window_ms" => scale.stable_window_ms as f64,
            "ms" | "panic_window_ms" => scale.panic_window_ms as f64,
            "panic_threshold" => scale.panic_threshold,
            "scale_down_delay_ms" => scale.scale_down_delay_ms as f64,
            "retention_ms" => scale.retention_ms as f64,
            "progress_deadline_ms" => scale.progress_deadline_ms as f64,
            "min" => f64::from(min),
            "max" => f64::from(max),
            "initial" => f64::from(scale.initial_scale),
            "activation" => f64::from(scale.activation_scale),
            "n" => f64::from(burst::activators(&scale, case.n_ready.0.unwrap_or(0))),
            unknown => panic!("settings have no member `{unknown}`"),
        };
        checker.number(member, Some(*want), got);
    }
}
