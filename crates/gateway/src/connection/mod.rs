//! One client's connection, from its first byte to its last.

mod guard;
mod io;
mod stall;

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue};
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::debug;

use self::io::ClientIo;
pub use self::io::{Activity, ClientLimits};
pub use self::stall::Progress;
use self::stall::StreamExecutor;
use crate::body::ResponseBody;
use crate::gateway::Phase;
use crate::health::OWN_PREFIX;
use crate::proxy::Plane;
use crate::rescue::Cause;
use crate::rules::Hop;
use crate::tls::Names;

/// Head of a request, at most (05-gateway §20).
const MAX_HEAD: usize = 64 * 1024;
const H2_STREAMS: u32 = 128;
/// Bodies parked on one stream do not stall the others: the connection has room for all.
const H2_STREAM_WINDOW: u32 = 64 * 1024;
const H2_CONNECTION_WINDOW: u32 = H2_STREAMS * H2_STREAM_WINDOW;
const H2_PING: Duration = Duration::from_secs(20);
const H2_PING_LIMIT: Duration = Duration::from_secs(10);
/// Streams that a client may take back unanswered, a minute.
const MAX_RESETS: u32 = 100;
/// Of so many streams and more, at most half.
const MIN_STREAMS: u32 = 100;
const RESET_WINDOW: Duration = Duration::from_secs(60);

static SOURCES: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// Who is at the other end, and what it did so far.
#[derive(Debug)]
pub struct Client {
    pub hop: Hop,
    pub local: Option<SocketAddr>,
    /// Came by the cluster-local listener.
    pub is_private: bool,
    pub activity: Arc<Activity>,
    /// Hash of its address: sources take turns.
    pub source: u64,
    /// What its certificate covers; `None` without TLS.
    names: Option<Arc<Names>>,
    conduct: Mutex<Conduct>,
    /// The last host and its `Forwarded`: most clients name one.
    forwarded: Mutex<Option<(HeaderValue, HeaderValue)>>,
}

#[derive(Debug)]
struct Conduct {
    since: Instant,
    n_opened: u32,
    n_reset: u32,
}

impl Client {
    pub fn new(
        hop: Hop,
        local: Option<SocketAddr>,
        is_private: bool,
        names: Option<Arc<Names>>,
    ) -> Self {
        let source = SOURCES.hash_one(source_of(hop.client));
        let since = Instant::now();
        let (n_opened, n_reset) = (0, 0);
        Self {
            hop,
            local,
            is_private,
            activity: Arc::default(),
            source,
            names,
            conduct: Mutex::new(Conduct {
                since,
                n_opened,
                n_reset,
            }),
            forwarded: Mutex::default(),
        }
    }

    /// # Errors
    /// The host is not one that the connection's certificate stands for (RFC 9110 §7.4).
    pub fn check_authority(&self, host: &HeaderValue) -> Result<(), Cause> {
        let Some(names) = &self.names else {
            return Ok(());
        };
        let host = host.to_str().map_err(|_| Cause::Misdirected)?;
        match names.cover(&crate::rules::host::table_key(host)) {
            true => Ok(()),
            false => Err(Cause::Misdirected),
        }
    }

    pub fn write_forwarded(&self, headers: &mut HeaderMap, host: &HeaderValue) {
        let element = {
            let mut last = self.forwarded.lock();
            match last.as_ref().filter(|(known, _)| known == host) {
                Some((_, element)) => Some(element.clone()),
                None => {
                    let element = self.hop.element(host);
                    *last = element.clone().map(|element| (host.clone(), element));
                    element
                }
            }
        };
        if let Some(element) = element {
            self.hop.write(headers, host, element);
        }
    }

    fn opened(&self) {
        self.conduct.lock().n_opened += 1;
    }

    /// It took a request back before the answer. Many of those are an attack, and it ends.
    pub fn reset_by_client(&self) {
        let mut conduct = self.conduct.lock();
        if conduct.since.elapsed() > RESET_WINDOW {
            (conduct.since, conduct.n_opened, conduct.n_reset) = (Instant::now(), 0, 0);
        }
        conduct.n_reset += 1;
        let is_half = conduct.n_opened >= MIN_STREAMS && conduct.n_reset * 2 > conduct.n_opened;
        if conduct.n_reset > MAX_RESETS || is_half {
            self.activity.condemn();
        }
    }
}

/// The address, or its /64 where a client has so many.
pub fn source_of(client: IpAddr) -> u128 {
    match client {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits() >> 64 << 64 | 1,
    }
}

/// How a connection begins.
#[derive(Debug)]
pub struct Opening {
    /// Read already.
    pub prefix: Bytes,
    pub is_h2: bool,
}

/// Serves the connection to its end; when `phase` turns to draining, to the end of what runs.
pub async fn serve<S>(
    plane: Arc<Plane>,
    socket: S,
    opening: Opening,
    client: Arc<Client>,
    phase: watch::Receiver<Phase>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let _alive = plane.alive.subscribe();
    let (activity, limits) = (client.activity.clone(), plane.limits);
    let (whose, seen) = (client.clone(), phase.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        client.opened();
        let (plane, client, phase) = (plane.clone(), client.clone(), *seen.borrow());
        async move { Ok::<_, std::convert::Infallible>(answer(plane, request, client, phase).await) }
    });
    let result = match opening.is_h2 {
        true => {
            let io = TokioIo::new(ClientIo::h2(socket, opening.prefix, activity, limits));
            let connection = h2_builder(limits).serve_connection(io, service);
            let mut connection = std::pin::pin!(connection);
            let until = draining(phase);
            tokio::select! {
                biased;
                result = connection.as_mut() => result,
                () = until => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
        false => {
            let io = TokioIo::new(ClientIo::h1(socket, opening.prefix, activity, limits));
            let connection = h1_builder().serve_connection(io, service).with_upgrades();
            let mut connection = std::pin::pin!(connection);
            let until = draining(phase);
            tokio::select! {
                biased;
                result = connection.as_mut() => result,
                () = until => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
    };
    if let Err(error) = result {
        debug!(%error, client = %whose.hop.client, "client connection");
    }
}

async fn draining(mut phase: watch::Receiver<Phase>) {
    if phase
        .wait_for(|phase| *phase == Phase::Draining)
        .await
        .is_err()
    {
        std::future::pending::<()>().await;
    }
}

fn h2_builder(limits: ClientLimits) -> http2::Builder<StreamExecutor> {
    let limit = limits.stall;
    let mut builder = http2::Builder::new(StreamExecutor { limit });
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(H2_STREAMS)
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEAD as u32)
        .keep_alive_interval(H2_PING)
        .keep_alive_timeout(H2_PING_LIMIT)
        .enable_connect_protocol();
    builder
}

fn h1_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        // The socket keeps the time itself.
        .header_read_timeout(None)
        .max_header_size(MAX_HEAD)
        .max_buf_size(MAX_HEAD + 16 * 1024);
    builder
}

async fn answer(
    plane: Arc<Plane>,
    request: Request<Incoming>,
    client: Arc<Client>,
    phase: Phase,
) -> Response<ResponseBody> {
    if request.uri().path().starts_with(OWN_PREFIX) && !client.is_private {
        // Without an end to it, the limit of a head would go on over an idle connection.
        client.activity.end_if(request.version() != Version::HTTP_2);
        return plane.watched.answer(&request, phase);
    }
    plane.serve(request, client).await
}
