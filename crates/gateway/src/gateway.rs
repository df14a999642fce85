//! The gateway's handle, its thread, and its listeners.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::header::HeaderValue;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use nihilo_host::{Host, Listener, Stream, Threads};
use nihilo_types::endpoint::EndpointTable;
use nihilo_types::id::{NodeId, SessionId};
use nihilo_types::route_table::RouteTable;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::body::ResponseBody;
use crate::limiter::LocalInstances;
use crate::ports::{RevisionStat, ScaleUp};
use crate::proxy::Plane;
use crate::reservations::Reservations;
use crate::router::Router;
use crate::upstream::Mesh;

/// A client that says nothing is dropped after this.
const SNIFF_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
/// Demand is repeated this often while requests wait and nothing is ready.
const DEMAND_PERIOD: Duration = Duration::from_millis(250);
const MAX_HEADER_BYTES: usize = 64 * 1024;
const H2_STREAMS: u32 = 128;
const ACCEPT_BACKOFF: Duration = Duration::from_millis(10);
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0";
const OWN_HEALTH: &str = "/.well-known/nihilo/gateway";

#[derive(Debug, Clone)]
pub struct GatewayConfig {
    pub listen: SocketAddr,
    pub node: NodeId,
    pub node_name: String,
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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Closed,
    Open,
    Draining,
}

/// Handle to the data plane; cheap to clone, usable from any thread.
#[derive(Debug, Clone)]
pub struct Gateway {
    plane: Arc<Plane>,
    phase: watch::Sender<Phase>,
    drained: watch::Receiver<bool>,
    runtime: Handle,
}

impl Gateway {
    /// Binds the listener, so that a used port is an error now, and starts the data plane, on its
    /// own thread where the host gives it one. Clients are answered after
    /// [`Self::open_listeners`].
    ///
    /// # Errors
    /// The address is in use, or no thread can be made.
    pub async fn start(
        config: &GatewayConfig,
        host: &Host,
        local: LocalInstances,
        scale_up: Arc<dyn ScaleUp>,
    ) -> Result<Self, StartError> {
        let bind = |source| StartError::Bind {
            address: config.listen,
            source,
        };
        let listener = host.net.listen(config.listen).await.map_err(bind)?;
        let name = HeaderValue::from_str(&config.node_name);
        let plane = Arc::new(Plane {
            node: config.node,
            node_name: name.unwrap_or_else(|_| HeaderValue::from_static("node")),
            routes: Arc::new(ArcSwap::default()),
            router: Router::default(),
            lines: Mutex::default(),
            endpoints: Mutex::default(),
            scale_up,
            local,
            mesh: Mesh::new(host.net.clone()),
            reservations: Reservations::default(),
        });
        let (phase, phase_seen) = watch::channel(Phase::Closed);
        let (drained_sender, drained) = watch::channel(false);
        let runtime = match host.threads {
            Threads::Own => own_thread(plane.clone(), listener, phase_seen, drained_sender)?,
            Threads::Callers => {
                tokio::spawn(run(plane.clone(), listener, phase_seen, drained_sender));
                Handle::current()
            }
        };
        Ok(Self {
            plane,
            phase,
            drained,
            runtime,
        })
    }

    /// Swaps the table in: every request accepted after this returns uses it.
    pub fn swap_routes(&self, table: Arc<RouteTable>) {
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
        self.plane.mesh.session_down(session);
    }

    /// A node leaves: nothing new goes there, what is under way is answered.
    pub fn session_left(&self, session: SessionId) {
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

    /// What there is to say of each revision since the last call. A line with nothing to say,
    /// nothing to wait for and nobody in it is forgotten: an idle revision costs nothing here.
    pub fn take_report(&self) -> Vec<RevisionStat> {
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

    /// Stops accepting, lets running exchanges end, within `grace`.
    pub async fn drain(&self, grace: Duration) {
        self.phase.send_replace(Phase::Draining);
        let mut drained = self.drained.clone();
        // Past the grace the rest is cut with the process.
        drop(tokio::time::timeout(grace, drained.wait_for(|done| *done)).await);
    }

    /// Serves another node's gateway on a connection past its preamble.
    pub fn serve_mesh(&self, socket: Stream) {
        let plane = self.plane.clone();
        let Ok(socket) = socket.move_to(&self.runtime) else {
            return;
        };
        self.runtime.spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let plane = plane.clone();
                async move { Ok::<_, std::convert::Infallible>(plane.serve_mesh(request).await) }
            });
            let served = http2::Builder::new(TokioExecutor::new())
                .max_concurrent_streams(4 * H2_STREAMS)
                .serve_connection(TokioIo::new(socket), service);
            if let Err(error) = served.await {
                debug!(%error, "mesh connection");
            }
        });
    }
}

