//! Builds one node out of its parts, runs it, and takes it down in order.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context;
use nihilo_control::session::SessionTemplate;
use nihilo_control::{Control, ControlConfig, ControlPorts};
use nihilo_failpoint::{Bug, planted};
use nihilo_gateway::{Gateway, LocalInstances, Unanswered};
use nihilo_host::{Host, Listener, sockets};
use nihilo_machine::Command;
use nihilo_machine::command::{Founder, InitCluster, RequestKey, Roles};
use nihilo_raft::{Identity, RaftConfig, RaftNode};
use nihilo_runtime::agent::OrderListener;
use nihilo_runtime::fake::RequestListener;
use nihilo_runtime::{Agent, AgentConfig, BundleStore, Bundles, DriverConfig, FakeConfig};
use nihilo_scale::config::ScaleConfig;
use nihilo_store::disk::Disk;
use nihilo_types::id::NodeId;
use nihilo_types::node_config::{DockerSettings, DriverKind, NodeConfig};
use nihilo_wire::cluster::NodeStatus;
use nihilo_wire::cluster::cluster_service_server::ClusterServiceServer;
use nihilo_wire::internal as pb;
use nihilo_wire::serving::bundle_service_server::BundleServiceServer;
use nihilo_wire::serving::config_service_server::ConfigServiceServer;
use nihilo_wire::serving::domain_service_server::DomainServiceServer;
use nihilo_wire::serving::observe_service_server::ObserveServiceServer;
use nihilo_wire::serving::serving_service_server::ServingServiceServer;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::Server;
use tracing::{info, warn};

use crate::admin::bundle::BundleApi;
use crate::admin::cluster::ClusterApi;
use crate::admin::config::ConfigApi;
use crate::admin::domain::DomainApi;
use crate::admin::observe::ObserveApi;
use crate::admin::serving::ServingApi;
use crate::bundle_gc::Collector;
use crate::config_source::AppliedConfig;
use crate::own_endpoints::{self, Here};
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
use crate::restart::{self, Asked, Requests};
use crate::secrets_key::SecretsKey;
use crate::service_manager::Parts;
use crate::{data_plane, on_node_exit};

/// Largest admin message (02-store §2.2).
const MAX_ADMIN_BYTES: usize = 4 * 1024 * 1024;
/// Handing shards and leadership over may take this much of the shutdown's grace.
const HANDOVER_LIMIT: Duration = Duration::from_secs(2);
const INIT_LIMIT: Duration = Duration::from_secs(30);
/// Other nodes have heard of a closed session once nothing has come from them for so long: longer than the
/// 250 ms after which their gateways send again what was refused (`GONE_PAUSE` in `gateway/line/places`).
const QUIET: Duration = Duration::from_millis(350);
const QUIET_LOOK_EVERY: Duration = Duration::from_millis(10);
/// That is waited for so long: owners hold the places of this node's instances for 3 s, in which its next
/// program has to open a session. What comes meanwhile is refused, and sent again by the others.
const QUIET_LIMIT: Duration = Duration::from_millis(1_500);

/// Containers before programs: these lose their files' directories last.
pub(crate) async fn end_everything(docker: &DockerSettings, agent: &Path) -> std::io::Result<()> {
    let containers = nihilo_runtime::docker::end_everything(docker.clone(), agent).await;
    let programs = nihilo_runtime::process::end_everything(agent);
    containers.and(programs)
}

