//! The agent's table: who may order what, and what there is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nihilo_failpoint::{Point, hit};
use nihilo_host::{Host, planted};
use nihilo_types::bundle::Digest;
use nihilo_types::fence::{Floors, Stale};
use nihilo_types::id::{Epoch, InstanceId, ShardId};
use nihilo_types::image::Image;
use nihilo_types::instance::{Exit, InstanceReport, InstanceSpec, InstanceState, Waking};
use nihilo_types::node_config::{DockerSettings, ProcessSettings};
use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tracing::info;

use crate::bundle::Bundles;
use crate::command_ledger::CommandLedger;
use crate::config::{self, ConfigSource, Directories, Provided, Reader, Source};
use crate::docker::{DockerDriver, Images};
use crate::driver::{AnyDriver, Driver, StartError, Started, Trace};
use crate::ended::{self, End, Ended, is_crash};
use crate::fake::{FakeConfig, FakeDriver};
use crate::handle::{Handles, Record};
use crate::life::{self, Order};
use crate::logs::{Output, wall_ms};
use crate::ports::Admission;
use crate::probe::look::Looks;
use crate::process::mark::Mark;
use crate::process::{self, ProcessDriver};
use crate::startstop::{self, StartStopLog};
use crate::{recovery, sweep};

/// Events a subscriber may lag behind before it is told to list.
pub const EVENT_LAG: usize = 1024;
/// The kernel needs a moment for what is killed, and the agent for its last words.
const KILL_LIMIT: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
pub struct AgentConfig {
    pub node_name: String,
    /// Our own binary.
    pub executable: PathBuf,
    /// Everything of the agent lives below it.
    pub dir: PathBuf,
    pub capacity: u32,
    pub driver: DriverConfig,
    pub host: Host,
    /// What `bundle/…` images are run from; without it they are refused.
    pub bundles: Option<Bundles>,
    /// Hears of every order of an owner.
    pub orders: Option<OrderListener>,
}

/// Called with the fence of each order, and whether it was admitted.
#[derive(Clone)]
pub struct OrderListener(pub Arc<dyn Fn(ShardId, Epoch, bool) + Send + Sync>);

impl std::fmt::Debug for OrderListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OrderListener")
    }
}

/// How instances are run.
#[derive(Debug, Clone)]
pub enum DriverConfig {
    Process {
        /// Ports are given to programs from here on.
        first_port: u16,
        /// How they are confined.
        settings: ProcessSettings,
        /// What is kept from isolated ones, beside the agent's own directory.
        private: Vec<PathBuf>,
        /// What runs container images.
        docker: DockerSettings,
        /// Programs outlive this process, and the node's next one goes on with them; otherwise
        /// they end with it.
        adopts: bool,
    },
    /// Simulated: see [`crate::fake`].
    Fake(FakeConfig),
}

impl DriverConfig {
    fn adopts(&self) -> bool {
        matches!(self, DriverConfig::Process { adopts: true, .. })
    }

    /// Its instances are programs, and not simulated.
    fn is_real(&self) -> bool {
        matches!(self, DriverConfig::Process { .. })
    }
}

/// Why an order was refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    #[error("a newer owner exists since epoch {floor}")]
    StaleEpoch { floor: Epoch },
    #[error("a newer list was answered")]
    StaleSeq,
    #[error("this node takes no orders now")]
    NotReady,
    #[error("{running} of {capacity} instances run here")]
    NoCapacity { running: u32, capacity: u32 },
    #[error("it is past re-opening")]
    TooLate,
    #[error("no such instance")]
    Unknown,
}

/// Handle to the node's agent; cheap to clone.
#[derive(Clone)]
pub struct Agent(Arc<Inner>);

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent")
            .field("config", &self.0.config)
            .finish_non_exhaustive()
    }
}

pub(crate) struct Inner {
    config: AgentConfig,
    driver: AnyDriver,
    /// Container images go to it, where programs are run and not simulated.
    docker: Option<Arc<DockerDriver>>,
    pub(crate) admission: Arc<dyn Admission>,
    pub(crate) looks: Looks,
    pub(crate) host: Host,
    handles: Handles,
    source: Source,
    directories: Arc<Directories>,
    startstop: StartStopLog,
    table: Mutex<Table>,
    /// As in the table, for those who wait for it.
    accepting: watch::Sender<bool>,
    events: broadcast::Sender<InstanceReport>,
}

