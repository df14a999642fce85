//! Checks a template's autoscaling annotations, in upstream's words (04-autoscaler §2).
//!
//! Source: knative/serving:pkg/apis/autoscaling/annotation_validation.go.

use std::collections::BTreeMap;
use std::fmt;

use nihilo_types::meta::keys;
use nihilo_types::names::nearest;
use nihilo_types::time::{go_duration_ns, parse_go_duration_ns};

use crate::config::{HOUR_NS, KPA_CLASS, MIN_WINDOW_NS, SECOND_NS, ScaleConfig, TARGET_MIN};
use crate::resolve::{Annotations, camel_case, parse_float};

/// One refused annotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    pub message: String,
    /// The full key as the user spelt it, or several of them; upstream's remark may follow.
    pub key: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.message, self.key)
    }
}

const HPA_CLASS: &str = "hpa.autoscaling.knative.dev";
/// Classes under it are Knative's own: another name there is a mistake.
const CLASS_DOMAIN: &str = ".knative.dev";

/// Keys that this version knows under `autoscaling.knative.dev/`.
const KNOWN: [&str; 15] = [
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
];

/// Checks a template's autoscaling annotations; empty = all is well.
pub fn validate_annotations(
    annotations: &BTreeMap<String, String>,
    config: &ScaleConfig,
) -> Vec<FieldError> {
    let mut check = Check {
        own: Annotations(annotations),
        errors: Vec::new(),
    };
    check.keys();
    check.class();
    check.scale_bounds(config);
    check.floats();
    check.time("window", MIN_WINDOW_NS, true);
    check.time("scale-to-zero-pod-retention-period", 0, false);
    check.time("scale-down-delay", 0, true);
    check.metric();
    check.algorithm();
    check.initial_scale(config);
    check.errors
}

struct Check<'a> {
    own: Annotations<'a>,
    errors: Vec<FieldError>,
}

