//! What the package manager is told of a package: fields, scripts, checksums.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use super::tree::put;
use super::{NAME, VERSION, output_of};
use crate::run::root;

const MAINTAINER: &str = "Nihilo maintainers <maintainers@nihilo.example>";
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];
/// Makes the node's user.
const ALWAYS: &str = "adduser";
/// Beginnings of libraries' names, and the packages that have them.
const LIBRARIES: [(&str, &str); 8] = [
    ("ld-linux", "libc6"),
    ("libc.", "libc6"),
    ("libm.", "libc6"),
    ("libdl.", "libc6"),
    ("libpthread.", "libc6"),
    ("librt.", "libc6"),
    ("libgcc_s.", "libgcc-s1"),
    ("libstdc++.", "libstdc++6"),
];

/// A line about it, then lines that begin with a blank and have 80 characters at most.
const DESCRIPTION: &str = "Description: serverless HTTP services on a few machines
 Knative Serving's model without Kubernetes: one binary, three boxes. A service
 costs nothing until a request arrives, is woken in milliseconds, scales with
 load, and goes on when a box dies.
 .
 This package has the binary, which is node and command line in one, and a
 systemd unit for one node of a cluster.";

/// Debian's name of what Rust calls `architecture`.
///
/// # Errors
/// It is none that nodes are built for.
pub(crate) fn architecture(architecture: &str) -> anyhow::Result<&'static str> {
    match architecture {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("no package is made for `{other}`"),
    }
}

/// What a binary with these shared libraries depends on.
///
/// # Errors
/// A library whose package is not known.
pub(super) fn depends(libraries: &[PathBuf]) -> anyhow::Result<String> {
    let mut packages = BTreeSet::from([ALWAYS]);
    for library in libraries {
        let name = library.file_name().unwrap_or_default().to_string_lossy();
        let known = LIBRARIES.iter().find(|(begin, _)| name.starts_with(begin));
        let (_, package) = known.with_context(|| format!("no package is known for `{name}`"))?;
        packages.insert(package);
    }
    Ok(packages.into_iter().collect::<Vec<_>>().join(", "))
}

/// Writes `DEBIAN/` into a tree that is laid.
pub(super) fn write(tree: &Path, architecture: &str, depends: &str) -> anyhow::Result<()> {
    let files = files(tree)?;
    let bytes: u64 = files
        .iter()
        .map(|file| Ok(tree.join(file).metadata()?.len()))
        .sum::<std::io::Result<_>>()?;
    let sums = output_of(Command::new("md5sum").args(&files).current_dir(tree))?;
    let text = fields(architecture, depends, bytes.div_ceil(1024));
    put(tree, "DEBIAN/control", 0o644, text.as_bytes())?;
    put(tree, "DEBIAN/md5sums", 0o644, &sums)?;
    for script in SCRIPTS {
        let file = root().join("packaging/debian").join(script);
        let text = std::fs::read(&file).with_context(|| file.display().to_string())?;
        put(tree, &format!("DEBIAN/{script}"), 0o755, &text)?;
    }
    Ok(())
}

/// All files below `tree`, by their paths from there.
fn files(tree: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let (mut found, mut left) = (Vec::new(), vec![tree.to_owned()]);
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
            let path = entry?.path();
            match path.is_dir() {
                true => left.push(path),
                false => found.push(path.strip_prefix(tree)?.to_owned()),
            }
        }
    }
    found.sort();
    Ok(found)
}

fn fields(architecture: &str, depends: &str, kib: u64) -> String {
    format!(
        "Package: {NAME}\nVersion: {VERSION}\nArchitecture: {architecture}\nMaintainer: \
         {MAINTAINER}\nInstalled-Size: {kib}\nDepends: {depends}\nSuggests: docker.io, \
         keepalived\nSection: net\nPriority: optional\n{DESCRIPTION}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_static_binary_needs_no_library() {
        assert_eq!(depends(&[]).unwrap(), "adduser");
        let libraries = [
            "/lib/x86_64-linux-gnu/libstdc++.so.6",
            "/lib/x86_64-linux-gnu/libm.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        let found = depends(&libraries.map(PathBuf::from)).unwrap();
        assert_eq!(found, "adduser, libc6, libstdc++6");
        let unknown = depends(&[PathBuf::from("/lib/libz.so.1")]).unwrap_err();
        assert!(unknown.to_string().contains("libz.so.1"), "{unknown}");
    }

    #[test]
    fn the_newest_change_is_of_this_version() {
        let changes = include_str!("../../../../packaging/debian/changelog");
        let wanted = format!("{NAME} ({VERSION}) ");
        assert!(changes.starts_with(&wanted), "{wanted}");
        assert!(changes.contains(MAINTAINER));
    }

    #[test]
    fn the_description_keeps_to_its_form() {
        let text = fields("amd64", "adduser", 7);
        let mut lines = text
            .lines()
            .skip_while(|line| !line.starts_with("Description: "));
        let synopsis = lines.next().unwrap();
        assert!(synopsis.len() < 80 + "Description: ".len());
        for line in lines {
            assert!(line.starts_with(' ') && line.len() <= 80, "{line}");
        }
    }
}
