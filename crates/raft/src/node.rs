//! One member of the group: the store, openraft on its own runtime, and what others ask of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nihilo_host::{Host, Net, Threads};
use nihilo_machine::State;
use nihilo_machine::command::Founder;
use nihilo_machine::state::ObjectEvent;
use nihilo_store::disk::Disk;
use nihilo_store::io_thread::{Failure, IoStats};
use nihilo_store::snapshot::SnapshotDir;
use nihilo_store::state::DIGEST_EVERY;
use nihilo_store::type_config::Vote;
use nihilo_store::{Changes, Compacted, Identity, Node, OpenError, Poisoner, StateHandle, Store};
use nihilo_types::id::{LogIndex, NodeId};
use nihilo_types::node_config::Profile;
use nihilo_wire::internal as pb;
use openraft::async_runtime::WatchReceiver;
use openraft::{Config, Instant, SnapshotPolicy};
use parking_lot::Mutex;
use pb::raft_client::RaftClient;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tonic::transport::Channel;
use tracing::{error, info, warn};

use crate::Raft;
use crate::board::PeerBoard;
use crate::clock::LogClock;
use crate::introduction::Introduction;
use crate::network::{self, Network, Removed};
use crate::peer_server::{PeerServer, removed_text};
use crate::profile::Timing;
use crate::quorum_gate::QuorumGate;
use crate::runtime::RaftRuntime;
use crate::status::{RaftStatus, Role};
use crate::{board, disk, fast_path, membership};

/// Proposals of this node under way at once (02-store §11).
pub const MAX_PROPOSALS: usize = 4_096;
const SNAPSHOT_EVERY: u64 = 20_000;
const KEEP_LOGS: u64 = 10_000;
const REPLICATION_LAG: u64 = 40_000;
/// Of closing the store: its last writes, and what RocksDB has under way.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// A failed store is reported again after this.
const REPEAT_STORE_FAILED: Duration = Duration::from_secs(60);
/// Tick lateness samples kept.
const MAX_LATENESS_SAMPLES: usize = 65_536;

#[derive(Debug, Clone)]
pub struct RaftConfig {
    pub identity: Identity,
    pub data_dir: PathBuf,
    /// Peer addresses to begin with, by id: of the founding members, or of those that were members
    /// when this node joined. From then on the membership in the log says who is where.
    pub members: BTreeMap<u64, String>,
    /// The founding members, where this node is one of them; else empty.
    pub founders: Vec<Founder>,
    pub profile: Profile,
    /// See [`crate::fast_path`].
    pub failover_fast_path: bool,
    /// Tests take snapshots more often than every 20,000 entries.
    pub snapshot_every: Option<u64>,
    /// Tests compare states more often than every 10,000 entries.
    pub digest_every: Option<u64>,
}

/// What a node stands on; the system's own by default.
#[derive(Debug, Default)]
pub struct Ground {
    pub host: Host,
    /// Another disk than the file system's.
    pub disk: Option<Box<dyn Disk>>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("raft does not start: {0}")]
    Raft(String),
    #[error("{0}")]
    Removed(String),
}

/// How late ticks on the Raft runtime came.
#[derive(Debug, Default)]
struct TickLateness {
    /// Of this process's life, samples that are no longer kept included.
    n_ticks: u64,
    /// The newest, in order.
    samples: Vec<Duration>,
}

