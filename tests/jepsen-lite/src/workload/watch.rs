//! W7: watchers on every node, cancelled and resumed at random, beside writers and faults.
//!
//! ```text
//! registers ──► log ──► node1 ─► pinned watchers  ─┐
//!                       node2 ─► pinned watchers  ─┼─► streams ─► C7
//!                       node3 ─► roaming watchers ─┘
//! ```
//!
//! There is no log to be had from outside, so the reference is what all streams together saw, and
//! every acknowledged write, by its index: an event that all streams miss is found by the latter.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use anyhow::Context;
use nihilo_client::Client;
use nihilo_sim::checker::watch::{self, Change, End, Input, Item, Segment, Stream};
use nihilo_sim::checker::{Evidence, Report};
use nihilo_wire::serving as pb;
use pb::serving_service_client::ServingServiceClient;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::register::{Acked, Book, LABEL, Registers};
use super::services::{NAMESPACE, shown};
use crate::backend::{N_NODES, NodeIndex};
use crate::clock::{at, pause};
use crate::judge::{node_name, verdict};
use crate::nemesis::faults::Nemesis;
use crate::seed::Random;
use crate::trial::Trial;

const PINNED_PER_NODE: usize = 2;
const N_ROAMING: usize = 2;
/// How far from now a watch may begin, both ways.
pub(crate) const START_WITHIN: u64 = 100;
/// Until a watcher cancels its stream.
pub(crate) const CANCEL_MIN_MS: u64 = 1_500;
pub(crate) const CANCEL_MAX_MS: u64 = 9_000;
pub(crate) const AFTER_FAILURE: Duration = Duration::from_millis(100);
/// A peer that is silent for twice as long is taken for dead.
const KEEPALIVE: Duration = Duration::from_secs(2);
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// From the last write until every watcher has seen it.
pub(crate) const CATCH_UP_LIMIT: Duration = Duration::from_secs(30);
/// Events of one watcher, so that a trial's memory has an end.
pub(crate) const MAX_ITEMS: usize = 200_000;
const BETWEEN_FAULTS_MIN_MS: u64 = 2_000;
const BETWEEN_FAULTS_MAX_MS: u64 = 6_000;
/// Every acknowledged write is an event of its index.
const ACKED_SEEN: &str = "C7 acknowledged writes are events";

/// Writes and watches for `length` while `nemesis` strikes.
///
/// # Errors
/// The harness broke, or the cluster did not become whole again.
pub async fn run(
    trial: &mut Trial,
    nemesis: Nemesis,
    length: Duration,
    random: &mut Random,
) -> anyhow::Result<Report> {
    let watchers = Watchers::start(trial, random).await?;
    let registers = Registers::start(trial, "r", random)?;
    let end = Instant::now() + length;
    while Instant::now() < end {
        let between = random.between(BETWEEN_FAULTS_MIN_MS, BETWEEN_FAULTS_MAX_MS);
        pause(Duration::from_millis(between)).await;
        nemesis.strike(trial, "r0", random).await?;
    }
    let book = registers.stop(trial).await?;
    let mut report = book.judged(&trial.options.folder);
    report
        .checks
        .extend(watchers.stop(trial, &book).await?.checks);
    Ok(report)
}

/// Watchers that run until they are stopped.
#[derive(Debug)]
pub struct Watchers {
    /// The index up to which everything is to be seen, once it is known.
    last: tokio::sync::watch::Sender<Option<u64>>,
    tasks: JoinSet<Stream>,
    /// Writes before it may be older than any watch.
    first: u64,
}

