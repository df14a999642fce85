//! The project's own commands: `cargo xtask help`.

mod bench;
mod deb;
mod deps;
mod dist;
mod image;
mod jepsen;
mod run;
mod sim;
mod test;
mod tidy;

use std::process::ExitCode;

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
        /// Only the tests that take minutes, which the others leave out.
        #[arg(long, conflicts_with = "package")]
        long: bool,
    },
    /// Fails on an edge between crates that the architecture does not have.
    Deps,
    /// Builds the container image out of the local binary; needs Docker, but no registry.
    Image(image::ImageArgs),
    /// Builds the Debian package; needs dpkg-deb.
    Deb(deb::DebArgs),
    /// Builds the archive for systems without a package manager that we know, its checksum and its
    /// installer; needs tar and gzip.
    Dist(dist::DistArgs),
    /// Runs simulated clusters: many seeds, or one.
    Sim {
        /// Only this seed.
        #[arg(long)]
        seed: Option<u64>,
        /// How many seeds, from 0. Default: 2,000, with `--shell` 40.
        #[arg(long)]
        seeds: Option<u64>,
        /// With `--seed`: prints every event.
        #[arg(long)]
        trace: bool,
        /// The real shells on a simulated network, instead of the world around the pure crates.
        #[arg(long)]
        shell: bool,
    },
    /// Real nodes under real faults; see `cargo xtask jepsen list`.
    #[command(disable_help_flag = true)]
    Jepsen {
        /// Those of the harness: `[--workload W] [--nemesis N] [--minutes M] [--seed S]
        /// [--trials K]`, `matrix [--cells C]`, or `etcd [--workload register|watch] [--nemesis N]`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Builds everything optimised and runs a benchmark: lease, cold, readiness, coldrate, gateway,
    /// autoscaler, idle, trace, rss, failover, restart, rollout, quorumloss, store.
    Bench {
        /// Name and options, as `cargo xtask bench -- --help` and `bench cold --help` list them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Fails on leftovers: sleeps in tests, tests that run nowhere, dead links in documents.
    Tidy,
}

/// The error alone, so that the last lines are those of the program that failed.
fn main() -> ExitCode {
    match run(Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Check => test::check(),
        Command::Test { long: true, .. } => test::long(),
        Command::Test { package, .. } => test::test(package.as_deref()),
        Command::Jepsen { arguments } => jepsen::jepsen(&arguments),
        Command::Deps => deps::check(),
        Command::Image(args) => image::run(&args),
        Command::Deb(args) => deb::run(&args),
        Command::Dist(args) => dist::run(&args),
        Command::Sim {
            seed,
            seeds,
            trace,
            shell: false,
        } => sim::sim(seed, seeds, trace),
        Command::Sim {
            seed,
            seeds,
            trace,
            shell: true,
        } => sim::shell(seed, seeds, trace),
        Command::Bench { args } => bench::run(&args),
        Command::Tidy => tidy::check(),
    }
}
