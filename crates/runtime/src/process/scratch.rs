//! Directories that programs may fill which have no tree of files of their own: one each, gone with the
//! instance.
//!
//! ```text
//! /tmp/nihilo-MARK/{instance}         the node's, as the one above it
//!                           /home     its program's
//! ```
//!
//! So everything directly below the top is the node's: what is not has been put there by somebody else.

use std::fs::{self, DirBuilder};
use std::io::{ErrorKind, Result};
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nihilo_types::id::InstanceId;
use parking_lot::Mutex;

use super::mark::Mark;
use crate::config::{keep_ours, names_in, remove_below};

/// Where programs look for such a place, and where hosts bound it.
const TEMPORARY: &str = "/tmp";
/// Of the node's directories: whoever what is below belongs to gets there, and nobody sees what there is.
const TOP_MODE: u32 = 0o711;
const OWN_MODE: u32 = 0o700;
/// In an instance's directory.
const HOME: &str = "home";
/// What is said of what could not be removed.
const WHAT: &str = "an instance's temporary files";

#[derive(Debug, Clone)]
pub(super) struct Scratch {
    top: PathBuf,
    /// Held while one is made and while the top goes: the end of the last one does not take it from
    /// under the next.
    changing: Arc<Mutex<()>>,
}

impl Scratch {
    /// Makes nothing yet.
    pub(super) fn of(mark: &Mark) -> Self {
        Self::at(Path::new(TEMPORARY).join(format!("nihilo-{}", mark.as_str())))
    }

    fn at(top: PathBuf) -> Self {
        Self {
            top,
            changing: Arc::default(),
        }
    }

    pub(super) fn path(&self, id: &InstanceId) -> PathBuf {
        self.top.join(id.as_str()).join(HOME)
    }

    /// An empty one, of user and group where they are not this process's.
    ///
    /// # Errors
    /// Somebody else was first, or there is no room.
    pub(super) fn make(&self, id: &InstanceId, ids: Option<(u32, u32)>) -> Result<()> {
        let home = self.path(id);
        let _changing = self.changing.lock();
        make_nodes(&self.top)?;
        remove_below(&self.top, id.as_str(), WHAT);
        make_nodes(&self.top.join(id.as_str()))?;
        DirBuilder::new().mode(OWN_MODE).create(&home)?;
        match ids {
            Some((user, group)) => chown(&home, Some(user), Some(group)),
            None => Ok(()),
        }
    }

    /// Leaves nothing of an instance's.
    pub(super) fn remove(&self, id: &InstanceId) {
        remove_below(&self.top, id.as_str(), WHAT);
        let _changing = self.changing.lock();
        // Only where it is empty, and no link.
        drop(fs::remove_dir(&self.top));
    }

    /// Leaves nothing of anybody's.
    pub(super) fn remove_all(&self) {
        for id in self.instances() {
            self.remove(&id);
        }
    }

    /// Whose there are.
    pub(super) fn instances(&self) -> Vec<InstanceId> {
        let names = names_in(&self.top).into_iter();
        names
            .map(|name| name.to_string_lossy().as_ref().into())
            .collect()
    }
}

/// A directory of the node's, which may be there.
fn make_nodes(dir: &Path) -> Result<()> {
    match DirBuilder::new().mode(TOP_MODE).create(dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        // Whatever this process takes away of new directories.
        _ => keep_ours(dir, TOP_MODE),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};

    use super::*;

    fn scratch() -> (tempfile::TempDir, Scratch) {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::at(dir.path().join("nihilo-x"));
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
        assert!(fs::metadata(&scratch.top).is_err());
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let (dir, scratch) = scratch();
        let one = InstanceId::from("one");
        let kept = dir.path().join("elsewhere/one/file");
        fs::create_dir_all(kept.parent().unwrap()).unwrap();
        fs::write(&kept, "").unwrap();
        symlink(dir.path().join("elsewhere"), &scratch.top).unwrap();
        let refused = scratch.make(&one, None).unwrap_err();
        assert!(refused.to_string().contains("somebody else"), "{refused}");
        assert!(scratch.instances().is_empty());
        scratch.remove(&one);
        scratch.remove_all();
        assert!(kept.exists());
    }

    #[test]
    fn one_that_a_program_has_opened_is_shut_and_used_again() {
        let (_dir, scratch) = scratch();
        let (one, other) = (InstanceId::from("one"), InstanceId::from("other"));
        scratch.make(&one, None).unwrap();
        fs::set_permissions(&scratch.top, Permissions::from_mode(0o777)).unwrap();
        scratch.make(&other, None).unwrap();
        let mode = fs::metadata(&scratch.top).unwrap().mode() & 0o777;
        assert_eq!(mode, TOP_MODE);
        scratch.remove_all();
        assert!(fs::metadata(&scratch.top).is_err());
    }

    /// Whose homes are not the node's, which only root can have; on a root node one that runs as root opens it.
    #[test]
    fn the_homes_of_others_do_not_keep_an_opened_one_from_being_used() {
        const OTHER: u32 = 65_534;
        let (_dir, scratch) = scratch();
        let (one, other) = (InstanceId::from("one"), InstanceId::from("other"));
        if scratch.make(&one, Some((OTHER, OTHER))).is_err() {
            return;
        }
        let kept = scratch.path(&one).join("kept");
        fs::write(&kept, "").unwrap();
        fs::set_permissions(&scratch.top, Permissions::from_mode(0o777)).unwrap();
        scratch.make(&other, Some((OTHER, OTHER))).unwrap();
        let top = fs::metadata(&scratch.top).unwrap();
        assert_eq!(top.mode() & 0o777, TOP_MODE);
        let home = fs::metadata(scratch.path(&other)).unwrap();
        assert_eq!((home.uid(), home.mode() & 0o777), (OTHER, OWN_MODE));
        assert!(kept.exists());
        assert_eq!(scratch.instances().len(), 2);
        scratch.remove_all();
        assert!(fs::metadata(&scratch.top).is_err());
    }

    /// As of whoever came while it was open, and put a link there; only root can play that.
    #[test]
    fn one_that_others_have_written_to_is_not_swept() {
        let (dir, scratch) = scratch();
        let kept = dir.path().join("file");
        fs::write(&kept, "").unwrap();
        fs::create_dir(&scratch.top).unwrap();
        symlink(dir.path(), scratch.top.join("one")).unwrap();
        if lchown(scratch.top.join("one"), Some(65_534), None).is_err() {
            return;
        }
        fs::set_permissions(&scratch.top, Permissions::from_mode(0o1777)).unwrap();
        assert!(scratch.instances().is_empty());
        scratch.remove_all();
        scratch.remove(&InstanceId::from("one"));
        assert!(kept.exists());
        assert!(fs::symlink_metadata(scratch.top.join("one")).is_ok());
    }

    #[test]
    fn the_end_of_one_does_not_take_the_place_of_another() {
        const ROUNDS: usize = 500;
        let (_dir, scratch) = scratch();
        let turn = |id: &str| {
            let id = InstanceId::from(id);
            for _ in 0..ROUNDS {
                scratch.make(&id, None).unwrap();
                scratch.remove(&id);
            }
        };
        std::thread::scope(|threads| {
            for id in ["one", "other"] {
                threads.spawn(move || turn(id));
            }
        });
        assert!(fs::metadata(&scratch.top).is_err());
    }
}
