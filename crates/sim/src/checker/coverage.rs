//! C19: the faults that a trial is about really happened, and hit what they were aimed at.
//!
//! A fault that could not be injected makes the trial say nothing: unknown, never green by absence.

use std::collections::BTreeMap;

use crate::checker::verdict::{Findings, Verdict};

pub const NAME: &str = "C19 coverage";

/// Faults a trial requires, and what became of each attempt.
#[derive(Debug, Clone, Default)]
pub struct Input {
    pub required: Vec<Required>,
    pub injected: Vec<Injected>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Required {
    /// Name of the fault, e.g. `N1 leader kill`.
    pub fault: String,
    pub at_least: u64,
    /// It counts only where it hit the leader of its moment.
    pub must_hit_leader: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injected {
    pub fault: String,
    pub at_ns: u64,
    pub result: InjectionResult,
    pub hit_leader: bool,
}

/// Whether a fault took hold, as the host shows it (the process is gone, the rule counts packets).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InjectionResult {
    Installed,
    /// The host cannot do it; says why.
    Skipped(String),
    /// It was tried and nobody knows whether it took hold: the harness failed.
    Indeterminate(String),
}

/// Compares what was required with what took hold.
pub fn check(input: &Input) -> Verdict {
    let mut findings = Findings::default();
    let mut n_installed: BTreeMap<&str, u64> = BTreeMap::new();
    for injected in &input.injected {
        match &injected.result {
            InjectionResult::Installed => *n_installed.entry(&injected.fault).or_default() += 1,
            InjectionResult::Skipped(reason) => {
                findings.note(format!("{} skipped: {reason}", injected.fault));
            }
            InjectionResult::Indeterminate(reason) => {
                return Verdict::harness_fault(format!(
                    "nobody knows whether {} took hold: {reason}",
                    injected.fault
                ));
            }
        }
    }
    for required in &input.required {
        judge(required, input, &mut findings);
    }
    for (fault, n) in n_installed {
        findings.note(format!("{fault} × {n}"));
    }
    findings.into_verdict(input.required.len() as u64)
}

fn judge(required: &Required, input: &Input, findings: &mut Findings) {
    let of_kind = |injected: &&Injected| injected.fault == required.fault;
    let attempts = input.injected.iter().filter(of_kind);
    let installed = attempts.filter(|injected| injected.result == InjectionResult::Installed);
    let installed: Vec<&Injected> = installed.collect();
    let n_hits = installed
        .iter()
        .filter(|injected| injected.hit_leader || !required.must_hit_leader)
        .count() as u64;
    if n_hits >= required.at_least {
        return;
    }
    let skipped =
        input
            .injected
            .iter()
            .filter(of_kind)
            .find_map(|injected| match &injected.result {
                InjectionResult::Skipped(reason) => Some(reason.as_str()),
                InjectionResult::Installed | InjectionResult::Indeterminate(_) => None,
            });
    let reason = match skipped {
        Some(reason) => format!("skipped: {reason}"),
        None if required.must_hit_leader && !installed.is_empty() => {
            format!(
                "{} took hold, {n_hits} of them on a leader",
                installed.len()
            )
        }
        None => format!("{n_hits} took hold"),
    };
    findings.unknown(format!(
        "{} was required {} times: {reason}",
        required.fault, required.at_least
    ));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::verdict::Class;

    fn injected(result: InjectionResult, hit_leader: bool) -> Injected {
        Injected {
            fault: "N1 leader kill".to_owned(),
            at_ns: 1,
            result,
            hit_leader,
        }
    }

    fn verdict(injected: Vec<Injected>) -> Verdict {
        check(&Input {
            required: vec![Required {
                fault: "N1 leader kill".to_owned(),
                at_least: 1,
                must_hit_leader: true,
            }],
            injected,
        })
    }

    #[test]
    fn a_fault_that_took_hold_passes_and_is_counted() {
        let verdict = verdict(vec![injected(InjectionResult::Installed, true)]);
        assert_eq!(verdict.class(), Class::Pass);
        assert!(
            verdict.to_string().contains("N1 leader kill × 1"),
            "{verdict}"
        );
    }

    #[test]
    fn planted_nemesis_that_never_runs_is_not_green() {
        assert_eq!(verdict(Vec::new()).class(), Class::Unknown);
        let skipped = InjectionResult::Skipped("no ptrace".to_owned());
        let verdict = verdict(vec![injected(skipped, true)]);
        assert_eq!(verdict.class(), Class::Unknown);
        assert!(verdict.to_string().contains("no ptrace"), "{verdict}");
    }

    #[test]
    fn planted_leader_kill_that_hits_followers() {
        let verdict = verdict(vec![injected(InjectionResult::Installed, false)]);
        assert_eq!(verdict.class(), Class::Unknown);
        assert!(
            verdict.to_string().contains("0 of them on a leader"),
            "{verdict}"
        );
    }

    #[test]
    fn a_fault_of_which_nobody_knows_is_the_harness() {
        let unclear = InjectionResult::Indeterminate("kill: no such process".to_owned());
        let given = vec![
            injected(InjectionResult::Installed, true),
            injected(unclear, true),
        ];
        assert_eq!(verdict(given).class(), Class::HarnessFault);
    }

    #[test]
    fn a_trial_that_requires_nothing_proves_nothing() {
        assert_eq!(check(&Input::default()).class(), Class::Unknown);
    }
}
