//! W1: each Service as a register, read and written through every node's admin API.
//!
//! ```text
//! value    a label of the Service that only this workload writes
//! version  its resourceVersion; status updates move it without changing the value
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use nihilo_client::{Client, Error};
use nihilo_sim::checker::{Report, Verdict, register, stale_read};
use nihilo_sim::history::register::register_operations;
use nihilo_sim::history::{Event, History, Phase, Recorder};
use nihilo_types::service::Service;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::services::{NAMESPACE, Scaling, echo};
use super::silence;
use crate::backend::N_NODES;
use crate::clock::{boottime_ns, pause};
use crate::nemesis::faults::Nemesis;
use crate::seed::Random;
use crate::trial::Trial;

pub(crate) const N_KEYS: u64 = 10;
/// Operations on one key, so that judging stays tractable (08 §7.1).
pub(crate) const MAX_OPS_PER_KEY: u64 = 200;
const PINNED_PER_NODE: usize = 2;
const N_BALANCED: usize = 2;
/// Short, so that unknown outcomes occur.
pub(crate) const OP_LIMIT: Duration = Duration::from_secs(1);
pub(crate) const BETWEEN_OPS: Duration = Duration::from_millis(60);
pub(crate) const BETWEEN_FAULTS_MIN_MS: u64 = 2_000;
pub(crate) const BETWEEN_FAULTS_MAX_MS: u64 = 6_000;
pub(super) const LABEL: &str = "value";
/// A trial in which less was written says nothing.
const MIN_ACKED: usize = 50;

/// The history, each event with a time that is not before the last one's.
#[derive(Debug)]
pub struct Book {
    prefix: String,
    recorder: Mutex<(Recorder<File>, Vec<Event>)>,
    next_process: AtomicU64,
    next_value: AtomicU64,
    n_ops: Vec<AtomicU64>,
}

impl Book {
    /// Writes into `history.jsonl` below `folder`; names of keys begin with `prefix`.
    pub(crate) fn create(folder: &Path, prefix: &str) -> std::io::Result<Self> {
        let file = File::create(folder.join("history.jsonl"))?;
        Ok(Self {
            prefix: prefix.to_owned(),
            recorder: Mutex::new((Recorder::new(file), Vec::new())),
            next_process: AtomicU64::new(1),
            next_value: AtomicU64::new(1),
            n_ops: (0..N_KEYS).map(|_| AtomicU64::new(0)).collect(),
        })
    }

    /// A number that no process of the history has had.
    pub(crate) fn process(&self) -> u64 {
        self.next_process.fetch_add(1, Ordering::Relaxed)
    }

    /// A value that nobody has written.
    pub(crate) fn value(&self) -> String {
        format!("v{}", self.next_value.fetch_add(1, Ordering::Relaxed))
    }

    /// Counts an operation on one of the keys; returns how many it had before.
    pub(crate) fn count(&self, number: usize) -> u64 {
        self.n_ops[number].fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn write(&self, mut event: Event) -> std::io::Result<Event> {
        let mut recorder = self.recorder.lock().unwrap_or_else(PoisonError::into_inner);
        event.at_ns = boottime_ns();
        recorder.0.record(&event)?;
        recorder.1.push(event.clone());
        Ok(event)
    }

    pub(crate) fn key(&self, number: u64) -> String {
        format!("{}{number}", self.prefix)
    }

    /// Names of all keys, whether they are there or not.
    pub fn keys(&self) -> impl Iterator<Item = String> + '_ {
        (0..N_KEYS).map(|number| self.key(number))
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        let recorder = self.recorder.lock().unwrap_or_else(PoisonError::into_inner);
        recorder.1.clone()
    }

