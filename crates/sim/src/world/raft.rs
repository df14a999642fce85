//! The log as one committed sequence: who leads, what gets in, when each replica applies it.
//!
//! Consensus itself is not simulated here (openraft has its own simulation); what is, is all that
//! its users can see: latency, a leader that changes, proposals of unknown outcome, lagging replicas,
//! restarts from a snapshot.

use std::collections::BTreeMap;

use nihilo_machine::command::{CLUSTER_VERSION, RequestKey};
use nihilo_machine::digest::digest_of_rows;
use nihilo_machine::{Applied, Command, Envelope, Outcome, Reply, State};
use nihilo_types::id::LogIndex;

use super::World;
use super::event::{Address, Event};
use super::node::{LeaderSeen, Replica};
use super::plan::{MS, SECOND};
use super::plant::Plant;
use super::session::Origin;
use crate::invariants::{digest, fence};

const TICK_US: u64 = 50 * MS;
/// `raft/proposer.rs`: the same leader is asked again after this.
const RETRY_SAME_LEADER_US: u64 = 20 * MS;
/// Wall time of the world's beginning, in milliseconds since the epoch.
const WALL_START_MS: u64 = 1_700_000_000_000;
/// Changes that control may lag behind before it has to look at everything again.
const MAX_CHANGES: usize = 256;
/// The entry that a replica with the planted bug skips.
const SKIPPED_ENTRY: u64 = 30;

#[derive(Debug, Default)]
pub(crate) struct Raft {
    pub(crate) log: Vec<Envelope>,
    pub(crate) leader: Option<usize>,
    pub(crate) term: u64,
    /// Since when the leader has been dead, paused or without a quorum.
    lost_since_us: Option<u64>,
    election_is_due: bool,
    last_commit_us: u64,
    /// Appended by a former leader, not committed by it: the next one may find them.
    limbo: Vec<u64>,
    /// Newest snapshot: index, rows, and the hash of all rows up to it.
    snapshot: Option<Snapshot>,
    next_proposal: u64,
}

#[derive(Debug, Clone)]
struct Snapshot {
    index: u64,
    rows_hash: u64,
    rows: Rows,
}

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

#[derive(Debug)]
pub(crate) struct Proposal {
    pub(crate) from: Address,
    command: Command,
    request: RequestKey,
    pub(crate) origin: Origin,
    deadline_us: u64,
    /// It reached a leader: from then on a missing answer says nothing.
    sent: bool,
    reply: Option<Reply>,
}

/// What a proposer learns (`control::ports::Proposer`).
#[derive(Debug)]
pub(crate) enum Answer {
    Reply(Reply),
    NotApplied,
    MaybeApplied,
}

impl World {
    /// `Proposer::propose`.
    pub(crate) fn propose(
        &mut self,
        n: usize,
        command: Command,
        request: RequestKey,
        limit_us: u64,
        origin: Origin,
    ) {
        let id = self.raft.next_proposal;
        self.raft.next_proposal += 1;
        let proposal = Proposal {
            from: self.address(n),
            command,
            request,
            origin,
            deadline_us: self.now_us + limit_us,
            sent: false,
            reply: None,
        };
        self.proposals.insert(id, proposal);
        self.at_node(n, 0, Event::TryPropose { proposal: id });
        self.at_node(n, limit_us, Event::ProposalDeadline { proposal: id });
    }

    pub(crate) fn try_propose(&mut self, n: usize, id: u64) {
        let Some(proposal) = self.proposals.get(&id) else {
            return;
        };
        if self.now_us >= proposal.deadline_us {
            return;
        }
        let again = Event::TryPropose { proposal: id };
        match self.nodes[n].leader.leader {
            Some(leader) if self.nodes[leader].up => {
                let to = self.address(leader);
                if !self.send(n, to, Event::LeaderTake { proposal: id }) {
                    // The dial failed, or the request was lost on a link that retries.
                    self.at_node(n, RETRY_SAME_LEADER_US, again);
                }
            }
            _ => self.at_node(n, RETRY_SAME_LEADER_US, again),
        }
    }

    /// At the node that was taken for the leader.
    pub(crate) fn leader_take(&mut self, n: usize, id: u64) {
        let leads = self.leads_with_quorum(n);
        let slow = match self.plan.faults.slow_commits {
            true => self.random.skewed(0, 150 * MS),
            false => 0,
        };
        let latency = slow + self.random.between(500, 5 * MS);
        let Some(proposal) = self.proposals.get_mut(&id) else {
            return;
        };
        if !leads {
            let (node, life) = proposal.from;
            let at = self.now_us + RETRY_SAME_LEADER_US;
            let again = Event::TryPropose { proposal: id };
            self.agenda.add(at, Some((node, life)), again);
            return;
        }
        proposal.sent = true;
        let at = (self.now_us + latency).max(self.raft.last_commit_us + 1);
        self.raft.last_commit_us = at;
        let term = self.raft.term;
        self.agenda
            .add(at, None, Event::Commit { proposal: id, term });
    }

