//! One ordered queue of calls per agent session. Mirrors `control/agents.rs`, and
//! `server/peer/{remote,agent_service}.rs` between them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use nihilo_entity::table::{Refusal, RefusalKind, RowState};
use nihilo_machine::state::Session;
use nihilo_types::id::{Epoch, InstanceId, NodeId, SessionId, ShardId};
use nihilo_types::instance::{InstanceReport, InstanceSpec};

use super::World;
use super::event::{Address, Event};
use super::plan::{MS, SECOND};
use super::plant::Plant;

const QUEUE: usize = 256;
const LIST_RETRY_US: u64 = 50 * MS;
const EVENTS_RETRY_US: u64 = 50 * MS;
/// `server/peer/remote.rs`.
const CALL_LIMIT_US: u64 = SECOND;
/// A dial that is refused fails at once.
const REFUSED_AFTER_US: u64 = MS;

/// `control::ports::CallFence`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallFence {
    pub(crate) shard: ShardId,
    pub(crate) epoch: Epoch,
    pub(crate) seq: u64,
}

/// The ownership under which a call was decided.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owned {
    pub(crate) shard: ShardId,
    pub(crate) epoch: Epoch,
}

/// A call that waits to leave; it gets its number only then.
#[derive(Debug, Clone)]
pub(crate) enum AgentCall {
    Start {
        owned: Owned,
        spec: Box<InstanceSpec>,
    },
    Stop {
        owned: Owned,
        instance: InstanceId,
    },
    Reopen {
        owned: Owned,
        instance: InstanceId,
    },
    Freeze {
        owned: Owned,
        instance: InstanceId,
    },
    Thaw {
        owned: Owned,
        instance: InstanceId,
    },
    /// Look at what there is to list.
    Wake,
}

/// The calls for one agent session, one at a time.
#[derive(Debug)]
pub(crate) struct AgentQueue {
    calls: VecDeque<AgentCall>,
    /// Shards to list after the call that is under way.
    to_list: BTreeSet<ShardId>,
    is_busy: bool,
    /// Takes no more; what is in it still goes out.
    pub(crate) is_closed: bool,
}

/// A call on its way.
#[derive(Debug, Clone)]
pub(crate) struct WireCall {
    pub(crate) id: u64,
    pub(crate) from: Address,
    pub(crate) body: WireBody,
}

#[derive(Debug, Clone)]
pub(crate) enum WireBody {
    /// For one life of a node: the next one refuses it.
    Start(SessionId, CallFence, Box<InstanceSpec>),
    Stop(CallFence, InstanceId),
    Reopen(CallFence, InstanceId),
    Freeze(CallFence, InstanceId),
    Thaw(CallFence, InstanceId),
    List(Vec<CallFence>),
}

/// What the caller remembers while it waits.
#[derive(Debug)]
pub(crate) struct PendingCall {
    from: Address,
    to: usize,
    session: SessionId,
    what: Pending,
}

#[derive(Debug)]
enum Pending {
    Start(CallFence, InstanceId),
    Order(CallFence),
    List(BTreeSet<ShardId>, BTreeMap<ShardId, Epoch>, u64),
}

pub(crate) type PendingCalls = BTreeMap<u64, PendingCall>;

#[derive(Debug, Clone)]
pub(crate) enum CallAnswer {
    Started(Box<InstanceReport>),
    Done,
    Listed(Vec<InstanceReport>),
    Refused(CallRefusal),
    Unanswered,
}

/// `control::ports::CallRefusal`, as far as an agent says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallRefusal {
    Stale,
    NotReady,
    NoCapacity,
    TooLate,
}

impl World {
    /// `AgentQueues::add`.
    pub(crate) fn add_queue(&mut self, n: usize, session: Arc<Session>) {
        let id = session.id;
        let name = &session.opened.name;
        let home = (0..self.nodes.len()).find(|m| self.nodes[*m].name() == *name);
        let Some(home) = home else { return };
        let place = (home, session.opened.node);
        self.nodes[n].control.homes.insert(id, place);
        let queue = AgentQueue {
            calls: VecDeque::new(),
            to_list: BTreeSet::new(),
            is_busy: false,
            is_closed: false,
        };
        self.nodes[n].control.queues.insert(id, queue);
        self.at_node(n, 0, Event::SubscribeAgent { session: id });
    }

    /// `false` when the session is unknown, ended, or its queue is full.
    pub(crate) fn enqueue(&mut self, n: usize, session: SessionId, call: AgentCall) -> bool {
        let Some(queue) = self.nodes[n].control.queues.get_mut(&session) else {
            return false;
        };
        if queue.is_closed || queue.calls.len() >= QUEUE {
            return false;
        }
        queue.calls.push_back(call);
        self.next_call(n, session);
        true
    }

