//! Output of this node's instances, for whichever node gathers it.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::LazyLock;

use futures_util::stream::{SelectAll, select_all};
use futures_util::{Stream, StreamExt};
use nihilo_control::ports::AgentEvent;
use nihilo_machine::State;
use nihilo_raft::StateHandle;
use nihilo_runtime::Agent;
use nihilo_runtime::logs::{LogLine, Output};
use nihilo_types::id::{InstanceId, ObjectKey};
use nihilo_types::instance::InstanceReport;
use nihilo_wire::internal as pb;
use tokio::sync::mpsc;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tokio_stream::wrappers::{BroadcastStream, ReceiverStream};
use tonic::Status;

use crate::ports::local_events;

/// Lines that are read before they are asked for.
const RECORDS_AHEAD: usize = 64;

pub(super) type Records = Pin<Box<dyn Stream<Item = Result<pb::LogRecord, Status>> + Send>>;

/// This program's, so that its lines are told from those of the one before.
static RUN: LazyLock<u64> = LazyLock::new(rand::random);

/// What is there, and where that is asked for what comes.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) node: String,
    pub(super) agent: Agent,
    pub(super) state: StateHandle,
    pub(super) request: pb::LogsRequest,
}

impl Asked {
    pub(super) fn answer(self) -> Records {
        match (self.request.previous, self.request.follow) {
            (true, _) => self.previous(),
            (false, true) => self.followed(),
            (false, false) => self.kept(),
        }
    }

    fn wanted(&self) -> Vec<(InstanceReport, Output)> {
        let mut all = self.agent.instances();
        all.retain(|(report, _)| self.is_wanted(report));
        all
    }

    fn is_wanted(&self, report: &InstanceReport) -> bool {
        let request = &self.request;
        let is = |wanted: &str, have: &str| wanted.is_empty() || wanted == have;
        is(&request.namespace, &report.revision.namespace)
            && is(&request.revision, &report.revision.name)
            && is(&request.instance, report.id.as_str())
            && (request.service.is_empty()
                || self
                    .state
                    .read(|state| is_of(state, &request.service, &report.revision)))
    }

    /// What memory holds, also of instances that have ended.
    fn kept(self) -> Records {
        let streams = self.wanted().into_iter().map(|(report, output)| {
            let (kept, _) = output.follow();
            let node = self.node.clone();
            let record = move |line| Ok(record(&node, &report.id, line));
            futures_util::stream::iter(kept).map(record)
        });
        select_all(streams).boxed()
    }

    /// Everything that is kept of instances that have ended, one after the other, the oldest first: read
    /// from the disk no faster than it is taken.
    fn previous(self) -> Records {
        let mut ended = self.wanted();
        ended.retain(|(report, _)| report.exit.is_some());
        ended.sort_by_key(|(report, _)| std::cmp::Reverse(report.age_ms));
        let (sender, records) = mpsc::channel(RECORDS_AHEAD);
        tokio::task::spawn_blocking(move || {
            let lines = ended.iter().flat_map(|(report, output)| {
                let lines = output.everything();
                lines.map(|line| record(&self.node, &report.id, line))
            });
            for line in lines {
                if sender.blocking_send(Ok(line)).is_err() {
                    // Whoever asked has gone.
                    return;
                }
            }
        });
        ReceiverStream::new(records).boxed()
    }

    /// Of all that run, and of all that are started from now on.
    fn followed(self) -> Records {
        let (sender, records) = mpsc::channel(RECORDS_AHEAD);
        nihilo_actors::task::spawn("logs", self.follow(sender));
        ReceiverStream::new(records).boxed()
    }

