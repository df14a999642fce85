//! C12: a minute after the heal, nothing that carries our mark is without a home.
//!
//! Every marked process, cgroup, namespace, mount, socket and port belongs to an instance that its
//! node's agent lists and whose revision the store knows; every listed instance has a process.

use std::collections::{BTreeMap, BTreeSet};

use crate::checker::verdict::{Evidence, Findings, Verdict};
use crate::history::shown::seconds;

pub const NAME: &str = "C12 orphans";

/// How long after the heal the sweep has had its time: it waits 30 s on purpose.
pub const SWEPT_AFTER_NS: u64 = 60_000_000_000;

/// One scan of the host, with what the agents and the store say at that time.
#[derive(Debug, Clone, Default)]
pub struct Input {
    pub healed_ns: u64,
    pub scanned_ns: u64,
    /// How long after the heal a scan counts; [`SWEPT_AFTER_NS`] unless a driver sweeps earlier.
    pub swept_after_ns: u64,
    pub found: Vec<Found>,
    /// Node → instances that its agent lists as running.
    pub listed: BTreeMap<String, BTreeSet<String>>,
    /// Instances whose revision is in the store.
    pub stored: BTreeSet<String>,
}

/// Something on the host that carries our mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// `process`, `cgroup`, `netns`, `mount`, `socket`, `port`, `container`.
    pub kind: String,
    /// Pid, path or number.
    pub id: String,
    /// From its mark; empty = none could be read.
    pub instance: String,
}

/// Judges one scan.
pub fn check(input: &Input) -> Verdict {
    let after_ns = input.scanned_ns.saturating_sub(input.healed_ns);
    if after_ns < input.swept_after_ns {
        return Verdict::unknown(format!(
            "scanned {} after the heal, the sweep has {}",
            seconds(after_ns),
            seconds(input.swept_after_ns)
        ));
    }
    if input.listed.is_empty() {
        return Verdict::unknown("no agent was asked what it runs");
    }
    let mut findings = Findings::default();
    let is_listed = |instance: &String| input.listed.values().any(|set| set.contains(instance));
    for found in &input.found {
        let what = if !is_listed(&found.instance) {
            "no agent lists its instance"
        } else if !input.stored.contains(&found.instance) {
            "its instance's revision is not in the store"
        } else {
            continue;
        };
        let object = format!("{} {}", found.kind, found.id);
        let mark = format!("mark: instance `{}`", found.instance);
        findings.add(
            Evidence::new(object, what)
                .at(input.scanned_ns)
                .witness(mark),
        );
    }
    let has_process: BTreeSet<&str> = input
        .found
        .iter()
        .filter(|found| found.kind == PROCESS || found.kind == CONTAINER)
        .map(|found| found.instance.as_str())
        .collect();
    for (node, instances) in &input.listed {
        for instance in instances
            .iter()
            .filter(|i| !has_process.contains(i.as_str()))
        {
            let what = format!("node `{node}` lists it as running, and it has no process");
            findings.add(Evidence::new(instance, what).at(input.scanned_ns));
        }
    }
    for instance in listed_twice(&input.listed) {
        findings.add(Evidence::new(instance, "listed by two nodes").at(input.scanned_ns));
    }
    // A host without a single mark, and agents that list nothing, is a clean host.
    let n_listed: usize = input.listed.values().map(BTreeSet::len).sum();
    findings.into_verdict((input.found.len() + n_listed + input.listed.len()) as u64)
}

/// [`Found::kind`] of what executes an instance.
pub const PROCESS: &str = "process";
pub const CONTAINER: &str = "container";

fn listed_twice(listed: &BTreeMap<String, BTreeSet<String>>) -> Vec<&str> {
    let mut seen = BTreeSet::new();
    let all = listed.values().flatten();
    all.filter(|instance| !seen.insert(*instance))
        .map(String::as_str)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::verdict::Class;

    fn found(kind: &str, instance: &str) -> Found {
        Found {
            kind: kind.to_owned(),
            id: "4711".to_owned(),
            instance: instance.to_owned(),
        }
    }

    fn set(items: &[&str]) -> BTreeSet<String> {
        items.iter().map(|&item| item.to_owned()).collect()
    }

    fn clean() -> Input {
        Input {
            healed_ns: 0,
            scanned_ns: SWEPT_AFTER_NS,
            swept_after_ns: SWEPT_AFTER_NS,
            found: vec![found(PROCESS, "i1"), found("port", "i1")],
            listed: BTreeMap::from([("n1".to_owned(), set(&["i1"])), ("n2".to_owned(), set(&[]))]),
            stored: set(&["i1"]),
        }
    }

    #[track_caller]
    fn assert_found(input: &Input, want: &str) {
        let verdict = check(input);
        assert_eq!(verdict.class(), Class::Violation, "{verdict}");
        assert!(verdict.to_string().contains(want), "{verdict}");
    }

    #[test]
    fn everything_at_home_passes_and_so_does_an_empty_host() {
        assert_eq!(check(&clean()).class(), Class::Pass);
        let mut empty = clean();
        empty.found.clear();
        empty.listed = BTreeMap::from([("n1".to_owned(), set(&[]))]);
        assert_eq!(check(&empty).class(), Class::Pass);
    }

    #[test]
    fn planted_adoption_forgets_a_process() {
        let mut input = clean();
        input.found.push(found(PROCESS, "i2"));
        assert_found(&input, "`process 4711` at 60.0");
    }

    #[test]
    fn planted_cgroup_is_left_behind() {
        let mut input = clean();
        input.found.push(found("cgroup", ""));
        assert_found(&input, "no agent lists its instance");
    }

    #[test]
    fn planted_revision_deleted_and_its_instance_kept() {
        let mut input = clean();
        input.stored.clear();
        assert_found(&input, "revision is not in the store");
    }

    #[test]
    fn planted_agent_lists_a_ghost_or_another_nodes_instance() {
        let mut ghost = clean();
        ghost.found.clear();
        assert_found(&ghost, "and it has no process");
        let mut twice = clean();
        twice.listed.insert("n2".to_owned(), set(&["i1"]));
        assert_found(&twice, "listed by two nodes");
    }

    #[test]
    fn a_scan_before_the_sweep_or_without_agents_is_unknown() {
        let mut early = clean();
        early.scanned_ns -= 1;
        early.found.push(found(PROCESS, "i2"));
        assert_eq!(check(&early).class(), Class::Unknown);
        let mut unasked = clean();
        unasked.listed.clear();
        assert_eq!(check(&unasked).class(), Class::Unknown);
    }
}
