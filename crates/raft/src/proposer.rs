//! Writes from any node: here when this node leads, else forwarded once to the node that does.

use std::time::Duration;

use bytes::Bytes;
use nihilo_machine::State;
use nihilo_machine::command::{CLUSTER_VERSION, RequestKey};
use nihilo_machine::{Command, Envelope, Reply};
use nihilo_store::{EntryBytes, TypeConfig};
use nihilo_wire::codec::{self, MAX_COMMAND_BYTES};
use nihilo_wire::internal as pb;
use openraft::errors::{ClientWriteError, RaftError};
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::clock::wall_ms;
use crate::dial::TCP_CONNECT_ERROR;
use crate::disk::MIN_FREE_BYTES;
use crate::node::RaftNode;

/// What is certain about a write that has no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Never will be applied, whatever is tried.
    Rejected,
    NotApplied,
    /// Repeat it only under the same request id, or under a precondition.
    MaybeApplied,
}

/// Why a proposal has no reply.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProposeError {
    #[error("command of {size} bytes, at most {MAX_COMMAND_BYTES} are possible")]
    TooLarge { size: usize },
    #[error("too many writes are under way on this node")]
    Overloaded,
    #[error("no leader with a quorum was reached in time")]
    NoLeader,
    /// The leader's words: which node, and how much is left.
    #[error("{DISK_LOW}: {0}")]
    DiskLow(String),
    #[error("the store of this node has failed")]
    Stopped,
    #[error(
        "diverged: after entry {at} no majority of the replicas agrees; nothing is written on top \
         of it. Compare `nihilo cluster digests`, and restore from a backup"
    )]
    Split { at: u64 },
    #[error(
        "this needs cluster version {needs}, the cluster has {has}; once every node runs this \
         build: `nihilo cluster finalize-version`"
    )]
    TooNew { needs: u32, has: u32 },
    /// The leader's words, for a refusal that no other node changes.
    #[error("{0}")]
    Refused(String),
    /// The leader was lost, or did not answer, after it took the entry.
    #[error("the write was sent, but not answered: {0}")]
    Unanswered(String),
}

impl ProposeError {
    pub fn outcome(&self) -> Outcome {
        match self {
            ProposeError::TooLarge { .. }
            | ProposeError::TooNew { .. }
            | ProposeError::Refused(_) => Outcome::Rejected,
            ProposeError::Overloaded
            | ProposeError::NoLeader
            | ProposeError::DiskLow(_)
            | ProposeError::Split { .. }
            | ProposeError::Stopped => Outcome::NotApplied,
            ProposeError::Unanswered(_) => Outcome::MaybeApplied,
        }
    }

    pub fn is_retryable(&self) -> bool {
        match self {
            ProposeError::TooLarge { .. }
            | ProposeError::TooNew { .. }
            | ProposeError::Refused(_)
            | ProposeError::Split { .. } => false,
            ProposeError::Overloaded
            | ProposeError::NoLeader
            | ProposeError::DiskLow(_)
            | ProposeError::Stopped
            | ProposeError::Unanswered(_) => true,
        }
    }

    /// For the peer that forwarded it: `FAILED_PRECONDITION` = certainly not applied here.
    pub(crate) fn to_status(&self) -> Status {
        match self {
            ProposeError::TooLarge { .. }
            | ProposeError::TooNew { .. }
            | ProposeError::Refused(_) => Status::invalid_argument(self.to_string()),
            ProposeError::Split { .. } => Status::aborted(self.to_string()),
            ProposeError::Overloaded | ProposeError::DiskLow(_) => {
                Status::resource_exhausted(self.to_string())
            }
            ProposeError::NoLeader | ProposeError::Stopped => {
                Status::failed_precondition(self.to_string())
            }
            ProposeError::Unanswered(_) => Status::unknown(self.to_string()),
        }
    }
}

/// One try at one node.
enum Attempt {
    Answered(Reply),
    /// Certainly not applied there; look for the leader again.
    Elsewhere,
    /// Another node leads since it was sent. It may be applied, so only the same request may be made
    /// again: whichever comes second gets the first one's reply.
    Superseded,
    Failed(ProposeError),
}

