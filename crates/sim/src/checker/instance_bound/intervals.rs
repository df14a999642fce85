//! From start/stop records to the time that each instance ran.

use std::collections::BTreeMap;
use std::fmt;

use crate::checker::instance_bound::{NodeRecords, SeenEmpty};
use crate::checker::verdict::Evidence;
use crate::history::shown::seconds;
use crate::history::startstop::{StartStopEvent, StartStopRecord};

/// One life of an instance on one node, `[spawn, end)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interval {
    pub(super) node: String,
    pub(super) instance: String,
    pub(super) epoch: u64,
    pub(super) spawn_ns: u64,
    /// `None` = nobody saw it end: it runs for ever.
    pub(super) end_ns: Option<u64>,
    pub(super) pid: Option<u32>,
}

impl Interval {
    pub(super) fn is_in_doubt(&self) -> bool {
        self.end_ns.is_none()
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` on node `{}`, epoch {}, from {} to {}",
            self.instance,
            self.node,
            self.epoch,
            seconds(self.spawn_ns),
            self.end_ns.map_or("in doubt".to_owned(), seconds),
        )
    }
}

/// What the records say: who ran when, and which ids were given out twice.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    pub(super) intervals: Vec<Interval>,
    pub(super) started_twice: Vec<Evidence>,
}

/// Replays every node's records.
///
/// # Errors
/// A log whose beginning is missing: an end or a pid without its start. The text says which.
pub(super) fn replay(nodes: &[NodeRecords], seen_empty: &[SeenEmpty]) -> Result<Replayed, String> {
    let mut intervals = Vec::new();
    for NodeRecords { node, records } in nodes {
        let empty_ns = seen_empty.iter().filter(|seen| seen.node == *node);
        let mut empty_ns: Vec<u64> = empty_ns.map(|seen| seen.at_ns).collect();
        empty_ns.sort_unstable();
        let mut replay = NodeReplay {
            node,
            empty_ns: &empty_ns,
            running: Vec::new(),
            ended: Vec::new(),
        };
        for record in records {
            replay.take(record)?;
        }
        intervals.extend(replay.finish());
    }
    intervals.sort_by_key(|interval| interval.spawn_ns);
    Ok(Replayed {
        started_twice: started_twice(&intervals),
        intervals,
    })
}

/// An instance id is unique for ever (03-actors §4): a counter that went back gives one out again.
fn started_twice(intervals: &[Interval]) -> Vec<Evidence> {
    let mut first: BTreeMap<&str, &Interval> = BTreeMap::new();
    let mut twice = Vec::new();
    for interval in intervals {
        if let Some(earlier) = first.get(interval.instance.as_str()) {
            twice.push(
                Evidence::new(&interval.instance, "was started a second time under one id")
                    .at(interval.spawn_ns)
                    .witness(earlier)
                    .witness(interval),
            );
        } else {
            first.insert(&interval.instance, interval);
        }
    }
    twice
}

struct NodeReplay<'a> {
    node: &'a str,
    /// When the node was seen without instances, oldest first.
    empty_ns: &'a [u64],
    running: Vec<Interval>,
    ended: Vec<Interval>,
}

impl NodeReplay<'_> {
    fn take(&mut self, record: &StartStopRecord) -> Result<(), String> {
        self.end_seen_empty(record.boottime_ns);
        match record.event {
            StartStopEvent::Spawn => {
                self.running.push(Interval {
                    node: self.node.to_owned(),
                    instance: record.instance.clone(),
                    epoch: record.epoch,
                    spawn_ns: record.boottime_ns,
                    end_ns: None,
                    pid: None,
                });
            }
            StartStopEvent::Spawned => match self.position(record) {
                Some(at) => self.running[at].pid = record.pid,
                None => return Err(self.fault(record, "has a pid before its start")),
            },
            StartStopEvent::Exit => match self.position(record) {
                Some(at) => {
                    let mut interval = self.running.swap_remove(at);
                    interval.end_ns = Some(record.boottime_ns);
                    self.ended.push(interval);
                }
                // An agent that came back reports what ended while it was away; the process table
                // may have shown that before.
                None if self.has_ended(record) => {}
                None => return Err(self.fault(record, "ends without a start")),
            },
        }
        Ok(())
    }

    /// The running interval that a record belongs to: by pid where both have one.
    fn position(&self, record: &StartStopRecord) -> Option<usize> {
        let is_it = |interval: &Interval| {
            let same_pid = interval.pid.is_none() || interval.pid == record.pid;
            interval.instance == record.instance && same_pid
        };
        let by_pid = self.running.iter().position(is_it);
        by_pid.or_else(|| {
            let same_instance = |interval: &Interval| interval.instance == record.instance;
            self.running.iter().position(same_instance)
        })
    }

    fn has_ended(&self, record: &StartStopRecord) -> bool {
        self.ended
            .iter()
            .any(|interval| interval.instance == record.instance)
    }

    /// Ends what was running when the node was seen empty before `now_ns`.
    fn end_seen_empty(&mut self, now_ns: u64) {
        let n_past = self.empty_ns.partition_point(|&at_ns| at_ns <= now_ns);
        let (past, later) = self.empty_ns.split_at(n_past);
        self.empty_ns = later;
        for &at_ns in past {
            let (ended, running) = std::mem::take(&mut self.running)
                .into_iter()
                .partition(|interval| interval.spawn_ns <= at_ns);
            self.running = running;
            let ended: Vec<Interval> = ended;
            self.ended
                .extend(ended.into_iter().map(|interval| Interval {
                    end_ns: Some(at_ns),
                    ..interval
                }));
        }
    }

    fn fault(&self, record: &StartStopRecord, what: &str) -> String {
        format!(
            "start/stop log of node `{}`: `{}` {what} at {}",
            self.node,
            record.instance,
            seconds(record.boottime_ns)
        )
    }

    fn finish(mut self) -> Vec<Interval> {
        self.end_seen_empty(u64::MAX);
        self.ended.append(&mut self.running);
        self.ended
    }
}
