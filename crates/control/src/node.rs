//! The control part of one node: constructed with its ports, run as a handful of tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nihilo_entity::keeper::Keeper;
use nihilo_entity::liveness::Roll;
use nihilo_entity::{EntityKey, Event};
use nihilo_types::endpoint::EndpointTable;
use nihilo_types::id::{Epoch, LogIndex, NodeId, ObjectKey, SessionId, ShardId};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, broadcast, mpsc, watch};
use tokio::task::JoinHandle;
use tracing::debug;

use crate::adapter::Entities;
use crate::agents::AgentQueues;
use crate::endpoints::EndpointBoard;
use crate::explanations::Explanations;
use crate::ports::{
    Agents, Demand, Handovers, KeepAlive, KeepAliveAnswer, LeaderLink, LeaderView, LinkError,
    LocalAgent, LocalGateway, Owners, Proposer, StatReport, StateSource,
};
use crate::session::SessionTemplate;
use crate::system::System;
use crate::{demand, effects, handover, proposals, scale_log, session, shards, stats};

/// How long a proposer waits for its own node to apply what was answered.
const APPLY_LIMIT: Duration = Duration::from_secs(5);

/// Fixed facts about this node.
#[derive(Debug, Clone)]
pub struct ControlConfig {
    pub node: NodeId,
    pub name: String,
    pub session: SessionTemplate,
    /// Of the timing profile; the leader's verdicts build on it.
    pub election_timeout_max_ms: u64,
}

/// The rest of the node, as control sees it.
#[derive(Clone)]
pub struct ControlPorts {
    pub proposer: Arc<dyn Proposer>,
    pub state: Arc<dyn StateSource>,
    pub leader: Arc<dyn LeaderView>,
    pub leader_link: Arc<dyn LeaderLink>,
    pub agents: Arc<dyn Agents>,
    pub owners: Arc<dyn Owners>,
    pub gateway: Arc<dyn LocalGateway>,
    pub agent: Arc<dyn LocalAgent>,
}

impl fmt::Debug for ControlPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlPorts").finish_non_exhaustive()
    }
}

/// Handle to the control part; cheap to clone.
#[derive(Debug, Clone)]
pub struct Control(Arc<Shared>);

/// What the tasks share. Lock order: shard (in `system`), then `roll`, then the state's read lock.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: ControlConfig,
    pub(crate) ports: ControlPorts,
    pub(crate) system: System,
    pub(crate) agents: Arc<AgentQueues>,
    pub(crate) board: Arc<EndpointBoard>,
    pub(crate) roll: Mutex<Roll>,
    pub(crate) session: watch::Sender<SessionId>,
    /// Route table that the gateway has swapped in.
    pub(crate) table_acknowledged: watch::Sender<LogIndex>,
    /// Minimum of those over all live gateways, as the leader last said.
    pub(crate) min_table: watch::Sender<LogIndex>,
    /// Newest route table that a Route owned here waits for every gateway to serve.
    pub(crate) awaited_table: watch::Sender<LogIndex>,
    /// When a keep-alive was last answered, on this node's clock.
    pub(crate) leader_contact: watch::Sender<Option<u64>>,
    pub(crate) proposal_slots: Semaphore,
    pub(crate) closing: AtomicBool,
    owned: Mutex<BTreeMap<ShardId, Epoch>>,
    pub(crate) explanations: Arc<Explanations>,
    /// Numbers every call to an agent; grows for the life of the process.
    seq: AtomicU64,
    demand: mpsc::Sender<Demand>,
    runtime: Handle,
}

