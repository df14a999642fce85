//! Owned shards: mailboxes, turns, timers, sleep, and what becomes of effects. Mirrors the crate
//! `actors`, `control/adapter.rs` and `control/effects.rs`; the turns are `entity`'s own.

use std::collections::{BTreeMap, VecDeque};

use nihilo_entity::keeper::Keeper;
use nihilo_entity::reconcile::AnyActor;
use nihilo_entity::table::{InstanceRow, Refusal, RefusalKind, RowState};
use nihilo_entity::{Effect, EntityKey, Event as ActorEvent, Outputs, View};
use nihilo_machine::Command;
use nihilo_machine::command::{RequestKey, ScaleUpdate};
use nihilo_types::endpoint::EndpointTable;
use nihilo_types::id::{Epoch, SessionId, ShardId};
use nihilo_types::instance::InstanceSpec;

use super::World;
use super::calls::{AgentCall, Owned};
use super::event::Event;
use super::plan::{MS, SECOND};
use super::plant::Plant;
use super::session::Origin;
use crate::invariants::reload::Counts;

/// `actors/incarnation.rs`.
const MAX_BATCH: usize = 32;
const IDLE_US: u64 = 10 * SECOND;
/// `actors/supervise.rs`: an actor whose effect found no room looks again after this.
const NO_ROOM_PAUSE_US: u64 = 10 * MS;
/// `control/system.rs`.
const BUSY_MAILBOX: usize = 128;
const QUIET_MAILBOX: usize = 32;
/// `control/proposals.rs`.
const PROPOSAL_LIMIT_US: u64 = 5 * SECOND;

/// Permille of starts after which the fault `reload` strikes.
const RELOAD_AFTER_START: u64 = 50;
/// Characters of a turn's effects in the trace.
const MAX_SHOWN: usize = 400;

/// One owned shard under one epoch.
#[derive(Debug)]
pub(crate) struct OpenShard {
    pub(crate) epoch: Epoch,
    pub(crate) keeper: Keeper,
    slots: BTreeMap<EntityKey, Slot>,
    timers: BTreeMap<(EntityKey, &'static str), u64>,
    next_timer: u64,
    is_active: bool,
}

/// One resident actor.
#[derive(Debug, Default)]
struct Slot {
    actor: Option<AnyActor>,
    mail: VecDeque<ActorEvent>,
    is_dirty: bool,
    turn_is_due: bool,
    /// Grows with every input, so that idleness can be told.
    activity: u64,
}

/// `actors::NoRoom`.
struct NoRoom;

/// An effect that the executor carries out after the turn.
#[derive(Debug)]
pub(crate) enum What {
    Propose(Box<Command>),
    RecordScale(ScaleUpdate),
    Tell(EntityKey, ActorEvent),
}

impl OpenShard {
    pub(crate) fn new(epoch: Epoch, keeper: Keeper) -> Self {
        Self {
            epoch,
            keeper,
            slots: BTreeMap::new(),
            timers: BTreeMap::new(),
            next_timer: 0,
            is_active: false,
        }
    }

    pub(crate) fn residents(&self) -> impl Iterator<Item = &EntityKey> {
        self.slots.keys()
    }
}

fn mailbox_capacity(key: &EntityKey) -> usize {
    match key {
        EntityKey::Revision(_) | EntityKey::Autoscaler(_) => BUSY_MAILBOX,
        EntityKey::Service(_) | EntityKey::Route(_) => QUIET_MAILBOX,
    }
}

impl World {
    pub(crate) fn open_shard(
        &mut self,
        n: usize,
        shard: ShardId,
        epoch: Epoch,
    ) -> Option<&mut OpenShard> {
        let shards = &mut self.nodes[n].control.shards;
        shards.get_mut(&shard).filter(|open| open.epoch == epoch)
    }

    pub(crate) fn activate_shard(&mut self, n: usize, shard: ShardId, epoch: Epoch) {
        let Some(open) = self.open_shard(n, shard, epoch) else {
            return;
        };
        open.is_active = true;
        let waiting: Vec<_> = open.slots.keys().cloned().collect();
        for key in waiting {
            self.turn_soon(n, shard, epoch, &key);
        }
    }

    /// A message: dropped when the mailbox is full, as there.
    pub(crate) fn tell(
        &mut self,
        n: usize,
        shard: ShardId,
        epoch: Epoch,
        key: EntityKey,
        event: ActorEvent,
    ) {
        let Some(open) = self.open_shard(n, shard, epoch) else {
            return;
        };
        let slot = open.slots.entry(key.clone()).or_default();
        if slot.mail.len() < mailbox_capacity(&key) {
            slot.mail.push_back(event);
        }
        self.turn_soon(n, shard, epoch, &key);
    }

