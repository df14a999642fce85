//! Follows the applied state: opens, reconciles and closes shards; wakes actors; keeps agents'
//! queues and the gateway in step with the open sessions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use nihilo_entity::keeper::{Keeper, RESTART_GRACE_MS};
use nihilo_entity::reconcile;
use nihilo_entity::{EntityKey, View};
use nihilo_failpoint::{Point, hit};
use nihilo_machine::member::Duty;
use nihilo_machine::route_table::Changed;
use nihilo_machine::state::{ObjectChange, ObjectEvent, Session};
use nihilo_types::config_map::is_system;
use nihilo_types::id::{Epoch, LogIndex, NodeId, ObjectKey, SessionId, ShardId};
use nihilo_types::shard::shard_of;
use tracing::{debug, info};

use crate::agents::relist_all;
use crate::follow::{Follower, RouteFeed};
use crate::node::Shared;
use crate::ports::read;

/// Uncapped starts wait no longer than this for agents that do not answer (03-actors §9).
const RECONCILE_GRACE: Duration = Duration::from_millis(100);
const SWEEP_PERIOD: Duration = Duration::from_millis(250);
/// How long what is known of a deleted revision may stay.
const FORGET_PERIOD: Duration = Duration::from_secs(10);

/// What this node has acted on so far.
struct Progress {
    applied: LogIndex,
    ownership_at: LogIndex,
    sessions: BTreeMap<SessionId, Arc<Session>>,
    owned: BTreeMap<ShardId, Epoch>,
    /// Nodes that were lost and whose instances outlive them, and until when each may be back
    /// before these are replaced: who gains a shard has no rows of what its last owner counted.
    lost: BTreeMap<NodeId, u64>,
    follower: Follower,
    routes: RouteFeed,
    /// Nodes that are not given all work.
    off_duty: Vec<(NodeId, Duty)>,
}

/// Never returns.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut applied = shared.ports.state.applied();
    let mut progress = Progress {
        applied: *applied.borrow_and_update(),
        ownership_at: LogIndex(0),
        sessions: BTreeMap::new(),
        owned: BTreeMap::new(),
        lost: lost_before(&shared),
        follower: Follower::default(),
        routes: RouteFeed::start(&shared),
        off_duty: Vec::new(),
    };
    progress.sync_ownership(&shared);
    shared.table_acknowledged.send_replace(progress.applied);
    let mut session = shared.session.subscribe();
    let mut sweep = tokio::time::interval(SWEEP_PERIOD);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut forget = tokio::time::interval(FORGET_PERIOD);
    forget.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // Applied entries first: everything else is judged by them.
        tokio::select! {
            biased;
            changed = applied.changed() => {
                if changed.is_err() {
                    return;
                }
                let index = *applied.borrow_and_update();
                progress.advance(&shared, index);
            }
            _ = session.changed() => progress.sync_ownership(&shared),
            _ = sweep.tick() => shared.sweep_keepers(),
            _ = forget.tick() => shared.forget_gone(),
        }
    }
}

impl Progress {
    fn advance(&mut self, shared: &Arc<Shared>, index: LogIndex) {
        let events = shared.ports.state.changes_since(self.applied);
        self.applied = index;
        let changes = || events.iter().flatten().map(|event| &event.object);
        if changes().any(|change| shared.waits_here(change)) {
            shared.awaited_table.send_replace(index);
        }
        let changed = events.is_some().then(|| Changed::of(changes()));
        let acknowledged = self.routes.advance(shared, index, changed);
        let ownership_at = read(shared.ports.state.as_ref(), |state| state.ownership_at());
        if ownership_at != self.ownership_at {
            self.sync_ownership(shared);
        }
        match events {
            Some(events) => shared.wake_interested(&events),
            None => shared.wake_everything(),
        }
        self.look_at_duties(shared);
        shared.table_acknowledged.send_if_modified(|known| {
            let grew = acknowledged > *known;
            *known = acknowledged.max(*known);
            grew
        });
    }

