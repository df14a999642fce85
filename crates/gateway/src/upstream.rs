//! Connections: to instances of this node, and over the mesh to the gateways of other nodes.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nihilo_host::{Net, Stream};
use nihilo_types::id::SessionId;
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

use crate::body::RequestBody;
use crate::limiter::LocalInstance;

/// First bytes of a mesh connection; the peer listener knows it by them.
pub const MESH_PREAMBLE: &[u8; 16] = b"NIHILO-MESH/0001";
const LOCAL_CONNECT: Duration = Duration::from_millis(300);
const MESH_CONNECT: Duration = Duration::from_secs(1);

/// What went wrong, and whether the request may be sent again.
#[derive(Debug)]
pub enum SendError {
    /// Nothing of it was sent: here it is again, if it was taken at all.
    Unsent(Box<Request<RequestBody>>),
    /// It was sent and there is no answer.
    Unanswered,
    /// The node that runs the instance was declared down.
    NodeLost,
}

pub type LocalAnswer = (Response<Incoming>, Option<http1::SendRequest<RequestBody>>);

/// Sends to an instance of this node, over an idle connection if there is one.
pub async fn send_local(
    net: &Net,
    instance: &Arc<LocalInstance>,
    mut request: Request<RequestBody>,
) -> Result<LocalAnswer, SendError> {
    if instance.h2c {
        let stream = match connect(net, &instance.address.to_string(), LOCAL_CONNECT).await {
            Ok(stream) => stream,
            Err(_) => return Err(SendError::Unsent(Box::new(request))),
        };
        let Ok(mut sender) = handshake_h2(stream).await else {
            return Err(SendError::Unsent(Box::new(request)));
        };
        *request.uri_mut() = absolute(&request);
        let answer = sender
            .send_request(request)
            .await
            .map_err(|_| SendError::Unanswered)?;
        return Ok((answer, None));
    }
    let mut sender = match instance.take_idle() {
        Some(sender) => sender,
        None => match connect_h1(net, instance).await {
            Ok(sender) => sender,
            Err(_) => return Err(SendError::Unsent(Box::new(request))),
        },
    };
    match sender.try_send_request(request).await {
        Ok(response) => Ok((response, Some(sender))),
        Err(mut failed) => match failed.take_message() {
            Some(request) => Err(SendError::Unsent(Box::new(request))),
            None => Err(SendError::Unanswered),
        },
    }
}

async fn connect(net: &Net, address: &str, limit: Duration) -> io::Result<Stream> {
    let stream = tokio::time::timeout(limit, net.dial(address)).await??;
    stream.set_nodelay()?;
    Ok(stream)
}

async fn connect_h1(
    net: &Net,
    instance: &LocalInstance,
) -> io::Result<http1::SendRequest<RequestBody>> {
    let stream = connect(net, &instance.address.to_string(), LOCAL_CONNECT).await?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(async move {
        // The exchange that it carries sees the error.
        drop(connection.await);
    });
    Ok(sender)
}

async fn handshake_h2(stream: Stream) -> io::Result<http2::SendRequest<RequestBody>> {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// HTTP/2 needs scheme and authority in the target.
fn absolute(request: &Request<RequestBody>) -> http::Uri {
    let host = request
        .headers()
        .get(http::header::HOST)
        .and_then(|host| host.to_str().ok());
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str());
    http::Uri::builder()
        .scheme("http")
        .authority(host.unwrap_or("localhost"))
        .path_and_query(path)
        .build()
        .unwrap_or_else(|_| request.uri().clone())
}

/// One HTTP/2 connection per peer gateway, made on first use and after a loss.
#[derive(Debug, Default)]
pub struct Mesh {
    pub(crate) net: Net,
    peers: Mutex<HashMap<Arc<str>, http2::SendRequest<RequestBody>>>,
    /// Sessions that were declared down: their streams end.
    lost: watch::Sender<Vec<SessionId>>,
}

/// Lost sessions remembered for streams that start just then.
const MAX_LOST: usize = 64;

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
        *request.uri_mut() = absolute(&request);
        // The loss of the node first: its connection may hang for minutes.
        tokio::select! {
            biased;
            () = self.lost(session) => Err(SendError::NodeLost),
            answer = sender.try_send_request(request) => match answer {
                Ok(response) => Ok(response),
                Err(mut failed) => {
                    self.peers.lock().remove(peer);
                    match failed.take_message() {
                        Some(request) => Err(SendError::Unsent(Box::new(request))),
                        None => Err(SendError::Unanswered),
                    }
                }
            },
        }
    }

    async fn peer(&self, peer: &Arc<str>) -> io::Result<http2::SendRequest<RequestBody>> {
        if let Some(sender) = self
            .peers
            .lock()
            .get(peer)
            .filter(|sender| !sender.is_closed())
        {
            return Ok(sender.clone());
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
