//! `raft-io`: the only writer of the database. Group commit: while one fsync runs, the next batch
//! collects; there is no linger.

use std::io;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use nihilo_failpoint::{Bug, Point, fails, hit, hit_if, planted};
use nihilo_machine::RowChange;
use nihilo_types::id::LogIndex;
use openraft::storage::IOFlushed;
use parking_lot::Mutex;
use rocksdb::{DB, WriteBatch, WriteOptions};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::error;

use crate::changes::{self, ChangeRow};
use crate::high_water::{HighWater, Mark};
use crate::keys;
use crate::type_config::{TypeConfig, Vote};

/// Operations that may wait for the thread; the next one waits for a place.
pub(crate) const QUEUE: usize = 4_096;
/// Operations merged into one batch, at most.
const MAX_MERGED: usize = 1_024;
/// What is said where a test has ended the store.
const KILL_POINT: &str = "ended at a kill point";
/// How long an entry of the planted bug `ack-before-sync` is in memory only.
const UNSYNCED_FOR: Duration = Duration::from_millis(100);
/// Newest fsync durations kept for statistics.
const MAX_SAMPLES: usize = 65_536;

pub(crate) enum Op {
    /// Durable before the callback.
    Append {
        entries: Vec<(u64, Vec<u8>)>,
        callback: IOFlushed<TypeConfig>,
    },
    /// Durable before the answer.
    Vote {
        vote: Vote,
        bytes: Vec<u8>,
        done: Done,
    },
    /// Durable before the answer: removes `from..=to`.
    Truncate {
        from: u64,
        to: u64,
        done: Done,
    },
    /// Rides on any batch.
    Committed {
        bytes: Vec<u8>,
    },
    /// Removes everything up to `upto`; not synced by itself. It can survive a power cut only
    /// together with the state rows before it in the WAL.
    Purge {
        upto: u64,
        bytes: Vec<u8>,
    },
    /// Rows of applied entries with the position they bring the state to.
    State {
        rows: Vec<RowChange>,
        changes: Vec<ChangeRow>,
        /// Changes up to here are dropped.
        trim: Option<LogIndex>,
        applied: Vec<u8>,
        /// The index that `applied` stands at.
        at: LogIndex,
    },
    /// Empties the generation that is not read.
    Clear {
        generation: u64,
    },
    /// Rows of a state that is being installed, into the generation that is not read: as few bytes
    /// at a time as a vote or an append may have to wait for.
    Load {
        generation: u64,
        rows: Vec<ChangeRow>,
        changes: Vec<ChangeRow>,
    },
    /// Makes a loaded generation the one that is read, durably and with everything that was loaded.
    Flip {
        generation: u64,
        /// The changes are complete after this entry.
        changes_after: LogIndex,
        applied: Vec<u8>,
        at: LogIndex,
        done: Done,
    },
    Identity {
        bytes: Vec<u8>,
        done: Done,
    },
}

impl Op {
    /// The index that the state in the database stands at after this.
    fn stands_at(&self) -> Option<LogIndex> {
        match self {
            Op::State { at, .. } | Op::Flip { at, .. } => Some(*at),
            Op::Append { .. }
            | Op::Vote { .. }
            | Op::Truncate { .. }
            | Op::Committed { .. }
            | Op::Purge { .. }
            | Op::Clear { .. }
            | Op::Load { .. }
            | Op::Identity { .. } => None,
        }
    }
}

pub(crate) type Done = oneshot::Sender<Result<(), io::Error>>;

/// What the thread has seen of the disk.
#[derive(Debug, Default)]
pub struct IoStats {
    /// Durations of the newest synced writes.
    pub fsyncs: Vec<Duration>,
    pub n_fsyncs: u64,
    pub n_entries: u64,
}

/// Why the store of this process will never write again; `None` = it works.
pub type Failure = watch::Receiver<Option<Arc<str>>>;

#[derive(Debug, Clone)]
pub(crate) struct IoHandle {
    thread: Arc<IoThread>,
    failed: Arc<watch::Sender<Option<Arc<str>>>>,
    pub(crate) failure: Failure,
    pub(crate) stats: Arc<Mutex<IoStats>>,
    /// The index that the state in the database stands at.
    pub(crate) written: watch::Receiver<LogIndex>,
    /// Writes until the thread fails as if the process had been killed there; tests count it down
    /// from every place that they want to end at.
    pub(crate) writes_left: Arc<AtomicI64>,
}