/// Handle to this node's consensus; cheap to clone.
#[derive(Clone)]
pub struct RaftNode(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    raft: Raft,
    identity: Identity,
    members: BTreeMap<u64, String>,
    founders: Vec<Founder>,
    removed: Removed,
    board: PeerBoard,
    timing: Timing,
    state: StateHandle,
    failure: Failure,
    io_stats: Arc<Mutex<IoStats>>,
    status: watch::Receiver<RaftStatus>,
    host: Host,
    /// By id and address: a member that is replaced has both anew.
    clients: Mutex<BTreeMap<(u64, String), RaftClient<Channel>>>,
    slots: Semaphore,
    log_clock: LogClock,
    introduction: Introduction,
    free_bytes: watch::Receiver<Option<u64>>,
    lateness: Arc<Mutex<TickLateness>>,
    /// Tries at a leader that ended without an entry in its log.
    n_refused: AtomicU64,
    poisoner: Poisoner,
    snapshots: SnapshotDir,
    /// The entry after which no majority of the replicas agrees; 0 = none is known.
    split_at: AtomicU64,
    _runtime: RaftRuntime,
    /// Keeps the data directory ours.
    _lock: Option<Arc<std::fs::File>>,
}

impl fmt::Debug for RaftNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RaftNode")
            .field("identity", &self.0.identity)
            .finish_non_exhaustive()
    }
}

impl RaftNode {
    /// Opens the store and starts consensus on it; a store that is young takes part only after
    /// [`Self::introduce`]. The founder of a new cluster then calls [`Self::initialize`].
    ///
    /// # Errors
    /// The data directory cannot be used, or openraft refuses its configuration.
    pub async fn start(config: RaftConfig) -> Result<Self, StartError> {
        Self::start_on(config, Ground::default()).await
    }

