//! Removes what an instance has filled as it liked.
//!
//! Without recursion: `std::fs::remove_dir_all` takes a piece of stack and a descriptor for each level, and
//! a program makes as many levels as it wants. Here directories move up beside the first ones before they
//! are emptied themselves.

use std::fs::{self, DirEntry, Permissions};
use std::io::{ErrorKind, Result};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Nothing is there afterwards, and nothing outside was touched: links go as links.
///
/// # Errors
/// What could not be read, moved or removed; the rest of it is left.
pub(crate) fn remove_tree(dir: &Path) -> Result<()> {
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
    // Its user may have shut it, and it is the node's to open where they are the same.
    drop(fs::set_permissions(child, Permissions::from_mode(0o700)));
    for entry in fs::read_dir(child)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => move_up(top, &entry.path(), n_moved)?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

fn move_up(top: &Path, from: &Path, n_moved: &mut u64) -> Result<()> {
    // A directory is moved only by who may write to it: what it contains names its parent.
    drop(fs::set_permissions(from, Permissions::from_mode(0o700)));
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
        remove_tree(&root).unwrap();
        assert!(!root.exists());
        assert!(outside.path().join("kept").exists());
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
