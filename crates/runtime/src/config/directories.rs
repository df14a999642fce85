//! Directories of instances' volumes: written whole, swapped at once, gone with the instance.
//!
//! ```text
//! ROOT/{instance}/{volume}/..data -> ..2        swapped by a rename
//!                         /..2/password         the files
//!                         /password -> ..data/password
//! ```
//!
//! Files out of objects lie in memory (`/dev/shm`) where the host has that: no value of a Secret
//! reaches a disk. What is empty at the start lies in the agent's own directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{ErrorKind, Result, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use nihilo_types::id::InstanceId;
use nihilo_types::instance::InstanceSpec;
use nihilo_types::instance_config::VolumeContent;
use parking_lot::Mutex;

use super::keep::Versions;
use super::removal::{keep_ours, names_in, remove_below};
use super::resolve::Files;
use super::{Mount, MountSource, Reader};

/// Memory that looks like a disk, on every Linux host.
const IN_MEMORY: &str = "/dev/shm";
/// What `statfs` says of it, `<linux/magic.h>`.
const TMPFS: i64 = 0x0102_1994;
/// What is said of what could not be removed.
const WHAT: &str = "an instance's volumes";
/// Of the root and of instances' own directories: the node's alone; and of what is empty at the start: its
/// instance's alone.
const OWN_MODE: u32 = 0o700;
const DATA: &str = "..data";
const DATA_NEW: &str = "..data_new";

/// Of one node's agent.
#[derive(Debug)]
pub(crate) struct Directories {
    /// Of files out of objects.
    files: PathBuf,
    /// Of what is empty at the start.
    empty: PathBuf,
    /// What the files of each instance were made of.
    made_of: Mutex<BTreeMap<InstanceId, Made>>,
    /// Held while files are written or removed: what goes is not written to any more.
    writing: Mutex<()>,
}

#[derive(Debug, Default)]
struct Made {
    of: Versions,
    /// Of these the files could not be made, which was said.
    failed: Option<Versions>,
}

