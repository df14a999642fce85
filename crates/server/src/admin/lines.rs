//! Output of instances gathered from all nodes, as one stream in which each line is once.
//!
//! ```text
//! each member ── asked ─ answers ──> its lines ─ the stream breaks ─> said, and asked again where followed
//!                  └──── does not ─> said: its lines are missing
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nihilo_machine::State;
use nihilo_raft::RaftNode;
use nihilo_wire::internal::{self, agent_client::AgentClient};
use nihilo_wire::serving as pb;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use crate::peer::channels::Channels;

const ASK_LIMIT: Duration = Duration::from_secs(1);
/// Before a node that did not answer, or is new, is asked.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Lines of all nodes together that are read before they are asked for.
const LINES_AHEAD: usize = 64;
/// Instances of one node whose last line is remembered, for the time after a stream of it broke.
const MAX_REMEMBERED: usize = 4_096;

type Lines = mpsc::Sender<Result<pb::LogLine, Status>>;

#[derive(Debug, Clone)]
pub(super) struct Gathering {
    pub(super) raft: RaftNode,
    pub(super) channels: Channels,
    pub(super) ask: internal::LogsRequest,
}

/// Whom to ask.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    id: u64,
    name: String,
    peer_address: String,
}

/// Why nothing more comes from a node.
enum End {
    /// It has said everything.
    Done,
    Broken(String),
    /// Nobody reads any more.
    Unread,
}

impl Gathering {
    /// Ends with the last line, unless it follows; with whoever reads it in any case.
    pub(super) fn begin(self) -> mpsc::Receiver<Result<pb::LogLine, Status>> {
        let (lines, read) = mpsc::channel(LINES_AHEAD);
        nihilo_actors::task::spawn("lines", self.of_all(lines));
        read
    }

    async fn of_all(self, lines: Lines) {
        let mut asked = BTreeSet::new();
        loop {
            for place in self.raft.state().read(members) {
                if asked.insert(place.id) {
                    let of_one = self.clone().of_one(place, lines.clone());
                    nihilo_actors::task::spawn("lines-of-node", of_one);
                }
            }
            if !self.ask.follow {
                return;
            }
            // Nodes may join.
            if !is_read_on(&lines).await {
                return;
            }
        }
    }

    async fn of_one(self, mut place: Place, lines: Lines) {
        let mut seen = Seen::default();
        let mut is_missing = false;
        loop {
            let end = match self.attach(&place).await {
                Ok(stream) => {
                    if std::mem::take(&mut is_missing) {
                        let back = format!("{} answers again: what it says is shown", place.name);
                        drop(lines.send(Ok(remark(&place, back))).await);
                    }
                    pass_on(stream, &place, &mut seen, &lines).await
                }
                Err(why) => End::Broken(why),
            };
            let why = match end {
                End::Unread => return,
                End::Done if !self.ask.follow => return,
                // Of an older build that runs nothing of it now.
                End::Done => None,
                End::Broken(why) => Some(why),
            };
            if let Some(why) = why
                && !std::mem::replace(&mut is_missing, true)
            {
                let missing = format!("no lines from {}: {why}", place.name);
                drop(lines.send(Ok(remark(&place, missing))).await);
            }
            if !self.ask.follow || !is_read_on(&lines).await {
                return;
            }
            let known = self.raft.state().read(members);
            match known.into_iter().find(|known| known.id == place.id) {
                Some(known) => place = known,
                // Removed from the cluster: nothing will come.
                None => return,
            }
        }
    }

    async fn attach(&self, place: &Place) -> Result<Streaming<internal::LogRecord>, String> {
        let channel = self.channels.to(&place.peer_address);
        let mut client = AgentClient::new(channel.map_err(|error| error.to_string())?);
        let call = client.logs(self.ask.clone());
        match tokio::time::timeout(ASK_LIMIT, call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(status.message().to_owned()),
            Err(_) => Err(format!("it does not answer within {ASK_LIMIT:?}")),
        }
    }
}

/// After a pause: whether anybody is still there to read.
async fn is_read_on(lines: &Lines) -> bool {
    tokio::select! {
        biased;
        () = lines.closed() => false,
        () = tokio::time::sleep(ASK_AGAIN_AFTER) => true,
    }
}

/// Every node that belongs to the cluster, where it was last known to be: one without a session may
/// answer all the same.
fn members(state: &State) -> Vec<Place> {
    let sessions: BTreeMap<_, _> = state
        .sessions()
        .map(|session| (session.opened.node, session.opened.peer_address.clone()))
        .collect();
    let present = state.members().filter(|member| !member.is_removed());
    let place = |member: &std::sync::Arc<nihilo_machine::member::Member>| Place {
        id: member.id.0,
        name: member.name.clone(),
        peer_address: sessions
            .get(&member.id)
            .unwrap_or(&member.peer_address)
            .clone(),
    };
    present.map(place).collect()
}

async fn pass_on(
    mut stream: Streaming<internal::LogRecord>,
    place: &Place,
    seen: &mut Seen,
    lines: &Lines,
) -> End {
    seen.attached();
    loop {
        let record = tokio::select! {
            biased;
            () = lines.closed() => return End::Unread,
            record = stream.message() => record,
        };
        if let Ok(Some(record)) = &record
            && seen.is_of_next_program(record)
        {
            let missing = format!(
                "{} restarted: what was said there just before may be missing here, and is in `nihilo logs` \
                 without -f",
                place.name
            );
            drop(lines.send(Ok(remark(place, missing))).await);
        }
        match record {
            Ok(Some(record)) if !seen.is_new(&record) => {}
            Ok(Some(record)) => {
                if lines.send(Ok(line(record))).await.is_err() {
                    return End::Unread;
                }
            }
            Ok(None) => return End::Done,
            Err(status) => return End::Broken(status.message().to_owned()),
        }
    }
}

