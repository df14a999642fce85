//! A backup of the replicated state while the node serves, streamed as it is made.

use std::io::{self, Write};
use std::time::Duration;

use bytes::Bytes;
use nihilo_raft::RaftNode;
use nihilo_wire::cluster as pb;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tracing::{info, warn};

use super::error;

/// Bytes of one message.
const CHUNK_BYTES: usize = 256 * 1024;
/// Messages that wait for a slow reader; the state is walked no faster than it reads.
const QUEUE: usize = 4;
const READ_LIMIT: Duration = Duration::from_secs(5);

pub type Chunks = ReceiverStream<Result<pb::BackupChunk, Status>>;

/// # Errors
/// No quorum says what the newest state is.
pub async fn serve(raft: &RaftNode) -> Result<Chunks, Status> {
    let index = raft.read_index(READ_LIMIT).await;
    let index = index.map_err(|failure| error::unavailable("NO_QUORUM", failure.to_string()))?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    let (state, cluster_id) = (raft.state(), raft.identity().cluster_id.clone());
    // Nobody waits for its end: the reader sees whether the dump is whole.
    drop(tokio::task::spawn_blocking(move || {
        let mut out = Pieces {
            sender: sender.clone(),
            piece: Vec::with_capacity(CHUNK_BYTES),
        };
        match state.back_up(&cluster_id, &mut out) {
            Ok(head) => info!(%index, at = head.index, "backup sent"),
            Err(failure) => {
                warn!(%failure, "backup not sent");
                let told = Status::aborted(failure.to_string());
                drop(sender.blocking_send(Err(told)));
            }
        }
    }));
    Ok(ReceiverStream::new(receiver))
}

/// Collects what is written into messages.
struct Pieces {
    sender: mpsc::Sender<Result<pb::BackupChunk, Status>>,
    piece: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= CHUNK_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let data = Bytes::from(std::mem::take(&mut self.piece));
        let sent = self.sender.blocking_send(Ok(pb::BackupChunk { data }));
        sent.map_err(|_| io::Error::other("the reader has gone"))
    }
}
