//! The Raft service on the peer port.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use nihilo_host::Threads;
use nihilo_machine::command::{CLUSTER_VERSION, RequestKey};
use nihilo_store::snapshot::{DumpFile, SnapshotDir};
use nihilo_store::{TypeConfig, convert};
use nihilo_wire::codec;
use nihilo_wire::internal as pb;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use tonic::{Request, Response, Status, Streaming};

use nihilo_types::id::{LogIndex, NodeId};

use crate::fast_path;
use crate::network::{MAX_MESSAGE_BYTES, NODE_REMOVED};
use crate::node::RaftNode;

/// Answers peers' Raft calls; made by [`RaftNode::peer_server`].
#[derive(Debug, Clone)]
pub struct PeerServer(pub(crate) RaftNode);

/// Bytes of a snapshot that are taken in, at most.
const MAX_SNAPSHOT_BYTES: usize = 4 * 1024 * 1024 * 1024;
/// Between two pieces of a snapshot.
const PIECE_LIMIT: Duration = Duration::from_secs(5);

impl PeerServer {
    /// The tonic service, with the peers' message limits.
    pub fn into_service(self) -> pb::raft_server::RaftServer<Self> {
        pb::raft_server::RaftServer::new(self)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    fn check(&self, identity: Option<&pb::Identity>) -> Result<(), Status> {
        if self.0.has_failed() {
            return Err(Status::unavailable("store-failed: this node takes no part"));
        }
        let identity = identity.ok_or_else(|| Status::invalid_argument("no identity"))?;
        let mine = self.0.identity();
        if identity.cluster_id != mine.cluster_id || identity.target_node != mine.node_id {
            return Err(Status::permission_denied(format!(
                "cluster-replaced: this is node {} of cluster {}",
                mine.node_id, mine.cluster_id
            )));
        }
        self.check_sender(identity)
    }

    /// A node that was removed does not hear of it by the log any more, so it is told here.
    fn check_sender(&self, sender: &pb::Identity) -> Result<(), Status> {
        let from = NodeId(sender.from_node);
        let removed_at = self.0.state().read(|state| state.removed_at(from));
        // Until consensus can do without it, it is needed for the change that takes it out.
        if let Some(at) = removed_at.filter(|_| !self.0.knows_member(from.0)) {
            return Err(Status::permission_denied(removed_text(from, at)));
        }
        if sender.cluster_version > CLUSTER_VERSION {
            return Err(Status::failed_precondition(format!(
                "too-old: node {} knows cluster version {CLUSTER_VERSION}, the cluster has {}",
                self.0.identity().node_id,
                sender.cluster_version
            )));
        }
        Ok(())
    }

    /// For what counts in consensus: a store that may be a replaced one has no voice yet.
    fn check_voice(&self, identity: Option<&pb::Identity>) -> Result<(), Status> {
        self.check(identity)?;
        if self.0.introduction().is_accepted() {
            return Ok(());
        }
        Err(Status::unavailable(
            "this node's store is empty, and nobody has vouched for its id yet",
        ))
    }

    async fn take_append(&self, request: pb::AppendRequest) -> Result<pb::AppendResponse, Status> {
        self.check_voice(request.identity.as_ref())?;
        let entries = request.entries.into_iter().map(convert::entry_from);
        let rpc = AppendEntriesRequest {
            vote: convert::vote_from(request.vote).map_err(malformed)?,
            prev_log_id: convert::log_id_from(request.prev_log_id).map_err(malformed)?,
            entries: entries.collect::<Result<_, _>>().map_err(malformed)?,
            leader_commit: convert::log_id_from(request.leader_commit).map_err(malformed)?,
        };
        let response = self.0.raft().append_entries(rpc).await.map_err(stopped)?;
        use pb::append_response::Result as Answer;
        let mut partial_is_none = false;
        let result = match response {
            AppendEntriesResponse::Success => Answer::Success(true),
            AppendEntriesResponse::PartialSuccess(Some(id)) => {
                Answer::PartialSuccess(convert::log_id_to(&id))
            }
            AppendEntriesResponse::PartialSuccess(None) => {
                partial_is_none = true;
                let nothing = pb::LogId {
                    leader_id: Some(pb::LeaderId::default()),
                    index: 0,
                };
                Answer::PartialSuccess(nothing)
            }
            AppendEntriesResponse::Conflict => Answer::Conflict(true),
            AppendEntriesResponse::HigherVote(vote) => Answer::HigherVote(convert::vote_to(&vote)),
        };
        Ok(pb::AppendResponse {
            result: Some(result),
            partial_is_none,
        })
    }

    fn vote_rpc(&self, request: pb::VoteRequest) -> Result<VoteRequest<TypeConfig>, Status> {
        self.check_voice(request.identity.as_ref())?;
        let vote = convert::vote_from(request.vote).map_err(malformed)?;
        let last = convert::log_id_from(request.last_log_id).map_err(malformed)?;
        let mut rpc = VoteRequest::new(vote, last);
        rpc.leadership_transfer = request.leadership_transfer;
        Ok(rpc)
    }
}

/// Takes a snapshot in, piece by piece into a file, and proves it before consensus hears of it.
async fn receive(
    dir: &SnapshotDir,
    threads: Threads,
    mut chunks: Streaming<pb::SnapshotChunk>,
) -> Result<DumpFile, Status> {
    let failed = |error: std::io::Error| Status::unavailable(format!("snapshot: {error}"));
    let unfinished = dir.begin().map_err(failed)?;
    let file = Arc::new(unfinished.file.try_clone().map_err(failed)?);
    let received = async {
        let (mut n_bytes, mut done) = (0, false);
        while let Some(chunk) = next(&mut chunks).await? {
            n_bytes += chunk.data.len();
            if n_bytes > MAX_SNAPSHOT_BYTES {
                return Err(Status::resource_exhausted("snapshot is too large"));
            }
            let (file, data) = (file.clone(), chunk.data);
            let written = threads.aside(move || (&*file).write_all(&data)).await;
            written.flatten().map_err(failed)?;
            done |= chunk.done;
        }
        Ok(done)
    };
    let received = received.await;
    // Reads and syncs the whole file.
    let ended = threads.aside(move || match received {
        Ok(true) if unfinished.prove().is_ok() => unfinished.finish().map_err(failed),
        Ok(_) => Err(Status::data_loss("snapshot did not arrive whole")),
        Err(status) => Err(status),
    });
    ended
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?
}

/// The next piece; a sender that has stopped is not waited for.
async fn next(
    chunks: &mut Streaming<pb::SnapshotChunk>,
) -> Result<Option<pb::SnapshotChunk>, Status> {
    match tokio::time::timeout(PIECE_LIMIT, chunks.message()).await {
        Ok(piece) => piece,
        Err(_) => Err(Status::deadline_exceeded("the snapshot's sender is silent")),
    }
}

/// What a removed node is told, and says when it stops.
pub fn removed_text(node: NodeId, at: LogIndex) -> String {
    format!(
        "{NODE_REMOVED}: node {node} was removed from the cluster at index {at}; its id is never \
         used again: wipe its data directory and join under a new one"
    )
}

fn malformed(error: convert::Malformed) -> Status {
    Status::invalid_argument(error.to_string())
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("raft has stopped on this node: {error}"))
}

