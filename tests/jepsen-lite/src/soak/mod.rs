//! One cluster for a long time: every workload side by side, one fault after the other, and a
//! verdict on each window, so that memory does not grow with the time.
//!
//! ```text
//! window   from-zero, steps, registers │ fault  quiet  fault … │ all at zero │ look and judge
//! counters ─ write ───────────────────────────────────────────────────────────── rest ─ write ─
//! ```

mod merged;
mod observe;
mod resources;
mod summary;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use nihilo_sim::checker::verdict::Class;
use nihilo_sim::checker::{Report, Verdict, write_chain};
use tokio::time::Instant;

use crate::backend::{Network, Place, log_of};
use crate::clock::{boottime_ns, pause};
use crate::judge::verdict;
use crate::nemesis::faults::Nemesis;
use crate::record::RequestRecord;
use crate::seed::Random;
use crate::soak::merged::Merged;
use crate::soak::observe::Observers;
use crate::tally::Tally;
use crate::trial::{Options, Trial};
use crate::workload::counters::{Counters, N_WRITERS, Rest};
use crate::workload::from_zero::{self, Kind};
use crate::workload::register::Registers;
use crate::workload::services::NAMESPACE;
use crate::{instance_ledger, report};

/// Load and faults of one window; the way back to zero comes on top.
const WINDOW_MIN_MS: u64 = 40_000;
const WINDOW_MAX_MS: u64 = 80_000;
/// Between two faults, so that some fall into a recovery and some into rest.
const QUIET_MIN_MS: u64 = 1_500;
const QUIET_MAX_MS: u64 = 9_000;
/// Windows whose records are kept because something was found in them.
const MAX_KEPT: usize = 10;

#[derive(Debug)]
struct Soak {
    trial: Trial,
    tally: Arc<Tally>,
    counters: Counters,
    random: Random,
    nemeses: Vec<Nemesis>,
    /// Those of this round; each comes once before any comes again.
    deck: Vec<Nemesis>,
    from_zero: Vec<String>,
    steps: Vec<String>,
    merged: Merged,
    n_kept: usize,
}

/// A fault's class, from its first step until the cluster was whole again.
#[derive(Debug)]
struct Span {
    class: String,
    from_ns: u64,
    until_ns: u64,
}

/// Runs for `length`; `again` is the command that does the same.
///
/// # Errors
/// The harness cannot make its cluster: the run is void.
pub async fn run(options: Options, length: Duration, again: &str) -> anyhow::Result<Report> {
    let end = Instant::now() + length;
    let (place, skipped) = place();
    let folder = options.folder.clone();
    let mut soak = Soak::start(Options { place, ..options }).await?;
    let observers = Observers::start(&soak.trial, &soak.tally, end)?;
    let mut number = 0;
    while Instant::now() < end {
        number += 1;
        if let Err(error) = soak.window(number, again).await {
            // What was found before it stands; what comes after could not be judged.
            let void = Verdict::harness_fault(format!("window {number}: {error:#}"));
            soak.merged.add_bad("harness", void);
            break;
        }
        observers.window_over(&soak.trial);
    }
    soak.counters.stop().await;
    // What was written since the last window's end.
    if let Err(error) = soak.look_at_counters().await {
        let unknown = Verdict::unknown(format!("the last look: {error:#}"));
        soak.merged.add_bad(write_chain::NAME, unknown);
    }
    soak.settle_counters();
    let mut report = soak.merged.report();
    report.add(resources::NAME, resources::judged(&observers.taken().usage));
    let told = summary::Summary {
        n_windows: number,
        length: soak.trial.age(),
        skipped: &skipped,
        proven: soak.counters.proven(),
        tally: &soak.tally,
        observed: &observers.taken(),
    };
    std::fs::write(folder.join("soak.json"), told.json()?)?;
    println!("{told}");
    Ok(report)
}

