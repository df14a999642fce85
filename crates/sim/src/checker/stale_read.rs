//! C3: no read shows an older version than one acknowledged before the read was called.
//!
//! Cheap enough to run beside the load: one number per key. It sees less than C1 (reads against
//! writes only), and sees it at once.

use std::collections::BTreeMap;

use crate::checker::verdict::{Evidence, Findings, Verdict};
use crate::history::register::{Action, Answer, RegisterOperation};

pub const NAME: &str = "C3 stale read";

/// What is acknowledged so far, per key. Share one between all clients of a trial.
#[derive(Debug, Clone, Default)]
pub struct AckedFloors {
    keys: BTreeMap<String, KeyFloor>,
}

/// What a read that is called now must not fall behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeyFloor {
    /// Highest version acknowledged or read; 0 = none.
    pub version: u64,
}

impl AckedFloors {
    /// Books an answer: a version that was acknowledged or read.
    pub fn answered(&mut self, key: &str, version: u64) {
        let floor = self.keys.entry(key.to_owned()).or_default();
        floor.version = floor.version.max(version);
    }

    /// The floor of a read, to be taken *before* it is sent.
    pub fn before_read(&self, key: &str) -> KeyFloor {
        self.keys.get(key).copied().unwrap_or_default()
    }
}

impl KeyFloor {
    /// What is wrong with a read of this version; `None` when nothing is.
    pub fn judge(self, seen_version: u64) -> Option<String> {
        (seen_version < self.version).then(|| {
            format!(
                "stale: shows version {seen_version}, and {} was answered before the call",
                self.version
            )
        })
    }
}

/// Replays the floors over a recorded history.
///
/// A read of nothing is stale when the key was acknowledged before and nobody began a delete
/// before the read ended.
pub fn check(operations: &[RegisterOperation]) -> Verdict {
    let mut findings = Findings::default();
    let mut n_checked = 0;
    for (operation, floor) in with_floors(operations) {
        let Answer::Read(seen) = &operation.answer else {
            continue;
        };
        n_checked += 1;
        let broken = match seen
            .as_ref()
            .map(|seen| seen.version.or(operation.log_index))
        {
            Some(Some(version)) => floor.judge(version),
            // A value without a version cannot be placed.
            Some(None) => continue,
            None => {
                (floor.version > 0 && !delete_begun_before_end(operation, operations)).then(|| {
                    format!(
                        "shows nothing, and version {} was answered before",
                        floor.version
                    )
                })
            }
        };
        if let Some(what) = broken {
            let mut evidence = Evidence::new(&operation.key, what).witness(operation);
            evidence.at_ns = operation.ended_ns;
            findings.add(evidence);
        }
    }
    findings.into_verdict(n_checked)
}

/// Every operation with the floor of the moment before it was sent.
fn with_floors(operations: &[RegisterOperation]) -> Vec<(&RegisterOperation, KeyFloor)> {
    let mut by_end: Vec<&RegisterOperation> = operations.iter().collect();
    by_end.sort_by_key(|operation| operation.ended_ns.unwrap_or(u64::MAX));
    let mut by_invocation: Vec<&RegisterOperation> = operations.iter().collect();
    by_invocation.sort_by_key(|operation| operation.invoked_ns);
    let mut floors = AckedFloors::default();
    let mut ends = by_end.into_iter().peekable();
    let mut placed = Vec::new();
    for operation in by_invocation {
        let is_over = |end: &&RegisterOperation| {
            end.ended_ns
                .is_some_and(|ended_ns| ended_ns < operation.invoked_ns)
        };
        while let Some(ended) = ends.next_if(is_over) {
            let version = match &ended.answer {
                Answer::Read(Some(seen)) => seen.version,
                Answer::Written { version } => *version,
                Answer::Read(None) | Answer::Conflict | Answer::Failed | Answer::Unknown => None,
            };
            if let Some(version) = version {
                floors.answered(&ended.key, version);
            }
        }
        placed.push((operation, floors.before_read(&operation.key)));
    }
    placed
}

fn delete_begun_before_end(read: &RegisterOperation, operations: &[RegisterOperation]) -> bool {
    let end_ns = read.ended_ns.unwrap_or(u64::MAX);
    operations.iter().any(|operation| {
        operation.key == read.key
            && matches!(operation.action, Action::Delete { .. })
            && operation.answer != Answer::Failed
            && operation.invoked_ns <= end_ns
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::testkit::history_of;
    use crate::checker::verdict::Class;

    fn class(lines: &[&str]) -> Class {
        check(&history_of(lines)).class()
    }

    #[test]
    fn reads_at_or_above_the_floor_pass() {
        let given = [
            "1 put a x [0,5] -> v2",
            "2 put a y [3,9] -> v3",
            "3 get a [6,7] -> x v2",
            "3 get a [10,11] -> y v3",
            "4 get b [10,11] -> none",
            "1 delete a [12,20] -> v5",
            "3 get a [13,14] -> none",
        ];
        assert_eq!(class(&given), Class::Pass);
    }

    #[test]
    fn planted_read_without_quorum() {
        let given = ["1 put a y [0,5] -> v3", "3 get a [6,7] -> x v2"];
        let verdict = check(&history_of(&given));
        assert_eq!(verdict.class(), Class::Violation);
        let text = verdict.to_string();
        assert!(
            text.contains("shows version 2, and 3 was answered before the call"),
            "{text}"
        );
    }

    #[test]
    fn planted_read_of_an_empty_replica() {
        assert_eq!(
            class(&["1 put a y [0,5] -> v3", "3 get a [6,7] -> none"]),
            Class::Violation
        );
    }

    #[test]
    fn an_ack_during_the_read_is_no_floor_and_no_read_is_unknown() {
        assert_eq!(
            class(&["1 put a y [0,7] -> v3", "3 get a [6,9] -> x v2"]),
            Class::Pass
        );
        assert_eq!(class(&["1 put a y [0,5] -> v3"]), Class::Unknown);
    }

    #[test]
    fn beside_the_load_the_floor_is_taken_before_the_call() {
        let mut floors = AckedFloors::default();
        let early = floors.before_read("a");
        floors.answered("a", 7);
        floors.answered("a", 4);
        assert_eq!(early.judge(4), None);
        assert!(floors.before_read("a").judge(6).is_some());
        assert_eq!(floors.before_read("a").judge(7), None);
    }
}
