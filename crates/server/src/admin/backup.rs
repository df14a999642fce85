//! A backup of the replicated state while the node serves, streamed as it is made.

use std::io::{self, Write};
use std::time::Duration;

use bytes::Bytes;
use nihilo_raft::RaftNode;
use nihilo_wire::cluster as pb;
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tracing::{info, warn};

use super::error;

/// Bytes of one message.
const CHUNK_BYTES: usize = 256 * 1024;
/// Messages that wait for a slow reader; the state is walked no faster than it reads.
const QUEUE: usize = 4;
const READ_LIMIT: Duration = Duration::from_secs(5);
/// Backups of one node under way at once: each holds a thread, and the state as it was.
const MAX_BACKUPS: usize = 4;
/// A reader that takes nothing for so long is given up.
const READER_LIMIT: Duration = Duration::from_secs(30);

static BACKUPS: Semaphore = Semaphore::const_new(MAX_BACKUPS);

pub type Chunks = ReceiverStream<Result<pb::BackupChunk, Status>>;

/// # Errors
/// No quorum says what the newest state is, or too many backups are under way.
pub async fn serve(raft: &RaftNode) -> Result<Chunks, Status> {
    let permit = BACKUPS.try_acquire().map_err(|_| {
        let text = format!("{MAX_BACKUPS} backups are under way on this node");
        error::unavailable("OVERLOADED", text)
    })?;
    let index = raft.read_index(READ_LIMIT).await;
    let index = index.map_err(|failure| error::unavailable("NO_QUORUM", failure.to_string()))?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    let (state, cluster_id) = (raft.state(), raft.identity().cluster_id.clone());
    let runtime = Handle::current();
    // Nobody waits for its end: the reader sees whether the dump is whole.
    drop(tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let mut out = Pieces {
            sender: sender.clone(),
            runtime,
            piece: Vec::with_capacity(CHUNK_BYTES),
        };
        match state.back_up(&cluster_id, &mut out) {
            Ok(head) => info!(%index, at = head.index, "backup sent"),
            Err(failure) => {
                warn!(%failure, "backup not sent");
                let told = Status::aborted(failure.to_string());
                // A reader that has no room for it sees a dump that is not whole.
                drop(sender.try_send(Err(told)));
            }
        }
    }));
    Ok(ReceiverStream::new(receiver))
}

/// Collects what is written into messages.
struct Pieces {
    sender: mpsc::Sender<Result<pb::BackupChunk, Status>>,
    runtime: Handle,
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
        let chunk = Ok(pb::BackupChunk { data });
        let sent = self.sender.send_timeout(chunk, READER_LIMIT);
        self.runtime.block_on(sent).map_err(|error| match error {
            SendTimeoutError::Timeout(_) => io::Error::other("the reader takes nothing"),
            SendTimeoutError::Closed(_) => io::Error::other("the reader has gone"),
        })
    }
}
