//! The project's own commands: `cargo xtask help`.

mod deps;
mod image;
mod run;
mod sim;
mod test;
mod tidy;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Nihilo's development commands")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Format check, clippy, dependency directions, tidiness; writes nothing.
    Check,
    /// Everything `check` does, then all tests.
    Test {
        /// Only this crate's tests, e.g. `machine`.
        #[arg(short, long)]
        package: Option<String>,
    },
    /// Fails on an edge between crates that the architecture does not have.
    Deps,
<<<<<<< HEAD
    /// Builds the container image out of the local binary; needs Docker, but no registry.
    Image(image::ImageArgs),
=======
    /// Runs simulated clusters: many seeds, or one.
    Sim {
        /// Only this seed.
        #[arg(long)]
        seed: Option<u64>,
        /// How many seeds, from 0.
        #[arg(long, default_value_t = 2_000)]
        seeds: u64,
        /// With `--seed`: prints every event.
        #[arg(long)]
        trace: bool,
    },
>>>>>>> 1f8ea09 (sim: a seeded world runs the shipped decisions, with invariants)
    /// Fails on leftovers: sleeps in tests, unfinished code, dead links in documents.
    Tidy,
}

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::Check => test::check(),
        Command::Test { package } => test::test(package.as_deref()),
        Command::Deps => deps::check(),
<<<<<<< HEAD
        Command::Image(args) => image::run(&args),
=======
        Command::Sim { seed, seeds, trace } => sim::sim(seed, seeds, trace),
>>>>>>> 1f8ea09 (sim: a seeded world runs the shipped decisions, with invariants)
        Command::Tidy => tidy::check(),
    }
}
