//! `config`, `annotations`: what is taken, and why the rest is refused.

use std::collections::BTreeMap;

use nihilo_scale::config::{ScaleConfig, validate_annotations};
use serde::Deserialize;
use serde_json::Value;

use super::Checker;
use super::settings::Texts;

/// What is expected: in the case itself, or in its `want`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Expected {
    ok: Option<BTreeMap<String, Value>>,
    errors: Option<Vec<Refusal>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Refusal {
    /// The full key; absent where a message names several.
    path: Option<String>,
    /// A part of the message without its key.
    contains: String,
}

impl Refusal {
    fn is(&self, message: &str, key: &str) -> bool {
        let path = self.path.as_deref();
        format!("{message}: {key}").contains(&self.contains)
            && path.is_none_or(|path| key.split(", ").any(|key| key.starts_with(path)))
    }
}

impl Expected {
    fn or(&self, other: &Option<Self>) -> (Option<BTreeMap<String, Value>>, Option<Vec<Refusal>>) {
        let inner = other.as_ref();
        let ok = self.ok.clone().or(inner.and_then(|e| e.ok.clone()));
        let errors = self.errors.clone().or(inner.and_then(|e| e.errors.clone()));
        (ok, errors)
    }
}

/// Every expected refusal is there, and no other.
fn compare(wanted: &[Refusal], got: &[(String, String)], checker: &mut Checker) {
    for refusal in wanted {
        let found = got.iter().any(|(message, key)| refusal.is(message, key));
        checker.holds(found, || format!("no {refusal:?} among {got:?}"));
    }
    for (message, key) in got {
        let expected = wanted.iter().any(|refusal| refusal.is(message, key));
        checker.holds(expected, || format!("unexpected `{message}: {key}`"));
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfigCase {
    data: Texts,
    ok: Option<BTreeMap<String, Value>>,
    errors: Option<Vec<Refusal>>,
    want: Option<Expected>,
}

pub(crate) fn check_config(case: &ConfigCase, checker: &mut Checker) {
    let config = ScaleConfig::from_map(&case.data);
    let own = Expected {
        ok: case.ok.clone(),
        errors: case.errors.clone(),
    };
    match (config, own.or(&case.want)) {
        (Ok(config), (Some(ok), None)) => {
            checker.holds(true, String::new);
            for (key, want) in &ok {
                check_value(key, want, &config, checker);
            }
        }
        // Its text names the key itself.
        (Err(error), (None, Some(errors))) => {
            let parts = errors.iter().map(|refusal| &refusal.contains);
            for part in parts {
                let said = error.0.contains(part);
                checker.holds(said, || format!("`{}` does not say `{part}`", error.0));
            }
            let keys = errors.iter().filter_map(|refusal| refusal.path.as_deref());
            for key in keys {
                let named = error.0.contains(key);
                checker.holds(named, || format!("`{}` does not name `{key}`", error.0));
            }
        }
        (config, expected) => {
            let said = config.err().map(|error| error.0);
            checker.holds(false, || format!("refused: {said:?}, want {expected:?}"));
        }
    }
}

fn check_value(key: &str, want: &Value, config: &ScaleConfig, checker: &mut Checker) {
    let got = value_of(config, key);
    let Some(want_number) = want.as_f64() else {
        return checker.same(key, Some(want), &got);
    };
    let got = got.as_f64().unwrap();
    // Percentages stand as fractions; as percentages they cannot be taken for one.
    let as_percent = key.ends_with("-percentage") && want_number > 10.0;
    match key {
        "container-concurrency-target-percentage" if as_percent => {
            checker.number(key, Some(want_number / 100.0), got);
        }
        "panic-window-percentage" | "panic-threshold-percentage" if !as_percent => {
            checker.number(key, Some(want_number), got / 100.0);
        }
        _ => checker.number(key, Some(want_number), got),
    }
}

fn value_of(config: &ScaleConfig, key: &str) -> Value {
    match key {
        "pod-autoscaler-class" => config.class.as_str().into(),
        "container-concurrency-target-percentage" => config.target_fraction.into(),
        "container-concurrency-target-default" => config.target_default.into(),
        "requests-per-second-target-default" => config.rps_default.into(),
        "target-burst-capacity" => config.target_burst_capacity.into(),
        "stable-window" => config.stable_window_ms.into(),
        "panic-window-percentage" => config.panic_window_percentage.into(),
        "panic-threshold-percentage" => config.panic_threshold_percentage.into(),
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
        "activator-capacity" => config.activator_capacity.into(),
        "fast-scale" => config.fast_scale.into(),
        "progress-deadline" => config.progress_deadline_ms.into(),
        unknown => panic!("no such key in the config: `{unknown}`"),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AnnotationsCase {
    #[serde(default)]
    annotations: Texts,
    #[serde(default)]
    config: Texts,
    ok: Option<BTreeMap<String, Value>>,
    errors: Option<Vec<Refusal>>,
    want: Option<Expected>,
}

pub(crate) fn check_annotations(case: &AnnotationsCase, checker: &mut Checker) {
    let config = ScaleConfig::from_map(&case.config).unwrap();
    let got: Vec<_> = validate_annotations(&case.annotations, &config)
        .into_iter()
        .map(|error| (error.message, error.key))
        .collect();
    let own = Expected {
        ok: case.ok.clone(),
        errors: case.errors.clone(),
    };
    match own.or(&case.want) {
        (Some(_), None) => checker.holds(got.is_empty(), || format!("refused: {got:?}")),
        (None, Some(errors)) => {
            let both = errors.is_empty() == got.is_empty();
            checker.holds(both, || format!("refused: {got:?}, want {errors:?}"));
            compare(&errors, &got, checker);
        }
        _ => checker.holds(false, || "needs either ok or errors".into()),
    }
}
