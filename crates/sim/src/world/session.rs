//! A node's session, its keep-alives, and the roll while it leads. Mirrors `control/session.rs`,
//! `control/proposals.rs` and `control/scale_log.rs`; every decision is `entity`'s or `machine`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nihilo_entity::EntityKey;
use nihilo_entity::event::ProposalOutcome;
use nihilo_entity::liveness::Roll;
use nihilo_entity::reconcile;
use nihilo_machine::Command;
use nihilo_machine::command::{OpenSession, RecordScale, RequestKey, Roles, ScaleUpdate};
use nihilo_machine::state::Session;
use nihilo_types::endpoint::EndpointTable;
use nihilo_types::id::{Epoch, LogIndex, NodeId, ObjectKey, SessionId, ShardId};
use nihilo_types::route_table::RouteTable;

use super::World;
use super::actors::OpenShard;
use super::calls::AgentQueue;
use super::event::{Address, Event, KeepAliveAnswer};
use super::plan::{MS, SECOND};
use super::plant::Plant;
use super::raft::{Answer, opened_session};

const KEEP_ALIVE_PERIOD_US: u64 = 100 * MS;
const KEEP_ALIVE_LIMIT_US: u64 = 3 * KEEP_ALIVE_PERIOD_US;
/// The real leader looks every 20 ms; a coarser grain makes verdicts at most 80 ms later and the
/// world much faster.
const ROLL_PERIOD_US: u64 = 100 * MS;
const OPEN_LIMIT_US: u64 = 5 * SECOND;
const DECISION_LIMIT_US: u64 = 2 * SECOND;
const OPEN_BACKOFF_MIN_MS: u64 = 100;
const OPEN_BACKOFF_MAX_MS: u64 = 5_000;
const STALE_START_AFTER_MS: u64 = 3_000;
const SCALE_PERIOD_US: u64 = 100 * MS;
const SCALE_LIMIT_US: u64 = 2 * SECOND;
const MAX_SCALES_PER_ENTRY: usize = 256;

/// Who proposed, and so who is told.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    Actor {
        shard: ShardId,
        epoch: Epoch,
        key: EntityKey,
    },
    Scales(Vec<ScaleUpdate>),
    Session,
    /// The end of this node's session.
    Leave,
    Roll,
    /// An admin's write, by number.
    Write(usize),
    /// It was given up.
    Nobody,
}

/// The soft state of one process's control part (`control/node.rs`, `Shared` and `Progress`).
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) session: SessionId,
    pub(crate) round: Round,
    not_before_ms: u64,
    backoff_ms: u64,
    /// When a keep-alive was last answered.
    leader_contact_ms: Option<u64>,
    min_table: LogIndex,
    /// Route table that the gateway has swapped in.
    pub(crate) table: Arc<RouteTable>,
    pub(crate) acknowledged: LogIndex,
    pub(crate) ownership_at: LogIndex,
    pub(crate) sessions: BTreeMap<SessionId, Arc<Session>>,
    pub(crate) owned: BTreeMap<ShardId, Epoch>,
    pub(crate) shards: BTreeMap<ShardId, OpenShard>,
    pub(crate) queues: BTreeMap<SessionId, AgentQueue>,
    /// Where each session's agent is, also after its end.
    pub(crate) homes: BTreeMap<SessionId, (usize, NodeId)>,
    pub(crate) seq: u64,
    /// Newest endpoint tables of everything owned here, and who follows them.
    pub(crate) board: BTreeMap<ObjectKey, (ShardId, EndpointTable)>,
    pub(crate) followers: BTreeSet<(Address, SessionId)>,
    roll: Roll,
    roll_waits: bool,
    pub(crate) scales: BTreeMap<ObjectKey, ScaleUpdate>,
    scales_wait: bool,
    pub(crate) n_boots: u32,
    /// A session that is open in the log and not acted on here yet.
    opened: Option<SessionId>,
}

/// Where the keep-alive loop stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    Idle {
        number: u64,
        table: LogIndex,
        since_us: u64,
    },
    Waiting {
        number: u64,
        since_us: u64,
    },
    /// A session is being opened; the loop waits for it.
    Opening {
        number: u64,
    },
}