#[derive(Default)]
struct Table {
    orders: Option<OrderListener>,
    floors: Floors,
    accepting: bool,
    /// The node ends: nothing is started, and nothing that stops is called off.
    leaving: bool,
    instances: BTreeMap<InstanceId, Instance>,
    /// Was frozen, and is stopped to make room.
    evicted: Option<InstanceId>,
    ledger: CommandLedger,
}

struct Instance {
    report: InstanceReport,
    /// `None` of one that had ended before this process began.
    spec: Option<Arc<InstanceSpec>>,
    trace: Option<Trace>,
    accepted_ns: u64,
    started: Instant,
    /// When its thaw was ordered, until it is ready.
    thawing_since: Option<Instant>,
    /// When its state began.
    since: Instant,
    ended: Option<Instant>,
    crashed: bool,
    orders: watch::Sender<Order>,
    output: Output,
}

impl Agent {
    /// Goes on with what an earlier process of this directory has left running, or ends it, as the
    /// driver's configuration says.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn new(
        config: AgentConfig,
        admission: Arc<dyn Admission>,
        source: Arc<dyn ConfigSource>,
    ) -> std::io::Result<Self> {
        let mark = Mark::of(&config.dir)?;
        let directories = Directories::new(&config.dir, mark.as_str());
        let instances = config.dir.join("instances");
        let adopts = config.driver.adopts();
        let (handles, left, ended) = Handles::open(instances, adopts)?;
        let (driver, docker) = (
            driver(&config)?,
            docker(&config, recovery::kept(&left, adopts))?,
        );
        // Otherwise nothing outlives a process of this node.
        let noted = match adopts {
            true => startstop::left_open(&config.dir),
            false => BTreeSet::new(),
        };
        let inner = Arc::new(Inner {
            driver,
            docker,
            admission,
            looks: Looks::default(),
            handles,
            source: Source(source),
            directories: Arc::new(directories),
            startstop: StartStopLog::open(&config.dir, config.host.clock.clone())?,
            table: Mutex::new(Table {
                orders: config.orders.clone(),
                ledger: CommandLedger::open(&config.dir)?,
                ..Table::default()
            }),
            accepting: watch::channel(false).0,
            events: broadcast::channel(EVENT_LAG).0,
            host: config.host.clone(),
            config,
        });
        inner.remember(ended);
        if let AnyDriver::Process(driver) = &inner.driver {
            recovery::recover(&inner, driver, left, noted);
            inner.directories.retain(|id| inner.is_known(id));
            tokio::spawn(config::keep(Arc::downgrade(&inner)));
            tokio::spawn(sweep::run(
                Arc::downgrade(&inner),
                driver.clone(),
                inner.accepting.subscribe(),
            ));
        }
        Ok(Self(inner))
    }

    /// What keeps instances within their limits on this node, in one line.
    pub fn limits(&self) -> String {
        match &self.0.driver {
            AnyDriver::Process(driver) => driver.limits(),
            AnyDriver::Docker(_) => "the engine's".into(),
            AnyDriver::Fake(_) => "simulated".into(),
        }
    }

    /// How far instances are isolated on this node, in one line.
    pub fn isolation(&self) -> String {
        match &self.0.driver {
            AnyDriver::Process(driver) => driver.isolation(),
            AnyDriver::Docker(_) => "the engine's".into(),
            AnyDriver::Fake(_) => "simulated".into(),
        }
    }

    /// Instances that it takes at most.
    pub fn capacity(&self) -> u32 {
        self.0.config.capacity
    }

    /// Orders are taken only while this node's session is open and applied here.
    pub fn set_accepting(&self, accepting: bool) {
        self.0.table.lock().accepting = accepting;
        self.0.accepting.send_replace(accepting);
    }

    /// Whether orders are taken, for those who wait for it.
    pub fn accepting(&self) -> watch::Receiver<bool> {
        self.0.accepting.subscribe()
    }

    pub fn set_floors(&self, floors: &[(ShardId, Epoch)]) {
        let mut table = self.0.table.lock();
        for (shard, epoch) in floors {
            table.floors.raise(*shard, *epoch);
        }
    }

    /// Starts an instance, or answers what the same id is doing already.
    ///
    /// # Errors
    /// Stale fences, no capacity, or a node that takes no orders.
    pub fn start(
        &self,
        shard: ShardId,
        epoch: Epoch,
        seq: u64,
        spec: InstanceSpec,
    ) -> Result<InstanceReport, AgentError> {
        hit(Point::StartReceived);
        let mut table = self.0.table.lock();
        table.admit_order(shard, epoch, seq)?;
        if let Some(instance) = table.instances.get(&spec.id) {
            return Ok(self.0.refresh(instance));
        }
        let running = table.n_running();
        if running >= self.0.config.capacity {
            table.make_room();
            return Err(AgentError::NoCapacity {
                running,
                capacity: self.0.config.capacity,
            });
        }
        let (instance, receiver) = Instance::new(
            spec.accepted(shard, epoch),
            Some(Arc::new(spec.clone())),
            self.0.host.clock.now_ns(),
            Output::new(self.0.handles.prepare(&spec.id)),
        );
        let report = instance.report.clone();
        table.instances.insert(spec.id.clone(), instance);
        drop(table);
        let inner = self.0.clone();
        match self.0.driver_of(&spec) {
            AnyDriver::Process(driver) => {
                tokio::spawn(life::run(inner, driver, spec, receiver));
            }
            AnyDriver::Docker(driver) => {
                tokio::spawn(life::run(inner, driver, spec, receiver));
            }
            AnyDriver::Fake(driver) => {
                tokio::spawn(life::run(inner, driver, spec, receiver));
            }
        }
        Ok(report)
    }

    /// Begins to drain; it is stopped once nothing is in flight.
    ///
    /// # Errors
    /// Stale fences, or no such instance.
    pub fn stop(
        &self,
        shard: ShardId,
        epoch: Epoch,
        seq: u64,
        id: &InstanceId,
        reason: &str,
    ) -> Result<(), AgentError> {
        let mut table = self.0.table.lock();
        table.admit_order(shard, epoch, seq)?;
        let instance = table.instances.get(id).ok_or(AgentError::Unknown)?;
        let is_new = instance.orders.send_if_modified(|order| {
            let before = std::mem::replace(order, Order::Drain);
            before != Order::Drain
        });
        if is_new {
            info!(instance = %id, reason, "instance drains");
        }
        Ok(())
    }

    /// Calls a drain off, also one before a freeze. One that is frozen is thawed, and ready after one good
    /// look.
    ///
    /// # Errors
    /// `TooLate` once SIGTERM was sent.
    pub fn reopen(
        &self,
        shard: ShardId,
        epoch: Epoch,
        seq: u64,
        id: &InstanceId,
    ) -> Result<(), AgentError> {
        self.order(shard, epoch, seq, id, Order::Run)
    }

    /// Drains it and, once nothing is in flight, freezes it. One that cannot be frozen is stopped.
    ///
    /// # Errors
    /// `TooLate` where it is not ready, or on its way out.
    pub fn freeze(
        &self,
        shard: ShardId,
        epoch: Epoch,
        seq: u64,
        id: &InstanceId,
    ) -> Result<(), AgentError> {
        self.order(shard, epoch, seq, id, Order::Freeze)
    }

    fn order(
        &self,
        shard: ShardId,
        epoch: Epoch,
        seq: u64,
        id: &InstanceId,
        order: Order,
    ) -> Result<(), AgentError> {
        let mut table = self.0.table.lock();
        table.admit_order(shard, epoch, seq)?;
        let instance = table.instances.get_mut(id);
        let instance = instance.ok_or(AgentError::Unknown)?;
        let state = instance.report.state;
        if !may_follow(state, instance.report.ready_after_ms > 0, order) {
            return Err(AgentError::TooLate);
        }
        match (order, state) {
            (Order::Run, InstanceState::Frozen) => {
                instance.thawing_since.get_or_insert_with(Instant::now);
            }
            (Order::Run, _) => {}
            _ => instance.thawing_since = None,
        }
        let before = instance.orders.send_replace(order);
        if before == order {
            // Nothing will change: whoever asks has missed what it has become.
            drop(self.0.events.send(self.0.refresh(instance)));
        }
        Ok(())
    }

    /// Every instance of these shards that still counts. Answering makes older calls void.
    ///
    /// # Errors
    /// One stale fence refuses the whole call.
    pub fn list(
        &self,
        shards: &[(ShardId, Epoch)],
        seq: u64,
    ) -> Result<Vec<InstanceReport>, AgentError> {
        let mut table = self.0.table.lock();
        for (shard, epoch) in shards {
            table.admit(*shard, *epoch, seq)?;
        }
        for (shard, _) in shards {
            table.floors.listed(*shard, seq);
        }
        let wanted = |report: &InstanceReport| {
            report.state.is_counted() && shards.iter().any(|(shard, _)| *shard == report.shard)
        };
        let found = table
            .instances
            .values()
            .filter(|instance| wanted(&instance.report));
        Ok(found.map(|instance| self.0.refresh(instance)).collect())
    }

    /// Every change of an instance from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<InstanceReport> {
        self.0.events.subscribe()
    }

    /// All instances this node remembers, ended ones too, with their output.
    pub fn instances(&self) -> Vec<(InstanceReport, Output)> {
        let table = self.0.table.lock();
        let each = table.instances.values();
        each.map(|instance| (self.0.refresh(instance), instance.output.clone()))
            .collect()
    }

    /// Sees to the end of `children` that an earlier program of this process has left: a probe's command, an
    /// instance that was not taken in. How an instance ended is asked for by its own life, and stays to be told.
    pub fn reap_others(&self, children: Vec<u32>) {
        let own: BTreeSet<u32> = {
            let table = self.0.table.lock();
            let traces = table.instances.values().filter_map(|one| one.trace);
            traces.map(|trace| trace.pid).collect()
        };
        for pid in children.into_iter().filter(|pid| !own.contains(pid)) {
            tokio::spawn(process::reap(pid));
        }
    }

    /// Instances that take requests, with what they were started from.
    pub fn ready(&self) -> Vec<(InstanceReport, Arc<InstanceSpec>)> {
        let table = self.0.table.lock();
        let ready = table
            .instances
            .values()
            .filter(|instance| instance.report.state == InstanceState::Ready);
        ready
            .filter_map(|instance| Some((instance.report.clone(), instance.spec.clone()?)))
            .collect()
    }

    /// Digests of the bundles that instances run which have not ended.
    pub fn bundles_in_use(&self) -> BTreeSet<Digest> {
        let table = self.0.table.lock();
        let counted = table.instances.values();
        let counted = counted.filter(|instance| instance.report.state.is_counted());
        counted
            .filter_map(|instance| Image::bundle(&instance.spec.as_ref()?.image)?.digest())
            .collect()
    }

    /// The images of this node's engine; `None` where instances are simulated.
    pub fn images(&self) -> Option<Images> {
        self.0.docker.as_ref().map(|docker| docker.images())
    }

    /// Drains and stops everything within `grace`, and kills what is left then: the end of the
    /// session, which follows, says that nothing runs here any more.
    pub async fn shutdown(&self, grace: Duration) {
        self.0.table.lock().leaving = true;
        if !self.all_gone_after(Order::Leave, grace).await {
            self.all_gone_after(Order::Kill, KILL_LIMIT).await;
        }
        let inner = self.0.clone();
        let kept = move || inner.directories.retain(|id| inner.is_known(id));
        drop(tokio::task::spawn_blocking(kept).await);
    }

    /// Orders it of every instance; whether all of them are gone within `limit`.
    async fn all_gone_after(&self, order: Order, limit: Duration) -> bool {
        let mut events = self.subscribe();
        for instance in self.0.table.lock().instances.values() {
            instance.orders.send_replace(order);
        }
        let all_gone = async {
            while self.0.table.lock().n_running() > 0 {
                // Lagged or not: the table is looked at again.
                drop(events.recv().await);
            }
        };
        tokio::time::timeout(limit, all_gone).await.is_ok()
    }
}