impl Directories {
    /// Below the agent's `dir`, and in memory under the agent's own `mark`. Makes nothing yet.
    pub(crate) fn new(dir: &Path, mark: &str) -> Self {
        let is_memory = rustix::fs::statfs(IN_MEMORY).is_ok_and(|found| {
            #[allow(
                clippy::unnecessary_cast,
                reason = "its width depends on the architecture"
            )]
            let kind = found.f_type as i64;
            kind == TMPFS
        });
        let own = format!("nihilo-{mark}");
        let files = match is_memory {
            true => Path::new(IN_MEMORY).join(own),
            false => dir.join("volume-files"),
        };
        Self {
            files,
            empty: dir.join("volumes"),
            made_of: Mutex::default(),
            writing: Mutex::default(),
        }
    }

    /// Makes what an instance's volumes need.
    pub(crate) fn prepare(
        &self,
        spec: &InstanceSpec,
        volumes: &BTreeMap<String, Files>,
        reader: Reader,
    ) -> Result<Vec<Mount>> {
        // What an earlier start of this id has left is not this one's.
        self.remove(&spec.id);
        let mut mounts = Vec::new();
        for volume in &spec.config.volumes {
            let source = match &volume.content {
                VolumeContent::Files(_) => {
                    let dir = own_dir(&self.files, &spec.id)?.join(&volume.name);
                    make_dir(&dir)?;
                    let files = volumes.get(&volume.name).cloned().unwrap_or_default();
                    swap(&dir, &files, reader)?;
                    MountSource::Directory(dir)
                }
                VolumeContent::Empty {
                    in_memory: true,
                    max_bytes,
                } => MountSource::Memory {
                    max_bytes: *max_bytes,
                },
                VolumeContent::Empty {
                    in_memory: false, ..
                } if reader == Reader::OfImage => MountSource::Engine,
                VolumeContent::Empty {
                    in_memory: false, ..
                } => {
                    let dir = own_dir(&self.empty, &spec.id)?.join(&volume.name);
                    make_dir(&dir)?;
                    give(&dir, OWN_MODE, reader)?;
                    MountSource::Directory(dir)
                }
            };
            for mount in &volume.mounts {
                mounts.push(Mount {
                    volume: volume.name.clone(),
                    source: source.clone(),
                    path: mount.path.clone(),
                    read_only: mount.read_only,
                });
            }
        }
        Ok(in_order(mounts))
    }

    /// Writes a volume's files anew; whoever reads sees the old ones or the new ones, all of them.
    pub(crate) fn update(
        &self,
        id: &InstanceId,
        volume: &str,
        files: &Files,
        reader: Reader,
    ) -> Result<()> {
        let _writing = self.writing.lock();
        match self.has(id) {
            true => swap(&self.files.join(id.as_str()).join(volume), files, reader),
            // It has ended since it was looked up.
            false => Ok(()),
        }
    }

    /// What the instance's files are made of.
    pub(crate) fn note(&self, id: &InstanceId, versions: Versions) {
        if !versions.is_empty() {
            let made = Made {
                of: versions,
                failed: None,
            };
            self.made_of.lock().insert(id.clone(), made);
        }
    }

    /// The same for one that is being kept: it may have gone meanwhile.
    pub(crate) fn renote(&self, id: &InstanceId, versions: Versions) {
        if let Some(noted) = self.made_of.lock().get_mut(id) {
            noted.of = versions;
            noted.failed = None;
        }
    }

    /// Files could not be made of these; whether that is new.
    pub(crate) fn note_failed(&self, id: &InstanceId, versions: &Versions) -> bool {
        let mut made_of = self.made_of.lock();
        let Some(made) = made_of.get_mut(id) else {
            return false;
        };
        let is_new = made.failed.as_ref() != Some(versions);
        made.failed = Some(versions.clone());
        is_new
    }

    /// An instance of an earlier process has files, made of nobody knows which versions.
    pub(crate) fn adopt(&self, id: &InstanceId) {
        self.made_of.lock().insert(id.clone(), Made::default());
    }

    pub(crate) fn has(&self, id: &InstanceId) -> bool {
        self.made_of.lock().contains_key(id)
    }

    /// `None` = it has none. Empty = nobody knows.
    pub(crate) fn made_of(&self, id: &InstanceId) -> Option<Versions> {
        self.made_of.lock().get(id).map(|made| made.of.clone())
    }

    /// Leaves nothing of an instance's volumes.
    pub(crate) fn remove(&self, id: &InstanceId) {
        let _writing = self.writing.lock();
        self.made_of.lock().remove(id);
        for root in [&self.files, &self.empty] {
            remove_below(root, id.as_str(), WHAT);
        }
    }

    /// Leaves nothing of any other instance.
    pub(crate) fn retain(&self, is_known: impl Fn(&InstanceId) -> bool) {
        for root in [&self.files, &self.empty] {
            for name in names_in(root) {
                if !is_known(&name.to_string_lossy().as_ref().into()) {
                    remove_below(root, name, WHAT);
                }
            }
            // Only where it is empty.
            drop(fs::remove_dir(root));
        }
    }
}

/// Directories before what is mounted below them; what is in memory is made once, and shown again
/// where it is mounted again.
fn in_order(mut mounts: Vec<Mount>) -> Vec<Mount> {
    mounts.sort_by_key(|mount| Path::new(&mount.path).components().count());
    let mut made = BTreeMap::new();
    for mount in &mut mounts {
        if !matches!(mount.source, MountSource::Memory { .. }) {
            continue;
        }
        match made.get(&mount.volume) {
            Some(path) => mount.source = MountSource::Earlier(String::clone(path)),
            None => drop(made.insert(mount.volume.clone(), mount.path.clone())),
        }
    }
    mounts
}

