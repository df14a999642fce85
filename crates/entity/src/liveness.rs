//! Who is live: decided by the leader alone, from keep-alives (02-store §13, 03-actors §3).
//!
//! [`Roll`] is pure: it is told what was heard and when, and answers what to propose.

use std::collections::BTreeMap;

use nihilo_machine::command::{DownCause, NodeDown, Reassign};
use nihilo_machine::ownership::{moves_away_from, next_moves};
use nihilo_machine::{Command, State};
use nihilo_types::id::{LogIndex, SessionId};

/// Pause between two `Reassign` entries that only rebalance towards a joiner.
pub const REBALANCE_PAUSE_MS: u64 = 100;
/// Silence after which the leader dials a node to see whether anybody is there.
pub const SUSPECT_AFTER_MS: u64 = 250;
/// Least time between a node's own verdict about itself and the leader's about it.
const MIN_DEAD_MARGIN_MS: u64 = 300;

/// Milliseconds of silence after which a leader declares a session down (03-actors §3): what the node
/// gives itself, `t_self_ms`, and a margin by the leader's own election timeout.
pub fn t_dead_ms(t_self_ms: u32, election_timeout_max_ms: u64) -> u64 {
    u64::from(t_self_ms) + election_timeout_max_ms.max(MIN_DEAD_MARGIN_MS)
}

/// What one leader has heard in one term.
#[derive(Debug, Default)]
pub struct Roll {
    term: u64,
    /// Clocks start here: nothing said to an earlier leader counts against anybody.
    since_ms: u64,
    election_timeout_max_ms: u64,
    seen: BTreeMap<SessionId, Seen>,
    last_rebalance_ms: u64,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    at_ms: u64,
    table: LogIndex,
    refused: bool,
}

impl Roll {
    /// Begins a term; everybody gets a full T_dead plus one election timeout from now.
    pub fn begin(term: u64, now_ms: u64, election_timeout_max_ms: u64) -> Self {
        Self {
            term,
            since_ms: now_ms + election_timeout_max_ms,
            election_timeout_max_ms,
            ..Self::default()
        }
    }

    pub fn term(&self) -> u64 {
        self.term
    }

    /// Takes a keep-alive in: the sender's session, and the route table its gateway serves.
    pub fn heard(&mut self, session: SessionId, table: LogIndex, now_ms: u64) {
        if session == SessionId(0) {
            return;
        }
        let seen = Seen {
            at_ms: now_ms,
            table,
            refused: false,
        };
        self.seen.insert(session, seen);
    }

    /// The node's port refused connections: nobody is there.
    pub fn refused(&mut self, session: SessionId, now_ms: u64) {
        let silent_since = self.last_heard(session).min(now_ms);
        let seen = self.seen.entry(session).or_insert(Seen {
            at_ms: silent_since,
            table: LogIndex(0),
            refused: true,
        });
        seen.refused = true;
    }

    fn last_heard(&self, session: SessionId) -> u64 {
        self.seen
            .get(&session)
            .map_or(self.since_ms, |seen| seen.at_ms.max(self.since_ms))
    }

    /// Open sessions that have been silent long enough to be dialled.
    pub fn suspects(&self, state: &State, myself: SessionId, now_ms: u64) -> Vec<SessionId> {
        let heard = |id| self.seen.get(&id).map_or(0, |seen| seen.at_ms);
        state
            .sessions()
            .map(|session| session.id)
            .filter(|id| *id != myself && heard(*id) + SUSPECT_AFTER_MS <= now_ms)
            .collect()
    }

    /// Returns the next entry this leader should propose, if any: a dead node first, then unowned
    /// shards, then a bounded step towards the preferred placement.
    pub fn decide(&mut self, state: &State, myself: SessionId, now_ms: u64) -> Option<Command> {
        for session in state.sessions().filter(|session| session.id != myself) {
            // A session is silent from when this leader first saw it, not from the term's start.
            let unheard = Seen {
                at_ms: now_ms,
                table: LogIndex(0),
                refused: false,
            };
            self.seen.entry(session.id).or_insert(unheard);
            let refused = self.seen.get(&session.id).is_some_and(|seen| seen.refused);
            let t_dead = t_dead_ms(session.opened.t_self_ms, self.election_timeout_max_ms);
            let silent = self.last_heard(session.id) + t_dead <= now_ms;
            if refused || silent {
                let cause = if refused {
                    DownCause::Refused
                } else {
                    DownCause::Silent
                };
                let moves = moves_away_from(state, session.id);
                return Some(Command::NodeDown(NodeDown {
                    session: session.id,
                    cause,
                    moves,
                }));
            }
        }
        let moves = next_moves(state);
        let has_unowned = moves
            .iter()
            .any(|step| state.session(state.owner(step.shard).session).is_none());
        let may_rebalance = self.last_rebalance_ms + REBALANCE_PAUSE_MS <= now_ms;
        if moves.is_empty() || !(has_unowned || may_rebalance) {
            return None;
        }
        self.last_rebalance_ms = now_ms;
        Some(Command::Reassign(Reassign { moves }))
    }

    /// Returns the smallest table index that every live gateway serves, and who holds it back.
    ///
    /// A live gateway is an open session with the role; one not heard in this term counts as 0.
    pub fn min_table(&self, state: &State) -> (LogIndex, Vec<String>) {
        let tables: Vec<_> = state
            .sessions()
            .filter(|session| session.opened.roles.gateway)
            .map(|session| {
                let table = self
                    .seen
                    .get(&session.id)
                    .map_or(LogIndex(0), |seen| seen.table);
                (table, session.opened.name.clone())
            })
            .collect();
        let Some(min) = tables.iter().map(|(table, _)| *table).min() else {
            return (LogIndex(0), Vec::new());
        };
        let max = tables.iter().map(|(table, _)| *table).max().unwrap_or(min);
        let behind = tables
            .into_iter()
            .filter(|(table, _)| *table == min && min < max);
        (min, behind.map(|(_, name)| name).collect())
    }
}