    /// What may be placed where, and what must move, changes for every revision at once.
    fn look_at_duties(&mut self, shared: &Shared) {
        let off_duty = read(shared.ports.state.as_ref(), |state| {
            state.off_duty().collect()
        });
        if off_duty != self.off_duty {
            self.off_duty = off_duty;
            shared.wake_everything();
        }
    }

    /// Compares sessions and owners with what was acted on; each difference is handled once.
    fn sync_ownership(&mut self, shared: &Arc<Shared>) {
        let myself = shared.session();
        let (ownership_at, sessions, owners) = read(shared.ports.state.as_ref(), |state| {
            let sessions: BTreeMap<_, _> = state
                .sessions()
                .map(|session| (session.id, session.clone()))
                .collect();
            let owners: Vec<_> = state.owners().collect();
            (state.ownership_at(), sessions, owners)
        });
        self.ownership_at = ownership_at;
        let floors: Vec<_> = owners
            .iter()
            .map(|(shard, owner)| (*shard, owner.epoch))
            .collect();
        shared.ports.agent.set_floors(&floors);
        let owned: BTreeMap<ShardId, Epoch> = owners
            .iter()
            .filter(|(_, owner)| owner.session == myself && myself != SessionId(0))
            .map(|(shard, owner)| (*shard, owner.epoch))
            .collect();
        self.close_lost(shared, &owned);
        self.end_sessions(shared, &sessions);
        self.begin_sessions(shared, &sessions);
        self.open_gained(shared, &owned, &sessions);
        self.follower.sync(shared, &sessions);
        self.sessions = sessions;
        self.owned = owned;
        // The new owner has never heard of what waits here.
        shared.ports.gateway.resend_demand();
    }

    fn close_lost(&mut self, shared: &Shared, owned: &BTreeMap<ShardId, Epoch>) {
        for (shard, epoch) in &self.owned {
            if owned.get(shard) != Some(epoch) {
                debug!(%shard, %epoch, "shard lost");
                hit(Point::ShardsLost);
                shared.close_shard(*shard, *epoch);
            }
        }
    }

    fn end_sessions(&mut self, shared: &Arc<Shared>, open: &BTreeMap<SessionId, Arc<Session>>) {
        for (id, session) in &self.sessions {
            if open.contains_key(id) {
                continue;
            }
            shared.agents.remove(*id);
            // A node that leaves answers what it has begun; from one that is lost nothing comes.
            let (has_left, returns) = read(shared.ports.state.as_ref(), |state| {
                (state.has_left(*id), state.returns(*id))
            });
            match has_left {
                true => shared.ports.gateway.session_left(*id),
                false => shared.ports.gateway.session_down(*id),
            }
            // Who leaves for good has stopped everything before.
            let dies = session.opened.kills_instances_on_exit || (has_left && !returns);
            if !dies {
                let until_ms = shared.now_ms() + RESTART_GRACE_MS;
                self.lost.insert(session.opened.node, until_ms);
            }
            shared.session_ended(*id, dies);
        }
    }

    fn begin_sessions(&mut self, shared: &Arc<Shared>, open: &BTreeMap<SessionId, Arc<Session>>) {
        let known = shared.agents.sessions();
        for (id, session) in open {
            // Its agent's list is waited for from here on.
            self.lost.remove(&session.opened.node);
            if !session.opened.roles.agent || known.contains(id) {
                continue;
            }
            shared.agents.add(shared, session.clone());
            // An agent that joins may run what nobody counted yet.
            shared.wait_for_agent(*id);
            relist_all(shared, *id);
        }
    }