    pub(crate) fn commit(&mut self, id: u64, term: u64) {
        if term != self.raft.term {
            // Its leader was deposed: the entry is gone, or found by the next one.
            if self.random.chance(500) {
                self.raft.limbo.push(id);
            }
            return;
        }
        match self.raft.leader {
            Some(leader) if self.has_quorum(leader) => self.append(leader, id),
            _ => self.in_world(20 * MS, Event::Commit { proposal: id, term }),
        }
    }

    fn append(&mut self, leader: usize, id: u64) {
        let Some(proposal) = self.proposals.get(&id) else {
            return;
        };
        let envelope = Envelope {
            cluster_version: CLUSTER_VERSION,
            log_ms: self.now_us / MS,
            wall_ms: WALL_START_MS + self.now_us / MS,
            request: proposal.request.clone(),
            command: self.tampered(leader, &proposal.command),
        };
        let from = proposal.from;
        let fence = fence::of(&mut proposal.command.clone()).copied();
        let owner = fence.map(|fence| self.nodes[leader].replica.state.owner(fence.shard));
        let before = self.rows_before_a_short_snapshot(leader);
        self.raft.log.push(envelope);
        let index = self.raft.log.len() as u64;
        let Some(reply) = self.apply_up_to(leader, index) else {
            return;
        };
        self.trace_entry(index, &reply);
        let verdict = fence::accepted(fence, owner, &reply);
        self.judge("fenced log", verdict);
        if let Some(proposal) = self.proposals.get_mut(&id) {
            proposal.reply = Some(reply.clone());
        }
        let answer = Event::Answered {
            proposal: id,
            reply: Box::new(reply),
        };
        self.send(leader, from, answer);
        for n in 0..self.nodes.len() {
            if n != leader {
                self.replicate(leader, n, index);
            }
        }
        if index.is_multiple_of(self.plan.snapshot_every) {
            self.take_snapshot(leader, before);
        }
    }

    /// `snapshot-short`: what the next snapshot holds instead.
    fn rows_before_a_short_snapshot(&self, n: usize) -> Option<Rows> {
        let is_due = (self.raft.log.len() as u64 + 1).is_multiple_of(self.plan.snapshot_every);
        let short = self.plant == Some(Plant::SnapshotShort) && is_due;
        short.then(|| rows_of(&self.nodes[n].replica.state))
    }

    /// `second-session`: the entry says another node, so that the old session is not found.
    /// `fence-ignored`: the entry says the epoch that happens to be right.
    fn tampered(&self, leader: usize, command: &Command) -> Command {
        let mut command = command.clone();
        if self.plant == Some(Plant::FenceIgnored)
            && let Some(fence) = fence::of(&mut command)
        {
            fence.epoch = self.nodes[leader].replica.state.owner(fence.shard).epoch;
        }
        if self.plant == Some(Plant::SecondSession)
            && let Command::OpenSession(open) = &mut command
        {
            open.node.0 += 100 * (self.raft.log.len() as u64 + 1);
        }
        command
    }

    fn trace_entry(&mut self, index: u64, reply: &Reply) {
        let log = &self.raft.log;
        let accepted = u64::from(reply.result.is_ok());
        self.trace.add(self.now_us, &[3, index, accepted], || {
            let command = log.last().map(|envelope| &envelope.command);
            let text = format!("{command:?}");
            let short: String = text.chars().take(220).collect();
            format!(
                "entry {index}: {short} -> {:?}",
                reply.result.as_ref().err()
            )
        });
    }

    fn replicate(&mut self, leader: usize, n: usize, upto: u64) {
        if !self.nodes[n].up || self.net.is_cut(leader, n) {
            return;
        }
        let lag = self.nodes[n].extra_lag_us;
        let delay = self.delay(leader, n) + self.random.below(lag + 1);
        self.at_node(n, delay, Event::Apply { upto });
    }

    fn take_snapshot(&mut self, n: usize, instead: Option<Rows>) {
        let replica = &self.nodes[n].replica;
        self.raft.snapshot = Some(Snapshot {
            index: replica.applied,
            rows_hash: replica.rows_hash,
            rows: instead.unwrap_or_else(|| rows_of(&replica.state)),
        });
    }

