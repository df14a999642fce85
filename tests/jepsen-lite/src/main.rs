//! The command line: `matrix`, `run`, `list`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use nihilo_failpoint::{BUG_ENV, Bug, Point};
use nihilo_jepsen_lite::backend::{Place, Settings};
use nihilo_jepsen_lite::canary;
use nihilo_jepsen_lite::failpoints::Switchboard;
use nihilo_jepsen_lite::headline;
use nihilo_jepsen_lite::matrix::{self, Cell};
use nihilo_jepsen_lite::nemesis::faults::Nemesis;
use nihilo_jepsen_lite::seed::{Random, fresh};
use nihilo_jepsen_lite::trial::{Options, Trial};
use nihilo_jepsen_lite::workload::Workload;
use nihilo_jepsen_lite::{etcd, instance_ledger, probe, report, soak};
use nihilo_sim::checker::verdict::Class;
use nihilo_sim::checker::{Report, Verdict};
use nihilo_types::node_config::{OnNodeExit, Profile};
use tokio::signal::unix::{SignalKind, signal};

/// Hurts three real nodes under load, and judges what they promised.
#[derive(Debug, Parser)]
#[command(name = "nihilo-jepsen-lite", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Kills the node of each part in each stage of the demo.
    Matrix {
        /// `STAGE:PART,…`; `*` for all, `ci` for the most valuable.
        #[arg(long, default_value = "*")]
        cells: String,
        #[command(flatten)]
        common: Common,
    },
    /// Puts one workload under one nemesis.
    Run {
        /// See `list`.
        #[arg(long, default_value = "from-zero")]
        workload: String,
        /// See `list`.
        #[arg(long, default_value = "kill-leader")]
        nemesis: String,
        /// Length of one trial.
        #[arg(long, default_value_t = 1.0)]
        minutes: f64,
        /// Where the nodes live: what the nemesis needs, or containers.
        #[arg(long, value_enum, default_value_t = Backend::Fitting)]
        backend: Backend,
        #[command(flatten)]
        common: Common,
    },
    /// One cluster for a long time: all workloads side by side, one fault after the other.
    Soak {
        #[arg(long, default_value_t = 60.0)]
        minutes: f64,
        #[command(flatten)]
        common: Common,
    },
    /// Kills leader and owner exactly at each step of a cold start, and at random moments.
    Headline {
        /// `fN:leader`, `fN:owner`, …; `steps` for f1 to f8, `random` for any moment on the binary
        /// that is shipped.
        #[arg(long, default_value = "steps,random")]
        cells: String,
        /// How often each cell, on a cluster of its own each time.
        #[arg(long, default_value_t = 1)]
        rounds: u64,
        /// Appends one line for each trial: cell, seed, verdict.
        #[arg(long)]
        log: Option<PathBuf>,
        #[command(flatten)]
        common: Common,
    },
    /// Plants bugs in the product, one by one; each must be found by its trial.
    Canary {
        /// Only these, with commas.
        #[arg(long, default_value = "*")]
        bugs: String,
        #[command(flatten)]
        common: Common,
    },
    /// Fails when a point of the chaos build was passed in none of the trials that were given
    /// `--failpoints` with this directory.
    Points {
        #[arg(long)]
        failpoints: PathBuf,
    },
    /// The checkers on etcd, to see that they find what is known to be there.
    Etcd(etcd::Arguments),
    /// Names workloads, nemeses, stages and parts.
    List,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Backend {
    Fitting,
    Compose,
}

impl Backend {
    /// # Errors
    /// The nemesis cannot be done there.
    fn place(self, nemesis: Nemesis) -> Result<Place, String> {
        match self {
            Backend::Fitting => Ok(nemesis.place()),
            Backend::Compose if nemesis.fits_containers() => Ok(Place::Containers),
            Backend::Compose => Err(format!("`{nemesis}` cannot be done to containers")),
        }
    }
}

#[derive(Debug, Clone, Args)]
struct Common {
    /// Everything random follows from it.
    #[arg(long)]
    seed: Option<u64>,
    /// Trials, each with the seed after the last one's.
    #[arg(long, default_value_t = 1)]
    trials: u64,
    /// Where trials leave their records; those of a passed trial are removed.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Keep the records of passed trials too.
    #[arg(long)]
    keep: bool,
    /// Raft timing: `auto`, `calm`, `balanced` or `fast`.
    #[arg(long, default_value = "auto")]
    profile: String,
    /// What becomes of a killed node's instances: `kill` or `adopt`. Containers always kill.
    #[arg(long, default_value = "kill")]
    on_node_exit: OnNodeExit,
    /// With the connection-refused fast path.
    #[arg(long)]
    fast_path: bool,
    /// Plant a bug of the chaos build in every node.
    #[arg(long)]
    bug: Option<Bug>,
    /// Run the chaos build, with many snapshots, and note here which points it passes.
    #[arg(long)]
    failpoints: Option<PathBuf>,
}

