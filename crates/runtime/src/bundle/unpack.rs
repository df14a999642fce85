//! A tar's files beneath one directory, and nothing anywhere else.
//!
//! The directory is new and nobody else's. Symbolic links are made last, so that no file is ever
//! written through one; after that each must lead to something beneath the directory.

use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use nihilo_types::bundle::{MAX_FILES, MAX_PATH_BYTES, MAX_UNPACKED_BYTES};
use tar::{Archive, Entry, EntryType};

use super::heads::Bounded;

const PROGRAM_MODE: u32 = 0o555;
const FILE_MODE: u32 = 0o444;
/// While it is filled; see [`super::tree::seal`].
const OPEN_DIR_MODE: u32 = 0o755;
/// Of every file, so that a tree is the same on every node: 1980, as zip has it at the earliest.
const MODIFIED: Duration = Duration::from_secs(315_532_800);

#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("`{path}`: {why}")]
    Entry { path: String, why: String },
    #[error("more than {0} files and directories")]
    TooManyFiles(u64),
    #[error("more than {0} bytes unpacked")]
    TooManyBytes(u64),
}

/// Bounds of one tar.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) n_files: u64,
    pub(super) n_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            n_files: MAX_FILES,
            n_bytes: MAX_UNPACKED_BYTES,
        }
    }
}

/// A link that is made after everything else.
struct Link {
    at: PathBuf,
    target: PathBuf,
}

/// Unpacks into `root`, an empty directory; returns the bytes of its files.
///
/// # Errors
/// The first entry that is refused; what came before it has been written.
pub(super) fn unpack(tar: impl Read, root: &Path, limits: Limits) -> Result<u64, UnpackError> {
    let (mut n_files, mut n_bytes) = (0, 0);
    let mut links = Vec::new();
    let (tar, bound) = Bounded::new(tar);
    for entry in Archive::new(tar).entries()? {
        let mut entry = entry?;
        bound.end_head();
        n_files += 1;
        if n_files > limits.n_files {
            return Err(UnpackError::TooManyFiles(limits.n_files));
        }
        n_bytes += entry.size();
        if n_bytes > limits.n_bytes {
            return Err(UnpackError::TooManyBytes(limits.n_bytes));
        }
        take(&mut entry, root, &mut links)?;
        // Bytes of what is no file; what comes after them is the next head.
        io::copy(&mut entry, &mut io::sink())?;
        bound.begin_head();
    }
    for link in &links {
        symlink(&link.target, root.join(&link.at)).map_err(|error| refused(&link.at, &error))?;
    }
    links_stay_beneath(root, &links)?;
    Ok(n_bytes)
}

fn take<R: Read>(
    entry: &mut Entry<'_, R>,
    root: &Path,
    links: &mut Vec<Link>,
) -> Result<(), UnpackError> {
    let kind = entry.header().entry_type();
    // Of the whole archive, and of no file.
    if kind == EntryType::XGlobalHeader {
        return Ok(());
    }
    let path = beneath(&entry.path_bytes())?;
    if path.as_os_str().is_empty() {
        return match kind {
            EntryType::Directory => Ok(()),
            _ => Err(refused(Path::new("."), "it is the tree itself")),
        };
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(root.join(parent)).map_err(|error| refused(&path, &error))?;
    }
    match kind {
        EntryType::Regular => {
            file(entry, &root.join(&path)).map_err(|error| refused(&path, &error))
        }
        EntryType::Directory => {
            let made = fs::create_dir_all(root.join(&path));
            made.map_err(|error| refused(&path, &error))
        }
        EntryType::Symlink => {
            let target = link_target(entry, &path)?;
            stays_beneath(&path, &target)?;
            links.push(Link { at: path, target });
            Ok(())
        }
        EntryType::Link => hard_link(entry, root, &path),
        other => {
            let why = match other {
                EntryType::Char | EntryType::Block => "a device",
                EntryType::Fifo => "a FIFO",
                EntryType::GNUSparse => "a sparse file",
                _ => "of an unknown kind",
            };
            Err(refused(&path, format!("it is {why}")))
        }
    }
}

