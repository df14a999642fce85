//! Removes what an instance has filled as it liked.
//!
//! Without recursion: `std::fs::remove_dir_all` takes a piece of stack and a descriptor for each level, and
//! a program makes as many levels as it wants. Here directories move up beside the first ones before they
//! are emptied themselves.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirEntry, Permissions};
use std::io::{Error, ErrorKind, Result};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use tracing::warn;

/// Of group and others, in a mode.
const WRITE_OF_OTHERS: u32 = 0o022;
/// Everything that its owner may, in a mode.
const OF_OWNER: u32 = 0o700;

/// Held while a root is looked at: what one thread has shut is not passed by another one before its entries
/// have been seen.
static LOOKING: Mutex<()> = Mutex::new(());

/// Gives `root` this mode, where it is a directory of this process's user that nobody else writes to: only
/// then does a name below it lead where this process has put it. In `/tmp` somebody else may have been first.
/// One that an instance of our own user has opened, which no rule for files forbids, is shut again.
///
/// # Errors
/// It is another's, a link, or not there; or it was open, and others have put something there, or nobody
/// can say.
pub(crate) fn keep_ours(root: &Path, mode: u32) -> Result<()> {
    let _looking = LOOKING.lock();
    look(root)?;
    fs::set_permissions(root, Permissions::from_mode(mode))
}

/// The mode of a root that is ours, and shut.
fn look(root: &Path) -> Result<u32> {
    let found = fs::symlink_metadata(root)?;
    let own = rustix::process::geteuid().as_raw();
    if found.is_dir()
        && found.uid() == own
        && let Some(mode) = shut(root, found.mode(), own)?
    {
        return Ok(mode);
    }
    let text = format!(
        "`{}` belongs to somebody else, or others have written to it: remove it",
        root.display()
    );
    Err(Error::new(ErrorKind::PermissionDenied, text))
}

/// Takes the way into a directory of our own from others, and returns its mode then; `None` = something
/// there is theirs already, who could change it while it is removed.
fn shut(root: &Path, mode: u32, own: u32) -> Result<Option<u32>> {
    if mode & WRITE_OF_OTHERS == 0 {
        return Ok(Some(mode));
    }
    let shut = (mode & !WRITE_OF_OTHERS) | OF_OWNER;
    // First, so that nothing comes while it is looked at.
    fs::set_permissions(root, Permissions::from_mode(shut))?;
    let is_all_ours = is_all_of(root, own);
    if !matches!(is_all_ours, Ok(true)) {
        // So that the next look finds it as it was.
        fs::set_permissions(root, Permissions::from_mode(mode))?;
        return is_all_ours.map(|_| None);
    }
    warn!(root = %root.display(), "a program had opened it to everybody; it is shut again");
    Ok(Some(shut))
}

/// Whether all that is directly below it is of this user.
fn is_all_of(root: &Path, user: u32) -> Result<bool> {
    for entry in fs::read_dir(root)? {
        // Of a link itself.
        if entry?.metadata()?.uid() != user {
            return Ok(false);
        }
    }
    Ok(true)
}

/// As [`keep_ours`]; and an instance that has shut it to us as well has not.
fn enter(root: &Path) -> Result<()> {
    let _looking = LOOKING.lock();
    let mode = look(root)?;
    match mode & OF_OWNER {
        OF_OWNER => Ok(()),
        _ => fs::set_permissions(root, Permissions::from_mode(mode | OF_OWNER)),
    }
}

/// Names in `root`: none where it is not ours.
pub(crate) fn names_in(root: &Path) -> Vec<OsString> {
    let entries = enter(root).and_then(|()| fs::read_dir(root));
    let entries = entries.into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name()).collect()
}

/// Leaves nothing of what `root`, where it is ours, has under this name. What stays is said in the log,
/// as `what`.
pub(crate) fn remove_below(root: &Path, name: impl AsRef<OsStr>, what: &str) {
    let dir = root.join(name.as_ref());
    match enter(root).and_then(|()| remove_tree(&dir)) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            warn!(dir = %dir.display(), %error, what, "left behind");
        }
        _ => {}
    }
}

/// Nothing is there afterwards, and nothing outside was touched: links go as links. Who else can put
/// something in its place is looked at before ([`look`]).
fn remove_tree(dir: &Path) -> Result<()> {
    if !fs::symlink_metadata(dir)?.is_dir() {
        return fs::remove_file(dir);
    }
    // Its user may have shut it, and it is the node's to open where they are the same.
    drop(open_up(dir));
    let mut n_moved = 0;
    loop {
        let entries = fs::read_dir(dir)?.collect::<Result<Vec<DirEntry>>>()?;
        if entries.is_empty() {
            return fs::remove_dir(dir);
        }
        for entry in entries {
            let path = entry.path();
            if !entry.file_type()?.is_dir() {
                fs::remove_file(path)?;
                continue;
            }
            empty_into(dir, &path, &mut n_moved)?;
            fs::remove_dir(path)?;
        }
    }
}

