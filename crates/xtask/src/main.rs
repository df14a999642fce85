//! The project's own commands: `cargo xtask help`.

mod deps;
mod image;
mod run;
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
    /// Builds the container image out of the local binary; needs Docker, but no registry.
    Image(image::ImageArgs),
    /// Fails on leftovers: sleeps in tests, unfinished code, dead links in documents.
    Tidy,
}

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::Check => test::check(),
        Command::Test { package } => test::test(package.as_deref()),
        Command::Deps => deps::check(),
        Command::Image(args) => image::run(&args),
        Command::Tidy => tidy::check(),
    }
}
