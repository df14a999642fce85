//! The steps of a gradual rollout (01-objects §8), pure: shares and times in, shares and times out.
//!
//! Source: knative/serving:pkg/reconciler/route/traffic/rollout.go; integers in place of its
//! floats.

use nihilo_types::rollout::{RevisionShare, Rollout};
use nihilo_types::route::TrafficTarget;

const SECOND_NS: u64 = 1_000_000_000;

/// A target that one revision must get in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goal<'a> {
    pub tag: &'a str,
    /// Toward a named revision.
    pub ramp: bool,
    pub percent: u32,
    /// The newest revision.
    pub revision: &'a str,
}

/// What a target's revisions should have now, from what they had. `None` = the whole share at
/// once: nothing rolls.
pub fn toward(goal: &Goal<'_>, had: &Rollout, now_ns: u64) -> Option<Rollout> {
    let mut next = had.clone();
    if !adds_up(&next) || goal.percent <= 1 || next.revisions.is_empty() {
        return None;
    }
    change_percent(&mut next, goal.percent);
    let newest = next.revisions.last().map(|share| share.revision.as_str());
    if newest != Some(goal.revision) {
        begin(&mut next, goal.revision, now_ns);
    }
    goal.tag.clone_into(&mut next.tag);
    next.ramp = goal.ramp;
    (next.revisions.len() > 1).then_some(next)
}

/// State that does not add up is not trusted.
fn adds_up(rollout: &Rollout) -> bool {
    let sum: u32 = rollout.revisions.iter().map(|share| share.percent).sum();
    sum == rollout.percent && rollout.percent <= 100 && rollout.step_size <= rollout.percent
}

/// Raised: the difference to the newest. Lowered: from the oldest on.
fn change_percent(rollout: &mut Rollout, percent: u32) {
    if percent > rollout.percent
        && let Some(newest) = rollout.revisions.last_mut()
    {
        newest.percent += percent - rollout.percent;
    }
    let mut surplus = rollout.percent.saturating_sub(percent);
    for share in &mut rollout.revisions {
        let taken = surplus.min(share.percent);
        share.percent -= taken;
        surplus -= taken;
    }
    rollout.revisions.retain(|share| share.percent > 0);
    rollout.percent = percent;
}

/// The newest older one that has something gives 1 to the new one; rollouts stack.
fn begin(rollout: &mut Rollout, revision: &str, now_ns: u64) {
    // One that comes back is new again.
    let back = rollout
        .revisions
        .iter()
        .position(|s| s.revision == revision);
    let mut share = back.map_or(0, |at| rollout.revisions.remove(at).percent);
    if share == 0
        && let Some(giver) = rollout.revisions.last_mut()
    {
        giver.percent -= 1;
        share = 1;
    }
    rollout.revisions.retain(|share| share.percent > 0);
    rollout.revisions.push(RevisionShare {
        revision: revision.to_owned(),
        percent: share,
    });
    rollout.start_ns = now_ns;
    (
        rollout.next_step_ns,
        rollout.step_duration_ns,
        rollout.step_size,
    ) = (0, 0, 0);
}

/// Every gateway serves the first share: how long that took says how fast the steps may be.
pub fn acknowledged(rollout: &mut Rollout, now_ns: u64, duration_s: u64) {
    if rollout.step_size > 0 || rollout.revisions.len() < 2 {
        return;
    }
    let newest = rollout.revisions.last().map_or(0, |share| share.percent);
    let rest = u64::from(rollout.percent.saturating_sub(newest));
    let took_s = now_ns
        .saturating_sub(rollout.start_ns)
        .div_ceil(SECOND_NS)
        .max(1);
    let left_s = duration_s.saturating_sub(took_s).max(1);
    let (size, duration_ns) = if took_s >= left_s {
        (rest, left_s * SECOND_NS)
    } else if rest * took_s <= left_s {
        (1, left_s * SECOND_NS / rest.max(1))
    } else {
        // Half up.
        (
            (2 * rest * took_s + left_s) / (2 * left_s),
            took_s * SECOND_NS,
        )
    };
    rollout.step_size = u32::try_from(size).unwrap_or(u32::MAX).clamp(1, 100);
    rollout.step_duration_ns = duration_ns;
    rollout.next_step_ns = now_ns + duration_ns;
}

/// Takes the step that is due, if one is; whether it did.
pub fn step(rollout: &mut Rollout, now_ns: u64) -> bool {
    if rollout.step_size == 0 || now_ns < rollout.next_step_ns {
        return false;
    }
    let Some(mut newest) = rollout.revisions.pop() else {
        return false;
    };
    let mut wanted = rollout.step_size;
    while wanted > 0
        && let Some(giver) = rollout.revisions.last_mut()
    {
        let taken = wanted.min(giver.percent);
        giver.percent -= taken;
        newest.percent = (newest.percent + taken).min(rollout.percent);
        wanted -= taken;
        if giver.percent == 0 {
            rollout.revisions.pop();
        }
    }
    rollout.revisions.push(newest);
    rollout.next_step_ns = now_ns + rollout.step_duration_ns;
    true
}

