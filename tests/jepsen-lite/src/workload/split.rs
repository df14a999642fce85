//! W3: traffic moves among three revisions of one service while requests come through every
//! gateway, each answer naming the revision that it came from.
//!
//! ```text
//! writer    split A ─► Ready ──────── only A may be used ────────┐ split B ─► Ready …
//! requests    · · · · · · · · · · · · · · · · · · · · · · · · ·  └ A or B
//! ```

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nihilo_client::Client;
use nihilo_sim::checker::Report;
use nihilo_sim::checker::split::{self, Input, Routed, Split};
use nihilo_types::route::TrafficTarget;
use nihilo_types::template::EnvVar;
use tokio::time::Instant;

use super::load::Mix;
use super::services::{self, NAMESPACE, Scaling, shown};
use crate::backend::LocalCluster;
use crate::clock::{boottime_ns, pause};
use crate::judge::node_name;
use crate::nemesis::faults::Nemesis;
use crate::record::{Outcome, RequestRecord};
use crate::seed::Random;
use crate::trial::Trial;

const N_REVISIONS: usize = 3;
const REQUESTS_PER_SECOND: u64 = 120;
/// How long a split stays once it is Ready: enough requests to judge its shares.
const STAY_MIN_MS: u64 = 500;
const STAY_MAX_MS: u64 = 4_000;
const BETWEEN_FAULTS_MIN_MS: u64 = 3_000;
const BETWEEN_FAULTS_MAX_MS: u64 = 9_000;
/// One try to write a split, or to see it Ready; the same split is written again after it.
const TRY_LIMIT: Duration = Duration::from_secs(10);
/// Version of a split whose write was not acknowledged.
const UNKNOWN: u64 = u64::MAX;
const AFTER_FAILURE: Duration = Duration::from_millis(200);

/// A split as it was written: more than once if nobody knew what became of it.
#[derive(Debug, Clone)]
struct Moved {
    split: Split,
    /// From here on it may be in force.
    sent_ns: u64,
}

/// Moves traffic for `length` while `nemesis` strikes.
///
/// # Errors
/// The harness broke, or the cluster did not become whole again.
pub async fn run(
    trial: &mut Trial,
    nemesis: Nemesis,
    length: Duration,
    random: &mut Random,
) -> anyhow::Result<Report> {
    let client = trial.admin()?;
    let service = LocalCluster::name_owned_by("w", 1);
    let revisions = deploy(trial, &client, &service).await?;
    trial.say(&format!("revisions: {}", revisions.join(", ")));
    let moved = Arc::new(Mutex::new(Vec::new()));
    let stop = Arc::new(AtomicBool::new(false));
    let mut writer = Writer {
        client,
        service: service.clone(),
        revisions,
        random: random.fork(),
        moved: moved.clone(),
        stop: stop.clone(),
    };
    // What the service begins with is none of this workload's splits.
    let first = writer.draw();
    writer.write(&first).await.map_err(anyhow::Error::msg)?;
    let writer = tokio::spawn(writer.run());
    let load = trial.clients.start(
        Mix {
            services: vec![service.clone()],
            per_second: REQUESTS_PER_SECOND,
            app_ms: (0, 20),
        },
        random.fork(),
    );
    let end = Instant::now() + length;
    while Instant::now() < end {
        let between = random.between(BETWEEN_FAULTS_MIN_MS, BETWEEN_FAULTS_MAX_MS);
        pause(Duration::from_millis(between)).await;
        nemesis.strike(trial, &service, random).await?;
    }
    stop.store(true, Ordering::Relaxed);
    writer.await?;
    load.stop().await;
    trial.until_zero().await?;
    let moved = moved.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (requests, _) = trial.recorder.taken();
    let is_live = |request: &RequestRecord| {
        let name = node_name(request.gateway);
        !trial.evidences.gateway_gone.iter().any(|gone| {
            gone.node == name
                && gone.from_ns <= request.ended_ns
                && request.sent_ns <= gone.until_ns
        })
    };
    let mut report = Report::default();
    report.add(
        split::NAME,
        split::check(&input(&moved, &requests, is_live)),
    );
    Ok(report)
}

async fn deploy(trial: &Trial, client: &Client, name: &str) -> anyhow::Result<Vec<String>> {
    let mut service = services::echo(name, &trial.ledger, Scaling::default());
    let mut revisions = Vec::new();
    for number in 0..N_REVISIONS {
        let container = service.spec.template.spec.containers.first_mut();
        let container = container.ok_or_else(|| anyhow::anyhow!("no container"))?;
        container.env.retain(|variable| variable.name != "NUMBER");
        container.env.push(EnvVar {
            name: "NUMBER".into(),
            value: number.to_string(),
            ..EnvVar::default()
        });
        let deployed = services::deploy(client, &service).await;
        let status = deployed.map_err(anyhow::Error::msg)?.status;
        revisions.push(status.latest_ready_revision_name);
    }
    Ok(revisions)
}