/// Ends the thread, and with it the database, when the last handle goes: a process that exits
/// while it still writes would tear RocksDB down under its feet.
#[derive(Debug)]
struct IoThread {
    queue: Option<mpsc::Sender<Op>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for IoThread {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("raft-io panicked");
        }
    }
}

impl IoHandle {
    pub(crate) fn spawn(
        db: Arc<DB>,
        high_water: HighWater,
        applied: LogIndex,
        generation: u64,
    ) -> io::Result<Self> {
        let (queue, receiver) = mpsc::channel(QUEUE);
        let (failed, failure) = watch::channel(None);
        let failed = Arc::new(failed);
        let stats = Arc::new(Mutex::new(IoStats::default()));
        let (written, follow_written) = watch::channel(applied);
        let writes_left = Arc::new(AtomicI64::new(i64::MAX));
        let writer = Writer {
            db,
            high_water,
            failed: failed.clone(),
            stats: stats.clone(),
            written,
            generation,
            writes_left: writes_left.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("raft-io".into())
            .spawn(move || writer.run(receiver))?;
        let thread = Arc::new(IoThread {
            queue: Some(queue),
            thread: Some(thread),
        });
        Ok(Self {
            thread,
            failed,
            failure,
            stats,
            written: follow_written,
            writes_left,
        })
    }

    /// Ends the store of this process for a reason that is not the disk's.
    pub(crate) fn poison(&self, cause: &str) {
        poison(&self.failed, cause);
    }

    /// Hands an operation over; waits only for a place in the queue.
    pub(crate) async fn send(&self, op: Op) -> io::Result<()> {
        let closed = || io::Error::other("the store has been closed");
        let queue = self.thread.queue.as_ref().ok_or_else(closed)?;
        queue.send(op).await.map_err(|_| closed())
    }

    /// As [`Self::send`], outside of a runtime's tasks.
    pub(crate) fn blocking_send(&self, op: Op) -> io::Result<()> {
        let closed = || io::Error::other("the store has been closed");
        if self.failure.borrow().is_some() {
            return Err(io::Error::other("the store has failed"));
        }
        let queue = self.thread.queue.as_ref().ok_or_else(closed)?;
        queue.blocking_send(op).map_err(|_| closed())
    }

    /// Hands an operation over and waits until it is durable.
    pub(crate) async fn durable(&self, op: impl FnOnce(Done) -> Op) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        self.send(op(done)).await?;
        answer
            .await
            .map_err(|_| io::Error::other("the store has been closed"))?
    }
}

/// Ends the store of this process from outside of it; does not keep it open.
#[derive(Debug, Clone)]
pub struct Poisoner(Weak<watch::Sender<Option<Arc<str>>>>);

impl Poisoner {
    pub fn poison(&self, cause: &str) {
        if let Some(failed) = self.0.upgrade() {
            poison(&failed, cause);
        }
    }
}

impl IoHandle {
    pub(crate) fn poisoner(&self) -> Poisoner {
        Poisoner(Arc::downgrade(&self.failed))
    }
}

/// The first cause stays: what fails after it fails because of it.
fn poison(failed: &watch::Sender<Option<Arc<str>>>, cause: &str) {
    failed.send_if_modified(|known| {
        let is_first = known.is_none();
        if is_first {
            *known = Some(cause.into());
        }
        is_first
    });
}

struct Writer {
    db: Arc<DB>,
    high_water: HighWater,
    failed: Arc<watch::Sender<Option<Arc<str>>>>,
    stats: Arc<Mutex<IoStats>>,
    written: watch::Sender<LogIndex>,
    /// Of the state that is read.
    generation: u64,
    /// See [`IoHandle::writes_left`].
    writes_left: Arc<AtomicI64>,
}