impl Watchers {
    /// # Errors
    /// No node answers.
    pub async fn start(trial: &Trial, random: &mut Random) -> anyhow::Result<Self> {
        let now = version(&trial.admin()?).await?;
        let (last, is_last) = tokio::sync::watch::channel(None);
        let mut tasks = JoinSet::new();
        for (number, nodes) in asked().into_iter().enumerate() {
            let servers: Result<_, _> = nodes.iter().map(|node| channel(trial, *node)).collect();
            let of_services = number % 2 == 0;
            let after = match random.between(0, 3) {
                0 => now,
                1 => now.saturating_sub(random.between(1, START_WITHIN)).max(1),
                _ => now + random.between(1, START_WITHIN),
            };
            let watcher = Watcher {
                name: format!("watcher{}", number + 1),
                client: trial.cluster.client(&nodes)?,
                servers: servers?,
                nodes,
                kind: if of_services { "Service" } else { "" },
                after,
                random: random.fork(),
                last: is_last.clone(),
            };
            tasks.spawn(watcher.run());
        }
        Ok(Self {
            last,
            tasks,
            first: now + START_WITHIN,
        })
    }

    /// Waits until all have seen the last write, and judges what they saw.
    ///
    /// # Errors
    /// No node answers.
    pub async fn stop(mut self, trial: &Trial, book: &Book) -> anyhow::Result<Report> {
        let last = version(&trial.admin()?).await?;
        self.last.send_replace(Some(last));
        let mut streams = Vec::new();
        let deadline = Instant::now() + CATCH_UP_LIMIT;
        let mut n_late = 0;
        loop {
            match tokio::time::timeout_at(deadline, self.tasks.join_next()).await {
                Ok(Some(stream)) => streams.push(stream?),
                Ok(None) => break,
                Err(_elapsed) => {
                    n_late = self.tasks.len();
                    // Whatever they have seen is judged.
                    self.last.send_replace(Some(0));
                    while let Some(stream) = self.tasks.join_next().await {
                        streams.push(stream?);
                    }
                    break;
                }
            }
        }
        let mut report = judged(streams, &book.acked(), self.first, Acked::is);
        if n_late > 0 {
            let what = format!("{n_late} watchers did not reach index {last} in time");
            let verdict = verdict(vec![Evidence::new("watch", what)], 1, Vec::new());
            report.add("C7 progress", verdict);
        }
        Ok(report)
    }
}

/// Whom each watcher asks: some stay with one node, some move on.
fn asked() -> Vec<Vec<NodeIndex>> {
    let pinned = (0..N_NODES).flat_map(|node| vec![vec![node]; PINNED_PER_NODE]);
    pinned
        .chain(vec![(0..N_NODES).collect(); N_ROAMING])
        .collect()
}

async fn version(client: &Client) -> anyhow::Result<u64> {
    let listed = client.services(Some(NAMESPACE), "").await;
    let listed = listed.map_err(|error| anyhow::anyhow!(shown(&error)))?;
    Ok(listed.resource_version)
}

