//! C8: at most one owner acts for an entity in an epoch, and no agent obeys a lower epoch than it
//! obeyed before, its restarts included.

use std::collections::BTreeMap;

use crate::checker::verdict::{Evidence, Findings, Verdict};
use crate::history::shown::seconds;

pub const NAME: &str = "C8 single owner";

/// What the agents were told, and what the log says about ownership.
#[derive(Debug, Clone, Default)]
pub struct Input {
    /// In the order in which each agent decided on them.
    pub commands: Vec<AgentCommand>,
    /// From the log; empty = ownership is judged by the commands alone.
    pub assignments: Vec<Assignment>,
}

/// One command that an agent accepted or refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentCommand {
    pub at_ns: u64,
    pub agent: String,
    /// What is owned: a shard, or an entity of its own.
    pub owned: String,
    pub epoch: u64,
    /// Session (or node) that sent it.
    pub owner: String,
    pub accepted: bool,
}

/// An entry that gave something to an owner; its index is the epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    pub owned: String,
    pub epoch: u64,
    pub owner: String,
}

/// Judges all accepted commands.
pub fn check(input: &Input) -> Verdict {
    let mut findings = Findings::default();
    let assigned = match assignments(&input.assignments, &mut findings) {
        Ok(assigned) => assigned,
        Err(reason) => return Verdict::harness_fault(reason),
    };
    let mut owners: BTreeMap<(&str, u64), &AgentCommand> = BTreeMap::new();
    let mut floors: BTreeMap<(&str, &str), &AgentCommand> = BTreeMap::new();
    let mut n_accepted = 0;
    for command in input.commands.iter().filter(|command| command.accepted) {
        n_accepted += 1;
        let known = owners
            .entry((&command.owned, command.epoch))
            .or_insert(command);
        if known.owner != command.owner {
            let what = format!("two owners act in epoch {}", command.epoch);
            findings.add(evidence(&what, known, command));
        }
        if let Some(owner) = assigned.get(&(command.owned.as_str(), command.epoch)) {
            if *owner != command.owner {
                let what = format!("the log gave epoch {} to `{owner}`", command.epoch);
                findings.add(evidence(&what, command, command));
            }
        } else if !assigned.is_empty() {
            let what = format!("the log never gave out epoch {}", command.epoch);
            findings.add(evidence(&what, command, command));
        }
        let floor = floors
            .entry((&command.agent, &command.owned))
            .or_insert(command);
        if command.epoch < floor.epoch {
            let what = format!(
                "an agent obeys epoch {} after {}",
                command.epoch, floor.epoch
            );
            findings.add(evidence(&what, floor, command));
        } else {
            *floor = command;
        }
    }
    let n_refused = input.commands.len() as u64 - n_accepted;
    findings.note(format!("{n_refused} commands refused by their agents"));
    findings.into_verdict(n_accepted)
}

fn assignments<'a>(
    assignments: &'a [Assignment],
    findings: &mut Findings,
) -> Result<BTreeMap<(&'a str, u64), &'a str>, String> {
    let mut assigned: BTreeMap<(&str, u64), &str> = BTreeMap::new();
    let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
    for assignment in assignments {
        let key = (assignment.owned.as_str(), assignment.epoch);
        if let Some(other) = assigned.insert(key, &assignment.owner)
            && other != assignment.owner
        {
            findings.add(Evidence::new(
                &assignment.owned,
                format!(
                    "epoch {} is given to `{other}` and to `{}`",
                    key.1, assignment.owner
                ),
            ));
        }
        let before = newest.insert(&assignment.owned, assignment.epoch);
        if before.is_some_and(|before| assignment.epoch < before) {
            return Err(format!(
                "assignments of `{}` are not in the order of the log",
                assignment.owned
            ));
        }
    }
    Ok(assigned)
}

fn evidence(what: &str, before: &AgentCommand, command: &AgentCommand) -> Evidence {
    let shown = |command: &AgentCommand| {
        format!(
            "{} agent `{}` accepted epoch {} from `{}`",
            seconds(command.at_ns),
            command.agent,
            command.epoch,
            command.owner
        )
    };
    let mut evidence = Evidence::new(&command.owned, what).at(command.at_ns);
    if before != command {
        evidence = evidence.witness(shown(before));
    }
    evidence.witness(shown(command))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::verdict::Class;

    fn command(agent: &str, epoch: u64, owner: &str) -> AgentCommand {
        AgentCommand {
            at_ns: 5,
            agent: agent.to_owned(),
            owned: "shard 7".to_owned(),
            epoch,
            owner: owner.to_owned(),
            accepted: true,
        }
    }

    fn assignment(epoch: u64, owner: &str) -> Assignment {
        Assignment {
            owned: "shard 7".to_owned(),
            epoch,
            owner: owner.to_owned(),
        }
    }

    fn verdict(commands: Vec<AgentCommand>, assignments: Vec<Assignment>) -> Verdict {
        check(&Input {
            commands,
            assignments,
        })
    }

    #[track_caller]
    fn assert_found(verdict: &Verdict, want: &str) {
        assert_eq!(verdict.class(), Class::Violation, "{verdict}");
        assert!(verdict.to_string().contains(want), "{verdict}");
    }

    #[test]
    fn one_owner_per_epoch_and_epochs_that_rise_pass() {
        let mut refused = command("a1", 10, "s1");
        refused.accepted = false;
        let given = vec![
            command("a1", 10, "s1"),
            command("a2", 10, "s1"),
            command("a1", 20, "s2"),
            refused,
            // Another agent has not heard of epoch 20 yet; its floor is its own.
            command("a2", 10, "s1"),
        ];
        let verdict = verdict(given, vec![assignment(10, "s1"), assignment(20, "s2")]);
        assert_eq!(verdict.class(), Class::Pass, "{verdict}");
        assert!(
            verdict.to_string().contains("1 commands refused"),
            "{verdict}"
        );
    }

    #[test]
    fn planted_epoch_check_missing_at_the_agent() {
        let given = vec![command("a1", 20, "s2"), command("a1", 10, "s1")];
        assert_found(
            &verdict(given, Vec::new()),
            "an agent obeys epoch 10 after 20",
        );
    }

    #[test]
    fn planted_open_session_leaves_the_old_one_open() {
        let given = vec![command("a1", 10, "s1"), command("a2", 10, "s2")];
        assert_found(&verdict(given, Vec::new()), "two owners act in epoch 10");
    }

    #[test]
    fn planted_owner_acts_in_an_epoch_that_is_not_its_own() {
        let given = || vec![command("a1", 10, "s2")];
        let other = vec![assignment(10, "s1")];
        assert_found(&verdict(given(), other), "the log gave epoch 10 to `s1`");
        let none = vec![assignment(9, "s2")];
        assert_found(&verdict(given(), none), "the log never gave out epoch 10");
    }

    #[test]
    fn planted_one_epoch_is_given_to_two() {
        let twice = vec![assignment(10, "s1"), assignment(10, "s2")];
        assert_found(
            &verdict(vec![command("a1", 10, "s2")], twice),
            "is given to `s1` and to",
        );
    }

    #[test]
    fn disorder_in_the_log_is_the_harness_and_no_command_is_unknown() {
        let disorder = vec![assignment(20, "s1"), assignment(10, "s1")];
        let verdict = verdict(vec![command("a1", 10, "s1")], disorder);
        assert_eq!(verdict.class(), Class::HarnessFault);
        assert_eq!(check(&Input::default()).class(), Class::Unknown);
    }
}
