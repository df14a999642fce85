//! Watchers as in W7: some only take events, some also ask how far their watch is.

use std::time::Duration;

use nihilo_sim::checker::watch::{self, Change, End, Input, Item, Segment, Stream};
use nihilo_sim::checker::{Evidence, Report};
use tokio::sync::watch as level;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::client::{Member, Watch, positive, revision};
use super::cluster::Cluster;
use super::expected::{Judged, Known};
use super::messages::{Event, WatchResponse};
use crate::backend::{N_NODES, NodeIndex};
use crate::clock::{at, pause};
use crate::judge::{node_name, verdict};
use crate::seed::Random;
use crate::workload::register::{Acked, OP_LIMIT, asked};
use crate::workload::watch::{
    AFTER_FAILURE, CANCEL_MAX_MS, CANCEL_MIN_MS, CATCH_UP_LIMIT, MAX_ITEMS, START_WITHIN, changes,
    judged,
};

/// Watches that ask for marks begin with the first revision each time, and end soon.
const ASKING_MIN_MS: u64 = 300;
const ASKING_MAX_MS: u64 = 1_000;
const ASK_EVERY: Duration = Duration::from_millis(50);
/// They see the same events again and again.
const MAX_ITEMS_ASKING: usize = 20_000;

/// Watchers that run until they are stopped.
#[derive(Debug)]
pub(super) struct Watchers {
    /// The revision up to which everything is to be seen, once it is known; 0 = give up.
    last: level::Sender<Option<u64>>,
    tasks: JoinSet<(bool, Stream)>,
}

impl Watchers {
    pub(super) fn start(
        cluster: &Cluster,
        prefix: &str,
        random: &mut Random,
    ) -> anyhow::Result<Self> {
        let (last, is_last) = level::channel(None);
        let mut tasks = JoinSet::new();
        let plain = asked().into_iter().map(|nodes| (false, nodes));
        let asking = (0..N_NODES).map(|node| (true, vec![node]));
        for (number, (asks, nodes)) in plain.chain(asking).enumerate() {
            let members = nodes.iter().map(|node| cluster.member(*node, OP_LIMIT));
            let watcher = Watcher {
                members: members.collect::<Result<_, _>>()?,
                nodes,
                asks,
                // Some ask for one key's changes only.
                prefix: match number % 2 {
                    0 => prefix.to_owned(),
                    _ => format!("{prefix}0"),
                },
                next: match asks {
                    true => 1,
                    false => random.between(1, START_WITHIN),
                },
                random: random.fork(),
                last: is_last.clone(),
            };
            tasks.spawn(watcher.run(format!("watcher{}", number + 1)));
        }
        Ok(Self { last, tasks })
    }

    /// Writes a last change that all watch for, waits until they have seen it, and judges.
    pub(super) async fn stop(
        mut self,
        cluster: &Cluster,
        acked: &[Acked],
        prefix: &str,
        marks: Known,
    ) -> anyhow::Result<Vec<Judged>> {
        let last = cluster.member(0, OP_LIMIT)?;
        let last = last.put(&format!("{prefix}0-end"), "end").await?;
        self.last.send_replace(Some(last));
        let deadline = Instant::now() + CATCH_UP_LIMIT;
        let (mut plain, mut asking, mut n_late) = (Vec::new(), Vec::new(), 0);
        loop {
            let limit = at(deadline);
            let joined = tokio::select! {
                joined = self.tasks.join_next() => joined,
                () = limit, if n_late == 0 => {
                    n_late = self.tasks.len();
                    // Whatever they have seen is judged.
                    self.last.send_replace(Some(0));
                    continue;
                }
            };
            match joined.transpose()? {
                Some((true, stream)) => asking.push(stream),
                Some((false, stream)) => plain.push(stream),
                None => break,
            }
        }
        let mut verdicts = verdicts(plain, asking, acked, marks);
        if n_late > 0 {
            let what = format!("{n_late} watchers did not reach revision {last} in time");
            let late = verdict(vec![Evidence::new("watch", what)], 1, Vec::new());
            verdicts[0].report.add("C7 progress", late);
        }
        Ok(verdicts)
    }
}

fn verdicts(plain: Vec<Stream>, asking: Vec<Stream>, acked: &[Acked], marks: Known) -> Vec<Judged> {
    let log = changes(plain.iter().chain(&asking)).into_iter().collect();
    let mut of_marks = Report::default();
    let input = Input {
        log,
        streams: asking,
    };
    of_marks.add(watch::NAME, watch::check(&input));
    vec![
        Judged {
            what: "watches",
            known: Known::Sound,
            report: judged(plain, acked, START_WITHIN, is),
        },
        Judged {
            what: "watches that ask for progress marks",
            known: marks,
            report: of_marks,
        },
    ]
}

fn is(write: &Acked, change: &Change) -> bool {
    change.key == write.key && change.value == write.value
}

struct Watcher {
    members: Vec<Member>,
    nodes: Vec<NodeIndex>,
    asks: bool,
    prefix: String,
    /// First revision that was not seen.
    next: u64,
    random: Random,
    last: level::Receiver<Option<u64>>,
}

