//! `cargo xtask deb`: a Debian package, packed by `dpkg-deb` out of a tree that is laid here.

pub(crate) mod control;
pub(crate) mod tree;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::image::binary;
use crate::run::{root, target_dir};

/// All packages of the workspace have one version.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
pub(crate) const NAME: &str = "nihilo";

#[derive(Debug, clap::Args)]
pub(crate) struct DebArgs {
    /// Pack this binary, which runs here, and build none.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Where the package is put. Default: `deb` in cargo's target directory.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// As `dpkg-deb -Z`: xz, gzip, zstd or none.
    #[arg(long, default_value = "xz", value_name = "HOW")]
    compression: String,
}

pub(crate) fn run(args: &DebArgs) -> anyhow::Result<()> {
    let (binary, libraries) = binary::to_pack(args.binary.as_deref())?;
    let depends = control::depends(&libraries)?;
    let architecture = control::architecture(std::env::consts::ARCH)?;
    let out = match &args.out {
        Some(dir) => dir.clone(),
        None => target_dir()?.join("deb"),
    };
    let laid = out.join(NAME);
    if laid.exists() {
        std::fs::remove_dir_all(&laid).with_context(|| laid.display().to_string())?;
    }
    tree::lay(&laid, &binary)?;
    control::write(&laid, architecture, &depends)?;
    let package = out.join(format!("{NAME}_{VERSION}_{architecture}.deb"));
    pack(&laid, &package, &args.compression)?;
    eprintln!(
        "{}: {} MiB",
        package.display(),
        package.metadata()?.len() >> 20
    );
    Ok(())
}

fn pack(tree: &Path, package: &Path, compression: &str) -> anyhow::Result<()> {
    let mut command = Command::new("dpkg-deb");
    command.args(["--root-owner-group", "--build", "-Z", compression]);
    if let Some(seconds) = committed_at() {
        // The same commit makes the same package.
        command.env("SOURCE_DATE_EPOCH", seconds);
    }
    output_of(command.arg(tree).arg(package)).map(drop)
}

/// Seconds since 1970 that files are dated with; `None` = outside a checkout, as they are.
pub(crate) fn committed_at() -> Option<String> {
    if let Ok(given) = std::env::var("SOURCE_DATE_EPOCH") {
        return Some(given);
    }
    let mut git = Command::new("git");
    let said = git
        .args(["log", "-1", "--format=%ct"])
        .current_dir(root())
        .output()
        .ok()?;
    let text = String::from_utf8(said.stdout).ok()?;
    Some(text.trim().to_owned()).filter(|seconds| !seconds.is_empty())
}

/// Runs a program; returns what it prints.
pub(crate) fn output_of(command: &mut Command) -> anyhow::Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("`{name}` does not start"))?;
    if !output.status.success() {
        bail!(
            "`{name}` failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(output.stdout)
}
