//! Builds one node out of its parts, runs it, and takes it down in order.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context;
use nihilo_cli::NodeFailure;
use nihilo_control::session::SessionTemplate;
use nihilo_control::{Control, ControlConfig, ControlPorts};
use nihilo_failpoint::{Bug, planted};
use nihilo_gateway::{Gateway, LocalInstances};
use nihilo_host::{Host, Listener};
use nihilo_machine::Command;
use nihilo_machine::command::{Founder, InitCluster, RequestKey, Roles};
use nihilo_raft::{Identity, OpenError, RaftConfig, RaftNode, StartError, StoreReplaced};
use nihilo_runtime::agent::OrderListener;
use nihilo_runtime::fake::RequestListener;
use nihilo_runtime::{Agent, AgentConfig, BundleStore, Bundles, DriverConfig, FakeConfig};
use nihilo_scale::config::ScaleConfig;
use nihilo_store::disk::Disk;
use nihilo_types::id::NodeId;
use nihilo_types::node_config::{DriverKind, NodeConfig};
use nihilo_wire::cluster::NodeStatus;
use nihilo_wire::cluster::cluster_service_server::ClusterServiceServer;
use nihilo_wire::internal as pb;
use nihilo_wire::serving::bundle_service_server::BundleServiceServer;
use nihilo_wire::serving::config_service_server::ConfigServiceServer;
use nihilo_wire::serving::domain_service_server::DomainServiceServer;
use nihilo_wire::serving::observe_service_server::ObserveServiceServer;
use nihilo_wire::serving::serving_service_server::ServingServiceServer;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::Server;
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

use crate::admin::bundle::BundleApi;
use crate::admin::cluster::ClusterApi;
use crate::admin::config::ConfigApi;
use crate::admin::domain::DomainApi;
use crate::admin::observe::ObserveApi;
use crate::admin::serving::ServingApi;
use crate::bundle_gc::Collector;
use crate::config_source::AppliedConfig;
use crate::on_node_exit;
use crate::peer::accepted::incoming;
use crate::peer::agent_service::AgentService;
use crate::peer::bundle_service::BundleService;
use crate::peer::bundle_source::BundleSource;
use crate::peer::channels::Channels;
use crate::peer::liveness_service::LivenessService;
use crate::peer::owner_ledger::OwnerLedger;
use crate::peer::owner_service::OwnerService;
use crate::peer::relay::Relays;
use crate::peer::remote::Remote;
use crate::peer::sniff;
use crate::ports::{
    AdmissionPort, AgentPort, AgentsPort, GatewayPort, LeaderPort, OwnersPort, RaftPort,
};
use crate::secrets_key::SecretsKey;
use crate::service_manager::{self, Parts, ServiceManager};

/// Largest admin message (02-store §2.2).
const MAX_ADMIN_BYTES: usize = 4 * 1024 * 1024;
/// Handing shards and leadership over may take this much of the shutdown's grace.
const HANDOVER_LIMIT: Duration = Duration::from_secs(2);
const INIT_LIMIT: Duration = Duration::from_secs(30);

/// Runs one node in this process until SIGTERM or SIGINT.
///
/// # Errors
/// Anything that keeps it from starting, with what to do about it.
pub fn run_node(config: NodeConfig) -> Result<(), NodeFailure> {
    run(config).map_err(|error| NodeFailure {
        is_store_refused: is_store_refused(&error),
        error,
    })
}

fn is_store_refused(error: &anyhow::Error) -> bool {
    let refused_at_open = matches!(
        error.downcast_ref(),
        Some(StartError::Open(
            OpenError::Damaged { .. } | OpenError::WrongIdentity { .. }
        ))
    );
    let was_removed = matches!(error.downcast_ref(), Some(StartError::Removed(_)));
    refused_at_open || was_removed || error.is::<StoreReplaced>()
}

fn run(config: NodeConfig) -> anyhow::Result<()> {
    log_to_stderr();
    leave_no_core_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()?;
    runtime.block_on(live(&config))
}

/// What a crash would write down holds opened Secrets.
fn leave_no_core_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Core).maximum;
    let none = Rlimit {
        current: Some(0),
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Core, none) {
        warn!(%error, "a crash of this node may leave a core file, which may hold Secrets");
    }
}