enum Answer {
    Callback(IOFlushed<TypeConfig>),
    Done(Done),
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Op>) {
        while let Some(first) = queue.blocking_recv() {
            let mut ops = vec![first];
            while ops.len() < MAX_MERGED {
                match queue.try_recv() {
                    Ok(op) => ops.push(op),
                    Err(_) => break,
                }
            }
            self.execute(ops);
        }
    }

    /// One batch, one write, then every answer in the order of the operations.
    fn execute(&mut self, ops: Vec<Op>) {
        let mut batch = WriteBatch::default();
        let mut answers = Vec::new();
        let mut sync = false;
        let mut n_entries = 0;
        let marks = Marks::of(self.high_water.mark(), &ops);
        let stands_at = ops.iter().filter_map(Op::stands_at).max();
        for op in ops {
            n_entries += match &op {
                Op::Append { entries, .. } => entries.len() as u64,
                _ => 0,
            };
            if let Some(answer) = self.stage(op, &mut batch) {
                sync = true;
                answers.push(answer);
            }
        }
        if planted(Bug::AckBeforeSync) {
            std::thread::sleep(UNSYNCED_FOR);
        }
        let result = self.write(batch, sync, n_entries, &marks);
        if let (Ok(()), Some(at)) = (&result, stands_at) {
            self.written.send_replace(at);
        }
        for answer in answers {
            let result = result
                .as_ref()
                .copied()
                .map_err(|text| io::Error::other(text.clone()));
            match answer {
                Answer::Callback(callback) => callback.io_completed(result),
                // Nobody waits any more: nothing to tell.
                Answer::Done(done) => drop(done.send(result)),
            }
        }
    }

    /// Puts one operation into the batch; returns who must hear of its durability.
    fn stage(&mut self, op: Op, batch: &mut WriteBatch) -> Option<Answer> {
        let db = self.db.clone();
        let cf = |name| db.cf_handle(name).expect("opened with all column families");
        match op {
            Op::Append { entries, callback } => {
                for (index, bytes) in entries {
                    batch.put_cf(cf(keys::LOG), keys::log_key(index), bytes);
                }
                Some(Answer::Callback(callback))
            }
            Op::Vote { bytes, done, .. } => {
                batch.put_cf(cf(keys::META), keys::VOTE, bytes);
                Some(Answer::Done(done))
            }
            Op::Truncate { from, to, done } => {
                for index in from..=to {
                    batch.delete_cf(cf(keys::LOG), keys::log_key(index));
                }
                Some(Answer::Done(done))
            }
            Op::Committed { bytes } => {
                batch.put_cf(cf(keys::META), keys::COMMITTED, bytes);
                None
            }
            Op::Purge { upto, bytes } => {
                let end = keys::log_key(upto + 1);
                batch.delete_range_cf(cf(keys::LOG), keys::log_key(0), end);
                batch.put_cf(cf(keys::META), keys::PURGED, bytes);
                None
            }
            Op::State {
                rows,
                changes,
                trim,
                applied,
                at: _,
            } => {
                for (key, value) in changes {
                    batch.put_cf(cf(keys::CHANGES), key, value);
                }
                if let Some(floor) = trim {
                    let end = changes::key_after(floor);
                    batch.delete_range_cf(cf(keys::CHANGES), vec![0], end);
                    let floor = floor.0.to_be_bytes();
                    batch.put_cf(cf(keys::STATE_META), keys::CHANGES_AFTER, floor);
                }
                let state = cf(keys::state_family(self.generation));
                for row in rows {
                    match row.value {
                        Some(value) => batch.put_cf(state, row.key, value),
                        None => batch.delete_cf(state, row.key),
                    }
                }
                batch.put_cf(cf(keys::STATE_META), keys::APPLIED, applied);
                None
            }
            Op::Clear { generation } => {
                let family = cf(keys::state_family(generation));
                batch.delete_range_cf(family, [0].as_slice(), [0xff].as_slice());
                None
            }
            Op::Load {
                generation,
                rows,
                changes,
            } => {
                for (key, value) in rows {
                    batch.put_cf(cf(keys::state_family(generation)), key, value);
                }
                for (key, value) in changes {
                    batch.put_cf(cf(keys::CHANGES), key, value);
                }
                None
            }
            Op::Flip {
                generation,
                changes_after,
                applied,
                at: _,
                done,
            } => {
                let meta = cf(keys::STATE_META);
                let end = changes::key_after(changes_after);
                batch.delete_range_cf(cf(keys::CHANGES), vec![0], end);
                batch.put_cf(meta, keys::CHANGES_AFTER, changes_after.0.to_be_bytes());
                batch.put_cf(meta, keys::GENERATION, generation.to_be_bytes());
                batch.put_cf(meta, keys::APPLIED, applied);
                self.generation = generation;
                Some(Answer::Done(done))
            }
            Op::Identity { bytes, done } => {
                batch.put_cf(cf(keys::META), keys::IDENTITY, bytes);
                Some(Answer::Done(done))
            }
        }
    }

    /// No retry after a failure: the next fsync could succeed with the data gone.
    fn write(
        &mut self,
        batch: WriteBatch,
        sync: bool,
        n_entries: u64,
        marks: &Marks,
    ) -> Result<(), String> {
        if let Some(cause) = self.failed.borrow().as_ref() {
            return Err(format!("store failed earlier: {cause}"));
        }
        if self.writes_left.fetch_sub(1, Ordering::Relaxed) <= 0 {
            poison(&self.failed, KILL_POINT);
            return Err(KILL_POINT.into());
        }
        let started = Instant::now();
        let result = self.write_both(batch, sync, marks);
        if let Err(cause) = &result {
            poison(&self.failed, cause);
        } else if sync {
            let mut stats = self.stats.lock();
            stats.n_fsyncs += 1;
            stats.n_entries += n_entries;
            if stats.fsyncs.len() == MAX_SAMPLES {
                stats.fsyncs.drain(..MAX_SAMPLES / 2);
            }
            stats.fsyncs.push(started.elapsed());
        }
        result
    }

    /// The mark falls before its tail goes, and rises after the log is durable.
    fn write_both(&mut self, batch: WriteBatch, sync: bool, marks: &Marks) -> Result<(), String> {
        let of_mark = |error: io::Error| format!("high-water: {error}");
        if marks.lowest != self.high_water.mark() {
            self.high_water.lower(marks.lowest).map_err(of_mark)?;
        }
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        if sync && fails(Point::BeforeSync) {
            return Err("failpoint: input/output error".to_owned());
        }
        self.db
            .write_opt(batch, &options)
            .map_err(|error| error.to_string())?;
        hit_if(Point::AfterSync, || sync);
        if marks.after != self.high_water.mark() {
            self.high_water.write(marks.after).map_err(of_mark)?;
            hit(Point::AfterMark);
        }
        Ok(())
    }
}

