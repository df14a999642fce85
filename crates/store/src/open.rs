//! Opening a data directory: one process at a time, identity checked, the whole log proven.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nihilo_host::Threads;
use nihilo_machine::State;
use nihilo_machine::command::CLUSTER_VERSION;
use nihilo_types::id::LogIndex;
use nihilo_wire::internal as pb;
use openraft::entry::RaftEntry;
use prost::Message;
use rocksdb::statistics::{StatsLevel, Ticker};
use rocksdb::{ColumnFamilyDescriptor, DB, DBRecoveryMode, Options};
use rustix::fs::{FlockOperation, flock};
use tracing::warn;

use crate::changes::{self, ChangeLog};
use crate::disk::{Disk, Rows};
use crate::high_water::{self, Found, HighWater, Mark};
use crate::io_thread::{Failure, IoHandle, IoStats, Op, Poisoner};
use crate::load::load_state;
use crate::log::{Log, LogStore, decode_entry};
use crate::rocks::RocksDisk;
use crate::snapshot::SnapshotDir;
use crate::state::{Pages, Position, StateHandle, StateMachine};
use crate::type_config::LogId;
use crate::{convert, keys};

/// Who this directory belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's name; once it was recovered or restored, with `+` and what tells it from the
    /// one that it was made of.
    pub cluster_id: String,
    pub node_id: u64,
}

impl Identity {
    /// Whether a node that is configured as `wanted` may use what belongs to this identity.
    fn is_a(&self, wanted: &Identity) -> bool {
        let name = self.cluster_id.split('+').next();
        let is_cluster = self.cluster_id == wanted.cluster_id
            || name.is_some_and(|name| name == wanted.cluster_id);
        is_cluster && self.node_id == wanted.node_id
    }
}

/// Why a data directory cannot be used. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("data directory `{dir}` is in use by process {pid}; stop it first")]
    InUse { dir: PathBuf, pid: String },
    #[error(
        "data directory `{dir}` cannot be used; it must be writable for this user, or set another \
         `data-dir`"
    )]
    Directory {
        dir: PathBuf,
        source: std::io::Error,
    },
    #[error("database in `{dir}` does not open")]
    Database {
        dir: PathBuf,
        source: rocksdb::Error,
    },
    #[error(
        "no space is left on the disk of `{dir}`; free some and start again: nothing that was \
         acknowledged is lost"
    )]
    NoSpace { dir: PathBuf, source: Cause },
    #[error(
        "log-damaged: {what}, in `{dir}`; nothing was changed, and this node must not take part \
         with it again: restore the directory from a copy made while the node was stopped, or \
         remove the node from the cluster, wipe the directory and join under a new id"
    )]
    Damaged { dir: PathBuf, what: String },
    #[error(
        "data directory `{dir}` belongs to {found}, not to {wanted}; correct `data-dir`, \
         `node-id` or `cluster` in the configuration"
    )]
    WrongIdentity {
        dir: PathBuf,
        found: String,
        wanted: String,
    },
    #[error(
        "data directory `{dir}` has cluster version {version}, this build knows {CLUSTER_VERSION}; \
         start it with the build that the other nodes run"
    )]
    TooNew { dir: PathBuf, version: u32 },
}

/// A process that has just ended still holds its files for a moment.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// What the library said.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Cause(String);

/// An open store. Dropping all parts of it closes the database.
#[derive(Debug)]
pub struct Store {
    pub log: LogStore,
    pub machine: StateMachine,
    pub state: StateHandle,
    /// As it stands in the directory: a cluster that was recovered or restored has an id of its own.
    pub identity: Identity,
    /// Where snapshots of other nodes are received.
    pub snapshots: SnapshotDir,
    /// Drawn when the directory was made.
    pub store_id: Arc<str>,
    /// Whether, when it was opened, it held nothing that a quorum could have counted on: no vote,
    /// and at most the founding membership.
    pub is_young: bool,
    io: IoHandle,
    /// RocksDB's.
    options: Option<Statistics>,
    /// Held for the life of the process.
    _lock: Option<Arc<File>>,
}