/// Entries between two snapshots where points are to be passed.
const OFTEN: u64 = 20;

/// What one trial does.
#[derive(Debug, Clone)]
enum Plan {
    Matrix(Vec<Cell>),
    Run(Workload, Nemesis, Duration, Place),
    Soak(Duration),
    Headline(headline::Cell),
}

impl Plan {
    fn needs_failpoints(&self) -> bool {
        matches!(self, Plan::Headline(cell) if cell.needs_failpoints())
    }

    fn place(&self) -> Place {
        match self {
            Plan::Matrix(_) | Plan::Headline(_) => Place::Loopback,
            // By itself, if the machine allows a network.
            Plan::Soak(_) => Place::Network,
            Plan::Run(.., place) => *place,
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let Ok(runtime) = runtime else {
        return ExitCode::from(Class::HarnessFault.exit_code());
    };
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = dispatch(arguments.command) => outcome,
            // Whatever a trial has made goes with what is dropped here.
            signal = told_to_end() => {
                say(&format!("ended by {signal}: nothing is proven"));
                Ok(Class::HarnessFault)
            }
        }
    });
    match outcome {
        Ok(class) => ExitCode::from(class.exit_code()),
        Err(usage) => {
            say(&format!("error: {usage}"));
            ExitCode::from(2)
        }
    }
}

/// The signal that asked for the end.
async fn told_to_end() -> &'static str {
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        // They end the process as they always do.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    }
}

async fn dispatch(command: Command) -> Result<Class, String> {
    match command {
        Command::List => {
            list();
            Ok(Class::Pass)
        }
        Command::Matrix { cells, common } => {
            let wanted = match cells.as_str() {
                "ci" => Some(Cell::most_valuable()),
                text => Cell::parse_list(text),
            };
            let wanted = wanted.ok_or(format!("no cell is `{cells}`; see `list`"))?;
            let command = format!("matrix --cells '{cells}'");
            trials(&Plan::Matrix(wanted), &common, &command).await
        }
        Command::Headline {
            cells,
            rounds,
            log,
            common,
        } => {
            let wanted = headline::Cell::parse_list(&cells);
            let wanted = wanted.ok_or(format!("no cell is `{cells}`; see `list`"))?;
            all_rounds(&wanted, rounds, log.as_deref(), &common).await
        }
        Command::Points { failpoints } => points(&failpoints),
        Command::Etcd(arguments) => {
            let own = std::env::current_exe().map_err(|error| error.to_string())?;
            etcd::run(&arguments, &default_out(&own)).await
        }
        Command::Canary { bugs, common } => canaries(&bugs, &common).await,
        Command::Run {
            workload,
            nemesis,
            minutes,
            backend,
            common,
        } => {
            let fault = Nemesis::parse(&nemesis);
            let fault = fault.ok_or(format!("no nemesis is `{nemesis}`; see `list`"))?;
            let length = length(minutes)?;
            let load = Workload::parse(&workload);
            let load = load.ok_or(format!("no workload is `{workload}`; see `list`"))?;
            let place = backend.place(fault)?;
            if place == Place::Containers && (common.bug.is_some() || common.failpoints.is_some()) {
                return Err("the chaos build runs in no container".into());
            }
            let plan = Plan::Run(load, fault, length, place);
            let mut command =
                format!("run --workload {workload} --nemesis {nemesis} --minutes {minutes}");
            if backend == Backend::Compose {
                command += " --backend compose";
            }
            trials(&plan, &common, &command).await
        }
        Command::Soak { minutes, common } => {
            let plan = Plan::Soak(length(minutes)?);
            trials(&plan, &common, &format!("soak --minutes {minutes}")).await
        }
    }
}

fn length(minutes: f64) -> Result<Duration, String> {
    Duration::try_from_secs_f64(minutes * 60.0).map_err(|error| error.to_string())
}