    /// Acknowledged writes, in the order of their ends.
    pub(crate) fn acked(&self) -> Vec<Acked> {
        let mut values: BTreeMap<u64, Option<String>> = BTreeMap::new();
        let mut acked = Vec::new();
        for event in self.events() {
            let is_write = matches!(event.op.as_str(), "put" | "create" | "cas" | "delete");
            match event.phase {
                Phase::Invoke if is_write => {
                    let value = event.input["value"].as_str().map(str::to_owned);
                    values.insert(event.process, value);
                }
                Phase::Ok if is_write => {
                    // An answer that is a conflict wrote nothing.
                    let written = (event.output["version"].as_u64(), event.key);
                    if let (Some(index), Some(key)) = written {
                        let value = values.remove(&event.process).flatten();
                        acked.push(Acked {
                            at_ns: event.at_ns,
                            index,
                            key,
                            value,
                        });
                    }
                }
                _ => {}
            }
        }
        acked
    }

    /// Operations by how they ended.
    pub fn outcomes(&self) -> BTreeMap<String, u64> {
        let mut outcomes = BTreeMap::new();
        for event in self.events() {
            if matches!(event.phase, Phase::Ok | Phase::Fail | Phase::Info) {
                let name = format!("{} {:?}", event.op, event.phase).to_lowercase();
                *outcomes.entry(name).or_default() += 1;
            }
        }
        outcomes
    }

    /// The verdict on what is written down.
    pub fn judged(&self, folder: &Path) -> Report {
        judged(self.events(), register::Versions::AlsoHidden, folder)
    }
}

/// The verdict on a history.
pub(crate) fn judged(events: Vec<Event>, versions: register::Versions, folder: &Path) -> Report {
    let mut report = Report::default();
    let history = History::from_events(events);
    let operations = match history.and_then(|history| register_operations(&history)) {
        Ok(operations) => operations,
        Err(error) => {
            let text = format!("{}: {error}", folder.display());
            report.add(register::NAME, Verdict::harness_fault(text));
            return report;
        }
    };
    let n_acked = operations.iter().filter(|op| op.is_acked_write()).count();
    if n_acked < MIN_ACKED {
        let text = format!("only {n_acked} writes were acknowledged, {MIN_ACKED} are needed");
        report.add("load", Verdict::harness_fault(text));
    }
    let linearizable = register::check(&register::Input::new(&operations, versions));
    report.add(register::NAME, linearizable);
    report.add(stale_read::NAME, stale_read::check(&operations));
    report
}

/// An acknowledged write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Acked {
    pub(crate) at_ns: u64,
    pub(crate) index: u64,
    /// `namespace/name`
    pub(crate) key: String,
    /// `None` = removed.
    pub(crate) value: Option<String>,
}

/// Clients that read and write until they are stopped.
#[derive(Debug)]
pub struct Registers {
    book: Arc<Book>,
    stop: Arc<AtomicBool>,
    clients: JoinSet<anyhow::Result<()>>,
}

/// Reads and writes for `length` while `nemesis` strikes, then reads every key once more.
///
/// # Errors
/// The harness broke, or the cluster did not become whole again.
pub async fn run(
    trial: &mut Trial,
    nemesis: Nemesis,
    length: Duration,
    random: &mut Random,
) -> anyhow::Result<Report> {
    let registers = Registers::start(trial, "r", random)?;
    let end = Instant::now() + length;
    while Instant::now() < end {
        let between = random.between(BETWEEN_FAULTS_MIN_MS, BETWEEN_FAULTS_MAX_MS);
        pause(Duration::from_millis(between)).await;
        nemesis.strike(trial, "r0", random).await?;
    }
    let book = registers.stop(trial).await?;
    let (_, faults) = trial.recorder.taken();
    trial.say(&silence::told(&book.acked(), &faults));
    Ok(book.judged(&trial.options.folder))
}

