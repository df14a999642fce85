//! The command line: `matrix`, `run`, `list`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use nihilo_jepsen_lite::backend::Place;
use nihilo_jepsen_lite::matrix::{self, Cell};
use nihilo_jepsen_lite::nemesis::faults::Nemesis;
use nihilo_jepsen_lite::seed::{Random, fresh};
use nihilo_jepsen_lite::trial::{Options, Trial};
use nihilo_jepsen_lite::workload::{from_zero, register};
use nihilo_jepsen_lite::{instance_ledger, probe, report, soak};
use nihilo_sim::checker::verdict::Class;
use nihilo_sim::checker::{Report, Verdict};
use nihilo_types::node_config::Profile;

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
        /// `from-zero`, `steps` or `register`.
        #[arg(long, default_value = "from-zero")]
        workload: String,
        /// See `list`.
        #[arg(long, default_value = "kill-leader")]
        nemesis: String,
        /// Length of one trial.
        #[arg(long, default_value_t = 1.0)]
        minutes: f64,
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
    /// Names workloads, nemeses, stages and parts.
    List,
}

#[derive(Debug, Args)]
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
}

/// What one trial does.
#[derive(Debug, Clone)]
enum Plan {
    Matrix(Vec<Cell>),
    Load(from_zero::Kind, Nemesis, Duration),
    Register(Nemesis, Duration),
    Soak(Duration),
}

impl Plan {
    fn place(&self) -> Place {
        match self {
            Plan::Matrix(_) => Place::Loopback,
            // By itself, if the machine allows a network.
            Plan::Soak(_) => Place::Network,
            Plan::Load(_, nemesis, _) | Plan::Register(nemesis, _) => nemesis.place(),
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
    match runtime.block_on(dispatch(arguments.command)) {
        Ok(class) => ExitCode::from(class.exit_code()),
        Err(usage) => {
            say(&format!("error: {usage}"));
            ExitCode::from(2)
        }
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
        Command::Run {
            workload,
            nemesis,
            minutes,
            common,
        } => {
            let fault = Nemesis::parse(&nemesis);
            let fault = fault.ok_or(format!("no nemesis is `{nemesis}`; see `list`"))?;
            let length = length(minutes)?;
            let plan = match workload.as_str() {
                "from-zero" => Plan::Load(from_zero::Kind::FromZero, fault, length),
                "steps" => Plan::Load(from_zero::Kind::Steps, fault, length),
                "register" => Plan::Register(fault, length),
                other => return Err(format!("no workload is `{other}`; see `list`")),
            };
            let command =
                format!("run --workload {workload} --nemesis {nemesis} --minutes {minutes}");
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

/// Runs the trials; the worst class is the answer.
async fn trials(plan: &Plan, common: &Common, command: &str) -> Result<Class, String> {
    let binary = probe::binary().map_err(|error| format!("{error:#}"))?;
    let profile = profile(&common.profile)?;
    let out = common.out.clone().unwrap_or_else(|| default_out(&binary));
    let first = common.seed.unwrap_or_else(|| fresh() >> 32);
    let mut worst = Class::Pass;
    for number in 0..common.trials {
        let seed = first + number;
        let again = format!(
            "cargo xtask jepsen {command} --seed {seed} --profile {}",
            common.profile
        );
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
            profile,
            place: plan.place(),
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
    let mut trial = match Trial::start(options).await {
        Ok(trial) => trial,
        Err(error) => return void(error),
    };
    let extra = match plan {
        Plan::Matrix(cells) => matrix::run(&mut trial, cells, &mut random)
            .await
            .map(|()| Report::default()),
        Plan::Load(kind, nemesis, length) => {
            from_zero::run(&mut trial, *kind, *nemesis, *length, &mut random)
                .await
                .map(|()| Report::default())
        }
        Plan::Register(nemesis, length) => {
            register::run(&mut trial, *nemesis, *length, &mut random).await
        }
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
    if matches!(plan, Plan::Register(..)) {
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
    say("workloads: from-zero, steps, register");
    let nemeses: Vec<_> = Nemesis::ALL.iter().map(ToString::to_string).collect();
    say(&format!("nemeses: {}", nemeses.join(", ")));
    for cell in Cell::all() {
        say(&format!("cell {}:{}", cell.stage, cell.role));
    }
}

fn say(text: &str) {
    println!("{text}");
}
