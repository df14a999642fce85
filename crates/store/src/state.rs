//! The replicated state behind openraft's state machine trait, and the handle everyone reads by.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};

use futures_util::{Stream, TryStreamExt};
use nihilo_failpoint::{Point, hit};
use nihilo_host::Threads;
use nihilo_machine::state::ObjectEvent;
use nihilo_machine::{Applied, RowChange, State};
use nihilo_types::id::LogIndex;
use nihilo_wire::{codec, internal as pb};
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use parking_lot::{Mutex, RwLock};
use prost::Message;
use tokio::sync::{oneshot, watch};
use tracing::error;

use crate::changes::{self, ChangeLog, ChangeRow, Changes, Compacted, Place};
use crate::convert;
use crate::disk::Rows;
use crate::dump::{Family, Reader};
use crate::io_thread::{IoHandle, Op};
use crate::snapshot::{Contents, DumpFile, SnapshotDir};
use crate::type_config::{ApplyReply, Entry, LogId, SnapshotMeta, StoredMembership, TypeConfig};

/// The digest of the state is taken after every entry whose index is a multiple of this, on every
/// node: so they can be compared.
pub const DIGEST_EVERY: u64 = 10_000;
/// Newest digests that are kept.
const MAX_DIGESTS: usize = 4;

/// What a state came to, and the entry that it was the state after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateDigest {
    pub at: u64,
    pub digest: u64,
}

/// Reads of the applied state, from anywhere.
#[derive(Debug, Clone)]
pub struct StateHandle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: RwLock<AppliedState>,
    changes: RwLock<ChangeLog>,
    pages: Pages,
    digests: Mutex<VecDeque<StateDigest>>,
    applied: watch::Sender<LogIndex>,
}

/// The state, and the entry that it is the state after.
#[derive(Debug)]
struct AppliedState {
    state: State,
    at: LogIndex,
    last: Option<LogId>,
}

impl AppliedState {
    fn stand_at(&mut self, log_id: LogId) {
        self.at = LogIndex(log_id.index);
        self.last = Some(log_id);
    }
}

impl StateHandle {
    pub(crate) fn new(state: State, applied: &Position, changes: ChangeLog, pages: Pages) -> Self {
        let index = applied.index();
        Self(Arc::new(Shared {
            state: RwLock::new(AppliedState {
                state,
                at: applied.index(),
                last: applied.last,
            }),
            changes: RwLock::new(changes),
            pages,
            digests: Mutex::default(),
            applied: watch::Sender::new(index),
        }))
    }

    /// Looks at the state under a short read lock. `look` must not block, nor read again.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.0.state.read().state)
    }

    /// The digest of the state, and the entry that it is the state after. Reads everything.
    pub fn digest(&self) -> (LogIndex, u64) {
        let (at, state) = {
            let applied = self.0.state.read();
            (applied.at, applied.state.clone())
        };
        (at, state.digest())
    }

    /// The newest digests that were taken at multiples of [`DIGEST_EVERY`], oldest first.
    pub fn digests(&self) -> Vec<StateDigest> {
        self.0.digests.lock().iter().copied().collect()
    }

    /// Takes the digest of the state as it is now, aside: it reads everything.
    fn take_digest(&self, threads: Threads) {
        let (at, state) = {
            let applied = self.0.state.read();
            (applied.at.0, applied.state.clone())
        };
        let shared = Arc::downgrade(&self.0);
        // Nobody waits for it.
        tokio::spawn(threads.aside(move || {
            let digest = state.digest();
            let Some(shared) = shared.upgrade() else {
                return;
            };
            let mut digests = shared.digests.lock();
            digests.push_back(StateDigest { at, digest });
            if digests.len() > MAX_DIGESTS {
                digests.pop_front();
            }
        }));
    }

    /// The newest applied index; published after the state shows it.
    pub fn applied(&self) -> watch::Receiver<LogIndex> {
        self.0.applied.subscribe()
    }

    /// Every event after `index`, in order, of those that memory holds.
    ///
    /// # Errors
    /// When memory does not hold some of them: they may still be in the database.
    pub fn changes_since(&self, index: LogIndex) -> Result<Vec<ObjectEvent>, Compacted> {
        match self.0.changes.read().find(index)? {
            Place::Memory(events) => Ok(events),
            Place::Database { upto } => Err(Compacted { oldest: upto }),
        }
    }

    /// The events after `index`, in order, out of memory or the database; a page of them where
    /// there are many, and up to where they are all.
    ///
    /// # Errors
    /// When some of them are not kept any more.
    pub async fn changes_after(&self, index: LogIndex) -> Result<Changes, Compacted> {
        // Before the look: what memory shows then is complete up to here.
        let applied = *self.0.applied.borrow();
        let place = self.0.changes.read().find(index)?;
        let upto = match place {
            Place::Memory(events) => {
                let last = events.last().map_or(index, |event| event.index);
                let upto = applied.max(last).max(index);
                return Ok(Changes { events, upto });
            }
            Place::Database { upto } => upto,
        };
        let page = self.0.pages.page(index, upto).await;
        // What was dropped while it was read may be missing from it.
        let floor = self.0.changes.read().floor();
        match page {
            Some(page) if index >= floor => Ok(page),
            _ => Err(Compacted {
                oldest: floor.max(upto),
            }),
        }
    }

    /// Takes the events of applied entries in; returns their rows, and what to drop for them.
    fn remember(&self, events: Vec<ObjectEvent>) -> (Vec<ChangeRow>, Option<LogIndex>) {
        let mut changes = self.0.changes.write();
        (changes.push(events), changes.trim())
    }

    fn replace(&self, state: State, position: &Position, changes: ChangeLog) {
        *self.0.changes.write() = changes;
        *self.0.state.write() = AppliedState {
            state,
            at: position.index(),
            last: position.last,
        };
    }

    /// The state as it is now, and the entry that it is the state after. Cheap: objects are shared.
    pub fn capture(&self) -> (Option<LogId>, State) {
        let applied = self.0.state.read();
        (applied.last, applied.state.clone())
    }
}

