//! One peer port for two protocols: gRPC between nodes, and the gateways' mesh.
//!
//! A mesh connection begins with a 16-byte preamble; everything else is HTTP/2 for tonic. (With
//! TLS, ALPN takes this place.)

use std::io;
use std::time::Duration;

use nihilo_gateway::mesh::MESH_PREAMBLE;
use nihilo_host::{Listener, Stream};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tracing::debug;

use super::accepted::{self, Accepted};

/// A peer that says nothing for so long is dropped.
const SNIFF_TIMEOUT: Duration = Duration::from_secs(5);
/// Accepted gRPC connections that may wait for the server task.
const ACCEPT_QUEUE: usize = 256;
const POLL: Duration = Duration::from_millis(1);

/// Accepts for ever; mesh sockets go to `mesh` past their preamble, the others to the receiver.
pub fn split(
    listener: Listener,
    mesh: impl Fn(Stream) + Send + Sync + Clone + 'static,
) -> mpsc::Receiver<io::Result<Accepted>> {
    let (grpc, receiver) = mpsc::channel(ACCEPT_QUEUE);
    nihilo_actors::task::spawn("peer-accept", async move {
        loop {
            let socket = accepted::next(&listener).await;
            let (grpc, mesh) = (grpc.clone(), mesh.clone());
            nihilo_actors::task::spawn("peer-sniff", sniff(socket, grpc, mesh));
        }
    });
    receiver
}

async fn sniff(
    mut socket: Stream,
    grpc: mpsc::Sender<io::Result<Accepted>>,
    mesh: impl Fn(Stream),
) {
    match tokio::time::timeout(SNIFF_TIMEOUT, is_mesh(&mut socket)).await {
        Ok(Ok(true)) => mesh(socket),
        Ok(Ok(false)) => drop(grpc.send(Ok(Accepted(socket))).await),
        Ok(Err(error)) => debug!(%error, "peer sniff"),
        Err(_) => debug!("peer said nothing"),
    }
}

/// Peeks until the answer is clear; consumes the preamble when it is one.
async fn is_mesh(socket: &mut Stream) -> io::Result<bool> {
    let mut head = [0; MESH_PREAMBLE.len()];
    loop {
        let n = socket.peek(&mut head).await?;
        if n == 0 || head[..n] != MESH_PREAMBLE[..n] {
            return Ok(false);
        }
        if n == head.len() {
            break;
        }
        // Half a preamble: to look again would return at once.
        tokio::time::sleep(POLL).await;
    }
    socket.read_exact(&mut head).await?;
    Ok(true)
}