    /// What a starting process finds on its disk: all it had applied, or a snapshot and the need
    /// to apply the rest again.
    pub(crate) fn load_replica(&mut self, n: usize) {
        let whole = self.random.chance(500);
        let replica = &self.nodes[n].replica;
        let snapshot = self.raft.snapshot.clone();
        let snapshot = snapshot.filter(|snapshot| !whole && snapshot.index <= replica.applied);
        let (applied, rows_hash, rows) = match snapshot {
            Some(snapshot) => (snapshot.index, snapshot.rows_hash, snapshot.rows),
            None => (replica.applied, replica.rows_hash, rows_of(&replica.state)),
        };
        let applied = match self.plant == Some(Plant::IndexBehind) {
            true => applied.saturating_sub(1),
            false => applied,
        };
        let before = digest_of_rows(rows.clone());
        let state = State::from_rows(rows);
        let verdict = match &state {
            Ok(state) => digest::same_after_loading(before, state),
            Err(error) => Err(format!("the rows of node {} do not load: {error}", n + 1)),
        };
        self.judge("state digest", verdict);
        self.nodes[n].replica = Replica {
            state: state.unwrap_or_default(),
            applied,
            rows_hash,
            changes: Some(Vec::new()),
            ..Replica::default()
        };
    }

    pub(crate) fn apply(&mut self, n: usize, upto: u64) {
        self.apply_up_to(n, upto);
    }

    /// Applies in order; returns the reply to the last entry, if there was one to apply.
    fn apply_up_to(&mut self, n: usize, upto: u64) -> Option<Reply> {
        let mut reply = None;
        while self.nodes[n].replica.applied < upto {
            reply = Some(self.apply_next(n));
        }
        if reply.is_some() {
            self.release_answers(n);
            self.advance_soon(n);
        }
        reply
    }

    fn apply_next(&mut self, n: usize) -> Reply {
        let index = self.nodes[n].replica.applied + 1;
        let skips = self.plant == Some(Plant::EntrySkipped) && n == 1 && index == SKIPPED_ENTRY;
        let position = usize::try_from(index - 1).unwrap_or(usize::MAX);
        let replica = &mut self.nodes[n].replica;
        let mut envelope = self.raft.log[position].clone();
        if skips {
            envelope.command = Command::NodeDown(nihilo_machine::command::NodeDown {
                session: nihilo_types::id::SessionId(0),
                cause: nihilo_machine::command::DownCause::Silent,
                moves: Vec::new(),
            });
        }
        if self.plant == Some(Plant::ApplyReadsClock) {
            envelope.log_ms = self.now_us / MS;
        }
        let applied = replica.state.apply(LogIndex(index), &envelope);
        replica.applied = index;
        replica.rows_hash = digest::chain(replica.rows_hash, &applied.rows);
        remember_changes(replica, &applied);
        let hash = replica.rows_hash;
        let (is_first, verdict) = self.checks.digest.observe(index, hash);
        self.judge("state digest", verdict);
        if is_first {
            self.observe_entry(n, index, &applied);
        }
        applied.reply
    }

    fn release_answers(&mut self, n: usize) {
        let replica = &mut self.nodes[n].replica;
        let applied = replica.applied;
        let (ready, held): (Vec<_>, Vec<_>) = std::mem::take(&mut replica.held_answers)
            .into_iter()
            .partition(|(index, _)| *index <= applied);
        replica.held_answers = held;
        for (_, id) in ready {
            self.finish_with_reply(n, id);
        }
    }

    /// The proposer goes on once its own node shows the entry.
    pub(crate) fn answered(&mut self, n: usize, id: u64, reply: &Reply) {
        if !self.proposals.contains_key(&id) {
            return;
        }
        if self.nodes[n].replica.applied >= reply.index.0 {
            self.finish_with_reply(n, id);
        } else {
            let held = (reply.index.0, id);
            self.nodes[n].replica.held_answers.push(held);
        }
    }

    fn finish_with_reply(&mut self, n: usize, id: u64) {
        if let Some(proposal) = self.proposals.remove(&id)
            && let Some(reply) = proposal.reply
        {
            self.finish_proposal(n, proposal.origin, Answer::Reply(reply));
        }
    }