impl Store {
    /// Opens, or makes, the store of one node.
    ///
    /// # Errors
    /// In use, damaged, or another node's. Damage is never repaired by forgetting.
    pub async fn open(dir: &Path, identity: &Identity) -> Result<Self, OpenError> {
        Self::open_through(dir, identity, |disk| disk).await
    }

    /// The same with something of the caller's between the writer and the files, for tests: a store
    /// must be seen to fail on a disk that lies.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_through(
        dir: &Path,
        identity: &Identity,
        through: impl FnOnce(Box<dyn Disk>) -> Box<dyn Disk>,
    ) -> Result<Self, OpenError> {
        let lock = lock(dir)?;
        let mut opened = {
            let dir = dir.to_owned();
            // Reads the whole retained log and state.
            tokio::task::spawn_blocking(move || load(&dir))
                .await
                .expect("loading does not panic")?
        };
        opened.disk = through(opened.disk);
        Self::on(opened, Some(lock), dir, identity, Threads::Own).await
    }

    /// Opens, or makes, the store of one node on another disk than the file system's. Whoever gives
    /// it sees to it that no other process has it; of `dir` only the snapshots are used.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_on(
        disk: Box<dyn Disk>,
        dir: &Path,
        identity: &Identity,
        threads: Threads,
    ) -> Result<Self, OpenError> {
        let contents = read(disk.as_ref(), &disk.mark(), threads)
            .map_err(|flaw| damaged(dir, flaw.describe(|| "given".into())))?;
        let opened = Opened {
            disk,
            options: None,
            contents,
        };
        Self::on(opened, None, dir, identity, threads).await
    }

    async fn on(
        opened: Opened,
        lock: Option<File>,
        dir: &Path,
        identity: &Identity,
        threads: Threads,
    ) -> Result<Self, OpenError> {
        let Opened {
            disk,
            options,
            contents,
        } = opened;
        check_identity(dir, identity, &contents)?;
        let is_young = contents.is_young();
        let (rows, generation) = (disk.reader(), contents.generation);
        let io = IoHandle::spawn(disk, threads, contents.position.index(), generation)
            .map_err(|source| directory(dir, source))?;
        let is_new = contents.identity.is_none();
        let identity = contents.identity.unwrap_or_else(|| identity.clone());
        let store_id = contents.store_id.unwrap_or_else(new_store_id);
        if is_new {
            let bytes = encode_identity(&identity, &store_id);
            io.durable(|done| Op::Identity { bytes, done })
                .await
                .map_err(|source| OpenError::Directory {
                    dir: dir.to_owned(),
                    source,
                })?;
        }
        let written = io.written.clone();
        let pages = Pages {
            rows,
            written,
            threads,
        };
        let position = contents.position;
        let state = StateHandle::new(contents.state, &position, contents.changes, pages);
        let (snapshots, current) =
            SnapshotDir::open(dir).map_err(|source| directory(dir, source))?;
        let machine = StateMachine::new(state.clone(), io.clone(), position, generation)
            .with_snapshots(snapshots.clone(), current);
        let log = LogStore::new(contents.log, io.clone());
        Ok(Self {
            log,
            machine,
            state,
            identity,
            snapshots,
            store_id: store_id.into(),
            is_young,
            io,
            options,
            _lock: lock.map(Arc::new),
        })
    }

    /// Set once the store has failed for the rest of this process.
    pub fn failure(&self) -> Failure {
        self.io.failure.clone()
    }

    /// The store of this process fails after `n` more writes, as if it had been killed there. For
    /// tests.
    pub fn end_after_writes(&self, n: u32) {
        let left = &self.io.writes_left;
        left.store(n.into(), std::sync::atomic::Ordering::Relaxed);
    }

    /// For what is found to be wrong with it outside.
    pub fn poisoner(&self) -> Poisoner {
        self.io.poisoner()
    }

    /// How often RocksDB synced its write-ahead log since the store was opened.
    pub fn n_wal_syncs(&self) -> u64 {
        let options = self.options.as_ref();
        options.map_or(0, |options| {
            options.0.get_ticker_count(Ticker::WalFileSynced)
        })
    }

    pub fn stats(&self) -> Arc<parking_lot::Mutex<IoStats>> {
        self.io.stats.clone()
    }

    /// Keeps the directory locked for as long as it lives.
    pub fn lock_guard(&self) -> Option<Arc<File>> {
        self._lock.clone()
    }
}

