//! The gateway's handle, and its thread.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::Request;
use http::header::HeaderValue;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use nihilo_failpoint::{Bug, Point, hit, planted};
use nihilo_host::{Host, Net, Stream, Threads};
use nihilo_types::endpoint::EndpointTable;
use nihilo_types::id::{LogIndex, NodeId, SessionId, ShardId};
use nihilo_types::route_table::RouteTable;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::debug;

use crate::access_log::{AccessLog, Destination};
use crate::asleep::ProbeAgents;
use crate::connection::ClientLimits;
use crate::health::Watched;
use crate::heard::{Heard, LastHeard};
use crate::limiter::LocalInstances;
use crate::line::{HeldBytes, OutOfReach, Surroundings};
use crate::listener::{self, Door, Kind, Trust};
use crate::mesh::{MESH_SILENT, Mesh};
use crate::mesh_door::{Inside, MeshDoor};
use crate::metrics::Metrics;
use crate::ports::{RevisionStat, ScaleUp};
use crate::proxy::Plane;
use crate::reservations::Reservations;
use crate::router::Router;
use crate::rules::Via;
use crate::tls::{Tls, TlsError};

/// Demand is repeated this often while requests wait and nothing is ready.
const DEMAND_PERIOD: Duration = Duration::from_millis(250);
/// Streams of one peer gateway.
const MESH_STREAMS: u32 = 512;
/// So long before the end of the grace open WebSockets are told to go.
const FAREWELL: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
pub struct GatewayConfig {
    pub listen: SocketAddr,
    /// Also serves hosts that only this cluster may use.
    pub private_listen: Option<SocketAddr>,
    /// Address for TLS, and the directory of its certificates.
    pub tls: Option<(SocketAddr, PathBuf)>,
    pub trust: Trust,
    pub access_log: Destination,
    pub client_limits: ClientLimits,
    pub node: NodeId,
    pub node_name: String,
    /// Names this cluster in `Via`.
    pub cluster: String,
    pub probe_agents: ProbeAgents,
}

