//! `nihilo-sim`: runs seeds of the world.

use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};
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
        #[arg(long, value_parser = seeds)]
        seeds: std::ops::Range<u64>,
        #[arg(long)]
        plant: Option<Plant>,
        /// Goes on after a violation, and lists all seeds that have one.
        #[arg(long)]
        keep_going: bool,
    },
}

fn seeds(text: &str) -> Result<std::ops::Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("want A..B")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| error.to_string());
    Ok(number(from)?..number(to)?)
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
        } => many(seeds, plant, keep_going),
    }
}

fn many(seeds: std::ops::Range<u64>, plant: Option<Plant>, keep_going: bool) -> ExitCode {
    let started = Instant::now();
    let (mut totals, mut simulated_us, mut n_run, mut failed) = (Totals::default(), 0, 0, 0u64);
    for seed in seeds {
        let outcome = run(seed, plant, Detail::Hash);
        n_run += 1;
        totals += outcome.totals;
        simulated_us += outcome.simulated_us;
        if outcome.violation.is_some() {
            failed += 1;
            tell(&outcome, plant, false);
            if !keep_going {
                break;
            }
        }
    }
    let (real, simulated) = (started.elapsed().as_secs_f64(), simulated_us as f64 / 1e6);
    println!(
        "{n_run} seeds, {failed} with a violation; {simulated:.0} simulated seconds in {real:.1} s: \
         {:.0} times real time",
        simulated / real.max(1e-9)
    );
    println!("{totals:?}");
    exit_of(failed > 0)
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
