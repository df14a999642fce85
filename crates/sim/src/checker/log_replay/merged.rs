//! The logs of all nodes as one, with the history of every key.

use std::collections::BTreeMap;

use crate::checker::log_replay::{LogEntry, NodeLog};
use crate::checker::verdict::{Evidence, Findings, Verdict};
use crate::history::register::{RegisterOperation, Seen};

/// One log that every node's is a part of.
#[derive(Debug, Default)]
pub(super) struct Merged<'a> {
    /// Entries that two nodes or more have, all found equal.
    pub(super) n_compared: u64,
    /// Key → (index, value from there on), ascending.
    timelines: BTreeMap<&'a str, Vec<(u64, Option<&'a str>)>>,
    /// Request id → indexes at which it had an effect.
    requests: BTreeMap<&'a str, Vec<u64>>,
}

/// Compares and merges the logs; where two nodes differ, the first one given is kept.
///
/// # Errors
/// Unknown when no node has the beginning and no base was given; harness fault when one dump has
/// a hole, which no log has.
pub(super) fn merge<'a>(
    logs: &'a [NodeLog],
    base: &'a BTreeMap<String, Seen>,
    findings: &mut Findings,
) -> Result<Merged<'a>, Verdict> {
    let mut entries: BTreeMap<u64, (&str, &LogEntry)> = BTreeMap::new();
    let mut merged = Merged::default();
    for log in logs {
        contiguous(log)?;
        terms_only_grow(log, findings);
        for entry in &log.entries {
            let (node, known) = entries.entry(entry.index).or_insert((&log.node, entry));
            if (known.term, &known.digest) != (entry.term, &entry.digest) {
                findings.add(disagreement(node, known, &log.node, entry));
            } else if *node != log.node {
                merged.n_compared += 1;
            }
        }
    }
    let Some((&first, _)) = entries.first_key_value() else {
        return Err(Verdict::unknown("no log was given"));
    };
    if first > 1 && base.is_empty() {
        return Err(Verdict::unknown(format!(
            "no node has entries below {first}, and no base state was given"
        )));
    }
    for ((&before, _), (&after, _)) in entries.iter().zip(entries.iter().skip(1)) {
        if before + 1 != after {
            let reason = format!("no node has the entries between {before} and {after}");
            return Err(Verdict::unknown(reason));
        }
    }
    for (key, seen) in base {
        let version = seen.version.unwrap_or(0).min(first - 1);
        let held = (version, Some(seen.value.as_str()));
        merged.timelines.insert(key, vec![held]);
    }
    for (_, entry) in entries.values() {
        merged.replay(entry);
    }
    Ok(merged)
}

fn contiguous(log: &NodeLog) -> Result<(), Verdict> {
    for pair in log.entries.windows(2) {
        if pair[0].index + 1 != pair[1].index {
            return Err(Verdict::harness_fault(format!(
                "log dump of node `{}`: entry {} follows entry {}",
                log.node, pair[1].index, pair[0].index
            )));
        }
    }
    Ok(())
}

fn terms_only_grow(log: &NodeLog, findings: &mut Findings) {
    for pair in log.entries.windows(2) {
        if pair[1].term < pair[0].term {
            findings.add(Evidence::new(
                format!("log of node {}", log.node),
                format!(
                    "term goes back from {} at {} to {} at {}",
                    pair[0].term, pair[0].index, pair[1].term, pair[1].index
                ),
            ));
        }
    }
}

fn disagreement(node: &str, known: &LogEntry, other: &str, entry: &LogEntry) -> Evidence {
    Evidence::new(
        format!("log index {}", entry.index),
        "committed logs disagree",
    )
    .witness(format!(
        "node `{node}`: term {} {}",
        known.term, known.digest
    ))
    .witness(format!(
        "node `{other}`: term {} {}",
        entry.term, entry.digest
    ))
}

impl<'a> Merged<'a> {
    fn replay(&mut self, entry: &'a LogEntry) {
        for effect in &entry.effects {
            let change = (entry.index, effect.value.as_deref());
            self.timelines.entry(&effect.key).or_default().push(change);
        }
        if let Some(request) = &entry.request
            && !entry.effects.is_empty()
        {
            self.requests.entry(request).or_default().push(entry.index);
        }
    }

    /// Indexes at which the operation's request took effect.
    pub(super) fn effective(&self, operation: &RegisterOperation) -> &[u64] {
        let request = operation.request.as_deref();
        let indexes = request.and_then(|request| self.requests.get(request));
        indexes.map_or(&[], Vec::as_slice)
    }

    pub(super) fn changes(&self, key: &str, index: u64) -> bool {
        self.timeline(key)
            .binary_search_by_key(&index, |&(at, _)| at)
            .is_ok()
    }

    /// The key's value once `index` is applied.
    pub(super) fn value_at(&self, key: &str, index: u64) -> Option<&'a str> {
        let timeline = self.timeline(key);
        let n_before = timeline.partition_point(|&(at, _)| at <= index);
        timeline[..n_before].last().and_then(|&(_, value)| value)
    }

    /// The ranges of indexes, both ends included, at which a read of `key` would see `seen`.
    pub(super) fn holds(&self, key: &str, seen: Option<&Seen>) -> Vec<(u64, u64)> {
        let timeline = self.timeline(key);
        let range = |at: usize| {
            let next = timeline.get(at + 1);
            (timeline[at].0, next.map_or(u64::MAX, |&(next, _)| next - 1))
        };
        if let Some(Seen {
            value,
            version: Some(version),
        }) = seen
        {
            let at = timeline.binary_search_by_key(version, |&(at, _)| at);
            let is_it = |at: &usize| timeline[*at].1 == Some(value.as_str());
            return at.ok().filter(is_it).map(range).into_iter().collect();
        }
        let value = seen.map(|seen| seen.value.as_str());
        let before_first = match timeline.first() {
            None => Some((0, u64::MAX)),
            Some(&(at, _)) => at.checked_sub(1).map(|last| (0, last)),
        };
        let before_first = before_first.filter(|_| value.is_none());
        let later = (0..timeline.len()).filter(|&at| timeline[at].1 == value);
        before_first.into_iter().chain(later.map(range)).collect()
    }

    fn timeline(&self, key: &str) -> &[(u64, Option<&'a str>)] {
        self.timelines.get(key).map_or(&[], Vec::as_slice)
    }
}
