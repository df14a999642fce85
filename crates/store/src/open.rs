//! Opening a data directory: one process at a time, identity checked, the whole log proven.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nihilo_machine::State;
use nihilo_wire::internal as pb;
use openraft::entry::RaftEntry;
use prost::Message;
use rocksdb::{ColumnFamilyDescriptor, DB, DBRecoveryMode, IteratorMode, Options};
use rustix::fs::{FlockOperation, flock};

use crate::io_thread::{Failure, IoHandle, IoStats, Op};
use crate::log::{Log, LogStore, decode_entry};
use crate::state::{Position, StateHandle, StateMachine};
use crate::type_config::LogId;
use crate::{convert, keys};

/// Who this directory belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub cluster_id: String,
    pub node_id: u64,
}

/// Why a data directory cannot be used. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("data directory `{dir}` is in use by process {pid}; stop it first")]
    InUse { dir: PathBuf, pid: String },
    #[error("data directory `{dir}` cannot be used")]
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
        "log-damaged: {what} in `{dir}`; this node must not take part again: remove it from the \
         cluster, wipe the directory and join under a new id"
    )]
    Damaged { dir: PathBuf, what: String },
    #[error("data directory `{dir}` belongs to {found}, not to {wanted}")]
    WrongIdentity {
        dir: PathBuf,
        found: String,
        wanted: String,
    },
}

/// An open store. Dropping all parts of it closes the database.
#[derive(Debug)]
pub struct Store {
    pub log: LogStore,
    pub machine: StateMachine,
    pub state: StateHandle,
    io: IoHandle,
    /// Held for the life of the process.
    _lock: Arc<File>,
}

impl Store {
    /// Opens, or makes, the store of one node.
    ///
    /// # Errors
    /// In use, damaged, or another node's. Damage is never repaired by forgetting.
    pub async fn open(dir: &Path, identity: &Identity) -> Result<Self, OpenError> {
        let lock = lock(dir)?;
        let opened = {
            let dir = dir.to_owned();
            // Reads the whole retained log and state.
            tokio::task::spawn_blocking(move || load(&dir))
                .await
                .expect("loading does not panic")?
        };
        check_identity(dir, opened.identity.as_ref(), identity, &opened)?;
        let io = IoHandle::spawn(opened.db).map_err(|source| OpenError::Directory {
            dir: dir.to_owned(),
            source,
        })?;
        if opened.identity.is_none() {
            let bytes = encode_identity(identity);
            io.durable(|done| Op::Identity { bytes, done })
                .await
                .map_err(|source| OpenError::Directory {
                    dir: dir.to_owned(),
                    source,
                })?;
        }
        let state = StateHandle::new(opened.state, opened.position.index());
        let machine = StateMachine::new(state.clone(), io.clone(), opened.position);
        let log = LogStore::new(opened.log, io.clone());
        Ok(Self {
            log,
            machine,
            state,
            io,
            _lock: Arc::new(lock),
        })
    }

    /// Set once the store has failed for the rest of this process.
    pub fn failure(&self) -> Failure {
        self.io.failure.clone()
    }

    pub fn stats(&self) -> Arc<parking_lot::Mutex<IoStats>> {
        self.io.stats.clone()
    }

    /// Keeps the directory locked for as long as it lives.
    pub fn lock_guard(&self) -> Arc<File> {
        self._lock.clone()
    }
}

struct Opened {
    db: Arc<DB>,
    log: Log,
    state: State,
    position: Position,
    identity: Option<Identity>,
}