    /// A level changed: any number of calls is one input.
    pub(crate) fn mark_dirty(&mut self, n: usize, shard: ShardId, epoch: Epoch, key: &EntityKey) {
        let Some(open) = self.open_shard(n, shard, epoch) else {
            return;
        };
        open.slots.entry(key.clone()).or_default().is_dirty = true;
        self.turn_soon(n, shard, epoch, key);
    }

    fn turn_soon(&mut self, n: usize, shard: ShardId, epoch: Epoch, key: &EntityKey) {
        let Some(open) = self.open_shard(n, shard, epoch) else {
            return;
        };
        if !open.is_active {
            return;
        }
        let Some(slot) = open.slots.get_mut(key) else {
            return;
        };
        slot.activity += 1;
        if slot.turn_is_due {
            return;
        }
        slot.turn_is_due = true;
        let key = key.clone();
        let delay = self.task_delay();
        self.at_node(n, delay, Event::Turn { shard, epoch, key });
    }

    /// Forgets what the actor keeps; the keeper is not touched.
    pub(crate) fn reload(&mut self, n: usize, shard: ShardId, epoch: Epoch, key: &EntityKey) {
        let plant = self.plant;
        let Some(open) = self.open_shard(n, shard, epoch) else {
            return;
        };
        let before = Counts::of(&open.keeper.table);
        if let Some(slot) = open.slots.get_mut(key) {
            slot.actor = None;
        }
        let rows = &mut open.keeper.table;
        match plant {
            Some(Plant::ReloadForgetsStarts) => {
                let asked = |row: &InstanceRow| row.state == RowState::Requested;
                rows.instances.retain(|_, row| !asked(row));
            }
            Some(Plant::ReloadResetsCounter) => rows.next_instance = 1,
            _ => {}
        }
        let verdict = before.still(&open.keeper.table);
        self.judge("reload", verdict);
        self.mark_dirty(n, shard, epoch, key);
    }

    /// One run of turns (`Incarnation::batch`).
    pub(crate) fn turns(&mut self, n: usize, shard: ShardId, epoch: Epoch, key: &EntityKey) {
        let Some(open) = self.open_shard(n, shard, epoch) else {
            return;
        };
        let Some(slot) = open.slots.get_mut(key) else {
            return;
        };
        slot.turn_is_due = false;
        let is_dirty = std::mem::take(&mut slot.is_dirty);
        let n_mail = slot.mail.len().min(MAX_BATCH);
        let mut inputs: VecDeque<ActorEvent> = VecDeque::with_capacity(n_mail + 1);
        inputs.extend(is_dirty.then_some(ActorEvent::Changed));
        inputs.extend(slot.mail.drain(..n_mail));
        while let Some(input) = inputs.pop_front() {
            if self.turn(n, shard, epoch, key, &input).is_err() {
                return self.look_again(n, shard, epoch, key, inputs);
            }
        }
        let more = self
            .open_shard(n, shard, epoch)
            .and_then(|open| open.slots.get(key))
            .is_some_and(|slot| !slot.mail.is_empty());
        if more {
            self.turn_soon(n, shard, epoch, key);
        } else if let Some(open) = self.open_shard(n, shard, epoch)
            && let Some(slot) = open.slots.get(key)
        {
            let idle = Event::Idle {
                shard,
                epoch,
                key: key.clone(),
                activity: slot.activity,
            };
            self.at_node(n, IDLE_US, idle);
        }
    }

    /// An effect found no room: the actor is loaded again, and what it was told is kept.
    fn look_again(
        &mut self,
        n: usize,
        shard: ShardId,
        epoch: Epoch,
        key: &EntityKey,
        rest: VecDeque<ActorEvent>,
    ) {
        let Some(open) = self.open_shard(n, shard, epoch) else {
            return;
        };
        let Some(slot) = open.slots.get_mut(key) else {
            return;
        };
        slot.actor = None;
        for event in rest.into_iter().rev() {
            if event != ActorEvent::Changed {
                slot.mail.push_front(event);
            }
        }
        slot.is_dirty = true;
        slot.turn_is_due = true;
        let key = key.clone();
        self.at_node(n, NO_ROOM_PAUSE_US, Event::Turn { shard, epoch, key });
    }

