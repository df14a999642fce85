//! Raft RPCs to peers over gRPC. Clients never dial when made: they connect on first use, and
//! heartbeats and snapshots have connections of their own.

use std::fs::File;
use std::future::Future;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use nihilo_host::{Host, Net, Threads};
use nihilo_machine::State;
use nihilo_store::snapshot::DumpFile;
use nihilo_store::{Identity, Node, StateHandle, TypeConfig, convert};
use nihilo_wire::internal as pb;
use openraft::alias::SnapshotOf;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, v2::RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};
use pb::raft_client::RaftClient;
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};
use tracing::warn;

use crate::dial::connect_lazily;
use crate::quorum_gate::QuorumGate;

/// Bound of a dial: a dead host must look dead at once.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(100);
/// Largest message of a peer (02-store §2.2).
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of a snapshot sent in one message.
const SNAPSHOT_CHUNK: usize = 512 * 1024;
/// Bound of a whole snapshot transfer and its installation, beside what its size takes.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(30);
/// A slower transfer is begun anew: 1 MiB a second.
const SNAPSHOT_BYTES_PER_MS: u64 = 1_024;
/// Entries are given this much time for their size: 1 MiB a second.
const APPEND_BYTES_PER_MS: u64 = 1_024;
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(200);

#[derive(Debug, Clone)]
pub(crate) struct Network {
    pub(crate) identity: Arc<Identity>,
    pub(crate) host: Host,
    pub(crate) gate: Arc<QuorumGate>,
    pub(crate) removed: Removed,
    pub(crate) state: StateHandle,
}

/// Begins the answer to a node that was removed.
pub(crate) const NODE_REMOVED: &str = "node-removed";

/// Whether this node knows that it was removed; set once, from its own state or by a peer's words.
#[derive(Debug, Clone, Default)]
pub(crate) struct Removed(Arc<watch::Sender<Option<Arc<str>>>>);

impl Removed {
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.0.subscribe()
    }

    pub(crate) fn set(&self, words: &str) {
        self.0.send_if_modified(|known| {
            let is_first = known.is_none();
            if is_first {
                *known = Some(words.into());
            }
            is_first
        });
    }

    /// Takes note of a refusal that says it.
    fn hear(&self, status: &Status) {
        if status.code() == tonic::Code::PermissionDenied
            && status.message().starts_with(NODE_REMOVED)
        {
            self.set(status.message());
        }
    }
}

/// Clients for one peer; the lanes do not share a connection.
#[derive(Debug)]
pub(crate) struct Peer {
    client: Option<RaftClient<Channel>>,
    lane: Lane,
    identity: pb::Identity,
    removed: Removed,
    state: StateHandle,
    gate: Arc<QuorumGate>,
    threads: Threads,
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
        let client = channel(&self.host.net, &node.address).ok().map(|channel| {
            RaftClient::new(channel)
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES)
        });
        let identity = pb::Identity {
            cluster_id: self.identity.cluster_id.clone(),
            from_node: self.identity.node_id,
            target_node: target,
            // Of the moment: see `identity`.
            cluster_version: 0,
        };
        Peer {
            client,
            lane,
            identity,
            removed: self.removed.clone(),
            state: self.state.clone(),
            gate: self.gate.clone(),
            threads: self.host.threads,
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
    fn identity(&self) -> pb::Identity {
        pb::Identity {
            cluster_version: self.state.read(State::cluster_version),
            ..self.identity.clone()
        }
    }

    fn client(&self) -> RpcResult<RaftClient<Channel>> {
        self.client
            .clone()
            .ok_or_else(|| RPCError::Unreachable(Unreachable::from_string("address is malformed")))
    }
}

/// The file in pieces, read no faster than they are taken; a piece that cannot be read ends the
/// stream, and the receiver sees that something is missing.
fn chunks(
    file: Arc<File>,
    threads: Threads,
) -> impl futures_util::Stream<Item = pb::SnapshotChunk> + Send {
    futures_util::stream::unfold(Some(file), move |file| async move {
        let file = file?;
        let source = file.clone();
        let read = threads.aside(move || read_piece(&source)).await.flatten();
        let data = read
            .inspect_err(|error| warn!(%error, "a snapshot cannot be read to its end"))
            .ok()?;
        let done = data.len() < SNAPSHOT_CHUNK;
        let piece = pb::SnapshotChunk {
            data: data.into(),
            done,
            ..pb::SnapshotChunk::default()
        };
        Some((piece, (!done).then_some(file)))
    })
}

/// The next piece of a file; a short one is its end.
fn read_piece(file: &File) -> std::io::Result<Vec<u8>> {
    let mut data = Vec::with_capacity(SNAPSHOT_CHUNK);
    file.take(SNAPSHOT_CHUNK as u64).read_to_end(&mut data)?;
    Ok(data)
}