fn channel(trial: &Trial, node: NodeIndex) -> anyhow::Result<Channel> {
    let address = trial.cluster.nodes[node].config.admin_address();
    let endpoint = Endpoint::from_shared(format!("http://{address}")).context("an address")?;
    Ok(endpoint
        .connect_timeout(CONNECT_LIMIT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
        .connect_lazy())
}

#[derive(Debug)]
struct Watcher {
    name: String,
    client: Client,
    servers: Vec<Channel>,
    nodes: Vec<NodeIndex>,
    /// Empty = all kinds.
    kind: &'static str,
    /// Everything up to here was delivered, or not asked for.
    after: u64,
    random: Random,
    last: tokio::sync::watch::Receiver<Option<u64>>,
}

/// What a stream was left with.
enum Left {
    /// All there will be.
    Done,
    GoOn,
    Compacted,
}

impl Watcher {
    async fn run(mut self) -> Stream {
        let prefix = match self.kind {
            "" => String::new(),
            kind => format!("{kind}/"),
        };
        let mut stream = Stream {
            watcher: self.name.clone(),
            prefix,
            segments: Vec::new(),
        };
        let mut n_items = 0;
        // What a node that lets nobody watch leaves open is late, and judged so.
        while n_items < MAX_ITEMS && *self.last.borrow() != Some(0) {
            let turn = self.random.between(0, self.nodes.len() as u64);
            let turn = usize::try_from(turn).unwrap_or(0);
            let Some((segment, left)) = self.segment(turn).await else {
                pause(AFTER_FAILURE).await;
                continue;
            };
            n_items += segment.items.len();
            self.after = resume_after(&segment, self.after);
            stream.segments.push(segment);
            match left {
                Left::Done => break,
                Left::GoOn => {}
                Left::Compacted => match version(&self.client).await {
                    Ok(version) => self.after = version,
                    Err(_) => pause(AFTER_FAILURE).await,
                },
            }
        }
        stream
    }

    /// One stream from its first event to its end; `None` if none came about.
    async fn segment(&mut self, turn: usize) -> Option<(Segment, Left)> {
        let mut client = ServingServiceClient::new(self.servers[turn].clone());
        let request = pb::WatchRequest {
            kind: self.kind.to_owned(),
            resource_version: self.after,
            ..pb::WatchRequest::default()
        };
        let mut segment = Segment {
            node: node_name(self.nodes[turn]),
            from: self.after + 1,
            items: Vec::new(),
            end: End::Broken,
        };
        let opened = tokio::time::timeout(CONNECT_LIMIT, client.watch(request)).await;
        let mut events = match opened {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => {
                segment.end = end(&status)?;
                return Some((segment, Left::Compacted));
            }
            Err(_elapsed) => return None,
        };
        let cancel_ms = self.random.between(CANCEL_MIN_MS, CANCEL_MAX_MS);
        let cancel = Instant::now() + Duration::from_millis(cancel_ms);
        loop {
            let message = tokio::select! {
                biased;
                message = events.message() => message,
                () = at(cancel) => {
                    let left = self.left(&segment);
                    return Some((segment, left));
                }
            };
            match message {
                Ok(Some(event)) => {
                    let item = item(event);
                    segment.items.push(item);
                    if let Left::Done = self.left(&segment) {
                        return Some((segment, Left::Done));
                    }
                }
                Ok(None) => return Some((segment, Left::GoOn)),
                Err(status) => {
                    segment.end = end(&status).unwrap_or(End::Broken);
                    let left = match segment.end {
                        End::Compacted { .. } => Left::Compacted,
                        End::Broken | End::Lagging { .. } => Left::GoOn,
                    };
                    return Some((segment, left));
                }
            }
        }
    }

    /// Only a progress mark says that an index is over.
    fn left(&self, segment: &Segment) -> Left {
        let seen = resume_after(segment, self.after);
        match *self.last.borrow() {
            Some(last) if seen >= last => Left::Done,
            _ => Left::GoOn,
        }
    }
}

/// The last index may have been cut in two, so it is asked for again.
fn resume_after(segment: &Segment, before: u64) -> u64 {
    if let End::Lagging { last } = segment.end {
        return last;
    }
    match segment.items.last() {
        Some(Item::Progress(index)) => *index,
        Some(Item::Event(change)) => change.index - 1,
        None => before,
    }
}

fn item(event: pb::WatchEvent) -> Item {
    if event.r#type() == pb::watch_event::Type::Bookmark {
        return Item::Progress(event.index);
    }
    let is_deleted = event.r#type() == pb::watch_event::Type::Deleted;
    let object: serde_json::Value = serde_json::from_slice(&event.json).unwrap_or_default();
    let metadata = &object["metadata"];
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let (namespace, name) = (text(&metadata["namespace"]), text(&metadata["name"]));
    let mut hasher = DefaultHasher::new();
    event.json.hash(&mut hasher);
    let label = text(&metadata["labels"][LABEL]);
    Item::Event(Change {
        index: event.index,
        key: format!("{}/{namespace}/{name}", event.kind),
        value: (!is_deleted).then(|| format!("{label} {:016x}", hasher.finish())),
    })
}

/// An explicit end; `None` = the connection broke, or none came about.
fn end(status: &Status) -> Option<End> {
    if status.code() != Code::OutOfRange {
        return None;
    }
    // The text is all that carries the index: `… (now 41)`, `… resume from 41`.
    let digits = status.message().split(|c: char| !c.is_ascii_digit());
    let index = digits
        .filter_map(|digits| digits.parse().ok())
        .next_back()?;
    Some(match status.message().contains("too old") {
        true => End::Compacted { current: index },
        false => End::Lagging { last: index },
    })
}