    /// Sends the next call, if none is under way.
    fn next_call(&mut self, n: usize, session: SessionId) {
        let Some(queue) = self.nodes[n].control.queues.get_mut(&session) else {
            return;
        };
        if queue.is_busy {
            return;
        }
        let Some(call) = queue.calls.pop_front() else {
            if queue.is_closed {
                self.nodes[n].control.queues.remove(&session);
            }
            return;
        };
        queue.is_busy = true;
        match call {
            AgentCall::Start { owned, spec } => self.send_start(n, session, owned, spec),
            AgentCall::Stop { owned, instance } => {
                let fence = self.fence(n, owned);
                let body = WireBody::Stop(fence, instance);
                self.call(n, session, Pending::Order(fence), body);
            }
            AgentCall::Reopen { owned, instance } => {
                let fence = self.fence(n, owned);
                let body = WireBody::Reopen(fence, instance);
                self.call(n, session, Pending::Order(fence), body);
            }
            AgentCall::Freeze { owned, instance } => {
                let fence = self.fence(n, owned);
                let body = WireBody::Freeze(fence, instance);
                self.call(n, session, Pending::Order(fence), body);
            }
            AgentCall::Thaw { owned, instance } => {
                let fence = self.fence(n, owned);
                let body = WireBody::Thaw(fence, instance);
                self.call(n, session, Pending::Order(fence), body);
            }
            AgentCall::Wake => self.list(n, session),
        }
    }

    /// `start`: not sent any more when its node went meanwhile.
    fn send_start(&mut self, n: usize, session: SessionId, owned: Owned, spec: Box<InstanceSpec>) {
        let fence = self.fence(n, owned);
        let late = self.plant == Some(Plant::RowAfterStart);
        let open = self.open_shard(n, owned.shard, owned.epoch);
        if !open.is_some_and(|open| open.keeper.leaving(&spec.id, fence.seq) || late) {
            return self.queue_is_free(n, session);
        }
        let what = Pending::Start(fence, spec.id.clone());
        self.call(n, session, what, WireBody::Start(session, fence, spec));
    }

    /// The fence of a call that leaves now.
    fn fence(&mut self, n: usize, owned: Owned) -> CallFence {
        CallFence {
            shard: owned.shard,
            epoch: owned.epoch,
            seq: self.next_seq(n),
        }
    }

    /// `AgentQueues::contains`.
    fn is_linked_session(&self, n: usize, session: SessionId) -> bool {
        let queue = self.nodes[n].control.queues.get(&session);
        queue.is_some_and(|queue| !queue.is_closed)
    }

    /// A call is over: what is to be listed comes before the next one.
    fn queue_is_free(&mut self, n: usize, session: SessionId) {
        let Some(queue) = self.nodes[n].control.queues.get_mut(&session) else {
            return;
        };
        if queue.to_list.is_empty() {
            queue.is_busy = false;
            self.next_call(n, session);
        } else {
            self.list(n, session);
        }
    }

    /// `AgentQueues::list`: a level, which a full queue cannot lose.
    pub(crate) fn wish_list(&mut self, n: usize, session: SessionId, shards: BTreeSet<ShardId>) {
        if !self.is_linked_session(n, session) {
            return;
        }
        if let Some(queue) = self.nodes[n].control.queues.get_mut(&session) {
            queue.to_list.extend(shards);
            self.enqueue(n, session, AgentCall::Wake);
        }
    }

    /// Asks until answered, or until the session has ended.
    fn list(&mut self, n: usize, session: SessionId) {
        let is_open = self.is_linked_session(n, session);
        let control = &mut self.nodes[n].control;
        let Some(queue) = control.queues.get_mut(&session) else {
            return;
        };
        let shards = std::mem::take(&mut queue.to_list);
        let owned = &control.owned;
        let epochs: BTreeMap<ShardId, Epoch> = shards
            .iter()
            .filter_map(|shard| Some((*shard, *owned.get(shard)?)))
            .collect();
        if epochs.is_empty() || !is_open {
            return self.queue_is_free(n, session);
        }
        let seq = self.next_seq(n);
        let fences = epochs.iter().map(|(shard, epoch)| CallFence {
            shard: *shard,
            epoch: *epoch,
            seq,
        });
        let body = WireBody::List(fences.collect());
        self.call(n, session, Pending::List(shards, epochs, seq), body);
    }

