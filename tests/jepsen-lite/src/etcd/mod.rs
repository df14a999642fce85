//! The positive control: the checkers that judge Nihilo's trials, on etcd. What is known to be
//! wrong there must be found, and nothing else; and etcd's availability under the same faults is
//! the measure for ours.
//!
//! ```text
//! writes and linearizable reads      C1, C3   must pass
//! writes and serializable reads      C1, C3   must be found: they are stale by design
//! watches                            C7       must pass
//! watches that ask for marks         C7       must be found before 3.4.25 and 3.5.8
//! ```

mod client;
mod cluster;
mod expected;
mod messages;
mod nemesis;
mod register;
mod watch;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use nihilo_sim::checker::Class;
use tokio::time::Instant;

use self::cluster::Cluster;
use self::expected::Judged;
use self::register::Registers;
use self::watch::Watchers;
use crate::clock::pause;
use crate::nemesis::faults::Nemesis;
use crate::record::Recorder;
use crate::seed::{Random, fresh};
use crate::workload::register::{BETWEEN_FAULTS_MAX_MS, BETWEEN_FAULTS_MIN_MS};
use crate::workload::silence;

/// Names of all keys begin with it.
const PREFIX: &str = "r";

#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    #[arg(long, value_enum, default_value_t = Workload::Register)]
    workload: Workload,
    /// See `list`.
    #[arg(long, default_value = "kill-leader")]
    nemesis: String,
    /// Length of one trial.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Workload {
    Register,
    Watch,
}

/// The faults that can be done to etcd.
pub fn nemeses() -> Vec<Nemesis> {
    let all = Nemesis::all().into_iter();
    all.filter(|nemesis| nemesis::is_possible(*nemesis))
        .collect()
}

/// Runs the trials; the worst class is the answer, and a pass only if all that is known to be there
/// was found.
///
/// # Errors
/// Wrong usage.
pub async fn run(arguments: &Arguments, default_out: &Path) -> Result<Class, String> {
    let name = &arguments.nemesis;
    let nemesis = nemeses().into_iter().find(|n| n.to_string() == *name);
    let nemesis = nemesis.ok_or(format!("no nemesis for etcd is `{name}`; see `list`"))?;
    let length = Duration::try_from_secs_f64(arguments.minutes * 60.0);
    let length = length.map_err(|error| error.to_string())?;
    let out = arguments.out.as_deref().unwrap_or(default_out);
    let first = arguments.seed.unwrap_or_else(|| fresh() >> 32);
    let mut worst = Class::Pass;
    for seed in first..first + arguments.trials {
        let folder = out.join(format!("etcd-{seed}"));
        // Of an earlier run with this seed.
        drop(std::fs::remove_dir_all(&folder));
        let class = match trial(arguments.workload, nemesis, length, seed, &folder).await {
            Ok(verdicts) => told(&verdicts),
            Err(error) => {
                println!("harness: {error:#}");
                Class::HarnessFault
            }
        };
        worst = worst.max(class);
        if class == Class::Pass && !arguments.keep {
            drop(std::fs::remove_dir_all(&folder));
        } else {
            println!("records: {}", folder.display());
        }
        println!("{class} etcd, {name}, seed {seed}");
    }
    Ok(worst)
}

/// Prints the verdicts; the worst is the trial's.
fn told(verdicts: &[Judged]) -> Class {
    for judged in verdicts {
        println!("{judged}");
    }
    let classes = verdicts.iter().map(Judged::class);
    classes.max().unwrap_or(Class::Unknown)
}

async fn trial(
    workload: Workload,
    nemesis: Nemesis,
    length: Duration,
    seed: u64,
    folder: &Path,
) -> anyhow::Result<Vec<Judged>> {
    let version = cluster::version()?;
    println!("etcd {version}, {nemesis}, seed {seed}");
    std::fs::create_dir_all(folder)?;
    let recorder = Recorder::create(folder)?;
    let mut random = Random::from_seed(seed);
    let mut cluster = Cluster::start(&folder.join("nodes"), nemesis.place()).await?;
    let watchers = match workload {
        Workload::Register => None,
        Workload::Watch => Some(Watchers::start(&cluster, PREFIX, &mut random)?),
    };
    let registers = Registers::start(&cluster, folder, PREFIX, &mut random)?;
    let end = Instant::now() + length;
    while Instant::now() < end {
        let between = random.between(BETWEEN_FAULTS_MIN_MS, BETWEEN_FAULTS_MAX_MS);
        pause(Duration::from_millis(between)).await;
        nemesis::strike(nemesis, &mut cluster, &recorder, &mut random).await?;
    }
    let book = registers.stop(&cluster).await?;
    let acked = book.acked();
    let mut verdicts = register::verdicts(&book.events(), folder);
    if let Some(watchers) = watchers {
        let marks = expected::of_marks(&version);
        verdicts.extend(watchers.stop(&cluster, &acked, PREFIX, marks).await?);
    }
    println!("{} writes acknowledged", acked.len());
    println!("{}", silence::told(&acked, &recorder.taken().1));
    for (outcome, n) in book.outcomes() {
        println!("  {outcome}: {n}");
    }
    Ok(verdicts)
}