impl GatewayConfig {
    /// Cleartext at `listen`, nobody trusted, no access log.
    pub fn plain(listen: SocketAddr, node: NodeId, node_name: &str) -> Self {
        Self {
            listen,
            private_listen: None,
            tls: None,
            trust: Trust::default(),
            access_log: Destination::Off,
            client_limits: ClientLimits::default(),
            node,
            node_name: node_name.to_owned(),
            cluster: "nihilo".to_owned(),
            probe_agents: ProbeAgents::default(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "gateway address {address} cannot be used; see who listens there with `ss -ltnp 'sport = \
         :{}'`, or set another `gateway-port`",
        address.port()
    )]
    Bind {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error("gateway thread")]
    Thread(#[from] std::io::Error),
    #[error("TLS listener")]
    Tls(#[from] TlsError),
    #[error("access log")]
    AccessLog(#[source] std::io::Error),
}

/// What the listeners do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Closed,
    Open,
    /// Open, but the health answer sends balancers away.
    Leaving,
    Draining,
}

/// Handle to the data plane; cheap to clone, usable from any thread.
#[derive(Debug, Clone)]
pub struct Gateway {
    plane: Arc<Plane>,
    phase: watch::Sender<Phase>,
    leaving: watch::Sender<bool>,
    runtime: Handle,
    addresses: Vec<SocketAddr>,
    trust: Arc<ArcSwap<Trust>>,
    tls: Option<Tls>,
}

impl Gateway {
    /// Binds the listeners, so that a used port is an error now, and starts the data plane, on its
    /// own thread where the host gives it one. Clients are answered after
    /// [`Self::open_listeners`].
    ///
    /// # Errors
    /// An address is in use, certificates or the log's file cannot be used, or no thread be made.
    pub async fn start(
        config: &GatewayConfig,
        host: &Host,
        local: LocalInstances,
        scale_up: Arc<dyn ScaleUp>,
    ) -> Result<Self, StartError> {
        let (doors, tls) = open_doors(config, &host.net).await?;
        let addresses = doors
            .iter()
            .filter_map(|door| door.socket.local_addr().ok());
        let addresses = addresses.collect();
        let (leaving, leaving_seen) = watch::channel(false);
        let plane = Arc::new(plane(config, &host.net, local, scale_up, leaving_seen)?);
        let (phase, phase_seen) = watch::channel(Phase::Closed);
        let trust = Arc::new(ArcSwap::from_pointee(config.trust.clone()));
        let data_plane = DataPlane {
            plane: plane.clone(),
            doors,
            tls: tls.clone(),
            trust: trust.clone(),
            phase: phase_seen,
        };
        let runtime = match host.threads {
            Threads::Own => data_plane.on_own_thread()?,
            Threads::Callers => {
                tokio::spawn(data_plane.run());
                Handle::current()
            }
        };
        Ok(Self {
            plane,
            phase,
            leaving,
            runtime,
            addresses,
            trust,
            tls,
        })
    }

    /// Believes these from the next connection on, and takes these for probers from the next request on.
    pub fn trust(&self, trust: Trust, probe_agents: ProbeAgents) {
        self.trust.store(Arc::new(trust));
        self.plane.probe_agents.store(Arc::new(probe_agents));
    }

    /// Reads the certificates again, without waiting for a change to be seen.
    ///
    /// # Errors
    /// They cannot be used; those before stay in use.
    pub fn reload_certificates(&self) -> Result<(), TlsError> {
        self.tls.as_ref().map_or(Ok(()), Tls::reload)
    }

    /// What it listens on: the public address, then the private and the TLS one, if there are.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// All series, in OpenMetrics text.
    pub fn metrics_text(&self) -> String {
        self.plane.around.metrics.text()
    }

    /// Swaps the table in: every request accepted after this returns uses it.
    pub fn swap_routes(&self, table: Arc<RouteTable>) {
        hit(Point::TableSwapped);
        self.plane.around.metrics.swapped(table.index.0);
        self.plane.routes.store(table);
    }

    /// Takes an owner's word about a revision's instances; an older one is ignored.
    pub fn update_endpoints(&self, table: EndpointTable) {
        // Lines first, as where a line is made: it must not miss what comes just then.
        let lines = self.plane.lines.lock();
        let mut known = self.plane.endpoints.lock();
        let version = |table: &EndpointTable| (table.epoch, table.seq);
        if known
            .get(&table.revision)
            .is_some_and(|old| version(old) >= version(&table))
        {
            return;
        }
        known.insert(table.revision.clone(), table.clone());
        if let Some(line) = lines.get(&table.revision)
            && line.target.lock().uid == table.revision_uid
        {
            line.update(table);
        }
    }

    /// A node was declared down: its instances are gone, its streams end.
    pub fn session_down(&self, session: SessionId) {
        self.session_left(session);
        if !planted(Bug::StreamsHang) {
            self.plane.mesh.session_down(session);
        }
    }

    /// A node leaves: nothing new goes there, what is under way is answered.
    pub fn session_left(&self, session: SessionId) {
        self.plane.mesh.session_left(session);
        for table in self.plane.endpoints.lock().values_mut() {
            table
                .instances
                .retain(|endpoint| endpoint.session != session);
        }
        for line in self.plane.lines.lock().values() {
            line.session_down(session);
        }
    }

    /// Raises all open demand again: an owner may have changed.
    pub fn resend_demand(&self) {
        let lines: Vec<_> = self.plane.lines.lock().values().cloned().collect();
        for line in lines {
            line.raise_demand(true);
        }
    }

    /// From now on, what nothing serves is refused in exactly these shards, and so are those who wait
    /// there with nothing to serve them.
    pub fn refuse_cold(&self, shards: BTreeSet<ShardId>) {
        self.plane.around.out_of_reach.set(shards);
        let lines: Vec<_> = self.plane.lines.lock().values().cloned().collect();
        for line in lines {
            line.refuse_out_of_reach();
        }
    }

    /// What there is to say of each revision since the last call. A line with nothing to say,
    /// nothing to wait for and nobody in it is forgotten: an idle revision costs nothing here. So is,
    /// now and then, what is kept of revisions that have gone.
    pub fn take_report(&self) -> Vec<RevisionStat> {
        self.plane.forget_unrouted();
        let mut stats = Vec::new();
        self.plane.lines.lock().retain(|_, line| {
            let report = line.report();
            // Lines are handed out under this lock: the only one is nobody's.
            let is_used = report.is_some() || Arc::strong_count(line) > 1 || line.has_places();
            stats.extend(report);
            is_used
        });
        stats
    }

    pub fn open_listeners(&self) {
        self.phase.send_if_modified(|phase| {
            let open = *phase == Phase::Closed;
            if open {
                *phase = Phase::Open;
            }
            open
        });
    }

    /// Returns once clients are answered, or were.
    pub async fn opened(&self) {
        let mut phase = self.phase.subscribe();
        // The sender is this handle's own: it cannot have gone.
        drop(phase.wait_for(|phase| *phase != Phase::Closed).await);
    }

    /// Lets the health answer fall, and returns once those who look at it have had their time to go
    /// elsewhere: a part of `grace`, or none where nobody has looked lately (05-gateway §18).
    pub async fn announce_end(&self, grace: Duration) {
        let was_open = self.phase.send_if_modified(|phase| {
            let is_open = *phase == Phase::Open;
            if is_open {
                *phase = Phase::Leaving;
            }
            is_open
        });
        if was_open {
            tokio::time::sleep(self.plane.watched.notice(grace)).await;
        }
    }

    /// Stops accepting, lets running exchanges end, within `grace`; WebSockets are told to go
    /// shortly before its end (05-gateway §18).
    pub async fn drain(&self, grace: Duration) {
        self.phase.send_replace(Phase::Draining);
        let farewell = grace.saturating_sub(FAREWELL);
        let all_gone = self.plane.alive.closed();
        if tokio::time::timeout(farewell, all_gone).await.is_ok() {
            return;
        }
        self.leaving.send_replace(true);
        let all_gone = self.plane.alive.closed();
        // Past the grace the rest is cut with the process.
        drop(tokio::time::timeout(grace - farewell, all_gone).await);
    }

    /// Stops accepting and answers what it has, as [`Self::drain`], for a node that is about to be back and
    /// whose instances stay; then what other nodes' gateways send to them is refused too, so that they let it
    /// wait or send it elsewhere, and what they have sent before is answered. In this order, as two nodes at once
    /// would otherwise each wait for what the other refuses. Nobody is let in meanwhile, so WebSockets are told
    /// to go at once. Clients have two thirds of `grace`, all together have it whole; returns what is cut then.
    pub async fn step_aside(&self, grace: Duration) -> Unanswered {
        let end = Instant::now() + grace;
        self.phase.send_replace(Phase::Draining);
        self.plane.mesh_door.close_to_tunnels();
        self.leaving.send_replace(true);
        let clients = tokio::time::timeout(grace / 3 * 2, self.plane.alive.closed());
        let clients_gone = clients.await.is_ok();
        self.plane.mesh_door.close();
        let answered = async {
            self.plane.local.all_drained().await;
            // What was answered may not have been sent to its end.
            self.plane.mesh_door.say_goodbye().await;
        };
        if tokio::time::timeout_at(end, answered).await.is_ok() && clients_gone {
            return Unanswered::default();
        }
        Unanswered {
            n_clients: self.plane.alive.receiver_count(),
            n_requests: self.plane.local.n_in_flight(),
            n_gateways: self.plane.mesh_door.n_inside(),
        }
    }

    /// Requests of other nodes' gateways that were refused since this one stepped aside.
    pub fn n_refused(&self) -> u64 {
        self.plane.mesh_door.n_refused()
    }

    /// Serves another node's gateway on a connection past its preamble.
    pub fn serve_mesh(&self, socket: Stream) {
        let plane = self.plane.clone();
        let Ok(socket) = socket.move_to(&self.runtime) else {
            return;
        };
        self.runtime.spawn(async move {
            if let Err(error) = serve_mesh(plane, socket).await {
                debug!(%error, "mesh connection");
            }
        });
    }
}

/// What a gateway had not answered when it stepped aside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unanswered {
    /// Connections of clients, and WebSockets.
    pub n_clients: usize,
    /// At instances of this node, whoever asked.
    pub n_requests: u32,
    /// Connections of other nodes' gateways, whose last answers may not have been sent to their ends.
    pub n_gateways: usize,
}

/// A connection of another node's gateway, past its preamble; told to go, it ends with what runs by it. Once
/// nobody is let in any more, one whose other end is not there ends at once: its places are free, and nobody
/// waits for it. A gateway that is there asks each second whether this one is, unless it is being sent something.
async fn serve_mesh(plane: Arc<Plane>, socket: Stream) -> hyper::Result<()> {
    let inside = plane.mesh_door.enter();
    let reservations = Reservations::default();
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = plane.clone().serve_mesh(request, reservations.clone());
        async move { Ok::<_, std::convert::Infallible>(answer.await) }
    });
    let last = LastHeard::at(Instant::now());
    let socket = Heard::either_way(socket, last.clone());
    let served = http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(MESH_STREAMS)
        .enable_connect_protocol()
        .serve_connection(TokioIo::new(socket), service);
    let Some(inside) = inside else {
        return served.await;
    };
    let in_order = async {
        let mut served = std::pin::pin!(served);
        tokio::select! {
            biased;
            ended = served.as_mut() => ended,
            () = inside.told_to_go() => {
                served.as_mut().graceful_shutdown();
                served.await
            }
        }
    };
    // What ends in order first.
    let ended = tokio::select! {
        biased;
        ended = in_order => ended,
        () = not_there_at_the_end(&inside, &last) => {
            debug!("mesh connection: the other end is not there");
            Ok(())
        }
    };
    inside.leave();
    ended
}

