//! Registers as in W1, with both kinds of reads: each kind makes a history of its own, together
//! with all writes.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use nihilo_sim::checker::register::Versions;
use nihilo_sim::history::{Event, Phase};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tonic::Status;

use super::client::{Found, Member, Reads};
use super::cluster::Cluster;
use super::expected::{Judged, Known};
use crate::backend::{N_NODES, NodeIndex};
use crate::clock::pause;
use crate::judge::node_name;
use crate::seed::Random;
use crate::workload::register::{
    BETWEEN_OPS, Book, MAX_OPS_PER_KEY, N_KEYS, OP_LIMIT, asked, judged,
};

const GET: &str = "get";
/// No checker knows it: the history is judged with the one kind of reads or the other.
const SERIALIZABLE_GET: &str = "serializable get";

/// Clients that read and write until they are stopped.
#[derive(Debug)]
pub(super) struct Registers {
    book: Arc<Book>,
    stop: Arc<AtomicBool>,
    clients: JoinSet<anyhow::Result<()>>,
}

impl Registers {
    pub(super) fn start(
        cluster: &Cluster,
        folder: &Path,
        prefix: &str,
        random: &mut Random,
    ) -> anyhow::Result<Self> {
        let book = Arc::new(Book::create(folder, prefix)?);
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for nodes in asked() {
            let client = OneClient::new(cluster, &nodes, book.clone(), random.fork())?;
            clients.spawn(client.run(stop.clone()));
        }
        Ok(Self {
            book,
            stop,
            clients,
        })
    }

    /// Stops the clients and reads every key once more through every member.
    pub(super) async fn stop(mut self, cluster: &Cluster) -> anyhow::Result<Arc<Book>> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client??;
        }
        let keys: BTreeSet<_> = self
            .book
            .events()
            .into_iter()
            .filter_map(|e| e.key)
            .collect();
        for node in 0..N_NODES {
            let random = Random::from_seed(0);
            let mut client = OneClient::new(cluster, &[node], self.book.clone(), random)?;
            for key in &keys {
                let read = client.get(key, Reads::Linearizable).await?;
                read.with_context(|| format!("the last read of {key} failed"))?;
            }
        }
        Ok(self.book)
    }
}

/// What the checkers say of each kind of reads.
pub(super) fn verdicts(events: &[Event], folder: &Path) -> Vec<Judged> {
    let of = |what, reads, known| Judged {
        what,
        known,
        report: judged(seen_by(reads, events), Versions::OfTheHistory, folder),
    };
    vec![
        of("linearizable reads", Reads::Linearizable, Known::Sound),
        of("serializable reads", Reads::Serializable, Known::Wrong),
    ]
}

/// The history without the other kind of reads.
fn seen_by(reads: Reads, events: &[Event]) -> Vec<Event> {
    let (kept, left_out) = match reads {
        Reads::Linearizable => (GET, SERIALIZABLE_GET),
        Reads::Serializable => (SERIALIZABLE_GET, GET),
    };
    let mut seen = events.to_vec();
    seen.retain(|event| event.op != left_out);
    for event in seen.iter_mut().filter(|event| event.op == kept) {
        GET.clone_into(&mut event.op);
    }
    seen
}

struct OneClient {
    members: Vec<(NodeIndex, Member)>,
    book: Arc<Book>,
    process: u64,
    random: Random,
}

impl OneClient {
    fn new(
        cluster: &Cluster,
        nodes: &[NodeIndex],
        book: Arc<Book>,
        random: Random,
    ) -> anyhow::Result<Self> {
        let member = |node: &NodeIndex| Ok((*node, cluster.member(*node, OP_LIMIT)?));
        Ok(Self {
            members: nodes.iter().map(member).collect::<anyhow::Result<_>>()?,
            process: book.process(),
            book,
            random,
        })
    }

    async fn run(mut self, stop: Arc<AtomicBool>) -> anyhow::Result<()> {
        while !stop.load(Ordering::Relaxed) {
            let key = self.key()?;
            match self.random.between(0, 10) {
                0..2 => drop(self.get(&key, Reads::Linearizable).await?),
                2..5 => drop(self.get(&key, Reads::Serializable).await?),
                5..7 => self.put(&key).await?,
                7 => self.create(&key).await?,
                8 => self.compare_and_set(&key).await?,
                _ => self.delete(&key).await?,
            }
            pause(self.random.within(BETWEEN_OPS)).await;
        }
        Ok(())
    }

    /// One of the keys; each is given up for a new one when it has had its operations.
    fn key(&mut self) -> anyhow::Result<String> {
        let number = self.random.between(0, N_KEYS);
        let n_before = self.book.count(usize::try_from(number)?);
        let generation = n_before / MAX_OPS_PER_KEY;
        Ok(format!("{}-{generation}", self.book.key(number)))
    }