impl Registers {
    /// Starts the clients on keys whose names begin with `prefix`.
    ///
    /// # Errors
    /// The history cannot be written.
    pub fn start(trial: &Trial, prefix: &str, random: &mut Random) -> anyhow::Result<Self> {
        let book = Arc::new(Book::create(&trial.options.folder, prefix)?);
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for nodes in asked() {
            let client = trial.cluster.client(&nodes)?.with_timeout(OP_LIMIT);
            let (book, stop, ledger) = (book.clone(), stop.clone(), trial.ledger.clone());
            let random = random.fork();
            clients
                .spawn(async move { one_client(client, nodes, book, stop, ledger, random).await });
        }
        Ok(Self {
            book,
            stop,
            clients,
        })
    }

    /// Stops the clients and reads every key once more through every node.
    ///
    /// # Errors
    /// The harness broke, or a node does not answer.
    pub async fn stop(mut self, trial: &Trial) -> anyhow::Result<Arc<Book>> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client??;
        }
        last_reads(trial, &self.book).await?;
        Ok(self.book)
    }
}

/// Whom each client asks: some stay with one node, some move on.
pub(crate) fn asked() -> Vec<Vec<usize>> {
    let pinned = (0..N_NODES).flat_map(|node| vec![vec![node]; PINNED_PER_NODE]);
    pinned
        .chain(vec![(0..N_NODES).collect(); N_BALANCED])
        .collect()
}

async fn one_client(
    client: Client,
    nodes: Vec<usize>,
    book: Arc<Book>,
    stop: Arc<AtomicBool>,
    ledger: std::path::PathBuf,
    mut random: Random,
) -> anyhow::Result<()> {
    let mut process = book.process();
    let asked = match nodes.as_slice() {
        [one] => Some(format!("node{}", one + 1)),
        _ => None,
    };
    while !stop.load(Ordering::Relaxed) {
        let number = random.between(0, N_KEYS);
        let n_before = book.count(usize::try_from(number)?);
        if n_before >= MAX_OPS_PER_KEY {
            pause(BETWEEN_OPS).await;
            continue;
        }
        let op = Op {
            client: &client,
            book: &book,
            key: book.key(number),
            asked: asked.clone(),
            ledger: &ledger,
        };
        let phase = match random.between(0, 10) {
            0..5 => op.get(process).await?.0,
            5..7 => op.put(process).await?,
            7 => op.create(process).await?,
            8 => op.compare_and_set(&mut process).await?,
            _ => op.delete(process).await?,
        };
        if phase == Phase::Info {
            process = book.process();
        }
        pause(random.within(BETWEEN_OPS)).await;
    }
    Ok(())
}

/// After the heal every node shows every key.
async fn last_reads(trial: &Trial, book: &Book) -> anyhow::Result<()> {
    for node in 0..N_NODES {
        let client = trial.cluster.client(&[node])?;
        for number in 0..N_KEYS {
            let process = book.process();
            let op = Op {
                client: &client,
                book,
                key: book.key(number),
                asked: Some(format!("node{}", node + 1)),
                ledger: &trial.ledger,
            };
            let (phase, _) = op.get(process).await?;
            anyhow::ensure!(phase == Phase::Ok, "the last read of {} failed", op.key);
        }
    }
    Ok(())
}

/// One operation on one key.
struct Op<'a> {
    client: &'a Client,
    book: &'a Book,
    key: String,
    asked: Option<String>,
    ledger: &'a Path,
}

