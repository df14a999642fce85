//! Settings: the cluster's (`config-autoscaler`) and a revision's (annotations), with upstream's
//! ranges and error texts (04-autoscaler §2).

use std::collections::BTreeMap;
use std::fmt;

use nihilo_types::meta::keys;
use nihilo_types::time::{go_duration, parse_go_duration_ms};

/// Which value is scaled on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Metric {
    #[default]
    Concurrency,
    Rps,
}

/// Cluster settings with Knative's defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct ScaleConfig {
    /// Fraction of an instance's capacity to aim for, in (0, 1].
    pub target_fraction: f64,
    pub target_default: f64,
    pub rps_default: f64,
    pub target_burst_capacity: f64,
    pub stable_window_ms: u64,
    pub panic_window_percentage: f64,
    pub panic_threshold_percentage: f64,
    pub max_scale_up_rate: f64,
    pub max_scale_down_rate: f64,
    pub scale_down_delay_ms: u64,
    pub enable_scale_to_zero: bool,
    pub grace_ms: u64,
    pub retention_ms: u64,
    pub initial_scale: i32,
    pub allow_zero_initial_scale: bool,
    pub min_scale: i32,
    pub max_scale: i32,
    pub progress_deadline_ms: u64,
}

impl Default for ScaleConfig {
    fn default() -> Self {
        Self {
            target_fraction: 0.7,
            target_default: 100.0,
            rps_default: 200.0,
            target_burst_capacity: 211.0,
            stable_window_ms: 60_000,
            panic_window_percentage: 10.0,
            panic_threshold_percentage: 200.0,
            max_scale_up_rate: 1000.0,
            max_scale_down_rate: 2.0,
            scale_down_delay_ms: 0,
            enable_scale_to_zero: true,
            grace_ms: 30_000,
            retention_ms: 0,
            initial_scale: 1,
            allow_zero_initial_scale: false,
            min_scale: 0,
            max_scale: 0,
            progress_deadline_ms: 600_000,
        }
    }
}

/// A setting that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

const MIN_WINDOW_MS: u64 = 6_000;
const HOUR_MS: u64 = 3_600_000;

impl ScaleConfig {
    /// Reads the keys of `config-autoscaler`; absent ones keep their defaults.
    ///
    /// # Errors
    /// The first bad key, in upstream's words.
    pub fn from_map(map: &BTreeMap<String, String>) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        for (key, value) in map {
            config.set(key, value)?;
        }
        config.check()?;
        Ok(config)
    }

    fn set(&mut self, key: &str, text: &str) -> Result<(), ConfigError> {
        let bad = || {
            ConfigError(format!(
                "failed to parse data: failed to parse {key:?}: {text}"
            ))
        };
        let float = || text.parse::<f64>().map_err(|_| bad());
        let int = || text.parse::<i32>().map_err(|_| bad());
        let flag = || text.parse::<bool>().map_err(|_| bad());
        let time = || parse_go_duration_ms(text).ok_or_else(bad);
        match key {
            "container-concurrency-target-percentage" => {
                let value = float()?;
                self.target_fraction = if value > 1.0 { value / 100.0 } else { value };
            }
            "container-concurrency-target-default" => self.target_default = float()?,
            "requests-per-second-target-default" => self.rps_default = float()?,
            "target-burst-capacity" => self.target_burst_capacity = float()?,
            "stable-window" => self.stable_window_ms = time()?,
            "panic-window-percentage" => self.panic_window_percentage = float()?,
            "panic-threshold-percentage" => self.panic_threshold_percentage = float()?,
            "max-scale-up-rate" => self.max_scale_up_rate = float()?,
            "max-scale-down-rate" => self.max_scale_down_rate = float()?,
            "scale-down-delay" => self.scale_down_delay_ms = time()?,
            "enable-scale-to-zero" => self.enable_scale_to_zero = flag()?,
            "scale-to-zero-grace-period" => self.grace_ms = time()?,
            "scale-to-zero-pod-retention-period" => self.retention_ms = time()?,
            "initial-scale" => self.initial_scale = int()?,
            "allow-zero-initial-scale" => self.allow_zero_initial_scale = flag()?,
            "min-scale" => self.min_scale = int()?,
            "max-scale" => self.max_scale = int()?,
            unknown => return Err(ConfigError(format!("unknown autoscaler key `{unknown}`"))),
        }
        Ok(())
    }

    fn check(&self) -> Result<(), ConfigError> {
        let fail = |text: String| Err(ConfigError(text));
        let window = go_duration(self.stable_window_ms);
        if !(MIN_WINDOW_MS..=HOUR_MS).contains(&self.stable_window_ms) {
            return fail(format!(
                "stable-window = {window}, must be in [6s; 1h0m0s] range"
            ));
        }
        if !self.stable_window_ms.is_multiple_of(1000) {
            let text = "must be specified with at most second precision";
            return fail(format!("stable-window = {window}, {text}"));
        }
        if !(1.0..=100.0).contains(&self.panic_window_percentage) {
            let value = self.panic_window_percentage;
            return fail(format!(
                "panic-window-percentage = {value}, must be in [1, 100] interval"
            ));
        }
        for (key, value) in [
            ("max-scale-up-rate", self.max_scale_up_rate),
            ("max-scale-down-rate", self.max_scale_down_rate),
        ] {
            if value <= 1.0 {
                return fail(format!("{key} = {value}, must be greater than 1.0"));
            }
        }
        let burst = self.target_burst_capacity;
        if burst < 0.0 && burst != -1.0 {
            return fail(format!(
                "target-burst-capacity must be either non-negative or -1 (for unlimited), was: \
                 {burst}"
            ));
        }
        if self.grace_ms == 0 {
            return fail("scale-to-zero-grace-period must be positive, was: 0s".into());
        }
        if !(self.target_fraction > 0.0 && self.target_fraction <= 1.0) {
            return fail(format!(
                "container-concurrency-target-percentage = {} is outside of valid range of (0, 100]",
                self.target_fraction
            ));
        }
        Ok(())
    }
}