/// Whether what is in this state can do it; `was_ready` = at some time.
fn may_follow(state: InstanceState, was_ready: bool, order: Order) -> bool {
    let is_back = state == InstanceState::Booting && was_ready;
    let can_be_called = matches!(
        state,
        InstanceState::Ready | InstanceState::Frozen | InstanceState::Draining
    );
    can_be_called || is_back && order == Order::Run
}

fn driver(config: &AgentConfig) -> std::io::Result<AnyDriver> {
    Ok(match &config.driver {
        DriverConfig::Process {
            first_port,
            settings,
            private,
            adopts,
            ..
        } => {
            let (executable, name) = (config.executable.clone(), config.node_name.clone());
            let driver = ProcessDriver::new(
                executable,
                name,
                *first_port,
                settings.clone(),
                (config.dir.as_path(), private.as_slice()),
                *adopts,
            )?;
            AnyDriver::Process(Arc::new(driver.with_bundles(config.bundles.clone())))
        }
        DriverConfig::Fake(fake) => {
            let driver = FakeDriver::new(fake.clone(), config.host.net.clone());
            AnyDriver::Fake(Arc::new(driver))
        }
    })
}

fn docker(
    config: &AgentConfig,
    kept: BTreeSet<InstanceId>,
) -> std::io::Result<Option<Arc<DockerDriver>>> {
    let DriverConfig::Process { docker, .. } = &config.driver else {
        return Ok(None);
    };
    let name = config.node_name.clone();
    let driver = DockerDriver::new(docker.clone(), name, &config.dir, kept)?;
    Ok(Some(Arc::new(driver.with_bundles(config.bundles.clone()))))
}

