//! Bugs planted in the running product, and the trial that must find each (08 §9): those whose way
//! leads through parts that the simulated world does not have.

use std::time::Duration;

use nihilo_failpoint::Bug;

use crate::nemesis::faults::Nemesis;
use crate::workload::Workload;

/// A bug that is not found in so many trials is missed.
pub const MAX_TRIALS: u64 = 20;

/// A bug with the trial that finds it.
#[derive(Debug, Clone, Copy)]
pub struct Canary {
    pub bug: Bug,
    pub workload: Workload,
    pub nemesis: Nemesis,
    pub length: Duration,
}

/// All canaries. A bug of the chaos build that has none here cannot be found by name.
pub fn all() -> Vec<Canary> {
    let canary = |bug, workload, nemesis, seconds| Canary {
        bug,
        workload,
        nemesis,
        length: Duration::from_secs(seconds),
    };
    let (zero, steps) = (Workload::FromZero, Workload::Steps);
    vec![
        canary(Bug::AckBeforeSync, Workload::Register, Nemesis::KillAll, 20),
        canary(
            Bug::ReadWithoutQuorum,
            Workload::Register,
            Nemesis::None,
            15,
        ),
        canary(Bug::PostRetried, zero, Nemesis::KillHost, 40),
        canary(Bug::StreamsHang, zero, Nemesis::PauseFollower, 40),
        canary(Bug::RowAfterStart, steps, Nemesis::None, 20),
        canary(Bug::LeavesFirst, steps, Nemesis::RollingRestart, 40),
        canary(Bug::DrainCutsRequests, steps, Nemesis::None, 60),
    ]
}

/// Those named in `text`, with commas, or all for `*`; `None` when one of them is unknown.
pub fn chosen(text: &str) -> Option<Vec<Canary>> {
    if text == "*" {
        return Some(all());
    }
    let find = |name: &str| all().into_iter().find(|c| c.bug.as_str() == name);
    text.split(',').map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bug_of_the_chaos_build_has_its_trial() {
        let mut with_trial: Vec<_> = all().iter().map(|canary| canary.bug).collect();
        with_trial.sort();
        assert_eq!(with_trial, Bug::ALL);
    }

    /// `docs/reliability.md` names them all.
    #[test]
    fn every_bug_of_the_chaos_build_is_in_the_table() {
        const DOCUMENT: &str = include_str!("../../../docs/reliability.md");
        for bug in Bug::ALL {
            let row = DOCUMENT.lines().find(|line| {
                line.starts_with(&format!("| `{bug}`")) && line.contains("| processes |")
            });
            assert!(row.is_some(), "`{bug}` is in no row");
        }
    }
}
