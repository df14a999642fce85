//! What can happen to an actor.

use nihilo_types::autoscaler::DataPath;
use nihilo_types::id::{LogIndex, SessionId};

use crate::autoscaler::Handover;

/// One input of a turn. Levels (`Changed`) do not queue; the rest are messages of ≤ 64 bytes.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Something this actor looks at changed: its object, its children, the shard's instances,
    /// statistics, or the shard was just opened. Look at the view again.
    Changed,
    /// A gateway has requests waiting with nothing to serve them (Autoscaler).
    Demand {
        gateway: SessionId,
        n_waiting: u64,
        in_flight: u64,
        oldest_age_ms: u64,
    },
    /// The Autoscaler's decision (Revision).
    Desired {
        n: u32,
        path: DataPath,
        /// The gateway where most requests wait: an instance on its node is a hop nearer.
        near: Option<SessionId>,
    },
    /// The former owner of the shard hands over what it had seen (Autoscaler).
    Windows(Box<Handover>),
    /// A proposal of this actor was answered; the state already shows it if it was applied.
    Proposed { outcome: ProposalOutcome },
    /// A timer of this actor fired.
    Timer { name: &'static str },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProposalOutcome {
    Applied(LogIndex),
    /// Fenced, conflicting or invalid: look again.
    Rejected,
    /// Certainly not in the log: try again later.
    NotApplied,
}

const _: () = assert!(
    std::mem::size_of::<Event>() <= 64,
    "mailbox slots stay small"
);
