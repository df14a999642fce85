//! Checks a template's autoscaling annotations, in upstream's words (04-autoscaler §2).

use std::collections::BTreeMap;
use std::fmt;

use nihilo_types::meta::keys;
use nihilo_types::time::{go_duration, parse_go_duration_ms};

use crate::config::{HOUR_MS, MIN_WINDOW_MS, ScaleConfig};
use crate::resolve::{Annotations, camel_case};

/// One refused annotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    pub message: String,
    pub key: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.message, self.key)
    }
}

/// Keys that this version knows under `autoscaling.knative.dev/`.
const KNOWN: [&str; 16] = [
    "class",
    "metric",
    "target",
    "target-utilization-percentage",
    "target-burst-capacity",
    "window",
    "panic-window-percentage",
    "panic-threshold-percentage",
    "scale-down-delay",
    "scale-to-zero-pod-retention-period",
    "initial-scale",
    "min-scale",
    "max-scale",
    "activation-scale",
    "metric-aggregation-algorithm",
    "max-scale-up-rate",
];

/// Checks a template's autoscaling annotations; empty = all is well.
pub fn validate_annotations(
    annotations: &BTreeMap<String, String>,
    config: &ScaleConfig,
) -> Vec<FieldError> {
    let own = Annotations(annotations);
    let mut errors = Vec::new();
    for key in annotations
        .keys()
        .filter_map(|key| key.strip_prefix(keys::AUTOSCALING_PREFIX))
    {
        if !KNOWN
            .iter()
            .any(|known| *known == key || camel_case(known) == key)
        {
            let near = nihilo_types::names::nearest(key, KNOWN);
            let hint = near
                .map(|near| format!(" did you mean `{near}`?"))
                .unwrap_or_default();
            let message = format!("invalid key name {key:?}{hint}");
            errors.push(FieldError {
                message,
                key: format!("{}{key}", keys::AUTOSCALING_PREFIX),
            });
        }
    }
    let int = |errors: &mut Vec<FieldError>, key: &str, low: i32| {
        number(
            errors,
            &own,
            key,
            |value: i32| value >= low,
            |value| format!("expected {low} <= {value} <= {}", i32::MAX),
        )
    };
    let min = int(&mut errors, "min-scale", 0);
    let max = int(&mut errors, "max-scale", 0);
    if let (Some(min), Some(max)) = (min, max)
        && max > 0
        && min > max
    {
        let message = format!("max-scale={max} is less than min-scale={min}");
        let key = format!("{0}max-scale, {0}min-scale", keys::AUTOSCALING_PREFIX);
        errors.push(FieldError { message, key });
    }
    let percent = |errors: &mut Vec<FieldError>, key: &str, low: f64, high: f64| {
        number(
            errors,
            &own,
            key,
            |v: f64| (low..=high).contains(&v),
            |value| format!("expected {low} <= {value} <= {high}"),
        );
    };
    percent(&mut errors, "target-utilization-percentage", 1.0, 100.0);
    percent(&mut errors, "panic-window-percentage", 1.0, 100.0);
    percent(&mut errors, "panic-threshold-percentage", 110.0, 1000.0);
    number(
        &mut errors,
        &own,
        "target",
        |v: f64| v >= 0.01,
        |value| format!("target {value} should be at least 0.01"),
    );
    number(
        &mut errors,
        &own,
        "target-burst-capacity",
        |v: f64| v >= 0.0 || v == -1.0,
        |value| format!("invalid value: {value}"),
    );
    let zero_allowed = config.allow_zero_initial_scale;
    number(
        &mut errors,
        &own,
        "initial-scale",
        |v: i32| v > 0 || (v == 0 && zero_allowed),
        |v| match v.as_str() {
            "0" => "invalid value: 0: initial-scale=0 not allowed by cluster".into(),
            value => format!("invalid value: {value}: must be greater than 0"),
        },
    );
    number(
        &mut errors,
        &own,
        "activation-scale",
        |v: i32| v > 1,
        |value| format!("activation-scale={value} must be greater than 1"),
    );
    time(&mut errors, &own, "window", MIN_WINDOW_MS, HOUR_MS, true);
    time(&mut errors, &own, "scale-down-delay", 0, HOUR_MS, true);
    time(
        &mut errors,
        &own,
        "scale-to-zero-pod-retention-period",
        0,
        HOUR_MS,
        false,
    );
    if let Some((metric, key)) = own
        .get("metric")
        .filter(|(m, _)| !["concurrency", "rps"].contains(m))
    {
        errors.push(FieldError {
            message: format!("invalid value: {metric}"),
            key,
        });
    }
    if let Some((class, key)) = own
        .get("class")
        .filter(|(c, _)| *c != "kpa.autoscaling.knative.dev")
    {
        errors.push(FieldError {
            message: format!("invalid value: {class}"),
            key,
        });
    }
    errors
}

fn number<T: std::str::FromStr + Copy>(
    errors: &mut Vec<FieldError>,
    own: &Annotations<'_>,
    key: &str,
    valid: impl Fn(T) -> bool,
    otherwise: impl Fn(String) -> String,
) -> Option<T> {
    let (text, key) = own.get(key)?;
    let message = match text.parse::<T>() {
        Ok(value) if valid(value) => return Some(value),
        Ok(_) => otherwise(text.to_owned()),
        Err(_) => format!("invalid value: {text}"),
    };
    errors.push(FieldError { message, key });
    None
}

fn time(
    errors: &mut Vec<FieldError>,
    own: &Annotations<'_>,
    key: &str,
    low_ms: u64,
    high_ms: u64,
    whole_seconds: bool,
) {
    let Some((text, key)) = own.get(key) else {
        return;
    };
    let message = match parse_go_duration_ms(text) {
        None => format!("invalid value: {text}"),
        Some(ms) if !(low_ms..=high_ms).contains(&ms) => {
            let (low, high) = (go_duration(low_ms), go_duration(high_ms));
            format!("expected {low} <= {} <= {high}", go_duration(ms))
        }
        Some(ms) if whole_seconds && !ms.is_multiple_of(1000) => {
            "must be specified with at most second precision".into()
        }
        Some(_) => return,
    };
    errors.push(FieldError { message, key });
}