impl RaftNode {
    /// Proposes a command and returns the state machine's reply to it.
    ///
    /// Waits for a leader by watching, within `limit`. A refusal by the state machine is a reply.
    ///
    /// # Errors
    /// See [`ProposeError::outcome`] for what is certain then.
    pub async fn propose(
        &self,
        command: Command,
        request: RequestKey,
        limit: Duration,
    ) -> Result<Reply, ProposeError> {
        let encoded = codec::encode_command(&command);
        if encoded.len() > MAX_COMMAND_BYTES {
            return Err(ProposeError::TooLarge {
                size: encoded.len(),
            });
        }
        let _slot = self
            .slots()
            .try_acquire()
            .map_err(|_| ProposeError::Overloaded)?;
        let deadline = Instant::now() + limit;
        let mut status = self.status_watch();
        loop {
            if self.has_failed() {
                return Err(ProposeError::Stopped);
            }
            let seen = status.borrow_and_update().clone();
            let attempt = match seen.leader {
                Some(leader) if leader == self.identity().node_id => {
                    self.attempt_here(command.clone(), request.clone(), deadline)
                        .await
                }
                Some(leader) => {
                    self.forward(leader, encoded.clone(), &request, deadline)
                        .await
                }
                None => Attempt::Elsewhere,
            };
            match attempt {
                Attempt::Answered(reply) => return Ok(reply),
                Attempt::Failed(error) => return Err(error),
                Attempt::Superseded => continue,
                Attempt::Elsewhere => self.count_refused(),
            }
            // By watch, never by sleep: the pause would dominate a failover.
            let changed = status.wait_for(|now| now.leader != seen.leader || now.term != seen.term);
            let retry = tokio::time::timeout(RETRY_SAME_LEADER, changed);
            match tokio::time::timeout_at(deadline, retry).await {
                Ok(Ok(Err(_))) => return Err(ProposeError::Stopped),
                Ok(_) => {}
                Err(_) => return Err(ProposeError::NoLeader),
            }
        }
    }

    /// A forwarded proposal: executed here or not at all.
    pub(crate) async fn propose_here(
        &self,
        command: Command,
        request: RequestKey,
    ) -> Result<Reply, ProposeError> {
        let _slot = self
            .slots()
            .try_acquire()
            .map_err(|_| ProposeError::Overloaded)?;
        let deadline = Instant::now() + FORWARDED_LIMIT;
        match self.attempt_here(command, request, deadline).await {
            Attempt::Answered(reply) => Ok(reply),
            Attempt::Elsewhere | Attempt::Superseded => Err(ProposeError::NoLeader),
            Attempt::Failed(error) => Err(error),
        }
    }

    async fn attempt_here(
        &self,
        command: Command,
        request: RequestKey,
        deadline: Instant,
    ) -> Attempt {
        if let Some(error) = self.refuse_on_low_disk(&command) {
            return Attempt::Failed(error);
        }
        if let Some(at) = self.split_at() {
            return Attempt::Failed(ProposeError::Split { at });
        }
        let (applied_ms, cluster_version) = self
            .state()
            .read(|state| (state.clock().log_ms, version_in_force(state)));
        if command.since() > cluster_version {
            return Attempt::Failed(ProposeError::TooNew {
                needs: command.since(),
                has: cluster_version,
            });
        }
        let envelope = Envelope {
            cluster_version,
            log_ms: self.log_clock().now(applied_ms),
            wall_ms: wall_ms(),
            request,
            command,
        };
        let write = self
            .raft()
            .client_write(EntryBytes(codec::encode_entry(&envelope)));
        match tokio::time::timeout_at(deadline, write).await {
            Ok(Ok(response)) => match response.data.0 {
                Some(reply) => Attempt::Answered(reply),
                None => Attempt::Failed(ProposeError::Unanswered("no reply".into())),
            },
            Ok(Err(error)) => refused(&error),
            Err(_) => Attempt::Failed(ProposeError::Unanswered("deadline passed".into())),
        }
    }