/// Files of `child` go; its directories become children of `top`.
fn empty_into(top: &Path, child: &Path, n_moved: &mut u64) -> Result<()> {
    // As the one above it.
    drop(open_up(child));
    for entry in fs::read_dir(child)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => move_up(top, &entry.path(), n_moved)?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

/// Gives a directory to its owner, and to nobody else: itself, not what a link leads to that has come into
/// its place.
fn open_up(dir: &Path) -> Result<()> {
    // One that its owner may not read can be held like this alone, and changed by this name alone.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let held = rustix::fs::open(dir, flags, Mode::empty())?;
    let name = format!("/proc/self/fd/{}", held.as_raw_fd());
    fs::set_permissions(name, Permissions::from_mode(OF_OWNER))
}

fn move_up(top: &Path, from: &Path, n_moved: &mut u64) -> Result<()> {
    // A directory is moved only by who may write to it: what it contains names its parent.
    drop(open_up(from));
    loop {
        *n_moved += 1;
        // No volume has such a name; an attempt that broke off may have left one.
        match fs::rename(from, top.join(format!("..{n_moved}"))) {
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {}
            moved => return moved,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn deep_wide_shut_and_linked_trees_go_and_what_links_lead_to_stays() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("instance");
        fs::create_dir_all(root.join("a/..1/b/c")).unwrap();
        fs::create_dir_all(root.join("..1/left")).unwrap();
        fs::write(root.join("a/..1/b/file"), "x").unwrap();
        symlink(outside.path(), root.join("a/link")).unwrap();
        symlink("/nowhere", root.join("a/..1/broken")).unwrap();
        let shut = root.join("a/..1/b/c");
        fs::set_permissions(shut, Permissions::from_mode(0o000)).unwrap();
        fs::set_permissions(&root, Permissions::from_mode(0o000)).unwrap();
        remove_tree(&root).unwrap();
        assert!(!root.exists());
        assert!(outside.path().join("kept").exists());
    }

    #[test]
    fn nothing_is_removed_by_way_of_a_link_or_of_a_root_that_others_write_to() {
        let outside = tempfile::tempdir().unwrap();
        let kept = outside.path().join("one");
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        // The root is a link.
        symlink(outside.path(), &root).unwrap();
        remove_below(&root, "one", "files");
        assert_eq!(names_in(&root).len(), 0);
        assert!(kept.join("file").exists());
        // What is below it is one.
        fs::remove_file(&root).unwrap();
        fs::create_dir(&root).unwrap();
        fs::set_permissions(&root, Permissions::from_mode(0o711)).unwrap();
        symlink(&kept, root.join("one")).unwrap();
        fs::set_permissions(&root, Permissions::from_mode(0o000)).unwrap();
        assert_eq!(names_in(&root), ["one"]);
        remove_below(&root, "one", "files");
        assert_eq!(names_in(&root).len(), 0);
        assert!(kept.join("file").exists());
        // Opened by a program of our own, and nobody came.
        let open = || {
            fs::create_dir(root.join("one")).unwrap();
            fs::set_permissions(&root, Permissions::from_mode(0o1777)).unwrap();
        };
        open();
        remove_below(&root, "one", "files");
        assert!(!root.join("one").exists());
        let mode = || fs::metadata(&root).unwrap().mode() & 0o777;
        assert_eq!(mode(), 0o755);
        // Somebody else has put it there; only root can play that.
        open();
        if std::os::unix::fs::chown(root.join("one"), Some(65_534), None).is_err() {
            return;
        }
        for _ in 0..2 {
            remove_below(&root, "one", "files");
            assert!(root.join("one").exists());
            assert_eq!(names_in(&root).len(), 0);
            assert_eq!(mode(), 0o777);
        }
    }

    #[test]
    fn what_only_its_owner_could_not_read_is_looked_at_too() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        fs::write(root.join("file"), "").unwrap();
        fs::set_permissions(&root, Permissions::from_mode(0o333)).unwrap();
        assert_eq!(look(&root).unwrap() & 0o777, 0o711);
        assert_eq!(fs::metadata(&root).unwrap().mode() & 0o777, 0o711);
    }

    #[test]
    fn a_mode_is_never_changed_by_way_of_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (own, link) = (dir.path().join("own"), dir.path().join("link"));
        fs::create_dir(&own).unwrap();
        fs::set_permissions(&own, Permissions::from_mode(0o000)).unwrap();
        symlink(&own, &link).unwrap();
        assert!(open_up(&link).is_err());
        assert_eq!(fs::metadata(&own).unwrap().mode() & 0o777, 0o000);
        open_up(&own).unwrap();
        assert_eq!(fs::metadata(&own).unwrap().mode() & 0o777, 0o700);
    }

    /// Longer than a path may be, and deeper than a stack.
    #[test]
    fn a_tree_of_twenty_thousand_levels_goes_too() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("instance");
        fs::create_dir(&root).unwrap();
        // From the inside out: each level is moved into a new one.
        let (inner, outer) = (root.join("in"), root.join("out"));
        fs::create_dir(&inner).unwrap();
        for _ in 0..20_000 {
            fs::create_dir(&outer).unwrap();
            fs::rename(&inner, outer.join("d")).unwrap();
            fs::rename(&outer, &inner).unwrap();
        }
        remove_tree(&root).unwrap();
        assert!(!root.exists());
    }
}
