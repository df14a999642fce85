//! `to_zero`, `active`: from a decided number to instances, and what the condition says.

use nihilo_scale::config::{RevisionScale, ScaleConfig};
use nihilo_scale::to_zero::{self, Question};
use nihilo_types::condition::ConditionStatus;
use serde::Deserialize;

use super::Checker;
use super::settings::Texts;

/// Late enough that every `for_ms` lies in the past.
const NOW_MS: u64 = 10_000_000_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    #[serde(default)]
    annotations: Texts,
    #[serde(default)]
    config: Texts,
    #[serde(default, rename = "containerConcurrency")]
    container_concurrency: u32,
    /// What is there; the same number again is not applied. Absent = something else.
    current: Option<i32>,
    /// What the decider decided.
    want: i32,
    active: Active,
    path: Option<Path>,
    #[serde(default)]
    initialized: bool,
    #[serde(default = "yes")]
    path_safe: bool,
    #[serde(default)]
    reachability: Reachability,
    progress_deadline_ms: Option<u64>,
    scale: Option<f64>,
    applied: Option<bool>,
    recheck: Option<bool>,
    waits_for_path: Option<bool>,
    /// When to look again, from now.
    recheck_after_ms: Option<f64>,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Active {
    status: ConditionStatus,
    #[serde(default)]
    for_ms: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Path {
    mode: Mode,
    #[serde(default)]
    for_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
enum Mode {
    Proxy,
    Serve,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(crate) enum Reachability {
    #[default]
    Reachable,
    Unreachable,
    Unknown,
}

impl From<Reachability> for to_zero::Reachability {
    fn from(written: Reachability) -> Self {
        match written {
            Reachability::Reachable => to_zero::Reachability::Reachable,
            Reachability::Unreachable => to_zero::Reachability::Unreachable,
            Reachability::Unknown => to_zero::Reachability::Unknown,
        }
    }
}

pub(crate) fn check(case: &Case, checker: &mut Checker) {
    let config = ScaleConfig::from_map(&case.config).unwrap();
    let mut scale = RevisionScale::resolve(&case.annotations, case.container_concurrency, &config);
    if let Some(deadline_ms) = case.progress_deadline_ms {
        scale.progress_deadline_ms = deadline_ms;
    }
    let proxy = case.path.as_ref().filter(|path| path.mode == Mode::Proxy);
    let wanted = to_zero::wanted(
        &scale,
        Question {
            now_ms: NOW_MS,
            decided: case.want,
            active: to_zero::Active {
                status: case.active.status,
                reason: "",
                since_ms: NOW_MS - case.active.for_ms,
            },
            initialized: case.initialized,
            reachability: case.reachability.into(),
            proxy_since_ms: proxy.map(|path| NOW_MS - path.for_ms),
            path_safe: case.path_safe,
        },
    );
    let applied = wanted.apply && case.current != Some(wanted.n);
    checker.number("scale", case.scale, wanted.n);
    checker.same("applied", case.applied, applied);
    checker.same("recheck", case.recheck, wanted.look_again_ms.is_some());
    checker.same("waits for path", case.waits_for_path, wanted.waits_for_path);
    let after_ms = wanted.look_again_ms.map_or(0, |at| at - NOW_MS);
    checker.count("look again after", case.recheck_after_ms, after_ms);
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ActiveCase {
    want: i32,
    ready: u32,
    #[serde(default)]
    min: i32,
    #[serde(default = "one")]
    initial: i32,
    #[serde(default)]
    initialized: bool,
    before: ConditionStatus,
    status: Option<ConditionStatus>,
    reason: Option<String>,
}

fn one() -> i32 {
    1
}

pub(crate) fn check_active(case: &ActiveCase, checker: &mut Checker) {
    let scale = RevisionScale {
        min_scale: case.min,
        initial_scale: case.initial,
        ..RevisionScale::resolve(&Texts::new(), 0, &ScaleConfig::default())
    };
    let (status, reason) =
        to_zero::active(&scale, case.before, case.initialized, case.want, case.ready);
    checker.same("status", case.status, status);
    checker.same("reason", case.reason.as_deref(), reason);
}
