//! The cluster's settings (`config-autoscaler`), with upstream's ranges and error texts
//! (04-autoscaler §2).
//!
//! Source: knative/serving:pkg/autoscaler/config/config.go.

use std::collections::BTreeMap;

use nihilo_types::names::nearest;
use nihilo_types::time::{go_duration_ns, parse_go_duration_ns};

use crate::resolve::parse_float;

pub use crate::annotations::{FieldError, validate_annotations};
pub use crate::resolve::RevisionScale;

/// The one class that has a controller here.
pub const KPA_CLASS: &str = "kpa.autoscaling.knative.dev";

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
    /// Class of revisions that name none.
    pub class: String,
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
    /// No revision may ask for more; 0 = off.
    pub max_scale_limit: i32,
    /// Requests that one activator carries, ≥ 1; only reported.
    pub activator_capacity: f64,
    /// Bursts are answered before a window has seen them (ours).
    pub fast_scale: bool,
    pub progress_deadline_ms: u64,
}

impl Default for ScaleConfig {
    fn default() -> Self {
        Self {
            class: KPA_CLASS.into(),
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
            max_scale_limit: 0,
            activator_capacity: 100.0,
            fast_scale: true,
            progress_deadline_ms: 600_000,
        }
    }
}

/// A setting that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

pub(crate) const MIN_WINDOW_NS: i64 = 6 * SECOND_NS;
pub(crate) const HOUR_NS: i64 = 3_600 * SECOND_NS;
pub(crate) const SECOND_NS: i64 = 1_000_000_000;
const MS_NS: u64 = 1_000_000;
pub(crate) const TARGET_MIN: f64 = 0.01;

/// The explanation that Knative ships inside its ConfigMap: no setting.
const EXAMPLE: &str = "_example";

/// Every key that this version reads.
pub const KEYS: [&str; 22] = [
    "activator-capacity",
    "allow-zero-initial-scale",
    "container-concurrency-target-default",
    "container-concurrency-target-percentage",
    "enable-scale-to-zero",
    "fast-scale",
    "initial-scale",
    "max-scale",
    "max-scale-down-rate",
    "max-scale-limit",
    "max-scale-up-rate",
    "min-scale",
    "panic-threshold-percentage",
    "panic-window-percentage",
    "pod-autoscaler-class",
    "progress-deadline",
    "requests-per-second-target-default",
    "scale-down-delay",
    "scale-to-zero-grace-period",
    "scale-to-zero-pod-retention-period",
    "stable-window",
    "target-burst-capacity",
];

/// Keys that nothing reads, each with the nearest one that something does.
pub fn unknown_keys(map: &BTreeMap<String, String>) -> Vec<(String, Option<String>)> {
    let unknown = map
        .keys()
        .filter(|key| *key != EXAMPLE && !KEYS.contains(&key.as_str()));
    unknown
        .map(|key| (key.clone(), nearest(key, KEYS).map(str::to_owned)))
        .collect()
}

/// The times as they were written, before they are known to be in range.
#[derive(Debug)]
struct Times {
    stable_ns: i64,
    delay_ns: i64,
    grace_ns: i64,
    retention_ns: i64,
    progress_ns: i64,
}