    fn turn(
        &mut self,
        n: usize,
        shard: ShardId,
        epoch: Epoch,
        key: &EntityKey,
        event: &ActorEvent,
    ) -> Result<(), NoRoom> {
        let now_ms = self.node_ms(n);
        let node = &mut self.nodes[n];
        let Some(open) = node.control.shards.get_mut(&shard) else {
            return Ok(());
        };
        let Some(slot) = open.slots.get_mut(key) else {
            return Ok(());
        };
        let view = View {
            state: &node.replica.state,
            table: &open.keeper.table,
            settings: &self.settings,
        };
        let actor = slot
            .actor
            .get_or_insert_with(|| AnyActor::load(key, view, now_ms));
        let Outputs { effects, timers } = actor.turn(view, event, now_ms);
        self.counters.n_turns += 1;
        let numbers = [
            6,
            n as u64,
            u64::from(shard.0),
            epoch.0,
            effects.len() as u64,
        ];
        self.trace.add(self.now_us, &numbers, || {
            let shown = effects
                .iter()
                .filter(|e| !matches!(e, Effect::Explain { .. }));
            let shown = format!("{:?}", shown.collect::<Vec<_>>());
            let shown: String = shown.chars().take(MAX_SHOWN).collect();
            format!("node {} turn {key} {event:?} -> {shown}", n + 1)
        });
        for effect in effects {
            self.execute(n, shard, epoch, key, effect)?;
        }
        for timer in timers {
            self.set_timer(n, shard, epoch, key, timer.name, timer.after_ms);
        }
        Ok(())
    }

    fn set_timer(
        &mut self,
        n: usize,
        shard: ShardId,
        epoch: Epoch,
        key: &EntityKey,
        name: &'static str,
        after_ms: Option<u64>,
    ) {
        let Some(open) = self.open_shard(n, shard, epoch) else {
            return;
        };
        let slot = (key.clone(), name);
        let Some(after_ms) = after_ms else {
            open.timers.remove(&slot);
            return;
        };
        open.next_timer += 1;
        let id = open.next_timer;
        open.timers.insert(slot, id);
        let event = Event::Timer {
            shard,
            epoch,
            key: key.clone(),
            name,
            id,
        };
        self.at_node(n, after_ms * MS, event);
    }

    pub(crate) fn fire(
        &mut self,
        n: usize,
        (shard, epoch): (ShardId, Epoch),
        key: EntityKey,
        name: &'static str,
        id: u64,
    ) {
        let Some(open) = self.open_shard(n, shard, epoch) else {
            return;
        };
        let slot = (key.clone(), name);
        if open.timers.get(&slot) == Some(&id) {
            open.timers.remove(&slot);
            self.tell(n, shard, epoch, key, ActorEvent::Timer { name });
        }
    }

    /// Nothing came for a while: to sleep, if nothing would be lost.
    pub(crate) fn idle(
        &mut self,
        n: usize,
        shard: ShardId,
        epoch: Epoch,
        key: &EntityKey,
        activity: u64,
    ) {
        let node = &mut self.nodes[n];
        let Some(open) = node.control.shards.get_mut(&shard) else {
            return;
        };
        let Some(slot) = open.slots.get(key).filter(|_| open.epoch == epoch) else {
            return;
        };
        if slot.activity != activity {
            return;
        }
        let view = View {
            state: &node.replica.state,
            table: &open.keeper.table,
            settings: &self.settings,
        };
        let needed = slot
            .actor
            .as_ref()
            .is_some_and(|actor| !actor.may_passivate(view));
        let is_busy = slot.is_dirty || !slot.mail.is_empty();
        if is_busy || needed {
            let event = Event::Idle {
                shard,
                epoch,
                key: key.clone(),
                activity,
            };
            self.at_node(n, IDLE_US, event);
            return;
        }
        open.slots.remove(key);
        self.counters.n_passivations += 1;
    }

    // Effects.

    /// Rows first, hand-over second (`Entities::execute`).
    fn execute(
        &mut self,
        n: usize,
        shard: ShardId,
        epoch: Epoch,
        key: &EntityKey,
        effect: Effect,
    ) -> Result<(), NoRoom> {
        let verdict = self.checks.owners.acts(shard, epoch, self.address(n));
        self.judge("one owner", verdict);
        let state = &self.nodes[n].replica.state;
        let verdict = self.checks.desired.effect(state, &effect);
        self.judge("desired in bounds", verdict);
        let owned = Owned { shard, epoch };
        match effect {
            Effect::Start { session, spec } => {
                self.order_start(n, owned, session, spec);
                self.reload_after_start(n, owned, key);
            }
            Effect::Stop {
                session, instance, ..
            } => return self.hand_over(n, session, AgentCall::Stop { owned, instance }),
            Effect::Reopen { session, instance } => {
                return self.hand_over(n, session, AgentCall::Reopen { owned, instance });
            }
            Effect::Freeze { session, instance } => {
                return self.hand_over(n, session, AgentCall::Freeze { owned, instance });
            }
            Effect::Thaw { session, instance } => {
                return self.hand_over(n, session, AgentCall::Thaw { owned, instance });
            }
            Effect::PushEndpoints(table) => self.publish(n, shard, epoch, *table),
            Effect::Explain { .. } => {}
            Effect::Propose(command) => self.order(n, shard, epoch, key, What::Propose(command)),
            Effect::RecordScale(update) => {
                self.order(n, shard, epoch, key, What::RecordScale(update));
            }
            Effect::Tell(to, event) => self.order(n, shard, epoch, key, What::Tell(to, event)),
        }
        Ok(())
    }

