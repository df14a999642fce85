//! What is installed, and where.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::Context;

use super::output_of;
use crate::run::root;

const PROGRAM: u32 = 0o755;
const TEXT: u32 = 0o644;
/// Files of the project, from its root, and where they go.
const FILES: [(&str, &str); 8] = [
    (
        "packaging/nihilo.service",
        "usr/lib/systemd/system/nihilo.service",
    ),
    ("packaging/tmpfiles.conf", "usr/lib/tmpfiles.d/nihilo.conf"),
    (
        "packaging/node.yaml",
        "usr/share/doc/nihilo/examples/node.yaml",
    ),
    (
        "packaging/keepalived/keepalived.conf",
        "usr/share/doc/nihilo/examples/keepalived.conf",
    ),
    (
        "packaging/haproxy/haproxy.cfg",
        "usr/share/doc/nihilo/examples/haproxy.cfg",
    ),
    (
        "packaging/dns/zone.example",
        "usr/share/doc/nihilo/examples/zone.example",
    ),
    (
        "packaging/debian/copyright",
        "usr/share/doc/nihilo/copyright",
    ),
    (
        "packaging/debian/lintian-overrides",
        "usr/share/lintian/overrides/nihilo",
    ),
];
/// Shells, and where each looks for a program's completions.
pub(crate) const COMPLETIONS: [(&str, &str); 4] = [
    ("bash", "usr/share/bash-completion/completions/nihilo"),
    ("zsh", "usr/share/zsh/vendor-completions/_nihilo"),
    ("fish", "usr/share/fish/vendor_completions.d/nihilo.fish"),
    ("powershell", "usr/share/nihilo/nihilo.ps1"),
];
const MANUAL: &str = "usr/share/man/man1";

/// Lays everything that `binary` is installed with below `tree`.
pub(super) fn lay(tree: &Path, binary: &Path) -> anyhow::Result<()> {
    let read = |file: &Path| std::fs::read(file).with_context(|| file.display().to_string());
    put(tree, "usr/bin/nihilo", PROGRAM, &read(binary)?)?;
    for (from, to) in FILES {
        put(tree, to, TEXT, &read(&root().join(from))?)?;
    }
    for (shell, to) in COMPLETIONS {
        put(tree, to, TEXT, &completion(binary, shell)?)?;
    }
    let changes = read(&root().join("packaging/debian/changelog"))?;
    put(tree, "usr/share/doc/nihilo/changelog", TEXT, &changes)?;
    compress(&tree.join("usr/share/doc/nihilo/changelog"))?;
    manual(tree, MANUAL, binary)
}

/// What completes the command line in a shell, as the binary says it.
pub(crate) fn completion(binary: &Path, shell: &str) -> anyhow::Result<Vec<u8>> {
    output_of(Command::new(binary).args(["completion", shell]))
}

/// The pages of all commands, packed, in a directory below `tree`.
pub(crate) fn manual(tree: &Path, below: &str, binary: &Path) -> anyhow::Result<()> {
    let dir = tree.join(below);
    directory(tree, below)?;
    output_of(Command::new(binary).arg("man").arg(&dir))?;
    for page in std::fs::read_dir(&dir)? {
        let page = page?.path();
        std::fs::set_permissions(&page, PermissionsExt::from_mode(TEXT))?;
        compress(&page)?;
    }
    Ok(())
}

/// Without a name and a time inside, so that the same text makes the same file.
fn compress(file: &Path) -> anyhow::Result<()> {
    output_of(Command::new("gzip").args(["-9n", "--force"]).arg(file)).map(drop)
}

/// Writes one file below `tree`.
pub(crate) fn put(tree: &Path, to: &str, mode: u32, bytes: &[u8]) -> anyhow::Result<()> {
    if let Some((dir, _)) = to.rsplit_once('/') {
        directory(tree, dir)?;
    }
    let path = tree.join(to);
    std::fs::write(&path, bytes).with_context(|| path.display().to_string())?;
    Ok(std::fs::set_permissions(
        &path,
        PermissionsExt::from_mode(mode),
    )?)
}

/// Makes a directory with all above it, whatever this process's mask is.
fn directory(tree: &Path, dir: &str) -> anyhow::Result<()> {
    let below = Path::new(dir).ancestors().collect::<Vec<_>>();
    for part in below.into_iter().rev() {
        let path = tree.join(part);
        std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        std::fs::set_permissions(&path, PermissionsExt::from_mode(PROGRAM))?;
    }
    Ok(())
}