async fn not_there_at_the_end(inside: &Inside, last: &LastHeard) {
    inside.closed().await;
    last.until_silent(MESH_SILENT).await;
}

/// What runs behind the handle.
struct DataPlane {
    plane: Arc<Plane>,
    doors: Vec<Door>,
    tls: Option<Tls>,
    trust: Arc<ArcSwap<Trust>>,
    phase: watch::Receiver<Phase>,
}

impl DataPlane {
    /// The runtime of the thread lives as long as the process.
    fn on_own_thread(mut self) -> std::io::Result<Handle> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        let moved = self.doors.into_iter().map(|door| door.move_to(&handle));
        self.doors = moved.collect::<Result<_, _>>()?;
        std::thread::Builder::new()
            .name("gateway".into())
            .spawn(move || runtime.block_on(self.run()))?;
        Ok(handle)
    }

    async fn run(self) {
        tokio::spawn(repeat_demand(self.plane.clone()));
        if let Some(tls) = self.tls {
            tokio::spawn(tls.follow());
        }
        for door in self.doors {
            let (plane, trust) = (self.plane.clone(), self.trust.clone());
            tokio::spawn(listener::run(plane, door, trust, self.phase.clone()));
        }
        // Mesh streams of other gateways go on until the process ends.
        std::future::pending::<()>().await;
    }
}