/// Reads of the database beside its only writer. It does not keep the database open.
#[derive(Clone)]
pub(crate) struct Pages {
    pub(crate) rows: Weak<dyn Rows + Send + Sync>,
    /// The index that the state in the database stands at.
    pub(crate) written: watch::Receiver<LogIndex>,
    pub(crate) threads: Threads,
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages").finish_non_exhaustive()
    }
}

impl Pages {
    /// One page of changes; `None` when the store is closed or cannot be read.
    async fn page(&self, from: LogIndex, upto: LogIndex) -> Option<Changes> {
        // What memory has let go may still be on its way to the database.
        let mut written = self.written.clone();
        written.wait_for(|at| *at >= upto).await.ok()?;
        let rows = self.rows.clone();
        let read = self.threads.aside(move || {
            let rows = rows.upgrade()?;
            let page = changes::read_page(rows.as_ref(), from, upto);
            page.map_err(|text| error!(text, "change log not read"))
                .ok()
        });
        read.await.ok()?
    }
}

/// openraft's side of the state.
#[derive(Debug)]
pub struct StateMachine {
    pub(crate) handle: StateHandle,
    pub(crate) io: IoHandle,
    pub(crate) position: Position,
    snapshots: Option<SnapshotDir>,
    /// The newest snapshot; shared with whoever makes the next one.
    current: Current,
    /// Of the state's rows in the database.
    generation: u64,
    /// [`DIGEST_EVERY`], but for tests.
    pub digest_every: u64,
    /// Since when the change log is complete stands in the database.
    floor_is_written: bool,
}

/// Where in the log the state stands; stored with the rows that bring it there.
#[derive(Debug, Clone, Default)]
pub(crate) struct Position {
    pub(crate) last: Option<LogId>,
    pub(crate) membership: StoredMembership,
}

impl Position {
    /// Same fields as a snapshot's meta, so the same message.
    pub(crate) fn encode(&self) -> Vec<u8> {
        convert::snapshot_meta_to(&self.meta()).encode_to_vec()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let meta = pb::SnapshotMeta::decode(bytes).map_err(|error| error.to_string())?;
        let meta = convert::snapshot_meta_from(Some(meta)).map_err(|error| error.to_string())?;
        Ok(Self {
            last: meta.last_log_id,
            membership: meta.last_membership,
        })
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.last,
            last_membership: self.membership.clone(),
        }
    }

    pub(crate) fn index(&self) -> LogIndex {
        LogIndex(self.last.map_or(0, |id| id.index))
    }
}

impl StateMachine {
    pub(crate) fn new(
        handle: StateHandle,
        io: IoHandle,
        position: Position,
        generation: u64,
    ) -> Self {
        Self {
            handle,
            io,
            position,
            snapshots: None,
            current: Current::default(),
            generation,
            digest_every: DIGEST_EVERY,
            floor_is_written: false,
        }
    }

    pub(crate) fn with_snapshots(
        mut self,
        dir: SnapshotDir,
        current: Option<(SnapshotMeta, DumpFile)>,
    ) -> Self {
        self.snapshots = Some(dir);
        *self.current.lock() = current;
        self
    }

