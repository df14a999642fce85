//! Follows the applied state: shards, sessions, the gateway's table. Mirrors `control/shards.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nihilo_entity::keeper::Keeper;
use nihilo_entity::reconcile;
use nihilo_entity::{EntityKey, View};
use nihilo_machine::State;
use nihilo_machine::route_table::{self, Changed};
use nihilo_machine::state::{ObjectChange, ObjectEvent, Session};
use nihilo_types::id::{Epoch, LogIndex, ObjectKey, SessionId, ShardId};
use nihilo_types::shard::shard_of;

use super::World;
use super::actors::OpenShard;
use super::event::Event;
use super::plan::MS;
use super::plant::Plant;

const RECONCILE_GRACE_US: u64 = 100 * MS;
const SWEEP_PERIOD_US: u64 = 250 * MS;

impl World {
    /// `RouteFeed::start` and the first look.
    pub(crate) fn begin_control(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        let applied = LogIndex(node.replica.applied);
        let table = route_table::build(&node.replica.state, applied);
        node.control.table = Arc::new(table);
        node.control.acknowledged = applied;
        self.sync_ownership(n);
    }

    /// Entries were applied: the task that follows wakes a moment later, once for all of them.
    pub(crate) fn advance_soon(&mut self, n: usize) {
        if self.nodes[n].replica.advance_is_due {
            return;
        }
        self.nodes[n].replica.advance_is_due = true;
        let delay = self.task_delay();
        self.at_node(n, delay, Event::Advance);
    }

    /// `Progress::advance`.
    pub(crate) fn advance(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        node.replica.advance_is_due = false;
        let changes = node.replica.changes.replace(Vec::new());
        let acknowledged = self.feed_routes(n, changes.as_deref());
        let node = &self.nodes[n];
        if node.replica.state.ownership_at() != node.control.ownership_at {
            self.sync_ownership(n);
        }
        match changes {
            Some(changes) => self.wake_interested(n, &changes),
            None => self.wake_everything(n),
        }
        let control = &mut self.nodes[n].control;
        control.acknowledged = control.acknowledged.max(acknowledged);
        self.table_changed(n);
        self.serve_once_acted_on(n);
    }

    /// `RouteFeed::advance`: swaps the gateway's table.
    fn feed_routes(&mut self, n: usize, changes: Option<&[ObjectEvent]>) -> LogIndex {
        let node = &mut self.nodes[n];
        let applied = LogIndex(node.replica.applied);
        let state = &node.replica.state;
        let next = match changes {
            Some(changes) => {
                let changed = Changed::of(changes.iter().map(|change| &change.object));
                match changed.is_empty() {
                    true => None,
                    false => Some(route_table::update(
                        &node.control.table,
                        state,
                        &changed,
                        applied,
                    )),
                }
            }
            None => Some(route_table::build(state, applied)),
        };
        if let Some(table) = next {
            node.control.table = Arc::new(table);
        }
        applied
    }

    pub(crate) fn sync_ownership(&mut self, n: usize) {
        let node = &self.nodes[n];
        let state = &node.replica.state;
        let myself = node.control.session;
        let sessions: BTreeMap<SessionId, Arc<Session>> =
            state.sessions().map(|s| (s.id, s.clone())).collect();
        let owners: Vec<_> = state.owners().collect();
        let ownership_at = state.ownership_at();
        let owned: BTreeMap<ShardId, Epoch> = owners
            .iter()
            .filter(|(_, owner)| owner.session == myself && myself != SessionId(0))
            .map(|(shard, owner)| (*shard, owner.epoch))
            .collect();
        let floors: Vec<_> = owners.iter().map(|(s, owner)| (*s, owner.epoch)).collect();
        self.nodes[n].control.ownership_at = ownership_at;
        self.set_floors(n, &floors);
        self.close_lost(n, &owned);
        self.end_sessions(n, &sessions);
        self.begin_sessions(n, &sessions);
        self.open_gained(n, &owned, &sessions);
        self.follow_owners(n, &sessions);
        self.nodes[n].control.sessions = sessions;
        self.nodes[n].control.owned = owned;
        // The new owner has never heard of what waits here.
        self.resend_demand(n);
    }