    fn call(&mut self, n: usize, session: SessionId, what: Pending, body: WireBody) {
        let Some(to) = self.home_of(n, session) else {
            return self.queue_is_free(n, session);
        };
        let id = self.next_call_id;
        self.next_call_id += 1;
        let pending = PendingCall {
            from: self.address(n),
            to,
            session,
            what,
        };
        self.calls.insert(id, pending);
        let limit = match self.nodes[to].up {
            true => CALL_LIMIT_US,
            false => REFUSED_AFTER_US,
        };
        self.at_node(n, limit, Event::CallTimeout { call: id });
        let call = WireCall {
            id,
            from: self.address(n),
            body,
        };
        let address = self.address(to);
        if n != to && self.doubles() {
            let copy = Event::CallArrives(Box::new(call.clone()));
            self.send(n, address, copy);
        }
        self.send(n, address, Event::CallArrives(Box::new(call)));
    }

    /// Sessions are addressed by their node: whoever runs there now answers. Ended ones stay
    /// known, as to the tasks that still hold them.
    fn home_of(&self, n: usize, session: SessionId) -> Option<usize> {
        let home = self.nodes[n].control.homes.get(&session);
        home.map(|(home, _)| *home)
    }

    /// At the agent.
    pub(crate) fn call_arrives(&mut self, n: usize, call: WireCall) {
        let answer = self.agent_call(n, call.body);
        let event = Event::CallAnswered {
            call: call.id,
            answer,
        };
        self.send(n, call.from, event);
    }

    /// Calls to a process that ended fail as soon as the caller sees its connection end.
    pub(crate) fn fail_calls_to(&mut self, n: usize) {
        let concerned: Vec<_> = self
            .calls
            .iter()
            .filter(|(_, call)| call.to == n && call.from.0 != n)
            .map(|(id, call)| (*id, call.from))
            .collect();
        for (id, from) in concerned {
            if self.net.is_linked(n, from.0) {
                let at = self.now_us + REFUSED_AFTER_US;
                self.agenda
                    .add(at, Some(from), Event::CallTimeout { call: id });
            }
        }
    }

    pub(crate) fn call_answered(&mut self, n: usize, id: u64, answer: CallAnswer) {
        let Some(call) = self.calls.remove(&id) else {
            return;
        };
        if call.from != self.address(n) {
            return;
        }
        let session = call.session;
        match call.what {
            Pending::Start(fence, instance) => {
                self.start_answered(n, session, fence, &instance, answer)
            }
            Pending::Order(fence) => self.order_answered(n, session, fence, &answer),
            Pending::List(shards, epochs, seq) => match answer {
                CallAnswer::Listed(reports) => self.take_list(n, session, &epochs, seq, reports),
                _ => return self.list_later(n, session, shards),
            },
        }
        self.queue_is_free(n, session);
    }

    fn list_later(&mut self, n: usize, session: SessionId, shards: BTreeSet<ShardId>) {
        if let Some(queue) = self.nodes[n].control.queues.get_mut(&session) {
            queue.to_list.extend(shards);
            self.at_node(n, LIST_RETRY_US, Event::ListAgain { session });
        }
    }

    pub(crate) fn list_again(&mut self, n: usize, session: SessionId) {
        self.queue_is_free(n, session);
    }

    fn start_answered(
        &mut self,
        n: usize,
        session: SessionId,
        fence: CallFence,
        instance: &InstanceId,
        answer: CallAnswer,
    ) {
        let now_ms = self.node_ms(n);
        let refusal = match answer {
            CallAnswer::Started(report) => return self.take_report(n, session, *report),
            CallAnswer::Refused(refusal) => refusal,
            // Counted until a later `List` does not show it.
            _ => return self.relist(n, session, fence.shard),
        };
        let kind = match refusal {
            CallRefusal::NoCapacity => RefusalKind::NoCapacity,
            CallRefusal::Stale | CallRefusal::NotReady => RefusalKind::NotReady,
            CallRefusal::TooLate => RefusalKind::Failed,
        };
        let text = format!("{refusal:?}");
        if let Some(open) = self.open_shard(n, fence.shard, fence.epoch) {
            let state = RowState::Refused(Refusal { kind, text });
            open.keeper.set(instance, state, now_ms);
        }
        self.wake_shard_revisions(n, fence.shard, fence.epoch);
    }

    /// Stops and re-opens are levels: what failed shows up in the next list.
    fn order_answered(
        &mut self,
        n: usize,
        session: SessionId,
        fence: CallFence,
        answer: &CallAnswer,
    ) {
        match answer {
            CallAnswer::Done => {}
            CallAnswer::Refused(CallRefusal::TooLate) => {
                self.wake_shard_revisions(n, fence.shard, fence.epoch);
            }
            _ => self.relist(n, session, fence.shard),
        }
    }

