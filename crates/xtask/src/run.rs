//! Running other programs: shown, and fatal when they fail.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir() -> anyhow::Result<PathBuf> {
    let output = cargo_output(&["metadata", "--locked", "--no-deps", "--format-version", "1"])?;
    let metadata: serde_json::Value = serde_json::from_slice(&output)?;
    let directory = metadata["target_directory"].as_str();
    Ok(directory
        .context("cargo metadata has no target directory")?
        .into())
}

/// Runs `cargo` with `args` in the workspace's root.
pub(crate) fn cargo(args: &[&str]) -> anyhow::Result<()> {
    cargo_with(args, &[])
}

/// The same, with some variables set.
pub(crate) fn cargo_with(args: &[&str], variables: &[(&str, &str)]) -> anyhow::Result<()> {
    eprintln!("$ cargo {}", args.join(" "));
    let mut command = Command::new("cargo");
    for (name, _) in std::env::vars_os() {
        if is_of_this_package(&name.to_string_lossy()) {
            command.env_remove(name);
        }
    }
    let status = command
        .args(args)
        .envs(variables.iter().copied())
        .current_dir(root())
        .status();
    let status = status.context("cargo does not start")?;
    if !status.success() {
        bail!("`cargo {}` failed", args.join(" "));
    }
    Ok(())
}

/// Set by `cargo run` for this program. Build scripts that look at them would run again, and all that
/// depends on their crates be built again, whenever cargo is called by turns from here and from a shell.
fn is_of_this_package(variable: &str) -> bool {
    variable.starts_with("CARGO_PKG_") || variable.starts_with("CARGO_MANIFEST_")
}

/// Runs `cargo` and returns what it prints.
pub(crate) fn cargo_output(args: &[&str]) -> anyhow::Result<Vec<u8>> {
    let output = Command::new("cargo")
        .args(args)
        .current_dir(root())
        .output()?;
    if !output.status.success() {
        bail!(
            "`cargo {}` failed: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(output.stdout)
}