    /// Whether a node is a voter by the newest configuration that was applied here.
    pub fn votes(&self, node: u64) -> bool {
        let membership = self.position.membership.membership();
        let voters = membership.get_joint_config().last();
        voters.is_some_and(|voters| voters.contains(&node))
    }

    /// Between two applies: what is applied later is not in it.
    fn builder(&self) -> Builder {
        let (changes_after, changes) = self.handle.0.changes.read().for_snapshot();
        Builder {
            contents: Arc::new(Contents {
                meta: self.position.meta(),
                state: self.handle.read(State::clone),
                changes_after,
                changes,
            }),
            dir: self.snapshots.clone(),
            current: self.current.clone(),
            threads: self.io.threads,
        }
    }

    /// Applies one entry in memory; its rows are collected for one batch.
    fn apply_one(
        &mut self,
        entry: Entry,
        rows: &mut Vec<RowChange>,
        events: &mut Vec<ObjectEvent>,
    ) -> io::Result<ApplyReply> {
        let log_id = entry.log_id;
        let reply = match entry.payload {
            EntryPayload::Blank => {
                self.handle.0.state.write().stand_at(log_id);
                ApplyReply(None)
            }
            EntryPayload::Membership(membership) => {
                self.handle.0.state.write().stand_at(log_id);
                self.position.membership = StoredMembership::new(Some(log_id), membership);
                ApplyReply(None)
            }
            EntryPayload::Normal(bytes) => {
                let applied = self.apply_command(log_id, &bytes.0)?;
                rows.extend(applied.rows);
                events.extend(applied.events);
                ApplyReply(Some(applied.reply))
            }
        };
        self.position.last = Some(log_id);
        if log_id.index.is_multiple_of(self.digest_every) {
            self.handle.take_digest(self.io.threads);
        }
        Ok(reply)
    }