    /// A panic between `Start` and its answer (03-actors §11, F8).
    fn reload_after_start(&mut self, n: usize, owned: Owned, key: &EntityKey) {
        if self.plan.faults.reload && self.random.chance(RELOAD_AFTER_START) {
            let event = Event::Reload {
                shard: owned.shard,
                epoch: owned.epoch,
                key: key.clone(),
            };
            let after = self.random.skewed(1, 2 * MS);
            self.at_node(n, after, event);
        }
    }

    /// A full queue, or a session that has just ended, is looked at again.
    fn hand_over(&mut self, n: usize, session: SessionId, call: AgentCall) -> Result<(), NoRoom> {
        let taken = self.enqueue(n, session, call);
        taken.then_some(()).ok_or(NoRoom)
    }

    fn order(&mut self, n: usize, shard: ShardId, epoch: Epoch, key: &EntityKey, what: What) {
        let key = key.clone();
        // One executor per node: in order.
        let event = Event::Order {
            shard,
            epoch,
            key,
            what,
        };
        let to = self.address(n);
        self.send_in_order(n, to, event);
    }

    pub(crate) fn carry_out(
        &mut self,
        n: usize,
        (shard, epoch): (ShardId, Epoch),
        key: EntityKey,
        what: What,
    ) {
        if self.epoch_of(n, shard) != Some(epoch) {
            return;
        }
        match what {
            What::Propose(command) => {
                let origin = Origin::Actor { shard, epoch, key };
                let request = RequestKey::default();
                self.propose(n, *command, request, PROPOSAL_LIMIT_US, origin);
            }
            What::RecordScale(update) => {
                let scales = &mut self.nodes[n].control.scales;
                scales.insert(update.revision.clone(), update);
            }
            What::Tell(to, event) => self.tell(n, shard, epoch, to, event),
        }
    }

    fn order_start(&mut self, n: usize, owned: Owned, session: SessionId, spec: Box<InstanceSpec>) {
        let Owned { shard, epoch } = owned;
        let now_ms = self.node_ms(n);
        let verdict = self.checks.instances.asked_for(&spec.id);
        self.judge("instance ids", verdict);
        let node = &mut self.nodes[n];
        let home = node.replica.state.session(session);
        let row = InstanceRow {
            revision: spec.revision.clone(),
            session,
            node: home.map(|session| session.opened.node).unwrap_or_default(),
            state: RowState::Requested,
            since_ms: now_ms,
        };
        let id = spec.id.clone();
        let late = self.plant == Some(Plant::RowAfterStart);
        if let Some(open) = self.open_shard(n, shard, epoch) {
            open.keeper.requested(&id, row);
            if late {
                open.keeper.table.instances.remove(&id);
            }
        }
        if !self.enqueue(n, session, AgentCall::Start { owned, spec }) {
            let refusal = Refusal {
                kind: RefusalKind::Busy,
                text: "the node left, or its call queue is full".into(),
            };
            if let Some(open) = self.open_shard(n, shard, epoch) {
                open.keeper.set(&id, RowState::Refused(refusal), now_ms);
            }
        }
    }

    pub(crate) fn next_seq(&mut self, n: usize) -> u64 {
        let control = &mut self.nodes[n].control;
        control.seq += 1;
        control.seq
    }

    fn publish(&mut self, n: usize, shard: ShardId, epoch: Epoch, mut table: EndpointTable) {
        let Some(open) = self.open_shard(n, shard, epoch) else {
            return;
        };
        open.keeper.table.endpoint_seq += 1;
        table.epoch = epoch;
        table.seq = open.keeper.table.endpoint_seq;
        let verdict = self
            .checks
            .endpoints
            .published(&table, &self.checks.instances);
        self.judge("endpoints exist", verdict);
        let board = &mut self.nodes[n].control.board;
        board.insert(table.revision.clone(), (shard, table.clone()));
        self.push_to_followers(n, &table);
    }
}
