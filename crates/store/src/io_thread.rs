//! `raft-io`: the only writer of the database. Group commit: while one fsync runs, the next batch
//! collects; there is no linger.

use std::io;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use nihilo_failpoint::{Bug, Point, fails, hit, hit_if, planted};
use nihilo_host::Threads;
use nihilo_machine::RowChange;
use nihilo_types::id::LogIndex;
use openraft::storage::IOFlushed;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::error;

use crate::changes::{self, ChangeRow};
use crate::disk::{Batch, Change, Disk, Mark};
use crate::keys;
use crate::type_config::{TypeConfig, Vote};

/// Operations that may wait for the thread; the next one waits for a place.
pub(crate) const QUEUE: usize = 4_096;
/// Operations merged into one batch, at most.
const MAX_MERGED: usize = 1_024;
/// Bytes of a batch, at most and but for its last operation: a vote or an entry waits for one that is
/// being written, also while a state is installed.
const MAX_MERGED_BYTES: usize = 1024 * 1024;
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
    /// Rides on the next batch and causes none: after a restart the leader tells it again.
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
        /// Dropped when they are taken out of the queue.
        taken: oneshot::Sender<()>,
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
    /// About what it adds to a batch, where that can be much.
    fn n_bytes(&self) -> usize {
        let of_rows = |rows: &[ChangeRow]| -> usize {
            let bytes = rows.iter().map(|(key, value)| key.len() + value.len());
            bytes.sum()
        };
        match self {
            Op::Append { entries, .. } => entries.iter().map(|(_, bytes)| bytes.len()).sum(),
            Op::State { rows, changes, .. } => {
                let values = rows.iter().filter_map(|row| row.value.as_ref());
                values.map(Vec::len).sum::<usize>() + of_rows(changes)
            }
            Op::Load { rows, changes, .. } => of_rows(rows) + of_rows(changes),
            Op::Vote { .. }
            | Op::Truncate { .. }
            | Op::Committed { .. }
            | Op::Purge { .. }
            | Op::Clear { .. }
            | Op::Flip { .. }
            | Op::Identity { .. } => 0,
        }
    }

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
    pub(crate) threads: Threads,
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
/// while it still writes would tear RocksDB down under its feet. Without a thread of its own it is
/// a task that ends by itself.
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
        disk: Box<dyn Disk>,
        threads: Threads,
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
            disk,
            failed: failed.clone(),
            stats: stats.clone(),
            written,
            generation,
            committed: None,
            writes_left: writes_left.clone(),
        };
        let thread = match threads {
            Threads::Own => Some(own_thread(writer, receiver)?),
            Threads::Callers => {
                tokio::spawn(writer.run(receiver));
                None
            }
        };
        let thread = Arc::new(IoThread {
            queue: Some(queue),
            thread,
        });
        Ok(Self {
            threads,
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

    /// As [`Self::send`], for work that [`Threads::aside`] runs; first waits until the load `before`
    /// this one was taken, so that a vote never stands behind more than one of them in the queue.
    /// Where that work is a task it cannot wait, and a full queue is an error: nothing else runs that
    /// could empty it.
    pub(crate) fn send_aside(
        &self,
        op: Op,
        before: Option<oneshot::Receiver<()>>,
    ) -> io::Result<()> {
        let closed = || io::Error::other("the store has been closed");
        if self.failure.borrow().is_some() {
            return Err(io::Error::other("the store has failed"));
        }
        let queue = self.thread.queue.as_ref().ok_or_else(closed)?;
        match self.threads {
            Threads::Own => {
                if let Some(before) = before {
                    // Nothing is ever sent: the other end is dropped.
                    let _is_taken = before.blocking_recv();
                }
                queue.blocking_send(op).map_err(|_| closed())
            }
            Threads::Callers => queue.try_send(op).map_err(io::Error::other),
        }
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

fn own_thread(
    writer: Writer,
    queue: mpsc::Receiver<Op>,
) -> io::Result<std::thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    std::thread::Builder::new()
        .name("raft-io".into())
        .spawn(move || runtime.block_on(writer.run(queue)))
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
    disk: Box<dyn Disk>,
    failed: Arc<watch::Sender<Option<Arc<str>>>>,
    stats: Arc<Mutex<IoStats>>,
    written: watch::Sender<LogIndex>,
    /// Of the state that is read.
    generation: u64,
    /// Waits for a batch to ride on.
    committed: Option<Vec<u8>>,
    /// See [`IoHandle::writes_left`].
    writes_left: Arc<AtomicI64>,
}

enum Answer {
    Callback(IOFlushed<TypeConfig>),
    Done(Done),
}

impl Writer {
    async fn run(mut self, mut queue: mpsc::Receiver<Op>) {
        while let Some(first) = queue.recv().await {
            if let Op::Committed { bytes } = first {
                self.committed = Some(bytes);
                continue;
            }
            let mut n_bytes = first.n_bytes();
            let mut ops = vec![first];
            while ops.len() < MAX_MERGED && n_bytes < MAX_MERGED_BYTES {
                let Ok(op) = queue.try_recv() else { break };
                n_bytes += op.n_bytes();
                ops.push(op);
            }
            self.execute(ops).await;
        }
    }

    /// One batch, one write, then every answer in the order of the operations.
    async fn execute(&mut self, ops: Vec<Op>) {
        let mut batch = Batch::new();
        let mut answers = Vec::new();
        let mut sync = false;
        let mut n_entries = 0;
        let marks = Marks::of(self.disk.mark(), &ops);
        if let Some(bytes) = self.committed.take() {
            batch.push(put(keys::META, keys::COMMITTED, bytes));
        }
        let stands_at = ops.iter().filter_map(Op::stands_at).max();
        for op in ops {
            n_entries += match &op {
                Op::Append { entries, .. } => entries.len() as u64,
                _ => 0,
            };
            if let Some(answer) = stage(op, &mut self.generation, &mut batch) {
                sync = true;
                answers.push(answer);
            }
        }
        if planted(Bug::AckBeforeSync) {
            std::thread::sleep(UNSYNCED_FOR);
        }
        let result = self.write(batch, sync, n_entries, &marks).await;
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

    /// No retry after a failure: the next fsync could succeed with the data gone.
    async fn write(
        &mut self,
        batch: Batch,
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
        let result = self.write_both(batch, sync, marks).await;
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
    async fn write_both(&mut self, batch: Batch, sync: bool, marks: &Marks) -> Result<(), String> {
        let of_mark = |error: io::Error| format!("high-water: {error}");
        if marks.lowest != self.disk.mark() {
            self.disk.lower_mark(marks.lowest).map_err(of_mark)?;
        }
        if sync && fails(Point::BeforeSync) {
            return Err("failpoint: input/output error".to_owned());
        }
        self.disk.write(batch, sync).await?;
        hit_if(Point::AfterSync, || sync);
        if marks.after != self.disk.mark() {
            self.disk.raise_mark(marks.after).map_err(of_mark)?;
            hit(Point::AfterMark);
        }
        Ok(())
    }
}

/// Puts one operation into the batch; returns who must hear of its durability. `generation` is that
/// of the state that is read.
fn stage(op: Op, generation: &mut u64, batch: &mut Batch) -> Option<Answer> {
    match op {
        Op::Append { entries, callback } => {
            for (index, bytes) in entries {
                batch.push(put(keys::LOG, &keys::log_key(index), bytes));
            }
            Some(Answer::Callback(callback))
        }
        Op::Vote { bytes, done, .. } => {
            batch.push(put(keys::META, keys::VOTE, bytes));
            Some(Answer::Done(done))
        }
        Op::Truncate { from, to, done } => {
            batch.extend((from..=to).map(|index| Change::Delete {
                family: keys::LOG,
                key: keys::log_key(index).to_vec(),
            }));
            Some(Answer::Done(done))
        }
        Op::Committed { bytes } => {
            batch.push(put(keys::META, keys::COMMITTED, bytes));
            None
        }
        Op::Purge { upto, bytes } => {
            batch.push(Change::DeleteRange {
                family: keys::LOG,
                from: keys::log_key(0).to_vec(),
                to: keys::log_key(upto + 1).to_vec(),
            });
            batch.push(put(keys::META, keys::PURGED, bytes));
            None
        }
        Op::State {
            rows,
            changes,
            trim,
            applied,
            at: _,
        } => {
            batch.extend(put_all(keys::CHANGES, changes));
            batch.extend(trim.into_iter().flat_map(drop_changes));
            let family = keys::state_family(*generation);
            batch.extend(rows.into_iter().map(|row| row_change(family, row)));
            batch.push(put(keys::STATE_META, keys::APPLIED, applied));
            None
        }
        Op::Clear { generation } => {
            batch.push(Change::DeleteRange {
                family: keys::state_family(generation),
                from: vec![0],
                to: vec![0xff],
            });
            None
        }
        Op::Load {
            generation,
            rows,
            changes,
            taken,
        } => {
            drop(taken);
            batch.extend(put_all(keys::state_family(generation), rows));
            batch.extend(put_all(keys::CHANGES, changes));
            None
        }
        Op::Flip {
            generation: next,
            changes_after,
            applied,
            at: _,
            done,
        } => {
            batch.extend(drop_changes(changes_after));
            let number = next.to_be_bytes().to_vec();
            batch.push(put(keys::STATE_META, keys::GENERATION, number));
            batch.push(put(keys::STATE_META, keys::APPLIED, applied));
            *generation = next;
            Some(Answer::Done(done))
        }
        Op::Identity { bytes, done } => {
            batch.push(put(keys::META, keys::IDENTITY, bytes));
            Some(Answer::Done(done))
        }
    }
}

fn put(family: &'static str, key: &[u8], value: Vec<u8>) -> Change {
    let key = key.to_vec();
    Change::Put { family, key, value }
}

fn put_all(family: &'static str, rows: Vec<ChangeRow>) -> impl Iterator<Item = Change> {
    let put = move |(key, value)| Change::Put { family, key, value };
    rows.into_iter().map(put)
}

fn row_change(family: &'static str, row: RowChange) -> Change {
    let key = row.key;
    match row.value {
        Some(value) => Change::Put { family, key, value },
        None => Change::Delete { family, key },
    }
}

/// Changes up to `floor` go, and it is written that they are complete only after it.
fn drop_changes(floor: LogIndex) -> [Change; 2] {
    let after = floor.0.to_be_bytes().to_vec();
    [
        Change::DeleteRange {
            family: keys::CHANGES,
            from: vec![0],
            to: changes::key_after(floor),
        },
        put(keys::STATE_META, keys::CHANGES_AFTER, after),
    ]
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