/// The instance's own directory below a root that is this node's. Nobody else gets through it: an
/// instance comes to its volumes by its mounts alone, which are read-only, so that it cannot lead the
/// node astray by links of its own.
fn own_dir(root: &Path, id: &InstanceId) -> Result<PathBuf> {
    match DirBuilder::new().mode(OWN_MODE).create(root) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => keep_ours(root, OWN_MODE)?,
        Err(error) => return Err(error),
    }
    let dir = root.join(id.as_str());
    match DirBuilder::new().mode(OWN_MODE).create(&dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(dir),
    }
}

/// Of files: whoever comes as far may look around, and only the node writes.
fn make_dir(dir: &Path) -> Result<()> {
    DirBuilder::new().create(dir)?;
    fs::set_permissions(dir, Permissions::from_mode(0o755))
}

fn give(path: &Path, mode: u32, reader: Reader) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    match reader {
        Reader::User(user, group) => chown(path, Some(user), Some(group)),
        Reader::Node | Reader::OfImage => Ok(()),
    }
}

/// Writes all files beside the present ones, then makes them the present ones.
fn swap(dir: &Path, files: &Files, reader: Reader) -> Result<()> {
    let before = fs::read_link(dir.join(DATA)).ok();
    let before = before.as_deref().and_then(Path::to_str);
    let before = before.and_then(|name| name.strip_prefix("..")?.parse::<u64>().ok());
    let fresh = format!("..{}", before.unwrap_or(0) + 1);
    // Of a swap that did not come to its end.
    remove_below(dir, &fresh, WHAT);
    make_dir(&dir.join(&fresh))?;
    for (path, file) in files {
        write(&dir.join(&fresh), path, file, reader)?;
    }
    drop(fs::remove_file(dir.join(DATA_NEW)));
    symlink(&fresh, dir.join(DATA_NEW))?;
    fs::rename(dir.join(DATA_NEW), dir.join(DATA))?;
    link(dir, files)?;
    if let Some(before) = before {
        remove_below(dir, format!("..{before}"), WHAT);
    }
    Ok(())
}

fn write(dir: &Path, path: &str, file: &super::resolve::File, reader: Reader) -> Result<()> {
    let target = dir.join(path);
    let mut parents: Vec<_> = target
        .ancestors()
        .skip(1)
        .take_while(|at| *at != dir)
        .collect();
    parents.reverse();
    for parent in parents {
        if fs::symlink_metadata(parent).is_err() {
            make_dir(parent)?;
        }
    }
    let mut opened = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&target)?;
    opened.write_all(file.value.expose())?;
    let mode = match (file.is_secret, reader) {
        (true, Reader::Node | Reader::User(..)) => 0o400,
        _ => 0o444,
    };
    give(&target, mode, reader)
}