impl Watcher {
    async fn run(mut self, name: String) -> (bool, Stream) {
        let mut stream = Stream {
            watcher: name,
            prefix: self.prefix.clone(),
            segments: Vec::new(),
        };
        let mut n_items = 0;
        let max_items = match self.asks {
            true => MAX_ITEMS_ASKING,
            false => MAX_ITEMS,
        };
        while n_items < max_items && !self.is_done() {
            let turn = self.random.between(0, self.nodes.len() as u64);
            let turn = usize::try_from(turn).unwrap_or(0);
            let opened = self.members[turn].watch(&self.prefix, self.next).await;
            let Ok(open) = opened else {
                pause(AFTER_FAILURE).await;
                continue;
            };
            let segment = self.segment(turn, open).await;
            n_items += segment.items.len();
            stream.segments.push(segment);
        }
        (self.asks, stream)
    }

    fn is_done(&self) -> bool {
        let last = *self.last.borrow();
        // Who begins anew each time has seen enough when the others have.
        last.is_some_and(|last| self.asks || self.next > last)
    }

    /// What comes until a random moment, an error, or the last revision.
    async fn segment(&mut self, turn: usize, mut open: Watch) -> Segment {
        let mut segment = Segment {
            node: node_name(self.nodes[turn]),
            from: self.next,
            items: Vec::new(),
            end: End::Broken,
        };
        let (min_ms, max_ms) = match self.asks {
            true => (ASKING_MIN_MS, ASKING_MAX_MS),
            false => (CANCEL_MIN_MS, CANCEL_MAX_MS),
        };
        let ms = self.random.between(min_ms, max_ms);
        let cancel = Instant::now() + Duration::from_millis(ms);
        let mut ask = tokio::time::interval(ASK_EVERY);
        loop {
            let answer = tokio::select! {
                answer = open.answers.message() => answer,
                _ = ask.tick(), if self.asks => {
                    open.ask_for_progress();
                    continue;
                }
                () = at(cancel) => return segment,
            };
            match answer {
                Ok(Some(answer)) if !answer.canceled => segment.items.extend(items(answer)),
                _ => return segment,
            }
            if !self.asks {
                self.next = resume_from(&segment);
            }
            if self.is_done() {
                return segment;
            }
        }
    }
}

/// A revision's events come together, so that it is over with the first of them.
fn resume_from(segment: &Segment) -> u64 {
    match segment.items.last() {
        Some(Item::Event(change)) => change.index + 1,
        Some(Item::Progress(_)) | None => segment.from,
    }
}

fn items(answer: WatchResponse) -> Vec<Item> {
    if answer.created {
        return Vec::new();
    }
    if answer.events.is_empty() {
        return vec![Item::Progress(revision(answer.header.as_ref()))];
    }
    answer.events.into_iter().filter_map(item).collect()
}

fn item(event: Event) -> Option<Item> {
    let kv = event.kv?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some(Item::Event(Change {
        index: positive(kv.mod_revision),
        key: text(&kv.key),
        value: (event.kind != Event::DELETE).then(|| text(&kv.value)),
    }))
}

#[cfg(test)]
mod tests {
    use nihilo_sim::checker::Class;

    use super::super::messages::{KeyValue, ResponseHeader};
    use super::*;

    fn answer(revision: i64, events: Vec<Event>) -> WatchResponse {
        WatchResponse {
            header: Some(ResponseHeader {
                member_id: 1,
                revision,
            }),
            events,
            ..WatchResponse::default()
        }
    }

    fn put(revision: i64) -> Event {
        Event {
            kind: 0,
            kv: Some(KeyValue {
                key: b"r0-0".to_vec(),
                mod_revision: revision,
                value: b"v".to_vec(),
            }),
        }
    }

    fn stream(answers: Vec<WatchResponse>) -> Vec<Stream> {
        let segment = Segment {
            node: "node1".into(),
            from: 1,
            items: answers.into_iter().flat_map(items).collect(),
            end: End::Broken,
        };
        vec![Stream {
            watcher: "w".into(),
            prefix: "r".into(),
            segments: vec![segment],
        }]
    }

    #[test]
    fn a_mark_ahead_of_its_events_is_found_and_one_after_them_is_not() {
        let events = || answer(3, vec![put(2), put(3)]);
        let created = || WatchResponse {
            created: true,
            ..answer(3, Vec::new())
        };
        let mark = || answer(3, Vec::new());
        let class = |asking: Vec<WatchResponse>| {
            let plain = stream(vec![created(), events()]);
            let verdicts = verdicts(plain, stream(asking), &[], Known::Wrong);
            verdicts[1].report.class()
        };
        assert_eq!(class(vec![created(), mark(), events()]), Class::Violation);
        assert_eq!(class(vec![created(), events(), mark()]), Class::Pass);
    }

    #[test]
    fn a_watch_is_resumed_after_the_last_event() {
        let seen = stream(vec![answer(9, vec![put(2), put(7)])]);
        assert_eq!(resume_from(&seen[0].segments[0]), 8);
    }
}
