//! Snapshots as files (format: [`crate::dump`]), and the directory they lie in.
//!
//! A snapshot is written aside, synced, renamed and its directory synced: under its name it is whole.
//! The newest one stays over a restart, so that a node with a purged log need not make one to start.

use std::fs::File;
use std::io::{self, BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nihilo_machine::{ObjectEvent, State};
use nihilo_types::id::LogIndex;
use nihilo_wire::internal as pb;
use tracing::warn;

use crate::changes;
use crate::convert;
use crate::dump::{DumpError, Family, Reader, Writer};
use crate::type_config::SnapshotMeta;

pub(crate) const DIR: &str = "snapshots";
const WHOLE: &str = "snap";
const UNFINISHED: &str = "tmp";

/// One whole snapshot; cheap to clone. The file goes with its last handle once a newer one has
/// taken its place.
#[derive(Debug, Clone)]
pub struct DumpFile(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    length: u64,
    is_replaced: AtomicBool,
    /// A reader of it says that it is not whole.
    is_damaged: AtomicBool,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.is_replaced.load(Ordering::Relaxed) {
            // What stays behind is removed at the next start.
            drop(std::fs::remove_file(&self.path));
        }
    }
}

impl DumpFile {
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Bytes of the file.
    pub fn length(&self) -> u64 {
        self.0.length
    }

    /// Whoever received it found it damaged: another one must be made.
    pub fn mark_damaged(&self) {
        self.0.is_damaged.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_damaged(&self) -> bool {
        self.0.is_damaged.load(Ordering::Relaxed)
    }

    /// Another one has taken its place.
    pub(crate) fn replace(&self) {
        self.0.is_replaced.store(true, Ordering::Relaxed);
    }

    pub(crate) fn reader(&self) -> Result<Reader<BufReader<File>>, DumpError> {
        Reader::new(BufReader::new(File::open(&self.0.path)?))
    }
}

/// Where snapshots are made, received and kept.
#[derive(Debug, Clone)]
pub struct SnapshotDir {
    dir: Arc<Path>,
    next: Arc<AtomicU64>,
}

/// A snapshot on its way to be one.
#[derive(Debug)]
pub struct Unfinished {
    pub file: File,
    path: PathBuf,
    dir: Arc<Path>,
    is_finished: bool,
}

/// Whatever ends the making of it leaves nothing behind.
impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.is_finished {
            // What stays behind is removed at the next start.
            drop(std::fs::remove_file(&self.path));
        }
    }
}

impl SnapshotDir {
    /// Finds the newest whole snapshot, and removes what was left unfinished or is older.
    pub(crate) fn open(data_dir: &Path) -> io::Result<(Self, Option<(SnapshotMeta, DumpFile)>)> {
        let dir: Arc<Path> = data_dir.join(DIR).into();
        std::fs::create_dir_all(&dir)?;
        let mut next = 0;
        let mut newest: Option<(SnapshotMeta, DumpFile)> = None;
        for found in std::fs::read_dir(&dir)? {
            let path = found?.path();
            next = next.max(number_of(&path).map_or(0, |number| number + 1));
            let kept = newest.as_ref().and_then(|(meta, _)| meta.last_log_id);
            let taken = match read_meta(&path) {
                Some(meta) if meta.last_log_id > kept => Some(meta),
                _ => None,
            };
            let Some(meta) = taken else {
                std::fs::remove_file(&path)?;
                continue;
            };
            if let Some((_, older)) = newest.replace((meta, file_of(path)?)) {
                older.replace();
            }
        }
        let next = Arc::new(AtomicU64::new(next));
        Ok((Self { dir, next }, newest))
    }

    /// # Errors
    /// The directory cannot be written.
    pub fn begin(&self) -> io::Result<Unfinished> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("{number}.{UNFINISHED}"));
        Ok(Unfinished {
            file: File::options()
                .create_new(true)
                .read(true)
                .write(true)
                .open(&path)?,
            path,
            dir: self.dir.clone(),
            is_finished: false,
        })
    }
}

impl Unfinished {
    /// Makes it durable and gives it its name. Whether it is a whole dump the caller knows.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn finish(mut self) -> io::Result<DumpFile> {
        self.file.sync_all()?;
        let path = self.path.with_extension(WHOLE);
        std::fs::rename(&self.path, &path)?;
        self.is_finished = true;
        File::open(&self.dir)?.sync_all()?;
        file_of(path)
    }

    /// Reads all of it: is it a whole dump?
    ///
    /// # Errors
    /// Anything missing, cut or changed.
    pub fn prove(&self) -> Result<(), DumpError> {
        let reader = Reader::new(BufReader::new(File::open(&self.path)?))?;
        reader.prove().map(drop)
    }
}

fn file_of(path: PathBuf) -> io::Result<DumpFile> {
    let length = std::fs::metadata(&path)?.len();
    Ok(DumpFile(Arc::new(Inner {
        path,
        length,
        is_replaced: AtomicBool::new(false),
        is_damaged: AtomicBool::new(false),
    })))
}

/// Numbers grow over restarts: a name that was taken once names no other snapshot.
fn number_of(path: &Path) -> Option<u64> {
    path.file_stem()?.to_str()?.parse().ok()
}

/// What a finished file says of itself; `None` for everything else.
fn read_meta(path: &Path) -> Option<SnapshotMeta> {
    if path.extension().is_none_or(|extension| extension != WHOLE) {
        return None;
    }
    let reader = File::open(path).map_err(DumpError::from);
    match reader.and_then(|file| Reader::new(BufReader::new(file))) {
        Ok(reader) => convert::snapshot_meta_from(reader.header.meta).ok(),
        Err(error) => {
            warn!(file = %path.display(), %error, "an old snapshot is not used");
            None
        }
    }
}

/// Everything that goes into one snapshot: a state between two applies, with the newest changes.
#[derive(Debug)]
pub(crate) struct Contents {
    pub(crate) meta: SnapshotMeta,
    pub(crate) state: State,
    pub(crate) changes_after: LogIndex,
    pub(crate) changes: Vec<ObjectEvent>,
}

impl Contents {
    /// Walks the state once; takes as long as that and the disk take.
    pub(crate) fn write(&self, dir: &SnapshotDir) -> io::Result<DumpFile> {
        let header = pb::DumpHeader {
            cluster_version: self.state.cluster_version(),
            meta: Some(convert::snapshot_meta_to(&self.meta)),
            wall_ms: self.state.clock().wall_ms,
            changes_after: self.changes_after.0,
            ..pb::DumpHeader::default()
        };
        let unfinished = dir.begin()?;
        let mut writer = Writer::new(BufWriter::new(&unfinished.file), &header)?;
        let mut result = Ok(());
        self.state.visit_rows(&mut |row| {
            if let (true, Some(value)) = (result.is_ok(), row.value) {
                result = writer.row(Family::State, &row.key, &value);
            }
        });
        result?;
        for (key, value) in changes::encode(&self.changes) {
            writer.row(Family::Changes, &key, &value)?;
        }
        drop(writer.finish()?);
        unfinished.finish()
    }
}
