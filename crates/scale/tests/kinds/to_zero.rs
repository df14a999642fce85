//! `to_zero`, `active`: from a decided number to instances, and what the condition says.

use std::collections::BTreeMap;

use nihilo_scale::config::{RevisionScale, ScaleConfig};
use nihilo_scale::to_zero::{self, Question};
use nihilo_types::condition::ConditionStatus;
use serde::Deserialize;

use super::Checker;

/// Late enough that every `for_ms` lies in the past.
const NOW_MS: u64 = 100_000_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    #[serde(rename = "name")]
    _name: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    config: BTreeMap<String, String>,
    /// What the decider decided.
    want: i32,
    active: Active,
    path: Option<Path>,
    #[serde(default)]
    initialized: bool,
    reachability: Reachability,
    scale: Option<i32>,
    applied: Option<bool>,
    recheck: Option<bool>,
    /// When to look again, from now.
    recheck_after_ms: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Active {
    status: ConditionStatus,
    for_ms: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Path {
    mode: Mode,
    for_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
enum Mode {
    Proxy,
    Serve,
}

#[derive(Debug, Clone, Copy, Deserialize)]
enum Reachability {
    Reachable,
    Unreachable,
    Unknown,
}

pub(crate) fn check(case: &Case, checker: &mut Checker) {
    let config = ScaleConfig::from_map(&case.config).unwrap();
    let scale = RevisionScale::resolve(&case.annotations, 0, &config);
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
            reachability: match case.reachability {
                Reachability::Reachable => to_zero::Reachability::Reachable,
                Reachability::Unreachable => to_zero::Reachability::Unreachable,
                Reachability::Unknown => to_zero::Reachability::Unknown,
            },
            proxy_since_ms: proxy.map(|path| NOW_MS - path.for_ms),
        },
    );
    checker.same("scale", case.scale, wanted.n);
    checker.same("applied", case.applied, wanted.apply);
    checker.same("recheck", case.recheck, wanted.look_again_ms.is_some());
    if let Some(after_ms) = case.recheck_after_ms {
        let want = Some(NOW_MS + after_ms);
        checker.same("look again", Some(want), wanted.look_again_ms);
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ActiveCase {
    #[serde(rename = "name")]
    _name: String,
    want: i32,
    ready: u32,
    min: i32,
    initial: i32,
    initialized: bool,
    before: ConditionStatus,
    status: ConditionStatus,
    reason: String,
}

pub(crate) fn check_active(case: &ActiveCase, checker: &mut Checker) {
    let scale = RevisionScale {
        min_scale: case.min,
        initial_scale: case.initial,
        ..RevisionScale::resolve(&BTreeMap::new(), 0, &ScaleConfig::default())
    };
    let (status, reason) =
        to_zero::active(&scale, case.before, case.initialized, case.want, case.ready);
    checker.same("status", Some(case.status), status);
    checker.same("reason", Some(case.reason.as_str()), reason);
}