/// The engine's client, whatever `NIHILO_LOG` says.
const QUIET: [&str; 2] = ["bollard=info", "bollard::docker=info"];

fn log_to_stderr() {
    let filter =
        EnvFilter::try_from_env("NIHILO_LOG").unwrap_or_else(|_| "info,openraft=warn".into());
    // More than this it prints what it sends and gets: containers' variables, Secrets among them.
    let quiet = QUIET
        .into_iter()
        .filter_map(|directive| directive.parse().ok());
    let filter = quiet.fold(filter, EnvFilter::add_directive);
    // A second subscriber in one process is a test's business.
    drop(
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            // A journal shows colours as binary data.
            .with_ansi(!service_manager::journal_reads_stderr())
            // Its own complaint would panic where the log cannot be written: on a full disk.
            .log_internal_errors(false)
            .try_init(),
    );
}

/// A node from its start to its end, which the service manager hears of.
async fn live(config: &NodeConfig) -> anyhow::Result<()> {
    let started = Node::start(config.clone(), Ground::default()).await;
    let node = started.inspect_err(|error| end_what_nobody_owns(error, config))?;
    let manager = ServiceManager::of_environment();
    let following = manager.map(|manager| manager.follow(node.parts()));
    let mut removal = node.raft.removal();
    // A node that may not take part serves nothing either. Any may come first; all end in the
    // same good order.
    let ended = tokio::select! {
        biased;
        signal = stop_signal() => signal,
        words = removal.wait_for(Option::is_some) => {
            let words = words.ok().and_then(|words| words.clone());
            let words = words.unwrap_or_default().to_string();
            Err(anyhow::Error::new(StartError::Removed(words)))
        }
        Err(refused) = node.found(config) => Err(refused),
    };
    if let Err(why) = &ended {
        error!("{why}");
    }
    if let Some(following) = following {
        following.node_stops();
    }
    node.stop().await;
    ended
}

/// A node that was removed while it was away has no owner who would stop what outlived it.
fn end_what_nobody_owns(error: &anyhow::Error, config: &NodeConfig) {
    if let Some(StartError::Removed(_)) = error.downcast_ref() {
        let ended = nihilo_runtime::process::end_everything(&agent_dir(&config.data_dir));
        if let Err(error) = ended {
            warn!(%error, "instances of this removed node may still run");
        }
    }
}

pub(crate) fn agent_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("agent")
}

