//! C9: the instances of a revision never exceed its max-scale, in the terms of the contract.
//!
//! The agents' start/stop records are replayed on the host's boot clock; there is no sampling gap.
//! A start or an end in doubt counts as running. A sample of the kernel's process table that is in
//! no record is a violation of its own.
//!
//! ```text
//! node 1   spawn ████████████████████████████ exit
//! node 2           spawn ████████ (agent killed: open end, until seen empty)
//!                         ▲ declared down   ▲ + grace: replacement may start
//! ```
//!
//! What a node that was declared down still runs is not counted against the cap from the moment
//! its replacement may start until it is heard again and trimmed (reported as surplus). On each
//! node by itself the cap always holds.

use std::collections::{BTreeMap, BTreeSet};

use crate::checker::instance_bound::intervals::Interval;
use crate::checker::verdict::{Evidence, Findings, Verdict};
use crate::history::shown::seconds;
use crate::history::startstop::{StartStopRecord, is_instance_of};

mod intervals;

pub const NAME: &str = "C9 instance bound";

/// After `NodeDown`, how long a node that adopts its instances may take to come back before they
/// are replaced.
pub const RESTART_GRACE_NS: u64 = 3_000_000_000;

/// Start/stop records of all nodes, and what the trial knows beside them. All times are
/// `CLOCK_BOOTTIME` of the one host.
#[derive(Debug, Clone, Default)]
pub struct Input {
    pub nodes: Vec<NodeRecords>,
    /// Every bounded revision with its max-scale; instances of others are only cross-checked.
    /// Instance ids hold no namespace: a name must stand for one revision in the whole trial.
    pub max_scale: BTreeMap<String, u32>,
    /// Instances above max-scale that are allowed at any time; 0 by default.
    pub surge: u32,
    pub declared_down: Vec<DeclaredDown>,
    pub seen_empty: Vec<SeenEmpty>,
    pub samples: Vec<ProcessSample>,
    pub tolerances: Tolerances,
}

/// One agent's `startstop.log`.
#[derive(Debug, Clone, Default)]
pub struct NodeRecords {
    pub node: String,
    pub records: Vec<StartStopRecord>,
}

/// A `NodeDown` entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredDown {
    pub node: String,
    /// When the first node applied it.
    pub at_ns: u64,
    /// When the node's next session was first applied; `None` = never in this trial.
    pub heard_again_ns: Option<u64>,
    /// The closed session advertised `adopt`: its instances are replaced only after
    /// [`RESTART_GRACE_NS`]; with `kill` at once.
    pub adopts: bool,
}

/// The harness looked at the process table while the node's process was not running, and found
/// none of its instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenEmpty {
    pub node: String,
    pub at_ns: u64,
}

/// A process that carries an instance's mark, seen in the kernel's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessSample {
    pub at_ns: u64,
    pub instance: String,
    pub pid: u32,
}

/// How far apart things may lie that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tolerances {
    /// A start decided before the node was heard again may be carried out this much later.
    pub decision_to_spawn_ns: u64,
    /// After a node is heard again its surplus is gone within this time.
    pub trimmed_within_ns: u64,
    /// A process may be seen this much after its `exit` record: a scan takes time.
    pub scan_lag_ns: u64,
}

impl Default for Tolerances {
    fn default() -> Self {
        Self {
            decision_to_spawn_ns: 500_000_000,
            // H of most nemeses (08 §7.5).
            trimmed_within_ns: 5_000_000_000,
            scan_lag_ns: 200_000_000,
        }
    }
}

/// Replays the records; see the module's prose for the rule.
pub fn check(input: &Input) -> Verdict {
    let replayed = match intervals::replay(&input.nodes, &input.seen_empty) {
        Ok(replayed) => replayed,
        Err(reason) => return Verdict::harness_fault(reason),
    };
    let intervals = replayed.intervals;
    let mut findings = Findings::default();
    for evidence in replayed.started_twice {
        findings.add(evidence);
    }
    for (revision, &max_scale) in &input.max_scale {
        let of_revision: Vec<&Interval> = intervals
            .iter()
            .filter(|interval| is_instance_of(&interval.instance, revision))
            .collect();
        let bound = Bound {
            revision,
            limit: (max_scale + input.surge) as usize,
            intervals: &of_revision,
            input,
        };
        bound.check(&mut findings);
    }
    cross_check(input, &intervals, &mut findings);
    let n_in_doubt = intervals
        .iter()
        .filter(|interval| interval.is_in_doubt())
        .count();
    if n_in_doubt > 0 {
        findings.note(format!("{n_in_doubt} ends in doubt, counted as running"));
    }
    findings.into_verdict(intervals.len() as u64)
}

/// The cap of one revision.
struct Bound<'a> {
    revision: &'a str,
    limit: usize,
    intervals: &'a [&'a Interval],
    input: &'a Input,
}

/// Which instances a declaration takes out of the count.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// At a start: those that may have been replaced by it.
    Start,
    /// At any moment: also those that were heard again and are being trimmed.
    Level,
}

