//! Listening sockets: who may come in, and what it speaks.

mod caps;
pub mod proxy_protocol;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use nihilo_host::{Listener, Net, Stream};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use self::caps::Caps;
use crate::connection::{self, Client, Opening};
use crate::gateway::{Phase, StartError};
use crate::proxy::Plane;
use crate::rules::{Cidr, Hop};
use crate::tls::Tls;

const PROXY_LIMIT: Duration = Duration::from_secs(3);
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// After an error that is not one client's: out of descriptors and the like.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(10);
/// Taken once accepting is over, at most: what the kernel queues for a listener.
const MAX_LAST: u32 = 4096;
/// A gateway that drains waits so long for the first word of who came before it did.
const SILENCE: Duration = Duration::from_millis(500);
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What comes in by a listener.
#[derive(Debug, Clone)]
pub enum Kind {
    Public,
    Tls(Tls),
    /// Also for hosts that only this cluster may use.
    Private,
}

impl Kind {
    fn name(&self) -> &'static str {
        match self {
            Kind::Public => "public",
            Kind::Tls(_) => "tls",
            Kind::Private => "private",
        }
    }
}

/// Whom to believe about clients.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// Peers whose forwarding fields are kept.
    pub proxies: Vec<Cidr>,
    /// Peers that must begin with a PROXY header.
    pub proxy_protocol: Vec<Cidr>,
}

impl Trust {
    fn holds(ranges: &[Cidr], peer: SocketAddr) -> bool {
        ranges.iter().any(|range| range.contains(peer.ip()))
    }
}

/// One listening socket, bound.
#[derive(Debug)]
pub struct Door {
    pub kind: Kind,
    pub socket: Listener,
}

impl Door {
    pub(crate) async fn open(
        net: &Net,
        kind: Kind,
        address: SocketAddr,
    ) -> Result<Self, StartError> {
        let bind = |source| StartError::Bind { address, source };
        let socket = net.listen(address).await.map_err(bind)?;
        Ok(Self { kind, socket })
    }

    pub(crate) fn move_to(self, runtime: &Handle) -> io::Result<Self> {
        let socket = self.socket.move_to(runtime)?;
        Ok(Self { socket, ..self })
    }
}

/// Accepts until the gateway drains, and then whom the kernel has let in already.
pub async fn run(
    plane: Arc<Plane>,
    door: Door,
    trust: Arc<ArcSwap<Trust>>,
    mut phase: watch::Receiver<Phase>,
) {
    let listener = door.socket;
    if phase
        .wait_for(|phase| *phase != Phase::Closed)
        .await
        .is_err()
    {
        return;
    }
    let kind = door.kind;
    info!(address = ?listener.local_addr().ok(), listener = kind.name(), "gateway open");
    let caps = Caps::of_process();
    let seen = phase.clone();
    let mut n_last = 0;
    while n_last <= MAX_LAST {
        let is_last = *phase.borrow() == Phase::Draining;
        n_last += u32::from(is_last);
        // Whoever stands in the kernel's queue has been let in: to close the door first would reset it.
        tokio::select! {
            biased;
            accepted = listener.accept() => match accepted {
                Ok((socket, peer)) => {
                    let trust = trust.load_full();
                    let is_exempt = Trust::holds(&trust.proxies, peer);
                    let Some(seat) = caps.seat(peer.ip(), is_exempt) else {
                        plane.around.metrics.hit("connections");
                        continue;
                    };
                    let plane = plane.clone();
                    let (kind, phase) = (kind.clone(), seen.clone());
                    // A drain waits for it from here on: its request may be on its way.
                    let alive = plane.alive.subscribe();
                    tokio::spawn(async move {
                        let connected = plane.around.metrics.connected(kind.name());
                        let silent = silent_at_the_end(phase.clone());
                        let welcomed = welcome(plane, socket, peer, kind, trust, phase, silent);
                        if let Err(error) = welcomed.await {
                            debug!(%error, %peer, "client turned away");
                        }
                        drop((seat, connected, alive));
                    });
                }
                Err(error) => {
                    warn!(%error, "gateway accept");
                    if is_last {
                        return;
                    }
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                }
            },
            () = draining(&mut phase) => return,
        }
    }
}

