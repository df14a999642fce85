//! From a decision to instances: bounds, the way to zero, the Active condition
//! (04-autoscaler §6.1–6.3).
//!
//! Source: knative/serving:pkg/reconciler/autoscaling/kpa/{scaler.go,kpa.go}.

use nihilo_types::condition::ConditionStatus;

use crate::config::RevisionScale;

/// Extra time an activation gets beyond the progress deadline, so that the revision can say why.
pub const ACTIVATION_SLACK_MS: u64 = 30_000;

/// Whether routes refer to the revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reachability {
    Reachable,
    Unreachable,
    Unknown,
}

/// The Active condition and since when it has its status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Active {
    pub status: ConditionStatus,
    pub reason: &'static str,
    pub since_ms: u64,
}

/// What is asked of [`wanted`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    pub now_ms: u64,
    /// −1 = nothing decided yet.
    pub decided: i32,
    pub active: Active,
    pub initialized: bool,
    pub reachability: Reachability,
    /// Since when requests pass the activator; `None` = they do not.
    pub proxy_since_ms: Option<u64>,
    /// Every gateway sends requests past the activator. Always true here: the home node's limiter
    /// closes admission atomically, so nobody needs to be asked.
    pub path_safe: bool,
}

/// Instances to have, and when to look again if nothing else happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// −1 = leave what is there alone.
    pub n: i32,
    pub apply: bool,
    pub look_again_ms: Option<u64>,
    /// Only the path is missing; who watches it looks again.
    pub waits_for_path: bool,
    pub rule: Rule,
}

/// Which row of the way to zero has decided (04-autoscaler §6.1, §6.2), for those who ask why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Nothing was decided yet.
    Nothing,
    /// The number between the bounds, above zero.
    Bounds,
    ScaleToZeroOff,
    Activating,
    ActivationTimedOut,
    /// Active for less than a window: the last one stays.
    LastOneStays,
    /// Active for a window: the condition goes first.
    GoesInactive,
    PathUnsafe,
    Retention,
    Grace,
    /// Zero.
    Idle,
}

impl Rule {
    pub fn as_str(self) -> &'static str {
        match self {
            Rule::Nothing => "nothing decided",
            Rule::Bounds => "bounds",
            Rule::ScaleToZeroOff => "scale to zero is off",
            Rule::Activating => "activating",
            Rule::ActivationTimedOut => "activation timed out",
            Rule::LastOneStays => "active for less than a window",
            Rule::GoesInactive => "goes inactive",
            Rule::PathUnsafe => "path is not safe",
            Rule::Retention => "retention",
            Rule::Grace => "grace",
            Rule::Idle => "idle",
        }
    }
}

impl Wanted {
    fn apply(n: i32, rule: Rule) -> Self {
        Self {
            n,
            apply: true,
            look_again_ms: None,
            waits_for_path: false,
            rule,
        }
    }

    /// Answered, not applied.
    fn hold(n: i32, rule: Rule) -> Self {
        Self {
            apply: false,
            ..Self::apply(n, rule)
        }
    }

    fn again_at(self, at_ms: u64) -> Self {
        Self {
            look_again_ms: Some(at_ms),
            ..self
        }
    }
}

/// The least instances that count, before the way to zero is looked at.
pub fn minimum(scale: &RevisionScale, reachability: Reachability, initialized: bool) -> i32 {
    if reachability == Reachability::Unreachable {
        return 0;
    }
    match initialized || scale.initial_scale <= 1 {
        true => scale.min_scale,
        false => scale.min_scale.max(scale.initial_scale),
    }
}

/// The bounds of a revision, 0 = no maximum (§6.1 rule 2).
pub fn bounds(scale: &RevisionScale, reachability: Reachability, initialized: bool) -> (i32, i32) {
    let min = minimum(scale, reachability, initialized);
    (min, scale.max_scale)
}

/// Clamps a decision to the bounds and takes the step to zero, which is the only careful one.
pub fn wanted(scale: &RevisionScale, question: Question) -> Wanted {
    let Question {
        now_ms,
        decided,
        active,
        ..
    } = question;
    if decided < 0 && active.status != ConditionStatus::Unknown {
        return Wanted::hold(-1, Rule::Nothing);
    }
    let (min, max) = bounds(scale, question.reachability, question.initialized);
    let mut n = decided.max(min);
    if max > 0 {
        n = n.min(max);
    }
    if n > 0 {
        return Wanted::apply(n, Rule::Bounds);
    }
    if !scale.enable_scale_to_zero {
        return Wanted::apply(1, Rule::ScaleToZeroOff);
    }
    let age_ms = now_ms.saturating_sub(active.since_ms);
    match active.status {
        ConditionStatus::Unknown => {
            let limit = scale.progress_deadline_ms + ACTIVATION_SLACK_MS;
            match age_ms > limit {
                true => Wanted::apply(0, Rule::ActivationTimedOut),
                false => {
                    let left_ms = (limit - age_ms).max(1);
                    Wanted::hold(-1, Rule::Activating).again_at(now_ms + left_ms)
                }
            }
        }
        ConditionStatus::True => match age_ms >= scale.stable_window_ms {
            // The condition goes False first, the instances stay; whoever moves it looks again.
            true => Wanted::hold(0, Rule::GoesInactive),
            false => {
                let left_ms = scale.stable_window_ms - age_ms;
                Wanted::apply(1, Rule::LastOneStays).again_at(now_ms + left_ms)
            }
        },
        ConditionStatus::False => inactive(scale, question, age_ms),
    }
}