    /// The same on a machine of which not all is the system's.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_on(config: RaftConfig, ground: Ground) -> Result<Self, StartError> {
        let Ground { host, disk } = ground;
        let timing = Timing::of(config.profile);
        let runtime = RaftRuntime::start(host.threads)
            .map_err(|error| StartError::Raft(error.to_string()))?;
        let (dir, identity) = (&config.data_dir, &config.identity);
        let mut store = match disk {
            Some(disk) => Store::open_on(disk, dir, identity, host.threads).await?,
            None => Store::open(dir, identity).await?,
        };
        store.machine.digest_every = config.digest_every.unwrap_or(DIGEST_EVERY);
        let (poisoner, snapshots) = (store.poisoner(), store.snapshots.clone());
        let (state, failure, io_stats, lock) = (
            store.state.clone(),
            store.failure(),
            store.stats(),
            store.lock_guard(),
        );
        let introduction = Introduction::new(store.store_id.clone(), store.is_young);
        let openraft_config = Arc::new(openraft_config(&config, timing)?);
        let gate = Arc::new(QuorumGate::new(timing));
        let id = store.identity.node_id;
        if !store.machine.votes(id)
            && let Some(at) = state.read(|state| state.removed_at(NodeId(id)))
        {
            return Err(StartError::Removed(removed_text(NodeId(id), at)));
        }
        let identity = store.identity.clone();
        let removed = Removed::default();
        let network = Network {
            identity: Arc::new(identity.clone()),
            removed: removed.clone(),
            state: state.clone(),
            gate: gate.clone(),
            host: host.clone(),
        };
        let started = runtime.spawn(async move {
            Raft::new(id, openraft_config, network, store.log, store.machine).await
        });
        let raft = match started.await {
            Ok(Ok(raft)) => raft,
            Ok(Err(error)) => return Err(StartError::Raft(error.to_string())),
            Err(error) => return Err(StartError::Raft(error.to_string())),
        };
        let status = follow_status(&runtime, &raft, gate);
        let lateness = measure_lateness(&runtime, timing);
        runtime.spawn(end_with_store(
            raft.clone(),
            failure.clone(),
            config.data_dir.clone(),
        ));
        info!(node = id, profile = timing.name, "raft started");
        let log_ms = state.read(|state| state.clock().log_ms);
        let (free, free_bytes) = watch::channel(disk::free_bytes(&config.data_dir));
        runtime.spawn(disk::watch(raft.clone(), id, config.data_dir, free));
        let node = Self(Arc::new(Inner {
            raft,
            identity,
            members: config.members,
            founders: config.founders,
            removed,
            board: PeerBoard::default(),
            timing,
            state,
            failure,
            io_stats,
            status,
            host,
            clients: Mutex::default(),
            slots: Semaphore::new(MAX_PROPOSALS),
            log_clock: LogClock::new(log_ms),
            introduction,
            lateness,
            free_bytes,
            n_refused: AtomicU64::new(0),
            poisoner,
            snapshots,
            split_at: AtomicU64::new(0),
            _runtime: runtime,
            _lock: lock,
        }));
        let inner = Arc::downgrade(&node.0);
        node.0._runtime.spawn(membership::follow(inner.clone()));
        if config.failover_fast_path {
            node.0._runtime.spawn(fast_path::follow(inner.clone()));
        }
        node.0._runtime.spawn(board::judge(inner));
        Ok(node)
    }

    /// Makes the founding membership, if this node has never had one; after [`Self::introduce`].
    ///
    /// # Errors
    /// Only when Raft has stopped.
    pub async fn initialize(&self) -> Result<(), StartError> {
        let initialized = self.0.raft.is_initialized().await;
        if initialized.map_err(|error| StartError::Raft(error.to_string()))? {
            return Ok(());
        }
        let node = |address: &String| Node {
            address: address.clone(),
        };
        let members: BTreeMap<u64, Node> = self
            .0
            .members
            .iter()
            .map(|(id, address)| (*id, node(address)))
            .collect();
        self.0
            .raft
            .initialize(members)
            .await
            .map_err(|error| StartError::Raft(error.to_string()))
    }

    pub fn peer_server(&self) -> PeerServer {
        PeerServer(self.clone())
    }

    /// Drawn when this node's data directory was made.
    pub fn store_id(&self) -> &str {
        &self.0.introduction.store_id
    }

    pub(crate) fn net(&self) -> Net {
        self.0.host.net.clone()
    }

    pub(crate) fn threads(&self) -> Threads {
        self.0.host.threads
    }

    pub(crate) fn introduction(&self) -> &Introduction {
        &self.0.introduction
    }

    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    pub fn timing(&self) -> Timing {
        self.0.timing
    }

    /// Those of the configuration: known before the log says anything.
    pub(crate) fn members(&self) -> &BTreeMap<u64, String> {
        &self.0.members
    }

    pub(crate) fn founders(&self) -> &[Founder] {
        &self.0.founders
    }

    /// Peer addresses of the voters and learners that consensus has now; empty before the first
    /// configuration has arrived.
    pub(crate) fn membership_nodes(&self) -> BTreeMap<u64, String> {
        let stored = self
            .0
            .raft
            .metrics()
            .borrow_watched()
            .membership_config
            .clone();
        let nodes = stored.membership().nodes();
        nodes
            .map(|(id, node)| (*id, node.address.clone()))
            .collect()
    }

    pub(crate) fn knows_member(&self, id: u64) -> bool {
        let metrics = self.0.raft.metrics();
        let stored = metrics.borrow_watched().membership_config.clone();
        stored.membership().get_node(&id).is_some()
    }

    /// Where a node's peer port is: by the membership in the log, else by the configuration that
    /// this node was started with; `None` for nodes that are not members.
    pub fn peer_address(&self, id: u64) -> Option<String> {
        let members = self.membership_nodes();
        match members.is_empty() {
            true => self.0.members.get(&id).cloned(),
            false => members.get(&id).cloned(),
        }
    }

    /// Set once this node knows that it was removed from the cluster, with the words for it.
    pub fn removal(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.0.removed.subscribe()
    }

    /// What other nodes say of themselves in their keep-alives to this one.
    pub fn board(&self) -> &PeerBoard {
        &self.0.board
    }

    pub fn state(&self) -> StateHandle {
        self.0.state.clone()
    }

    pub fn applied(&self) -> watch::Receiver<LogIndex> {
        self.0.state.applied()
    }

    /// # Errors
    /// When the version is too old to follow on from.
    pub fn changes_since(&self, index: LogIndex) -> Result<Vec<ObjectEvent>, Compacted> {
        self.0.state.changes_since(index)
    }

    /// The events after `index`, also of before this process began; a page of them where there are
    /// many.
    ///
    /// # Errors
    /// When the version is too old to follow on from.
    pub async fn changes_after(&self, index: LogIndex) -> Result<Changes, Compacted> {
        self.0.state.changes_after(index).await
    }

    pub fn status(&self) -> RaftStatus {
        RaftStatus::of(&self.0.raft.metrics().borrow_watched())
    }

    /// Changes of role, term and leader.
    /// The newest one that is durable here.
    pub(crate) fn vote(&self) -> Vote {
        self.0.raft.metrics().borrow_watched().vote
    }

    pub fn status_watch(&self) -> watch::Receiver<RaftStatus> {
        self.0.status.clone()
    }

    /// Whether this node leads and a quorum answered it within the election timeout.
    pub fn leads_with_quorum(&self) -> bool {
        let status = self.status();
        // Nobody acknowledges anything to a sole voter between two writes: it is its own quorum.
        let is_sole = status.voters.len() == 1 && status.voters.contains(&self.identity().node_id);
        let is_heard = status
            .quorum_ack_age_ms
            .is_some_and(|age| age < self.0.timing.election_max_ms);
        status.role == Role::Leader && (is_sole || is_heard)
    }

    /// Whether the store of this process has failed: it takes no part in consensus any more.
    pub(crate) fn has_failed(&self) -> bool {
        self.0.failure.borrow().is_some()
    }

    /// Free bytes of the store's disk, when they are too few to lead new writes.
    pub fn low_disk(&self) -> Option<u64> {
        let free = *self.0.free_bytes.borrow();
        free.filter(|bytes| *bytes < disk::MIN_FREE_BYTES)
    }

    /// Set once the store of this process has failed.
    pub fn failure(&self) -> Failure {
        self.0.failure.clone()
    }

    /// What the disk did, for metrics and benchmarks.
    pub fn io_stats(&self) -> Arc<Mutex<IoStats>> {
        self.0.io_stats.clone()
    }

    /// How late ticks on the Raft runtime came, newest last.
    pub fn tick_lateness(&self) -> Vec<Duration> {
        self.0.lateness.lock().samples.clone()
    }

    /// The same for the ticks after the first `n_seen` of this process, with how many there were
    /// by now. Those that are no longer kept are left out.
    pub fn tick_lateness_since(&self, n_seen: u64) -> (u64, Vec<Duration>) {
        let lateness = self.0.lateness.lock();
        let n_new = usize::try_from(lateness.n_ticks.saturating_sub(n_seen));
        let first = lateness.samples.len();
        let first = first.saturating_sub(n_new.unwrap_or(usize::MAX));
        (lateness.n_ticks, lateness.samples[first..].to_vec())
    }

    /// Tries of this node's proposals that a leader turned away, or that found none: each is
    /// tried again while its proposal has time, so most of them nobody else hears of.
    pub fn n_refused(&self) -> u64 {
        self.0.n_refused.load(Ordering::Relaxed)
    }

    pub(crate) fn count_refused(&self) {
        self.0.n_refused.fetch_add(1, Ordering::Relaxed);
    }

    /// This node's state is not what the majority has: it must never be read or built on again.
    pub fn diverged_at(&self, at: u64) {
        let text = format!("diverged: the state after entry {at} is not the majority's");
        self.0.poisoner.poison(&text);
    }

    /// Takes note of this node's own removal, once consensus can do without it: until then it may
    /// be needed for the very change that takes it out.
    pub(crate) fn notice_removal(&self) {
        let me = self.0.identity.node_id;
        let Some(at) = self.0.state.read(|state| state.removed_at(NodeId(me))) else {
            return;
        };
        let metrics = self.0.raft.metrics().borrow_watched().clone();
        let committed = metrics.committed_membership_config.membership().clone();
        let votes_on = committed.get_joint_config().last();
        if votes_on.is_none_or(|voters| !voters.contains(&me)) {
            self.0.removed.set(&removed_text(NodeId(me), at));
        }
    }

    pub(crate) fn stop_writes(&self, at: u64) {
        self.0.split_at.store(at, Ordering::Relaxed);
    }

    /// The entry after which the replicas differ without a majority; writes have stopped then.
    pub(crate) fn split_at(&self) -> Option<u64> {
        Some(self.0.split_at.load(Ordering::Relaxed)).filter(|at| *at != 0)
    }

    /// Hands leadership to another voter, any up-to-date one when `to` is `None`; returns the
    /// leader seen when it is done or `limit` has passed.
    ///
    /// # Errors
    /// Only when Raft has stopped.
    pub async fn transfer_leader(
        &self,
        to: Option<u64>,
        limit: Duration,
    ) -> Result<Option<u64>, StartError> {
        let mut status = self.status_watch();
        let me = self.0.identity.node_id;
        if status.borrow().role != Role::Leader {
            return Ok(status.borrow().leader);
        }
        let target = to.or_else(|| most_advanced_follower(&self.0.raft, me));
        let Some(target) = target else {
            return Ok(Some(me));
        };
        let asked = self.0.raft.trigger().transfer_leader(target).await;
        asked.map_err(|error| StartError::Raft(error.to_string()))?;
        let changed = status.wait_for(|now| now.leader.is_some_and(|leader| leader != me));
        // Not in time: the caller goes on without.
        drop(tokio::time::timeout(limit, changed).await);
        Ok(self.status().leader)
    }

    /// Ends this node's part in consensus and closes its store; leadership is not handed over here.
    pub async fn shutdown(&self) {
        // Already stopped is what is wanted.
        drop(self.0.raft.shutdown().await);
        // RocksDB must be closed before the process ends: its threads would outlive what they use.
        let mut failure = self.0.failure.clone();
        let closed = failure.wait_for(|_| false);
        if tokio::time::timeout(CLOSE_LIMIT, closed).await.is_err() {
            warn!("the store is not closed in time");
        }
    }

    pub(crate) fn snapshots(&self) -> &SnapshotDir {
        &self.0.snapshots
    }

    pub(crate) fn raft(&self) -> &Raft {
        &self.0.raft
    }

    pub(crate) fn slots(&self) -> &Semaphore {
        &self.0.slots
    }

    pub(crate) fn log_clock(&self) -> &LogClock {
        &self.0.log_clock
    }

    pub(crate) fn identity_to(&self, target: u64) -> pb::Identity {
        pb::Identity {
            cluster_id: self.0.identity.cluster_id.clone(),
            from_node: self.0.identity.node_id,
            target_node: target,
            cluster_version: self.0.state.read(State::cluster_version),
        }
    }

    /// A client of a member's peer port; `None` for nodes that are not members.
    pub(crate) fn peer_client(&self, id: u64) -> Option<RaftClient<Channel>> {
        let address = self.peer_address(id)?;
        let mut clients = self.0.clients.lock();
        if let Some(client) = clients.get(&(id, address.clone())) {
            return Some(client.clone());
        }
        let client = RaftClient::new(network::channel(&self.0.host.net, &address).ok()?);
        // Those of nodes that have gone or moved are of no use any more.
        clients.retain(|(known, _), _| *known != id && self.peer_address(*known).is_some());
        clients.insert((id, address), client.clone());
        Some(client)
    }
}