impl Op<'_> {
    fn invoke(&self, process: u64, op: &str, input: Value) -> anyhow::Result<Event> {
        let key = format!("{NAMESPACE}/{}", self.key);
        let mut event = Event::invoke(0, process, op, Some(&key), input);
        event.node.clone_from(&self.asked);
        self.book.write(event).context("the history")
    }

    fn end(&self, invoked: &Event, phase: Phase, output: Value) -> anyhow::Result<Phase> {
        let ended = invoked.complete(0, phase, output);
        self.book.write(ended).context("the history")?;
        Ok(phase)
    }

    /// A failure: refused for sure, a conflict, or nobody knows.
    fn failed(&self, invoked: &Event, error: &Error, conflict: bool) -> anyhow::Result<Phase> {
        if conflict {
            return self.end(invoked, Phase::Ok, json!({"conflict": true}));
        }
        let why = format!("{:?} {}", error.code, error.reason);
        // Anything else may have been applied before its answer was lost.
        let refused = why.starts_with("InvalidArgument") || error.is_not_found();
        let phase = if refused { Phase::Fail } else { Phase::Info };
        self.end(invoked, phase, Value::String(why))
    }

    async fn get(&self, process: u64) -> anyhow::Result<(Phase, Option<(Service, String)>)> {
        let invoked = self.invoke(process, "get", Value::Null)?;
        match self.client.service(NAMESPACE, &self.key).await {
            Ok(stored) => {
                let value = stored.object.metadata.label(LABEL).unwrap_or_default();
                let version = stored.object.metadata.version().0;
                let output = json!({"value": value, "version": version});
                let phase = self.end(&invoked, Phase::Ok, output)?;
                Ok((phase, Some((stored.object, stored.etag))))
            }
            Err(error) if error.is_not_found() => {
                Ok((self.end(&invoked, Phase::Ok, Value::Null)?, None))
            }
            // A read changes nothing, so its process may go on; but it is over only here.
            Err(error) => Ok((self.failed(&invoked, &error, false)?, None)),
        }
    }

    fn fresh(&self) -> (String, Service) {
        let value = self.book.value();
        let mut service = echo(&self.key, self.ledger, Scaling::default());
        let annotations = &mut service.spec.template.metadata.annotations;
        // Registers shall not run anything.
        annotations.insert("autoscaling.knative.dev/initial-scale".into(), "0".into());
        service.metadata.labels.insert(LABEL.into(), value.clone());
        (value, service)
    }

    async fn put(&self, process: u64) -> anyhow::Result<Phase> {
        let (value, service) = self.fresh();
        let invoked = self.invoke(process, "put", json!({"value": value}))?;
        match self.client.apply_service(&service).await {
            Ok(written) => self.written(&invoked, &written),
            Err(error) => self.failed(&invoked, &error, false),
        }
    }

    async fn create(&self, process: u64) -> anyhow::Result<Phase> {
        let (value, service) = self.fresh();
        let invoked = self.invoke(process, "create", json!({"value": value}))?;
        match self.client.create_service(&service).await {
            Ok(written) => self.written(&invoked, &written),
            Err(error) => {
                let exists = format!("{:?}", error.code) == "AlreadyExists";
                self.failed(&invoked, &error, exists)
            }
        }
    }

    async fn compare_and_set(&self, process: &mut u64) -> anyhow::Result<Phase> {
        let (phase, found) = self.get(*process).await?;
        let Some((mut service, etag)) = found else {
            return Ok(phase);
        };
        let (value, _) = self.fresh();
        let expected = service.metadata.version().0;
        service.metadata.labels.insert(LABEL.into(), value.clone());
        let input = json!({"value": value, "expected": expected});
        let invoked = self.invoke(*process, "cas", input)?;
        match self.client.update_service(&service, &etag).await {
            Ok(written) => self.written(&invoked, &written),
            Err(error) => {
                let conflict = error.is_conflict() || error.is_not_found();
                self.failed(&invoked, &error, conflict)
            }
        }
    }

    async fn delete(&self, process: u64) -> anyhow::Result<Phase> {
        let invoked = self.invoke(process, "delete", Value::Null)?;
        match self.client.delete_service(NAMESPACE, &self.key).await {
            Ok(index) => self.end(&invoked, Phase::Ok, json!({"version": index})),
            Err(error) => self.failed(&invoked, &error, error.is_not_found()),
        }
    }

    fn written(&self, invoked: &Event, written: &nihilo_client::Written) -> anyhow::Result<Phase> {
        let output = json!({"version": written.index});
        self.end(invoked, Phase::Ok, output)
    }
}