/// The options that a database counts into.
struct Statistics(Options);

impl std::fmt::Debug for Statistics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Statistics").finish_non_exhaustive()
    }
}

struct Opened {
    disk: Box<dyn Disk>,
    options: Option<Statistics>,
    contents: Contents,
}

/// Whether `dir` holds no store at all.
pub fn is_blank(dir: &Path) -> bool {
    std::fs::metadata(high_water::path(dir)).is_err()
        && std::fs::metadata(dir.join("db/CURRENT")).is_err()
}

/// Makes the store of a node that has been given its identity and has nothing yet.
///
/// # Errors
/// The directory is in use, is not blank, or cannot be written.
pub async fn create(dir: &Path, identity: &Identity) -> Result<(), OpenError> {
    if !is_blank(dir) {
        return Err(damaged(dir, "a store is there already".into()));
    }
    let store = Store::open(dir, identity).await?;
    let mut failure = store.failure();
    drop(store);
    // Until the last write is through and the database closed.
    drop(failure.wait_for(|_| false).await);
    Ok(())
}

/// Whether a process could open `dir` now, as far as others are concerned.
///
/// # Errors
/// In use, or not writable.
pub fn check_unused(dir: &Path) -> Result<(), OpenError> {
    lock(dir).map(drop)
}

pub(crate) fn lock(dir: &Path) -> Result<File, OpenError> {
    let failed = |source| directory(dir, source);
    std::fs::create_dir_all(dir).map_err(failed)?;
    let mut file = OpenOptions::new()
        .create(true)
        .read(true)
        .write(true)
        .truncate(false)
        .open(dir.join("lock"))
        .map_err(failed)?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() < deadline {
            std::thread::sleep(LOCK_RETRY);
            continue;
        }
        let mut pid = String::new();
        // The pid is a courtesy; without it the error stands all the same.
        drop(file.read_to_string(&mut pid));
        return Err(OpenError::InUse {
            dir: dir.to_owned(),
            pid: pid.trim().to_owned(),
        });
    }
    file.set_len(0).map_err(failed)?;
    writeln!(file, "{}", std::process::id()).map_err(failed)?;
    Ok(file)
}

fn options(is_new: bool) -> Options {
    let mut options = Options::default();
    options.create_if_missing(is_new);
    options.create_missing_column_families(true);
    // Tickers only: what the write-ahead log was synced is told from them.
    options.enable_statistics();
    options.set_statistics_level(StatsLevel::ExceptHistogramOrTimers);
    // A torn, unacknowledged tail must start; the log scan finds holes below it.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_paranoid_checks(true);
    options.set_atomic_flush(true);
    options.set_max_total_wal_size(256 * 1024 * 1024);
    options.set_recycle_log_file_num(3);
    options.set_max_background_jobs(2);
    options.set_keep_log_file_num(3);
    // Small clusters live in the memtable; a node must idle at tens of MB.
    options.set_write_buffer_size(16 * 1024 * 1024);
    options
}

fn load(dir: &Path) -> Result<Opened, OpenError> {
    let is_there = std::fs::metadata(dir.join("db/CURRENT")).is_ok();
    let high_water = match find_mark(dir)? {
        Some(found) => found,
        None if is_there => {
            let file = high_water::path(dir);
            return Err(damaged(dir, format!("`{}` is missing", file.display())));
        }
        // Before the database, and so before anything can be acknowledged here.
        None => HighWater::create(dir).map_err(|source| directory(dir, source))?,
    };
    let mark = high_water.mark();
    let read = |db: &DB| proven(dir, db, &mark);
    let ((db, options), contents) = if mark.is_blank() {
        // Nothing was ever acknowledged here, so that an empty database is no loss.
        let opened = open_database(dir, Mode::New)?;
        let contents = read(&opened.0)?;
        (opened, contents)
    } else {
        // Proven before anything is opened for writing: recovery drops what it cannot read.
        let contents = read(&open_database(dir, Mode::ReadOnly)?.0)?;
        (open_database(dir, Mode::Present)?, contents)
    };
    let db = Arc::new(db);
    Ok(Opened {
        disk: Box::new(RocksDisk { db, high_water }),
        options: Some(Statistics(options)),
        contents,
    })
}