/// Whom this node, as leader, could hand over to; `None` when it does not lead or is alone.
/// Learners hold the log and cannot lead.
pub(crate) fn most_advanced_follower(raft: &Raft, me: u64) -> Option<u64> {
    let metrics = raft.metrics().borrow_watched().clone();
    let membership = metrics.membership_config.membership().clone();
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    metrics
        .replication?
        .into_iter()
        .filter(|(id, _)| *id != me && voters.contains(id))
        .max_by_key(|(_, matched)| matched.map(|id| id.index))
        .map(|(id, _)| id)
}

fn openraft_config(config: &RaftConfig, timing: Timing) -> Result<Config, StartError> {
    let every = config.snapshot_every.unwrap_or(SNAPSHOT_EVERY);
    let keep = config.snapshot_every.map_or(KEEP_LOGS, |every| every / 2);
    Config {
        cluster_name: config.identity.cluster_id.clone(),
        heartbeat_interval: timing.heartbeat_ms,
        election_timeout_min: timing.election_min_ms,
        election_timeout_max: timing.election_max_ms,
        quorum_loss_probe_interval: Some(timing.quorum_loss_probe_ms),
        enable_pre_vote: Some(true),
        allow_log_reversion: Some(false),
        enable_leader_restore: Some(false),
        max_payload_entries: 1_024,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(every),
        max_in_snapshot_log_to_keep: keep,
        replication_lag_threshold: REPLICATION_LAG.max(every + keep),
        purge_batch_size: keep.clamp(1, 1_024),
        install_snapshot_timeout: 30_000,
        ..Config::default()
    }
    .validate()
    .map_err(|error| StartError::Raft(error.to_string()))
}