impl Default for Control {
    fn default() -> Self {
        Self {
            session: SessionId(0),
            round: Round::Idle {
                number: 0,
                table: LogIndex(0),
                since_us: 0,
            },
            not_before_ms: 0,
            backoff_ms: OPEN_BACKOFF_MIN_MS,
            leader_contact_ms: None,
            min_table: LogIndex(0),
            table: Arc::default(),
            acknowledged: LogIndex(0),
            ownership_at: LogIndex(0),
            sessions: BTreeMap::new(),
            owned: BTreeMap::new(),
            shards: BTreeMap::new(),
            queues: BTreeMap::new(),
            homes: BTreeMap::new(),
            seq: 0,
            board: BTreeMap::new(),
            followers: BTreeSet::new(),
            roll: Roll::default(),
            roll_waits: false,
            scales: BTreeMap::new(),
            scales_wait: false,
            n_boots: 0,
            opened: None,
        }
    }
}

impl World {
    pub(crate) fn node_ms(&self, n: usize) -> u64 {
        self.nodes[n].now_ms(self.now_us)
    }

    /// The loop's next step: says that it lives, unless it still waits for the last answer.
    pub(crate) fn keep_alive_due(&mut self, n: usize, round: u64) {
        let Round::Idle { number, .. } = self.nodes[n].control.round else {
            return;
        };
        if number != round {
            return;
        }
        let number = number + 1;
        let since_us = self.now_us;
        let control = &mut self.nodes[n].control;
        control.round = Round::Waiting { number, since_us };
        let message = Event::KeepAlive {
            from: (n, self.nodes[n].life),
            round: number,
            session: self.nodes[n].control.session,
            table: self.nodes[n].control.acknowledged,
        };
        if let Some(leader) = self.nodes[n].leader.leader {
            let to = self.address(leader);
            self.send(n, to, message);
        }
        let limit = Event::KeepAliveTimeout { round: number };
        self.at_node(n, KEEP_ALIVE_LIMIT_US, limit);
    }

    /// At the leader (`Shared::answer_keep_alive`).
    pub(crate) fn take_keep_alive(
        &mut self,
        n: usize,
        from: Address,
        round: u64,
        session: SessionId,
        table: LogIndex,
    ) {
        // An isolated leader must not vouch for anybody, itself included.
        if !self.leads_with_quorum(n) {
            return;
        }
        self.begin_term(n);
        let now_ms = self.node_ms(n);
        let node = &mut self.nodes[n];
        node.control.roll.heard(session, table, now_ms);
        let state = &node.replica.state;
        let (mut min_table, _) = node.control.roll.min_table(state);
        if self.plant == Some(Plant::ReadyTooEarly) {
            min_table = node.control.acknowledged;
        }
        let answer = KeepAliveAnswer {
            leader_applied: LogIndex(node.replica.applied),
            min_table,
            session_open: state.session(session).is_some(),
        };
        self.send(n, from, Event::KeepAliveAnswered { round, answer });
    }

    pub(crate) fn keep_alive_answered(&mut self, n: usize, round: u64, answer: KeepAliveAnswer) {
        let Round::Waiting { number, .. } = self.nodes[n].control.round else {
            return;
        };
        if number != round {
            return;
        }
        let now_ms = self.node_ms(n);
        self.nodes[n].control.leader_contact_ms = Some(now_ms);
        self.take_min_table(n, answer.min_table);
        if self.has_lost_session(n, answer) {
            self.set_session(n, SessionId(0));
        }
        let node = &self.nodes[n];
        let caught_up = node.replica.applied >= answer.leader_applied.0
            && node.control.acknowledged >= answer.leader_applied;
        let wants = node.control.session == SessionId(0) && node.leaving.is_none();
        let caught_up = caught_up || self.plant == Some(Plant::OpensBehind);
        if wants && caught_up && now_ms >= node.control.not_before_ms {
            self.nodes[n].control.round = Round::Opening { number };
            self.open_session(n);
            return;
        }
        self.idle_again(n, number);
    }

    pub(crate) fn keep_alive_timeout(&mut self, n: usize, round: u64) {
        let Round::Waiting { number, .. } = self.nodes[n].control.round else {
            return;
        };
        if number != round {
            return;
        }
        let alone = self.nodes[n].control.leader_contact_ms.is_none();
        if alone && self.nodes[n].leaving.is_none() && self.node_ms(n) >= STALE_START_AFTER_MS {
            self.nodes[n].gateway.is_open = true;
        }
        self.idle_again(n, number);
    }

    /// Waits for the next period, or for a table to acknowledge, whichever comes first.
    fn idle_again(&mut self, n: usize, number: u64) {
        let since_us = match self.nodes[n].control.round {
            Round::Waiting { since_us, .. } => since_us,
            Round::Idle { .. } | Round::Opening { .. } => self.now_us,
        };
        let node = &mut self.nodes[n];
        let table = node.control.acknowledged;
        node.control.round = Round::Idle {
            number,
            table,
            since_us,
        };
        let next = (since_us + KEEP_ALIVE_PERIOD_US).saturating_sub(self.now_us);
        self.at_node(n, next, Event::KeepAliveDue { round: number });
    }