fn lock(dir: &Path) -> Result<File, OpenError> {
    let failed = |source| OpenError::Directory {
        dir: dir.to_owned(),
        source,
    };
    std::fs::create_dir_all(dir).map_err(failed)?;
    let mut file = OpenOptions::new()
        .create(true)
        .read(true)
        .write(true)
        .truncate(false)
        .open(dir.join("lock"))
        .map_err(failed)?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
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

fn options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
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
    let options = options();
    let families = keys::FAMILIES.map(|name| {
        let mut family = options.clone();
        if name == keys::LOG {
            // A write stall in the log's thread is a leadership loss.
            family.set_level_zero_slowdown_writes_trigger(64);
            family.set_level_zero_stop_writes_trigger(128);
        }
        ColumnFamilyDescriptor::new(name, family)
    });
    let path = dir.join("db");
    let db = DB::open_cf_descriptors(&options, &path, families).map_err(|source| {
        OpenError::Database {
            dir: path.clone(),
            source,
        }
    })?;
    let damaged = |what: String| OpenError::Damaged {
        dir: path.clone(),
        what,
    };
    let log = load_log(&db).map_err(&damaged)?;
    let position = match get(&db, keys::STATE_META, keys::APPLIED).map_err(&damaged)? {
        Some(bytes) => Position::decode(&bytes).map_err(&damaged)?,
        None => Position::default(),
    };
    let state = load_state(&db).map_err(&damaged)?;
    let identity = match get(&db, keys::META, keys::IDENTITY).map_err(&damaged)? {
        Some(bytes) => Some(decode_identity(&bytes).map_err(&damaged)?),
        None => None,
    };
    Ok(Opened {
        db: Arc::new(db),
        log,
        state,
        position,
        identity,
    })
}

fn get(db: &DB, family: &str, key: &[u8]) -> Result<Option<Vec<u8>>, String> {
    let cf = db
        .cf_handle(family)
        .ok_or_else(|| format!("no column family `{family}`"))?;
    db.get_cf(cf, key).map_err(|error| error.to_string())
}

fn load_state(db: &DB) -> Result<State, String> {
    let cf = db.cf_handle(keys::STATE).ok_or("no state family")?;
    let mut rows = Vec::new();
    for row in db.iterator_cf(cf, IteratorMode::Start) {
        let (key, value) = row.map_err(|error| error.to_string())?;
        rows.push((key.into_vec(), value.into_vec()));
    }
    State::from_rows(rows).map_err(|error| error.to_string())
}

/// Reads the whole retained log: contiguous from the purge point, checksums right, leader ids
/// never falling.
fn load_log(db: &DB) -> Result<Log, String> {
    let log_id = |key| -> Result<Option<LogId>, String> {
        let Some(bytes) = get(db, keys::META, key)? else {
            return Ok(None);
        };
        let message = pb::LogId::decode(bytes.as_slice()).map_err(|error| error.to_string())?;
        convert::log_id_from(Some(message)).map_err(|error| error.to_string())
    };
    let vote = match get(db, keys::META, keys::VOTE)? {
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
    let cf = db.cf_handle(keys::LOG).ok_or("no log family")?;
    let mut previous = log.purged;
    for row in db.iterator_cf(cf, IteratorMode::Start) {
        let (key, value) = row.map_err(|error| error.to_string())?;
        let index = u64::from_be_bytes(key.as_ref().try_into().map_err(|_| "malformed log key")?);
        let entry = decode_entry(&value).map_err(|why| format!("log entry {index}: {why}"))?;
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
    }
    Ok(log)
}

fn check_identity(
    dir: &Path,
    found: Option<&Identity>,
    wanted: &Identity,
    opened: &Opened,
) -> Result<(), OpenError> {
    match found {
        Some(found) if found == wanted => Ok(()),
        Some(found) => Err(OpenError::WrongIdentity {
            dir: dir.to_owned(),
            found: describe(found),
            wanted: describe(wanted),
        }),
        None if opened.log.entries.is_empty() && opened.position.last.is_none() => Ok(()),
        None => Err(OpenError::Damaged {
            dir: dir.to_owned(),
            what: "identity is missing beside a log".into(),
        }),
    }
}

fn describe(identity: &Identity) -> String {
    format!(
        "node {} of cluster `{}`",
        identity.node_id, identity.cluster_id
    )
}

fn encode_identity(identity: &Identity) -> Vec<u8> {
    pb::Identity {
        cluster_id: identity.cluster_id.clone(),
        from_node: identity.node_id,
        target_node: 0,
    }
    .encode_to_vec()
}

fn decode_identity(bytes: &[u8]) -> Result<Identity, String> {
    let message = pb::Identity::decode(bytes).map_err(|error| error.to_string())?;
    Ok(Identity {
        cluster_id: message.cluster_id,
        node_id: message.from_node,
    })
}
