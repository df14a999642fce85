//! C7: a watch delivers every matching change once and in order, or says explicitly that it ends.
//!
//! ```text
//! log       11:a   12:b   13:a,c   14:b   15:a
//! stream    from 12 ─► 12:b  13:a  13:c  progress 14 ✗ broken
//!           from 14 ─► 14:b  15:a   (on another node)
//! ```
//!
//! The log is the reference: what matches in it and was neither delivered nor given up by an
//! explicit end is a gap; what was delivered and is not in it was invented.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::checker::verdict::{Evidence, Findings, Verdict};
use crate::checker::watch::segment::SegmentCheck;

mod segment;

pub const NAME: &str = "C7 watch";

/// The change log and what watchers saw of it.
#[derive(Debug, Clone, Default)]
pub struct Input {
    /// Every change from the first index on that any stream was started at, ascending; taken
    /// after all streams have ended.
    pub log: Vec<Change>,
    pub streams: Vec<Stream>,
}

/// One key changed by one log entry; an entry may change several.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Change {
    pub index: u64,
    pub key: String,
    /// What it holds from there on, by hash or nonce; `None` = removed.
    #[serde(default)]
    pub value: Option<String>,
}

/// One watcher, over all its reconnections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    pub watcher: String,
    /// Only keys that begin with this are asked for; empty = all.
    pub prefix: String,
    pub segments: Vec<Segment>,
}

/// One connection: from where, what came, how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    pub node: String,
    /// First index that was asked for.
    pub from: u64,
    pub items: Vec<Item>,
    pub end: End,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Item {
    Event(Change),
    /// Everything up to this index has been delivered.
    Progress(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// The watcher or the trial ended it, or the connection broke.
    Broken,
    /// `from` is no longer in the change log; the watcher lists at `current` or later and goes on
    /// after that.
    Compacted { current: u64 },
    /// The watcher was too slow; everything up to `last` was delivered.
    Lagging { last: u64 },
}

/// Judges every stream against the log.
pub fn check(input: &Input) -> Verdict {
    if input
        .log
        .windows(2)
        .any(|pair| pair[0].index > pair[1].index)
    {
        return Verdict::harness_fault("the change log is not in ascending order");
    }
    let mut by_index: BTreeMap<u64, BTreeSet<&Change>> = BTreeMap::new();
    for change in &input.log {
        by_index.entry(change.index).or_default().insert(change);
    }
    let mut findings = Findings::default();
    let mut n_checked = 0;
    for stream in &input.streams {
        match check_stream(stream, &by_index, &mut findings) {
            Ok(n_delivered) => n_checked += n_delivered,
            Err(verdict) => return verdict,
        }
    }
    findings.into_verdict(n_checked)
}

/// Returns how many events and progress marks were judged.
fn check_stream(
    stream: &Stream,
    log: &BTreeMap<u64, BTreeSet<&Change>>,
    findings: &mut Findings,
) -> Result<u64, Verdict> {
    // Everything up to here is delivered or was given up by an explicit end.
    let mut settled: Option<u64> = None;
    let mut n_checked = 0;
    for (number, segment) in stream.segments.iter().enumerate() {
        let object = format!(
            "{} segment {} on {}",
            stream.watcher,
            number + 1,
            segment.node
        );
        if let Some(settled) = settled
            && segment.from > settled + 1
        {
            let skipped = log.range(settled + 1..segment.from);
            let matching = skipped.flat_map(|(_, changes)| changes);
            let n_matching = matching
                .filter(|c| c.key.starts_with(&stream.prefix))
                .count();
            let what = format!(
                "resumed from {} although delivered up to {settled} only: {n_matching} changes \
                 between them are lost",
                segment.from
            );
            findings.add(Evidence::new(&object, what));
        }
        let mut check = SegmentCheck::new(stream, segment, log, object);
        let delivered = check.run(findings)?;
        n_checked += segment.items.len() as u64;
        settled = match segment.end {
            // A segment that breaks before its first item moves nothing.
            End::Broken => Some(delivered.max(settled.unwrap_or(0))),
            // It lists at an index of its own, and goes on after that.
            End::Compacted { .. } => None,
            End::Lagging { last } => Some(last),
        };
    }
    Ok(n_checked)
}

#[cfg(test)]
#[path = "watch_test.rs"]
mod tests;