async fn bounded_raw<T>(
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> RpcResult<Result<T, Status>> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => Ok(answer.map(Response::into_inner)),
        Err(_) => Err(RPCError::Network(NetworkError::from_string(
            "no answer in time",
        ))),
    }
}

async fn bounded<T>(
    removed: &Removed,
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> RpcResult<T> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        // Refused, reset, not ready: back off.
        Ok(Err(status)) => {
            removed.hear(&status);
            Err(RPCError::Unreachable(Unreachable::from_string(status)))
        }
        Err(_) => Err(RPCError::Network(NetworkError::from_string(
            "no answer in time",
        ))),
    }
}

/// What entries take on top of a heartbeat's time, on a slow link and disk.
fn time_to_send(entries: &[nihilo_store::type_config::Entry]) -> Duration {
    let bytes = entries.iter().map(|entry| match &entry.payload {
        openraft::EntryPayload::Normal(bytes) => bytes.0.len() as u64,
        openraft::EntryPayload::Blank | openraft::EntryPayload::Membership(_) => 0,
    });
    Duration::from_millis(bytes.sum::<u64>() / APPEND_BYTES_PER_MS)
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
    type SnapshotData = DumpFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<TypeConfig>> {
        let mut client = self.client()?;
        let request = pb::AppendRequest {
            identity: Some(self.identity()),
            vote: Some(convert::vote_to(&rpc.vote)),
            prev_log_id: rpc.prev_log_id.as_ref().map(convert::log_id_to),
            leader_commit: rpc.leader_commit.as_ref().map(convert::log_id_to),
            entries: rpc.entries.iter().map(convert::entry_to).collect(),
        };
        // openraft holds its heartbeats back itself.
        if self.lane != Lane::Heartbeats && !self.gate.is_open() {
            let quiet = "no quorum answers: silent, so that others may campaign";
            return Err(RPCError::Unreachable(Unreachable::from_string(quiet)));
        }
        // Large entries take longer than a heartbeat to be sent and synced; given up halfway, they
        // would be sent again for ever. A peer that is dead is seen by its heartbeats.
        let limit = option.hard_ttl() + time_to_send(&rpc.entries);
        let response = match self.lane {
            Lane::Heartbeats => bounded(&self.removed, limit, client.heartbeat(request)).await?,
            Lane::Entries | Lane::Snapshots => {
                bounded(&self.removed, limit, client.append(request)).await?
            }
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
        let request = vote_request(rpc, self.identity());
        let mut client = self.client()?;
        vote_response(bounded(&self.removed, option.hard_ttl(), client.vote(request)).await?)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        let request = vote_request(rpc, self.identity());
        let mut client = self.client()?;
        vote_response(bounded(&self.removed, option.hard_ttl(), client.pre_vote(request)).await?)
    }

    async fn full_snapshot(
        &mut self,
        vote: nihilo_store::type_config::Vote,
        snapshot: SnapshotOf<TypeConfig, DumpFile>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let first = pb::SnapshotChunk {
            identity: Some(self.identity()),
            vote: Some(convert::vote_to(&vote)),
            meta: Some(convert::snapshot_meta_to(&snapshot.meta)),
            ..pb::SnapshotChunk::default()
        };
        let file = snapshot.snapshot;
        let limit = SNAPSHOT_LIMIT + Duration::from_millis(file.length() / SNAPSHOT_BYTES_PER_MS);
        let (threads, path) = (self.threads, file.path().to_owned());
        let opened = threads.aside(move || File::open(path)).await.flatten();
        let opened = opened.map_err(|error| {
            // Gone or unreadable: the next try is with another one.
            file.mark_damaged();
            StreamingError::from(RPCError::Network(NetworkError::new(&error)))
        })?;
        let stream = futures_util::stream::iter(std::iter::once(first))
            .chain(chunks(Arc::new(opened), threads));
        let mut client = self.client().map_err(StreamingError::from)?;
        let removed = self.removed.clone();
        let call = async move {
            let answer = bounded_raw(limit, client.install_snapshot(stream)).await?;
            answer.map_err(|status| {
                removed.hear(&status);
                if status.code() == tonic::Code::DataLoss {
                    file.mark_damaged();
                }
                RPCError::Unreachable(Unreachable::from_string(status))
            })
        };
        let call = call.boxed();
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
            identity: Some(self.identity()),
            from_leader: Some(convert::vote_to(rpc.from_leader())),
            to_node: *rpc.to_node_id(),
            last_log_id: rpc.last_log_id().map(convert::log_id_to),
        };
        let mut client = self.client()?;
        bounded(
            &self.removed,
            option.hard_ttl(),
            client.transfer_leader(request),
        )
        .await?;
        Ok(Ok(()))
    }

    fn backoff(&self) -> Option<Backoff> {
        let delays =
            std::iter::successors(Some(BACKOFF_MIN), |last| Some((*last * 2).min(BACKOFF_MAX)));
        Some(Backoff::new(delays))
    }
}