/// Runs every cell `rounds` times, and tells how many of each passed.
async fn all_rounds(
    cells: &[headline::Cell],
    rounds: u64,
    log: Option<&Path>,
    common: &Common,
) -> Result<Class, String> {
    let first = common.seed.unwrap_or_else(|| fresh() >> 32);
    let mut worst = Class::Pass;
    let mut passed: BTreeMap<String, u64> = BTreeMap::new();
    for round in 0..rounds {
        for (number, cell) in (0..).zip(cells) {
            let seed = first + round * cells.len() as u64 + number;
            let one = Common {
                seed: Some(seed),
                trials: 1,
                ..common.clone()
            };
            let command = format!("headline --cells {cell}");
            let class = trials(&Plan::Headline(*cell), &one, &command).await?;
            worst = worst.max(class);
            *passed.entry(cell.to_string()).or_default() += u64::from(class == Class::Pass);
            if let Some(log) = log {
                append(log, &format!("{cell} {seed} {class}")).map_err(|e| e.to_string())?;
            }
        }
    }
    for (cell, n) in passed {
        say(&format!("{cell}: {n} of {rounds} passed"));
    }
    Ok(worst)
}

fn append(log: &Path, line: &str) -> std::io::Result<()> {
    let mut file = std::fs::File::options()
        .create(true)
        .append(true)
        .open(log)?;
    writeln!(file, "{line}")
}

/// Every planted bug must be found within its number of trials.
async fn canaries(bugs: &str, common: &Common) -> Result<Class, String> {
    let mut worst = Class::Pass;
    for canary in canary::chosen(bugs).ok_or(format!("no bug is among `{bugs}`"))? {
        let first = common.seed.unwrap_or_else(|| fresh() >> 32);
        let mut found_by = None;
        for number in 0..canary::MAX_TRIALS {
            let one = Common {
                seed: Some(first + number),
                trials: 1,
                bug: Some(canary.bug),
                ..common.clone()
            };
            let place = canary.nemesis.place();
            let plan = Plan::Run(canary.workload, canary.nemesis, canary.length, place);
            let command = format!("canary --bugs {}", canary.bug);
            if trials(&plan, &one, &command).await? == Class::Violation {
                found_by = Some(number + 1);
                break;
            }
        }
        match found_by {
            Some(n) => say(&format!("FOUND {} in trial {n}", canary.bug)),
            None => {
                say(&format!("MISSED {}", canary.bug));
                worst = Class::Violation;
            }
        }
    }
    Ok(worst)
}

/// Runs the trials; the worst class is the answer.
async fn trials(plan: &Plan, common: &Common, command: &str) -> Result<Class, String> {
    let is_chaos = plan.needs_failpoints() || common.bug.is_some() || common.failpoints.is_some();
    let binary = match is_chaos {
        true => probe::chaos_binary(),
        false => probe::binary(),
    };
    let binary = binary.map_err(|error| format!("{error:#}"))?;
    let settings = Settings {
        profile: profile(&common.profile)?,
        on_node_exit: common.on_node_exit,
        failover_fast_path: common.fast_path,
    };
    let out = common.out.clone().unwrap_or_else(|| default_out(&binary));
    // The same for every process, wherever it works.
    let out = std::path::absolute(out).map_err(|error| error.to_string())?;
    let first = common.seed.unwrap_or_else(|| fresh() >> 32);
    let mut worst = Class::Pass;
    for number in 0..common.trials {
        let seed = first + number;
        let again = format!(
            "cargo xtask jepsen {command} --seed {seed} --profile {}",
            common.profile
        );
        let again = match common.on_node_exit {
            OnNodeExit::Adopt => format!("{again} --on-node-exit adopt"),
            OnNodeExit::Kill => again,
        };
        let again = match common.fast_path {
            true => format!("{again} --fast-path"),
            false => again,
        };
        say(&format!(
            "trial {} of {}: {again}",
            number + 1,
            common.trials
        ));
        let folder = out.join(seed.to_string());
        // Of an earlier run with this seed.
        drop(std::fs::remove_dir_all(&folder));
        let options = Options {
            seed,
            binary: binary.clone(),
            folder: folder.clone(),
            place: plan.place(),
            settings,
            variables: variables(common).map_err(|error| format!("{error:#}"))?,
        };
        let verdict = trial(plan, options, &again).await;
        say(&verdict.to_string());
        let class = verdict.class();
        worst = worst.max(class);
        if class == Class::Pass && !common.keep {
            drop(std::fs::remove_dir_all(&folder));
        } else {
            say(&format!("records: {}", folder.display()));
        }
        say(&format!("{class} seed {seed}; again: {again}"));
    }
    Ok(worst)
}