async fn stop_signal() -> anyhow::Result<()> {
    let (mut term, mut int) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    // Both mean the same.
    tokio::select! {
        biased;
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}

/// What a node stands on; the system's own by default.
#[derive(Debug, Default)]
pub struct Ground {
    pub host: Host,
    /// Another disk than the file system's for the store.
    pub disk: Option<Box<dyn Disk>>,
    /// Hears of the requests that fake instances serve.
    pub requests: Option<RequestListener>,
    /// Hears of the orders that the agent gets.
    pub orders: Option<OrderListener>,
    /// Snapshots more often than every 20,000 entries.
    pub snapshot_every: Option<u64>,
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    raft: RaftNode,
    control: Control,
    gateway: Gateway,
    agent: Agent,
    grace: Duration,
    pid_file: PathBuf,
}

impl Node {
    /// Starts a node on the caller's runtime; it runs until [`Self::stop`], and takes part once it
    /// is [`Self::found`].
    ///
    /// # Errors
    /// Anything that keeps it from starting, with what to do about it.
    pub async fn start(config: NodeConfig, ground: Ground) -> anyhow::Result<Self> {
        check_autoscaler(&config.autoscaler)?;
        let node = NodeId(config.node_id);
        // Before the ports: a second process on the directory is told so, not of its ports.
        nihilo_raft::check_unused(&config.data_dir)?;
        let Ground {
            host,
            disk,
            requests,
            orders,
            snapshot_every,
        } = ground;
        let peer = bind(&host, &config, config.peer_port, "peer").await?;
        let admin = bind(&host, &config, config.admin_port, "admin").await?;
        let below = nihilo_raft::Ground {
            host: host.clone(),
            disk,
        };
        let is_on_files = below.disk.is_none();
        let raft = start_raft(&config, below, snapshot_every).await?;
        let secrets_key = SecretsKey::new(config.secrets_key_file());
        // A simulated node leaves nothing on the host.
        if is_on_files {
            prepare_secrets_key(&secrets_key, &config, &raft);
        }
        let local = LocalInstances::default();
        let control_cell = Arc::new(OnceLock::new());
        let gateway = crate::data_plane::start(&config, &host, &local, &control_cell).await?;
        let adopts = on_node_exit::adopts(&config);
        let source = BundleSource {
            node,
            raft: raft.clone(),
            channels: Channels::new(host.net.clone()),
        };
        let bundles = open_bundles(&config, &source)?;
        let applied = AppliedConfig {
            raft: raft.clone(),
            key: secrets_key.clone(),
        };
        let means = Means {
            bundles: bundles.clone(),
            applied,
        };
        let agent = start_agent(&config, adopts, &host, (requests, orders), local, means)?;
        let collector = Collector {
            raft: raft.clone(),
            agent: agent.clone(),
            bundles,
        };
        let cluster_id: Arc<str> = raft.identity().cluster_id.as_str().into();
        let remote = Remote {
            channels: Channels::new(host.net.clone()),
            cluster_id: cluster_id.clone(),
        };
        let relays = Relays {
            node,
            raft: raft.clone(),
            remote: remote.clone(),
        };
        let ports = ControlPorts {
            proposer: Arc::new(RaftPort(raft.clone())),
            state: Arc::new(RaftPort(raft.clone())),
            leader: Arc::new(RaftPort(raft.clone())),
            leader_link: Arc::new(LeaderPort {
                net: host.net.clone(),
                remote: remote.clone(),
                raft: raft.clone(),
            }),
            agents: Arc::new(AgentsPort {
                node,
                local: agent.clone(),
                relays: relays.clone(),
                ledger: OwnerLedger::open(&config.data_dir)?,
            }),
            owners: Arc::new(OwnersPort {
                node,
                local: control_cell.clone(),
                remote: remote.clone(),
            }),
            gateway: Arc::new(GatewayPort(gateway.clone())),
            agent: Arc::new(AgentPort(agent.clone())),
        };
        let control = Control::spawn(control_config(&config, adopts, &raft), ports);
        drop(control_cell.set(control.clone()));
        let node = Self {
            raft,
            control,
            gateway,
            agent,
            grace: Duration::from_secs(config.shutdown_grace.into()),
            pid_file: config.data_dir.join("nihilo.pid"),
        };
        node.obey_no_owner_without_store();
        node.serve_peers(peer, &config, cluster_id, relays, collector.clone());
        nihilo_actors::task::spawn("bundle-gc", collector.clone().run());
        let bundles = BundleApi {
            collector,
            source,
            node_name: config.name.clone(),
            peer_address: config.peer_address(),
        };
        node.serve_admin(admin, &config, remote.channels, bundles, secrets_key);
        std::fs::write(&node.pid_file, format!("{}\n", std::process::id()))?;
        let on_node_exit = if adopts { "adopt" } else { "kill" };
        info!(name = config.name, on_node_exit, "node started");
        Ok(node)
    }

    pub fn raft(&self) -> &RaftNode {
        &self.raft
    }

    fn parts(&self) -> Parts {
        Parts {
            raft: self.raft.clone(),
            control: self.control.clone(),
            gateway: self.gateway.clone(),
        }
    }

    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// Takes part as soon as it may. The founder makes the membership and the cluster's first
    /// entry; a cluster that has them is left alone.
    ///
    /// # Errors
    /// This node may not take part, or Raft has stopped.
    pub async fn found(&self, config: &NodeConfig) -> anyhow::Result<()> {
        self.raft.introduce().await?;
        if !config.is_founder() {
            return Ok(());
        }
        self.raft.initialize().await?;
        if self.raft.state().read(|state| state.cluster().is_some()) {
            return Ok(());
        }
        let init = InitCluster {
            cluster_id: config.cluster.clone(),
            name: config.cluster.clone(),
            domain: config.domain.clone(),
            external_port: config.external_port.unwrap_or(config.gateway_port),
            autoscaler: config.autoscaler.clone(),
        };
        let raft = self.raft.clone();
        nihilo_actors::task::spawn("found", async move {
            // The others may start later: it waits for them, and once is enough.
            while raft.state().read(|state| state.cluster().is_none()) {
                let command = Command::InitCluster(init.clone());
                if let Err(error) = raft
                    .propose(command, RequestKey::default(), INIT_LIMIT)
                    .await
                {
                    info!(%error, "waiting for a quorum of members");
                }
            }
        });
        Ok(())
    }

    /// A node whose store has failed does not hear of new owners, so it starts nothing for an old
    /// one; what runs goes on.
    fn obey_no_owner_without_store(&self) {
        let (agent, mut failure) = (self.agent.clone(), self.raft.failure());
        nihilo_actors::task::spawn("store-failure", async move {
            // An error means that the store was closed in good order.
            if failure.wait_for(Option::is_some).await.is_ok() {
                agent.set_accepting(false);
            }
        });
    }

    fn serve_peers(
        &self,
        listener: Listener,
        config: &NodeConfig,
        cluster_id: Arc<str>,
        relays: Relays,
        collector: Collector,
    ) {
        let gateway = self.gateway.clone();
        let connections = sniff::split(listener, move |socket| gateway.serve_mesh(socket));
        let liveness = LivenessService {
            control: self.control.clone(),
            raft: self.raft.clone(),
            node: NodeId(config.node_id),
            cluster_id,
        };
        let agent = AgentService {
            agent: self.agent.clone(),
            node_name: config.name.clone(),
            session: self.control.session(),
            relays,
        };
        let server = Server::builder()
            .tcp_nodelay(true)
            .add_service(self.raft.peer_server().into_service())
            .add_service(pb::liveness_server::LivenessServer::new(liveness))
            .add_service(pb::agent_server::AgentServer::new(agent))
            .add_service(pb::bundles_server::BundlesServer::new(BundleService::new(
                collector,
            )))
            .add_service(pb::owner_server::OwnerServer::new(OwnerService {
                control: self.control.clone(),
            }))
            .serve_with_incoming(ReceiverStream::new(connections));
        nihilo_actors::task::spawn("peer-server", async move {
            if let Err(error) = server.await {
                warn!(%error, "peer server ended");
            }
        });
    }

    fn serve_admin(
        &self,
        listener: Listener,
        config: &NodeConfig,
        channels: Channels,
        bundles: BundleApi,
        secrets_key: SecretsKey,
    ) {
        let me = NodeStatus {
            id: config.node_id,
            name: config.name.clone(),
            gateway: config.gateway_address(),
            admin: config.admin_address(),
            peer: config.peer_address(),
            pid: std::process::id(),
            ..NodeStatus::default()
        };
        let cluster = ClusterApi {
            raft: self.raft.clone(),
            control: self.control.clone(),
            agent: self.agent.clone(),
            configured: config.members.clone(),
            me,
            started: Instant::now(),
            channels: channels.clone(),
            secrets_key: secrets_key.clone(),
        };
        let observe = ObserveApi {
            raft: self.raft.clone(),
            channels,
            agent: self.agent.clone(),
            node: config.node_id,
        };
        let serving = ServingApi {
            raft: self.raft.clone(),
        };
        let settings = ConfigApi {
            raft: self.raft.clone(),
            key: secrets_key,
        };
        let domains = DomainApi {
            raft: self.raft.clone(),
        };
        let (raft, gateway) = (self.raft.clone(), self.gateway.clone());
        nihilo_actors::task::spawn("admin-server", async move {
            let (health, health_service) = tonic_health::server::health_reporter();
            nihilo_actors::task::spawn("health", report_health(raft, health));
            let reflection = tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(nihilo_wire::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                .build_v1();
            let reflection = match reflection {
                Ok(reflection) => reflection,
                Err(error) => return warn!(%error, "reflection"),
            };
            let routes = Routes::new(health_service)
                .add_service(reflection)
                .add_service(
                    ServingServiceServer::new(serving).max_decoding_message_size(MAX_ADMIN_BYTES),
                )
                .add_service(
                    ConfigServiceServer::new(settings).max_decoding_message_size(MAX_ADMIN_BYTES),
                )
                .add_service(
                    DomainServiceServer::new(domains).max_decoding_message_size(MAX_ADMIN_BYTES),
                )
                .add_service(
                    BundleServiceServer::new(bundles).max_decoding_message_size(MAX_ADMIN_BYTES),
                )
                .add_service(ObserveServiceServer::new(observe))
                .add_service(ClusterServiceServer::new(cluster));
            let server = Server::builder()
                .accept_http1(true)
                .add_routes(crate::admin::metrics::add(routes, gateway))
                .serve_with_incoming(incoming(listener));
            if let Err(error) = server.await {
                warn!(%error, "admin server ended");
            }
        });
    }

    /// In the order that loses nothing: ownership, then leadership, then traffic, then instances.
    pub async fn stop(self) {
        info!("node stops");
        if planted(Bug::LeavesFirst) {
            self.control.leave(HANDOVER_LIMIT).await;
        }
        // What is accepted meanwhile needs the instances, and a part of the same time.
        let begun = Instant::now();
        self.gateway.announce_end(self.grace).await;
        let left = (self.grace / 3 * 2).saturating_sub(begun.elapsed());
        // While the session is open, owners see each instance end: what is replaced meanwhile
        // keeps to max-scale, and what waits at this gateway is still served.
        tokio::join!(self.gateway.drain(left), self.agent.shutdown(left));
        self.control.leave(HANDOVER_LIMIT).await;
        if let Err(error) = self.raft.transfer_leader(None, HANDOVER_LIMIT).await {
            warn!(%error, "leadership not handed over");
        }
        self.raft.shutdown().await;
        drop(std::fs::remove_file(&self.pid_file));
        info!("node stopped");
    }
}

/// Healthy = a linearizable read succeeds.
async fn report_health(raft: RaftNode, health: tonic_health::server::HealthReporter) {
    use tonic_health::ServingStatus::{NotServing, Serving};
    loop {
        let ready = raft.read_index(Duration::from_secs(1)).await.is_ok();
        let status = if ready { Serving } else { NotServing };
        health.set_service_status("", status).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn bind(host: &Host, config: &NodeConfig, port: u16, what: &str) -> anyhow::Result<Listener> {
    let text = format!("{}:{port}", config.listen);
    let address = text
        .parse()
        .with_context(|| format!("listen = `{}` is no address", config.listen))?;
    host.net.listen(address).await.with_context(|| {
        format!(
            "{what} address {address} cannot be used; see who listens there with `ss -ltnp 'sport = \
             :{port}'`, or set another `{what}-port`"
        )
    })
}

async fn start_raft(
    config: &NodeConfig,
    ground: nihilo_raft::Ground,
    snapshot_every: Option<u64>,
) -> anyhow::Result<RaftNode> {
    let members: BTreeMap<u64, String> = config
        .members
        .iter()
        .map(|member| (member.id, member.peer.clone()))
        .collect();
    let identity = Identity {
        cluster_id: config.cluster.clone(),
        node_id: config.node_id,
    };
    if config.joined && nihilo_raft::is_blank(&config.data_dir) {
        anyhow::bail!(
            "data directory `{}` is empty, and node {} has joined with one that was not: what it \
             had acknowledged is gone. Remove it with `nihilo cluster remove {}`, and join under a \
             new id",
            display(&config.data_dir),
            config.node_id,
            config.name
        );
    }
    let founders = config.members.iter().map(|member| Founder {
        id: NodeId(member.id),
        name: member.name.clone(),
        peer_address: member.peer.clone(),
        admin_address: member.admin.clone(),
    });
    let founders = founders.filter(|_| !config.joined).collect();
    let raft = RaftConfig {
        identity,
        data_dir: config.data_dir.clone(),
        members,
        founders,
        profile: config.profile,
        failover_fast_path: config.failover_fast_path,
        snapshot_every: snapshot_every
            .or_else(|| nihilo_failpoint::number("NIHILO_SNAPSHOT_EVERY")),
        digest_every: None,
    };
    Ok(RaftNode::start_on(raft, ground).await?)
}

fn open_bundles(config: &NodeConfig, source: &BundleSource) -> anyhow::Result<Bundles> {
    let dir = config.data_dir.join("bundles");
    let store = BundleStore::open(dir, config.bundles.max_bytes)?;
    Ok(Bundles::new(store, Arc::new(source.clone())))
}

/// The founder of a cluster makes its key, or its only member, as after a restore, unless there are
/// Secrets already, which another one has sealed. A node without the right key runs all the same.
fn prepare_secrets_key(key: &SecretsKey, config: &NodeConfig, raft: &RaftNode) {
    let (sealed_by, is_alone) = raft.state().read(|state| {
        let sealed_by = state.secrets_key_id().map(str::to_owned);
        let members = state.members().filter(|member| !member.is_removed());
        (sealed_by, members.count() == 1)
    });
    if (config.is_founder() || is_alone)
        && sealed_by.is_none()
        && !key.is_there()
        && let Err(error) = key.make()
    {
        let file = display(&config.secrets_key_file());
        warn!(%error, file, "no key for Secrets could be made");
    }
    match (key.get(), sealed_by) {
        (Ok(key), Some(id)) if key.id() != id => warn!(
            own = key.id(),
            cluster = id,
            "this node's secrets key is not the one that the cluster's Secrets are sealed by"
        ),
        (Err(error), Some(_)) => warn!(%error, "the cluster has Secrets, and this node opens none"),
        _ => {}
    }
}

/// Where instances get their programs and their configuration from.
struct Means {
    bundles: Bundles,
    applied: AppliedConfig,
}

fn start_agent(
    config: &NodeConfig,
    adopts: bool,
    host: &Host,
    (requests, orders): (Option<RequestListener>, Option<OrderListener>),
    local: LocalInstances,
    means: Means,
) -> anyhow::Result<Agent> {
    let dir = agent_dir(&config.data_dir);
    let agent = AgentConfig {
        node_name: config.name.clone(),
        executable: std::env::current_exe()?,
        dir: dir.clone(),
        capacity: config.capacity,
        driver: match config.driver {
            DriverKind::Process => DriverConfig::Process {
                first_port: config.instance_ports,
                settings: config.process.clone(),
                private: private(config),
                docker: config.docker.clone(),
                adopts,
            },
            DriverKind::Fake => DriverConfig::Fake(FakeConfig {
                boot: config.fake_boot.unwrap_or_default(),
                listener: requests,
            }),
        },
        host: host.clone(),
        bundles: Some(means.bundles),
        orders,
    };
    std::fs::create_dir_all(&dir)?;
    Agent::new(
        agent,
        Arc::new(AdmissionPort(local)),
        Arc::new(means.applied),
    )
    .with_context(|| format!("agent directory `{}`", display(&dir)))
}

/// What no program of an instance may read: everything that the node keeps, and its keys.
fn private(config: &NodeConfig) -> Vec<PathBuf> {
    let mut private = vec![config.data_dir.clone(), config.secrets_key_file()];
    private.extend(config.gateway.certificates.clone());
    private
}

fn display(path: &Path) -> String {
    path.display().to_string()
}

/// What `config-autoscaler` begins with must be valid, and hold nothing that nobody reads.
fn check_autoscaler(settings: &BTreeMap<String, String>) -> anyhow::Result<()> {
    ScaleConfig::from_known(settings).context("autoscaler settings")?;
    Ok(())
}

fn control_config(config: &NodeConfig, adopts: bool, raft: &RaftNode) -> ControlConfig {
    let timing = raft.timing();
    ControlConfig {
        node: NodeId(config.node_id),
        name: config.name.clone(),
        session: SessionTemplate {
            roles: Roles::ALL,
            peer_address: config.peer_address(),
            gateway_address: config.gateway_address(),
            admin_address: config.admin_address(),
            capacity: config.capacity,
            t_self_ms: u32::try_from(timing.t_self_ms()).unwrap_or(u32::MAX),
            kills_instances_on_exit: !adopts,
            store_id: raft.store_id().into(),
        },
        election_timeout_max_ms: timing.election_max_ms,
    }
}
