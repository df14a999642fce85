//! W8 without end: many writers, each with keys of its own, whose writes prove one another.
//!
//! ```text
//! value    a label of the Service: the writer's count of its writes to the key
//! write    conditional on the version of the last one (`checker::write_chain` says why)
//! look     at rest, every node lists all keys from its own state
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nihilo_client::{Client, Error, Stored};
use nihilo_sim::checker::Evidence;
use nihilo_sim::checker::write_chain::{Chain, Held};
use nihilo_types::service::Service;
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::services::{NAMESPACE, Scaling, echo, shown};
use crate::backend::{LocalCluster, N_NODES};
use crate::clock::{at, boottime_ns, pause};
use crate::judge::node_name;
use crate::seed::Random;
use crate::tally::Tally;

pub const N_WRITERS: usize = 24;
const KEYS_PER_WRITER: usize = 4;
/// All writers together, as long as everything is well: 10^6 in an hour with a quarter of it lost
/// to faults and rests, and half a core left for everything else on two.
const WRITES_PER_SECOND: u64 = 400;
/// Short, so that unknown outcomes occur; longer than an election.
const OP_LIMIT: Duration = Duration::from_secs(3);
/// Between attempts while nothing is answered.
const AFTER_FAILURE: Duration = Duration::from_millis(100);
/// Of the list that a node answers with at rest.
const LIST_LIMIT: Duration = Duration::from_secs(20);
const LABEL: &str = "count";
/// Findings kept; one lost write is enough.
const MAX_FOUND: usize = 100;

/// Writers that run until they are stopped.
#[derive(Debug)]
pub struct Counters {
    shared: Arc<Shared>,
    writers: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    tally: Arc<Tally>,
    chains: Vec<Mutex<Chain>>,
    found: Mutex<Vec<Evidence>>,
    /// Read by every operation; written by who wants all to rest.
    rest: Arc<RwLock<()>>,
    stop: AtomicBool,
    ledger: PathBuf,
}

/// No write is under way as long as this lives.
#[derive(Debug)]
pub struct Rest {
    shared: Arc<Shared>,
    _guard: OwnedRwLockWriteGuard<()>,
}

impl Counters {
    /// Creates the keys and starts the writers; `client` makes one client for each.
    ///
    /// # Errors
    /// A key cannot be created although nothing is wrong yet.
    pub async fn start(
        clients: Vec<Client>,
        tally: Arc<Tally>,
        ledger: &Path,
        random: &mut Random,
    ) -> anyhow::Result<Self> {
        let mut chains = Vec::new();
        for number in 0..clients.len() * KEYS_PER_WRITER {
            let service = first(number, ledger);
            let client = &clients[number % clients.len()];
            let written = client.apply_service(&service).await?;
            let known = Held {
                value: 0,
                version: written.service.metadata.version().0,
            };
            chains.push(Mutex::new(Chain::new(key(number), known)));
        }
        let shared = Arc::new(Shared {
            tally,
            chains,
            found: Mutex::default(),
            rest: Arc::default(),
            stop: AtomicBool::new(false),
            ledger: ledger.to_owned(),
        });
        let mut writers = JoinSet::new();
        let n_writers = clients.len();
        for (number, client) in clients.into_iter().enumerate() {
            let writer = Writer {
                client: client.with_timeout(OP_LIMIT),
                shared: shared.clone(),
                keys: (0..KEYS_PER_WRITER)
                    .map(|key| Key::new(number + key * n_writers))
                    .collect(),
                random: random.fork(),
            };
            writers.spawn(writer.run(n_writers));
        }
        shared.tally.hold(false);
        Ok(Self { shared, writers })
    }

    /// Waits until no write is under way, and keeps it so.
    pub async fn rest(&self) -> Rest {
        let guard = self.shared.rest.clone().write_owned().await;
        self.shared.tally.hold(true);
        Rest {
            shared: self.shared.clone(),
            _guard: guard,
        }
    }

    /// Ends the writers.
    pub async fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.tally.hold(true);
        while self.writers.join_next().await.is_some() {}
    }

    /// What was found since the last call.
    pub fn take_found(&self) -> Vec<Evidence> {
        std::mem::take(&mut locked(&self.shared.found))
    }

    /// Acknowledged writes, and those of them that were found again since.
    pub fn proven(&self) -> (u64, u64) {
        let chains = self.shared.chains.iter().map(|chain| {
            let chain = locked(chain);
            (chain.n_acked(), chain.n_proven())
        });
        chains.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }
}

impl Rest {
    /// Compares what every node holds with what is known; returns the number of keys looked at.
    ///
    /// # Errors
    /// A node does not answer.
    pub async fn look_everywhere(&self, cluster: &LocalCluster) -> anyhow::Result<u64> {
        let mut n_held = 0;
        for node in 0..N_NODES {
            let client = cluster.client(&[node])?;
            let looked = self.look(&node_name(node), &client).await;
            n_held += looked.map_err(anyhow::Error::msg)?;
        }
        Ok(n_held)
    }

