//! Linearizable reads on any node: the leader's ReadIndex, then this node's own apply.

use std::time::Duration;

use nihilo_failpoint::{Bug, planted};
use nihilo_types::id::LogIndex;
use nihilo_wire::internal as pb;
use openraft::ReadPolicy;
use tokio::time::Instant;

use crate::node::RaftNode;

/// Why a read is not linearizable now.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    #[error("no leader with a quorum was reached in time")]
    NoLeader,
    #[error("the store of this node has failed")]
    Stopped,
    #[error("this node has not applied index {index} in time")]
    Behind { index: LogIndex },
}

/// The leader is asked again after this, unless leadership changes first.
const RETRY: Duration = Duration::from_millis(20);

impl RaftNode {
    /// Returns once this node's state is at least as new as every write acknowledged before the
    /// call, with the index that proves it.
    ///
    /// # Errors
    /// No leader, or this node stays behind, within `limit`; at once when its store has failed.
    pub async fn read_index(&self, limit: Duration) -> Result<LogIndex, ReadError> {
        if planted(Bug::ReadWithoutQuorum) {
            return Ok(*self.applied().borrow());
        }
        let deadline = Instant::now() + limit;
        let mut status = self.status_watch();
        let index = loop {
            if self.has_failed() {
                return Err(ReadError::Stopped);
            }
            let leader = status.borrow_and_update().leader;
            if let Some(index) = self.ask_read_index(leader, deadline).await {
                break LogIndex(index);
            }
            let changed = status.wait_for(|now| now.leader != leader);
            let retry = tokio::time::timeout(RETRY, changed);
            match tokio::time::timeout_at(deadline, retry).await {
                // Raft has ended: nothing changes any more.
                Ok(Ok(Err(_))) => return Err(ReadError::Stopped),
                Ok(_) => {}
                Err(_) => return Err(ReadError::NoLeader),
            }
        };
        let mut applied = self.applied();
        let reached = applied.wait_for(|at| *at >= index);
        match tokio::time::timeout_at(deadline, reached).await {
            Ok(Ok(_)) => Ok(index),
            Ok(Err(_)) | Err(_) => Err(ReadError::Behind { index }),
        }
    }

    async fn ask_read_index(&self, leader: Option<u64>, deadline: Instant) -> Option<u64> {
        let leader = leader?;
        if leader == self.identity().node_id {
            return self.leader_read_index().await.ok();
        }
        let mut client = self.peer_client(leader)?;
        let request = pb::ReadIndexRequest {
            identity: Some(self.identity_to(leader)),
        };
        let answer = tokio::time::timeout_at(deadline, client.read_index(request)).await;
        Some(answer.ok()?.ok()?.into_inner().index)
    }

    /// Confirms leadership with a quorum; never by lease.
    pub(crate) async fn leader_read_index(&self) -> Result<u64, String> {
        if nihilo_host::planted::is_on(nihilo_host::planted::READ_WITHOUT_QUORUM) {
            return Ok(self.applied().borrow().0);
        }
        let linearizer = self
            .raft()
            .get_read_linearizer(ReadPolicy::ReadIndex)
            .await
            .map_err(|error| error.to_string())?;
        Ok(linearizer.read_log_id().index())
    }
}
