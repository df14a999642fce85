//! C4: everything that was acknowledged is there after the heal, on every node.
//!
//! A set check: items are only added, each under a name of its own (a revision, a created object,
//! the nonce of the last write to a key).

use std::collections::{BTreeMap, BTreeSet};

use crate::checker::verdict::{Evidence, Findings, Verdict};

pub const NAME: &str = "C4 no lost ack";

/// What was tried, and what each node holds at the end.
#[derive(Debug, Clone, Default)]
pub struct Input {
    pub adds: Vec<Add>,
    /// Node → items it holds, read from the node itself after the heal.
    pub held: BTreeMap<String, BTreeSet<String>>,
    /// Removed on purpose: may be there or not.
    pub removed: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Add {
    pub item: String,
    pub at_ns: u64,
    pub answer: AddAnswer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddAnswer {
    Acked,
    Failed,
    Unknown,
}

/// Compares what was tried with what is held.
pub fn check(input: &Input) -> Verdict {
    if input.held.is_empty() {
        return Verdict::unknown("no node was read at the end");
    }
    let mut tried: BTreeMap<&str, &Add> = BTreeMap::new();
    for add in &input.adds {
        if tried.insert(&add.item, add).is_some() {
            return Verdict::harness_fault(format!("item `{}` was added twice", add.item));
        }
    }
    let mut findings = Findings::default();
    for add in tried.values() {
        if add.answer == AddAnswer::Acked && !input.removed.contains(&add.item) {
            lost(add, &input.held, &mut findings);
        }
    }
    for (node, held) in &input.held {
        for item in held {
            match tried.get(item.as_str()).map(|add| add.answer) {
                Some(AddAnswer::Acked | AddAnswer::Unknown) => {}
                Some(AddAnswer::Failed) => {
                    let what = format!("refused, and yet held by node `{node}`");
                    findings.add(Evidence::new(item, what));
                }
                None => {
                    let what = format!("held by node `{node}`, and nobody added it");
                    findings.add(Evidence::new(item, what));
                }
            }
        }
    }
    disagreement(&input.held, &tried, &mut findings);
    let n_acked = input
        .adds
        .iter()
        .filter(|add| add.answer == AddAnswer::Acked)
        .count();
    findings.into_verdict((n_acked * input.held.len()) as u64)
}

fn lost(add: &Add, held: &BTreeMap<String, BTreeSet<String>>, findings: &mut Findings) {
    let without = held.iter().filter(|(_, items)| !items.contains(&add.item));
    let without: Vec<&str> = without.map(|(node, _)| node.as_str()).collect();
    if !without.is_empty() {
        let what = format!(
            "acknowledged, and lost on {} of {} nodes: {}",
            without.len(),
            held.len(),
            without.join(", ")
        );
        findings.add(Evidence::new(&add.item, what).at(add.at_ns));
    }
}

/// An unknown add may be held or not, but by all nodes alike.
fn disagreement(
    held: &BTreeMap<String, BTreeSet<String>>,
    tried: &BTreeMap<&str, &Add>,
    findings: &mut Findings,
) {
    for (item, add) in tried {
        let n_with = held.values().filter(|items| items.contains(*item)).count();
        if add.answer == AddAnswer::Unknown && n_with > 0 && n_with < held.len() {
            let what = format!("held by {n_with} of {} nodes", held.len());
            findings.add(Evidence::new(item, what).at(add.at_ns));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::verdict::Class;

    fn input(adds: &[(&str, AddAnswer)], held: &[(&str, &[&str])]) -> Input {
        let add = |&(item, answer): &(&str, AddAnswer)| Add {
            item: item.to_owned(),
            at_ns: 7,
            answer,
        };
        let held = held.iter().map(|(node, items)| {
            let items = items.iter().map(|&item| item.to_owned()).collect();
            ((*node).to_owned(), items)
        });
        Input {
            adds: adds.iter().map(add).collect(),
            held: held.collect(),
            removed: BTreeSet::new(),
        }
    }

    use AddAnswer::{Acked, Failed, Unknown};

    #[track_caller]
    fn assert_found(input: &Input, want: &str) {
        let verdict = check(input);
        assert_eq!(verdict.class(), Class::Violation, "{verdict}");
        assert!(verdict.to_string().contains(want), "{verdict}");
    }

    #[test]
    fn acked_items_are_everywhere_and_unknown_ones_all_or_nowhere() {
        let adds = [("a", Acked), ("b", Unknown), ("c", Unknown), ("d", Failed)];
        let given = input(&adds, &[("n1", &["a", "b"]), ("n2", &["a", "b"])]);
        assert_eq!(check(&given).class(), Class::Pass);
    }

    #[test]
    fn planted_fsync_error_ignored() {
        let given = input(
            &[("a", Acked), ("b", Acked)],
            &[("n1", &["a"]), ("n2", &["a"])],
        );
        assert_found(
            &given,
            "`b` at 0.000000007 s: acknowledged, and lost on 2 of 2 nodes",
        );
    }

    #[test]
    fn planted_one_replica_loses_its_tail() {
        let given = input(&[("a", Acked)], &[("n1", &["a"]), ("n2", &[])]);
        assert_found(&given, "lost on 1 of 2 nodes: n2");
    }

    #[test]
    fn planted_refused_or_invented_items_are_held() {
        assert_found(
            &input(&[("a", Failed)], &[("n1", &["a"])]),
            "refused, and yet held",
        );
        assert_found(
            &input(&[("a", Acked)], &[("n1", &["a", "x"])]),
            "nobody added it",
        );
    }

    #[test]
    fn planted_replicas_differ_on_an_unknown_item() {
        let given = input(&[("a", Unknown)], &[("n1", &["a"]), ("n2", &[])]);
        assert_found(&given, "held by 1 of 2 nodes");
    }

    #[test]
    fn removed_items_may_be_gone() {
        let mut given = input(&[("a", Acked)], &[("n1", &[])]);
        given.removed.insert("a".to_owned());
        assert_eq!(check(&given).class(), Class::Pass);
    }

    #[test]
    fn no_ack_and_no_node_are_unknown_and_one_name_twice_is_the_harness() {
        assert_eq!(check(&input(&[("a", Acked)], &[])).class(), Class::Unknown);
        assert_eq!(
            check(&input(&[("a", Unknown)], &[("n1", &[])])).class(),
            Class::Unknown
        );
        let twice = input(&[("a", Acked), ("a", Acked)], &[("n1", &["a"])]);
        assert_eq!(check(&twice).class(), Class::HarnessFault);
    }
}