/// Keeps a copy of the metrics that changes only with role, term, leader or membership.
fn follow_status(
    runtime: &Handle,
    raft: &Raft,
    gate: Arc<QuorumGate>,
) -> watch::Receiver<RaftStatus> {
    let mut metrics = raft.metrics();
    let (sender, receiver) = watch::channel(RaftStatus::default());
    runtime.spawn(async move {
        loop {
            let now = {
                let metrics = metrics.borrow_watched();
                gate.set_ack_age(metrics.last_quorum_acked.map(|at| at.elapsed()));
                RaftStatus::of(&metrics)
            };
            sender.send_if_modified(|known| {
                let differs = (known.role, known.term, known.leader)
                    != (now.role, now.term, now.leader)
                    || known.voters != now.voters;
                *known = now;
                differs
            });
            if metrics.changed().await.is_err() {
                return;
            }
        }
    });
    receiver
}

/// Ends this node's part in consensus once its store has failed, whatever the failed write was,
/// and says so until the process ends: a node in this state needs a person.
async fn end_with_store(raft: Raft, mut failure: Failure, data_dir: PathBuf) {
    let cause = match failure.wait_for(Option::is_some).await {
        Ok(cause) => cause.clone().unwrap_or_default(),
        // The store was closed in good order.
        Err(_) => return,
    };
    // Already stopped by the same failure is what is wanted.
    drop(raft.shutdown().await);
    loop {
        error!(
            %cause,
            data_dir = %data_dir.display(),
            "store-failed: this node votes, acknowledges and leads no more; its traffic goes on; \
             remove the cause and restart it"
        );
        tokio::time::sleep(REPEAT_STORE_FAILED).await;
    }
}

/// Samples how late a sleep of one tick ends: late ticks are what makes false elections.
fn measure_lateness(runtime: &Handle, timing: Timing) -> Arc<Mutex<TickLateness>> {
    let lateness = Arc::new(Mutex::new(TickLateness::default()));
    let shared = Arc::downgrade(&lateness);
    let tick = Duration::from_millis(timing.heartbeat_ms * 13 / 64);
    runtime.spawn(async move {
        loop {
            let due = tokio::time::Instant::now() + tick;
            tokio::time::sleep_until(due).await;
            let Some(lateness) = shared.upgrade() else {
                return;
            };
            let mut lateness = lateness.lock();
            if lateness.samples.len() == MAX_LATENESS_SAMPLES {
                lateness.samples.drain(..MAX_LATENESS_SAMPLES / 2);
            }
            lateness.n_ticks += 1;
            lateness.samples.push(due.elapsed());
        }
    });
    lateness
}

/// Role names for messages.
impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