fn line(record: internal::LogRecord) -> pb::LogLine {
    pb::LogLine {
        instance: record.instance,
        node: record.node,
        at_ms: record.at_ms,
        stderr: record.stderr,
        line: record.line,
        remark: String::new(),
    }
}

fn remark(place: &Place, remark: String) -> pb::LogLine {
    pb::LogLine {
        node: place.name.clone(),
        remark,
        ..pb::LogLine::default()
    }
}

/// The last line that was shown of each instance of one node.
#[derive(Debug, Default)]
struct Seen {
    /// Of the node's program that was heard last.
    run: u64,
    n_records: u64,
    /// By streams that have broken.
    before: BTreeMap<String, Last>,
    now: BTreeMap<String, Last>,
}

#[derive(Debug)]
struct Last {
    run: u64,
    number: u64,
    /// [`Seen::n_records`] of then.
    heard: u64,
}

impl Seen {
    /// A stream begins: what it brings of an instance that one before had may have been shown.
    fn attached(&mut self) {
        self.before.append(&mut self.now);
        forget_quiet(&mut self.before);
    }

    /// True once for each program that took the place of one that was heard.
    fn is_of_next_program(&mut self, record: &internal::LogRecord) -> bool {
        if record.run == 0 {
            return false;
        }
        let before = std::mem::replace(&mut self.run, record.run);
        before != 0 && before != record.run
    }

    fn is_new(&mut self, record: &internal::LogRecord) -> bool {
        let (run, number) = (record.run, record.number);
        if run == 0 {
            // Of an older build, which does not number its lines: better twice than never.
            return true;
        }
        self.n_records += 1;
        let heard = self.n_records;
        let before = self.now.remove(&record.instance);
        let before = before.filter(|last| last.run == run);
        let number_now = before.map_or(number, |last| last.number.max(number));
        let last = Last {
            run,
            number: number_now,
            heard,
        };
        self.now.insert(record.instance.clone(), last);
        forget_quiet(&mut self.now);
        match self.before.get(&record.instance) {
            None => true,
            Some(last) if last.run == run => number > last.number,
            // By the node's next program: the one before had read it, and may have ended before it was
            // shown, which is told once. All of it again would be worse.
            Some(_) => number > 0,
        }
    }
}

/// Those that were silent for longest go, if there are too many.
fn forget_quiet(remembered: &mut BTreeMap<String, Last>) {
    let Some(n_too_many @ 1..) = remembered.len().checked_sub(MAX_REMEMBERED) else {
        return;
    };
    let mut heard: Vec<_> = remembered.values().map(|last| last.heard).collect();
    heard.sort_unstable();
    let oldest = heard[n_too_many];
    remembered.retain(|_, last| last.heard >= oldest);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(instance: &str, run: u64, number: u64) -> internal::LogRecord {
        internal::LogRecord {
            instance: instance.into(),
            run,
            number,
            ..internal::LogRecord::default()
        }
    }

    fn new_ones(seen: &mut Seen, records: &[(&str, u64, u64)]) -> Vec<u64> {
        seen.attached();
        let new = records
            .iter()
            .filter(|(instance, run, number)| seen.is_new(&record(instance, *run, *number)));
        new.map(|(_, _, number)| *number).collect()
    }

    #[test]
    fn a_stream_that_was_opened_again_brings_each_line_once() {
        let mut seen = Seen::default();
        // At first everything is shown, what an earlier program has read included.
        let first = [("a", 1, 0), ("a", 1, 0), ("a", 1, 1), ("a", 1, 2)];
        assert_eq!(new_ones(&mut seen, &first), [0, 0, 1, 2]);
        // The link broke: the same again, and more.
        let again = [("a", 1, 0), ("a", 1, 1), ("a", 1, 2), ("a", 1, 3)];
        assert_eq!(new_ones(&mut seen, &again), [3]);
        // Broke before anything came: what was shown is not forgotten.
        assert_eq!(new_ones(&mut seen, &[]), [0; 0]);
        // Another program, which counts anew, and an instance that nobody has seen.
        let next = [("a", 2, 0), ("a", 2, 0), ("a", 2, 1), ("b", 2, 0)];
        assert_eq!(new_ones(&mut seen, &next), [1, 0]);
        assert_eq!(new_ones(&mut seen, &[("a", 2, 1), ("a", 2, 2)]), [2]);
        // What an older build says has no number, and is shown whenever it comes.
        for _ in 0..2 {
            let older = [("a", 0, 0), ("c", 0, 0)];
            assert_eq!(new_ones(&mut seen, &older), [0, 0]);
        }
    }

    #[test]
    fn each_program_that_follows_another_is_told_once() {
        let mut seen = Seen::default();
        let runs = [0, 7, 7, 0, 8, 8, 7];
        let told = runs.map(|run| seen.is_of_next_program(&record("a", run, 1)));
        let expected = [false, false, false, false, true, false, true];
        assert_eq!(told, expected);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut seen = Seen::default();
        for round in (0..3).rev() {
            for n in 0..MAX_REMEMBERED + 2 {
                seen.is_new(&record(&format!("{round}-{n}"), 1, 1));
            }
            assert_eq!(seen.now.len(), MAX_REMEMBERED);
            seen.attached();
            assert_eq!(seen.before.len(), MAX_REMEMBERED);
            // The last ones are remembered, whatever their names.
            assert!(!seen.is_new(&record(&format!("{round}-{MAX_REMEMBERED}"), 1, 1)));
            assert!(seen.is_new(&record(&format!("{round}-1"), 1, 1)));
        }
    }
}