/// Everything that a database holds.
pub(crate) struct Contents {
    pub(crate) log: Log,
    pub(crate) state: State,
    pub(crate) position: Position,
    pub(crate) changes: ChangeLog,
    /// Of the state's rows.
    pub(crate) generation: u64,
    pub(crate) identity: Option<Identity>,
    pub(crate) store_id: Option<String>,
}

impl Contents {
    fn is_young(&self) -> bool {
        let last = self.log.entries.last_key_value().map(|(index, _)| *index);
        let last = last.max(self.position.last.map(|id| id.index));
        last.unwrap_or(0) == 0 && self.log.vote.is_none()
    }
}

/// Proves and reads a directory that no process uses, without writing to it.
pub(crate) fn read_all(dir: &Path) -> Result<Contents, OpenError> {
    let Some(high_water) = find_mark(dir)? else {
        let file = high_water::path(dir);
        return Err(damaged(dir, format!("`{}` is missing", file.display())));
    };
    let (db, _) = open_database(dir, Mode::ReadOnly)?;
    proven(dir, &db, &high_water.mark())
}

/// Makes an empty database in a directory that has none.
pub(crate) fn create_database(dir: &Path) -> Result<DB, OpenError> {
    open_database(dir, Mode::New).map(|(db, _)| db)
}

/// What is wrong with what was read.
enum Flaw {
    Damaged(String),
    /// The end of the log is missing.
    Short(String),
}

impl Flaw {
    /// In words; `log_files` names what held the missing end.
    fn describe(self, log_files: impl FnOnce() -> String) -> String {
        match self {
            Self::Damaged(what) => what,
            Self::Short(what) => {
                let files = log_files();
                format!("{what}: its write-ahead log ({files}) is damaged or cut")
            }
        }
    }
}

impl From<String> for Flaw {
    fn from(what: String) -> Self {
        Self::Damaged(what)
    }
}

fn proven(dir: &Path, db: &DB, mark: &Mark) -> Result<Contents, OpenError> {
    read(db, mark, Threads::Own)
        .map_err(|flaw| damaged(dir, flaw.describe(|| write_ahead_files(db.path()))))
}

/// Reads it all, so that every checksum is looked at, and holds it against the mark.
fn read(rows: &(impl Rows + ?Sized), mark: &Mark, threads: Threads) -> Result<Contents, Flaw> {
    let mut log = load_log(rows)?;
    let position = match rows.get(keys::STATE_META, keys::APPLIED)? {
        Some(bytes) => Position::decode(&bytes)?,
        None => Position::default(),
    };
    check_mark(mark, &mut log, &position).map_err(Flaw::Short)?;
    let generation = load_generation(rows)?;
    let state = load_state(rows, keys::state_family(generation), threads)?;
    let changes = load_changes(rows, &position)?;
    let (identity, store_id) = match rows.get(keys::META, keys::IDENTITY)? {
        Some(bytes) => {
            let (identity, store_id) = decode_identity(&bytes)?;
            (Some(identity), Some(store_id))
        }
        None => (None, None),
    };
    Ok(Contents {
        log,
        state,
        position,
        changes,
        generation,
        identity,
        store_id,
    })
}

fn load_generation(rows: &(impl Rows + ?Sized)) -> Result<u64, String> {
    let Some(bytes) = rows.get(keys::STATE_META, keys::GENERATION)? else {
        return Ok(0);
    };
    let bytes = bytes.as_slice().try_into();
    Ok(u64::from_be_bytes(
        bytes.map_err(|_| "malformed generation")?,
    ))
}

/// A directory of an older build has no change log: it begins with what is applied.
fn load_changes(rows: &(impl Rows + ?Sized), position: &Position) -> Result<ChangeLog, String> {
    let applied = position.index();
    if !rows.has_family(keys::CHANGES) {
        return Ok(ChangeLog::new(applied, applied, VecDeque::new()));
    }
    let floor = match rows.get(keys::STATE_META, keys::CHANGES_AFTER)? {
        Some(bytes) => {
            let bytes = bytes.as_slice().try_into();
            LogIndex(u64::from_be_bytes(bytes.map_err(|_| "malformed index")?))
        }
        None => applied,
    };
    Ok(ChangeLog::new(applied, floor, changes::load_blocks(rows)?))
}