async fn draining(phase: &mut watch::Receiver<Phase>) {
    // A gateway that is gone drains too.
    drop(phase.wait_for(|phase| *phase == Phase::Draining).await);
}

/// Resolves when a client that has come and said nothing is not waited for any longer.
async fn silent_at_the_end(mut phase: watch::Receiver<Phase>) {
    draining(&mut phase).await;
    tokio::time::sleep(SILENCE).await;
}

fn too_slow(_: tokio::time::error::Elapsed) -> io::Error {
    io::ErrorKind::TimedOut.into()
}

async fn welcome(
    plane: Arc<Plane>,
    mut socket: Stream,
    peer: SocketAddr,
    kind: Kind,
    trust: Arc<Trust>,
    phase: watch::Receiver<Phase>,
    silent_at_the_end: impl Future<Output = ()>,
) -> io::Result<()> {
    socket.set_nodelay()?;
    let mut local = socket.local_addr()?;
    let mut client = peer;
    if Trust::holds(&trust.proxy_protocol, peer) {
        let header = proxy_protocol::read(&mut socket);
        let header = tokio::time::timeout(PROXY_LIMIT, header)
            .await
            .map_err(too_slow)??;
        if let Some((from, to)) = header {
            (client, local) = (from, to);
        }
    }
    let is_trusted = Trust::holds(&trust.proxies, client);
    let is_tls = matches!(kind, Kind::Tls(_));
    let is_private = matches!(kind, Kind::Private);
    let hop = Hop::new(client.ip(), is_trusted, is_tls, local.port());
    let Kind::Tls(tls) = kind else {
        let opening = tokio::time::timeout(plane.limits.head, sniff(&mut socket));
        // What has been said first.
        let opening = tokio::select! {
            biased;
            opening = opening => opening.map_err(too_slow)??,
            () = silent_at_the_end => return Err(io::ErrorKind::TimedOut.into()),
        };
        let client = Client::new(hop, Some(local), is_private, None);
        connection::serve(plane, socket, opening, Arc::new(client), phase).await;
        return Ok(());
    };
    let handshake = tls.accept(socket);
    let accepted = tokio::select! {
        biased;
        accepted = tokio::time::timeout(HANDSHAKE_LIMIT, handshake) => accepted.map_err(too_slow)??,
        () = silent_at_the_end => return Err(io::ErrorKind::TimedOut.into()),
    };
    let opening = Opening {
        prefix: Bytes::new(),
        is_h2: accepted.is_h2,
    };
    let client = Client::new(hop, Some(local), is_private, accepted.names);
    connection::serve(plane, accepted.stream, opening, Arc::new(client), phase).await;
    Ok(())
}

/// HTTP/2 by prior knowledge, told by its preface.
async fn sniff(socket: &mut (impl AsyncRead + Unpin)) -> io::Result<Opening> {
    let mut prefix = BytesMut::with_capacity(8 * 1024);
    loop {
        let n = socket.read_buf(&mut prefix).await?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let known = prefix.len().min(H2_PREFACE.len());
        let is_h2 = prefix[..known] == H2_PREFACE[..known];
        if !is_h2 || known == H2_PREFACE.len() {
            let prefix = prefix.freeze();
            return Ok(Opening { prefix, is_h2 });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_preface_is_known_across_cuts_and_everything_else_is_http1() {
        for (sent, is_h2) in [
            (&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore"[..], true),
            (b"PRI * HTTP/2.0\r\n\r\nXX", false),
            (b"P", false),
            (b"GET / HTTP/1.1\r\n", false),
        ] {
            let (ours, mut theirs) = tokio::io::duplex(3);
            let sender = tokio::spawn(async move {
                tokio::io::AsyncWriteExt::write_all(&mut theirs, sent).await
            });
            let mut ours = ours;
            let opening = sniff(&mut ours).await;
            match sent {
                b"P" => assert!(opening.is_err()),
                _ => {
                    let opening = opening.unwrap();
                    assert_eq!(opening.is_h2, is_h2);
                    assert!(sent.starts_with(&opening.prefix));
                }
            }
            drop(ours);
            drop(sender.await);
        }
    }
}