    /// A table was swapped in: that is a reason to speak at once.
    pub(crate) fn table_changed(&mut self, n: usize) {
        if let Round::Idle { number, table, .. } = self.nodes[n].control.round
            && table < self.nodes[n].control.acknowledged
        {
            self.at_node(n, 0, Event::KeepAliveDue { round: number });
        }
    }

    fn has_lost_session(&self, n: usize, answer: KeepAliveAnswer) -> bool {
        let node = &self.nodes[n];
        let session = node.control.session;
        let gone = node.replica.state.session(session).is_none();
        session != SessionId(0) && !answer.session_open && gone
    }

    fn open_session(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        node.control.n_boots += 1;
        let open = OpenSession {
            node: node.id,
            name: node.name(),
            boot_id: format!("{}-{}-{}", node.id, node.life, node.control.n_boots),
            roles: Roles::ALL,
            peer_address: format!("{}:7071", node.name()),
            gateway_address: format!("{}:8080", node.name()),
            admin_address: format!("{}:7070", node.name()),
            pid: node.life,
            capacity: self.plan.capacity,
            t_self_ms: self.plan.t_self_ms,
            kills_instances_on_exit: true,
            store_id: String::new(),
        };
        let command = Command::OpenSession(open);
        let key = RequestKey::default();
        self.propose(n, command, key, OPEN_LIMIT_US, Origin::Session);
    }

    fn session_opened(&mut self, n: usize, answer: Answer) {
        let opened = match &answer {
            Answer::Reply(reply) => opened_session(reply),
            Answer::NotApplied | Answer::MaybeApplied => None,
        };
        let now_ms = self.node_ms(n);
        let control = &mut self.nodes[n].control;
        let Round::Opening { number } = control.round else {
            return;
        };
        match opened {
            Some(session) => {
                control.backoff_ms = OPEN_BACKOFF_MIN_MS;
                control.opened = Some(session);
                return self.serve_once_acted_on(n);
            }
            None => {
                control.not_before_ms = now_ms + control.backoff_ms;
                control.backoff_ms = (control.backoff_ms * 2).min(OPEN_BACKOFF_MAX_MS);
            }
        }
        self.idle_again(n, number);
    }

    /// `Shared::acted_on`: an order is taken and a request only by what held when the session was
    /// opened, or later.
    pub(crate) fn serve_once_acted_on(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        let Some(session) = node.control.opened else {
            return;
        };
        let acted_on = node.control.acknowledged >= LogIndex(session.0);
        if !acted_on && self.plant != Some(Plant::OpensBehind) {
            return;
        }
        node.control.opened = None;
        let is_open = node.replica.state.session(session).is_some();
        if is_open && node.leaving.is_none() {
            self.set_session(n, session);
        }
        if let Round::Opening { number } = self.nodes[n].control.round {
            self.idle_again(n, number);
        }
    }

    /// `Shared::set_session`.
    fn set_session(&mut self, n: usize, session: SessionId) {
        let is_open = session != SessionId(0);
        self.trace.add(self.now_us, &[5, n as u64, session.0], || {
            format!("node {}: session {session}", n + 1)
        });
        self.set_accepting(n, is_open);
        let node = &mut self.nodes[n];
        node.gateway.is_open |= is_open;
        node.control.session = session;
        let verdict = match is_open {
            true => self.checks.routes.opened(&self.nodes[n]),
            false => Ok(()),
        };
        self.judge("route ready", verdict);
        let delay = self.task_delay();
        self.at_node(n, delay, Event::SessionChanged);
    }

    /// Between a watch that changed and the task that follows it.
    pub(crate) fn task_delay(&mut self) -> u64 {
        self.random.skewed(5, self.plan.max_task_delay_us)
    }

    /// Routes that wait for gateways look again when the minimum has grown.
    fn take_min_table(&mut self, n: usize, table: LogIndex) {
        let node = &mut self.nodes[n];
        if table <= node.control.min_table {
            return;
        }
        node.control.min_table = table;
        let mut waiting = Vec::new();
        for (shard, epoch) in self.nodes[n].control.owned.clone() {
            self.acknowledge(n, shard, epoch);
            let state = &self.nodes[n].replica.state;
            let keys = reconcile::waiting_for_gateways(state, shard, table);
            waiting.extend(keys.into_iter().map(|key| (shard, epoch, key)));
        }
        for (shard, epoch, key) in waiting {
            self.mark_dirty(n, shard, epoch, &key);
        }
    }

