//! The cluster's settings (`config-autoscaler`), with upstream's ranges and error texts
//! (04-autoscaler §2).

use std::collections::BTreeMap;

use nihilo_types::time::{go_duration, parse_go_duration_ms};

use crate::resolve::parse_float;

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
    /// No revision may ask for more; 0 = off.
    pub max_scale_limit: i32,
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
            max_scale_limit: 0,
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
        let float = || parse_float(text).ok_or_else(bad);
        let int = || text.parse::<i32>().map_err(|_| bad());
        let flag = || parse_flag(text).ok_or_else(bad);
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
            "max-scale-limit" => self.max_scale_limit = int()?,
            unknown => return Err(ConfigError(format!("unknown autoscaler key `{unknown}`"))),
        }
        Ok(())
    }

    fn check(&self) -> Result<(), ConfigError> {
        self.check_times()?;
        self.check_targets()?;
        self.check_bounds()
    }

    fn check_times(&self) -> Result<(), ConfigError> {
        let window = go_duration(self.stable_window_ms);
        if !(MIN_WINDOW_MS..=HOUR_MS).contains(&self.stable_window_ms) {
            return fail(format!(
                "stable-window = {window}, must be in [6s; 1h0m0s] range"
            ));
        }
        for (key, value_ms) in [
            ("stable-window", self.stable_window_ms),
            ("scale-down-delay", self.scale_down_delay_ms),
        ] {
            if !value_ms.is_multiple_of(1000) {
                let value = go_duration(value_ms);
                let text = "must be specified with at most second precision";
                return fail(format!("{key} = {value}, {text}"));
            }
        }
        if self.grace_ms == 0 {
            return fail("scale-to-zero-grace-period must be positive, was: 0s");
        }
        Ok(())
    }

    fn check_targets(&self) -> Result<(), ConfigError> {
        let fraction = self.target_fraction;
        if !(fraction > 0.0 && fraction <= 1.0) {
            return fail(format!(
                "container-concurrency-target-percentage = {fraction} is outside of valid range \
                 of (0, 100]"
            ));
        }
        let target = fraction * self.target_default;
        if target < 0.01 {
            return fail(format!(
                "container-concurrency-target-percentage and container-concurrency-target-default \
                 yield target concurrency of {target}, can't be less than 0.01"
            ));
        }
        let rps = self.rps_default;
        if rps < 0.01 {
            return fail(format!(
                "requests-per-second-target-default must be at least 0.01, was: {rps}"
            ));
        }
        let burst = self.target_burst_capacity;
        if burst < 0.0 && burst != -1.0 {
            return fail(format!(
                "target-burst-capacity must be either non-negative or -1 (for unlimited), was: \
                 {burst}"
            ));
        }
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
        for (key, value) in [
            ("max-scale-up-rate", self.max_scale_up_rate),
            ("max-scale-down-rate", self.max_scale_down_rate),
        ] {
            if value <= 1.0 {
                return fail(format!("{key} = {value}, must be greater than 1.0"));
            }
        }
        let initial = self.initial_scale;
        if initial < 0 || (initial == 0 && !self.allow_zero_initial_scale) {
            return fail(format!(
                "initial-scale = {initial}, must be at least 0 (or at least 1 when \
                 allow-zero-initial-scale is false)"
            ));
        }
        let (min, max, limit) = (self.min_scale, self.max_scale, self.max_scale_limit);
        for (key, value) in [("max-scale-limit", limit), ("min-scale", min)] {
            if value < 0 {
                return fail(format!("{key} = {value}, must be at least 0"));
            }
        }
        let low = i32::from(limit > 0);
        if max < low || (limit > 0 && max > limit) {
            return fail(format!(
                "max-scale = {max}, must be in [{low}, max-scale-limit({limit})] range"
            ));
        }
        if max > 0 && min > max {
            return fail(format!(
                "min-scale ({min}) must be less than max-scale ({max})"
            ));
        }
        Ok(())
    }
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

    #[test]
    fn an_unknown_setting_is_refused_by_name() {
        let map = BTreeMap::from([("stable-windw".to_owned(), "6s".to_owned())]);
        let error = ScaleConfig::from_map(&map).unwrap_err();
        assert_eq!(error.0, "unknown autoscaler key `stable-windw`");
    }
}
