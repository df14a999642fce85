//! `nihilo-sim-shell`: the real shells of three nodes in one simulated network, one process a seed.

mod book;
mod clients;
mod disk;
mod entropy;
mod faults;
mod judge;
mod links;
mod many;
mod meta;
mod net;
mod node;
mod observe;
mod panics;
mod plan;
mod plant;
mod register;
mod requests;
mod run;
mod services;

use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use nihilo_sim::seeds::range;

use crate::plan::Plan;
use crate::plant::Plant;

#[derive(Parser)]
#[command(about = "Runs the shells of three nodes on a simulated network, one process per seed")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs one seed in this process and tells its end.
    Run {
        #[arg(long)]
        seed: u64,
        /// Plants a bug, by name.
        #[arg(long)]
        plant: Option<Plant>,
        /// Writes the trace to this file.
        #[arg(long)]
        trace: Option<PathBuf>,
        /// The nodes' own logs go to standard error.
        #[arg(long)]
        logs: bool,
    },
    /// Runs a range of seeds, each in a process of its own.
    Many {
        /// `A..B`, B not included.
        #[arg(long, value_parser = range)]
        seeds: Range<u64>,
        #[arg(long)]
        plant: Option<Plant>,
    },
    /// Runs seeds with each planted bug until it is found; fails when one is not.
    Plants {
        #[arg(long, value_parser = range, default_value = "0..40")]
        seeds: Range<u64>,
        /// Only this one.
        #[arg(long)]
        only: Option<Plant>,
    },
    /// Runs each seed in two processes and compares their traces.
    Meta {
        #[arg(long, value_parser = range, default_value = "0..3")]
        seeds: Range<u64>,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    match Args::parse().command {
        Command::Run {
            seed,
            plant,
            trace,
            logs,
        } => one(seed, plant, trace, logs),
        Command::Many { seeds, plant } => many::many(&seeds, plant),
        Command::Plants { seeds, only } => many::plants(&seeds, only),
        Command::Meta { seeds } => meta::meta(&seeds),
    }
}

fn one(
    seed: u64,
    plant: Option<Plant>,
    trace: Option<PathBuf>,
    logs: bool,
) -> anyhow::Result<ExitCode> {
    entropy::seed(seed);
    panics::watch();
    if logs {
        let filter = tracing_subscriber::EnvFilter::new("info,openraft=warn,turmoil=warn");
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .init();
    }
    if let Some(Err(on)) = plant.map(Plant::switch_on) {
        anyhow::bail!("`{on}` is planted already");
    }
    let plan = Plan::draw(seed);
    let outcome = run::run(&plan, plant)?;
    if let Some(file) = trace {
        std::fs::write(file, outcome.trace.join("\n") + "\n")?;
    }
    let speed = outcome.simulated.as_secs_f64() / outcome.took.as_secs_f64();
    let (simulated, took) = (outcome.simulated.as_secs_f64(), outcome.took.as_secs_f64());
    let code = outcome.report.exit_code();
    println!("seed {seed}: {simulated:.1} s simulated in {took:.1} s, {speed:.1} times real time");
    println!("  {:?}", plan.kinds);
    println!("  {}", outcome.counts);
    if code == 0 {
        println!("  pass");
    } else {
        println!("{}", outcome.report);
        let planted = plant.map(|plant| format!(" --plant {}", plant.name()));
        let planted = planted.unwrap_or_default();
        println!("again: nihilo-sim-shell run --seed {seed}{planted} --trace FILE");
    }
    Ok(ExitCode::from(code))
}
