//! Everything that can happen, and the heap that says when.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use nihilo_entity::EntityKey;
use nihilo_entity::event::ProposalOutcome;
use nihilo_machine::Reply;
use nihilo_types::endpoint::EndpointTable;
use nihilo_types::id::{Epoch, InstanceId, LogIndex, ObjectKey, SessionId, ShardId};
use nihilo_types::instance::InstanceReport;

use super::actors::What;
use super::agent::Step;
use super::calls::{CallAnswer, WireCall};
use super::faults::Fault;
use super::follow::StatReport;
use super::gateway::{Demand, Mesh, MeshAnswer};

/// One life of one node: what is meant for an earlier life is never delivered.
pub(crate) type Address = (usize, u32);

#[derive(Debug)]
pub(crate) enum Event {
    // The world's own.
    RaftTick,
    Elect {
        term: u64,
    },
    Commit {
        proposal: u64,
        term: u64,
    },
    NextFault,
    EndFault(Fault),
    Restart {
        node: usize,
    },
    QuickRestart {
        node: usize,
    },
    NextArrivals {
        service: usize,
    },
    NextWrite,
    RetryWrite {
        number: usize,
    },
    Inspect,

    // The log, at one node.
    TryPropose {
        proposal: u64,
    },
    LeaderTake {
        proposal: u64,
    },
    Answered {
        proposal: u64,
        reply: Box<Reply>,
    },
    ProposalDeadline {
        proposal: u64,
    },
    Apply {
        upto: u64,
    },

    // Session, liveness and shards (control).
    Advance,
    SessionChanged,
    Sweep,
    LeaveLook,
    KeepAliveDue {
        round: u64,
    },
    KeepAlive {
        from: Address,
        round: u64,
        session: SessionId,
        table: LogIndex,
    },
    KeepAliveAnswered {
        round: u64,
        answer: KeepAliveAnswer,
    },
    KeepAliveTimeout {
        round: u64,
    },
    Roll,
    ReconcileGrace {
        gained: Vec<(ShardId, Epoch)>,
    },

    // Actors.
    Turn {
        shard: ShardId,
        epoch: Epoch,
        key: EntityKey,
    },
    Timer {
        shard: ShardId,
        epoch: Epoch,
        key: EntityKey,
        name: &'static str,
        id: u64,
    },
    Idle {
        shard: ShardId,
        epoch: Epoch,
        key: EntityKey,
        activity: u64,
    },
    Order {
        shard: ShardId,
        epoch: Epoch,
        key: EntityKey,
        what: What,
    },
    Proposed {
        shard: ShardId,
        epoch: Epoch,
        key: EntityKey,
        outcome: ProposalOutcome,
    },
    Reload {
        shard: ShardId,
        epoch: Epoch,
        key: EntityKey,
    },
    WriteScales,

    // Owner and agent.
    CallArrives(Box<WireCall>),
    CallAnswered {
        call: u64,
        answer: CallAnswer,
    },
    CallTimeout {
        call: u64,
    },
    ListAgain {
        session: SessionId,
    },
    SubscribeAgent {
        session: SessionId,
    },
    AgentSubscribed {
        session: SessionId,
        from: Address,
    },
    AgentConnected {
        session: SessionId,
    },
    AgentReport {
        session: SessionId,
        report: Option<Box<InstanceReport>>,
    },
    AgentStreamBroke {
        session: SessionId,
    },
    Instance {
        id: InstanceId,
        step: Step,
    },

    // Gateway.
    SubscribeOwner {
        session: SessionId,
    },
    OwnerSubscribed {
        session: SessionId,
        from: Address,
    },
    Endpoints {
        session: SessionId,
        table: Box<EndpointTable>,
    },
    OwnerStreamBroke {
        session: SessionId,
    },
    DemandTick,
    Demand(Demand),
    Report,
    Statistics(StatReport),
    Arrives {
        request: usize,
    },
    Woken {
        request: usize,
    },
    Mesh(Mesh),
    MeshAnswered {
        request: usize,
        attempt: u32,
        answer: MeshAnswer,
    },
    PlaceExpires {
        instance: InstanceId,
        place: u64,
    },
    Abort {
        request: usize,
        attempt: u32,
        instance: InstanceId,
    },
    RequestDone {
        request: usize,
        attempt: u32,
        instance: InstanceId,
    },
    RequestDeadline {
        request: usize,
    },
    PauseOver {
        revision: ObjectKey,
    },
}

/// `control::ports::KeepAliveAnswer`, without the names for status.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeepAliveAnswer {
    pub(crate) leader_applied: LogIndex,
    pub(crate) min_table: LogIndex,
    pub(crate) session_open: bool,
}

#[derive(Debug)]
pub(crate) struct Scheduled {
    pub(crate) at_us: u64,
    seq: u64,
    /// `None` = the world itself.
    pub(crate) to: Option<Address>,
    pub(crate) event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    /// Reversed: the heap's greatest is the earliest, ties in the order of scheduling.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at_us, other.seq).cmp(&(self.at_us, self.seq))
    }
}

#[derive(Debug, Default)]
pub(crate) struct Agenda {
    heap: BinaryHeap<Scheduled>,
    next_seq: u64,
}

impl Agenda {
    pub(crate) fn add(&mut self, at_us: u64, to: Option<Address>, event: Event) {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.heap.push(Scheduled {
            at_us,
            seq,
            to,
            event,
        });
    }

    pub(crate) fn next(&mut self) -> Option<Scheduled> {
        self.heap.pop()
    }
}