    fn close_lost(&mut self, n: usize, owned: &BTreeMap<ShardId, Epoch>) {
        let control = &mut self.nodes[n].control;
        let lost: Vec<_> = control
            .owned
            .iter()
            .filter(|(shard, epoch)| owned.get(*shard) != Some(*epoch))
            .map(|(shard, _)| *shard)
            .collect();
        for shard in lost {
            control.owned.remove(&shard);
            control.shards.remove(&shard);
            control.board.retain(|_, (of, _)| *of != shard);
        }
    }

    fn end_sessions(&mut self, n: usize, open: &BTreeMap<SessionId, Arc<Session>>) {
        let ended: Vec<_> = self.nodes[n]
            .control
            .sessions
            .values()
            .filter(|session| !open.contains_key(&session.id))
            .cloned()
            .collect();
        for session in ended {
            if let Some(queue) = self.nodes[n].control.queues.get_mut(&session.id) {
                queue.is_closed = true;
            }
            // A node that leaves answers what it has begun; from one that is lost nothing comes.
            match self.nodes[n].replica.state.has_left(session.id) {
                true => self.gateway_session_left(n, session.id),
                false => self.gateway_session_down(n, session.id),
            }
            self.session_ended(n, session.id, session.opened.kills_instances_on_exit);
        }
    }

    fn begin_sessions(&mut self, n: usize, open: &BTreeMap<SessionId, Arc<Session>>) {
        for (id, session) in open {
            let known = self.nodes[n].control.queues.get(id);
            if !session.opened.roles.agent || known.is_some_and(|queue| !queue.is_closed) {
                continue;
            }
            self.add_queue(n, session.clone());
            if self.plant == Some(Plant::NoListOnJoin) {
                continue;
            }
            // An agent that joins may run what nobody counted yet.
            for open in self.nodes[n].control.shards.values_mut() {
                open.keeper.waiting.insert(*id);
                open.keeper.table.complete = false;
            }
            self.relist_all(n, *id);
        }
    }

    fn open_gained(
        &mut self,
        n: usize,
        owned: &BTreeMap<ShardId, Epoch>,
        sessions: &BTreeMap<SessionId, Arc<Session>>,
    ) {
        let gained: Vec<_> = owned
            .iter()
            .filter(|(shard, epoch)| self.nodes[n].control.owned.get(*shard) != Some(*epoch))
            .map(|(shard, epoch)| (*shard, *epoch))
            .collect();
        if gained.is_empty() {
            return;
        }
        let waits = self.plant != Some(Plant::KeeperDoesNotWait);
        let agents: Vec<_> = sessions
            .values()
            .filter(|session| session.opened.roles.agent)
            .map(|session| session.id)
            .collect();
        for (shard, epoch) in &gained {
            let mut keeper = Keeper::new(*shard, *epoch, agents.iter().copied());
            if !waits {
                keeper.waiting.clear();
            }
            let control = &mut self.nodes[n].control;
            control
                .shards
                .insert(*shard, OpenShard::new(*epoch, keeper));
            control.owned.insert(*shard, *epoch);
            self.acknowledge(n, *shard, *epoch);
        }
        let shards: BTreeSet<_> = gained.iter().map(|(shard, _)| *shard).collect();
        for agent in agents {
            self.wish_list(n, agent, shards.clone());
        }
        self.at_node(n, RECONCILE_GRACE_US, Event::ReconcileGrace { gained });
    }

    fn wake_interested(&mut self, n: usize, changes: &[ObjectEvent]) {
        for change in changes {
            let state = &self.nodes[n].replica.state;
            let Some(shard) = shard_of_change(state, &change.object) else {
                continue;
            };
            let Some(epoch) = self.epoch_of(n, shard) else {
                continue;
            };
            for key in reconcile::interested(&change.object) {
                self.mark_dirty(n, shard, epoch, &key);
            }
        }
    }

    fn wake_everything(&mut self, n: usize) {
        for (shard, epoch) in self.nodes[n].control.owned.clone() {
            self.wake_hot(n, shard, epoch);
        }
    }

    pub(crate) fn epoch_of(&self, n: usize, shard: ShardId) -> Option<Epoch> {
        self.nodes[n].control.owned.get(&shard).copied()
    }