/// Everything one revision's autoscaler needs, resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct RevisionScale {
    pub metric: Metric,
    /// What one instance can carry, and what it should.
    pub total: f64,
    pub target: f64,
    /// The concurrency that the fast floor divides by, whatever the metric.
    pub concurrency_target: f64,
    pub target_burst_capacity: f64,
    pub stable_window_ms: u64,
    pub panic_window_ms: u64,
    /// Need over ready from which on it is a panic.
    pub panic_threshold: f64,
    pub max_scale_up_rate: f64,
    pub max_scale_down_rate: f64,
    pub scale_down_delay_ms: u64,
    pub enable_scale_to_zero: bool,
    pub grace_ms: u64,
    pub retention_ms: u64,
    pub initial_scale: i32,
    /// 0 = off; else ≥ 2.
    pub activation_scale: i32,
    pub min_scale: i32,
    /// 0 = none.
    pub max_scale: i32,
    pub progress_deadline_ms: u64,
    pub fast_scale: bool,
}

/// Hyphenated and camel-case spellings of the annotations; the hyphenated one wins.
struct Annotations<'a>(&'a BTreeMap<String, String>);

impl Annotations<'_> {
    fn get(&self, key: &str) -> Option<(&str, String)> {
        [key.to_owned(), camel_case(key)]
            .into_iter()
            .find_map(|key| {
                let full = format!("{}{key}", keys::AUTOSCALING_PREFIX);
                Some((self.0.get(&full)?.as_str(), full))
            })
    }

    fn parsed<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        self.get(key)?.0.parse().ok()
    }

    fn time(&self, key: &str) -> Option<u64> {
        parse_go_duration_ms(self.get(key)?.0)
    }
}

fn camel_case(key: &str) -> String {
    let mut upper = false;
    let mut text = String::new();
    for c in key.chars() {
        match c {
            '-' => upper = true,
            c if upper => {
                text.extend(c.to_uppercase());
                upper = false;
            }
            c => text.push(c),
        }
    }
    text
}