    fn open_gained(
        &mut self,
        shared: &Arc<Shared>,
        owned: &BTreeMap<ShardId, Epoch>,
        sessions: &BTreeMap<SessionId, Arc<Session>>,
    ) {
        let gained: BTreeMap<_, _> = owned
            .iter()
            .filter(|(shard, epoch)| self.owned.get(*shard) != Some(*epoch))
            .map(|(shard, epoch)| (*shard, *epoch))
            .collect();
        if gained.is_empty() {
            return;
        }
        info!(n_shards = gained.len(), "shards gained");
        hit(Point::ShardsGained);
        let agents: Vec<_> = sessions
            .values()
            .filter(|s| s.opened.roles.agent)
            .map(|session| session.id)
            .collect();
        let now = shared.now_ms();
        self.lost.retain(|_, until_ms| *until_ms > now);
        for (shard, epoch) in &gained {
            let mut keeper = Keeper::new(*shard, *epoch, agents.iter().copied());
            for (node, until_ms) in &self.lost {
                keeper.await_node(*node, *until_ms);
            }
            shared.open_shard(*shard, *epoch, keeper);
        }
        let shards: BTreeSet<_> = gained.keys().copied().collect();
        for agent in agents {
            shared.agents.list(agent, shards.iter().copied());
        }
        let waiting = shared.clone();
        shared.spawn("reconcile-grace", async move {
            tokio::time::sleep(RECONCILE_GRACE).await;
            for (shard, epoch) in gained {
                waiting.finish_reconciling(shard, epoch, true);
            }
        });
    }
}

/// Members that have no session as this process begins: when they were lost it cannot say.
fn lost_before(shared: &Shared) -> BTreeMap<NodeId, u64> {
    let until_ms = shared.now_ms() + RESTART_GRACE_MS;
    read(shared.ports.state.as_ref(), |state| {
        let open: BTreeSet<_> = state.sessions().map(|s| s.opened.node).collect();
        let members = state.members().filter(|member| !member.is_removed());
        let absent = members
            .map(|member| member.id)
            .filter(|id| !open.contains(id));
        absent.map(|id| (id, until_ms)).collect()
    })
}

impl Shared {
    /// Whether what has changed is a Route that is owned here, or an own domain of one, that may
    /// wait for other nodes' gateways.
    fn waits_here(&self, change: &ObjectChange) -> bool {
        let is_owned = |route: &ObjectKey| self.epoch_of(shard_of(route)).is_some();
        if let ObjectChange::Route { .. } = change {
            let route = change.key();
            return is_owned(&route)
                && read(self.ports.state.as_ref(), |state| {
                    let route = state.route(&route);
                    route.is_some_and(|route| !route.status.conditions.is_true("Ready"))
                });
        }
        if let ObjectChange::DomainMapping { object, .. } = change {
            return is_owned(&object.route()) && object.awaits_gateways();
        }
        false
    }

    fn wake_interested(&self, events: &[ObjectEvent]) {
        let is_setting = |event: &ObjectEvent| {
            matches!(event.object, ObjectChange::ConfigMap { .. }) && is_system(&event.object.key())
        };
        if events.iter().any(is_setting) {
            // Running autoscalers look anyway, each second; the rest may have a new minimum.
            self.wake_everything();
        }
        for event in events {
            let Some(shard) = self.shard_of_change(&event.object) else {
                continue;
            };
            let Some(epoch) = self.epoch_of(shard) else {
                continue;
            };
            for key in reconcile::interested(&event.object) {
                self.mark_dirty(shard, epoch, key);
            }
        }
    }

    fn shard_of_change(&self, change: &ObjectChange) -> Option<ShardId> {
        match change {
            ObjectChange::Service { .. }
            | ObjectChange::Configuration { .. }
            | ObjectChange::Route { .. } => Some(shard_of(&change.key())),
            ObjectChange::Revision { object, .. } => Some(shard_of(&object.root())),
            ObjectChange::DomainMapping { object, .. } => Some(shard_of(&object.route())),
            ObjectChange::ConfigMap { .. }
            | ObjectChange::Secret { .. }
            | ObjectChange::DomainClaim { .. } => None,
            ObjectChange::Scale { revision } => read(self.ports.state.as_ref(), |state| {
                state
                    .revision(revision)
                    .map(|revision| shard_of(&revision.root()))
            }),
        }
    }

    fn wake_everything(&self) {
        for shard in self.owned_shards() {
            if let Some(epoch) = self.epoch_of(shard) {
                self.wake_hot(shard, epoch);
            }
        }
    }

