//! What an autoscaler would have done: a trace of load in virtual time, through the very actor
//! that decides for live revisions (04-autoscaler §9). No clock, no IO; equal input, equal output.

mod instances;
mod world;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::decision::DecisionRecord;
use crate::table::Settings;

/// One line of a trace, times from its begin.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Load {
    /// So many requests arrive, each of which an instance is busy with for so long.
    Arrivals {
        t_ms: u64,
        start: u32,
        duration_ms: u64,
    },
    /// What gateways have measured in the second that ends then.
    Measured {
        t_ms: u64,
        concurrency: f64,
        #[serde(default)]
        rps: f64,
    },
}

impl Load {
    pub fn t_ms(&self) -> u64 {
        match self {
            Load::Arrivals { t_ms, .. } | Load::Measured { t_ms, .. } => *t_ms,
        }
    }
}

/// How long an instance takes from its start to readiness.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Boot {
    Fixed {
        ms: u64,
    },
    /// By its median and the deviation of its logarithm.
    LogNormal {
        median_ms: u64,
        sigma: f64,
    },
}

/// A question.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub settings: Settings,
    /// Full keys, as on a template.
    pub annotations: BTreeMap<String, String>,
    pub container_concurrency: u32,
    pub boot: Boot,
    pub seed: u64,
    /// Seconds to go on after the last line.
    pub tail_s: u64,
    pub trace: Vec<Load>,
}

/// One second of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Row {
    pub t_s: u64,
    pub desired: u32,
    /// Booting ones included.
    pub instances: u32,
    pub ready: u32,
    pub in_flight: u64,
    pub queued: u64,
    pub panic: bool,
}

/// The whole answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Timeline {
    pub rows: Vec<Row>,
    pub n_requests: u64,
    pub cold_starts: u64,
    pub instance_seconds: f64,
    /// Waits before an instance took the request.
    pub wait_mean_ms: f64,
    pub wait_p50_ms: u64,
    pub wait_p99_ms: u64,
    pub wait_max_ms: u64,
    /// From and to, in milliseconds.
    pub panics: Vec<(u64, u64)>,
    #[serde(skip)]
    pub decisions: Vec<DecisionRecord>,
}

/// # Errors
/// A line that is none, by its number.
pub fn parse_trace(text: &str) -> Result<Vec<Load>, String> {
    let mut trace = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let load = serde_json::from_str(line)
            .map_err(|error| format!("line {}: {error}: {line}", number + 1))?;
        trace.push(load);
    }
    trace.sort_by_key(Load::t_ms);
    Ok(trace)
}

/// Answers the question.
pub fn run(scenario: &Scenario) -> Timeline {
    world::World::new(scenario).run()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(annotations: &[(&str, &str)], trace: Vec<Load>) -> Scenario {
        let full = |(key, value): &(&str, &str)| {
            (
                format!("autoscaling.knative.dev/{key}"),
                (*value).to_owned(),
            )
        };
        Scenario {
            settings: Settings::default(),
            annotations: annotations.iter().map(full).collect(),
            container_concurrency: 10,
            boot: Boot::Fixed { ms: 300 },
            seed: 1,
            tail_s: 150,
            trace,
        }
    }

    fn steady(seconds: u64, per_second: u32, duration_ms: u64) -> Vec<Load> {
        let at = |t_s| Load::Arrivals {
            t_ms: t_s * 1_000,
            start: per_second,
            duration_ms,
        };
        (0..seconds).map(at).collect()
    }

    #[test]
    fn a_burst_from_zero_is_served_and_goes_back_to_zero() {
        let timeline = run(&scenario(&[], steady(30, 20, 500)));
        assert_eq!(timeline.n_requests, 600);
        let most = timeline.rows.iter().map(|row| row.ready).max();
        assert!(most >= Some(2), "{most:?}");
        assert_eq!(timeline.rows.last().map(|row| row.instances), Some(0));
        // The first ones wait for the boot, and for no tick.
        assert!((300..400).contains(&timeline.wait_max_ms), "{timeline:?}");
    }

    #[test]
    fn the_same_question_has_the_same_answer() {
        let noisy = Scenario {
            boot: Boot::LogNormal {
                median_ms: 300,
                sigma: 0.4,
            },
            ..scenario(&[("window", "20s")], steady(20, 7, 900))
        };
        assert_eq!(run(&noisy), run(&noisy));
        let other = Scenario {
            seed: 2,
            ..noisy.clone()
        };
        assert_ne!(run(&noisy), run(&other));
    }

    #[test]
    fn measured_seconds_drive_it_too_and_bounds_hold() {
        let measured = |t_s: u64| Load::Measured {
            t_ms: t_s * 1_000,
            concurrency: 200.0,
            rps: 400.0,
        };
        let trace = (1..60).map(measured).collect();
        let timeline = run(&scenario(&[("max-scale", "12")], trace));
        let most = timeline.rows.iter().map(|row| row.instances).max();
        assert_eq!(most, Some(12));
        assert!(!timeline.panics.is_empty());
    }

    #[test]
    fn a_trace_is_read_by_lines_and_a_bad_one_is_named() {
        let text = "# comment\n{\"t_ms\": 5, \"start\": 1, \"duration_ms\": 2}\n\n{\"t_ms\": 1, \"concurrency\": 2.5}\n";
        let trace = parse_trace(text).unwrap();
        assert_eq!(trace.iter().map(Load::t_ms).collect::<Vec<_>>(), [1, 5]);
        let refused = parse_trace("{\"t_ms\": 5}").unwrap_err();
        assert!(refused.starts_with("line 1:"), "{refused}");
    }
}
