//! One run: three nodes, the clients, the faults, the verdict.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nihilo_sim::checker::Report;
use nihilo_sim::world::Random;

use crate::book::Book;
use crate::clients::{self, Stage};
use crate::disk::Platter;
use crate::faults::Faults;
use crate::judge;
use crate::links::Links;
use crate::node::{N_NODES, Site, name};
use crate::observe::Observer;
use crate::plan::Plan;
use crate::plant::Plant;
use crate::services::CLIENTS;

const TICK: Duration = Duration::from_millis(1);
/// Virtual time of a run, at most: a run that does not come to its end is a finding.
const LIMIT: Duration = Duration::from_secs(240);
const LEAST_LATENCY: Duration = Duration::from_micros(100);
/// Segments that one connection holds.
const TCP_CAPACITY: usize = 65_536;

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) report: Report,
    pub(crate) trace: Vec<String>,
    pub(crate) simulated: Duration,
    pub(crate) took: Duration,
    pub(crate) counts: String,
}

/// Runs a seed from beginning to end.
///
/// # Errors
/// The harness itself broke.
pub(crate) fn run(plan: &Plan, plant: Option<Plant>) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let dir = tempfile::tempdir()?;
    let (book, links) = (Arc::new(Book::default()), Arc::new(Links::default()));
    let mut random = Random::new(plan.seed.wrapping_mul(5) + 1);
    let sites: Vec<Arc<Site>> = (0..N_NODES)
        .map(|place| {
            let disk_random = Random::new(random.next());
            Arc::new(Site {
                place,
                platter: Arc::new(Platter::new(disk_random, plant)),
                dir: dir.path().join(name(place)),
                links: links.clone(),
                book: book.clone(),
                plan: plan.clone(),
                view: parking_lot::Mutex::default(),
            })
        })
        .collect();
    let mut sim = turmoil::Builder::new()
        .tick_duration(TICK)
        .simulation_duration(LIMIT)
        .tcp_capacity(TCP_CAPACITY)
        .min_message_latency(LEAST_LATENCY)
        .max_message_latency(plan.latency)
        .rng_seed(plan.seed)
        .build();
    for site in &sites {
        let site = site.clone();
        sim.host(site.name(), move || site.clone().run());
    }
    let stage = Stage::new(book.clone());
    sim.client(
        CLIENTS,
        clients::run(stage.clone(), links.clone(), plan.clone()),
    );
    let mut faults = Faults::new(plan, sites.clone(), links);
    (0..N_NODES).for_each(|place| faults.steady_disk(place));
    let mut observer = Observer::default();
    let ended = lead(&mut sim, &stage, plan, &mut faults, &mut observer, &sites);
    if let Err(why) = ended {
        book.harness_faults.lock().push(why);
    }
    let simulated = sim.elapsed();
    let report = judge::judge(&sites, &observer, stage.healed_ns());
    let counts = counts(&sites, &observer);
    sites.iter().for_each(|site| drop(site.view.lock().take()));
    Ok(Outcome {
        report,
        trace: book.take_trace(),
        simulated,
        took: started.elapsed(),
        counts,
    })
}

/// Steps until the clients have ended.
fn lead(
    sim: &mut turmoil::Sim<'_>,
    stage: &Stage,
    plan: &Plan,
    faults: &mut Faults,
    observer: &mut Observer,
    sites: &[Arc<Site>],
) -> Result<(), String> {
    let mut strikes_from = None;
    let mut is_looked_at = false;
    loop {
        let is_over = sim.step().map_err(|error| error.to_string())?;
        let now_ns = u64::try_from(sim.elapsed().as_nanos()).unwrap_or(u64::MAX);
        observer.step(sites, now_ns);
        if is_over {
            return Ok(());
        }
        if stage.healed_ns() != 0 {
            if stage.has_rested() && !is_looked_at {
                is_looked_at = true;
                judge::look_at_rest(sites, now_ns);
            }
            continue;
        }
        if !stage.is_ready() {
            continue;
        }
        let from_ns = *strikes_from.get_or_insert(now_ns);
        let safety = u64::try_from(plan.safety.as_nanos()).unwrap_or(u64::MAX);
        if now_ns < from_ns + safety {
            faults.step(sim, now_ns);
        } else {
            faults.heal(sim, now_ns);
            stage.heal(now_ns);
        }
    }
}

fn counts(sites: &[Arc<Site>], observer: &Observer) -> String {
    let book = &sites[0].book;
    let n_lost: u64 = sites.iter().map(|site| site.platter.n_lost()).sum();
    format!(
        "{} faults, {} elections, {} batches lost, {} operations, {} requests, {} orders",
        book.injected.lock().len(),
        observer.n_leaders,
        n_lost,
        book.history.lock().len() / 2,
        book.client.lock().len() / 2,
        book.commands.lock().len(),
    )
}