/// One trial from nothing to its verdict.
async fn trial(plan: &Plan, options: Options, again: &str) -> Report {
    let void = |error: anyhow::Error| {
        let mut report = Report::default();
        report.add("harness", Verdict::harness_fault(format!("{error:#}")));
        report
    };
    if let Plan::Soak(length) = plan {
        let report = soak::run(options, *length, again).await;
        return report.unwrap_or_else(void);
    }
    let mut random = Random::from_seed(options.seed);
    let mut options = options;
    let board = match plan.needs_failpoints() {
        true => match Switchboard::create(&options.folder.join("failpoints")) {
            Ok(board) => Some(board),
            Err(error) => return void(error),
        },
        false => None,
    };
    if let Some(board) = &board {
        options.variables.push(board.variable());
    }
    let mut trial = match Trial::start(options).await {
        Ok(trial) => trial,
        Err(error) => return void(error),
    };
    let extra = match plan {
        Plan::Matrix(cells) => matrix::run(&mut trial, cells, &mut random)
            .await
            .map(|()| Report::default()),
        Plan::Run(workload, nemesis, length, _) => {
            workload
                .run(&mut trial, *nemesis, *length, &mut random)
                .await
        }
        Plan::Headline(cell) => headline::run(&mut trial, *cell, board.as_ref(), &mut random)
            .await
            .map(|()| Report::default()),
        Plan::Soak(_) => Ok(Report::default()),
    };
    let mut report = match trial.judge().await {
        Ok(report) => report,
        Err(error) => void(error),
    };
    match extra {
        Ok(extra) => report.checks.extend(extra.checks),
        Err(error) => report.checks.extend(void(error).checks),
    }
    if matches!(plan, Plan::Run(workload, ..) if !workload.makes_requests()) {
        // No request was made: nothing is not a verdict about requests.
        report
            .checks
            .retain(|check| !about_requests(&check.checker) || !is_unknown(&check.verdict));
    }
    let (_, faults) = trial.recorder.taken();
    let instances = instance_ledger::read(&trial.ledger).unwrap_or_default();
    let folder = trial.options.folder.clone();
    let written = report::write(
        &folder,
        &report,
        &trial.evidences,
        &faults,
        &instances,
        again,
    );
    if let Err(error) = written {
        say(&format!("the report is not written: {error}"));
    }
    report
}

/// What every node finds in its environment.
fn variables(common: &Common) -> anyhow::Result<Vec<(String, String)>> {
    let mut variables = vec![("NIHILO_COMMAND_LEDGER".to_owned(), "1".to_owned())];
    if let Some(bug) = common.bug {
        variables.push((BUG_ENV.to_owned(), bug.to_string()));
    }
    if let Some(dir) = &common.failpoints {
        variables.push(Switchboard::create(dir)?.variable());
        variables.push(("NIHILO_SNAPSHOT_EVERY".to_owned(), OFTEN.to_string()));
    }
    Ok(variables)
}

/// Tells which points were passed, and fails on one that was not.
fn points(dir: &Path) -> Result<Class, String> {
    let board = Switchboard::create(dir).map_err(|error| format!("{error:#}"))?;
    let seen = board.seen();
    let missing: Vec<_> = Point::ALL.iter().filter(|p| !seen.contains(p)).collect();
    for point in &missing {
        say(&format!("never passed: {point}"));
    }
    say(&format!(
        "{} of {} points passed",
        seen.len(),
        Point::ALL.len()
    ));
    Ok(if missing.is_empty() {
        Class::Pass
    } else {
        Class::Violation
    })
}

fn about_requests(checker: &str) -> bool {
    ["C10", "D ", "C14", "C9"]
        .iter()
        .any(|begin| checker.starts_with(begin))
}

fn is_unknown(verdict: &Verdict) -> bool {
    verdict.class() == Class::Unknown
}

fn profile(text: &str) -> Result<Profile, String> {
    serde_json::from_value(serde_json::Value::String(text.to_owned()))
        .map_err(|_| format!("no profile is `{text}`"))
}

fn default_out(binary: &Path) -> PathBuf {
    let target = binary.ancestors().nth(2).unwrap_or(Path::new("."));
    target.join("jepsen")
}

fn list() {
    let workloads: Vec<_> = Workload::ALL.iter().map(ToString::to_string).collect();
    say(&format!("workloads: {}", workloads.join(", ")));
    let nemeses: Vec<_> = Nemesis::all().iter().map(ToString::to_string).collect();
    say(&format!("nemeses: {}", nemeses.join(", ")));
    let nemeses: Vec<_> = etcd::nemeses().iter().map(ToString::to_string).collect();
    say(&format!(
        "etcd: register, watch; nemeses: {}",
        nemeses.join(", ")
    ));
    for cell in Cell::all() {
        say(&format!("cell {}:{}", cell.stage, cell.role));
    }
    for cell in headline::Cell::all() {
        say(&format!("headline cell {cell}"));
    }
}

fn say(text: &str) {
    println!("{text}");
}