    async fn follow(self, sender: mpsc::Sender<Result<pb::LogRecord, Status>>) {
        // Before the look at what there is: nothing is between the two.
        let mut events = local_events(&self.agent);
        let mut known = BTreeSet::new();
        let mut lines = SelectAll::new();
        for (report, output) in self.wanted() {
            if report.exit.is_none() {
                lines.push(of_one(&self.node, &report.id, &output));
            }
            known.insert(report.id);
        }
        loop {
            // Events first, as there are few: who says much must not keep others from being taken in.
            tokio::select! {
                biased;
                () = sender.closed() => return,
                event = events.next() => match event {
                    Some(AgentEvent::Report(report)) if known.contains(&report.id) => {}
                    Some(AgentEvent::Report(report)) if !self.is_wanted(&report) => {}
                    Some(AgentEvent::Report(_) | AgentEvent::Lagged) => {
                        self.take_in_new(&mut known, &mut lines);
                    }
                    None => return,
                },
                Some(record) = lines.next(), if !lines.is_empty() => {
                    if sender.send(Ok(record)).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn take_in_new(&self, known: &mut BTreeSet<InstanceId>, lines: &mut SelectAll<OneRecords>) {
        let mut still = BTreeSet::new();
        for (report, output) in self.wanted() {
            if !known.contains(&report.id) {
                lines.push(of_one(&self.node, &report.id, &output));
            }
            still.insert(report.id);
        }
        // What the agent has forgotten comes no more.
        *known = still;
    }
}

type OneRecords = Pin<Box<dyn Stream<Item = pb::LogRecord> + Send>>;

/// What memory holds of an instance, and what it says from then on.
fn of_one(node: &str, id: &InstanceId, output: &Output) -> OneRecords {
    let (kept, later) = output.follow();
    let (node, id) = (node.to_owned(), id.clone());
    let mut last = kept.iter().map(|line| line.number).max().unwrap_or(0);
    let later = BroadcastStream::new(later).map(move |line| match line {
        Ok(line) => {
            last = line.number;
            line
        }
        Err(BroadcastStreamRecvError::Lagged(n_lines)) => {
            last += n_lines;
            left_out(n_lines, last)
        }
    });
    let all = futures_util::stream::iter(kept).chain(later);
    all.map(move |line| record(&node, &id, line)).boxed()
}

/// In place of lines that came faster than they were taken, the last of which has this number.
fn left_out(n_lines: u64, number: u64) -> LogLine {
    LogLine {
        at_ms: 0,
        stderr: true,
        number,
        line: format!("({n_lines} lines left out: they come faster than they are read)").into(),
    }
}

fn record(node: &str, instance: &InstanceId, line: LogLine) -> pb::LogRecord {
    pb::LogRecord {
        instance: instance.to_string(),
        node: node.to_owned(),
        at_ms: line.at_ms,
        stderr: line.stderr,
        line: line.line.into(),
        run: *RUN,
        number: line.number,
    }
}

/// Whether a revision is a Service's. One that is deleted by now is known by its name: the Service's, and
/// something after it; unless there is a Service that fits better.
fn is_of(state: &State, service: &str, revision: &ObjectKey) -> bool {
    if let Some(known) = state.revision(revision) {
        return *known.root().name == *service;
    }
    let Some(rest) = revision.name.strip_prefix(service) else {
        return false;
    };
    let is_service = |end: usize| {
        let name = &revision.name[..service.len() + end];
        let key = ObjectKey::new(&*revision.namespace, name);
        state.service(&key).is_some()
    };
    let mut longer = rest.match_indices('-').skip(1);
    rest.starts_with('-') && !longer.any(|(end, _)| is_service(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_said_of_lines_left_out_has_the_number_of_the_last_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let output = Output::new(dir.path().into());
        output.clone().read(&b"kept\n"[..], false).await;
        let records = of_one("node1", &"a".into(), &output);
        let n_lines = 5_000;
        let many = "fast\n".repeat(n_lines - 1);
        output.clone().read(many.as_bytes(), false).await;
        let first: Vec<_> = records.take(3).collect().await;
        let numbers: Vec<_> = first.iter().map(|record| record.number).collect();
        let [1, left_out, after] = numbers[..] else {
            panic!("{first:?}");
        };
        let said = format!("({} lines left out", left_out - 1);
        assert!(first[1].line.starts_with(said.as_bytes()), "{first:?}");
        assert_eq!(after, left_out + 1);
    }
}