pub(crate) fn damaged(dir: &Path, what: String) -> OpenError {
    OpenError::Damaged {
        dir: dir.to_owned(),
        what,
    }
}

fn directory(dir: &Path, source: std::io::Error) -> OpenError {
    match source.kind() {
        std::io::ErrorKind::StorageFull => OpenError::NoSpace {
            dir: dir.to_owned(),
            source: Cause(source.to_string()),
        },
        _ => OpenError::Directory {
            dir: dir.to_owned(),
            source,
        },
    }
}

fn find_mark(dir: &Path) -> Result<Option<HighWater>, OpenError> {
    match HighWater::find(dir).map_err(|source| directory(dir, source))? {
        Found::Mark(found) => Ok(Some(found)),
        Found::Nothing => Ok(None),
        Found::Damaged => {
            let file = high_water::path(dir);
            Err(damaged(dir, format!("`{}` is damaged", file.display())))
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Made if it is not there.
    New,
    ReadOnly,
    Present,
}

fn open_database(dir: &Path, mode: Mode) -> Result<(DB, Options), OpenError> {
    let path = dir.join("db");
    let current = path.join("CURRENT");
    if mode != Mode::New && std::fs::metadata(&current).is_err() {
        return Err(damaged(dir, format!("`{}` is missing", current.display())));
    }
    let options = options(mode == Mode::New);
    // Reading makes nothing: a family that an older build did not have is not there then.
    let present = match mode {
        Mode::ReadOnly => Some(DB::list_cf(&options, &path)),
        Mode::New | Mode::Present => None,
    };
    let present = present.transpose();
    let present = present.map_err(|source| not_opened(dir, &path, source))?;
    let is_present = |name: &&str| {
        let is_known = |known: &Vec<String>| known.iter().any(|known| known == name);
        present.as_ref().is_none_or(is_known)
    };
    let families = keys::FAMILIES.into_iter().filter(is_present).map(|name| {
        let mut family = options.clone();
        if name == keys::LOG {
            // A write stall in the log's thread is a leadership loss.
            family.set_level_zero_slowdown_writes_trigger(64);
            family.set_level_zero_stop_writes_trigger(128);
        }
        ColumnFamilyDescriptor::new(name, family)
    });
    let opened = match mode {
        Mode::ReadOnly => DB::open_cf_descriptors_read_only(&options, &path, families, false),
        Mode::New | Mode::Present => DB::open_cf_descriptors(&options, &path, families),
    };
    match opened {
        Ok(db) => Ok((db, options)),
        Err(source) => Err(not_opened(dir, &path, source)),
    }
}

/// RocksDB's errors name the file; what they mean for this node is decided here.
fn not_opened(dir: &Path, path: &Path, source: rocksdb::Error) -> OpenError {
    let text = source.to_string();
    match source.kind() {
        rocksdb::ErrorKind::IOError if text.contains("No space left") => OpenError::NoSpace {
            dir: dir.to_owned(),
            source: Cause(text),
        },
        // Not the lock file, which another process holds: a file that the database names.
        rocksdb::ErrorKind::IOError if text.contains("No such file") => damaged(dir, text),
        rocksdb::ErrorKind::Corruption => damaged(dir, text),
        _ => OpenError::Database {
            dir: path.to_owned(),
            source,
        },
    }
}

/// Whether the log reaches what was acknowledged. A vote that only the mark has is taken over:
/// adopting one that was never answered is safe, forgetting one that was is not.
fn check_mark(mark: &Mark, log: &mut Log, position: &Position) -> Result<(), String> {
    let last = log.entries.last_key_value().map(|(index, _)| *index);
    let covered = log.purged.max(position.last).map(|id| id.index);
    let reached = last.max(covered);
    if mark.last > reached {
        let shown = |index: Option<u64>| index.map_or("none".into(), |index| index.to_string());
        return Err(format!(
            "the log ends at entry {}, but {} was acknowledged",
            shown(reached),
            shown(mark.last)
        ));
    }
    if mark.vote > log.vote {
        warn!(vote = ?mark.vote, "the database had lost this node's last vote; it was restored");
        log.vote = mark.vote;
    }
    Ok(())
}

fn write_ahead_files(path: &Path) -> String {
    let entries = std::fs::read_dir(path).into_iter().flatten();
    let mut names: Vec<_> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".log"))
        .map(|name| format!("`{}`", path.join(name).display()))
        .collect();
    names.sort();
    names.join(", ")
}