    /// The member to ask, with the operation written down.
    fn invoke(&mut self, op: &str, key: &str, input: Value) -> anyhow::Result<(Member, Event)> {
        let (node, member) = self.random.pick(&self.members).context("no member")?;
        let mut event = Event::invoke(0, self.process, op, Some(key), input);
        event.node = Some(node_name(*node));
        let member = member.clone();
        Ok((member, self.book.write(event)?))
    }

    /// Writes down what came of it; whatever failed may have happened all the same.
    fn end<T>(
        &mut self,
        invoked: &Event,
        answer: Result<T, Status>,
        output: impl FnOnce(&T) -> Value,
    ) -> anyhow::Result<Option<T>> {
        let (phase, output) = match &answer {
            Ok(answer) => (Phase::Ok, output(answer)),
            Err(status) => (Phase::Info, Value::String(status.message().to_owned())),
        };
        self.book.write(invoked.complete(0, phase, output))?;
        if phase == Phase::Info {
            self.process = self.book.process();
        }
        Ok(answer.ok())
    }

    /// `None` = no answer.
    async fn get(&mut self, key: &str, reads: Reads) -> anyhow::Result<Option<Option<Found>>> {
        let op = match reads {
            Reads::Linearizable => GET,
            Reads::Serializable => SERIALIZABLE_GET,
        };
        let (member, invoked) = self.invoke(op, key, Value::Null)?;
        let answer = member.get(key, reads).await;
        self.end(&invoked, answer, |found| match found {
            Some(found) => json!({"value": found.value, "version": found.version}),
            None => Value::Null,
        })
    }

    async fn put(&mut self, key: &str) -> anyhow::Result<()> {
        let value = self.book.value();
        let (member, invoked) = self.invoke("put", key, json!({"value": value}))?;
        let answer = member.put(key, &value).await;
        let written = self.end(&invoked, answer, |version| json!({"version": version}))?;
        if written.is_some() && self.members.len() > 1 {
            // Another member may not have heard of it yet.
            self.get(key, Reads::Serializable).await?;
        }
        Ok(())
    }

    async fn create(&mut self, key: &str) -> anyhow::Result<()> {
        let value = self.book.value();
        let (member, invoked) = self.invoke("create", key, json!({"value": value}))?;
        let answer = member.compare_and_put(key, 0, &value).await;
        self.end(&invoked, answer, written)?;
        Ok(())
    }

    async fn compare_and_set(&mut self, key: &str) -> anyhow::Result<()> {
        let Some(Some(found)) = self.get(key, Reads::Linearizable).await? else {
            return Ok(());
        };
        let value = self.book.value();
        let input = json!({"value": value, "expected": found.version});
        let (member, invoked) = self.invoke("cas", key, input)?;
        let answer = member.compare_and_put(key, found.version, &value).await;
        self.end(&invoked, answer, written)?;
        Ok(())
    }

    async fn delete(&mut self, key: &str) -> anyhow::Result<()> {
        let (member, invoked) = self.invoke("delete", key, Value::Null)?;
        let answer = member.delete(key).await;
        self.end(&invoked, answer, written)?;
        Ok(())
    }
}

fn written(version: &Option<u64>) -> Value {
    match version {
        Some(version) => json!({"version": version}),
        None => json!({"conflict": true}),
    }
}

#[cfg(test)]
mod tests {
    use nihilo_sim::checker::{Class, register, stale_read};

    use super::*;

    /// A write of 3 over 2, and then reads of both kinds.
    fn history(linearizable: u64, serializable: u64) -> Vec<Event> {
        let mut events = Vec::new();
        let mut add = |op: &str, input: Value, output: Value| {
            let at_ns = events.len() as u64;
            let invoked = Event::invoke(at_ns, 1, op, Some("r0-0"), input);
            let ended = invoked.complete(at_ns + 1, Phase::Ok, output);
            events.extend([invoked, ended]);
        };
        for version in [2, 3] {
            let input = json!({"value": format!("v{version}")});
            add("put", input, json!({"version": version}));
        }
        for (op, version) in [(GET, linearizable), (SERIALIZABLE_GET, serializable)] {
            let output = json!({"value": format!("v{version}"), "version": version});
            add(op, Value::Null, output);
        }
        events
    }

    fn found(judged: &Judged) -> Vec<&str> {
        let checks = judged.report.checks.iter();
        let found = checks.filter(|check| check.verdict.class() == Class::Violation);
        found.map(|check| check.checker.as_str()).collect()
    }

    #[test]
    fn each_kind_of_reads_is_judged_by_itself() {
        let both = [register::NAME, stale_read::NAME];
        let stale = verdicts(&history(3, 2), Path::new("f"));
        assert_eq!(found(&stale[0]), [""; 0]);
        assert_eq!(found(&stale[1]), both);
        let worse = verdicts(&history(2, 3), Path::new("f"));
        assert_eq!(found(&worse[0]), both);
        assert_eq!(found(&worse[1]), [""; 0]);
    }
}