    /// An entry that this build cannot apply, and a panic in doing so, stop the store: skipping
    /// would make this replica another one.
    fn apply_command(&self, log_id: LogId, bytes: &[u8]) -> io::Result<Applied> {
        let index = LogIndex(log_id.index);
        let poisoned = |cause: String| {
            error!(cause, "store-failed");
            self.io.poison(&cause);
            io::Error::other(cause)
        };
        let envelope = codec::decode_entry(bytes)
            .map_err(|failure| poisoned(format!("log entry {index} cannot be read: {failure}")))?;
        let mut applied = self.handle.0.state.write();
        let made = catch_unwind(AssertUnwindSafe(|| applied.state.apply(index, &envelope)))
            .map_err(|_| poisoned(format!("applying log entry {index} panicked")))?;
        applied.stand_at(log_id);
        Ok(made)
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = DumpFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.position.last, self.position.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        hit(Point::BeforeApply);
        let (mut rows, mut events, mut replies) = (Vec::new(), Vec::new(), Vec::new());
        while let Some((entry, responder)) = entries.try_next().await? {
            let reply = self.apply_one(entry, &mut rows, &mut events)?;
            if let Some(responder) = responder {
                replies.push((responder, reply));
            }
        }
        let index = self.position.index();
        let (changes, mut trim) = self.handle.remember(events);
        if !self.floor_is_written {
            trim = Some(self.handle.0.changes.read().floor());
            self.floor_is_written = true;
        }
        // Not waited for: the log is durable at a quorum; the FIFO queue keeps rows behind it.
        self.io
            .send(Op::State {
                rows,
                changes,
                trim,
                applied: self.position.encode(),
                at: index,
            })
            .await?;
        hit(Point::AfterApply);
        self.handle.0.applied.send_replace(index);
        for (responder, reply) in replies {
            responder.send(reply);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.builder()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: DumpFile,
    ) -> Result<(), io::Error> {
        hit(Point::SnapshotInstalled);
        let position = Position {
            last: meta.last_log_id,
            membership: meta.last_membership.clone(),
        };
        let (at, applied) = (position.index(), position.encode());
        let generation = self.generation + 1;
        // What an install that did not come to its end has left.
        self.io.send(Op::Clear { generation }).await?;
        let (io, file) = (self.io.clone(), snapshot.clone());
        let loading = self.io.threads.aside(move || load(&file, &io, generation));
        let loaded = loading.await??;
        let changes_after = LogIndex(loaded.changes_after);
        self.io
            .durable(|done| Op::Flip {
                generation,
                changes_after,
                applied,
                at,
                done,
            })
            .await?;
        let before = std::mem::replace(&mut self.generation, generation);
        self.position = position;
        self.floor_is_written = true;
        let changes = ChangeLog::new(at, changes_after, loaded.blocks);
        self.handle.replace(loaded.state, &self.position, changes);
        self.handle.0.applied.send_replace(at);
        self.io.send(Op::Clear { generation: before }).await?;
        take_place(&self.current, meta.clone(), snapshot);
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<openraft::alias::SnapshotOf<TypeConfig, DumpFile>>, io::Error> {
        let current = self.current.lock().clone();
        match current {
            None => Ok(None),
            Some((_, file)) if file.is_damaged() => self.builder().build_snapshot().await.map(Some),
            Some((meta, snapshot)) => Ok(Some(Snapshot { meta, snapshot })),
        }
    }
}

type Current = Arc<Mutex<Option<(SnapshotMeta, DumpFile)>>>;

/// The file of the one before goes with its last reader.
fn take_place(current: &Current, meta: SnapshotMeta, file: DumpFile) {
    if let Some((_, before)) = current.lock().replace((meta, file)) {
        before.replace();
    }
}

/// Bytes of rows that are handed to the writer at once.
const LOAD_BYTES: usize = 1024 * 1024;

/// A state that was read out of a snapshot and handed to the writer.
struct Loaded {
    state: State,
    changes_after: u64,
    blocks: VecDeque<changes::Block>,
}

/// Reads a snapshot frame by frame into a generation that nobody reads yet.
fn load(file: &DumpFile, io: &IoHandle, generation: u64) -> io::Result<Loaded> {
    let mut reader = file.reader().map_err(io::Error::other)?;
    let changes_after = reader.header.changes_after;
    let mut counted = ChangeLog::new(LogIndex(0), LogIndex(0), VecDeque::new());
    let (mut failure, mut before) = (None, None);
    let mut next = || next_frame(&mut reader, io, generation, &mut before);
    let frames = std::iter::from_fn(|| match next() {
        Ok(Some((rows, changes))) => {
            counted.count_rows(&changes);
            Some(rows)
        }
        Ok(None) => None,
        Err(error) => {
            failure = Some(error);
            None
        }
    });
    let state = State::from_rows(frames.flatten());
    match (failure, state) {
        (Some(error), _) => Err(error),
        (None, Err(error)) => Err(io::Error::other(error)),
        (None, Ok(state)) => Ok(Loaded {
            state,
            changes_after,
            blocks: counted.into_blocks(),
        }),
    }
}

type Frames = (Vec<ChangeRow>, Vec<ChangeRow>);

/// Frames of about [`LOAD_BYTES`], on their way to the writer: rows of the state, and changes.
fn next_frame<R: io::Read>(
    reader: &mut Reader<R>,
    io: &IoHandle,
    generation: u64,
    before: &mut Option<oneshot::Receiver<()>>,
) -> io::Result<Option<Frames>> {
    let (mut rows, mut changes, mut n_bytes) = (Vec::new(), Vec::new(), 0);
    let mut is_end = false;
    while n_bytes < LOAD_BYTES {
        let Some(frame) = reader.rows().map_err(io::Error::other)? else {
            is_end = true;
            break;
        };
        for row in frame {
            n_bytes += row.key.len() + row.value.len();
            match row.family {
                Family::State => rows.push((row.key, row.value)),
                Family::Changes => changes.push((row.key, row.value)),
            }
        }
    }
    if is_end && rows.is_empty() && changes.is_empty() {
        return Ok(None);
    }
    let (taken, is_taken) = oneshot::channel();
    let load = Op::Load {
        generation,
        rows: rows.clone(),
        changes: changes.clone(),
        taken,
    };
    io.send_aside(load, before.replace(is_taken))?;
    Ok(Some((rows, changes)))
}

/// One snapshot in the making: a state between two applies, and its position.
#[derive(Debug)]
pub struct Builder {
    contents: Arc<Contents>,
    dir: Option<SnapshotDir>,
    current: Current,
    threads: Threads,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = DumpFile;

    async fn build_snapshot(
        &mut self,
    ) -> Result<openraft::alias::SnapshotOf<TypeConfig, DumpFile>, io::Error> {
        hit(Point::SnapshotBuilt);
        let (contents, dir) = (self.contents.clone(), self.dir.clone());
        let dir = dir.ok_or_else(|| io::Error::other("no place for snapshots"))?;
        let writing = self.threads.aside(move || contents.write(&dir));
        let snapshot = writing.await??;
        let meta = self.contents.meta.clone();
        take_place(&self.current, meta.clone(), snapshot.clone());
        Ok(Snapshot { meta, snapshot })
    }
}
