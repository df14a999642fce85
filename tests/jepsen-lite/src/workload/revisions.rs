//! W2: several clients change the templates of few services; every change makes one revision, with
//! the next number, and never a name again.
//!
//! What was issued is told twice: by the answers to acknowledged writes, and by a watch of all
//! revisions, which also shows those of writes whose outcome nobody knew.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use nihilo_client::Client;
use nihilo_sim::checker::monotonic::{self, Input, IssuedRevision};
use nihilo_sim::checker::no_lost_ack::{self, Add, AddAnswer};
use nihilo_sim::checker::{Evidence, Report};
use nihilo_types::meta::keys;
use nihilo_types::revision::Revision;
use nihilo_types::template::EnvVar;
use nihilo_wire::serving as pb;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::services::{NAMESPACE, Scaling, echo, shown};
use crate::backend::N_NODES;
use crate::clock::{self, boottime_ns, pause};
use crate::judge::{node_name, verdict};
use crate::nemesis::faults::Nemesis;
use crate::seed::Random;
use crate::trial::Trial;

const N_SERVICES: u64 = 3;
const N_CLIENTS: usize = 4;
/// Fewer than the machine would take: a service keeps its newest revisions only, and the last
/// look wants to find all of them.
const BETWEEN_WRITES: Duration = Duration::from_millis(400);
const OP_LIMIT: Duration = Duration::from_secs(2);
const BETWEEN_FAULTS_MIN_MS: u64 = 2_000;
const BETWEEN_FAULTS_MAX_MS: u64 = 6_000;
/// Until the watch has seen the last write.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(100);
const VARIABLE: &str = "NUMBER";
const WATCHED: &str = "C5 what answers name is what is watched";

/// What was issued, as answers and the watch tell it.
#[derive(Debug, Default)]
struct Book {
    watched: Mutex<Vec<IssuedRevision>>,
    answered: Mutex<Vec<Answered>>,
    /// Index up to which the watch has come.
    watched_to: AtomicU64,
    next: AtomicU64,
}

/// An acknowledged change of a template.
#[derive(Debug, Clone)]
struct Answered {
    at_ns: u64,
    index: u64,
    revision: String,
    /// What the client asked for.
    spec: String,
}

/// Changes templates for `length` while `nemesis` strikes.
///
/// # Errors
/// The harness broke, or the cluster did not become whole again.
pub async fn run(
    trial: &mut Trial,
    nemesis: Nemesis,
    length: Duration,
    random: &mut Random,
) -> anyhow::Result<Report> {
    let book = Arc::new(Book::default());
    let from = trial.admin()?.services(Some(NAMESPACE), "").await?;
    let watcher = watcher(trial.admin()?, from.resource_version, book.clone());
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for _ in 0..N_CLIENTS {
        let client = trial.admin()?.with_timeout(OP_LIMIT);
        let (book, stop, ledger) = (book.clone(), stop.clone(), trial.ledger.clone());
        let mut random = random.fork();
        clients.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                change(&client, &book, &ledger, &mut random).await;
                pause(random.within(BETWEEN_WRITES)).await;
            }
        });
    }
    let end = Instant::now() + length;
    while Instant::now() < end {
        let between = random.between(BETWEEN_FAULTS_MIN_MS, BETWEEN_FAULTS_MAX_MS);
        pause(Duration::from_millis(between)).await;
        nemesis.strike(trial, &name(0), random).await?;
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(client) = clients.join_next().await {
        client?;
    }
    let last = book.answered().iter().map(|answered| answered.index).max();
    let reached = clock::until(CATCH_UP_LIMIT, LOOK_EVERY, || {
        let at = book.watched_to.load(Ordering::Relaxed);
        let is_there = last.unwrap_or(0) <= at;
        std::future::ready(is_there.then_some(()).ok_or(format!("watched to {at}")))
    });
    let reached = reached.await;
    watcher.abort();
    reached.map_err(anyhow::Error::msg).context("the watch")?;
    judged(trial, &book).await
}

fn name(number: u64) -> String {
    format!("v{number}")
}

/// Changes one service's template to something that no other write asks for.
async fn change(client: &Client, book: &Book, ledger: &std::path::Path, random: &mut Random) {
    let number = book.next.fetch_add(1, Ordering::Relaxed);
    let mut service = echo(
        &name(random.between(0, N_SERVICES)),
        ledger,
        Scaling::default(),
    );
    let template = &mut service.spec.template;
    let annotations = &mut template.metadata.annotations;
    // Nothing shall run: this is about names.
    annotations.insert("autoscaling.knative.dev/initial-scale".into(), "0".into());
    let container = &mut template.spec.containers[0];
    container.env.push(EnvVar {
        name: VARIABLE.into(),
        value: number.to_string(),
        ..EnvVar::default()
    });
    let Ok(written) = client.apply_service(&service).await else {
        // Nobody knows; the watch does.
        return;
    };
    book.answered().push(Answered {
        at_ns: boottime_ns(),
        index: written.index,
        revision: written.service.status.latest_created_revision_name,
        spec: number.to_string(),
    });
}

