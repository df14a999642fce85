//! The cluster as the bundles of this node see it: metadata from the state, bytes from other nodes.

use std::time::Duration;

use bytes::Bytes;
use nihilo_machine::bundles::BundleKey;
use nihilo_raft::RaftNode;
use nihilo_runtime::bundle::{BlobSource, BundleId, ChunkError, ChunkFuture, Holder};
use nihilo_types::bundle::{CHUNK_BYTES, Digest, Manifest};
use nihilo_types::id::NodeId;
use nihilo_wire::internal as pb;
use pb::bundles_client::BundlesClient;
use tonic::transport::Channel;

use super::channels::Channels;

/// Bound of one chunk: 4 MiB in so long is 140 KiB/s.
const CHUNK_LIMIT: Duration = Duration::from_secs(30);
/// A chunk, and what stands around it in a message.
pub const MAX_CHUNK_MESSAGE: usize = CHUNK_BYTES as usize + 4 * 1024;

/// Other nodes, over connections that carry bundles alone: nothing else waits behind their bytes.
#[derive(Debug, Clone)]
pub struct BundleSource {
    pub node: NodeId,
    pub raft: RaftNode,
    pub channels: Channels,
}

impl BundleSource {
    /// # Errors
    /// An address that is not `host:port`.
    pub fn client(&self, address: &str) -> Result<BundlesClient<Channel>, String> {
        let channel = self.channels.to(address);
        let channel = channel.map_err(|error| format!("{address}: {error}"))?;
        Ok(BundlesClient::new(channel).max_decoding_message_size(MAX_CHUNK_MESSAGE))
    }
}

impl BlobSource for BundleSource {
    fn manifest(&self, bundle: &BundleId) -> Option<Manifest> {
        let key = BundleKey::new(&bundle.namespace, &bundle.name, bundle.digest);
        let state = self.raft.state();
        state.read(|state| state.bundle(&key).map(|bundle| bundle.manifest.clone()))
    }

    fn holders(&self) -> Vec<Holder> {
        self.raft.state().read(|state| {
            let others = state.sessions();
            let others = others.filter(|session| session.opened.node != self.node);
            others
                .map(|session| Holder {
                    name: session.opened.name.clone(),
                    peer_address: session.opened.peer_address.clone(),
                })
                .collect()
        })
    }

    fn chunk(&self, holder: &Holder, blob: Digest, chunk: u32) -> ChunkFuture {
        let client = self.client(&holder.peer_address);
        Box::pin(async move {
            let mut client = client.map_err(ChunkError::Unreachable)?;
            let request = pb::FetchChunkRequest {
                blob: blob.to_string(),
                chunk,
            };
            let answer = tokio::time::timeout(CHUNK_LIMIT, client.fetch_chunk(request)).await;
            let answer = match answer {
                Err(_) => return Err(unreachable(format!("no chunk in {CHUNK_LIMIT:?}"))),
                Ok(Err(status)) => return Err(unreachable(status.message())),
                Ok(Ok(answer)) => answer.into_inner(),
            };
            let data: Option<Bytes> = answer.data;
            data.ok_or(ChunkError::NotHeld)
        })
    }
}

fn unreachable(why: impl Into<String>) -> ChunkError {
    ChunkError::Unreachable(why.into())
}
