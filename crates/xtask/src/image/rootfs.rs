//! The root tree of the image, as a tar file: owners and modes are in it, whoever packs it.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tar::{Builder, EntryType, Header};

/// The user that nodes run as; "nonroot" in images of this kind.
const NODE: u64 = 65_532;
const ROOT: u64 = 0;
const PASSWD: &str = "root:x:0:0:root:/:/sbin/nologin\nnihilo:x:65532:65532::/data:/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nnihilo:x:65532:\n";
/// The C library's own two ways to resolve a name, which need no plug-in.
const NSSWITCH: &str = "hosts: files dns\n";

/// Directories that are not just on the way to a file: a new named volume takes owner and mode
/// from the image's directory.
const DIRECTORIES: [(&str, u64, u32); 3] = [
    ("data", NODE, 0o750),
    ("keys", NODE, 0o700),
    ("tmp", ROOT, 0o1777),
];

/// Packs `binary` as `/nihilo`, and `libraries` where they lie here.
pub(crate) fn write(tar: &Path, binary: &Path, libraries: &[PathBuf]) -> anyhow::Result<()> {
    let doing = || tar.display().to_string();
    if let Some(dir) = tar.parent() {
        std::fs::create_dir_all(dir).with_context(doing)?;
    }
    let file = BufWriter::new(File::create(tar).with_context(doing)?);
    let mut tree = Tree(Builder::new(file));
    for (path, owner, mode) in DIRECTORIES {
        tree.directory(Path::new(path), owner, mode)?;
    }
    for dir in parents(libraries) {
        tree.directory(&dir, ROOT, 0o755)?;
    }
    for (name, text) in [
        ("passwd", PASSWD),
        ("group", GROUP),
        ("nsswitch.conf", NSSWITCH),
    ] {
        tree.file(&Path::new("etc").join(name), 0o644, text.as_bytes())?;
    }
    let programs = libraries
        .iter()
        .map(|path| (path.as_path(), below_root(path)));
    for (from, to) in programs.chain([(binary, Path::new("nihilo"))]) {
        let bytes = std::fs::read(from).with_context(|| from.display().to_string())?;
        tree.file(to, 0o755, &bytes)?;
    }
    tree.0.into_inner()?.into_inner()?.sync_all()?;
    Ok(())
}

fn below_root(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// Each directory on the way to a file once, a parent before its child.
fn parents(libraries: &[PathBuf]) -> Vec<PathBuf> {
    let of_libraries = libraries
        .iter()
        .flat_map(|path| below_root(path).ancestors().skip(1));
    let mut all: Vec<_> = of_libraries
        .filter(|dir| !dir.as_os_str().is_empty())
        .filter(|dir| !DIRECTORIES.iter().any(|(path, ..)| *dir == Path::new(path)))
        .chain([Path::new("etc")])
        .map(Path::to_owned)
        .collect();
    all.sort();
    all.dedup();
    all
}

struct Tree<W: std::io::Write>(Builder<W>);

impl<W: std::io::Write> Tree<W> {
    fn directory(&mut self, path: &Path, owner: u64, mode: u32) -> anyhow::Result<()> {
        self.entry(EntryType::Directory, path, owner, mode, &[])
    }

    fn file(&mut self, path: &Path, mode: u32, bytes: &[u8]) -> anyhow::Result<()> {
        self.entry(EntryType::Regular, path, ROOT, mode, bytes)
    }

    fn entry(
        &mut self,
        kind: EntryType,
        path: &Path,
        owner: u64,
        mode: u32,
        bytes: &[u8],
    ) -> anyhow::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_uid(owner);
        header.set_gid(owner);
        header.set_mode(mode);
        header.set_size(u64::try_from(bytes.len())?);
        // The same tree makes the same file.
        header.set_mtime(0);
        self.0.append_data(&mut header, path, bytes)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn owners_and_modes_are_those_of_the_image() {
        let dir = tempfile::tempdir().unwrap();
        let (binary, library) = (dir.path().join("bin"), dir.path().join("libx.so"));
        std::fs::write(&binary, "program").unwrap();
        std::fs::write(&library, "library").unwrap();
        let tar = dir.path().join("deep/rootfs.tar");
        write(&tar, &binary, std::slice::from_ref(&library)).unwrap();

        let mut archive = tar::Archive::new(File::open(&tar).unwrap());
        let mut seen = BTreeMap::new();
        for (position, entry) in archive.entries().unwrap().enumerate() {
            let entry = entry.unwrap();
            let (path, header) = (entry.path().unwrap().into_owned(), entry.header());
            let owner_and_mode = (header.uid().unwrap(), header.mode().unwrap());
            assert!(seen.insert(path, (owner_and_mode, position)).is_none());
        }
        let of = |path: &Path| seen[path].0;
        assert_eq!(of(Path::new("data")), (65_532, 0o750));
        assert_eq!(of(Path::new("tmp")), (0, 0o1777));
        assert_eq!(of(Path::new("nihilo")), (0, 0o755));
        assert_eq!(of(Path::new("etc/passwd")), (0, 0o644));
        let (inside, parent) = (below_root(&library), below_root(dir.path()));
        assert_eq!(of(inside), (0, 0o755));
        assert!(seen[parent].1 < seen[inside].1);
    }
}
