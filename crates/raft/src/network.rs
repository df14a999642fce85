//! Raft RPCs to peers over gRPC. Clients never dial when made: they connect on first use, and
//! heartbeats and snapshots have connections of their own.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use nihilo_host::Net;
use nihilo_store::snapshot::Dump;
use nihilo_store::{Identity, Node, TypeConfig, convert};
use nihilo_wire::internal as pb;
use openraft::alias::SnapshotOf;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, v2::RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};
use pb::raft_client::RaftClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use crate::dial::connect_lazily;

/// Bound of a dial: a dead host must look dead at once.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(100);
/// Largest message of a peer (02-store §2.2).
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of a snapshot sent in one message.
const SNAPSHOT_CHUNK: usize = 512 * 1024;
/// Bound of a whole snapshot transfer and its installation.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(30);
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(200);

#[derive(Debug, Clone)]
pub(crate) struct Network {
    pub(crate) identity: Arc<Identity>,
    pub(crate) net: Net,
}

/// Clients for one peer; the lanes do not share a connection.
#[derive(Debug)]
pub(crate) struct Peer {
    client: Option<RaftClient<Channel>>,
    lane: Lane,
    identity: pb::Identity,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    Entries,
    Heartbeats,
    Snapshots,
}

pub(crate) fn channel(net: &Net, address: &str) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true);
    Ok(connect_lazily(net, &endpoint))
}

impl Network {
    fn peer(&self, target: u64, node: &Node, lane: Lane) -> Peer {
        // An address that is not one shows as unreachable, like any other dead peer.
        let client = channel(&self.net, &node.address).ok().map(|channel| {
            RaftClient::new(channel)
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES)
        });
        let identity = pb::Identity {
            cluster_id: self.identity.cluster_id.clone(),
            from_node: self.identity.node_id,
            target_node: target,
        };
        Peer {
            client,
            lane,
            identity,
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &Node) -> Peer {
        self.peer(target, node, Lane::Entries)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Node) -> Peer {
        self.peer(target, node, Lane::Heartbeats)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Node) -> Peer {
        self.peer(target, node, Lane::Snapshots)
    }
}

type RpcResult<T> = Result<T, RPCError<TypeConfig>>;

impl Peer {
    fn client(&self) -> RpcResult<RaftClient<Channel>> {
        self.client
            .clone()
            .ok_or_else(|| RPCError::Unreachable(Unreachable::from_string("address is malformed")))
    }
}

async fn bounded<T>(
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> RpcResult<T> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        // Refused, reset, not ready: back off.
        Ok(Err(status)) => Err(RPCError::Unreachable(Unreachable::from_string(status))),
        Err(_) => Err(RPCError::Network(NetworkError::from_string(
            "no answer in time",
        ))),
    }
}

fn malformed(error: convert::Malformed) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::new(&error))
}

fn vote_request(rpc: VoteRequest<TypeConfig>, identity: pb::Identity) -> pb::VoteRequest {
    pb::VoteRequest {
        identity: Some(identity),
        vote: Some(convert::vote_to(&rpc.vote)),
        last_log_id: rpc.last_log_id.as_ref().map(convert::log_id_to),
        leadership_transfer: rpc.leadership_transfer,
    }
}

