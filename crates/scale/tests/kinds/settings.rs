//! `settings`, `config`, `annotations`: what users write, and what it means or why it is refused.

use std::collections::BTreeMap;

use nihilo_scale::config::{RevisionScale, ScaleConfig, validate_annotations};
use serde::Deserialize;
use serde_json::Value;

use super::Checker;

type Texts = BTreeMap<String, String>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Case {
    #[serde(rename = "name")]
    _name: String,
    #[serde(rename = "tol")]
    _tol: Option<f64>,
    #[serde(default)]
    annotations: Texts,
    #[serde(default)]
    config: Texts,
    #[serde(default)]
    container_concurrency: u32,
    want: BTreeMap<String, f64>,
}

pub(crate) fn check(case: &Case, checker: &mut Checker) {
    let config = ScaleConfig::from_map(&case.config).unwrap();
    let scale = RevisionScale::resolve(&case.annotations, case.container_concurrency, &config);
    for (member, want) in &case.want {
        let got = match member.as_str() {
            "target" => scale.target,
            "total" => scale.total,
            "concurrency_target" => scale.concurrency_target,
            "tbc" => scale.target_burst_capacity,
            "stable_window_ms" => scale.stable_window_ms as f64,
            "panic_window_ms" => scale.panic_window_ms as f64,
            "panic_threshold" => scale.panic_threshold,
            "scale_down_delay_ms" => scale.scale_down_delay_ms as f64,
            "retention_ms" => scale.retention_ms as f64,
            "progress_deadline_ms" => scale.progress_deadline_ms as f64,
            "min" => f64::from(scale.min_scale),
            "max" => f64::from(scale.max_scale),
            "initial" => f64::from(scale.initial_scale),
            "activation" => f64::from(scale.activation_scale),
            unknown => panic!("settings have no member `{unknown}`"),
        };
        checker.number(member, Some(*want), got);
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfigCase {
    #[serde(rename = "name")]
    _name: String,
    data: Texts,
    ok: Option<BTreeMap<String, Value>>,
    /// A part of the refusal.
    error: Option<String>,
}

pub(crate) fn check_config(case: &ConfigCase, checker: &mut Checker) {
    let config = ScaleConfig::from_map(&case.data);
    checker.same("accepted", Some(case.ok.is_some()), config.is_ok());
    match (config, &case.ok, &case.error) {
        (Ok(config), Some(ok), None) => {
            for (key, want) in ok {
                let got = value_of(&config, key);
                match want.as_f64() {
                    Some(want) => checker.number(key, Some(want), got.as_f64().unwrap()),
                    None => checker.same(key, Some(want), &got),
                }
            }
        }
        (Err(error), None, Some(part)) => {
            let missing = (!error.0.contains(part)).then_some(part.as_str());
            checker.same(&format!("`{}` without", error.0), Some(None), missing);
        }
        _ => checker.same("exactly one of ok, error", Some(true), false),
    }
}

fn value_of(config: &ScaleConfig, key: &str) -> Value {
    match key {
        "container-concurrency-target-percentage" => config.target_fraction.into(),
        "container-concurrency-target-default" => config.target_default.into(),
        "requests-per-second-target-default" => config.rps_default.into(),
        "target-burst-capacity" => config.target_burst_capacity.into(),
        "stable-window" => config.stable_window_ms.into(),
        "max-scale-up-rate" => config.max_scale_up_rate.into(),
        "max-scale-down-rate" => config.max_scale_down_rate.into(),
        "scale-down-delay" => config.scale_down_delay_ms.into(),
        "enable-scale-to-zero" => config.enable_scale_to_zero.into(),
        "scale-to-zero-grace-period" => config.grace_ms.into(),
        "scale-to-zero-pod-retention-period" => config.retention_ms.into(),
        "initial-scale" => config.initial_scale.into(),
        "allow-zero-initial-scale" => config.allow_zero_initial_scale.into(),
        "min-scale" => config.min_scale.into(),
        "max-scale" => config.max_scale.into(),
        "max-scale-limit" => config.max_scale_limit.into(),
        unknown => panic!("no such key in the config: `{unknown}`"),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AnnotationsCase {
    #[serde(rename = "name")]
    _name: String,
    annotations: Texts,
    #[serde(default)]
    config: Texts,
    /// Whole lines `message: key`, in any order; empty = accepted.
    errors: Vec<String>,
}

pub(crate) fn check_annotations(case: &AnnotationsCase, checker: &mut Checker) {
    let config = ScaleConfig::from_map(&case.config).unwrap();
    let mut got: Vec<_> = validate_annotations(&case.annotations, &config)
        .iter()
        .map(ToString::to_string)
        .collect();
    got.sort();
    let mut want = case.errors.clone();
    want.sort();
    checker.same("errors", Some(want), got);
}
