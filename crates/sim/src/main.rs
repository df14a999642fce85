//! `nihilo-sim`: runs seeds of the world.

use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use clap::{Parser, Subcommand};
use nihilo_sim::seeds::range;
use nihilo_sim::world::{Detail, Plant, Run, Totals, run};

#[derive(Parser)]
#[command(about = "Runs simulated clusters, one per seed")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs one seed and tells its end.
    Run {
        #[arg(long)]
        seed: u64,
        /// Prints every event to standard error.
        #[arg(long)]
        trace: bool,
        /// Plants a bug, by name.
        #[arg(long)]
        plant: Option<Plant>,
    },
    /// Runs a range of seeds and stops at the first violation.
    Many {
        /// `A..B`, B not included.
        #[arg(long, value_parser = range)]
        seeds: Range<u64>,
        #[arg(long)]
        plant: Option<Plant>,
        /// Goes on after a violation, and lists all seeds that have one.
        #[arg(long)]
        keep_going: bool,
    },
    /// Runs seeds with each planted bug until it is found; fails when one is not.
    Plants {
        #[arg(long, value_parser = range, default_value = "0..400")]
        seeds: Range<u64>,
    },
}

fn main() -> ExitCode {
    match Args::parse().command {
        Command::Run { seed, trace, plant } => {
            let detail = if trace { Detail::Print } else { Detail::Recent };
            let run = run(seed, plant, detail);
            println!("seed {seed}: hash {:016x}", run.trace_hash);
            println!("{:#?}", run.totals);
            tell(&run, plant, !trace);
            exit_of(run.violation.is_some())
        }
        Command::Many {
            seeds,
            plant,
            keep_going,
        } => many(&seeds, plant, keep_going),
        Command::Plants { seeds } => plants(&seeds),
    }
}

/// Sums of a range of seeds, and the first of those that broke something.
#[derive(Default)]
struct Sum {
    totals: Totals,
    simulated_us: u64,
    n_run: u64,
    failed: Vec<Run>,
}

/// Runs seeds on all cores: they have nothing in common.
fn sum(seeds: &Range<u64>, plant: Option<Plant>, keep_going: bool) -> Sum {
    let next = AtomicU64::new(seeds.start);
    let sum = Mutex::new(Sum::default());
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..n_threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let outcome = run(seed, plant, Detail::Hash);
                    let stops = outcome.violation.is_some() && !keep_going;
                    add(&mut lock(&sum), outcome);
                    if stops {
                        next.store(seeds.end, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let mut sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    sum.failed.sort_by_key(|run| run.seed);
    sum
}

fn lock(sum: &Mutex<Sum>) -> MutexGuard<'_, Sum> {
    sum.lock().unwrap_or_else(PoisonError::into_inner)
}

fn add(sum: &mut Sum, outcome: Run) {
    sum.totals += outcome.totals;
    sum.simulated_us += outcome.simulated_us;
    sum.n_run += 1;
    if outcome.violation.is_some() {
        sum.failed.push(outcome);
    }
}

fn many(seeds: &Range<u64>, plant: Option<Plant>, keep_going: bool) -> ExitCode {
    let started = Instant::now();
    let sum = sum(seeds, plant, keep_going);
    for run in &sum.failed {
        tell(run, plant, false);
    }
    let (real, simulated) = (
        started.elapsed().as_secs_f64(),
        sum.simulated_us as f64 / 1e6,
    );
    println!(
        "{} seeds, {} with a violation; {simulated:.0} simulated seconds in {real:.1} s: {:.0} \
         times real time",
        sum.n_run,
        sum.failed.len(),
        simulated / real.max(1e-9)
    );
    println!("{:?}", sum.totals);
    exit_of(!sum.failed.is_empty())
}

/// Every planted bug must be found within `seeds`.
fn plants(seeds: &Range<u64>) -> ExitCode {
    let mut n_missed = 0;
    for plant in Plant::ALL {
        let sum = sum(seeds, Some(*plant), false);
        match sum.failed.first().map(|run| (run.seed, &run.violation)) {
            Some((seed, Some(violation))) => {
                println!("{plant}: found by seed {seed}, `{}`", violation.invariant);
            }
            _ => {
                n_missed += 1;
                println!("{plant}: NOT FOUND within {} seeds", sum.n_run);
            }
        }
    }
    exit_of(n_missed > 0)
}

fn tell(run: &Run, plant: Option<Plant>, with_lines: bool) {
    let Some(violation) = &run.violation else {
        return;
    };
    if with_lines {
        for line in &run.lines {
            println!("{line}");
        }
    }
    let at = violation.at_us as f64 / 1e6;
    println!(
        "seed {}: `{}` is violated at {at:.6} s: {}",
        run.seed, violation.invariant, violation.evidence
    );
    let plant = plant.map(|plant| format!(" --plant {plant}"));
    println!(
        "again: cargo run --release -p nihilo-sim -- run --seed {}{} --trace",
        run.seed,
        plant.unwrap_or_default()
    );
}

fn exit_of(failed: bool) -> ExitCode {
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
