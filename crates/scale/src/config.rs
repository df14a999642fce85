//! The cluster's settings (`config-autoscaler`), with upstream's ranges and error texts
//! (04-autoscaler §2).

use std::collections::BTreeMap;

use nihilo_types::time::{go_duration, parse_go_duration_ms};

pub use crate::annotations::{FieldError, validate_annotations};
pub use crate::resolve::RevisionScale;

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

pub(crate) const MIN_WINDOW_MS: u64 = 6_000;
pub(crate) const HOUR_MS: u64 = 3_600_000;

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