/// Whether one revision has it all.
pub fn is_over(rollout: &Rollout) -> bool {
    rollout.revisions.len() < 2
}

/// Whether an entry of an assignment belongs to the rollout.
pub fn is_of(rollout: &Rollout, target: &TrafficTarget) -> bool {
    let mut names = rollout.revisions.iter().map(|share| &share.revision);
    rollout.tag == target.tag
        && rollout.ramp != target.is_latest()
        && (!rollout.ramp || names.any(|name| *name == target.revision_name))
}

/// The assignment with the shares of its rollouts in place of each rolling target's entries.
pub fn expand(traffic: &[TrafficTarget], rollouts: &[Rollout]) -> Vec<TrafficTarget> {
    let mut expanded = Vec::new();
    let mut done = vec![false; rollouts.len()];
    for target in traffic {
        let Some(at) = rollouts.iter().position(|rollout| is_of(rollout, target)) else {
            expanded.push(target.clone());
            continue;
        };
        if std::mem::replace(&mut done[at], true) {
            continue;
        }
        let entry = |share: &RevisionShare| TrafficTarget {
            revision_name: share.revision.clone(),
            percent: Some(share.percent),
            ..target.clone()
        };
        expanded.extend(rollouts[at].revisions.iter().map(entry));
    }
    expanded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rollout(shares: &[(&str, u32)]) -> Rollout {
        let revisions: Vec<_> = shares
            .iter()
            .map(|(revision, percent)| RevisionShare {
                revision: (*revision).into(),
                percent: *percent,
            })
            .collect();
        Rollout {
            percent: revisions.iter().map(|share| share.percent).sum(),
            revisions,
            ..Rollout::default()
        }
    }

    fn shares(rollout: &Rollout) -> Vec<(&str, u32)> {
        let of = |share: &'_ RevisionShare| share.percent;
        (rollout.revisions.iter())
            .map(|share| (share.revision.as_str(), of(share)))
            .collect()
    }

    fn goal(percent: u32, revision: &str) -> Goal<'_> {
        Goal {
            tag: "",
            ramp: false,
            percent,
            revision,
        }
    }

    #[test]
    fn the_worked_example_steps_by_three_every_four_seconds() {
        let mut it = toward(&goal(60, "b"), &rollout(&[("a", 60)]), 0).unwrap();
        assert_eq!(shares(&it), [("a", 59), ("b", 1)]);
        let mut now_ns = 4 * SECOND_NS;
        acknowledged(&mut it, now_ns, 90);
        assert_eq!((it.step_size, it.step_duration_ns), (3, 4 * SECOND_NS));
        assert!(!step(&mut it, now_ns + 1), "not due");
        let mut seen = vec![1];
        while !is_over(&it) {
            now_ns += 4 * SECOND_NS;
            assert!(step(&mut it, now_ns));
            seen.push(it.revisions.last().unwrap().percent);
        }
        assert_eq!((seen[1], seen[2], seen[19], seen[20]), (4, 7, 58, 60));
        assert_eq!(seen.len(), 21);
    }

    #[test]
    fn a_slow_network_takes_one_step_and_a_fast_one_small_ones() {
        let fresh = || toward(&goal(100, "b"), &rollout(&[("a", 100)]), 0).unwrap();
        let mut slow = fresh();
        acknowledged(&mut slow, 50 * SECOND_NS, 60);
        assert_eq!(
            (slow.step_size, slow.step_duration_ns),
            (99, 10 * SECOND_NS)
        );
        let mut fast = fresh();
        acknowledged(&mut fast, SECOND_NS, 991);
        assert_eq!((fast.step_size, fast.step_duration_ns), (1, 10 * SECOND_NS));
    }

    #[test]
    fn rollouts_stack_and_the_newest_older_ones_give_first() {
        let mut it = toward(&goal(100, "c"), &rollout(&[("a", 70), ("b", 30)]), 0).unwrap();
        assert_eq!(shares(&it), [("a", 70), ("b", 29), ("c", 1)]);
        it.step_size = 40;
        assert!(step(&mut it, 1));
        assert_eq!(shares(&it), [("a", 59), ("c", 41)]);
        let again = toward(&goal(100, "a"), &it, 5).unwrap();
        assert_eq!(shares(&again), [("c", 41), ("a", 59)]);
    }

    #[test]
    fn a_changed_share_is_given_to_the_newest_and_taken_from_the_oldest() {
        let had = rollout(&[("a", 10), ("b", 40)]);
        assert_eq!(
            shares(&toward(&goal(80, "b"), &had, 0).unwrap()),
            [("a", 10), ("b", 70)]
        );
        assert_eq!(toward(&goal(30, "b"), &had, 0), None, "one is left");
        assert_eq!(
            shares(&toward(&goal(45, "b"), &had, 0).unwrap()),
            [("a", 5), ("b", 40)]
        );
        assert_eq!(toward(&goal(1, "c"), &had, 0), None);
        let broken = Rollout { percent: 70, ..had };
        assert_eq!(toward(&goal(50, "c"), &broken, 0), None);
    }
}