/// Reads the whole retained log: contiguous from the purge point, checksums right, leader ids
/// never falling.
fn load_log(rows: &(impl Rows + ?Sized)) -> Result<Log, String> {
    let log_id = |key| -> Result<Option<LogId>, String> {
        let Some(bytes) = rows.get(keys::META, key)? else {
            return Ok(None);
        };
        let message = pb::LogId::decode(bytes.as_slice()).map_err(|error| error.to_string())?;
        convert::log_id_from(Some(message)).map_err(|error| error.to_string())
    };
    let vote = match rows.get(keys::META, keys::VOTE)? {
        Some(bytes) => {
            let message = pb::Vote::decode(bytes.as_slice()).map_err(|error| error.to_string())?;
            Some(convert::vote_from(Some(message)).map_err(|error| error.to_string())?)
        }
        None => None,
    };
    let mut log = Log {
        purged: log_id(keys::PURGED)?,
        committed: log_id(keys::COMMITTED)?,
        vote,
        ..Log::default()
    };
    let mut previous = log.purged;
    rows.scan(keys::LOG, &[], &mut |key, value| {
        let index = u64::from_be_bytes(key.try_into().map_err(|_| "malformed log key")?);
        let entry = decode_entry(value).map_err(|why| format!("log entry {index}: {why}"))?;
        let id = entry.log_id();
        let expected = previous.map_or(index, |id| id.index + 1);
        if id.index != index || index != expected {
            return Err(format!("log entry {index} where {expected} must be"));
        }
        if previous.is_some_and(|previous| previous.leader_id > id.leader_id) {
            return Err(format!(
                "log entry {index} has an older leader than the one before"
            ));
        }
        previous = Some(id);
        log.entries.insert(index, entry);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(log)
}

fn check_identity(dir: &Path, wanted: &Identity, contents: &Contents) -> Result<(), OpenError> {
    match contents.identity.as_ref() {
        Some(found) if found.is_a(wanted) => check_version(dir, &contents.state),
        Some(found) => Err(OpenError::WrongIdentity {
            dir: dir.to_owned(),
            found: describe(found),
            wanted: describe(wanted),
        }),
        None if contents.log.entries.is_empty() && contents.position.last.is_none() => Ok(()),
        None => Err(OpenError::Damaged {
            dir: dir.to_owned(),
            what: "identity is missing beside a log".into(),
        }),
    }
}

/// A newer build raised the version: this one would read entries by the wrong rules.
fn check_version(dir: &Path, state: &State) -> Result<(), OpenError> {
    match state.cluster_version() {
        version if version > CLUSTER_VERSION => Err(OpenError::TooNew {
            dir: dir.to_owned(),
            version,
        }),
        _ => Ok(()),
    }
}

fn describe(identity: &Identity) -> String {
    format!(
        "node {} of cluster `{}`",
        identity.node_id, identity.cluster_id
    )
}

pub(crate) fn new_store_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

pub(crate) fn encode_identity(identity: &Identity, store_id: &str) -> Vec<u8> {
    pb::StoreIdentity {
        cluster_id: identity.cluster_id.clone(),
        node_id: identity.node_id,
        store_id: store_id.into(),
    }
    .encode_to_vec()
}

fn decode_identity(bytes: &[u8]) -> Result<(Identity, String), String> {
    let message = pb::StoreIdentity::decode(bytes).map_err(|error| error.to_string())?;
    let identity = Identity {
        cluster_id: message.cluster_id,
        node_id: message.node_id,
    };
    Ok((identity, message.store_id))
}
