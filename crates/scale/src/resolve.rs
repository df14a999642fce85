//! A revision's settings: annotations over the cluster's defaults (04-autoscaler §2, Resolution).

use std::collections::BTreeMap;

use nihilo_types::meta::keys;
use nihilo_types::time::parse_go_duration_ms;

use crate::config::{KPA_CLASS, Metric, ScaleConfig};
use crate::window::Aggregation;

/// Everything one revision's autoscaler needs, resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct RevisionScale {
    /// Another class than ours has no controller here.
    pub class_is_served: bool,
    pub metric: Metric,
    pub aggregation: Aggregation,
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
    pub activator_capacity: f64,
}

/// Hyphenated and camel-case spellings of the annotations; the hyphenated one wins.
pub(crate) struct Annotations<'a>(pub(crate) &'a BTreeMap<String, String>);

impl Annotations<'_> {
    pub(crate) fn get(&self, key: &str) -> Option<(&str, String)> {
        [key.to_owned(), camel_case(key)]
            .into_iter()
            .find_map(|key| {
                let full = format!("{}{key}", keys::AUTOSCALING_PREFIX);
                Some((self.0.get(&full)?.as_str(), full))
            })
    }

    fn int(&self, key: &str) -> Option<i32> {
        self.get(key)?.0.parse().ok()
    }

    fn float(&self, key: &str) -> Option<f64> {
        parse_float(self.get(key)?.0)
    }

    fn time(&self, key: &str) -> Option<u64> {
        parse_go_duration_ms(self.get(key)?.0)
    }
}

/// A finite number: an infinite target would want no instance for any load.
pub(crate) fn parse_float(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

pub(crate) fn camel_case(key: &str) -> String {
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
        if let Some(target) = own.float("target") {
            total = match metric == Metric::Concurrency && container_concurrency > 0 {
                true => target.min(limit),
                false => target,
            };
        }
        if let Some(percent) = own.float("target-utilization-percentage") {
            utilization = percent / 100.0;
        }
        let target = (total * utilization).max(0.01);
        let stable_window_ms = own.time("window").unwrap_or(config.stable_window_ms);
        let percentage = own
            .float("panic-window-percentage")
            .unwrap_or(config.panic_window_percentage);
        let panic_window_ms = panic_window_ms(stable_window_ms, percentage);
        let initial = own.int("initial-scale").unwrap_or(config.initial_scale);
        let aggregation = match own.get("metric-aggregation-algorithm") {
            Some(("weighted-exponential" | "weightedExponential", _)) => {
                Aggregation::WeightedExponential
            }
            _ => Aggregation::Linear,
        };
        let class = own
            .get("class")
            .map_or(config.class.as_str(), |(class, _)| class);
        let unserved = !class.is_empty() && class != KPA_CLASS;
        Self {
            class_is_served: !unserved,
            metric,
            aggregation,
            total,
            target,
            concurrency_target: match metric {
                Metric::Concurrency => target,
                Metric::Rps => (capacity * config.target_fraction).max(0.01),
            },
            target_burst_capacity: own
                .float("target-burst-capacity")
                .unwrap_or(config.target_burst_capacity),
            stable_window_ms,
            panic_window_ms,
            panic_threshold: own
                .float("panic-threshold-percentage")
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
            activation_scale: own.int("activation-scale").unwrap_or(0),
            min_scale: own.int("min-scale").unwrap_or(config.min_scale),
            max_scale: own.int("max-scale").unwrap_or(config.max_scale),
            progress_deadline_ms: annotations
                .get(keys::PROGRESS_DEADLINE)
                .and_then(|text| parse_go_duration_ms(text))
                .unwrap_or(config.progress_deadline_ms),
            fast_scale: match annotations.get("nihilo.dev/fast-scale").map(String::as_str) {
                Some("false") => false,
                Some("true") => true,
                _ => config.fast_scale,
            },
            activator_capacity: config.activator_capacity,
        }
    }

    /// Instances of a revision that nothing was decided for yet (04-autoscaler §6.1).
    pub fn first_scale(&self) -> i32 {
        self.min_scale.max(self.initial_scale)
    }

    pub fn stable_seconds(&self) -> u64 {
        self.stable_window_ms / 1000
    }

    pub fn panic_seconds(&self) -> u64 {
        self.panic_window_ms / 1000
    }
}

/// A part of the stable window, to a whole second, half away from zero, at least one.
fn panic_window_ms(stable_window_ms: u64, percentage: f64) -> u64 {
    let seconds = (stable_window_ms as f64 / 1000.0 * percentage / 100.0).round();
    (seconds.max(1.0) * 1000.0) as u64
}