/// Books every revision that is made, until aborted.
fn watcher(client: Client, from: u64, book: Arc<Book>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut watch = client.watch(pb::WatchRequest {
            kind: "Revision".into(),
            resource_version: from,
            ..pb::WatchRequest::default()
        });
        loop {
            match watch.next().await {
                Ok(event) => {
                    book.watched_to.store(event.index, Ordering::Relaxed);
                    if event.r#type() == pb::watch_event::Type::Added
                        && let Ok(revision) = serde_json::from_slice(&event.json)
                    {
                        book.watched().push(issued(&revision, event.index));
                    }
                }
                // Its own limit is over; the place in the stream is kept.
                Err(error) if error.reason != "VERSION_COMPACTED" => {}
                Err(error) => {
                    eprintln!("the watch of revisions ended: {}", shown(&error));
                    return;
                }
            }
        }
    })
}

fn issued(revision: &Revision, log_index: u64) -> IssuedRevision {
    let uid = revision.metadata.label(keys::CONFIGURATION_UID);
    IssuedRevision {
        configuration_uid: uid.unwrap_or_default().to_owned(),
        name: revision.metadata.name.clone(),
        number: revision.configuration_generation(),
        log_index,
        spec: spec(revision),
    }
}

fn spec(revision: &Revision) -> String {
    let containers = revision.spec.containers.first();
    let variables = containers.into_iter().flat_map(|container| &container.env);
    let mut variables = variables.filter(|variable| variable.name == VARIABLE);
    let value = variables.next().map(|variable| variable.value.clone());
    value.unwrap_or_default()
}

async fn judged(trial: &Trial, book: &Book) -> anyhow::Result<Report> {
    let (watched, answered) = (book.watched().clone(), book.answered().clone());
    let mut report = Report::default();
    report.add(WATCHED, told_alike(&watched, &answered));
    report.add(
        monotonic::NAME,
        monotonic::check(&Input {
            samples: Vec::new(),
            revisions: watched.clone(),
        }),
    );
    let mut held = BTreeMap::new();
    for node in 0..N_NODES {
        let client = trial.cluster.client(&[node])?;
        let listed = client.revisions(Some(NAMESPACE), "").await?.items;
        let names = listed.into_iter().map(|revision| revision.metadata.name);
        held.insert(node_name(node), names.collect());
    }
    let acked = answered.iter().map(|answered| Add {
        item: answered.revision.clone(),
        at_ns: answered.at_ns,
        answer: AddAnswer::Acked,
    });
    let mut adds: BTreeMap<String, Add> = watched
        .iter()
        .map(|issued| Add {
            item: issued.name.clone(),
            at_ns: 0,
            answer: AddAnswer::Unknown,
        })
        .map(|add| (add.item.clone(), add))
        .collect();
    adds.extend(acked.map(|add| (add.item.clone(), add)));
    report.add(
        no_lost_ack::NAME,
        no_lost_ack::check(&no_lost_ack::Input {
            adds: adds.into_values().collect(),
            held,
            removed: Default::default(),
        }),
    );
    Ok(report)
}

/// Every acknowledged write made the revision that its answer names, at its index.
fn told_alike(watched: &[IssuedRevision], answered: &[Answered]) -> nihilo_sim::checker::Verdict {
    let by_index: BTreeMap<u64, &IssuedRevision> = watched
        .iter()
        .map(|issued| (issued.log_index, issued))
        .collect();
    let found = answered.iter().filter_map(|answered| {
        let what = match by_index.get(&answered.index) {
            Some(issued) if issued.name == answered.revision && issued.spec == answered.spec => {
                return None;
            }
            Some(issued) => format!(
                "index {} made {} of {}, the answer was for {}",
                answered.index, issued.name, issued.spec, answered.spec
            ),
            None => format!("index {} made no revision", answered.index),
        };
        Some(Evidence::new(&answered.revision, what).at(answered.at_ns))
    });
    verdict(found.collect(), answered.len() as u64, Vec::new())
}

impl Book {
    fn watched(&self) -> MutexGuard<'_, Vec<IssuedRevision>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answered(&self) -> MutexGuard<'_, Vec<Answered>> {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