impl Bound<'_> {
    /// The count only changes where something starts, ends, or stops being excused, so the bound
    /// holds always if it holds there.
    fn check(&self, findings: &mut Findings) {
        let starts: BTreeSet<u64> = self.intervals.iter().map(|i| i.spawn_ns).collect();
        let mut moments = starts.clone();
        let heard_again = |declared: &&DeclaredDown| declared.heard_again_ns.is_some();
        for declared in self.input.declared_down.iter().filter(heard_again) {
            moments.extend(
                self.excuse(declared, Rule::Level)
                    .map(|(_, until_ns)| until_ns),
            );
        }
        let mut n_over_max = 0;
        let mut was_over = false;
        for at_ns in moments {
            let running: Vec<&Interval> = self.running_at(at_ns).collect();
            n_over_max = n_over_max.max(running.len().saturating_sub(self.limit));
            let broken = self.broken_rule(&running, at_ns, starts.contains(&at_ns));
            // One excess is one violation, however many moments it spans.
            if let Some(what) = &broken
                && !was_over
            {
                findings.add(self.evidence(what, at_ns, &running));
            }
            was_over = broken.is_some();
        }
        if n_over_max > 0 {
            let revision = self.revision;
            findings.note(format!(
                "`{revision}`: up to {n_over_max} above the cap across a declared partition"
            ));
        }
    }

    fn broken_rule(&self, running: &[&Interval], at_ns: u64, is_start: bool) -> Option<String> {
        let mut per_node: BTreeMap<&str, usize> = BTreeMap::new();
        for interval in running {
            *per_node.entry(&interval.node).or_default() += 1;
        }
        let (node, on_node) = per_node.into_iter().max_by_key(|&(_, n)| n)?;
        let counted = |rule| {
            let is_counted = |i: &&&Interval| !self.is_excused(i, at_ns, rule);
            running.iter().filter(is_counted).count()
        };
        let limit = self.limit;
        if on_node > limit {
            return Some(format!(
                "{on_node} run on node `{node}` alone, {limit} allowed"
            ));
        }
        let at_level = counted(Rule::Level);
        if at_level > limit {
            return Some(format!("{at_level} run, {limit} allowed"));
        }
        let at_start = counted(Rule::Start);
        if is_start && at_start > limit {
            return Some(format!(
                "a start makes {at_start}, {limit} allowed: the node of another was heard again, \
                 so that one counts"
            ));
        }
        None
    }

    fn running_at(&self, at_ns: u64) -> impl Iterator<Item = &Interval> {
        let is_running =
            move |i: &&&Interval| i.spawn_ns <= at_ns && i.end_ns.is_none_or(|end| at_ns < end);
        self.intervals.iter().filter(is_running).copied()
    }

    fn is_excused(&self, interval: &Interval, at_ns: u64, rule: Rule) -> bool {
        self.input.declared_down.iter().any(|declared| {
            declared.node == interval.node
                && self
                    .excuse(declared, rule)
                    .is_some_and(|(from_ns, until_ns)| (from_ns..until_ns).contains(&at_ns))
        })
    }

    /// From when to when a declaration excuses its node's instances; `None` when the node was
    /// back within the grace.
    fn excuse(&self, declared: &DeclaredDown, rule: Rule) -> Option<(u64, u64)> {
        let grace_ns = if declared.adopts { RESTART_GRACE_NS } else { 0 };
        let from_ns = declared.at_ns.saturating_add(grace_ns);
        let heard_ns = declared.heard_again_ns.unwrap_or(u64::MAX);
        let Tolerances {
            decision_to_spawn_ns,
            trimmed_within_ns,
            ..
        } = self.input.tolerances;
        let until_ns = heard_ns.saturating_add(match rule {
            Rule::Start => decision_to_spawn_ns,
            Rule::Level => trimmed_within_ns,
        });
        (heard_ns > from_ns).then_some((from_ns, until_ns))
    }

    fn evidence(&self, what: &str, at_ns: u64, running: &[&Interval]) -> Evidence {
        let mut evidence = Evidence::new(self.revision, what).at(at_ns);
        for interval in running {
            evidence = evidence.witness(interval);
        }
        for declared in &self.input.declared_down {
            let heard = declared.heard_again_ns.map_or("never".to_owned(), seconds);
            evidence = evidence.witness(format!(
                "node `{}` declared down at {}, heard again: {heard}, {}",
                declared.node,
                seconds(declared.at_ns),
                if declared.adopts { "adopts" } else { "kills" },
            ));
        }
        evidence
    }
}

/// The kernel's process table against the records.
fn cross_check(input: &Input, intervals: &[Interval], findings: &mut Findings) {
    let mut by_instance: BTreeMap<&str, Vec<&Interval>> = BTreeMap::new();
    for interval in intervals {
        by_instance
            .entry(&interval.instance)
            .or_default()
            .push(interval);
    }
    // A process that is wrong is wrong in every scan: it is reported once.
    let mut reported = BTreeSet::new();
    for sample in &input.samples {
        let known = by_instance.get(sample.instance.as_str());
        let what = match known {
            None => "runs and is in no start/stop record",
            Some(known) if !known.iter().any(|i| was_running(i, sample, input)) => {
                "runs outside every interval of its start/stop records"
            }
            Some(_) => continue,
        };
        if reported.insert((&sample.instance, sample.pid)) {
            let mut evidence = Evidence::new(&sample.instance, what)
                .at(sample.at_ns)
                .witness(format!("pid {} in the process table", sample.pid));
            for interval in known.into_iter().flatten() {
                evidence = evidence.witness(interval);
            }
            findings.add(evidence);
        }
    }
}

fn was_running(interval: &Interval, sample: &ProcessSample, input: &Input) -> bool {
    let lag_ns = input.tolerances.scan_lag_ns;
    let end_ns = interval.end_ns.map(|end_ns| end_ns.saturating_add(lag_ns));
    interval.spawn_ns <= sample.at_ns && end_ns.is_none_or(|end_ns| sample.at_ns <= end_ns)
}

#[cfg(test)]
#[path = "instance_bound_test.rs"]
mod tests;
