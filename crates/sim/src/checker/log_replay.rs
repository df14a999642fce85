//! C2: the committed logs agree, and replaying them explains every answer, in linear time.
//!
//! White-box: where C1 searches for an order, the log *is* the order. So this names the culprit,
//! and it settles what clients could not know ([`settle`]).
//!
//! ```text
//! index   1    2    3    4    5    6    7
//!         a:=x      a:=y      b:=z
//!              └ acked before the call: floor ┐
//! read of `a`                            [ 2 ……… 5 ]   must equal a's value at one of these
//!                                                └ first write begun after its end: ceiling
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::checker::log_replay::merged::{Merged, merge};
use crate::checker::log_replay::real_time::RealTime;
use crate::checker::verdict::{Evidence, Findings, Verdict};
use crate::history::register::{Action, Answer, RegisterOperation, Seen};

mod merged;
mod real_time;

pub const NAME: &str = "C2 log replay";

/// Logs and operations of one trial.
#[derive(Debug, Clone, Default)]
pub struct Input<'a> {
    pub logs: Vec<NodeLog>,
    /// Every key's value and version before the first entry that any node still has; empty when
    /// the logs begin at index 1.
    pub base: BTreeMap<String, Seen>,
    pub operations: &'a [RegisterOperation],
}

/// The committed part of one node's log, in ascending order without holes; its head may be purged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeLog {
    pub node: String,
    pub entries: Vec<LogEntry>,
}

/// One line of `log-{node}.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    pub index: u64,
    pub term: u64,
    /// Hash of the whole entry: equal exactly when the entries are.
    pub digest: String,
    /// Idempotency key of the client's request; absent when it gave none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Every key that got a new version by it, also where the value stays (a status update);
    /// empty when it was refused, or known to be a repetition.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub effects: Vec<Effect>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effect {
    pub key: String,
    /// `None` = removed.
    #[serde(default)]
    pub value: Option<String>,
}

/// Replays the merged log against every operation.
pub fn check(input: &Input<'_>) -> Verdict {
    let mut findings = Findings::default();
    let merged = match merge(&input.logs, &input.base, &mut findings) {
        Ok(merged) => merged,
        Err(verdict) => return verdict,
    };
    let mut n_checked = merged.n_compared;
    let real_time = RealTime::new(input.operations, &merged);
    for operation in input.operations {
        let broken = match &operation.answer {
            Answer::Read(seen) => read(operation, seen.as_ref(), &merged, &real_time),
            Answer::Written { version } => acked(operation, *version, &merged, &real_time),
            Answer::Conflict | Answer::Failed if operation.action.is_write() => {
                refused(operation, &merged)
            }
            Answer::Unknown if operation.action.is_write() => {
                at_most_once(operation, &merged, &real_time)
            }
            Answer::Conflict | Answer::Failed | Answer::Unknown => continue,
        };
        n_checked += 1;
        if let Some(what) = broken {
            let mut evidence = Evidence::new(&operation.key, what).witness(operation);
            evidence.at_ns = operation.ended_ns.or(Some(operation.invoked_ns));
            findings.add(evidence);
        }
    }
    findings.into_verdict(n_checked)
}

/// Replaces unknown answers by what the log shows: written at this index, or never.
///
/// The logs must have been taken after the cluster could no longer commit what was sent before.
///
/// # Errors
/// The verdict on logs that cannot be replayed.
pub fn settle(input: &Input<'_>) -> Result<Vec<RegisterOperation>, Verdict> {
    let merged = merge(&input.logs, &input.base, &mut Findings::default())?;
    let mut operations = input.operations.to_vec();
    for operation in &mut operations {
        let is_open = operation.answer == Answer::Unknown && operation.action.is_write();
        if !is_open || operation.request.is_none() {
            continue;
        }
        operation.answer = match merged.effective(operation) {
            [] => Answer::Failed,
            [index, ..] => Answer::Written {
                version: Some(*index),
            },
        };
    }
    Ok(operations)
}

fn acked(
    operation: &RegisterOperation,
    version: Option<u64>,
    merged: &Merged<'_>,
    real_time: &RealTime,
) -> Option<String> {
    let by_version = version.filter(|&version| merged.changes(&operation.key, version));
    let index = match (&operation.request, by_version) {
        (Some(_), _) => match merged.effective(operation) {
            [] => return Some("acknowledged and in no log".to_owned()),
            [index] => *index,
            [first, second, ..] => {
                return Some(format!("applied twice, at {first} and at {second}"));
            }
        },
        (None, Some(version)) => version,
        (None, None) => return Some("acknowledged and in no log".to_owned()),
    };
    if let Some(version) = version
        && version != index
    {
        return Some(format!(
            "acknowledged as version {version}, but applied at {index}"
        ));
    }
    let in_log = merged.value_at(&operation.key, index);
    let asked = operation.action.written_value().flatten();
    if in_log != asked {
        let shown = |value: Option<&str>| value.map_or("nothing".to_owned(), |v| format!("`{v}`"));
        return Some(format!(
            "asked for {}, but entry {index} holds {}",
            shown(asked),
            shown(in_log)
        ));
    }
    written_in_real_time(operation, index, real_time)
}

fn written_in_real_time(
    operation: &RegisterOperation,
    index: u64,
    real_time: &RealTime,
) -> Option<String> {
    let floor = real_time.floor(operation.invoked_ns);
    (index <= floor).then(|| {
        format!("applied at {index}, before {floor}, which was answered before it was sent")
    })
}

fn refused(operation: &RegisterOperation, merged: &Merged<'_>) -> Option<String> {
    operation.request.as_ref()?;
    let index = merged.effective(operation).first()?;
    Some(format!("refused, and yet applied at {index}"))
}

fn at_most_once(
    operation: &RegisterOperation,
    merged: &Merged<'_>,
    real_time: &RealTime,
) -> Option<String> {
    operation.request.as_ref()?;
    match merged.effective(operation) {
        [] => None,
        [index] => written_in_real_time(operation, *index, real_time),
        [first, second, ..] => Some(format!("applied twice, at {first} and at {second}")),
    }
}

fn read(
    operation: &RegisterOperation,
    seen: Option<&Seen>,
    merged: &Merged<'_>,
    real_time: &RealTime,
) -> Option<String> {
    debug_assert_eq!(operation.action, Action::Get);
    let floor = real_time.floor(operation.invoked_ns);
    let ceiling = operation
        .ended_ns
        .map_or(u64::MAX, |ended_ns| real_time.ceiling(ended_ns));
    let holds = merged.holds(&operation.key, seen);
    if holds.is_empty() {
        return Some("read what the log never held".to_owned());
    }
    let is_possible = |&(first, last): &(u64, u64)| first <= ceiling && floor <= last;
    if holds.iter().any(is_possible) {
        return None;
    }
    let (first, last) = holds[holds.len() - 1];
    Some(if last < floor {
        format!("stale: true until {last}, and {floor} was answered before the call")
    } else {
        format!("from the future: true from {first}, and at its end at most {ceiling} was")
    })
}

#[cfg(test)]
#[path = "log_replay_test.rs"]
mod tests;