/// Where the nodes live, and what that leaves out.
fn place() -> (Place, Vec<String>) {
    let why = match Network::create() {
        Ok(_) => return (Place::Network, Vec::new()),
        Err(error) => format!("{error:#}"),
    };
    let left_out = Nemesis::all().into_iter();
    let left_out = left_out.filter(|nemesis| nemesis.place() == Place::Network);
    let skipped = left_out.map(|nemesis| format!("{nemesis}: {why}"));
    (Place::Loopback, skipped.collect())
}

impl Soak {
    async fn start(options: Options) -> anyhow::Result<Self> {
        let mut random = Random::from_seed(options.seed);
        let place = options.place;
        let mut trial = Trial::start(options).await?;
        let tally = Arc::new(Tally::default());
        let clients = (0..N_WRITERS).map(|_| trial.admin());
        let clients: Vec<_> = clients.collect::<Result<_, _>>()?;
        let counters = Counters::start(clients, tally.clone(), &trial.ledger, &mut random).await?;
        let from_zero = from_zero::deploy(&trial, Kind::FromZero).await?;
        let steps = from_zero::deploy(&trial, Kind::Steps).await?;
        let nemeses = Nemesis::all().into_iter().filter(|nemesis| {
            *nemesis != Nemesis::None
                && (nemesis.place() == place || nemesis.place() == Place::Loopback)
                // strace slows its process, so that a soak would measure the tracer.
                && !matches!(nemesis, Nemesis::Disk(_))
        });
        trial.say("all services are there");
        // A window begins with nothing running.
        trial.until_zero().await?;
        Ok(Self {
            trial,
            tally,
            counters,
            random,
            nemeses: nemeses.collect(),
            deck: Vec::new(),
            from_zero,
            steps,
            merged: Merged::default(),
            n_kept: 0,
        })
    }

    /// # Errors
    /// The harness broke, or the cluster did not become whole again.
    async fn window(&mut self, number: usize, again: &str) -> anyhow::Result<()> {
        self.trial.begin_window()?;
        let length = self.random.between(WINDOW_MIN_MS, WINDOW_MAX_MS);
        let end = Instant::now() + Duration::from_millis(length);
        let (trial, random) = (&self.trial, &mut self.random);
        let registers = Registers::start(trial, &format!("w{number}-"), random)?;
        let loads = [
            from_zero::start(trial, Kind::FromZero, &self.from_zero, end, random),
            from_zero::start(trial, Kind::Steps, &self.steps, end, random),
        ];
        let spans = self.strikes(end).await?;
        for load in loads {
            load.await?;
        }
        let book = registers.stop(&self.trial).await?;
        for (outcome, n) in book.outcomes() {
            self.tally.count("register", outcome, n);
        }
        let all = [self.from_zero.as_slice(), &self.steps].concat();
        self.trial.ask_everywhere(&all).await;
        self.trial.until_zero().await?;
        let mut report = self.look().await?;
        let of_registers = book.judged(&self.trial.options.folder);
        report.checks.extend(of_registers.checks);
        self.settle_counters();
        self.count_requests(&spans);
        self.tell(number, report, again)?;
        let client = self.trial.admin()?;
        for key in book.keys() {
            // Most are there; one that is left behind is in nobody's way.
            drop(client.delete_service(NAMESPACE, &key).await);
        }
        Ok(())
    }

    async fn strikes(&mut self, end: Instant) -> anyhow::Result<Vec<Span>> {
        let mut spans = Vec::new();
        loop {
            let quiet = self.random.between(QUIET_MIN_MS, QUIET_MAX_MS);
            pause(Duration::from_millis(quiet)).await;
            if Instant::now() >= end {
                return Ok(spans);
            }
            let nemesis = self.draw();
            let class = nemesis.to_string();
            self.tally.fault(&class);
            let from_ns = boottime_ns();
            let focus = self.from_zero[0].clone();
            let struck = nemesis.strike(&mut self.trial, &focus, &mut self.random);
            struck.await.with_context(|| class.clone())?;
            self.tally.healed();
            spans.push(Span {
                class,
                from_ns,
                until_ns: boottime_ns(),
            });
        }
    }