    /// Compares what one node holds with what is known; returns the number of keys looked at.
    ///
    /// # Errors
    /// The node does not answer.
    async fn look(&self, node: &str, client: &Client) -> Result<u64, String> {
        let client = client.with_timeout(LIST_LIMIT);
        // A list shows what the node has applied; one linearizable read makes that all of it.
        let first = locked(&self.shared.chains[0]).key().to_owned();
        let read = client.service(NAMESPACE, &first).await;
        read.map_err(|error| shown(&error))?;
        let listed = client.services(Some(NAMESPACE), "").await;
        let listed = listed.map_err(|error| shown(&error))?.items;
        let held: BTreeMap<_, _> = listed
            .iter()
            .map(|service| (service.metadata.name.as_str(), held(service)))
            .collect();
        let mut n = 0;
        for chain in &self.shared.chains {
            let mut chain = locked(chain);
            let seen = held.get(chain.key()).copied();
            if let Some(evidence) = chain.read(seen) {
                let text = format!("seen on {node} at rest");
                self.shared.find(evidence.at(boottime_ns()).witness(text));
            }
            n += 1;
        }
        Ok(n)
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        self.shared.tally.hold(false);
    }
}

impl Shared {
    fn find(&self, evidence: Evidence) {
        let mut found = locked(&self.found);
        if found.len() < MAX_FOUND {
            eprintln!("FOUND {evidence}");
            found.push(evidence);
        }
    }
}

/// A key as its writer knows it.
#[derive(Debug)]
struct Key {
    number: usize,
    n_written: u64,
    /// To be read before it can be written again.
    known: Option<Service>,
}

impl Key {
    fn new(number: usize) -> Self {
        Self {
            number,
            n_written: 0,
            known: None,
        }
    }
}

#[derive(Debug)]
struct Writer {
    client: Client,
    shared: Arc<Shared>,
    keys: Vec<Key>,
    random: Random,
}

impl Writer {
    async fn run(mut self, n_writers: usize) {
        let n_writers = u64::try_from(n_writers).unwrap_or(1);
        let every = Duration::from_micros(1_000_000 * n_writers / WRITES_PER_SECOND);
        let mut next = Instant::now() + self.random.within(every);
        let mut turn = 0;
        while !self.shared.stop.load(Ordering::Relaxed) {
            at(next).await;
            let shared = self.shared.clone();
            let turn_over = shared.rest.read().await;
            turn = (turn + 1) % self.keys.len();
            let is_well = self.step(turn).await;
            drop(turn_over);
            if !is_well {
                pause(AFTER_FAILURE).await;
            }
            // What could not be written is not made up for: the load stays what it is.
            next = (next + every).max(Instant::now());
        }
    }

    /// Writes one key, or reads it if that is not possible yet; whether it went well.
    async fn step(&mut self, turn: usize) -> bool {
        let key = &mut self.keys[turn];
        match key.known.take() {
            Some(known) => write(&self.client, &self.shared, key, known).await,
            None => read(&self.client, &self.shared, key).await,
        }
    }
}

async fn read(client: &Client, shared: &Shared, key: &mut Key) -> bool {
    let name = self::key(key.number);
    let found = match client.service(NAMESPACE, &name).await {
        Ok(Stored { object, .. }) => Some(object),
        Err(error) if error.is_not_found() => None,
        Err(error) => {
            shared.tally.count("read", code(&error), 1);
            return false;
        }
    };
    shared.tally.count("read", "ok", 1);
    let evidence = locked(&shared.chains[key.number]).read(found.as_ref().map(held));
    if let Some(evidence) = evidence {
        shared.find(evidence.at(boottime_ns()).witness("seen by a read"));
    }
    let is_there = found.is_some();
    if found.is_none() {
        // Found above; the run goes on with a key that is there.
        drop(
            client
                .apply_service(&first(key.number, &shared.ledger))
                .await,
        );
    }
    key.known = found;
    is_there
}

async fn write(client: &Client, shared: &Shared, key: &mut Key, mut service: Service) -> bool {
    key.n_written += 1;
    let value = key.n_written;
    let etag = format!("\"{}\"", service.metadata.version().0);
    let label = value.to_string();
    service.metadata.labels.insert(LABEL.into(), label);
    let outcome = client.update_service(&service, &etag).await;
    let mut chain = locked(&shared.chains[key.number]);
    match outcome {
        Ok(written) => {
            let now = held(&written.service);
            let evidence = chain.acked(Held { value, ..now });
            drop(chain);
            if let Some(evidence) = evidence {
                shared.find(evidence.at(boottime_ns()));
            }
            if now.value != value {
                let what = format!("the write of {value} answers with {}", now.value);
                shared.find(Evidence::new(self::key(key.number), what));
            }
            shared.tally.acked();
            shared.tally.count("write", "acked", 1);
            key.known = Some(written.service);
            true
        }
        Err(error) if is_refused(&error) => {
            drop(chain);
            shared.tally.count("write", code(&error), 1);
            // A conflict is an answer: the next step reads.
            true
        }
        Err(error) => {
            chain.unknown(value);
            drop(chain);
            let text = format!("unknown: {}", code(&error));
            shared.tally.count("write", text, 1);
            false
        }
    }
}

/// Whether a write had no effect for sure.
fn is_refused(error: &Error) -> bool {
    error.is_conflict() || error.is_not_found() || code(error).starts_with("InvalidArgument")
}

fn code(error: &Error) -> String {
    format!("{:?} {}", error.code, error.reason)
}

fn key(number: usize) -> String {
    format!("c{number}")
}

fn held(service: &Service) -> Held {
    let label = service.metadata.label(LABEL);
    Held {
        value: label.and_then(|label| label.parse().ok()).unwrap_or(0),
        version: service.metadata.version().0,
    }
}

/// A key before its first write: a Service that runs nothing.
fn first(number: usize, ledger: &Path) -> Service {
    let mut service = echo(&key(number), ledger, Scaling::default());
    let annotations = &mut service.spec.template.metadata.annotations;
    annotations.insert("autoscaling.knative.dev/initial-scale".into(), "0".into());
    service
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
