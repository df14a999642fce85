//! Keep-alives of other nodes, answered while this node leads.

use std::sync::Arc;

use nihilo_control::Control;
use nihilo_raft::{RaftNode, StateDigest, removed_text};
use nihilo_types::id::NodeId;
use nihilo_wire::internal as pb;
use tonic::{Request, Response, Status};

use super::convert;

#[derive(Debug)]
pub struct LivenessService {
    pub control: Control,
    pub raft: RaftNode,
    pub node: NodeId,
    pub cluster_id: Arc<str>,
}

#[tonic::async_trait]
impl pb::liveness_server::Liveness for LivenessService {
    async fn keep_alive(
        &self,
        request: Request<pb::KeepAliveRequest>,
    ) -> Result<Response<pb::KeepAliveResponse>, Status> {
        let request = request.into_inner();
        if request.cluster_id != *self.cluster_id {
            let text = format!("cluster-replaced: this is cluster {}", self.cluster_id);
            return Err(Status::permission_denied(text));
        }
        let from = NodeId(request.node);
        if let Some(at) = self.raft.state().read(|state| state.removed_at(from)) {
            return Err(Status::permission_denied(removed_text(from, at)));
        }
        let message = convert::keep_alive_from(&request);
        let answer = self
            .control
            .keep_alive_from_peer(&message)
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let digest = (request.digest_at != 0).then_some(StateDigest {
            at: request.digest_at,
            digest: request.digest,
        });
        let board = self.raft.board();
        let diverged_at = board.hear(request.node, request.version, digest);
        Ok(Response::new(pb::KeepAliveResponse {
            diverged_at: diverged_at.unwrap_or(0),
            ..convert::answer_to(answer, self.node)
        }))
    }
}
