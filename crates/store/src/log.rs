//! The Raft log: readable in memory at once, durable when the callback says so.
//!
//! The retained log (bounded by the snapshot policy) is held in memory; the disk is read at start
//! only.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use nihilo_failpoint::{Bug, Point, hit, planted};
use nihilo_wire::internal as pb;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use parking_lot::Mutex;
use prost::Message;

use crate::convert;
use crate::io_thread::{IoHandle, Op};
use crate::type_config::{Entry, LogId, TypeConfig, Vote};

/// Entries and bytes handed to one append request, at most (02-store §2.2).
const MAX_READ_ENTRIES: usize = 1_024;
const MAX_READ_BYTES: usize = 1024 * 1024;

#[derive(Debug, Clone)]
pub struct LogStore {
    log: Arc<Mutex<Log>>,
    io: IoHandle,
}

/// The retained log, as memory has it.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) entries: BTreeMap<u64, Entry>,
    pub(crate) purged: Option<LogId>,
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
}

impl LogStore {
    pub(crate) fn new(log: Log, io: IoHandle) -> Self {
        Self {
            log: Arc::new(Mutex::new(log)),
            io,
        }
    }
}

/// Log entry on disk: crc32c of what follows, then our own message.
pub(crate) fn encode_entry(entry: &Entry) -> Vec<u8> {
    let message = convert::entry_to(entry);
    let mut bytes = vec![0; 4];
    message.encode(&mut bytes).expect("a vector grows");
    let crc = crc32c::crc32c(&bytes[4..]);
    bytes[..4].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// # Errors
/// A damaged record, in words.
pub(crate) fn decode_entry(bytes: &[u8]) -> Result<Entry, String> {
    let (crc, message) = bytes.split_at_checked(4).ok_or("record is too short")?;
    if crc != crc32c::crc32c(message).to_be_bytes() {
        return Err("checksum does not match".into());
    }
    let message = pb::Entry::decode(message).map_err(|error| error.to_string())?;
    convert::entry_from(message).map_err(|error| error.to_string())
}

fn bounds<R: RangeBounds<u64>>(range: &R) -> (Bound<u64>, Bound<u64>) {
    (range.start_bound().cloned(), range.end_bound().cloned())
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let log = self.log.lock();
        Ok(log
            .entries
            .range(bounds(&range))
            .map(|(_, entry)| entry.clone())
            .collect())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.log.lock().vote)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        let log = self.log.lock();
        let mut n_bytes = 0;
        let within = |entry: &&Entry| {
            let fits = n_bytes == 0 || n_bytes < MAX_READ_BYTES;
            n_bytes += match &entry.payload {
                openraft::EntryPayload::Normal(bytes) => bytes.0.len(),
                _ => 1,
            };
            fits
        };
        let entries = log.entries.range(start..end).map(|(_, entry)| entry);
        Ok(entries
            .take(MAX_READ_ENTRIES)
            .take_while(within)
            .cloned()
            .collect())
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let log = self.log.lock();
        let last = log.entries.last_key_value().map(|(_, entry)| entry.log_id);
        Ok(LogState {
            last_purged_log_id: log.purged,
            last_log_id: last.or(log.purged),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        hit(Point::VoteSaved);
        self.log.lock().vote = Some(*vote);
        let bytes = convert::vote_to(vote).encode_to_vec();
        let vote = *vote;
        self.io.durable(|done| Op::Vote { vote, bytes, done }).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let Some(committed) = committed else {
            return Ok(());
        };
        self.log.lock().committed = Some(committed);
        let bytes = convert::log_id_to(&committed).encode_to_vec();
        self.io.send(Op::Committed { bytes }).await
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.log.lock().committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        hit(Point::LogAppended);
        let mut encoded = Vec::new();
        {
            let mut log = self.log.lock();
            for entry in entries {
                encoded.push((entry.log_id.index, encode_entry(&entry)));
                log.entries.insert(entry.log_id.index, entry);
            }
        }
        let callback = match planted(Bug::AckBeforeSync) {
            true => {
                callback.io_completed(Ok(()));
                IOFlushed::noop()
            }
            false => callback,
        };
        self.io
            .send(Op::Append {
                entries: encoded,
                callback,
            })
            .await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        hit(Point::LogTruncated);
        let from = last.map_or(0, |id| id.index + 1);
        let to = {
            let mut log = self.log.lock();
            let to = log.entries.last_key_value().map(|(index, _)| *index);
            log.entries.split_off(&from);
            to
        };
        match to.filter(|to| *to >= from) {
            Some(to) => {
                self.io
                    .durable(|done| Op::Truncate { from, to, done })
                    .await
            }
            None => Ok(()),
        }
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        hit(Point::LogPurged);
        {
            let mut log = self.log.lock();
            log.entries = log.entries.split_off(&(upto.index + 1));
            log.purged = Some(upto);
        }
        let bytes = convert::log_id_to(&upto).encode_to_vec();
        self.io
            .send(Op::Purge {
                upto: upto.index,
                bytes,
            })
            .await
    }
}