fn vote_answer(response: &VoteResponse<TypeConfig>) -> Response<pb::VoteResponse> {
    Response::new(pb::VoteResponse {
        vote: Some(convert::vote_to(&response.vote)),
        granted: response.vote_granted,
        last_log_id: response.last_log_id.as_ref().map(convert::log_id_to),
    })
}

#[tonic::async_trait]
impl pb::raft_server::Raft for PeerServer {
    async fn append(
        &self,
        request: Request<pb::AppendRequest>,
    ) -> Result<Response<pb::AppendResponse>, Status> {
        self.take_append(request.into_inner())
            .await
            .map(Response::new)
    }

    async fn heartbeat(
        &self,
        request: Request<pb::AppendRequest>,
    ) -> Result<Response<pb::AppendResponse>, Status> {
        self.take_append(request.into_inner())
            .await
            .map(Response::new)
    }

    async fn vote(
        &self,
        request: Request<pb::VoteRequest>,
    ) -> Result<Response<pb::VoteResponse>, Status> {
        let rpc = self.vote_rpc(request.into_inner())?;
        let response = self.0.raft().vote(rpc).await.map_err(stopped)?;
        Ok(vote_answer(&response))
    }

    async fn pre_vote(
        &self,
        request: Request<pb::VoteRequest>,
    ) -> Result<Response<pb::VoteResponse>, Status> {
        let rpc = self.vote_rpc(request.into_inner())?;
        let response = self.0.raft().pre_vote(rpc).await.map_err(stopped)?;
        Ok(vote_answer(&response))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderResponse>, Status> {
        let request = request.into_inner();
        self.check_voice(request.identity.as_ref())?;
        let rpc = TransferLeaderRequest::new(
            convert::vote_from(request.from_leader).map_err(malformed)?,
            request.to_node,
            convert::log_id_from(request.last_log_id).map_err(malformed)?,
        );
        let taken = self
            .0
            .raft()
            .handle_transfer_leader(rpc)
            .await
            .map_err(stopped)?;
        taken.map_err(|error| Status::failed_precondition(error.to_string()))?;
        Ok(Response::new(pb::TransferLeaderResponse {}))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotChunk>>,
    ) -> Result<Response<pb::SnapshotResponse>, Status> {
        let mut chunks = request.into_inner();
        let empty = || Status::invalid_argument("empty snapshot stream");
        let first = chunks.message().await?.ok_or_else(empty)?;
        self.check_voice(first.identity.as_ref())?;
        let vote = convert::vote_from(first.vote).map_err(malformed)?;
        let meta = convert::snapshot_meta_from(first.meta).map_err(malformed)?;
        let snapshot = receive(self.0.snapshots(), self.0.threads(), chunks).await?;
        let snapshot = Snapshot { meta, snapshot };
        let installed = self.0.raft().install_full_snapshot(vote, snapshot).await;
        let response = installed.map_err(stopped)?;
        let vote = Some(convert::vote_to(&response.vote));
        Ok(Response::new(pb::SnapshotResponse { vote }))
    }

    async fn introduce(
        &self,
        request: Request<pb::IntroduceRequest>,
    ) -> Result<Response<pb::IntroduceResponse>, Status> {
        let request = request.into_inner();
        self.check(request.identity.as_ref())?;
        let node = request.identity.map_or(0, |identity| identity.from_node);
        let verdict = self.0.verdict_on(node, &request.store_id).await.into();
        Ok(Response::new(pb::IntroduceResponse { verdict }))
    }

    async fn leader_gone(
        &self,
        request: Request<pb::LeaderGoneRequest>,
    ) -> Result<Response<pb::LeaderGoneResponse>, Status> {
        let request = request.into_inner();
        self.check_voice(request.identity.as_ref())?;
        let leader = convert::vote_from(request.leader).map_err(malformed)?;
        let agrees = fast_path::sees_it_gone(&self.0, &leader).await;
        let last_log = self.0.status().last_log;
        Ok(Response::new(pb::LeaderGoneResponse { agrees, last_log }))
    }

    async fn read_index(
        &self,
        request: Request<pb::ReadIndexRequest>,
    ) -> Result<Response<pb::ReadIndexResponse>, Status> {
        self.check(request.into_inner().identity.as_ref())?;
        let index = self
            .0
            .leader_read_index()
            .await
            .map_err(Status::unavailable)?;
        Ok(Response::new(pb::ReadIndexResponse { index }))
    }

    async fn propose(
        &self,
        request: Request<pb::ProposeRequest>,
    ) -> Result<Response<pb::ProposeResponse>, Status> {
        let request = request.into_inner();
        self.check(request.identity.as_ref())?;
        let command = codec::decode_command(&request.command)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let key = RequestKey {
            id: request.request_id,
            hash: request.request_hash,
        };
        let reply = self.0.propose_here(command, key).await;
        let reply = reply.map_err(|error| error.to_status())?;
        Ok(Response::new(pb::ProposeResponse {
            reply: codec::encode_reply(&reply),
        }))
    }
}