fn plane(
    config: &GatewayConfig,
    net: &Net,
    local: LocalInstances,
    scale_up: Arc<dyn ScaleUp>,
    leaving: watch::Receiver<bool>,
) -> Result<Plane, StartError> {
    let name = HeaderValue::from_str(&config.node_name);
    let metrics = Metrics::default();
    let log = AccessLog::open(&config.access_log, &config.node_name, metrics.clone())
        .map_err(StartError::AccessLog)?;
    let (alive, _) = watch::channel(());
    Ok(Plane {
        node: config.node,
        node_name: name.unwrap_or_else(|_| HeaderValue::from_static("node")),
        via: Via::new(&config.cluster),
        routes: Arc::new(ArcSwap::default()),
        router: Router::default(),
        lines: Mutex::default(),
        endpoints: Mutex::default(),
        swept: Mutex::new((Instant::now(), LogIndex::default())),
        around: Surroundings {
            home: config.node,
            scale_up,
            held: HeldBytes::default(),
            out_of_reach: OutOfReach::default(),
            metrics,
        },
        local,
        mesh: Mesh::new(net.clone()),
        mesh_door: MeshDoor::default(),
        log: Arc::new(log),
        limits: config.client_limits,
        probe_agents: ArcSwap::from_pointee(config.probe_agents.clone()),
        watched: Watched::default(),
        leaving,
        alive,
    })
}

async fn open_doors(
    config: &GatewayConfig,
    net: &Net,
) -> Result<(Vec<Door>, Option<Tls>), StartError> {
    let mut doors = vec![Door::open(net, Kind::Public, config.listen).await?];
    if let Some(address) = config.private_listen {
        doors.push(Door::open(net, Kind::Private, address).await?);
    }
    let Some((address, directory)) = &config.tls else {
        return Ok((doors, None));
    };
    let tls = Tls::open(directory)?;
    doors.push(Door::open(net, Kind::Tls(tls.clone()), *address).await?);
    Ok((doors, Some(tls)))
}

async fn repeat_demand(plane: Arc<Plane>) {
    let mut tick = tokio::time::interval(DEMAND_PERIOD);
    loop {
        tick.tick().await;
        let lines: Vec<_> = plane.lines.lock().values().cloned().collect();
        for line in lines.iter().filter(|line| line.is_starved()) {
            // What served it may have gone since it was said that nobody can be asked.
            line.refuse_out_of_reach();
            line.raise_demand(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use nihilo_types::autoscaler::DataPath;
    use nihilo_types::id::{Epoch, ObjectKey};

    use super::*;
    use crate::ports::DemandSignal;
    use crate::sweep::SWEEP_EVERY;

    struct NoOwner;

    impl ScaleUp for NoOwner {
        fn demand(&self, _signal: DemandSignal) {}
    }

    #[tokio::test(start_paused = true)]
    async fn a_report_forgets_now_and_then_what_no_route_leads_to() {
        let host = Host {
            threads: Threads::Callers,
            ..Host::default()
        };
        let config = GatewayConfig::plain(([127, 0, 0, 1], 0).into(), NodeId(1), "node1");
        let gateway = Gateway::start(&config, &host, LocalInstances::default(), Arc::new(NoOwner));
        let gateway = gateway.await.expect("a gateway");
        gateway.update_endpoints(EndpointTable {
            revision: ObjectKey::new("default", "deleted"),
            revision_uid: "u".into(),
            epoch: Epoch(1),
            seq: 1,
            data_path: DataPath::Proxy,
            instances: Vec::new(),
            last_failure: String::new(),
        });
        let n_known = || {
            gateway.take_report();
            gateway.plane.endpoints.lock().len()
        };
        tokio::time::advance(SWEEP_EVERY).await;
        assert_eq!(n_known(), 1, "the route table is what it was");
        gateway.swap_routes(Arc::new(RouteTable {
            index: LogIndex(5),
            ..RouteTable::default()
        }));
        assert_eq!(n_known(), 0);
    }
}