fn vote_response(response: pb::VoteResponse) -> RpcResult<VoteResponse<TypeConfig>> {
    let vote = convert::vote_from(response.vote).map_err(malformed)?;
    let last = convert::log_id_from(response.last_log_id).map_err(malformed)?;
    Ok(VoteResponse::new(vote, last, response.granted))
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = Dump;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<TypeConfig>> {
        let mut client = self.client()?;
        let request = pb::AppendRequest {
            identity: Some(self.identity.clone()),
            vote: Some(convert::vote_to(&rpc.vote)),
            prev_log_id: rpc.prev_log_id.as_ref().map(convert::log_id_to),
            leader_commit: rpc.leader_commit.as_ref().map(convert::log_id_to),
            entries: rpc.entries.iter().map(convert::entry_to).collect(),
        };
        let limit = option.hard_ttl();
        let response = match self.lane {
            Lane::Heartbeats => bounded(limit, client.heartbeat(request)).await?,
            Lane::Entries | Lane::Snapshots => bounded(limit, client.append(request)).await?,
        };
        use pb::append_response::Result as Answer;
        match response.result {
            Some(Answer::Success(_)) => Ok(AppendEntriesResponse::Success),
            Some(Answer::PartialSuccess(id)) => {
                let id = convert::log_id_from(Some(id)).map_err(malformed)?;
                let id = id.filter(|_| !response.partial_is_none);
                Ok(AppendEntriesResponse::PartialSuccess(id))
            }
            Some(Answer::Conflict(_)) => Ok(AppendEntriesResponse::Conflict),
            Some(Answer::HigherVote(vote)) => {
                let vote = convert::vote_from(Some(vote)).map_err(malformed)?;
                Ok(AppendEntriesResponse::HigherVote(vote))
            }
            None => Err(RPCError::Network(NetworkError::from_string(
                "empty append response",
            ))),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        let request = vote_request(rpc, self.identity.clone());
        let mut client = self.client()?;
        vote_response(bounded(option.hard_ttl(), client.vote(request)).await?)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        let request = vote_request(rpc, self.identity.clone());
        let mut client = self.client()?;
        vote_response(bounded(option.hard_ttl(), client.pre_vote(request)).await?)
    }

    async fn full_snapshot(
        &mut self,
        vote: nihilo_store::type_config::Vote,
        snapshot: SnapshotOf<TypeConfig, Dump>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let first = pb::SnapshotChunk {
            identity: Some(self.identity.clone()),
            vote: Some(convert::vote_to(&vote)),
            meta: Some(convert::snapshot_meta_to(&snapshot.meta)),
            ..pb::SnapshotChunk::default()
        };
        let data = snapshot.snapshot.0;
        let n_chunks = data.len().div_ceil(SNAPSHOT_CHUNK);
        let chunks = (0..n_chunks).map(move |i| {
            let end = data.len().min((i + 1) * SNAPSHOT_CHUNK);
            let done = end == data.len();
            let data = data.slice(i * SNAPSHOT_CHUNK..end);
            pb::SnapshotChunk {
                data,
                done,
                ..pb::SnapshotChunk::default()
            }
        });
        let stream = futures_util::stream::iter(std::iter::once(first).chain(chunks));
        let mut client = self.client().map_err(StreamingError::from)?;
        let call = bounded(SNAPSHOT_LIMIT, client.install_snapshot(stream)).boxed();
        // A closed replication first: nobody waits for this answer any more.
        let response = tokio::select! {
            biased;
            closed = cancel => return Err(StreamingError::Closed(closed)),
            response = call => response.map_err(StreamingError::from)?,
        };
        let vote = convert::vote_from(response.vote)
            .map_err(|error| StreamingError::from(malformed(error)))?;
        Ok(SnapshotResponse::new(vote))
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<openraft::raft::TransferLeaderResponse<TypeConfig>> {
        let request = pb::TransferLeaderRequest {
            identity: Some(self.identity.clone()),
            from_leader: Some(convert::vote_to(rpc.from_leader())),
            to_node: *rpc.to_node_id(),
            last_log_id: rpc.last_log_id().map(convert::log_id_to),
        };
        let mut client = self.client()?;
        bounded(option.hard_ttl(), client.transfer_leader(request)).await?;
        Ok(Ok(()))
    }

    fn backoff(&self) -> Option<Backoff> {
        let delays =
            std::iter::successors(Some(BACKOFF_MIN), |last| Some((*last * 2).min(BACKOFF_MAX)));
        Some(Backoff::new(delays))
    }
}
