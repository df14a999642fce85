//! Directories that programs may fill which have no tree of files of their own: one each, below
//! `/tmp/nihilo-MARK`, gone with the instance.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nihilo_types::id::InstanceId;
use tracing::warn;

use super::mark::Mark;
use crate::config::remove_tree;

/// Where programs look for such a place, and where hosts bound it.
const TEMPORARY: &str = "/tmp";
/// Of all of them: whoever one belongs to gets there, and nobody sees which there are.
const TOP_MODE: u32 = 0o711;
const OWN_MODE: u32 = 0o700;

#[derive(Debug, Clone)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Makes nothing yet.
    pub(super) fn of(mark: &Mark) -> Self {
        Self(Path::new(TEMPORARY).join(format!("nihilo-{}", mark.as_str())))
    }

    pub(super) fn path(&self, id: &InstanceId) -> PathBuf {
        self.0.join(id.as_str())
    }

    /// An empty one, of user and group where they are not this process's.
    ///
    /// # Errors
    /// Somebody else was first, or there is no room.
    pub(super) fn make(&self, id: &InstanceId, ids: Option<(u32, u32)>) -> Result<()> {
        let dir = self.path(id);
        remove(&dir);
        match DirBuilder::new().mode(TOP_MODE).create(&self.0) {
            // Whatever this process takes away of new directories.
            Ok(()) => fs::set_permissions(&self.0, Permissions::from_mode(TOP_MODE))?,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => is_ours(&self.0)?,
            Err(error) => return Err(error),
        }
        DirBuilder::new().mode(OWN_MODE).create(&dir)?;
        match ids {
            Some((user, group)) => chown(&dir, Some(user), Some(group)),
            None => Ok(()),
        }
    }

    /// Leaves nothing of an instance's.
    pub(super) fn remove(&self, id: &InstanceId) {
        remove(&self.path(id));
        // Only where it is empty.
        drop(fs::remove_dir(&self.0));
    }

    /// Leaves nothing of anybody's.
    pub(super) fn remove_all(&self) {
        for id in self.instances() {
            self.remove(&id);
        }
    }

    /// Whose there are.
    pub(super) fn instances(&self) -> Vec<InstanceId> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.file_name().to_string_lossy().as_ref().into())
            .collect()
    }
}

/// In a directory that everybody may write to, somebody else may have been first.
fn is_ours(top: &Path) -> Result<()> {
    let found = fs::symlink_metadata(top)?;
    let own = rustix::process::geteuid().as_raw();
    if found.is_dir() && found.uid() == own {
        return Ok(());
    }
    let text = format!("`{}` belongs to somebody else: remove it", top.display());
    Err(Error::new(ErrorKind::PermissionDenied, text))
}

fn remove(dir: &Path) {
    match remove_tree(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            warn!(dir = %dir.display(), %error, "an instance's temporary files are left");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> (tempfile::TempDir, Scratch) {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch(dir.path().join("nihilo-x"));
        (dir, scratch)
    }

    #[test]
    fn each_has_its_own_and_nothing_is_left() {
        let (_dir, scratch) = scratch();
        let (one, other) = (InstanceId::from("one"), InstanceId::from("other"));
        scratch.make(&one, None).unwrap();
        scratch.make(&other, None).unwrap();
        fs::write(scratch.path(&one).join("x"), "").unwrap();
        let mode = fs::metadata(scratch.path(&one)).unwrap().mode() & 0o777;
        assert_eq!(mode, OWN_MODE);
        // A start of the same name begins with nothing.
        scratch.make(&one, None).unwrap();
        assert_eq!(fs::read_dir(scratch.path(&one)).unwrap().count(), 0);
        assert_eq!(scratch.instances().len(), 2);
        scratch.remove(&one);
        scratch.remove_all();
        assert!(fs::metadata(&scratch.0).is_err());
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let (dir, scratch) = scratch();
        std::os::unix::fs::symlink(dir.path(), &scratch.0).unwrap();
        let refused = scratch.make(&InstanceId::from("one"), None).unwrap_err();
        assert!(refused.to_string().contains("somebody else"), "{refused}");
    }
}