impl Instance {
    fn new(
        report: InstanceReport,
        spec: Option<Arc<InstanceSpec>>,
        accepted_ns: u64,
        output: Output,
    ) -> (Self, watch::Receiver<Order>) {
        let (orders, receiver) = watch::channel(Order::Run);
        let instance = Self {
            report,
            spec,
            trace: None,
            accepted_ns,
            started: Instant::now(),
            thawing_since: None,
            since: Instant::now(),
            ended: None,
            crashed: false,
            orders,
            output,
        };
        (instance, receiver)
    }

    /// How long it took, where it has been started or thawed; not where it got well again or was called back.
    fn note_ready(&mut self) {
        let is_first = self.report.ready_after_ms == 0;
        let thawing_since = self.thawing_since.take();
        let (since, spawned_us) = match is_first {
            true => (Some(self.started), self.report.waking.spawned_us),
            false => (thawing_since, 0),
        };
        self.report.waking = since.map_or_else(Waking::default, |since| Waking {
            spawned_us,
            ready_us: elapsed_us(since).max(1),
        });
        if is_first {
            self.report.ready_after_ms = elapsed_ms(self.started).max(1);
        }
    }

    /// What the node's next process needs to go on with it.
    fn record(&self) -> Option<Record> {
        Some(Record {
            report: self.report.clone(),
            spec: self.spec.as_deref()?.clone(),
            accepted_ns: self.accepted_ns,
            trace: self.trace,
        })
    }

