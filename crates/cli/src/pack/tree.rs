//! A directory as a tar: sorted, without owners and times, so that the same content is the same bytes.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nihilo_types::bundle::{MAX_FILES, MAX_PATH_BYTES};
use tar::{Builder, EntryType, Header, HeaderMode};

use crate::failure::{Failure, Result};

/// History is no part of what runs.
const LEFT_OUT: &str = ".git";

/// Returns the tar as a file without a name.
pub(super) fn pack(dir: &Path) -> Result<File> {
    let failed = |error: io::Error| Failure::io(dir.display(), &error);
    let mut found = Vec::new();
    find(dir, Path::new(""), &mut found)?;
    let mut tar = Builder::new(nameless().map_err(failed)?);
    for path in &found {
        add(&mut tar, dir, path).map_err(|error| Failure::io(dir.join(path).display(), &error))?;
    }
    tar.into_inner().map_err(failed)
}

/// It is gone when it is closed, however this process ends.
fn nameless() -> io::Result<File> {
    let name = format!("nihilo-bundle-{:016x}", rand::random::<u64>());
    let path = std::env::temp_dir().join(name);
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

/// Paths below `dir`, directories before what is in them.
fn find(dir: &Path, below: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let here = dir.join(below);
    let failed = |error: io::Error| Failure::io(here.display(), &error);
    let entries = fs::read_dir(&here).map_err(failed)?;
    let entries: io::Result<Vec<_>> = entries.collect();
    let mut entries = entries.map_err(failed)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        if entry.file_name() == LEFT_OUT {
            continue;
        }
        let path = below.join(entry.file_name());
        if path.as_os_str().len() > MAX_PATH_BYTES {
            let text = format!(
                "{}: a path has at most {MAX_PATH_BYTES} bytes",
                path.display()
            );
            return Err(Failure::usage(text));
        }
        let kind = entry.file_type().map_err(failed)?;
        if !kind.is_dir() && !kind.is_file() && !kind.is_symlink() {
            let text = format!(
                "{}: only files, directories and links can be packed",
                path.display()
            );
            return Err(Failure::usage(text));
        }
        found.push(path.clone());
        if found.len() as u64 > MAX_FILES {
            let text = format!("{}: more than {MAX_FILES} files", dir.display());
            return Err(Failure::usage(text));
        }
        if kind.is_dir() {
            find(dir, &path, found)?;
        }
    }
    Ok(())
}

fn add(tar: &mut Builder<File>, dir: &Path, path: &Path) -> io::Result<()> {
    let full = dir.join(path);
    let found = fs::symlink_metadata(&full)?;
    let mut header = Header::new_gnu();
    header.set_metadata_in_mode(&found, HeaderMode::Deterministic);
    if found.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        return tar.append_link(&mut header, path, fs::read_link(&full)?);
    }
    if found.is_dir() {
        return tar.append_data(&mut header, path, io::empty());
    }
    tar.append_data(&mut header, path, File::open(&full)?)
}
