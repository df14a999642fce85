//! `cargo xtask image`: the container image without a registry, a base image or a builder.
//!
//! One root tree for both ways to an image: this command imports it, `cluster/Dockerfile` unpacks
//! it. The image's metadata is read from the Dockerfile, so that the two cannot differ.

pub(crate) mod binary;
mod dockerfile;
pub(crate) mod libraries;
mod rootfs;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::run::{root, target_dir};

#[derive(Debug, clap::Args)]
pub(crate) struct ImageArgs {
    /// Name of the image.
    #[arg(long, default_value = "nihilo:dev")]
    tag: String,
    /// Only write the root tree to this tar file.
    #[arg(long, value_name = "FILE", conflicts_with = "tag")]
    tar: Option<PathBuf>,
    /// Pack this binary, with the libraries that it needs, and build none.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

pub(crate) fn run(args: &ImageArgs) -> anyhow::Result<()> {
    let (binary, libraries) = binary::to_pack(args.binary.as_deref())?;
    if let Some(tar) = &args.tar {
        return write(tar, &binary, &libraries);
    }
    // Two of these commands may run at once: each has a tree of its own.
    let scratch = tempfile::tempdir_in(target_dir()?)?;
    let tar = scratch.path().join("rootfs.tar");
    write(&tar, &binary, &libraries)?;
    import(&tar, &args.tag)
}

fn write(tar: &Path, binary: &Path, libraries: &[PathBuf]) -> anyhow::Result<()> {
    rootfs::write(tar, binary, libraries)?;
    eprintln!("{}: {} MiB", tar.display(), tar.metadata()?.len() >> 20);
    Ok(())
}

fn import(tar: &Path, tag: &str) -> anyhow::Result<()> {
    let file = root().join("cluster/Dockerfile");
    let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let mut command = Command::new("docker");
    command.arg("import");
    for change in dockerfile::metadata(&text) {
        command.args(["--change", change]);
    }
    command.arg(tar).arg(tag);
    let output = command.output().context("`docker` does not start")?;
    if !output.status.success() {
        bail!(
            "`docker import` failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    eprintln!("image {tag}");
    Ok(())
}
