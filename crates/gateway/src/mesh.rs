//! The way to other nodes' gateways: one HTTP/2 connection each.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use nihilo_host::Net;
use nihilo_types::id::SessionId;
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

use crate::body::RequestBody;
use crate::h2_form::{from_h2, to_h2};
use crate::pool::H2;
use crate::upstream::{SendError, connect, handshake_h2, unanswered};

/// First bytes of a mesh connection; the peer listener knows it by them.
pub const MESH_PREAMBLE: &[u8; 16] = b"NIHILO-MESH/0001";
const MESH_CONNECT: Duration = Duration::from_secs(1);
/// Lost sessions remembered for streams that start just then.
const MAX_LOST: usize = 64;

/// One HTTP/2 connection per peer gateway, made on first use and after a loss.
#[derive(Debug, Default)]
pub struct Mesh {
    pub(crate) net: Net,
    peers: Mutex<HashMap<Arc<str>, H2>>,
    /// Sessions that were declared down: their streams end.
    lost: watch::Sender<Vec<SessionId>>,
}

impl Mesh {
    pub fn new(net: Net) -> Self {
        Self {
            net,
            ..Self::default()
        }
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
        let Ok(mut sender) = self.peer(peer).await else {
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
                        self.peers.lock().remove(peer);
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

    async fn peer(&self, peer: &Arc<str>) -> io::Result<H2> {
        let known = self.peers.lock().get(peer).cloned();
        if let Some(sender) = known.filter(|sender| !sender.is_closed()) {
            return Ok(sender);
        }
        let mut stream = connect(&self.net, peer, MESH_CONNECT).await?;
        stream.write_all(MESH_PREAMBLE).await?;
        let sender = handshake_h2(stream).await?;
        self.peers.lock().insert(peer.clone(), sender.clone());
        Ok(sender)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
