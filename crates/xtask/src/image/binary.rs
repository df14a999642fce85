//! The static build of `nihilo` that images are made of.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use super::libraries;
use crate::run::{cargo_output, cargo_with, target_dir};

const NAME: &str = "nihilo";

/// The binary to pack and the libraries that it wants: the given one as it is, else a static build.
pub(crate) fn to_pack(given: Option<&Path>) -> anyhow::Result<(PathBuf, Vec<PathBuf>)> {
    let binary = match given {
        Some(file) => file.to_owned(),
        None => build_static()?,
    };
    let libraries = libraries::of(&binary)?;
    if given.is_none() && !libraries.is_empty() {
        bail!("{} is not static: it wants {libraries:?}", binary.display());
    }
    Ok((binary, libraries))
}

/// A release build that needs nothing of its image; returns the binary's path.
///
/// It has a target directory of its own: other flags than everybody's would rebuild everything in
/// turns.
fn build_static() -> anyhow::Result<PathBuf> {
    let (target, directory) = (host_target()?, target_dir()?.join("image"));
    let only_static = directory.join("libstdc++");
    link_static_cpp(&only_static)?;
    let mut flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    // Searched first, so that the linker does not find the shared library of that name, which a
    // static program cannot load.
    flags += &format!(
        " -C target-feature=+crt-static -L native={}",
        only_static.display()
    );
    let shown = directory.to_string_lossy();
    // With a target named, the flags do not reach build scripts and procedural macros.
    let args = [
        "build",
        "--release",
        "--locked",
        "--bin",
        NAME,
        "--target",
        &target,
    ];
    let args = [args.as_slice(), &["--target-dir", &*shown]].concat();
    cargo_with(&args, &[("RUSTFLAGS", &flags)])?;
    Ok(directory.join(target).join("release").join(NAME))
}

fn host_target() -> anyhow::Result<String> {
    let output = cargo_output(&["--version", "--verbose"])?;
    let text = String::from_utf8(output)?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("cargo does not name its host")?.to_owned())
}

/// Makes `dir` hold the static C++ library and nothing else.
fn link_static_cpp(dir: &Path) -> anyhow::Result<()> {
    const LIBRARY: &str = "libstdc++.a";
    let output = Command::new("g++")
        .arg(format!("-print-file-name={LIBRARY}"))
        .output();
    let output = output.context("`g++` does not start")?;
    let path = PathBuf::from(String::from_utf8(output.stdout)?.trim());
    // An unknown file is answered by its bare name.
    if !path.is_absolute() {
        bail!("the compiler has no {LIBRARY}");
    }
    std::fs::create_dir_all(dir)?;
    let link = dir.join(LIBRARY);
    if std::fs::read_link(&link).is_ok_and(|found| found == path) {
        return Ok(());
    }
    drop(std::fs::remove_file(&link));
    symlink(&path, &link).with_context(|| link.display().to_string())
}