    /// One that had ended before this process began, `ago` from now.
    fn of_end(end: End, ago: Duration, output: Output) -> Self {
        let age = Duration::from_millis(end.report.age_ms) + ago;
        let (mut instance, _) = Self::new(end.report, None, 0, output);
        let now = Instant::now();
        // A host that was started since cannot count so far back: it stays a little longer.
        instance.started = now.checked_sub(age).unwrap_or(now);
        instance.ended = Some(now.checked_sub(ago).unwrap_or(now));
        instance.crashed = end.crashed;
        instance
    }
}

impl Table {
    fn admit(&mut self, shard: ShardId, epoch: Epoch, seq: u64) -> Result<(), AgentError> {
        let admitted = self.judge(shard, epoch, seq);
        if let Some(orders) = &self.orders {
            (orders.0)(shard, epoch, admitted.is_ok());
        }
        admitted
    }

    fn judge(&mut self, shard: ShardId, epoch: Epoch, seq: u64) -> Result<(), AgentError> {
        if !self.accepting {
            return Err(AgentError::NotReady);
        }
        if planted::is_on(planted::AGENT_IGNORES_EPOCHS) {
            return Ok(());
        }
        let admitted = self.floors.admit(shard, epoch, seq);
        self.ledger.write(shard, epoch, seq, admitted.is_ok());
        admitted.map_err(|stale| match stale {
            Stale::Epoch(floor) => AgentError::StaleEpoch { floor },
            Stale::Seq => AgentError::StaleSeq,
        })
    }