/// Every change that a stream saw.
pub(crate) fn changes<'a>(streams: impl IntoIterator<Item = &'a Stream>) -> BTreeSet<Change> {
    let segments = streams.into_iter().flat_map(|stream| &stream.segments);
    let items = segments.flat_map(|segment| &segment.items);
    let changes = items.filter_map(|item| match item {
        Item::Event(change) => Some(change.clone()),
        Item::Progress(_) => None,
    });
    changes.collect()
}

/// Judges streams against each other, and against what was acknowledged after the index `first`;
/// `is` tells whether a write is a change.
pub(crate) fn judged(
    streams: Vec<Stream>,
    acked: &[Acked],
    first: u64,
    is: fn(&Acked, &Change) -> bool,
) -> Report {
    let mut report = Report::default();
    let log = changes(&streams);
    let seen = |write: &&Acked| {
        let mut changes = log.range(of_index(write.index)..of_index(write.index + 1));
        changes.any(|change| is(write, change))
    };
    let of_interest = || acked.iter().filter(|write| write.index > first);
    let missed = of_interest().filter(|write| !seen(write));
    let missed = missed.map(|write| {
        let what = format!("acknowledged at index {}, and no watch saw it", write.index);
        Evidence::new(&write.key, what)
    });
    let missed = missed.collect();
    let n_acked = of_interest().count() as u64;
    report.add(ACKED_SEEN, verdict(missed, n_acked, Vec::new()));
    let input = Input {
        log: log.into_iter().collect(),
        streams,
    };
    report.add(watch::NAME, watch::check(&input));
    report
}

/// Before every change of that index.
fn of_index(index: u64) -> Change {
    Change {
        index,
        key: String::new(),
        value: None,
    }
}

impl Acked {
    fn is(&self, change: &Change) -> bool {
        let label = change.value.as_deref();
        let label = label.map(|value| value.split(' ').next().unwrap_or_default());
        change.key == format!("Service/{}", self.key) && label == self.value.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use nihilo_sim::checker::Class;

    use super::*;

    fn change(index: u64, value: Option<&str>) -> Change {
        Change {
            index,
            key: "Service/default/r1".into(),
            value: value.map(str::to_owned),
        }
    }

    fn class(seen: &[Change], acked: &[Acked]) -> Class {
        let items = seen.iter().cloned().map(Item::Event).collect();
        let stream = Stream {
            watcher: "w".into(),
            prefix: String::new(),
            segments: vec![Segment {
                node: "node1".into(),
                from: 1,
                items,
                end: End::Broken,
            }],
        };
        judged(vec![stream], acked, 0, Acked::is).class()
    }

    #[test]
    fn a_write_that_no_watch_saw_is_found() {
        let acked = |index, value: Option<&str>| Acked {
            at_ns: 0,
            index,
            key: "default/r1".into(),
            value: value.map(str::to_owned),
        };
        let seen = [change(3, Some("v1 aa")), change(5, None)];
        let both = [acked(3, Some("v1")), acked(5, None)];
        assert_eq!(class(&seen, &both), Class::Pass);
        assert_eq!(class(&seen[..1], &both), Class::Violation);
        assert_eq!(class(&seen, &[acked(4, Some("v1"))]), Class::Violation);
        assert_eq!(class(&seen, &[acked(3, Some("v2"))]), Class::Violation);
    }

    #[test]
    fn ends_are_told_apart() {
        let too_old = Status::out_of_range("version is too old; list again (now 41)");
        assert_eq!(end(&too_old), Some(End::Compacted { current: 41 }));
        let slow = Status::out_of_range("the watcher is too slow; resume from 7");
        assert_eq!(end(&slow), Some(End::Lagging { last: 7 }));
        assert_eq!(end(&Status::unavailable("7")), None);
    }
}
