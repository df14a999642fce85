//! The replicated state behind openraft's state machine trait, and the handle everyone reads by.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use futures_util::{Stream, TryStreamExt};
use nihilo_failpoint::{Point, hit};
use nihilo_machine::state::ObjectEvent;
use nihilo_machine::{Applied, RowChange, State};
use nihilo_types::id::LogIndex;
use nihilo_wire::{codec, internal as pb};
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use parking_lot::RwLock;
use prost::Message;
use tokio::sync::watch;
use tracing::error;

use crate::convert;
use crate::io_thread::{IoHandle, Op};
use crate::snapshot::Dump;
use crate::type_config::{ApplyReply, Entry, LogId, SnapshotMeta, StoredMembership, TypeConfig};

/// Events kept for watches; older ones are compacted.
pub const MAX_EVENTS: usize = 8_192;

/// Reads of the applied state, from anywhere.
#[derive(Debug, Clone)]
pub struct StateHandle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: RwLock<AppliedState>,
    events: RwLock<EventRing>,
    applied: watch::Sender<LogIndex>,
}

/// The state, and the entry that it is the state after.
#[derive(Debug)]
struct AppliedState {
    state: State,
    at: LogIndex,
}

/// The newest events, and the index after which they are complete.
#[derive(Debug, Default)]
struct EventRing {
    events: VecDeque<ObjectEvent>,
    complete_after: LogIndex,
}

/// The version asked for is too old to follow on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("versions up to {oldest} are compacted")]
pub struct Compacted {
    pub oldest: LogIndex,
}

impl StateHandle {
    pub(crate) fn new(state: State, applied: LogIndex) -> Self {
        Self(Arc::new(Shared {
            state: RwLock::new(AppliedState { state, at: applied }),
            events: RwLock::new(EventRing {
                events: VecDeque::new(),
                complete_after: applied,
            }),
            applied: watch::Sender::new(applied),
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

    /// The newest applied index; published after the state shows it.
    pub fn applied(&self) -> watch::Receiver<LogIndex> {
        self.0.applied.subscribe()
    }

    /// Every event after `index`, in order.
    ///
    /// # Errors
    /// When some of them are not kept any more.
    pub fn changes_since(&self, index: LogIndex) -> Result<Vec<ObjectEvent>, Compacted> {
        let ring = self.0.events.read();
        if index < ring.complete_after {
            return Err(Compacted {
                oldest: ring.complete_after,
            });
        }
        let first = ring.events.partition_point(|event| event.index <= index);
        Ok(ring.events.range(first..).cloned().collect())
    }

    fn remember(&self, events: Vec<ObjectEvent>) {
        let mut ring = self.0.events.write();
        ring.events.extend(events);
        while ring.events.len() > MAX_EVENTS {
            let Some(dropped) = ring.events.pop_front() else {
                break;
            };
            // The rest of that index's events go too: all or none of an entry is shown.
            ring.complete_after = dropped.index;
            while ring
                .events
                .front()
                .is_some_and(|event| event.index == dropped.index)
            {
                ring.events.pop_front();
            }
        }
    }

    fn replace(&self, state: State, applied: LogIndex) {
        let mut ring = self.0.events.write();
        *ring = EventRing {
            events: VecDeque::new(),
            complete_after: applied,
        };
        *self.0.state.write() = AppliedState { state, at: applied };
    }
}

/// openraft's side of the state.
#[derive(Debug)]
pub struct StateMachine {
    pub(crate) handle: StateHandle,
    pub(crate) io: IoHandle,
    pub(crate) position: Position,
    pub(crate) snapshot: Option<(SnapshotMeta, Dump)>,
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
    pub(crate) fn new(handle: StateHandle, io: IoHandle, position: Position) -> Self {
        let mut machine = Self {
            handle,
            io,
            position,
            snapshot: None,
        };
        if machine.position.last.is_some() {
            // A restarted leader must be able to serve those that lag behind its purged log.
            let builder = machine.builder();
            machine.snapshot = Some((builder.meta.clone(), builder.dump()));
        }
        machine
    }

    fn builder(&self) -> Builder {
        Builder {
            meta: self.position.meta(),
            state: self.handle.read(State::clone),
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
                self.handle.0.state.write().at = LogIndex(log_id.index);
                ApplyReply(None)
            }
            EntryPayload::Membership(membership) => {
                self.handle.0.state.write().at = LogIndex(log_id.index);
                self.position.membership = StoredMembership::new(Some(log_id), membership);
                ApplyReply(None)
            }
            EntryPayload::Normal(bytes) => {
                let applied = self.apply_command(LogIndex(log_id.index), &bytes.0)?;
                rows.extend(applied.rows);
                events.extend(applied.events);
                ApplyReply(Some(applied.reply))
            }
        };
        self.position.last = Some(log_id);
        Ok(reply)
    }

    /// An entry that this build cannot apply, and a panic in doing so, stop the store: skipping
    /// would make this replica another one.
    fn apply_command(&self, index: LogIndex, bytes: &[u8]) -> io::Result<Applied> {
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
        applied.at = index;
        Ok(made)
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Dump;
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
        // Not waited for: the log is durable at a quorum; the FIFO queue keeps rows behind it.
        self.io
            .send(Op::State {
                rows,
                applied: self.position.encode(),
            })
            .await?;
        hit(Point::AfterApply);
        self.handle.remember(events);
        let index = self.position.index();
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
        snapshot: Dump,
    ) -> Result<(), io::Error> {
        hit(Point::SnapshotInstalled);
        let rows = snapshot.rows().map_err(io::Error::other)?;
        let state = State::from_rows(rows.iter().cloned()).map_err(io::Error::other)?;
        let position = Position {
            last: meta.last_log_id,
            membership: meta.last_membership.clone(),
        };
        let applied = position.encode();
        self.io
            .durable(|done| Op::Install {
                rows,
                applied,
                done,
            })
            .await?;
        self.position = position;
        let index = self.position.index();
        self.handle.replace(state, index);
        self.handle.0.applied.send_replace(index);
        self.snapshot = Some((meta.clone(), snapshot));
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<openraft::alias::SnapshotOf<TypeConfig, Dump>>, io::Error> {
        // Made on demand of what is applied now: the state is durable by itself, so there is
        // always one, and never an old one.
        if self.position.last.is_none() {
            return Ok(None);
        }
        if self
            .snapshot
            .as_ref()
            .is_none_or(|(meta, _)| meta.last_log_id != self.position.last)
        {
            let builder = self.builder();
            self.snapshot = Some((builder.meta.clone(), builder.dump()));
        }
        let current = self.snapshot.clone();
        Ok(current.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// One snapshot in the making: a state between two applies, and its position.
#[derive(Debug)]
pub struct Builder {
    meta: SnapshotMeta,
    state: State,
}

impl Builder {
    fn dump(&self) -> Dump {
        let rows = self.state.rows().into_iter();
        Dump::write(rows.filter_map(|row| Some((row.key, row.value?))))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = Dump;

    async fn build_snapshot(
        &mut self,
    ) -> Result<openraft::alias::SnapshotOf<TypeConfig, Dump>, io::Error> {
        hit(Point::SnapshotBuilt);
        Ok(Snapshot {
            meta: self.meta.clone(),
            snapshot: self.dump(),
        })
    }
}
