//! `bench`: builds the binary under test and the benchmark tool, both optimised, and runs the tool.
//!
//! The tool is a crate of its own, so that this one knows none of ours and builds in seconds.

use std::process::Command;

use anyhow::{Context, bail};

use crate::run::{cargo, target_dir};

const BINARIES: [&str; 3] = ["nihilo", "nihilo-bench", "nihilo-bench-app"];

pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    let mut build = vec!["build", "--release", "--locked"];
    build.extend(BINARIES.iter().flat_map(|binary| ["--bin", binary]));
    cargo(&build)?;
    let tool = target_dir()?.join("release/nihilo-bench");
    let status = Command::new(&tool).args(args).status();
    let status = status.with_context(|| tool.display().to_string())?;
    if !status.success() {
        bail!("`nihilo-bench {}` failed", args.join(" "));
    }
    Ok(())
}