    /// What people ask for waits for space; what the cluster needs to run, and deleting, do not.
    fn refuse_on_low_disk(&self, command: &Command) -> Option<ProposeError> {
        let free = self.low_disk()?;
        let grows = matches!(command, Command::PutService(_));
        let mib = |bytes: u64| bytes / (1024 * 1024);
        grows.then(|| {
            ProposeError::DiskLow(format!(
                "node {} leads and has {} MiB free on its disk, {} MiB are needed; free some \
                 there, or hand leadership to another node",
                self.identity().node_id,
                mib(free),
                mib(MIN_FREE_BYTES)
            ))
        })
    }

    async fn forward(
        &self,
        leader: u64,
        command: Bytes,
        key: &RequestKey,
        deadline: Instant,
    ) -> Attempt {
        let Some(mut client) = self.peer_client(leader) else {
            return Attempt::Elsewhere;
        };
        let request = pb::ProposeRequest {
            identity: Some(self.identity_to(leader)),
            request_id: key.id.clone(),
            request_hash: key.hash,
            command,
        };
        // A node that has lost its power does not say so: its followers' next leader does.
        let answer = tokio::select! {
            biased;
            answer = tokio::time::timeout_at(deadline, client.propose(request)) => answer,
            () = self.superseded(leader), if !key.id.is_empty() => return Attempt::Superseded,
        };
        match answer {
            Ok(Ok(response)) => match codec::decode_reply(&response.into_inner().reply) {
                Ok(reply) => Attempt::Answered(reply),
                Err(error) => Attempt::Failed(ProposeError::Unanswered(error.to_string())),
            },
            Ok(Err(status)) => forwarding_failed(&status),
            Err(_) => Attempt::Failed(ProposeError::Unanswered("deadline passed".into())),
        }
    }

    /// Resolves once another node is known to lead.
    async fn superseded(&self, leader: u64) {
        let mut status = self.status_watch();
        let other = status.wait_for(|now| now.leader.is_some_and(|now| now != leader));
        if other.await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// A cluster that is only being founded has no older builds to agree with.
fn version_in_force(state: &State) -> u32 {
    match state.cluster() {
        Some(_) => state.cluster_version(),
        None => CLUSTER_VERSION,
    }
}

/// Begins the text of a refusal for want of space, between nodes too.
const DISK_LOW: &str = "disk-low";
/// The same leader is asked again after this: it may have lacked its quorum for a moment.
const RETRY_SAME_LEADER: Duration = Duration::from_millis(20);
/// Bound of a forwarded proposal at the leader; the forwarder's own deadline may be shorter.
const FORWARDED_LIMIT: Duration = Duration::from_secs(5);
/// Words of a dial that failed; a container that is gone has taken its name along.
const NEVER_SENT: [&str; 2] = [TCP_CONNECT_ERROR, "dns error"];

fn refused(error: &RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> Attempt {
    match error {
        // Refused before it was appended.
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => Attempt::Elsewhere,
        RaftError::APIError(other) => Attempt::Failed(ProposeError::Unanswered(other.to_string())),
        RaftError::Fatal(_) => Attempt::Failed(ProposeError::Stopped),
    }
}

fn forwarding_failed(status: &Status) -> Attempt {
    match status.code() {
        Code::FailedPrecondition | Code::PermissionDenied => Attempt::Elsewhere,
        Code::InvalidArgument | Code::Aborted => {
            Attempt::Failed(ProposeError::Refused(status.message().to_owned()))
        }
        Code::ResourceExhausted if status.message().starts_with(DISK_LOW) => {
            let text = status.message().trim_start_matches(DISK_LOW);
            let text = text.trim_start_matches(": ").to_owned();
            Attempt::Failed(ProposeError::DiskLow(text))
        }
        Code::ResourceExhausted => Attempt::Failed(ProposeError::Overloaded),
        Code::Unavailable
            if NEVER_SENT
                .iter()
                .any(|text| status.message().contains(text)) =>
        {
            Attempt::Elsewhere
        }
        _ => Attempt::Failed(ProposeError::Unanswered(status.to_string())),
    }
}