    /// As [`Self::admit`], for what changes something.
    fn admit_order(&mut self, shard: ShardId, epoch: Epoch, seq: u64) -> Result<(), AgentError> {
        if self.leaving {
            return Err(AgentError::NotReady);
        }
        self.admit(shard, epoch, seq)
    }

    fn n_running(&self) -> u32 {
        let running = self
            .instances
            .values()
            .filter(|i| i.report.state.is_counted());
        u32::try_from(running.count()).unwrap_or(u32::MAX)
    }

    /// Has the instance stopped that has been frozen longest: whoever was refused asks again, and finds
    /// its room once that has ended. Until then no other one goes.
    fn make_room(&mut self) {
        if self.is_making_room() {
            return;
        }
        let frozen = self.instances.values().filter(|instance| {
            let is_kept = *instance.orders.borrow() == Order::Freeze;
            is_kept && instance.report.state == InstanceState::Frozen
        });
        if let Some(oldest) = frozen.min_by_key(|instance| instance.since) {
            info!(instance = %oldest.report.id, "frozen, and stopped to make room for another");
            oldest.orders.send_replace(Order::Drain);
            self.evicted = Some(oldest.report.id.clone());
        }
    }

    /// Unless its owner has called it back meanwhile.
    fn is_making_room(&self) -> bool {
        let evicted = self.evicted.as_ref();
        let evicted = evicted.and_then(|id| self.instances.get(id));
        evicted.is_some_and(|instance| {
            let is_to_end = !matches!(*instance.orders.borrow(), Order::Run | Order::Freeze);
            is_to_end && instance.report.state.is_counted()
        })
    }

    /// Keeps of the ended ones what [`ended`] says; returns those that were forgotten.
    fn forget_old(&mut self) -> Vec<InstanceId> {
        let ended = self.instances.iter().filter_map(|(id, instance)| {
            Some(Ended {
                id: id.clone(),
                revision: instance.report.revision.clone(),
                ago: instance.ended?.elapsed(),
                crashed: instance.crashed,
                n_bytes: instance.output.disk_bytes(),
            })
        });
        let old = ended::to_forget(ended.collect());
        for id in &old {
            self.instances.remove(id);
        }
        old
    }
}

impl Inner {
    fn driver_of(&self, spec: &InstanceSpec) -> AnyDriver {
        match &self.docker {
            Some(docker) if Image::is_container(&spec.image) => AnyDriver::Docker(docker.clone()),
            _ => self.driver.clone(),
        }
    }

    /// What the instance refers to, laid out for its driver.
    pub(crate) async fn provide(
        &self,
        spec: &InstanceSpec,
        reader: Reader,
    ) -> Result<Provided, StartError> {
        config::provide(&self.source, &self.directories, spec, reader).await
    }

    /// Nothing runs that needs it any more.
    pub(crate) async fn take_back(&self, id: &InstanceId) {
        let (directories, id) = (self.directories.clone(), id.clone());
        // As much as an instance has left there.
        drop(tokio::task::spawn_blocking(move || directories.remove(&id)).await);
    }

    /// Instances that run and have files out of objects.
    pub(crate) fn with_files(&self) -> Vec<(InstanceSpec, Reader)> {
        let has_files = |spec: &&InstanceSpec| {
            let mut volumes = spec.config.volumes.iter();
            volumes.any(|volume| volume.sources().next().is_some())
        };
        let table = self.table.lock();
        let instances = table.instances.values();
        let counted = instances.filter(|instance| instance.report.state.is_counted());
        let specs = counted.filter_map(|instance| instance.spec.as_deref());
        let reader = |spec: &InstanceSpec| match self.driver_of(spec) {
            AnyDriver::Process(driver) => driver.reader(spec),
            AnyDriver::Docker(driver) => driver.reader(spec),
            AnyDriver::Fake(driver) => driver.reader(spec),
        };
        specs
            .filter(has_files)
            .map(|spec| (spec.clone(), reader(spec)))
            .collect()
    }