impl ScaleConfig {
    /// Reads the keys of `config-autoscaler`; absent ones keep their defaults, unknown ones are
    /// [`unknown_keys`]'s business.
    ///
    /// # Errors
    /// The first bad key, in upstream's words and order.
    pub fn from_map(map: &BTreeMap<String, String>) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        let mut times = config.times();
        for (key, value) in map {
            config.set(&mut times, key, value)?;
        }
        if config.target_fraction > 1.0 {
            config.target_fraction /= 100.0;
        }
        config.check(&times)?;
        config.take(&times);
        Ok(config)
    }

    /// As [`Self::from_map`], for who wrote the keys just now: an unknown one is a slip of theirs.
    ///
    /// # Errors
    /// The first bad key, or else the first unknown one with the nearest that is known.
    pub fn from_known(map: &BTreeMap<String, String>) -> Result<Self, ConfigError> {
        let config = Self::from_map(map)?;
        match unknown_keys(map).into_iter().next() {
            None => Ok(config),
            Some((key, None)) => Err(ConfigError(format!("unknown key `{key}`"))),
            Some((key, Some(near))) => Err(ConfigError(format!(
                "unknown key `{key}`, did you mean `{near}`?"
            ))),
        }
    }

    fn times(&self) -> Times {
        let ns = |ms: u64| i64::try_from(ms * MS_NS).unwrap_or(i64::MAX);
        Times {
            stable_ns: ns(self.stable_window_ms),
            delay_ns: ns(self.scale_down_delay_ms),
            grace_ns: ns(self.grace_ms),
            retention_ns: ns(self.retention_ms),
            progress_ns: ns(self.progress_deadline_ms),
        }
    }

    /// What is left over of a millisecond counts as one: no wait is cut short.
    fn take(&mut self, times: &Times) {
        let ms = |ns: i64| u64::try_from(ns).unwrap_or(0).div_ceil(MS_NS);
        self.stable_window_ms = ms(times.stable_ns);
        self.scale_down_delay_ms = ms(times.delay_ns);
        self.grace_ms = ms(times.grace_ns);
        self.retention_ms = ms(times.retention_ns);
        self.progress_deadline_ms = ms(times.progress_ns);
    }

    fn set(&mut self, times: &mut Times, key: &str, text: &str) -> Result<(), ConfigError> {
        let bad = || {
            ConfigError(format!(
                "failed to parse data: failed to parse {key:?}: {text}"
            ))
        };
        let float = || parse_float(text).ok_or_else(bad);
        let int = || text.parse::<i32>().map_err(|_| bad());
        let flag = || parse_flag(text).ok_or_else(bad);
        let time = || parse_go_duration_ns(text).ok_or_else(bad);
        match key {
            "pod-autoscaler-class" => text.clone_into(&mut self.class),
            "container-concurrency-target-percentage" => self.target_fraction = float()?,
            "container-concurrency-target-default" => self.target_default = float()?,
            "requests-per-second-target-default" => self.rps_default = float()?,
            "target-burst-capacity" => self.target_burst_capacity = float()?,
            "stable-window" => times.stable_ns = time()?,
            "panic-window-percentage" => self.panic_window_percentage = float()?,
            "panic-threshold-percentage" => self.panic_threshold_percentage = float()?,
            "max-scale-up-rate" => self.max_scale_up_rate = float()?,
            "max-scale-down-rate" => self.max_scale_down_rate = float()?,
            "scale-down-delay" => times.delay_ns = time()?,
            "enable-scale-to-zero" => self.enable_scale_to_zero = flag()?,
            "scale-to-zero-grace-period" => times.grace_ns = time()?,
            "scale-to-zero-pod-retention-period" => times.retention_ns = time()?,
            "initial-scale" => self.initial_scale = int()?,
            "allow-zero-initial-scale" => self.allow_zero_initial_scale = flag()?,
            "min-scale" => self.min_scale = int()?,
            "max-scale" => self.max_scale = int()?,
            "max-scale-limit" => self.max_scale_limit = int()?,
            "activator-capacity" => self.activator_capacity = float()?,
            "fast-scale" => self.fast_scale = flag()?,
            "progress-deadline" => times.progress_ns = time()?,
            _ => {}
        }
        Ok(())
    }

    /// In upstream's order, so that the first complaint is upstream's first.
    fn check(&self, times: &Times) -> Result<(), ConfigError> {
        check_waits(times)?;
        self.check_targets()?;
        self.check_rates()?;
        self.check_windows(times)?;
        self.check_bounds()
    }

    fn check_targets(&self) -> Result<(), ConfigError> {
        let burst = self.target_burst_capacity;
        if burst < 0.0 && burst != -1.0 {
            return fail(format!(
                "target-burst-capacity must be either non-negative or -1 (for unlimited), was: \
                 {burst:.6}"
            ));
        }
        let fraction = self.target_fraction;
        if !(fraction > 0.0 && fraction <= 1.0) {
            return fail(format!(
                "container-concurrency-target-percentage = {fraction:.6} is outside of valid \
                 range of (0, 100]"
            ));
        }
        let target = fraction * self.target_default;
        if target < TARGET_MIN {
            return fail(format!(
                "container-concurrency-target-percentage and container-concurrency-target-default \
                 yield target concurrency of {target}, can't be less than {TARGET_MIN}"
            ));
        }
        let rps = self.rps_default;
        if rps < TARGET_MIN {
            return fail(format!(
                "requests-per-second-target-default must be at least {TARGET_MIN}, was: {rps}"
            ));
        }
        let capacity = self.activator_capacity;
        if capacity < 1.0 {
            return fail(format!(
                "activator-capacity = {capacity}, must be at least 1"
            ));
        }
        Ok(())
    }

    fn check_rates(&self) -> Result<(), ConfigError> {
        for (key, value) in [
            ("max-scale-up-rate", self.max_scale_up_rate),
            ("max-scale-down-rate", self.max_scale_down_rate),
        ] {
            if value <= 1.0 {
                return fail(format!("{key} = {value}, must be greater than 1.0"));
            }
        }
        Ok(())
    }

    fn check_windows(&self, times: &Times) -> Result<(), ConfigError> {
        let window = go_duration_ns(times.stable_ns);
        if !(MIN_WINDOW_NS..=HOUR_NS).contains(&times.stable_ns) {
            return fail(format!(
                "stable-window = {window}, must be in [{}; {}] range",
                go_duration_ns(MIN_WINDOW_NS),
                go_duration_ns(HOUR_NS)
            ));
        }
        whole_seconds("stable-window", times.stable_ns)?;
        for (key, value, low, high) in [
            (
                "panic-window-percentage",
                self.panic_window_percentage,
                1.0,
                100.0,
            ),
            // Differs from Knative, which takes any: below 100 everything is a panic.
            (
                "panic-threshold-percentage",
                self.panic_threshold_percentage,
                110.0,
                1000.0,
            ),
        ] {
            if !(low..=high).contains(&value) {
                return fail(format!(
                    "{key} = {value}, must be in [{low}, {high}] interval"
                ));
            }
        }
        Ok(())
    }

    fn check_bounds(&self) -> Result<(), ConfigError> {
        let initial = self.initial_scale;
        if initial < 0 || (initial == 0 && !self.allow_zero_initial_scale) {
            return fail(format!(
                "initial-scale = {initial}, must be at least 0 (or at least 1 when \
                 allow-zero-initial-scale is false)"
            ));
        }
        let (min, max, limit) = (self.min_scale, self.max_scale, self.max_scale_limit);
        let low = i32::from(limit > 0);
        if max < low || (limit > 0 && max > limit) {
            return fail(format!(
                "max-scale = {max}, must be in [{low}, max-scale-limit({limit})] range"
            ));
        }
        for (key, value) in [("max-scale-limit", limit), ("min-scale", min)] {
            if value < 0 {
                return fail(format!("{key} = {value}, must be at least 0"));
            }
        }
        if max > 0 && min > max {
            return fail(format!(
                "min-scale ({min}) must be less than max-scale ({max})"
            ));
        }
        Ok(())
    }
}