    pub(crate) fn wake_hot(&mut self, n: usize, shard: ShardId, epoch: Epoch) {
        let node = &self.nodes[n];
        let Some(open) = node.control.shards.get(&shard) else {
            return;
        };
        let hot = reconcile::hot_entities(View {
            state: &node.replica.state,
            table: &open.keeper.table,
            settings: &self.settings,
        });
        for key in hot {
            self.mark_dirty(n, shard, epoch, &key);
        }
    }

    pub(crate) fn reconcile_grace(&mut self, n: usize, gained: &[(ShardId, Epoch)]) {
        for (shard, epoch) in gained {
            self.finish_reconciling(n, *shard, *epoch, true);
        }
    }

    pub(crate) fn finish_reconciling(
        &mut self,
        n: usize,
        shard: ShardId,
        epoch: Epoch,
        after_grace: bool,
    ) {
        let Some(open) = self.open_shard(n, shard, epoch) else {
            return;
        };
        let keeper = &mut open.keeper;
        let completed = keeper.is_complete() && !keeper.table.complete;
        keeper.table.complete |= keeper.is_complete();
        let activate = !keeper.active && (keeper.table.complete || after_grace);
        keeper.active |= activate;
        if activate {
            self.activate_shard(n, shard, epoch);
        }
        if activate || completed {
            self.wake_hot(n, shard, epoch);
        }
    }

    fn session_ended(&mut self, n: usize, session: SessionId, dies: bool) {
        let now_ms = self.node_ms(n);
        for (shard, epoch) in self.nodes[n].control.owned.clone() {
            let Some(open) = self.open_shard(n, shard, epoch) else {
                continue;
            };
            if open.keeper.session_ended(session, dies, now_ms) {
                self.wake_shard_revisions(n, shard, epoch);
            }
            self.finish_reconciling(n, shard, epoch, false);
        }
        self.sweep_keepers(n);
    }

    pub(crate) fn sweep(&mut self, n: usize) {
        self.at_node(n, SWEEP_PERIOD_US, Event::Sweep);
        self.sweep_keepers(n);
    }

    fn sweep_keepers(&mut self, n: usize) {
        let now_ms = self.node_ms(n);
        let mut expired = Vec::new();
        for (shard, open) in &mut self.nodes[n].control.shards {
            if open.keeper.table.instances.is_empty() {
                continue;
            }
            let revisions = open.keeper.sweep(now_ms);
            if !revisions.is_empty() {
                expired.push((*shard, open.epoch, revisions));
            }
        }
        for (shard, epoch, revisions) in expired {
            self.wake_revisions(n, shard, epoch, &revisions);
        }
    }

    pub(crate) fn wake_shard_revisions(&mut self, n: usize, shard: ShardId, epoch: Epoch) {
        let Some(open) = self.open_shard(n, shard, epoch) else {
            return;
        };
        let rows = open.keeper.table.instances.values();
        let revisions = rows.map(|row| row.revision.clone()).collect();
        self.wake_revisions(n, shard, epoch, &revisions);
    }

    pub(crate) fn wake_revisions(
        &mut self,
        n: usize,
        shard: ShardId,
        epoch: Epoch,
        revisions: &BTreeSet<ObjectKey>,
    ) {
        for revision in revisions {
            self.mark_dirty(n, shard, epoch, &EntityKey::Revision(revision.clone()));
            self.mark_dirty(n, shard, epoch, &EntityKey::Autoscaler(revision.clone()));
        }
    }
}

fn shard_of_change(state: &State, change: &ObjectChange) -> Option<ShardId> {
    match change {
        ObjectChange::Service { .. }
        | ObjectChange::Configuration { .. }
        | ObjectChange::Route { .. } => Some(shard_of(&change.key())),
        ObjectChange::Revision { object, .. } => Some(shard_of(&object.root())),
        ObjectChange::DomainMapping { object, .. } => Some(shard_of(&object.route())),
        ObjectChange::ConfigMap { .. }
        | ObjectChange::Secret { .. }
        | ObjectChange::DomainClaim { .. } => None,
        ObjectChange::Scale { revision } => state
            .revision(revision)
            .map(|revision| shard_of(&revision.root())),
    }
}
