//! Unpacked trees as directories: closed against writing, and taken away again.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const SEALED_MODE: u32 = 0o555;
const OPEN_MODE: u32 = 0o755;

/// Nothing is made or removed in it any more, by whom it runs as.
pub(super) fn seal(root: &Path) -> io::Result<()> {
    each_dir(root, &mut |dir| {
        fs::set_permissions(dir, Permissions::from_mode(SEALED_MODE))
    })
}

/// Removes it, sealed or not; one that is not there is gone.
pub(super) fn remove(dir: &Path) -> io::Result<()> {
    match fs::symlink_metadata(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(_) => {}
    }
    open_all(dir)?;
    fs::remove_dir_all(dir)
}

/// A directory must be open before what is in it can go.
fn open_all(dir: &Path) -> io::Result<()> {
    fs::set_permissions(dir, Permissions::from_mode(OPEN_MODE))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // Of a link: not what it leads to.
        if entry.file_type()?.is_dir() {
            open_all(&entry.path())?;
        }
    }
    Ok(())
}

/// The deepest first. As deep as a path of [`nihilo_types::bundle::MAX_PATH_BYTES`] can be.
fn each_dir(dir: &Path, visit: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            each_dir(&entry.path(), visit)?;
        }
    }
    visit(dir)
}