    pub(crate) fn proposal_deadline(&mut self, n: usize, id: u64) {
        let held = &self.nodes[n].replica.held_answers;
        if held.iter().any(|(_, other)| *other == id) {
            // Answered; only this node's own copy is behind.
            return;
        }
        if let Some(proposal) = self.proposals.get(&id)
            && proposal.from == self.address(n)
        {
            let answer = match proposal.sent {
                true => Answer::MaybeApplied,
                false => Answer::NotApplied,
            };
            // Stays known while it may still be committed.
            let origin = proposal.origin.clone();
            if let Some(proposal) = self.proposals.get_mut(&id) {
                proposal.origin = Origin::Nobody;
            }
            if !matches!(answer, Answer::MaybeApplied) {
                self.proposals.remove(&id);
            }
            self.finish_proposal(n, origin, answer);
        }
    }

    // Leadership.

    /// More than half of the nodes run and hear each other, as seen from `n`.
    pub(crate) fn has_quorum(&self, n: usize) -> bool {
        let heard = |m: usize| m == n || (self.is_running(m) && self.net.is_linked(n, m));
        let n_heard = (0..self.nodes.len()).filter(|m| heard(*m)).count();
        self.is_running(n) && n_heard * 2 > self.nodes.len()
    }

    pub(crate) fn is_running(&self, n: usize) -> bool {
        self.nodes[n].runs(self.now_us)
    }

    /// `Leadership::leads_with_quorum`.
    pub(crate) fn leads_with_quorum(&self, n: usize) -> bool {
        self.raft.leader == Some(n) && self.has_quorum(n)
    }

    pub(crate) fn depose_leader(&mut self, pause_us: u64) {
        self.raft.leader = None;
        self.raft.term += 1;
        self.raft.election_is_due = true;
        let term = self.raft.term;
        self.in_world(pause_us, Event::Elect { term });
    }

    pub(crate) fn raft_tick(&mut self) {
        self.in_world(TICK_US, Event::RaftTick);
        match self.raft.leader {
            Some(leader) if self.has_quorum(leader) => {
                self.raft.lost_since_us = None;
                self.spread_leadership(leader);
            }
            _ if self.raft.election_is_due => {}
            _ => {
                let since = *self.raft.lost_since_us.get_or_insert(self.now_us);
                let patience = self.plan.election_max_ms * MS;
                let first = self.raft.term == 0;
                if first || self.now_us >= since + patience {
                    let high = if first { 50 * MS } else { 2 * SECOND };
                    let pause = self.random.skewed(10 * MS, high);
                    self.depose_leader(pause);
                }
            }
        }
        self.forget_silent_leaders();
    }

    pub(crate) fn elect(&mut self, term: u64) {
        if term != self.raft.term {
            return;
        }
        let able: Vec<usize> = (0..self.nodes.len())
            .filter(|n| self.has_quorum(*n))
            .collect();
        if able.is_empty() {
            self.in_world(TICK_US, Event::Elect { term });
            return;
        }
        let leader = able[self.random.index(able.len())];
        self.raft.leader = Some(leader);
        self.raft.election_is_due = false;
        self.raft.lost_since_us = None;
        self.trace.add(self.now_us, &[4, leader as u64, term], || {
            format!("node {} leads in term {term}", leader + 1)
        });
        let committed = self.raft.log.len() as u64;
        self.apply_up_to(leader, committed);
        for id in std::mem::take(&mut self.raft.limbo) {
            self.append(leader, id);
        }
        self.spread_leadership(leader);
    }

    fn spread_leadership(&mut self, leader: usize) {
        let committed = self.raft.log.len() as u64;
        for n in 0..self.nodes.len() {
            if !self.is_running(n) || self.net.is_cut(leader, n) {
                continue;
            }
            self.nodes[n].leader = LeaderSeen {
                leader: Some(leader),
                at_us: self.now_us,
            };
            if self.nodes[n].replica.applied < committed {
                self.replicate(leader, n, committed);
            }
        }
    }

    fn forget_silent_leaders(&mut self) {
        let patience = self.plan.election_max_ms * MS;
        for node in &mut self.nodes {
            if node.leader.at_us + patience < self.now_us {
                node.leader.leader = None;
            }
        }
    }
}

fn remember_changes(replica: &mut Replica, applied: &Applied) {
    if let Some(changes) = &mut replica.changes {
        changes.extend(applied.events.iter().cloned());
        if changes.len() > MAX_CHANGES {
            replica.changes = None;
        }
    }
}

fn rows_of(state: &State) -> Rows {
    let rows = state.rows().into_iter();
    rows.filter_map(|row| Some((row.key, row.value?))).collect()
}

/// Proposals by number.
pub(crate) type Proposals = BTreeMap<u64, Proposal>;

/// The session that a reply opened.
pub(crate) fn opened_session(reply: &Reply) -> Option<nihilo_types::id::SessionId> {
    match &reply.result {
        Ok(Outcome::Session(session)) => Some(*session),
        _ => None,
    }
}
