//! What this node knows of its place in the group.

use std::collections::BTreeSet;

use nihilo_store::TypeConfig;
use openraft::{Instant, RaftMetrics, ServerState};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Role {
    Leader,
    #[default]
    Follower,
    Candidate,
    Learner,
    /// The Raft core of this process has ended: the store failed, or the node shuts down.
    Stopped,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Leader => "leader",
            Role::Follower | Role::Candidate => "follower",
            Role::Learner => "learner",
            Role::Stopped => "unreachable",
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RaftStatus {
    pub role: Role,
    pub term: u64,
    pub leader: Option<u64>,
    pub last_log: u64,
    pub applied: u64,
    pub voters: BTreeSet<u64>,
    pub learners: BTreeSet<u64>,
    /// Leader only: milliseconds since a quorum answered; `None` = not yet.
    pub quorum_ack_age_ms: Option<u64>,
}

impl RaftStatus {
    pub(crate) fn of(metrics: &RaftMetrics<TypeConfig>) -> Self {
        let role = match metrics.state {
            _ if metrics.running_state.is_err() => Role::Stopped,
            ServerState::Leader => Role::Leader,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Learner => Role::Learner,
            ServerState::Shutdown => Role::Stopped,
        };
        // What a stopped core last knew of leadership is no knowledge any more.
        let leads_or_follows = role != Role::Stopped;
        Self {
            role,
            term: metrics.current_term,
            leader: metrics.current_leader.filter(|_| leads_or_follows),
            last_log: metrics.last_log_index.unwrap_or(0),
            applied: metrics.last_applied.map_or(0, |id| id.index),
            voters: metrics.membership_config.voter_ids().collect(),
            learners: metrics
                .membership_config
                .membership()
                .learner_ids()
                .collect(),
            quorum_ack_age_ms: metrics
                .last_quorum_acked
                .map(|at| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX)),
        }
    }
}
