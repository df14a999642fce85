//! `nihilo internal …`: what the packaging calls and people do not.

use std::path::PathBuf;

use clap::Subcommand;

use super::node;
use crate::failure::{Failure, Result, exit};
use crate::{Hooks, Offline, output};

/// How the service manager says that its unit ended (`systemd.exec(5)`).
const SERVICE_RESULT: &str = "SERVICE_RESULT";

#[derive(Debug, Subcommand)]
pub(crate) enum InternalCommand {
    /// End the programs and containers of a node that was stopped and left some behind; those of a node that
    /// crashed go on, for its next process to adopt.
    Sweep {
        /// Its configuration; default: as `nihilo node start`.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// How the node's process ended, as a unit's ExecStopPost= is told.
        #[arg(long, env = SERVICE_RESULT, value_name = "RESULT")]
        result: String,
    },
}

/// # Errors
/// The configuration cannot be read, or a node still runs on its directory.
pub(crate) fn run(command: InternalCommand, hooks: Hooks) -> Result<()> {
    let InternalCommand::Sweep { config, result } = command;
    if !was_stopped(&result) {
        output::note(&format!("{result}: what runs is left for the next process"));
        return Ok(());
    }
    let config = node::config_of(config.as_deref())?;
    let sweep = Offline::Sweep {
        data_dir: config.data_dir,
        docker: config.docker,
    };
    let failed =
        |error: anyhow::Error| Failure::new(exit::OTHER, format!("cannot sweep: {error:#}"));
    (hooks.offline)(sweep).map(drop).map_err(failed)
}

/// Whether the node was told to stop: in good order, or past its time. Any other end is a crash.
fn was_stopped(result: &str) -> bool {
    matches!(result, "success" | "timeout")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_node_that_was_told_to_stop_is_swept_after() {
        for stopped in ["success", "timeout"] {
            assert!(was_stopped(stopped), "{stopped}");
        }
        for crashed in [
            "exit-code",
            "signal",
            "core-dump",
            "watchdog",
            "oom-kill",
            "",
        ] {
            assert!(!was_stopped(crashed), "{crashed}");
        }
    }
}