pub(crate) fn agent_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("agent")
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
    bundles: Bundles,
    /// As bundles see it too.
    shares_images: Arc<AtomicBool>,
    /// Its instances outlive its process.
    pub(crate) adopts: bool,
    grace: Mutex<Duration>,
    pid_file: PathBuf,
    restarts: tokio::sync::Mutex<mpsc::Receiver<Asked>>,
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
        let gateway = data_plane::start(&config, &host, &local, &control_cell).await?;
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
        // Before any of this program's own.
        let inherited = match restart::is_next() {
            true => nihilo_runtime::process::children(),
            false => Vec::new(),
        };
        let agent = start_agent(&config, adopts, &host, (requests, orders), local, means)?;
        agent.reap_others(inherited);
        let collector = Collector {
            raft: raft.clone(),
            agent: agent.clone(),
            bundles: bundles.clone(),
            shares_images: Arc::new(AtomicBool::new(config.docker.share_images)),
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
        let (requests, restarts) = restart::requests();
        let node = Self {
            raft,
            control,
            gateway,
            agent,
            bundles,
            shares_images: collector.shares_images.clone(),
            adopts,
            grace: Mutex::new(grace_of(&config)),
            pid_file: config.data_dir.join("nihilo.pid"),
            restarts: tokio::sync::Mutex::new(restarts),
        };
        node.obey_no_owner_without_store();
        if adopts {
            node.serve_what_was_adopted(config.peer_address());
        }
        nihilo_actors::task::spawn("bundle-gc", collector.clone().run());
        let bundles = BundleApi {
            collector,
            source,
            node_name: config.name.clone(),
            peer_address: config.peer_address(),
        };
        node.serve_peers(peer, &config, cluster_id, relays, bundles.clone());
        let known = Known {
            channels: remote.channels,
            secrets_key,
            requests,
        };
        node.serve_admin(admin, &config, known, bundles);
        std::fs::write(&node.pid_file, format!("{}\n", std::process::id()))?;
        let on_node_exit = if adopts { "adopt" } else { "kill" };
        info!(name = config.name, on_node_exit, "node started");
        Ok(node)
    }

    pub fn raft(&self) -> &RaftNode {
        &self.raft
    }

    pub(crate) fn parts(&self) -> Parts {
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

    /// Also where no owner is left to speak of it.
    fn serve_what_was_adopted(&self, peer_address: String) {
        let here = Here {
            node: NodeId(self.raft.identity().node_id),
            peer_address: peer_address.into(),
        };
        let gateway = self.gateway.clone();
        let say = move |table| gateway.update_endpoints(table);
        let telling = own_endpoints::tell(say, self.agent.clone(), here);
        nihilo_actors::task::spawn("own-endpoints", telling);
    }

    fn serve_peers(
        &self,
        listener: Listener,
        config: &NodeConfig,
        cluster_id: Arc<str>,
        relays: Relays,
        bundles: BundleApi,
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
                bundles,
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
        known: Known,
        bundles: BundleApi,
    ) {
        let Known {
            channels,
            secrets_key,
            requests,
        } = known;
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
            restarts: requests,
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
        let agent = self.agent.clone();
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
                .add_routes(crate::admin::metrics::add(routes, gateway, agent))
                .serve_with_incoming(incoming(listener));
            if let Err(error) = server.await {
                warn!(%error, "admin server ended");
            }
        });
    }

    /// In the order that loses nothing: ownership, then leadership, then traffic, then instances.
    pub async fn stop(self) {
        info!("node stops");
        restart::refuse_from_now_on(&mut *self.restarts.lock().await);
        // A listener that ends refuses from then on: nobody takes its place.
        sockets::let_go();
        let grace = *self.grace.lock();
        if planted(Bug::LeavesFirst) {
            self.control.leave(HANDOVER_LIMIT).await;
        }
        // What is accepted meanwhile needs the instances, and a part of the same time.
        let begun = Instant::now();
        self.gateway.announce_end(grace).await;
        let left = (grace / 3 * 2).saturating_sub(begun.elapsed());
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

impl Node {
    /// The next wish, by the admin API, that this node be restarted.
    pub(crate) async fn restart_asked(&self) -> Asked {
        let asked = self.restarts.lock().await.recv().await;
        match asked {
            Some(asked) => asked,
            // The admin API is gone, and with it whoever asks.
            None => std::future::pending().await,
        }
    }

    /// Follows what of a configuration may change while it runs (`nihilo_types::node_view::LIVE`).
    ///
    /// # Errors
    /// A setting, or a certificate, cannot be used; then nothing changes.
    pub(crate) fn follow(&self, config: &NodeConfig) -> anyhow::Result<()> {
        data_plane::follow(&self.gateway, config)?;
        self.bundles.store().set_max_bytes(config.bundles.max_bytes);
        let shares_images = config.docker.share_images;
        self.shares_images.store(shares_images, Ordering::Relaxed);
        *self.grace.lock() = grace_of(config);
        Ok(())
    }

    /// What is under way is answered within this before another program takes this one's place.
    pub(crate) fn answers_within(&self) -> Duration {
        *self.grace.lock()
    }

    /// Gives up everything but the instances and the listening sockets, so that another program can take
    /// this one's place. Leadership first, as the cluster can do without this node from then on; then
    /// clients, then other nodes' requests, while the session is open: owners see what becomes of the
    /// instances, and wait 3 s and no longer once it is closed.
    pub(crate) async fn step_aside(&self) {
        let limit = self.answers_within();
        restart::refuse_from_now_on(&mut *self.restarts.lock().await);
        info!(
            ?limit,
            "node makes room for its next program, and answers what it has"
        );
        let begun = Instant::now();
        if let Err(error) = self.raft.transfer_leader(None, HANDOVER_LIMIT).await {
            warn!(%error, "leadership not handed over");
        }
        let left = self.gateway.step_aside(limit).await;
        if left != Unanswered::default() {
            let Unanswered {
                n_clients,
                n_requests,
                n_gateways,
            } = left;
            warn!(
                n_clients,
                n_requests,
                n_gateways,
                ?limit,
                "not answered in time, and cut"
            );
        }
        self.control.leave_for_a_moment(HANDOVER_LIMIT).await;
        self.agent.set_accepting(false);
        self.until_quiet().await;
        self.raft.shutdown().await;
        let took = begun.elapsed();
        info!(?took, "node stepped aside");
    }

    /// Waits until no other node has sent anything here for a moment.
    async fn until_quiet(&self) {
        let quiet = async {
            let (mut since, mut n_refused) = (Instant::now(), self.gateway.n_refused());
            while since.elapsed() < QUIET {
                tokio::time::sleep(QUIET_LOOK_EVERY).await;
                let now = self.gateway.n_refused();
                if now != n_refused {
                    (since, n_refused) = (Instant::now(), now);
                }
            }
        };
        if tokio::time::timeout(QUIET_LIMIT, quiet).await.is_err() {
            warn!("other nodes still send requests here: those of now may be cut");
        }
    }
}

fn grace_of(config: &NodeConfig) -> Duration {
    Duration::from_secs(config.shutdown_grace.into())
}

/// What the admin API has beside the parts of the node.
struct Known {
    channels: Channels,
    secrets_key: SecretsKey,
    requests: Requests,
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
pub(crate) fn check_autoscaler(settings: &BTreeMap<String, String>) -> anyhow::Result<()> {
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
