//! Instances that have ended: which of them are remembered, with their output, and for how long.
//!
//! A crash is looked into later than anything else, so that a revision's last three are kept for a
//! day, the rest for a quarter of an hour. What takes too much of the disk goes, the oldest first.

use std::collections::BTreeMap;
use std::time::Duration;

use nihilo_types::id::{InstanceId, ObjectKey};
use nihilo_types::instance::{Exit, InstanceReport, InstanceState};
use serde::{Deserialize, Serialize};

/// Crashed instances of one revision that are kept for [`KEEP_CRASHED`].
const N_CRASHED_OF_REVISION: usize = 3;
const KEEP_CRASHED: Duration = Duration::from_secs(24 * 3_600);
const KEEP: Duration = Duration::from_secs(900);
/// Of those that are kept for longer than [`KEEP`], and of the others, on this node.
const MAX_CRASHED: usize = 100;
const MAX_OTHERS: usize = 200;
/// Bytes of their output on the disk of this node.
const MAX_BYTES: u64 = 1024 * 1024 * 1024;

/// What is left of an instance on the disk, beside its output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct End {
    /// As of its end.
    pub(crate) report: InstanceReport,
    /// Wall clock in milliseconds; 0 = written while it ran, by a node whose instances die with it.
    pub(crate) at_ms: u64,
    pub(crate) crashed: bool,
}

impl End {
    /// Of one that dies with this process, whenever that is.
    pub(crate) fn with_the_node(mut report: InstanceReport) -> Self {
        report.state = InstanceState::Destroyed;
        report.exit = Some(Exit::Unknown);
        Self {
            report,
            at_ms: 0,
            crashed: true,
        }
    }

    pub(crate) fn is_of_the_nodes_end(&self) -> bool {
        self.at_ms == 0
    }
}

/// Whether nobody asked for this end. `before` is the state that it ended in.
pub(crate) fn is_crash(before: InstanceState, exit: &Exit) -> bool {
    match exit {
        // Stopped too, but for what it did by itself.
        Exit::StartFailed { .. } | Exit::NeverReady { .. } | Exit::Unhealthy { .. } => true,
        Exit::OutOfMemory | Exit::Unknown => true,
        Exit::Code(_) | Exit::Signal(_) => {
            !matches!(before, InstanceState::Draining | InstanceState::Stopping)
        }
    }
}

/// One that is remembered.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    pub(crate) id: InstanceId,
    pub(crate) revision: ObjectKey,
    pub(crate) ago: Duration,
    pub(crate) crashed: bool,
    /// Of its output.
    pub(crate) n_bytes: u64,
}

/// Those that are to be forgotten now.
pub(crate) fn to_forget(mut ended: Vec<Ended>) -> Vec<InstanceId> {
    ended.sort_by(|a, b| (a.ago, &a.id).cmp(&(b.ago, &b.id)));
    let mut of_revision: BTreeMap<ObjectKey, usize> = BTreeMap::new();
    let (mut n_crashed, mut n_others, mut n_bytes) = (0, 0, 0);
    let mut is_old = |one: &Ended| {
        let rank = of_revision.entry(one.revision.clone()).or_default();
        *rank += usize::from(one.crashed);
        let is_kept_long = one.crashed && *rank <= N_CRASHED_OF_REVISION;
        let (count, most, keep) = match is_kept_long {
            true => (&mut n_crashed, MAX_CRASHED, KEEP_CRASHED),
            false => (&mut n_others, MAX_OTHERS, KEEP),
        };
        *count += 1;
        n_bytes += one.n_bytes;
        *count > most || one.ago > keep || n_bytes > MAX_BYTES
    };
    ended.retain(|one| is_old(one));
    ended.into_iter().map(|one| one.id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(id: &str, minutes: u64, crashed: bool, n_bytes: u64) -> Ended {
        Ended {
            id: InstanceId::from(id),
            revision: ObjectKey::new("default", id.split('-').next().unwrap_or(id)),
            ago: Duration::from_secs(minutes * 60),
            crashed,
            n_bytes,
        }
    }

    fn forgotten(ended: Vec<Ended>) -> Vec<String> {
        let mut ids: Vec<_> = to_forget(ended).iter().map(ToString::to_string).collect();
        ids.sort();
        ids
    }

    #[test]
    fn the_last_three_crashes_of_a_revision_stay_for_a_day_the_rest_for_a_quarter_of_an_hour() {
        let got = forgotten(vec![
            ended("a-1", 16, false, 1),
            ended("a-2", 14, false, 1),
            ended("a-3", 50, true, 1),
            ended("a-4", 40, true, 1),
            ended("a-5", 30, true, 1),
            // The fourth, and old: one that is young stays, as any other.
            ended("a-6", 60, true, 1),
            ended("b-1", 25 * 60, true, 1),
            ended("b-2", 23 * 60, true, 1),
        ]);
        assert_eq!(got, ["a-1", "a-6", "b-1"]);
        let young = (0..5).map(|n| ended(&format!("a-{n}"), n, true, 1));
        assert_eq!(forgotten(young.collect()), [""; 0]);
    }

    #[test]
    fn the_disk_is_bounded_oldest_first_whatever_it_was() {
        let third = MAX_BYTES / 3;
        let got = forgotten(vec![
            ended("a-1", 1, false, third),
            ended("b-1", 600, true, third),
            ended("a-2", 2, false, third),
            ended("c-1", 500, true, third),
        ]);
        assert_eq!(got, ["b-1"]);
    }

    #[test]
    fn the_number_is_bounded_and_others_do_not_push_crashes_out() {
        let mut all: Vec<_> = (0..MAX_OTHERS + 2)
            .map(|n| ended(&format!("a-{n:03}"), 1, false, 0))
            .collect();
        all.push(ended("b-1", 100, true, 0));
        assert_eq!(forgotten(all), ["a-200", "a-201"]);
        let crashed = (0..MAX_CRASHED + 1).map(|n| ended(&format!("{n:03}"), 1, true, 0));
        assert_eq!(forgotten(crashed.collect()), ["100"]);
    }

    #[test]
    fn who_was_told_to_go_did_not_crash_unless_it_never_did_well() {
        use InstanceState::{Booting, Ready, Stopping};
        let unhealthy = Exit::NeverReady { after_ms: 1 };
        for (before, exit, want) in [
            (Ready, Exit::Code(0), true),
            (Booting, Exit::Signal(11), true),
            (Stopping, Exit::Code(143), false),
            (Stopping, Exit::Signal(9), false),
            (Stopping, unhealthy, true),
            (Stopping, Exit::OutOfMemory, true),
        ] {
            assert_eq!(is_crash(before, &exit), want, "{before:?} {exit:?}");
        }
    }
}