    pub(crate) fn config_parts(&self) -> (Source, Arc<Directories>) {
        (self.source.clone(), self.directories.clone())
    }

    fn refresh(&self, instance: &Instance) -> InstanceReport {
        let mut report = instance.report.clone();
        report.age_ms = elapsed_ms(instance.started);
        report.in_flight = self.admission.in_flight(&report.id);
        report
    }

    fn change(&self, id: &InstanceId, change: impl FnOnce(&mut Instance)) {
        let mut table = self.table.lock();
        let Some(instance) = table.instances.get_mut(id) else {
            return;
        };
        change(instance);
        let report = self.refresh(instance);
        // Under the lock, so that events keep the order of the states. No subscriber is fine.
        drop(self.events.send(report));
    }

    pub(crate) fn enter(&self, id: &InstanceId, state: InstanceState) {
        let mut is_first_ready = false;
        self.change(id, |instance| {
            instance.report.state = state;
            instance.since = Instant::now();
            if state == InstanceState::Ready {
                is_first_ready = instance.report.ready_after_ms == 0;
                instance.note_ready();
            }
        });
        match state {
            // Before anything is started, and when there is no way back.
            InstanceState::Starting | InstanceState::Stopping => self.write_down(id),
            InstanceState::Ready if is_first_ready => {
                self.write_down(id);
                self.write_end_with_the_node(id);
            }
            InstanceState::Destroyed => self.write_end(id),
            _ => {}
        }
    }

    /// Its handle goes after its end is written: one of them is always there.
    fn write_end(&self, id: &InstanceId) {
        let table = self.table.lock();
        let end = table.instances.get(id).map(|instance| End {
            report: self.refresh(instance),
            at_ms: wall_ms(),
            crashed: instance.crashed,
        });
        drop(table);
        if let Some(end) = end.filter(|_| self.config.driver.is_real()) {
            self.handles.write_end(&end);
        }
        self.handles.ended(id);
        self.forget_old();
    }

    fn forget_old(&self) {
        let old = self.table.lock().forget_old();
        for id in old {
            self.handles.forget(&id);
        }
    }

    /// Takes in what an earlier process has left of ended instances.
    fn remember(&self, ended: Vec<End>) {
        let now_ms = wall_ms();
        let mut table = self.table.lock();
        for end in ended {
            let id = end.report.id.clone();
            let ago = Duration::from_millis(now_ms.saturating_sub(end.at_ms));
            let output = Output::ended(self.handles.dir_of(&id));
            table
                .instances
                .insert(id, Instance::of_end(end, ago, output));
        }
        drop(table);
        self.forget_old();
    }

    pub(crate) fn booting<H>(&self, id: &InstanceId, started: &Started<H>) {
        self.change(id, |instance| {
            instance.trace = started.trace;
            instance.report.state = InstanceState::Booting;
            instance.report.address = Some(started.address);
            instance.report.pid = started.pid;
            // Of one that was found it stands in its handle.
            instance.report.isolation = started.isolation.or(instance.report.isolation);
            if instance.report.spawned_after_ms == 0 {
                instance.report.spawned_after_ms = elapsed_ms(instance.started).max(1);
                instance.report.waking.spawned_us = elapsed_us(instance.started);
            }
        });
        self.write_down(id);
    }

    /// Where one that an earlier process has started is, in the state that it was left in.
    pub(crate) fn found<H>(&self, id: &InstanceId, started: &Started<H>) {
        self.change(id, |instance| {
            instance.trace = started.trace;
            instance.report.address = Some(started.address);
            instance.report.pid = started.pid;
        });
    }

    /// Where instances die with this process, nobody is there to say how they ended. Not before it is
    /// ready, so that no start waits for it.
    fn write_end_with_the_node(&self, id: &InstanceId) {
        if self.config.driver.adopts() || !self.config.driver.is_real() {
            return;
        }
        let table = self.table.lock();
        let report = table
            .instances
            .get(id)
            .map(|instance| self.refresh(instance));
        drop(table);
        if let Some(report) = report {
            self.handles.write_end(&End::with_the_node(report));
        }
    }

