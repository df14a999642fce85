//! `cargo xtask dist`: an archive for systems without a package of ours, the archive's checksum, and the
//! script that installs what it has proven.
//!
//! ```text
//! nihilo-VERSION-linux-ARCH/bin/nihilo          below it as below the prefix
//!                           lib/systemd/system/  the unit, whose paths the installer fits
//!                           share/              manual, completions, examples, licence
//! ```

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::deb::tree::{COMPLETIONS, completion, manual, put};
use crate::deb::{NAME, VERSION, committed_at, control, output_of};
use crate::image::binary;
use crate::run::{root, target_dir};

const PROGRAM: u32 = 0o755;
const TEXT: u32 = 0o644;
const INSTALLER: &str = "packaging/install.sh";
/// Files of the project, from its root, and where they go below the prefix.
const FILES: [(&str, &str); 6] = [
    (
        "packaging/nihilo.service",
        "lib/systemd/system/nihilo.service",
    ),
    ("LICENSE", "share/doc/nihilo/LICENSE"),
    ("packaging/node.yaml", "share/doc/nihilo/examples/node.yaml"),
    (
        "packaging/keepalived/keepalived.conf",
        "share/doc/nihilo/examples/keepalived.conf",
    ),
    (
        "packaging/haproxy/haproxy.cfg",
        "share/doc/nihilo/examples/haproxy.cfg",
    ),
    (
        "packaging/dns/zone.example",
        "share/doc/nihilo/examples/zone.example",
    ),
];

#[derive(Debug, clap::Args)]
pub(crate) struct DistArgs {
    /// Pack this binary, which runs here, and build none.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Where archive, checksum and installer are put. Default: `dist` in cargo's target directory.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// As gzip's: 1 is fast, 9 is small.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u8).range(1..=9))]
    level: u8,
}

pub(crate) fn run(args: &DistArgs) -> anyhow::Result<()> {
    let (binary, libraries) = binary::to_pack(args.binary.as_deref())?;
    if !libraries.is_empty() {
        eprintln!("warning: this binary wants libraries of its system: {libraries:?}");
    }
    let out = match &args.out {
        Some(dir) => dir.clone(),
        None => target_dir()?.join("dist"),
    };
    let name = name(control::architecture(std::env::consts::ARCH)?);
    let laid = out.join(&name);
    if laid.exists() {
        std::fs::remove_dir_all(&laid).with_context(|| laid.display().to_string())?;
    }
    lay(&laid, &binary)?;
    let archive = format!("{name}.tar.gz");
    pack(&out, &name, &archive, args.level)?;
    let sum = output_of(Command::new("sha256sum").arg(&archive).current_dir(&out))?;
    put(&out, &format!("{archive}.sha256"), TEXT, &sum)?;
    put(&out, "install.sh", PROGRAM, &read(&root().join(INSTALLER))?)?;
    let archive = out.join(archive);
    eprintln!(
        "{}: {} MiB; install it with {}",
        archive.display(),
        archive.metadata()?.len() >> 20,
        out.join("install.sh").display()
    );
    Ok(())
}

fn name(architecture: &str) -> String {
    format!("{NAME}-{VERSION}-linux-{architecture}")
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(file).with_context(|| file.display().to_string())
}

fn lay(tree: &Path, binary: &Path) -> anyhow::Result<()> {
    put(tree, "bin/nihilo", PROGRAM, &read(binary)?)?;
    for (from, to) in FILES {
        put(tree, to, TEXT, &read(&root().join(from))?)?;
    }
    for (shell, to) in COMPLETIONS {
        let to = to.strip_prefix("usr/").unwrap_or(to);
        put(tree, to, TEXT, &completion(binary, shell)?)?;
    }
    manual(tree, "share/man/man1", binary)
}

/// The same tree makes the same archive: names in order, nobody's files, the commit's time.
fn pack(out: &Path, name: &str, archive: &str, level: u8) -> anyhow::Result<()> {
    let mut tar = Command::new("tar");
    tar.current_dir(out)
        .args(["--create", "--sort=name", "--owner=0", "--group=0"])
        .args(["--numeric-owner", "--format=ustar"]);
    if let Some(seconds) = committed_at() {
        tar.arg(format!("--mtime=@{seconds}"));
    }
    tar.arg(format!("--use-compress-program=gzip -{level}n"));
    output_of(tar.args(["--file", archive, name])).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_installer_looks_for_what_is_packed() {
        let script = include_str!("../../../../packaging/install.sh");
        let looked_for = name("$architecture").replace(VERSION, "$version");
        assert!(
            script.contains(&format!("name={looked_for}")),
            "{looked_for}"
        );
        assert!(script.contains(&format!("version={VERSION}")), "{VERSION}");
    }
}