    fn relist(&mut self, n: usize, session: SessionId, shard: ShardId) {
        self.wish_list(n, session, BTreeSet::from([shard]));
    }

    pub(crate) fn relist_all(&mut self, n: usize, session: SessionId) {
        let shards = self.nodes[n].control.owned.keys().copied().collect();
        self.wish_list(n, session, shards);
    }

    fn take_list(
        &mut self,
        n: usize,
        session: SessionId,
        epochs: &BTreeMap<ShardId, Epoch>,
        seq: u64,
        mut reports: Vec<InstanceReport>,
    ) {
        let now_ms = self.node_ms(n);
        if self.plant == Some(Plant::AdoptionForgets) {
            reports.pop();
        }
        let Some(node) = self.node_id_of(n, session) else {
            return;
        };
        let mut by_shard: BTreeMap<ShardId, Vec<InstanceReport>> = BTreeMap::new();
        for report in reports {
            by_shard.entry(report.shard).or_default().push(report);
        }
        let is_open = self.is_linked_session(n, session);
        for (shard, epoch) in epochs {
            let reports = by_shard.remove(shard).unwrap_or_default();
            let touched = self
                .open_shard(n, *shard, *epoch)
                .filter(|_| is_open)
                .map(|open| open.keeper.listed((session, node), seq, reports, now_ms))
                .unwrap_or_default();
            self.wake_revisions(n, *shard, *epoch, &touched);
            self.finish_reconciling(n, *shard, *epoch, false);
        }
    }

    fn node_id_of(&self, n: usize, session: SessionId) -> Option<NodeId> {
        let home = self.nodes[n].control.homes.get(&session);
        home.map(|(_, id)| *id)
    }

    fn take_report(&mut self, n: usize, session: SessionId, report: InstanceReport) {
        let (shard, now_ms) = (report.shard, self.node_ms(n));
        let Some(epoch) = self.epoch_of(n, shard) else {
            return;
        };
        let Some(node) = self.node_id_of(n, session) else {
            return;
        };
        if !self.is_linked_session(n, session) {
            return;
        }
        if let Some(open) = self.open_shard(n, shard, epoch) {
            let revision = open.keeper.reported((session, node), report, now_ms);
            self.wake_revisions(n, shard, epoch, &BTreeSet::from([revision]));
        }
    }

    // Events (`run_events`).

    /// Subscribes; again and again while the session is open.
    pub(crate) fn subscribe_agent(&mut self, n: usize, session: SessionId) {
        if !self.is_linked_session(n, session) {
            return;
        }
        let Some(to) = self.home_of(n, session) else {
            return;
        };
        let from = self.address(n);
        let address = self.address(to);
        let subscribe = Event::AgentSubscribed { session, from };
        let reached = self.nodes[to].up
            && self.net.is_linked(n, to)
            && self.send_in_order(n, address, subscribe);
        if !reached {
            self.at_node(n, EVENTS_RETRY_US, Event::SubscribeAgent { session });
        }
    }

    /// At the agent: from now on this owner gets every change.
    pub(crate) fn agent_subscribed(&mut self, n: usize, session: SessionId, from: Address) {
        self.nodes[n].agent.subscribers.insert((from, session));
        if !self.send_in_order(n, from, Event::AgentConnected { session }) {
            self.agent_stream_breaks(n, session, from);
        }
    }

    /// What happened before the subscription is in the list.
    pub(crate) fn agent_connected(&mut self, n: usize, session: SessionId) {
        if self.plant != Some(Plant::NoListOnJoin) {
            self.relist_all(n, session);
        }
    }

    pub(crate) fn agent_stream_breaks(&mut self, n: usize, session: SessionId, to: Address) {
        self.nodes[n].agent.subscribers.remove(&(to, session));
        // The reader sees the end of its stream sooner or later.
        let after = self.random.skewed(MS, SECOND);
        let at = self.now_us + after;
        self.agenda
            .add(at, Some(to), Event::AgentStreamBroke { session });
    }

    pub(crate) fn agent_stream_broke(&mut self, n: usize, session: SessionId) {
        self.at_node(n, EVENTS_RETRY_US, Event::SubscribeAgent { session });
    }

    /// `None` = events were lost.
    pub(crate) fn agent_report(
        &mut self,
        n: usize,
        session: SessionId,
        report: Option<Box<InstanceReport>>,
    ) {
        match report {
            Some(report) => self.take_report(n, session, *report),
            None => self.relist_all(n, session),
        }
    }
}
