//! Backups: the state in one file, made while the node serves, proven when it is read.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use nihilo_machine::State;
use nihilo_machine::command::{CLUSTER_VERSION, InitCluster};
use nihilo_wire::internal as pb;

use crate::convert;
use crate::dump::{DumpError, Family, Reader, Writer};
use crate::state::StateHandle;
use crate::type_config::{LeaderId, LogId, SnapshotMeta, StoredMembership};

/// What a backup says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupHead {
    pub cluster_id: String,
    pub cluster_version: u32,
    /// The entry that it is the state after.
    pub index: u64,
    pub digest: u64,
    pub wall_ms: u64,
}

/// A state as it was backed up.
#[derive(Debug)]
pub struct Backup {
    pub head: BackupHead,
    pub(crate) state: State,
    pub(crate) last: Option<LogId>,
}

/// Why a backup cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("backup is {0}")]
    Dump(#[from] DumpError),
    #[error("backup cannot be read")]
    Io(#[from] std::io::Error),
    #[error("backup holds a row that this build cannot read: {0}")]
    Row(String),
    #[error("backup comes to digest {found:016x}, its header says {wanted:016x}; it is damaged")]
    Digest { found: u64, wanted: u64 },
    #[error(
        "backup has cluster version {0}, this build knows {known}; use the build that made it",
        known = CLUSTER_VERSION
    )]
    TooNew(u32),
}

impl StateHandle {
    /// Writes the state of this moment; what is applied meanwhile is not in it.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn back_up(&self, cluster_id: &str, out: impl Write) -> std::io::Result<BackupHead> {
        let (last, state) = self.capture();
        let meta = SnapshotMeta {
            last_log_id: last,
            last_membership: StoredMembership::default(),
        };
        let header = pb::DumpHeader {
            cluster_id: cluster_id.to_owned(),
            cluster_version: state.cluster_version(),
            meta: Some(convert::snapshot_meta_to(&meta)),
            digest: state.digest(),
            wall_ms: state.clock().wall_ms,
            changes_after: last.map_or(0, |id| id.index),
        };
        let mut writer = Writer::new(BufWriter::new(out), &header)?;
        for row in state.rows() {
            if let Some(value) = row.value {
                writer.row(Family::State, &row.key, &value)?;
            }
        }
        writer.finish()?;
        Ok(head(&header))
    }
}

fn head(header: &pb::DumpHeader) -> BackupHead {
    let last = header
        .meta
        .as_ref()
        .and_then(|meta| meta.last_log_id.as_ref());
    BackupHead {
        cluster_id: header.cluster_id.clone(),
        cluster_version: header.cluster_version,
        index: last.map_or(0, |id| id.index),
        digest: header.digest,
        wall_ms: header.wall_ms,
    }
}

impl Backup {
    /// As the cluster was founded that this is a backup of; `None` before it was.
    pub fn cluster(&self) -> Option<&InitCluster> {
        self.state.cluster()
    }

    /// A state that no cluster has had, as of an index.
    pub fn of(state: State, cluster_id: &str, index: u64) -> Self {
        let leader_id = LeaderId {
            term: 1,
            node_id: 1,
        };
        Self {
            head: BackupHead {
                cluster_id: cluster_id.to_owned(),
                cluster_version: state.cluster_version(),
                index,
                digest: state.digest(),
                wall_ms: state.clock().wall_ms,
            },
            state,
            last: Some(LogId { leader_id, index }),
        }
    }

    /// Reads and proves a backup: every frame, every row, and what they come to.
    ///
    /// # Errors
    /// Anything missing, cut, changed, or of a newer build.
    pub fn read(file: &Path) -> Result<Self, BackupError> {
        Self::read_from(BufReader::new(File::open(file)?))
    }

    fn read_from(input: impl Read) -> Result<Self, BackupError> {
        let mut reader = Reader::new(input)?;
        let header = reader.header.clone();
        if header.cluster_version > CLUSTER_VERSION {
            return Err(BackupError::TooNew(header.cluster_version));
        }
        let mut rows = Vec::new();
        while let Some(frame) = reader.rows()? {
            let frame = frame.into_iter().filter(|row| row.family == Family::State);
            rows.extend(frame.map(|row| (row.key, row.value)));
        }
        let state = State::from_rows(rows).map_err(|error| BackupError::Row(error.to_string()))?;
        let (found, wanted) = (state.digest(), header.digest);
        if found != wanted {
            return Err(BackupError::Digest { found, wanted });
        }
        let meta = convert::snapshot_meta_from(header.meta.clone())
            .map_err(|_| DumpError::Damaged("its header is not whole"))?;
        Ok(Self {
            head: head(&header),
            state,
            last: meta.last_log_id,
        })
    }
}