fn check_waits(times: &Times) -> Result<(), ConfigError> {
    if times.grace_ns <= 0 {
        let was = go_duration_ns(times.grace_ns);
        return fail(format!(
            "scale-to-zero-grace-period must be positive, was: {was}"
        ));
    }
    not_negative("scale-down-delay", times.delay_ns)?;
    whole_seconds("scale-down-delay", times.delay_ns)?;
    not_negative("scale-to-zero-pod-retention-period", times.retention_ns)?;
    if times.progress_ns <= 0 {
        let was = go_duration_ns(times.progress_ns);
        return fail(format!("progress-deadline must be positive, was: {was}"));
    }
    Ok(())
}

fn not_negative(key: &str, ns: i64) -> Result<(), ConfigError> {
    if ns >= 0 {
        return Ok(());
    }
    let was = go_duration_ns(ns);
    fail(format!("{key} cannot be negative, was: {was}"))
}

fn whole_seconds(key: &str, ns: i64) -> Result<(), ConfigError> {
    if ns % SECOND_NS == 0 {
        return Ok(());
    }
    let was = go_duration_ns(ns);
    fail(format!(
        "{key} = {was}, must be specified with at most second precision"
    ))
}

fn fail(text: impl Into<String>) -> Result<(), ConfigError> {
    Err(ConfigError(text.into()))
}

/// Go's words for true and false.
fn parse_flag(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn an_unknown_setting_is_named_with_the_nearest_one_and_changes_nothing() {
        let map = map(&[("stable-windw", "6s"), ("_example", "anything")]);
        assert_eq!(ScaleConfig::from_map(&map), Ok(ScaleConfig::default()));
        let want = ("stable-windw".to_owned(), Some("stable-window".to_owned()));
        assert_eq!(unknown_keys(&map), [want]);
        let refused = ScaleConfig::from_known(&map).map_err(|error| error.0);
        let text = "unknown key `stable-windw`, did you mean `stable-window`?";
        assert_eq!(refused, Err(text.to_owned()));
    }

    #[test]
    fn every_key_is_read() {
        for key in KEYS {
            let written = map(&[(key, "?")]);
            let read = ScaleConfig::from_map(&written);
            let is_class = key == "pod-autoscaler-class";
            assert_eq!(read.is_ok(), is_class, "{key}");
        }
    }
}