#[derive(Debug)]
struct Writer {
    client: Client,
    service: String,
    revisions: Vec<String>,
    random: Random,
    moved: Arc<Mutex<Vec<Moved>>>,
    stop: Arc<AtomicBool>,
}

impl Writer {
    async fn run(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            let stay = self.random.between(STAY_MIN_MS, STAY_MAX_MS);
            pause(Duration::from_millis(stay)).await;
            let shares = self.draw();
            while self.write(&shares).await.is_err() {
                pause(AFTER_FAILURE).await;
            }
        }
    }

    /// Shares of whole tens, some of them nothing.
    fn draw(&mut self) -> Vec<u32> {
        let mut left: u32 = 10;
        let mut shares = Vec::new();
        for _ in 1..self.revisions.len() {
            let share = self.random.between(0, u64::from(left) + 1);
            let share = u32::try_from(share).unwrap_or(0);
            left -= share;
            shares.push(share * 10);
        }
        shares.push(left * 10);
        let turn = self.random.between(0, shares.len() as u64);
        shares.rotate_left(usize::try_from(turn).unwrap_or(0));
        shares
    }

    /// Writes a split and waits until every live gateway serves it.
    async fn write(&mut self, shares: &[u32]) -> Result<(), String> {
        let named = self.revisions.iter().zip(shares);
        let named: BTreeMap<_, _> = named
            .filter(|(_, share)| **share > 0)
            .map(|(revision, share)| (revision.clone(), *share))
            .collect();
        let traffic = named
            .iter()
            .map(|(revision, share)| TrafficTarget::revision(revision, *share));
        let client = self.client.with_timeout(TRY_LIMIT);
        let stored = client.service(NAMESPACE, &self.service).await;
        let stored = stored.map_err(|error| shown(&error))?;
        let mut service = stored.object;
        service.spec.traffic = traffic.collect();
        let place = self.sending(named);
        // On this version only, so that a try that is given up cannot take effect after another.
        let written = client.update_service(&service, &stored.etag).await;
        let written = written.map_err(|error| shown(&error))?;
        self.moved()[place].split.version = written.index;
        services::until_ready(&client, &written).await?;
        self.moved()[place].split.ready_ns = Some(boottime_ns());
        Ok(())
    }

    /// Books a split that may be in force from now on; one that nobody could write yet is the same
    /// one, tried again.
    fn sending(&self, shares: BTreeMap<String, u32>) -> usize {
        let mut moved = self.moved();
        if moved
            .last()
            .is_none_or(|last| last.split.version != UNKNOWN)
        {
            moved.push(Moved {
                split: Split {
                    version: UNKNOWN,
                    shares,
                    ready_ns: None,
                },
                sent_ns: boottime_ns(),
            });
        }
        moved.len() - 1
    }

    fn moved(&self) -> MutexGuard<'_, Vec<Moved>> {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn input(
    moved: &[Moved],
    requests: &[RequestRecord],
    is_live: impl Fn(&RequestRecord) -> bool,
) -> Input {
    let routed = requests.iter().filter_map(|request| {
        let Outcome::Answered(answered) = &request.outcome else {
            return None;
        };
        let is_live = is_live(request);
        (!answered.revision.is_empty()).then(|| Routed {
            at_ns: request.sent_ns,
            gateway: node_name(request.gateway),
            revision: answered.revision.clone(),
            version: is_live.then(|| only(moved, request)).flatten(),
            is_live,
        })
    });
    Input {
        splits: moved.iter().map(|moved| moved.split.clone()).collect(),
        requests: routed.collect(),
    }
}

/// The split that alone may have routed a request: Ready before it, and no other written until it
/// was over.
fn only(moved: &[Moved], request: &RequestRecord) -> Option<u64> {
    let before = moved
        .iter()
        .rposition(|moved| moved.sent_ns <= request.ended_ns)?;
    let split = &moved[before].split;
    let is_ready = split.ready_ns.is_some_and(|at_ns| at_ns < request.sent_ns);
    is_ready.then_some(split.version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(version: u64, sent_ns: u64, ready_ns: u64) -> Moved {
        Moved {
            split: Split {
                version,
                shares: BTreeMap::from([("a".to_owned(), 100)]),
                ready_ns: Some(ready_ns),
            },
            sent_ns,
        }
    }

    fn request(sent_ns: u64, ended_ns: u64) -> RequestRecord {
        RequestRecord {
            nonce: "n".into(),
            method: "GET".into(),
            service: "w".into(),
            gateway: 0,
            body_bytes: 0,
            app_ms: 0,
            sent_ns,
            ended_ns,
            outcome: Outcome::Open,
        }
    }

    #[test]
    fn between_two_splits_nobody_knows_which_one_it_was() {
        let moved = [moved(5, 10, 20), moved(7, 100, 120)];
        assert_eq!(only(&moved, &request(30, 40)), Some(5));
        assert_eq!(only(&moved, &request(15, 40)), None);
        assert_eq!(only(&moved, &request(90, 110)), None);
        assert_eq!(only(&moved, &request(130, 140)), Some(7));
    }
}