impl RevisionScale {
    /// Resolves a revision's settings; a stored annotation that does not parse counts as absent.
    pub fn resolve(
        annotations: &BTreeMap<String, String>,
        container_concurrency: u32,
        config: &ScaleConfig,
    ) -> Self {
        let own = Annotations(annotations);
        let metric = match own.get("metric") {
            Some(("rps", _)) => Metric::Rps,
            _ => Metric::Concurrency,
        };
        let limit = f64::from(container_concurrency);
        let capacity = if container_concurrency > 0 {
            limit
        } else {
            config.target_default
        };
        let (mut total, mut utilization) = match metric {
            Metric::Rps => (config.rps_default, 0.7),
            Metric::Concurrency => (capacity, config.target_fraction),
        };
        if let Some(target) = own.parsed::<f64>("target") {
            total = match metric == Metric::Concurrency && container_concurrency > 0 {
                true => target.min(limit),
                false => target,
            };
        }
        if let Some(percent) = own.parsed::<f64>("target-utilization-percentage") {
            utilization = percent / 100.0;
        }
        let target = (total * utilization).max(0.01);
        let stable_window_ms = own.time("window").unwrap_or(config.stable_window_ms);
        let percentage = own
            .parsed("panic-window-percentage")
            .unwrap_or(config.panic_window_percentage);
        let panic_seconds = (stable_window_ms as f64 / 1000.0 * percentage / 100.0).round();
        let initial = own.parsed("initial-scale").unwrap_or(config.initial_scale);
        Self {
            metric,
            total,
            target,
            concurrency_target: match metric {
                Metric::Concurrency => target,
                Metric::Rps => (capacity * config.target_fraction).max(0.01),
            },
            target_burst_capacity: own
                .parsed("target-burst-capacity")
                .unwrap_or(config.target_burst_capacity),
            stable_window_ms,
            panic_window_ms: (panic_seconds.max(1.0) * 1000.0) as u64,
            panic_threshold: own
                .parsed("panic-threshold-percentage")
                .unwrap_or(config.panic_threshold_percentage)
                / 100.0,
            max_scale_up_rate: config.max_scale_up_rate,
            max_scale_down_rate: config.max_scale_down_rate,
            scale_down_delay_ms: own
                .time("scale-down-delay")
                .unwrap_or(config.scale_down_delay_ms),
            enable_scale_to_zero: config.enable_scale_to_zero,
            grace_ms: config.grace_ms,
            retention_ms: own
                .time("scale-to-zero-pod-retention-period")
                .unwrap_or(config.retention_ms),
            initial_scale: match initial {
                0 if !config.allow_zero_initial_scale => config.initial_scale,
                initial => initial,
            },
            activation_scale: own.parsed("activation-scale").unwrap_or(0),
            min_scale: own.parsed("min-scale").unwrap_or(config.min_scale),
            max_scale: own.parsed("max-scale").unwrap_or(config.max_scale),
            progress_deadline_ms: annotations
                .get(keys::PROGRESS_DEADLINE)
                .and_then(|text| parse_go_duration_ms(text))
                .unwrap_or(config.progress_deadline_ms),
            fast_scale: annotations
                .get("nihilo.dev/fast-scale")
                .is_none_or(|text| text != "false"),
        }
    }

    pub fn stable_seconds(&self) -> u64 {
        self.stable_window_ms / 1000
    }

    pub fn panic_seconds(&self) -> u64 {
        self.panic_window_ms / 1000
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn annotate(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let full = |key: &str| format!("autoscaling.knative.dev/{key}");
        pairs
            .iter()
            .map(|(key, value)| (full(key), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn each_bad_annotation_is_told_in_upstreams_words() {
        let cases = [
            (("window", "5s"), "expected 6s <= 5s <= 1h0m0s"),
            (
                ("window", "7500ms"),
                "must be specified with at most second precision",
            ),
            (("target", "0"), "target 0 should be at least 0.01"),
            (("min-scale", "-1"), "expected 0 <= -1 <= 2147483647"),
            (("min-scale", "x"), "invalid value: x"),
            (("metric", "cpu"), "invalid value: cpu"),
            (
                ("activation-scale", "1"),
                "activation-scale=1 must be greater than 1",
            ),
            (
                ("targt", "1"),
                "invalid key name \"targt\" did you mean `target`?",
            ),
        ];
        for (pair, want) in cases {
            let errors = validate_annotations(&annotate(&[pair]), &ScaleConfig::default());
            assert_eq!(errors.len(), 1, "{pair:?}");
            assert_eq!(errors[0].message, want);
        }
        let both = annotate(&[("min-scale", "3"), ("max-scale", "2")]);
        let errors = validate_annotations(&both, &ScaleConfig::default());
        assert!(
            errors[0]
                .message
                .contains("max-scale=2 is less than min-scale=3")
        );
    }

    #[test]
    fn settings_resolve_as_upstream_does() {
        let config = ScaleConfig::default();
        let resolve = |pairs: &[(&str, &str)], limit| {
            RevisionScale::resolve(&annotate(pairs), limit, &config)
        };
        assert_eq!(resolve(&[], 0).target, 70.0);
        assert_eq!(resolve(&[("target", "50")], 10).total, 10.0);
        assert_eq!(
            resolve(&[("targetUtilizationPercentage", "100")], 10).target,
            10.0
        );
        assert_eq!(resolve(&[("metric", "rps")], 0).target, 140.0);
        assert_eq!(resolve(&[("window", "6s")], 0).panic_window_ms, 1_000);
        assert_eq!(resolve(&[("window", "bad")], 0).stable_window_ms, 60_000);
    }

    #[test]
    fn a_bad_cluster_setting_is_refused() {
        let map = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        for (key, value) in [
            ("stable-window", "1s"),
            ("max-scale-up-rate", "1"),
            ("stable-windw", "6s"),
        ] {
            assert!(ScaleConfig::from_map(&map(key, value)).is_err(), "{key}");
        }
        let config = ScaleConfig::from_map(&map("stable-window", "6s")).unwrap();
        assert_eq!(config.stable_window_ms, 6_000);
    }
}