/// The data plane's thread; its runtime lives as long as the process.
fn own_thread(
    plane: Arc<Plane>,
    listener: Listener,
    phase: watch::Receiver<Phase>,
    drained: watch::Sender<bool>,
) -> std::io::Result<Handle> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let handle = runtime.handle().clone();
    let listener = listener.move_to(&handle)?;
    std::thread::Builder::new()
        .name("gateway".into())
        .spawn(move || runtime.block_on(run(plane, listener, phase, drained)))?;
    Ok(handle)
}

async fn run(
    plane: Arc<Plane>,
    listener: Listener,
    mut phase: watch::Receiver<Phase>,
    drained: watch::Sender<bool>,
) {
    tokio::spawn(repeat_demand(plane.clone()));
    if phase
        .wait_for(|phase| *phase != Phase::Closed)
        .await
        .is_err()
    {
        return;
    }
    info!("gateway open");
    let graceful = GracefulShutdown::new();
    loop {
        // The end of accepting first.
        tokio::select! {
            biased;
            () = reached(&mut phase, Phase::Draining) => break,
            accepted = listener.accept() => match accepted {
                Ok((socket, client)) => {
                    let watcher = graceful.watcher();
                    tokio::spawn(serve(plane.clone(), socket, client.ip(), watcher));
                }
                Err(error) => {
                    warn!(%error, "gateway accept");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    }
    drop(listener);
    graceful.shutdown().await;
    drained.send_replace(true);
    // Mesh streams of other gateways go on until the process ends.
    std::future::pending::<()>().await;
}

/// Resolves in this phase, or when nobody can change it any more.
async fn reached(phase: &mut watch::Receiver<Phase>, wanted: Phase) {
    drop(phase.wait_for(|phase| *phase == wanted).await);
}

async fn repeat_demand(plane: Arc<Plane>) {
    let mut tick = tokio::time::interval(DEMAND_PERIOD);
    loop {
        tick.tick().await;
        let lines: Vec<_> = plane.lines.lock().values().cloned().collect();
        for line in lines.iter().filter(|line| line.is_starved()) {
            line.raise_demand(true);
        }
    }
}

async fn serve(
    plane: Arc<Plane>,
    mut socket: Stream,
    client: IpAddr,
    watcher: hyper_util::server::graceful::Watcher,
) {
    if socket.set_nodelay().is_err() {
        return;
    }
    let speaks_h2 =
        match tokio::time::timeout(SNIFF_TIMEOUT, begins_with_preface(&mut socket)).await {
            Ok(Ok(speaks_h2)) => speaks_h2,
            Ok(Err(_)) | Err(_) => return,
        };
    let service = service_fn(move |request: Request<Incoming>| {
        let plane = plane.clone();
        async move { Ok::<_, std::convert::Infallible>(answer(plane, request, client).await) }
    });
    let io = TokioIo::new(socket);
    let result = if speaks_h2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(H2_STREAMS)
            .max_header_list_size(MAX_HEADER_BYTES as u32);
        watcher.watch(builder.serve_connection(io, service)).await
    } else {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(MAX_HEADER_BYTES + 16 * 1024);
        watcher.watch(builder.serve_connection(io, service)).await
    };
    if let Err(error) = result {
        debug!(%error, %client, "client connection");
    }
}

/// HTTP/2 by prior knowledge, told by its preface.
async fn begins_with_preface(socket: &mut Stream) -> std::io::Result<bool> {
    let mut head = [0; H2_PREFACE.len()];
    loop {
        let n = socket.peek(&mut head).await?;
        if n == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if head[..n] != H2_PREFACE[..n] {
            return Ok(false);
        }
        if n == head.len() {
            return Ok(true);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn answer(
    plane: Arc<Plane>,
    request: Request<Incoming>,
    client: IpAddr,
) -> Response<ResponseBody> {
    if request.uri().path() == OWN_HEALTH {
        let mut response = Response::new(ResponseBody::text("ok\n"));
        *response.status_mut() = StatusCode::OK;
        return response;
    }
    plane.serve(request, client).await
}
