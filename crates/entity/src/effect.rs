//! What an actor wants done. A closed enum, executed outside by the shard's owner, fenced by its
//! epoch.

use nihilo_machine::Command;
use nihilo_machine::command::ScaleUpdate;
use nihilo_types::endpoint::EndpointTable;
use nihilo_types::id::{InstanceId, ObjectKey, SessionId};
use nihilo_types::instance::InstanceSpec;

use crate::decision::DecisionRecord;
use crate::event::Event;
use crate::key::EntityKey;

/// The result of a turn: effects in order, then timers.
#[derive(Debug, Default, PartialEq)]
pub struct Outputs {
    pub effects: Vec<Effect>,
    pub timers: Vec<TimerOp>,
}

/// Sets (replacing) or cancels one of the actor's own timers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimerOp {
    pub name: &'static str,
    /// `None` cancels.
    pub after_ms: Option<u64>,
}

#[derive(Debug, PartialEq)]
pub enum Effect {
    /// One proposal in flight per actor: the actor waits for `Event::Proposed`.
    Propose(Box<Command>),
    /// Coalesced by the node: at most one entry per 100 ms, newest per revision; no answer.
    RecordScale(ScaleUpdate),
    /// Start on the node of `session`. The in-doubt row stands before the call leaves.
    Start {
        session: SessionId,
        spec: Box<InstanceSpec>,
    },
    /// Drain, then stop.
    Stop {
        session: SessionId,
        instance: InstanceId,
        reason: StopReason,
    },
    /// Call a drain off.
    Reopen {
        session: SessionId,
        instance: InstanceId,
    },
    /// Drain, then freeze.
    Freeze {
        session: SessionId,
        instance: InstanceId,
    },
    /// Let a frozen one run again.
    Thaw {
        session: SessionId,
        instance: InstanceId,
    },
    /// To all gateways; the executor adds (epoch, seq).
    PushEndpoints(Box<EndpointTable>),
    /// To an actor of the same shard.
    Tell(EntityKey, Event),
    /// For status and `why`: the newest are kept per revision.
    Explain {
        revision: ObjectKey,
        record: Box<DecisionRecord>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    ScaleDown,
    Deleted,
    Surplus,
    Unhealthy,
    /// Its node is drained, and another instance serves in its place.
    Drain,
}

impl StopReason {
    pub fn as_str(self) -> &'static str {
        match self {
            StopReason::ScaleDown => "scale_down",
            StopReason::Deleted => "deleted",
            StopReason::Surplus => "surplus",
            StopReason::Unhealthy => "unhealthy",
            StopReason::Drain => "drain",
        }
    }
}

impl Outputs {
    pub fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    pub fn timer(&mut self, name: &'static str, after_ms: u64) {
        self.timers.push(TimerOp {
            name,
            after_ms: Some(after_ms),
        });
    }

    pub fn cancel(&mut self, name: &'static str) {
        self.timers.push(TimerOp {
            name,
            after_ms: None,
        });
    }
}