impl Check<'_> {
    fn complain(&mut self, message: impl Into<String>, key: impl Into<String>) {
        self.errors.push(FieldError {
            message: message.into(),
            key: key.into(),
        });
    }

    /// The class as written; `None` = the cluster's.
    fn own_class(&self) -> Option<String> {
        self.own.get("class").map(|(class, _)| class.to_owned())
    }

    /// Another class may have keys of its own.
    fn keys(&mut self) {
        if self.own_class().is_some_and(|class| class != KPA_CLASS) {
            return;
        }
        let ours = |key: &&str| KNOWN.iter().any(|k| k == key || camel_case(k) == **key);
        let unknown: Vec<_> = (self.own.0.keys())
            .filter_map(|key| key.strip_prefix(keys::AUTOSCALING_PREFIX))
            .filter(|key| !ours(key))
            .map(str::to_owned)
            .collect();
        for key in unknown {
            let hint = nearest(&key, KNOWN)
                .map(|near| format!(" did you mean `{near}`?"))
                .unwrap_or_default();
            self.complain(
                format!("invalid key name {key:?}{hint}"),
                format!("{}{key}", keys::AUTOSCALING_PREFIX),
            );
        }
    }

    fn class(&mut self) {
        let bad = self.own.get("class").filter(|(class, _)| {
            class.ends_with(CLASS_DOMAIN) && ![KPA_CLASS, HPA_CLASS].contains(class)
        });
        if let Some((class, key)) = bad {
            self.complain(format!("invalid value: {class}"), key);
        }
    }

    /// Each class has metrics of its own; only the known ones are looked at.
    fn metric(&mut self) {
        let Some((metric, _)) = self.own.get("metric") else {
            return;
        };
        let good = match self.own_class().as_deref().unwrap_or(KPA_CLASS) {
            KPA_CLASS => ["concurrency", "rps"].contains(&metric),
            HPA_CLASS => !metric.is_empty(),
            _ => true,
        };
        if !good {
            let message = format!("invalid value: {metric}");
            self.complain(message, format!("{}metric", keys::AUTOSCALING_PREFIX));
        }
    }

    /// Other controllers may have words of their own, so it is looked at for the named class only.
    fn algorithm(&mut self) {
        if self.own_class().is_none_or(|class| class != KPA_CLASS) {
            return;
        }
        let known = ["", "linear", "weighted-exponential", "weightedExponential"];
        let own = self.own.get("metric-aggregation-algorithm");
        if let Some((text, key)) = own.filter(|(text, _)| !known.contains(text)) {
            self.complain(format!("invalid value: {text}"), key);
        }
    }

    /// An integer of at least 0. What cannot be read counts as 0 in the rules that follow.
    fn count(&mut self, key: &str) -> i32 {
        let Some((text, key)) = self.own.get(key) else {
            return 0;
        };
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let message = match text.parse::<i32>() {
            Ok(number) if number >= 0 => return number,
            _ if is_number => format!("expected 0 <= {text} <= {}", i32::MAX),
            _ => format!("invalid value: {text}"),
        };
        self.complain(message, key);
        0
    }

    fn scale_bounds(&mut self, config: &ScaleConfig) {
        let (min, max) = (self.count("min-scale"), self.count("max-scale"));
        if max != 0 && max < min {
            let keys = format!("{0}max-scale, {0}min-scale", keys::AUTOSCALING_PREFIX);
            self.complain(
                format!("max-scale={max} is less than min-scale={min}"),
                keys,
            );
        }
        let limit = config.max_scale_limit;
        if let Some((_, key)) = self.own.get("max-scale").filter(|_| limit > 0) {
            if max > limit {
                self.complain(format!("expected 1 <= {max} <= {limit}"), key);
            } else if max == 0 {
                let text = format!("max-scale=0 (unlimited), must be less than {limit}");
                self.complain(text, key);
            }
        }
        self.activation_scale(min, max);
    }

    fn activation_scale(&mut self, min: i32, max: i32) {
        let Some((text, key)) = self.own.get("activation-scale") else {
            return;
        };
        let message = match text.parse::<i32>() {
            Err(_) => format!("invalid value: {text}"),
            Ok(scale) if min > scale => {
                format!("min-scale={min} is greater than activation-scale={scale}")
            }
            Ok(scale) if max != 0 && max < scale => {
                format!("max-scale={max} is less than activation-scale={scale}")
            }
            Ok(scale) if scale < 2 => format!("activation-scale={scale} must be greater than 1"),
            Ok(_) => return,
        };
        self.complain(message, key);
    }

    fn floats(&mut self) {
        let between = |low: f64, high: f64| {
            move |value: f64, text: &str| {
                let good = (low..=high).contains(&value);
                (!good).then(|| format!("expected {low} <= {text} <= {high}"))
            }
        };
        self.float("panic-window-percentage", between(1.0, 100.0));
        self.float("panic-threshold-percentage", between(110.0, 1000.0));
        self.float("target", |value, text| {
            let low = value < TARGET_MIN;
            low.then(|| format!("target {text} should be at least {TARGET_MIN}"))
        });
        self.float("target-utilization-percentage", between(1.0, 100.0));
        self.float("target-burst-capacity", |value, text| {
            (value < 0.0 && value != -1.0).then(|| format!("invalid value: {text}"))
        });
    }

    fn float(&mut self, key: &str, wrong: impl Fn(f64, &str) -> Option<String>) {
        let Some((text, key)) = self.own.get(key) else {
            return;
        };
        let message = match parse_float(text) {
            Some(value) => wrong(value, text),
            None => Some(format!("invalid value: {text}")),
        };
        if let Some(message) = message {
            self.complain(message, key);
        }
    }

    /// A duration from `low_ns` to an hour.
    fn time(&mut self, key: &str, low_ns: i64, whole_seconds: bool) {
        let Some((text, key)) = self.own.get(key) else {
            return;
        };
        let message = match parse_go_duration_ns(text) {
            None => format!("invalid value: {text}"),
            Some(ns) if !(low_ns..=HOUR_NS).contains(&ns) => {
                let (low, high) = (go_duration_ns(low_ns), go_duration_ns(HOUR_NS));
                format!("expected {low} <= {text} <= {high}")
            }
            Some(ns) if whole_seconds && ns % SECOND_NS != 0 => {
                "must be specified with at most second precision".into()
            }
            Some(_) => return,
        };
        self.complain(message, key);
    }

    /// Upstream appends its remark to the key; so do we, for those who search for the words.
    fn initial_scale(&mut self, config: &ScaleConfig) {
        let Some((text, key)) = self.own.get("initial-scale") else {
            return;
        };
        let remark = match text.parse::<i32>() {
            Err(_) => "",
            Ok(scale) if scale < 0 => " must be greater than 0",
            Ok(0) if !config.allow_zero_initial_scale => "=0 not allowed by cluster",
            Ok(_) => return,
        };
        self.complain(format!("invalid value: {text}"), format!("{key}{remark}"));
    }
}