impl Control {
    /// Builds the control part and starts its tasks on the present runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn(config: ControlConfig, ports: ControlPorts) -> Self {
        let (orders, order_queue) = mpsc::channel(effects::QUEUE);
        let (scales, scale_queue) = mpsc::channel(scale_log::QUEUE);
        let (demand, demand_queue) = mpsc::channel(demand::QUEUE);
        let (handovers, handover_queue) = mpsc::channel(handover::QUEUE);
        let entities = Entities {
            state: ports.state.clone(),
            agents: Arc::default(),
            board: Arc::default(),
            orders,
            explanations: Arc::default(),
            handovers,
        };
        let shared = Arc::new(Shared {
            agents: entities.agents.clone(),
            board: entities.board.clone(),
            explanations: entities.explanations.clone(),
            seq: AtomicU64::default(),
            system: System::new(entities),
            roll: Mutex::default(),
            session: watch::Sender::new(SessionId(0)),
            table_acknowledged: watch::Sender::new(LogIndex(0)),
            min_table: watch::Sender::new(LogIndex(0)),
            awaited_table: watch::Sender::new(LogIndex(0)),
            leader_contact: watch::Sender::new(None),
            proposal_slots: Semaphore::new(proposals::MAX_IN_FLIGHT),
            closing: AtomicBool::new(false),
            owned: Mutex::default(),
            demand,
            runtime: Handle::current(),
            config,
            ports,
        });
        shared.spawn("effects", effects::run(shared.clone(), order_queue, scales));
        shared.spawn("scale-log", scale_log::run(shared.clone(), scale_queue));
        shared.spawn("handovers", handover::run(shared.clone(), handover_queue));
        shared.spawn("demand", demand::run(shared.clone(), demand_queue));
        shared.spawn("statistics", stats::run(shared.clone()));
        shared.spawn("shards", shards::run(shared.clone()));
        shared.spawn("session", session::run(shared.clone()));
        shared.spawn("leader", session::run_leader(shared.clone()));
        Self(shared)
    }

    /// Demand of this node's gateway. Never blocks; what does not fit is repeated by the gateway.
    pub fn demand(&self, demand: Demand) {
        drop(self.0.demand.try_send(demand));
    }

    /// Demand that another node's gateway sent here. `false` = the shard is not owned here.
    pub fn demand_from_peer(&self, demand: &Demand) -> bool {
        self.0.take_demand(demand)
    }

    /// What a former owner hands over with its shards.
    pub fn hand_over_from_peer(&self, handovers: Handovers) {
        let shared = self.0.clone();
        let taking = shared.clone().take_handovers(handovers);
        shared.spawn("take-handovers", taking);
    }

    pub fn report_from_peer(&self, report: StatReport) {
        self.0.take_stats(report);
    }

    /// Endpoint tables of everything owned here: the present ones, then changes.
    pub fn follow_endpoints(&self) -> (Vec<EndpointTable>, broadcast::Receiver<EndpointTable>) {
        self.0.board.follow()
    }

    /// A keep-alive from another node.
    ///
    /// # Errors
    /// When this node does not lead with a quorum behind it.
    pub fn keep_alive_from_peer(&self, message: &KeepAlive) -> Result<KeepAliveAnswer, LinkError> {
        self.0.answer_keep_alive(message)
    }

    /// The newest decision about a revision with its inputs, as JSON; `None` if not owned here.
    pub fn explain(&self, revision: &ObjectKey) -> Option<Box<str>> {
        self.0.explanations.report(revision, self.0.now_ms())
    }

    /// This node's open session; 0 = none.
    pub fn session(&self) -> watch::Receiver<SessionId> {
        self.0.session.subscribe()
    }

    pub fn table_acknowledged(&self) -> LogIndex {
        *self.0.table_acknowledged.borrow()
    }

    /// Milliseconds since the leader last answered; `None` = never.
    pub fn leader_contact_age_ms(&self) -> Option<u64> {
        self.0
            .leader_contact
            .borrow()
            .map(|at| self.0.now_ms().saturating_sub(at))
    }

    pub fn n_owned_shards(&self) -> usize {
        self.0.owned.lock().len()
    }

    pub fn leader(&self) -> Option<NodeId> {
        self.0.leader()
    }

    /// Hands everything over; see [`Shared::leave`].
    pub async fn leave(&self, limit: Duration) {
        self.0.leave(limit, false).await;
    }

    /// The same, of a node whose next process goes on with its instances at once.
    pub async fn leave_for_a_moment(&self, limit: Duration) {
        self.0.leave(limit, true).await;
    }
}

impl Shared {
    pub(crate) fn now_ms(&self) -> u64 {
        self.system.now_ms()
    }

