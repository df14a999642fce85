//! The way to other nodes' gateways: one HTTP/2 connection each.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use nihilo_host::Net;
use nihilo_types::id::SessionId;
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::body::RequestBody;
use crate::h2_form::{from_h2, to_h2};
use crate::heard::{Heard, LastHeard};
use crate::pool::H2;
use crate::upstream::{SendError, connect, handshake_h2, unanswered};

/// First bytes of a mesh connection; the peer listener knows it by them.
pub const MESH_PREAMBLE: &[u8; 16] = b"NIHILO-MESH/0001";
const MESH_CONNECT: Duration = Duration::from_secs(1);
/// Each end of a quiet connection is asked so often whether it is there.
const MESH_PING: Duration = Duration::from_secs(1);
/// After so long without an answer nothing new is sent by a connection. The other end may have given
/// it up while the link was cut, which is told only to those who send something.
pub(crate) const MESH_SILENT: Duration = Duration::from_millis(2_500);
/// Those that are under way by it may be answered when the link is mended, for so long.
const MESH_GIVEN_UP: Duration = Duration::from_secs(60);
/// Lost sessions remembered for streams that start just then.
const MAX_LOST: usize = 64;

/// One HTTP/2 connection per session of a peer, made on first use and after a loss.
///
/// A node that was declared down and is heard again gets another connection: what the old one still
/// brings belongs to streams that were given up, and the codec ends a connection that speaks of
/// streams it has forgotten (RFC 9113 §5.1, "closed").
#[derive(Debug, Default)]
pub struct Mesh {
    pub(crate) net: Net,
    peers: Mutex<HashMap<SessionId, Peer>>,
    /// Those that are being made.
    dials: Mutex<HashMap<SessionId, Dial>>,
    /// Sessions that were declared down: their streams end.
    lost: watch::Sender<Vec<SessionId>>,
}

/// One for all who wait for it: a place that was reserved by one connection is not found by another.
/// If all of them leave, it rests until the next one comes, who may then find that its time is over.
type Dial = Shared<BoxFuture<'static, Result<Peer, Arc<io::Error>>>>;

#[derive(Debug, Clone)]
struct Peer {
    sender: H2,
    heard: LastHeard,
}

impl Peer {
    fn is_there(&self) -> bool {
        !self.sender.is_closed() && self.heard.is_within(MESH_SILENT)
    }
}

impl Mesh {
    pub fn new(net: Net) -> Self {
        Self {
            net,
            ..Self::default()
        }
    }

    /// Nothing new goes to a session that has ended.
    pub fn session_left(&self, session: SessionId) {
        self.peers.lock().remove(&session);
    }

    pub fn session_down(&self, session: SessionId) {
        self.lost.send_modify(|lost| {
            lost.push(session);
            if lost.len() > MAX_LOST {
                lost.remove(0);
            }
        });
    }

    fn is_lost(&self, session: SessionId) -> bool {
        self.lost.borrow().contains(&session)
    }

