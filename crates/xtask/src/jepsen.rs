//! `cargo xtask jepsen`: builds the binary under test and the harness, and hands over to it.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};

use crate::run::{cargo, cargo_output, root};

const PACKAGES: [&str; 4] = ["-p", "nihilo-server", "-p", "nihilo-jepsen-lite"];

/// Runs the harness with `arguments`; without a command of its own they are those of `run`.
///
/// Ends this process with the harness's exit code: 0 pass, 1 violation, 2 usage, 3 unknown,
/// 4 harness fault.
pub(crate) fn jepsen(arguments: &[String]) -> anyhow::Result<()> {
    // One call, so that both are built with the same features.
    let mut build = vec!["build", "--locked"];
    build.extend(PACKAGES);
    build.extend(["--bin", "nihilo", "--bin", "nihilo-jepsen-lite"]);
    cargo(&build)?;
    let directory = target_directory()?.join("debug");
    let mut harness = Command::new(directory.join("nihilo-jepsen-lite"));
    if arguments.first().is_none_or(|first| first.starts_with('-')) {
        harness.arg("run");
    }
    let status = harness.args(arguments).current_dir(root()).status();
    match status.context("the harness does not start")?.code() {
        Some(code) => std::process::exit(code),
        None => bail!("the harness was killed"),
    }
}

pub(crate) fn target_directory() -> anyhow::Result<PathBuf> {
    let output = cargo_output(&["metadata", "--locked", "--no-deps", "--format-version", "1"])?;
    let metadata: serde_json::Value = serde_json::from_slice(&output)?;
    let directory = metadata["target_directory"].as_str();
    Ok(directory
        .context("cargo metadata has no target directory")?
        .into())
}