    pub(crate) fn next_seq(&self) -> u64 {
        self.seq.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Spawns a task of control; a panic in it is logged by name.
    pub(crate) fn spawn(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        nihilo_actors::task::spawn_on(&self.runtime, name, task)
    }

    pub(crate) fn session(&self) -> SessionId {
        *self.session.borrow()
    }

    pub(crate) fn set_session(&self, session: SessionId) {
        let open = session != SessionId(0);
        self.ports.agent.set_accepting(open);
        if open {
            self.ports.gateway.open_listeners();
        }
        self.session.send_replace(session);
    }

    /// Waits until this node has applied `index`, within a limit: what follows may look a moment
    /// too early, which costs a turn, never correctness.
    pub(crate) async fn wait_applied(&self, index: LogIndex) {
        if !reaches(self.ports.state.applied(), index).await {
            debug!(%index, "not applied here in time");
        }
    }

    /// Waits until owners' floors and the route table here are those of `index`, or newer; `false`
    /// when they are not within a limit.
    pub(crate) async fn acted_on(&self, index: LogIndex) -> bool {
        reaches(self.table_acknowledged.subscribe(), index).await
    }

    pub(crate) fn epoch_of(&self, shard: ShardId) -> Option<Epoch> {
        self.owned.lock().get(&shard).copied()
    }

    pub(crate) fn epochs_of(&self, shards: &BTreeSet<ShardId>) -> BTreeMap<ShardId, Epoch> {
        let owned = self.owned.lock();
        shards
            .iter()
            .filter_map(|shard| Some((*shard, *owned.get(shard)?)))
            .collect()
    }

    pub(crate) fn owned_shards(&self) -> BTreeSet<ShardId> {
        self.owned.lock().keys().copied().collect()
    }

    pub(crate) fn open_shard(&self, shard: ShardId, epoch: Epoch, keeper: Keeper) {
        self.system.open_shard(shard, epoch, keeper);
        self.owned.lock().insert(shard, epoch);
        // A quiet cluster says it once: who comes later must know it too. After the shard is
        // owned, so that what is said just now reaches it one way or the other.
        self.acknowledge(shard, epoch, *self.min_table.borrow());
    }

    /// Every live gateway serves a route table at or above `table`.
    pub(crate) fn acknowledge(&self, shard: ShardId, epoch: Epoch, table: LogIndex) {
        self.with_keeper(shard, epoch, |keeper| {
            keeper.table.acknowledged = keeper.table.acknowledged.max(table);
        });
    }

    pub(crate) fn activate_shard(&self, shard: ShardId, epoch: Epoch) {
        self.system.activate_shard(shard, epoch);
    }

    pub(crate) fn close_shard(&self, shard: ShardId, epoch: Epoch) {
        self.owned.lock().remove(&shard);
        self.system.close_shard(shard, epoch);
        self.board.forget(shard);
        self.explanations.forget(shard);
    }

    /// Looks at or writes the keeper of a shard, under its lock; `None` once the epoch has passed.
    pub(crate) fn with_keeper<T>(
        &self,
        shard: ShardId,
        epoch: Epoch,
        look: impl FnOnce(&mut Keeper) -> T,
    ) -> Option<T> {
        self.system.with_keeper(shard, epoch, look)
    }

    pub(crate) fn mark_dirty(&self, shard: ShardId, epoch: Epoch, key: EntityKey) {
        self.system.mark_dirty(shard, epoch, &key);
    }

    pub(crate) fn tell(&self, shard: ShardId, epoch: Epoch, key: EntityKey, event: Event) {
        if let Err(error) = self.system.send(shard, epoch, &key, event) {
            debug!(%key, %error, "message not delivered");
        }
    }
}

/// Whether `at` comes to `index` within [`APPLY_LIMIT`].
async fn reaches(mut at: watch::Receiver<LogIndex>, index: LogIndex) -> bool {
    let reached = at.wait_for(|at| *at >= index);
    let in_time = tokio::time::timeout(APPLY_LIMIT, reached).await;
    in_time.is_ok_and(|reached| reached.is_ok())
}