    /// Leaves word for the node's next process. One instance's words are written by its own life
    /// alone, one after the other.
    pub(crate) fn write_down(&self, id: &InstanceId) {
        self.write_record(id, |_| {});
    }

    /// As [`Self::write_down`], with the state that it is about to enter; `false` = the node's next
    /// process would not know of it.
    pub(crate) fn write_down_as(&self, id: &InstanceId, state: InstanceState) -> bool {
        self.write_record(id, |record| record.report.state = state)
    }

    /// `true` also where there is nobody to read it.
    fn write_record(&self, id: &InstanceId, change: impl FnOnce(&mut Record)) -> bool {
        if !self.config.driver.adopts() {
            return true;
        }
        let table = self.table.lock();
        let record = table.instances.get(id).and_then(Instance::record);
        drop(table);
        record.is_some_and(|mut record| {
            change(&mut record);
            self.handles.write(&record)
        })
    }

    /// Takes in an instance of an earlier process, in the state that its report has.
    pub(crate) fn insert(&self, record: Record, output: Output) -> watch::Receiver<Order> {
        let Record {
            report,
            spec,
            accepted_ns,
            trace,
        } = record;
        let age = self.host.clock.now_ns().saturating_sub(accepted_ns);
        let id = report.id.clone();
        if !spec.config.volumes.is_empty() {
            self.directories.adopt(&id);
        }
        let spec = Some(Arc::new(spec));
        let (mut instance, orders) = Instance::new(report, spec, accepted_ns, output);
        if instance.report.state == InstanceState::Frozen {
            // Until an owner says otherwise.
            instance.orders.send_replace(Order::Freeze);
        }
        let started = instance.started.checked_sub(Duration::from_nanos(age));
        instance.started = started.unwrap_or(instance.started);
        instance.trace = trace;
        let mut table = self.table.lock();
        // A second guard: the floor itself comes from the log.
        let (shard, epoch) = (instance.report.shard, instance.report.epoch);
        table.floors.raise(shard, epoch);
        table.instances.insert(id, instance);
        orders
    }

    /// Instances that have an end to come.
    pub(crate) fn is_known(&self, id: &InstanceId) -> bool {
        let table = self.table.lock();
        let instance = table.instances.get(id);
        instance.is_some_and(|instance| instance.report.state.is_counted())
    }

    /// The end of an instance of which nothing but its id is known.
    pub(crate) fn log_end(&self, id: &InstanceId) {
        self.startstop.write("exit", id, Epoch::default(), None);
    }

    /// What runs an instance, where it is a container; with whether containers outlive this process.
    pub(crate) fn container_driver(
        &self,
        spec: &InstanceSpec,
    ) -> Option<(Arc<DockerDriver>, bool)> {
        match self.driver_of(spec) {
            AnyDriver::Docker(driver) => Some((driver, self.config.driver.adopts())),
            AnyDriver::Process(_) | AnyDriver::Fake(_) => None,
        }
    }

    pub(crate) fn handles(&self) -> &Handles {
        &self.handles
    }

    pub(crate) fn exited(&self, id: &InstanceId, exit: Exit, last_output: Vec<String>) {
        self.change(id, |instance| {
            instance.crashed = is_crash(instance.report.state, &exit);
            instance.report.state = InstanceState::Exited;
            instance.report.exit = Some(exit);
            instance.report.last_output = last_output;
            instance.ended = Some(Instant::now());
        });
    }

    pub(crate) fn output(&self, id: &InstanceId) -> Output {
        let table = self.table.lock();
        table
            .instances
            .get(id)
            .expect("an instance is in the table while it lives")
            .output
            .clone()
    }

    pub(crate) fn log(&self, event: &str, id: &InstanceId, pid: Option<u32>) {
        let epoch = self
            .table
            .lock()
            .instances
            .get(id)
            .map(|instance| instance.report.epoch);
        self.startstop
            .write(event, id, epoch.unwrap_or_default(), pid);
    }
}

fn elapsed_us(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn elapsed_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