    /// Wakes what a newly opened shard must look at; everything else sleeps on.
    pub(crate) fn wake_hot(&self, shard: ShardId, epoch: Epoch) {
        let hot = self.with_keeper(shard, epoch, |keeper| {
            read(self.ports.state.as_ref(), |state| {
                let view = View {
                    state,
                    table: &keeper.table,
                    settings: state.settings(),
                };
                reconcile::hot_entities(view)
            })
        });
        for key in hot.unwrap_or_default() {
            self.mark_dirty(shard, epoch, key);
        }
    }

    /// Runs the shard's turns once all agents have answered, or `after_grace`: then uncapped
    /// starts may go on with those that did.
    pub(crate) fn finish_reconciling(&self, shard: ShardId, epoch: Epoch, after_grace: bool) {
        let step = self.with_keeper(shard, epoch, |keeper| {
            let completed = keeper.is_complete() && !keeper.table.complete;
            keeper.table.complete |= keeper.is_complete();
            let activate = !keeper.active && (keeper.table.complete || after_grace);
            keeper.active |= activate;
            (activate, completed)
        });
        let Some((activate, completed)) = step else {
            return;
        };
        if activate {
            self.activate_shard(shard, epoch);
        }
        if activate || completed {
            self.wake_hot(shard, epoch);
        }
    }

    fn wait_for_agent(&self, agent: SessionId) {
        for shard in self.owned_shards() {
            let Some(epoch) = self.epoch_of(shard) else {
                continue;
            };
            self.with_keeper(shard, epoch, |keeper| {
                keeper.waiting.insert(agent);
                keeper.table.complete = false;
            });
        }
    }

    fn session_ended(&self, session: SessionId, dies: bool) {
        let now = self.now_ms();
        for shard in self.owned_shards() {
            let Some(epoch) = self.epoch_of(shard) else {
                continue;
            };
            let touched = self.with_keeper(shard, epoch, |keeper| {
                keeper.session_ended(session, dies, now)
            });
            if touched == Some(true) {
                self.wake_shard_revisions(shard, epoch);
            }
            self.finish_reconciling(shard, epoch, false);
        }
        self.sweep_keepers();
    }

    pub(crate) fn sweep_keepers(&self) {
        let now = self.now_ms();
        for shard in self.owned_shards() {
            let Some(epoch) = self.epoch_of(shard) else {
                continue;
            };
            let swept = self.with_keeper(shard, epoch, |keeper| {
                let expired = keeper.sweep(now);
                (expired, keeper.is_complete() && !keeper.table.complete)
            });
            let Some((expired, completes)) = swept else {
                continue;
            };
            if completes {
                self.finish_reconciling(shard, epoch, false);
            }
            self.wake_revisions(shard, epoch, &expired);
        }
    }

    /// Statistics and decisions of revisions that no longer exist go.
    fn forget_gone(&self) {
        for shard in self.owned_shards() {
            let Some(epoch) = self.epoch_of(shard) else {
                continue;
            };
            self.with_keeper(shard, epoch, |keeper| {
                read(self.ports.state.as_ref(), |state| {
                    keeper.forget_gone(|revision| state.revision_facts(revision).is_some());
                });
            });
        }
        read(self.ports.state.as_ref(), |state| {
            self.explanations
                .forget_gone(|revision| state.revision_facts(revision).is_some());
        });
    }

    /// Every revision of the shard that has instances looks again.
    pub(crate) fn wake_shard_revisions(&self, shard: ShardId, epoch: Epoch) {
        let revisions = self.with_keeper(shard, epoch, |keeper| {
            keeper
                .table
                .instances
                .values()
                .map(|row| row.revision.clone())
                .collect()
        });
        self.wake_revisions(shard, epoch, &revisions.unwrap_or_default());
    }

    pub(crate) fn wake_revisions(
        &self,
        shard: ShardId,
        epoch: Epoch,
        revisions: &BTreeSet<ObjectKey>,
    ) {
        for revision in revisions {
            self.mark_dirty(shard, epoch, EntityKey::Revision(revision.clone()));
            self.mark_dirty(shard, epoch, EntityKey::Autoscaler(revision.clone()));
        }
    }
}