    /// Resolves when the session is declared down.
    pub async fn lost(&self, session: SessionId) {
        let mut lost = self.lost.subscribe();
        if lost.wait_for(|lost| lost.contains(&session)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    pub async fn send(
        &self,
        peer: &Arc<str>,
        session: SessionId,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, SendError> {
        if self.is_lost(session) {
            return Err(SendError::Unsent(Box::new(request)));
        }
        let Ok(mut sender) = self.peer(peer, session).await else {
            return Err(SendError::Unsent(Box::new(request)));
        };
        to_h2(&mut request);
        // The loss of the node first: its connection may hang for minutes.
        tokio::select! {
            biased;
            () = self.lost(session) => Err(SendError::NodeLost),
            answer = sender.try_send_request(request) => match answer {
                Ok(response) => Ok(response),
                Err(mut failed) => {
                    // A stream that was reset says nothing of the others.
                    if sender.is_closed() {
                        self.peers.lock().remove(&session);
                    }
                    match failed.take_message() {
                        Some(mut request) => {
                            from_h2(&mut request);
                            Err(SendError::Unsent(Box::new(request)))
                        }
                        None => Err(unanswered(failed.error())),
                    }
                }
            },
        }
    }

    async fn peer(&self, peer: &Arc<str>, session: SessionId) -> Result<H2, Arc<io::Error>> {
        if let Some(known) = self.known(session) {
            return Ok(known);
        }
        let dial = {
            let mut dials = self.dials.lock();
            // Made since, by a dial that has just ended.
            if let Some(known) = self.known(session) {
                return Ok(known);
            }
            let new = || dial(self.net.clone(), peer.clone()).boxed().shared();
            dials.entry(session).or_insert_with(new).clone()
        };
        let made = dial.clone().await;
        let mut dials = self.dials.lock();
        if dials.get(&session).is_some_and(|last| last.ptr_eq(&dial)) {
            dials.remove(&session);
            if let Ok(made) = &made {
                let mut peers = self.peers.lock();
                peers.retain(|_, peer| !peer.sender.is_closed());
                peers.insert(session, made.clone());
            }
        }
        made.map(|made| made.sender)
    }

    fn known(&self, session: SessionId) -> Option<H2> {
        let peers = self.peers.lock();
        let known = peers.get(&session).filter(|peer| peer.is_there())?;
        Some(known.sender.clone())
    }
}

async fn dial(net: Net, peer: Arc<str>) -> Result<Peer, Arc<io::Error>> {
    let mut stream = connect(&net, &peer, MESH_CONNECT).await?;
    stream.write_all(MESH_PREAMBLE).await?;
    let heard = LastHeard::at(Instant::now());
    let sender = handshake_h2(pinging(), Heard::new(stream, heard.clone())).await?;
    Ok(Peer { sender, heard })
}

fn pinging() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(MESH_PING)
        .keep_alive_while_idle(true)
        .keep_alive_timeout(MESH_GIVEN_UP);
    builder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_node_that_is_back_gets_another_connection() {
        let mesh = Mesh::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer: Arc<str> = listener.local_addr().unwrap().to_string().into();
        for session in [1, 1, 2] {
            mesh.peer(&peer, SessionId(session)).await.unwrap();
        }
        mesh.session_left(SessionId(2));
        mesh.peer(&peer, SessionId(2)).await.unwrap();
        let mut n_dialled = 0;
        while let Ok(Ok(_)) = tokio::time::timeout(Duration::ZERO, listener.accept()).await {
            n_dialled += 1;
        }
        assert_eq!(
            n_dialled, 3,
            "session 1, session 2, and 2 again after its end"
        );
    }

    #[tokio::test]
    async fn who_come_at_once_share_one_connection() {
        let (mesh, session) = (Arc::new(Mesh::default()), SessionId(1));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer: Arc<str> = listener.local_addr().unwrap().to_string().into();
        let all = (0..8).map(|_| mesh.peer(&peer, session));
        for made in futures_util::future::join_all(all).await {
            made.unwrap();
        }
        listener.accept().await.unwrap();
        let second = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
        assert!(second.is_err(), "more than one connection was made");
        assert!(mesh.dials.lock().is_empty());
    }

    #[tokio::test]
    async fn a_dial_that_failed_is_not_remembered() {
        let (mesh, session) = (Mesh::default(), SessionId(1));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer: Arc<str> = listener.local_addr().unwrap().to_string().into();
        let nobody: Arc<str> = "127.0.0.1:1".into();
        assert!(mesh.peer(&nobody, session).await.is_err());
        assert!(mesh.peer(&peer, session).await.is_ok());
    }

    #[tokio::test]
    async fn by_a_connection_that_fell_silent_nothing_new_is_sent() {
        let (mesh, session) = (Mesh::default(), SessionId(1));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer: Arc<str> = listener.local_addr().unwrap().to_string().into();
        mesh.peer(&peer, session).await.unwrap();
        let long_ago = Instant::now().checked_sub(MESH_SILENT).unwrap();
        mesh.peers.lock().get_mut(&session).unwrap().heard = LastHeard::at(long_ago);
        mesh.peer(&peer, session).await.unwrap();
        let dialled = async { (listener.accept().await, listener.accept().await) };
        let dialled = tokio::time::timeout(Duration::from_secs(5), dialled).await;
        assert!(dialled.is_ok(), "no second connection was made");
    }

    #[tokio::test]
    async fn to_a_node_that_was_declared_down_nothing_is_sent() {
        let (mesh, lost) = (Mesh::default(), SessionId(7));
        mesh.session_down(lost);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer: Arc<str> = listener.local_addr().unwrap().to_string().into();
        let request = Request::new(RequestBody::Empty);
        let sent = mesh.send(&peer, lost, request).await;
        assert!(matches!(sent, Err(SendError::Unsent(_))), "{sent:?}");
        let accepted = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
        assert!(accepted.is_err(), "the lost node was dialled");
    }
}