fn refused(path: &Path, why: impl std::fmt::Display) -> UnpackError {
    UnpackError::Entry {
        path: path.display().to_string(),
        why: why.to_string(),
    }
}

/// A path of the tar without `.`, if it cannot lead out.
fn beneath(bytes: &[u8]) -> Result<PathBuf, UnpackError> {
    let path = Path::new(std::ffi::OsStr::from_bytes(bytes));
    if bytes.len() > MAX_PATH_BYTES {
        let why = format!("its path has more than {MAX_PATH_BYTES} bytes");
        return Err(refused(path, why));
    }
    if bytes.contains(&0) {
        return Err(refused(path, "its path has a zero byte"));
    }
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::ParentDir => return Err(refused(path, "its path has `..`")),
            Component::RootDir | Component::Prefix(_) => {
                return Err(refused(path, "its path is absolute"));
            }
        }
    }
    Ok(clean)
}

/// Never over something that is there: the same path twice is two meanings. Only whether it may be
/// run is kept of its mode: no setuid, no setgid, no write.
fn file<R: Read>(entry: &mut Entry<'_, R>, to: &Path) -> io::Result<()> {
    let may_run = entry.header().mode()? & 0o111 != 0;
    let mode = if may_run { PROGRAM_MODE } else { FILE_MODE };
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(to)?;
    io::copy(entry, &mut file)?;
    // Whatever the umask is.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.set_modified(SystemTime::UNIX_EPOCH + MODIFIED)
}

fn link_target<R: Read>(entry: &Entry<'_, R>, path: &Path) -> Result<PathBuf, UnpackError> {
    let target = entry.link_name_bytes();
    let target = target.filter(|target| !target.is_empty() && target.len() <= MAX_PATH_BYTES);
    let target =
        target.ok_or_else(|| refused(path, "a link without a target, or with a long one"))?;
    Ok(Path::new(std::ffi::OsStr::from_bytes(&target)).into())
}

/// A hard link names a file of the tar that came before it, from the top.
fn hard_link<R: Read>(entry: &Entry<'_, R>, root: &Path, path: &Path) -> Result<(), UnpackError> {
    let target = link_target(entry, path)?;
    let target = beneath(target.as_os_str().as_bytes())?;
    let found = fs::symlink_metadata(root.join(&target));
    if !found.is_ok_and(|found| found.is_file()) {
        let why = format!(
            "it links to `{}`, which is no file before it",
            target.display()
        );
        return Err(refused(path, why));
    }
    let linked = fs::hard_link(root.join(&target), root.join(path));
    linked.map_err(|error| refused(path, &error))
}

/// By its text alone; [`links_stay_beneath`] looks at where it leads.
fn stays_beneath(at: &Path, target: &Path) -> Result<(), UnpackError> {
    let mut depth = at.components().count().saturating_sub(1);
    for part in target.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                let why = format!("it links to `{}`, out of the tree", target.display());
                return Err(refused(at, why));
            }
        }
    }
    Ok(())
}

/// Links that lead through links may get further than their text says. One that leads to nothing
/// stays: nobody can make what it would lead to.
fn links_stay_beneath(root: &Path, links: &[Link]) -> Result<(), UnpackError> {
    let root = root.canonicalize()?;
    for link in links {
        match root.join(&link.at).canonicalize() {
            Ok(leads_to) if leads_to.starts_with(&root) => {}
            Ok(_) => {
                let why = format!("it links to `{}`, out of the tree", link.target.display());
                return Err(refused(&link.at, why));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(refused(&link.at, &error)),
        }
    }
    Ok(())
}

/// While files are written into it.
pub(super) fn make_root(root: &Path) -> io::Result<()> {
    fs::create_dir_all(root)?;
    fs::set_permissions(root, Permissions::from_mode(OPEN_DIR_MODE))
}

#[cfg(test)]
#[path = "unpack_test.rs"]
mod tests;