    /// `Shared::acknowledge`, with what the leader said last.
    pub(crate) fn acknowledge(&mut self, n: usize, shard: ShardId, epoch: Epoch) {
        let table = self.nodes[n].control.min_table;
        if let Some(open) = self.open_shard(n, shard, epoch) {
            let known = &mut open.keeper.table.acknowledged;
            *known = table.max(*known);
        }
    }

    // The leader's side.

    fn begin_term(&mut self, n: usize) {
        let term = self.raft.term;
        let now_ms = self.node_ms(n);
        let control = &mut self.nodes[n].control;
        if control.roll.term() != term {
            control.roll = Roll::begin(term, now_ms, self.plan.election_max_ms);
        }
    }

    /// `run_leader`: proposes what the roll decides, one thing at a time.
    pub(crate) fn look_at_roll(&mut self, n: usize) {
        self.at_node(n, ROLL_PERIOD_US, Event::Roll);
        if self.nodes[n].control.roll_waits || !self.leads_with_quorum(n) {
            return;
        }
        self.begin_term(n);
        self.dial_suspects(n);
        let now_ms = self.node_ms(n);
        let node = &mut self.nodes[n];
        let myself = node.control.session;
        let state = &node.replica.state;
        let Some(command) = node.control.roll.decide(state, myself, now_ms) else {
            return;
        };
        node.control.roll_waits = true;
        let key = RequestKey::default();
        self.propose(n, command, key, DECISION_LIMIT_US, Origin::Roll);
    }

    fn dial_suspects(&mut self, n: usize) {
        let now_ms = self.node_ms(n);
        let node = &self.nodes[n];
        let state = &node.replica.state;
        let suspects = node
            .control
            .roll
            .suspects(state, node.control.session, now_ms);
        for session in suspects {
            let of = state.session(session).map(|s| s.opened.name.clone());
            let target = (0..self.nodes.len()).find(|m| Some(self.nodes[*m].name()) == of);
            // A process that runs again answers the dial, whatever its session.
            if target.is_some_and(|m| !self.nodes[m].up && self.net.is_linked(n, m)) {
                self.nodes[n].control.roll.refused(session, now_ms);
                return;
            }
        }
    }

    // Outcomes.

    pub(crate) fn finish_proposal(&mut self, n: usize, origin: Origin, answer: Answer) {
        match origin {
            Origin::Nobody => {}
            Origin::Session => self.session_opened(n, answer),
            Origin::Leave => self.left(n),
            Origin::Roll => self.nodes[n].control.roll_waits = false,
            Origin::Scales(written) => self.scales_written(n, &written, &answer),
            Origin::Write(write) => self.write_answered(n, write, answer),
            Origin::Actor { shard, epoch, key } => {
                let outcome = match answer {
                    Answer::Reply(reply) => match reply.result {
                        Ok(_) => ProposalOutcome::Applied(reply.index),
                        Err(_) => ProposalOutcome::Rejected,
                    },
                    Answer::NotApplied => ProposalOutcome::NotApplied,
                    Answer::MaybeApplied => return self.reload(n, shard, epoch, &key),
                };
                let delay = self.task_delay();
                let event = Event::Proposed {
                    shard,
                    epoch,
                    key,
                    outcome,
                };
                self.at_node(n, delay, event);
            }
        }
    }

    /// Desired scales, coalesced; the newest of a revision waits for its turn.
    pub(crate) fn write_scales(&mut self, n: usize) {
        self.at_node(n, SCALE_PERIOD_US, Event::WriteScales);
        let control = &mut self.nodes[n].control;
        if control.scales.is_empty() || control.scales_wait {
            return;
        }
        control.scales_wait = true;
        let scales: Vec<_> = control
            .scales
            .values()
            .take(MAX_SCALES_PER_ENTRY)
            .cloned()
            .collect();
        let command = Command::RecordScale(RecordScale {
            scales: scales.clone(),
        });
        let key = RequestKey::default();
        self.propose(n, command, key, SCALE_LIMIT_US, Origin::Scales(scales));
    }

    fn scales_written(&mut self, n: usize, written: &[ScaleUpdate], answer: &Answer) {
        let control = &mut self.nodes[n].control;
        control.scales_wait = false;
        if matches!(answer, Answer::Reply(_)) {
            for update in written {
                // What came in meanwhile is still in the channel there, and is newer.
                if control.scales.get(&update.revision) == Some(update) {
                    control.scales.remove(&update.revision);
                }
            }
        }
    }
}
