//! The host of all clients, and the order of a run: deploy, load under faults, load on a healed
//! cluster, rest, last looks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nihilo_host::Net;
use nihilo_sim::history::ledger::ClientOutcome;
use nihilo_sim::world::Random;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use crate::book::{Book, now_ns};
use crate::links::Links;
use crate::node::N_NODES;
use crate::plan::Plan;
use crate::register;
use crate::requests::{Wanted, load};
use crate::services::{self, NAMESPACE};

pub(crate) const LOADED: [&str; 2] = ["alpha", "beta"];
const DEPLOY_LIMIT: Duration = Duration::from_secs(30);
/// A healed cluster serves a request from zero within this time.
const COLD_LIMIT_NS: u64 = 8_000_000_000;
/// Load goes on for this long after the heal.
const AFTER_HEAL: Duration = Duration::from_secs(2);
/// Without load for this long, everything is at zero: window, grace and a drain.
pub(crate) const REST: Duration = Duration::from_secs(14);
const LOOK: Duration = Duration::from_millis(100);

/// How far a run is; the faults wait for the clients, and the other way round.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    pub(crate) book: Arc<Book>,
    /// Load may be sent.
    open: Arc<AtomicBool>,
    /// Faults may strike.
    ready: Arc<AtomicBool>,
    /// When the last fault ended; 0 = not yet.
    healed_ns: Arc<AtomicU64>,
    /// No load was sent for so long that nothing should run.
    rested: Arc<AtomicBool>,
    tasks: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Stage {
    pub(crate) fn new(book: Arc<Book>) -> Self {
        Self {
            book,
            open: Arc::new(AtomicBool::new(true)),
            ready: Arc::default(),
            healed_ns: Arc::default(),
            rested: Arc::default(),
            tasks: Arc::default(),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    pub(crate) fn has_rested(&self) -> bool {
        self.rested.load(Ordering::Relaxed)
    }

    pub(crate) fn heal(&self, at_ns: u64) {
        self.healed_ns.store(at_ns, Ordering::Relaxed);
    }

    pub(crate) fn healed_ns(&self) -> u64 {
        self.healed_ns.load(Ordering::Relaxed)
    }

    /// Waits, but not longer than the load is wanted.
    pub(crate) async fn rest(&self, length: Duration) {
        let until = tokio::time::Instant::now() + length;
        while self.is_open() && tokio::time::Instant::now() < until {
            tokio::time::sleep(LOOK).await;
        }
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let task = tokio::task::spawn_local(task);
        self.tasks.lock().push(task);
    }

    async fn end_load(&self) {
        self.open.store(false, Ordering::Relaxed);
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            if let Err(error) = task.await {
                let what = format!("a client panicked: {error}");
                self.book.harness_faults.lock().push(what);
            }
        }
    }
}

/// Leads a run from the first deployment to the last read.
pub(crate) async fn run(stage: Stage, links: Arc<Links>, plan: Plan) -> turmoil::Result {
    let net = services::net(&links);
    let mut random = Random::new(plan.seed.wrapping_mul(31) + 7);
    if let Err(why) = deploy(&stage, &net, &plan).await {
        stage.book.found("deploy", why);
        return Ok(());
    }
    register::start(&stage, &net, &mut random)?;
    for service in LOADED {
        let random = Random::new(random.next());
        stage.spawn(load(stage.clone(), net.clone(), service.into(), random));
    }
    stage.ready.store(true, Ordering::Relaxed);
    while stage.healed_ns() == 0 {
        tokio::time::sleep(LOOK).await;
    }
    stage.book.trace(format_args!("healed"));
    cold_requests(&stage, &net, "heal").await;
    tokio::time::sleep(AFTER_HEAL).await;
    stage.end_load().await;
    if plan.rests {
        tokio::time::sleep(REST).await;
        stage.book.trace(format_args!("rested"));
        stage.rested.store(true, Ordering::Relaxed);
        tokio::time::sleep(LOOK).await;
        cold_requests(&stage, &net, "rest").await;
    }
    register::last_reads(&stage.book, &net).await?;
    Ok(())
}

async fn deploy(stage: &Stage, net: &Net, plan: &Plan) -> Result<(), String> {
    let client = services::client(net, &[0, 1, 2]).map_err(|error| error.to_string())?;
    let until = tokio::time::Instant::now() + DEPLOY_LIMIT;
    for name in LOADED {
        let service = services::service(name, Some(plan.max_scale));
        // A node that has not heard of the cluster's first entry takes none.
        while let Err(error) = client.apply_service(&service).await {
            if tokio::time::Instant::now() > until {
                return Err(format!("{name}: {error}"));
            }
            tokio::time::sleep(LOOK).await;
        }
        loop {
            let found = client.service(NAMESPACE, name).await;
            match found {
                Ok(found) if found.object.status.conditions.is_true("Ready") => break,
                Ok(found) if tokio::time::Instant::now() > until => {
                    let conditions = found.object.status.conditions;
                    return Err(format!("{name} is not ready: {conditions:?}"));
                }
                Err(error) if tokio::time::Instant::now() > until => {
                    return Err(format!("{name}: {error}"));
                }
                Ok(_) | Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }
    stage.book.trace(format_args!("deployed"));
    Ok(())
}

/// Every gateway of a whole cluster serves every service, repeated as a user would.
async fn cold_requests(stage: &Stage, net: &Net, when: &str) {
    let mut asked = Vec::new();
    for service in LOADED {
        for gateway in 0..N_NODES {
            let (book, net, when) = (stage.book.clone(), net.clone(), when.to_owned());
            asked.push(tokio::task::spawn_local(async move {
                let from_ns = now_ns();
                let mut last = None;
                for number in 0.. {
                    let id = format!("{service}-after-{when}-{gateway}-{number}");
                    let outcome = Wanted::get(service, id, gateway).send(&book, &net).await;
                    if matches!(outcome, ClientOutcome::Response { status: 200, .. }) {
                        return;
                    }
                    last = Some(outcome);
                    if now_ns() > from_ns + COLD_LIMIT_NS {
                        break;
                    }
                    tokio::time::sleep(LOOK).await;
                }
                let what = format!("not served after the {when}: {last:?}");
                book.found(&format!("{service} through gateway {gateway}"), what);
            }));
        }
    }
    for task in asked {
        if let Err(error) = task.await {
            stage.book.harness_faults.lock().push(error.to_string());
        }
    }
}
