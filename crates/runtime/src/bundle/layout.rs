//! Where things stand, and how they get there.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nihilo_types::bundle::Digest;

use crate::durable;

/// Whoever a program runs as must get at it.
const DIR_MODE: u32 = 0o755;

#[derive(Debug, Clone)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Makes what is missing of it.
    pub(super) fn make(root: PathBuf) -> io::Result<Self> {
        let layout = Self { root };
        for dir in [
            layout.root.clone(),
            layout.tmp(),
            layout.manifests(),
            layout.blobs(),
            layout.trees(),
        ] {
            fs::create_dir_all(&dir)?;
            fs::set_permissions(&dir, Permissions::from_mode(DIR_MODE))?;
        }
        Ok(layout)
    }

    pub(super) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub(super) fn part(&self, key: &Digest) -> PathBuf {
        self.tmp().join(format!("{}.part", key.hex()))
    }

    pub(super) fn new_tree(&self, blob: &Digest) -> PathBuf {
        self.tmp().join(format!("{}.tree", blob.hex()))
    }

    pub(super) fn manifests(&self) -> PathBuf {
        self.root.join("manifests")
    }

    pub(super) fn manifest(&self, bundle: &Digest) -> PathBuf {
        self.manifests().join(format!("{}.json", bundle.hex()))
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    pub(super) fn blob(&self, blob: &Digest) -> PathBuf {
        sharded(self.blobs(), blob)
    }

    pub(super) fn trees(&self) -> PathBuf {
        self.root.join("unpacked/sha256")
    }

    /// Of an unpacked tar: `root/` holds it, `bytes` says how many there are.
    pub(super) fn tree(&self, blob: &Digest) -> PathBuf {
        sharded(self.trees(), blob)
    }
}

/// Few entries in each directory.
fn sharded(dir: PathBuf, digest: &Digest) -> PathBuf {
    let hex = digest.hex();
    dir.join(&hex[..2]).join(hex)
}

/// Gives a proven file or directory its final name: from then on it is there after a power cut too.
pub(super) fn settle(from: &Path, to: &Path) -> io::Result<()> {
    let parent = to.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent)?;
    fs::set_permissions(parent, Permissions::from_mode(DIR_MODE))?;
    durable::rename(from, to)
}

/// The digests that name the entries of a directory of directories `ab/HEX`.
pub(super) fn sharded_entries(dir: &Path) -> io::Result<Vec<(Digest, PathBuf)>> {
    let mut found = Vec::new();
    for shard in fs::read_dir(dir)? {
        for entry in fs::read_dir(shard?.path())? {
            let entry = entry?;
            if let Some(digest) = named(&entry.file_name().to_string_lossy(), "") {
                found.push((digest, entry.path()));
            }
        }
    }
    Ok(found)
}

/// The digest in a file's name, less its ending.
pub(super) fn named(file: &str, ending: &str) -> Option<Digest> {
    file.strip_suffix(ending).and_then(Digest::from_hex)
}