    fn draw(&mut self) -> Nemesis {
        if self.deck.is_empty() {
            self.deck.clone_from(&self.nemeses);
        }
        let n = u64::try_from(self.deck.len()).unwrap_or(1);
        let place = usize::try_from(self.random.between(0, n)).unwrap_or(0);
        self.deck.swap_remove(place)
    }

    /// At rest: what every node holds, and the verdict on the window.
    async fn look(&mut self) -> anyhow::Result<Report> {
        let rest = self.look_at_counters().await?;
        let report = self.trial.judge().await;
        drop(rest);
        report
    }

    /// At rest, which goes on as long as the answer lives: what every node holds.
    async fn look_at_counters(&self) -> anyhow::Result<Rest> {
        let rest = self.counters.rest().await;
        let n_held = rest.look_everywhere(&self.trial.cluster).await?;
        self.tally.count("held at rest", "looked at", n_held);
        Ok(rest)
    }

    /// Books what the writers found and proved.
    fn settle_counters(&mut self) {
        let found = self.counters.take_found();
        if !found.is_empty() {
            let verdict = verdict(found, 1, Vec::new());
            self.merged.add_bad(write_chain::NAME, verdict);
        }
        let (n_acked, n_proven) = self.counters.proven();
        self.merged.set(write_chain::NAME, n_proven, n_acked);
    }

    fn count_requests(&self, spans: &[Span]) {
        for request in &self.trial.evidences.requests {
            let kind = if request.is_get() { "GET" } else { "POST" };
            self.tally.count(kind, request.outcome.name(), 1);
            if let Some(class) = felt(request, spans)
                && request.is_get()
                && request.outcome.is_good()
            {
                let took_ns = request.ended_ns.saturating_sub(request.sent_ns);
                self.tally.got(class, took_ns / 1_000_000);
            }
        }
    }

    /// Prints a window's verdict, and keeps its records if there is a reason to.
    fn tell(&mut self, number: usize, report: Report, again: &str) -> anyhow::Result<()> {
        let class = report.class();
        let n_requests = self.trial.evidences.requests.len();
        self.trial
            .say(&format!("window {number}: {class}, {n_requests} requests"));
        if class != Class::Pass && self.n_kept < MAX_KEPT {
            self.n_kept += 1;
            let folder = &self.trial.options.folder;
            let to = folder.join(format!("window-{number}"));
            keep(folder, &to, &self.trial.nodes())?;
            let (_, faults) = self.trial.recorder.taken();
            let instances = instance_ledger::read(&self.trial.ledger)?;
            let evidences = &self.trial.evidences;
            report::write(&to, &report, evidences, &faults, &instances, again)?;
            println!("{report}\nrecords: {}", to.display());
        }
        self.merged.window(number, report);
        Ok(())
    }
}

/// The class of the fault during which a request was under way.
fn felt<'a>(request: &RequestRecord, spans: &'a [Span]) -> Option<&'a str> {
    let spans = spans.iter();
    let mut felt =
        spans.filter(|span| span.from_ns <= request.ended_ns && request.sent_ns <= span.until_ns);
    felt.next().map(|span| span.class.as_str())
}

/// Copies a window's records, which the next window overwrites.
fn keep(from: &Path, to: &Path, nodes: &[(String, PathBuf)]) -> std::io::Result<()> {
    let instances = to.join("instances");
    std::fs::create_dir_all(&instances)?;
    for name in ["ledger-client.jsonl", "history.jsonl", "nemesis.jsonl"] {
        std::fs::copy(from.join(name), to.join(name))?;
    }
    for ledger in std::fs::read_dir(from.join("instances"))? {
        let ledger = ledger?;
        std::fs::copy(ledger.path(), instances.join(ledger.file_name()))?;
    }
    for (_, dir) in nodes {
        // Two that had one name have directories of their own.
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        std::fs::copy(log_of(dir), to.join(format!("{name}.log")))?;
        let records = dir.join("agent/startstop.log");
        std::fs::copy(records, to.join(format!("{name}-startstop.log")))?;
    }
    Ok(())
}