/// No traffic for a while: the path, retention and grace decide when the last instance goes.
fn inactive(scale: &RevisionScale, question: Question, age_ms: u64) -> Wanted {
    let now_ms = question.now_ms;
    if !question.path_safe {
        return Wanted {
            waits_for_path: true,
            ..Wanted::hold(0, Rule::PathUnsafe)
        };
    }
    let retention = match question.reachability {
        Reachability::Unreachable => 0,
        Reachability::Reachable | Reachability::Unknown => scale.retention_ms,
    };
    if age_ms >= scale.grace_ms.max(retention) {
        return Wanted::apply(0, Rule::Idle);
    }
    if retention > 0 && age_ms < retention {
        return Wanted::hold(0, Rule::Retention).again_at(now_ms + retention - age_ms);
    }
    let in_proxy_ms = question
        .proxy_since_ms
        .map_or(0, |since| now_ms.saturating_sub(since));
    if in_proxy_ms >= scale.grace_ms {
        return Wanted::apply(0, Rule::Idle);
    }
    Wanted::hold(0, Rule::Grace).again_at(now_ms + scale.grace_ms - in_proxy_ms)
}

/// The Active condition's next status and reason (§6.3, in exactly this order).
pub fn active(
    scale: &RevisionScale,
    was: ConditionStatus,
    initialized: bool,
    want: i32,
    n_ready: u32,
) -> (ConditionStatus, &'static str) {
    let threshold = match initialized {
        true => scale.min_scale.max(1),
        false => scale.min_scale.max(scale.initial_scale),
    };
    let ready = i32::try_from(n_ready).unwrap_or(i32::MAX);
    if want == 0 || threshold == 0 {
        return match was == ConditionStatus::Unknown && threshold > 0 {
            true => (ConditionStatus::False, "TimedOut"),
            false => (ConditionStatus::False, "NoTraffic"),
        };
    }
    let stays = want > 0 || was != ConditionStatus::False;
    match (ready < threshold, stays) {
        (true, true) => (ConditionStatus::Unknown, "Queued"),
        (true, false) => (ConditionStatus::False, "NoTraffic"),
        (false, true) => (ConditionStatus::True, ""),
        (false, false) => (was, "NoTraffic"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::ScaleConfig;
    use ConditionStatus::{False, True, Unknown};

    fn scale() -> RevisionScale {
        RevisionScale::resolve(&BTreeMap::new(), 0, &ScaleConfig::default())
    }

    fn ask(decided: i32, status: ConditionStatus, age_ms: u64) -> Question {
        Question {
            now_ms: 1_000_000,
            decided,
            active: Active {
                status,
                reason: "",
                since_ms: 1_000_000 - age_ms,
            },
            initialized: true,
            reachability: Reachability::Reachable,
            proxy_since_ms: None,
            path_safe: true,
        }
    }

    #[test]
    fn zero_is_reached_in_steps() {
        let cases = [
            (
                "active for less than a window",
                ask(0, True, 10_000),
                (1, true, Some(50_000)),
            ),
            (
                "active for a window",
                ask(0, True, 60_000),
                (0, false, None),
            ),
            (
                "inactive, in the grace",
                ask(0, False, 5_000),
                (0, false, Some(30_000)),
            ),
            (
                "inactive past the grace",
                ask(0, False, 30_000),
                (0, true, None),
            ),
            (
                "activating",
                ask(0, Unknown, 1_000),
                (-1, false, Some(629_000)),
            ),
            (
                "activation timed out",
                ask(0, Unknown, 630_001),
                (0, true, None),
            ),
            ("nothing decided", ask(-1, True, 1_000), (-1, false, None)),
            ("traffic", ask(3, False, 1), (3, true, None)),
        ];
        for (name, question, (n, apply, wait)) in cases {
            let look_again_ms = wait.map(|wait| question.now_ms + wait);
            let got = wanted(&scale(), question);
            let got = (got.n, got.apply, got.look_again_ms);
            assert_eq!(got, (n, apply, look_again_ms), "{name}");
        }
    }

    #[test]
    fn the_path_in_proxy_for_the_grace_is_the_fast_way() {
        let question = Question {
            proxy_since_ms: Some(960_000),
            ..ask(0, False, 1)
        };
        assert!(wanted(&scale(), question).apply);
    }

    #[test]
    fn bounds_hold_and_reachability_decides_the_minimum() {
        let bounded = RevisionScale {
            min_scale: 2,
            max_scale: 5,
            ..scale()
        };
        assert_eq!(wanted(&bounded, ask(0, True, 1)).n, 2);
        assert_eq!(wanted(&bounded, ask(9, True, 1)).n, 5);
        let unreachable = Question {
            reachability: Reachability::Unreachable,
            ..ask(0, False, 60_000)
        };
        assert_eq!(wanted(&bounded, unreachable).n, 0);
    }

    #[test]
    fn active_follows_want_and_ready() {
        let cases = [
            (Unknown, false, 1, 0, (Unknown, "Queued")),
            (Unknown, false, 1, 1, (True, "")),
            (Unknown, false, 0, 0, (False, "TimedOut")),
            (True, true, 0, 1, (False, "NoTraffic")),
            (False, true, 1, 0, (Unknown, "Queued")),
            (False, true, -1, 0, (False, "NoTraffic")),
        ];
        for (was, initialized, want, ready, expected) in cases {
            assert_eq!(active(&scale(), was, initialized, want, ready), expected);
        }
    }
}