/// Names at the top, which lead to wherever the present files are.
fn link(dir: &Path, files: &Files) -> Result<()> {
    let top = |path: &String| path.split('/').next().unwrap_or_default().to_owned();
    let wanted: BTreeSet<String> = files.keys().map(top).collect();
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with("..") {
            continue;
        }
        if !wanted.contains(&name) {
            fs::remove_file(dir.join(&name))?;
        }
        found.insert(name);
    }
    for name in wanted.difference(&found) {
        symlink(format!("{DATA}/{name}"), dir.join(name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use nihilo_types::instance_config::{FileSource, Holder, MountPoint, MountedVolume};
    use nihilo_types::secret_value::SecretValue;

    use super::super::resolve;
    use super::*;

    fn files(all: &[(&str, &str)]) -> Files {
        let file = |(path, text): &(&str, &str)| {
            let value = SecretValue::new(*text);
            let is_secret = *path != "plain";
            ((*path).to_owned(), resolve::File { value, is_secret })
        };
        all.iter().map(file).collect()
    }

    fn modes(dir: &Path, names: &[&str]) -> Vec<u32> {
        let mode = |name: &&str| fs::metadata(dir.join(name)).unwrap().mode() & 0o7777;
        names.iter().map(mode).collect()
    }

    fn spec() -> InstanceSpec {
        let volume = |name: &str, content| MountedVolume {
            name: name.into(),
            content,
            mounts: ["/a", "/b"]
                .map(|path| MountPoint {
                    path: format!("{path}/{name}"),
                    read_only: name == "files",
                })
                .into(),
        };
        let source = FileSource {
            holder: Holder::Secret,
            name: "db".into(),
            items: Vec::new(),
            optional: false,
        };
        let empty = |in_memory| VolumeContent::Empty {
            in_memory,
            max_bytes: in_memory.then_some(7),
        };
        let mut spec = crate::handle::specification();
        spec.config.volumes = vec![
            volume("files", VolumeContent::Files(vec![source])),
            volume("disk", empty(false)),
            volume("memory", empty(true)),
        ];
        spec
    }

    #[test]
    fn files_are_the_reader_alone_and_are_swapped_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("v");
        make_dir(&at).unwrap();
        swap(
            &at,
            &files(&[("k", "1"), ("sub/x", "2"), ("plain", "3")]),
            Reader::Node,
        )
        .unwrap();
        assert_eq!(fs::read_to_string(at.join("sub/x")).unwrap(), "2");
        assert_eq!(
            modes(&at, &["", "k", "sub", "plain"]),
            [0o755, 0o400, 0o755, 0o444]
        );
        // Who has opened the directory that is present keeps a whole set.
        let present = fs::canonicalize(at.join(DATA)).unwrap();
        swap(&at, &files(&[("k", "4"), ("new", "5")]), Reader::Node).unwrap();
        assert_ne!(fs::canonicalize(at.join(DATA)).unwrap(), present);
        assert_eq!(fs::read_to_string(at.join("k")).unwrap(), "4");
        assert_eq!(fs::read_to_string(at.join("new")).unwrap(), "5");
        let mut names: Vec<_> = fs::read_dir(&at)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["..2", "..data", "k", "new"]);
    }

    #[test]
    fn a_directory_is_mounted_before_what_lies_in_it() {
        let mount = |volume: &str, path: &str| Mount {
            volume: volume.into(),
            source: MountSource::Memory { max_bytes: None },
            path: path.into(),
            read_only: false,
        };
        let given = vec![mount("a", "/x/y/z"), mount("b", "/x"), mount("a", "/x/y/")];
        let ordered = in_order(given);
        let paths: Vec<_> = ordered.iter().map(|mount| mount.path.as_str()).collect();
        assert_eq!(paths, ["/x", "/x/y/", "/x/y/z"]);
        assert_eq!(ordered[2].source, MountSource::Earlier("/x/y/".into()));
    }

    #[test]
    fn volumes_are_made_and_nothing_of_them_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let mark = format!("test-{}", std::process::id());
        let directories = Directories::new(dir.path(), &mark);
        let spec = spec();
        let volumes = BTreeMap::from([("files".to_owned(), files(&[("k", "1")]))]);
        for reader in [Reader::Node, Reader::OfImage, Reader::Node] {
            let mounts = directories.prepare(&spec, &volumes, reader).unwrap();
            let [files, _, disk, _, memory, again] = &mounts[..] else {
                panic!("{mounts:?}");
            };
            let MountSource::Directory(at) = &files.source else {
                panic!("{files:?}");
            };
            assert_eq!(fs::read_to_string(at.join("k")).unwrap(), "1");
            let secret = if reader == Reader::Node { 0o400 } else { 0o444 };
            assert_eq!(modes(at, &["..", "k"]), [0o700, secret]);
            match (&disk.source, reader) {
                (MountSource::Engine, Reader::OfImage) => {}
                (MountSource::Directory(at), Reader::Node) => assert!(at.is_dir()),
                _ => panic!("{disk:?}"),
            }
            let max_bytes = Some(7);
            assert_eq!(memory.source, MountSource::Memory { max_bytes });
            assert_eq!(again.source, MountSource::Earlier("/a/memory".into()));
        }
        directories.remove(&spec.id);
        directories.retain(|_| false);
        assert!(!directories.files.exists() && !directories.empty.exists());
    }
}
