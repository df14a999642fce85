//! Starting a node as a child of this process, with its output in `node.log`.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nihilo_types::node_config::NodeConfig;
use nihilo_types::node_env;

use super::layout;
use crate::failure::{Failure, Result, exit};
use crate::output;

const LOG: &str = "node.log";
/// Bytes read from the end of a log, and lines shown of them.
const TAIL_BYTES: u64 = 16 * 1024;
const TAIL_LINES: usize = 12;

/// When a node ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// With the process that started it.
    OfThisProcess,
    /// When it is told to.
    Own,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub config: NodeConfig,
    child: Child,
}

impl Node {
    /// Starts the node of `config`, whose file is in its data directory.
    ///
    /// # Errors
    /// No process, or no log file.
    pub(crate) fn spawn(config: &NodeConfig, lifetime: Lifetime) -> Result<Self> {
        let starting = |error| Failure::io(format!("cannot start {}", config.name), &error);
        let file = log_file(&config.data_dir);
        let log = File::options()
            .create(true)
            .append(true)
            .open(&file)
            .map_err(starting)?;
        let mut command = Command::new(std::env::current_exe().map_err(starting)?);
        command
            .args(["node", "start", "--config"])
            .arg(layout::config_file(&config.data_dir));
        // They are one node's, and these are several.
        for (name, _) in node_env::VARIABLES {
            command.env_remove(name);
        }
        match lifetime {
            Lifetime::Own => command.arg("--own-session"),
            Lifetime::OfThisProcess => command.arg("--parent").arg(std::process::id().to_string()),
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(starting)?)
            .stderr(log)
            .spawn()
            .map_err(starting)?;
        Ok(Self {
            config: config.clone(),
            child,
        })
    }

    /// How the process ended; `None` while it runs.
    pub(crate) fn ended(&mut self) -> Option<String> {
        match self.child.try_wait() {
            Ok(status) => status.map(how),
            Err(error) => Some(error.to_string()),
        }
    }

    pub(crate) fn kill(&mut self) {
        // It may have ended by itself: then there is nothing to do.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

fn log_file(node_dir: &Path) -> PathBuf {
    node_dir.join(LOG)
}

/// A failure of one node, with the end of what it printed.
pub(crate) fn failure_of(config: &NodeConfig, what: &str) -> Failure {
    let file = log_file(&config.data_dir);
    let failure = Failure::new(exit::OTHER, format!("{} {what}", config.name));
    let lines = tail(&file).unwrap_or_default();
    let failure = match lines.len() {
        0 => failure.because("it printed nothing"),
        n => failure.because(format!("last output ({n} lines):")),
    };
    lines
        .iter()
        .fold(failure, |failure, line| {
            failure.because(format!("  | {line}"))
        })
        .hint(format!("less {}", file.display()))
}

fn tail(file: &Path) -> std::io::Result<Vec<String>> {
    let mut file = File::open(file)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().map(output::plain).collect();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_node_shows_the_end_of_its_output() {
        let dir = tempfile::tempdir().unwrap();
        let config = layout::prepare(dir.path(), 1, None).unwrap().remove(0);
        let silent = failure_of(&config, "ended: exit code 1").to_string();
        assert!(silent.contains("error: node1 ended: exit code 1\n  it printed nothing"));
        let text: String = (0..100).map(|n| format!("line {n}\n")).collect();
        std::fs::write(log_file(&config.data_dir), text).unwrap();
        let failure = failure_of(&config, "ended: exit code 1").to_string();
        assert!(failure.contains("last output (12 lines):"), "{failure}");
        assert!(
            failure.contains("| line 99\n") && !failure.contains("line 87\n"),
            "{failure}"
        );
    }
}