/// Where the high-water mark goes with one batch.
#[derive(Debug, PartialEq, Eq)]
struct Marks {
    /// What stays true whether the batch is written or not.
    lowest: Mark,
    after: Mark,
}

impl Marks {
    fn of(before: Mark, ops: &[Op]) -> Self {
        let (mut lowest, mut after) = (before, before);
        for op in ops {
            match op {
                Op::Append { entries, .. } => {
                    after.last = entries.last().map(|(index, _)| *index).or(after.last);
                }
                Op::Truncate { from, .. } => {
                    let kept = from.checked_sub(1);
                    after.last = after.last.min(kept);
                    lowest.last = lowest.last.min(kept);
                }
                Op::Vote { vote, .. } => after.vote = Some(*vote),
                Op::Committed { .. }
                | Op::Purge { .. }
                | Op::State { .. }
                | Op::Clear { .. }
                | Op::Load { .. }
                | Op::Flip { .. }
                | Op::Identity { .. } => {}
            }
        }
        Self { lowest, after }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(indexes: std::ops::RangeInclusive<u64>) -> Op {
        Op::Append {
            entries: indexes.map(|index| (index, Vec::new())).collect(),
            callback: IOFlushed::noop(),
        }
    }

    fn truncate(from: u64) -> Op {
        let (done, _) = oneshot::channel();
        Op::Truncate { from, to: 99, done }
    }

    fn last(last: impl Into<Option<u64>>) -> Mark {
        Mark {
            vote: None,
            last: last.into(),
        }
    }

    #[test]
    fn the_mark_rises_with_what_is_appended() {
        let marks = Marks::of(last(4), &[append(5..=7), append(8..=8)]);
        assert_eq!((marks.lowest, marks.after), (last(4), last(8)));
    }

    #[test]
    fn the_mark_falls_first_when_a_tail_is_discarded() {
        let marks = Marks::of(last(9), &[truncate(6), append(6..=7)]);
        assert_eq!((marks.lowest, marks.after), (last(5), last(7)));
        let all = Marks::of(last(9), &[truncate(0)]);
        assert_eq!((all.lowest, all.after), (last(None), last(None)));
        let above = Marks::of(last(4), &[append(5..=9), truncate(7)]);
        assert_eq!((above.lowest, above.after), (last(4), last(6)));
    }
}
