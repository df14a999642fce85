//! The cluster itself.

use std::time::Duration;

use nihilo_types::join_token::{self, ID_BYTES, JoinToken, SECRET_BYTES};
use nihilo_wire::cluster as pb;
use pb::cluster_service_client::ClusterServiceClient;
use tonic::codegen::Bytes;
use tonic::{Code, Streaming};

use crate::call::{Client, no_server, request_id, unary};
use crate::error::Error;

impl Client {
    /// # Errors
    /// No server answered.
    pub async fn cluster_status(&self) -> Result<pb::StatusResponse, Error> {
        unary!(
            self,
            ClusterServiceClient,
            status,
            pb::StatusRequest { local: false }
        )
    }

    /// What the server that is asked knows about itself.
    ///
    /// # Errors
    /// No server answered.
    pub async fn local_status(&self) -> Result<pb::StatusResponse, Error> {
        unary!(
            self,
            ClusterServiceClient,
            status,
            pb::StatusRequest { local: true }
        )
    }

    /// What each node's state comes to, of those that answer.
    ///
    /// # Errors
    /// No server answered.
    pub async fn digests(&self) -> Result<Vec<pb::NodeDigest>, Error> {
        let request = pb::DigestsRequest { local: false };
        Ok(unary!(self, ClusterServiceClient, digests, request)?.nodes)
    }

    /// # Errors
    /// No server answered.
    pub async fn nodes(&self) -> Result<Vec<pb::NodeStatus>, Error> {
        Ok(unary!(
            self,
            ClusterServiceClient,
            list_nodes,
            pb::ListNodesRequest {}
        )?
        .nodes)
    }

    /// Hands leadership to `to_node`, 0 = to any up-to-date follower; returns the new leader.
    ///
    /// # Errors
    /// The target cannot lead, or no server answered.
    pub async fn transfer_leader(&self, to_node: u64) -> Result<u64, Error> {
        let request = pb::TransferLeaderRequest { to_node };
        Ok(unary!(self, ClusterServiceClient, transfer_leader, request)?.leader)
    }

    /// Everybody who was ever a member.
    ///
    /// # Errors
    /// No server answered.
    pub async fn members(&self) -> Result<pb::ListMembersResponse, Error> {
        let request = pb::ListMembersRequest {};
        unary!(self, ClusterServiceClient, list_members, request)
    }

    /// Makes a permission for one node to join, good for `ttl_ms` (0 = an hour); returns it with
    /// how long it is good.
    ///
    /// # Errors
    /// Too many are open, or no server answered.
    pub async fn create_token(&self, voter: bool, ttl_ms: u64) -> Result<(JoinToken, u64), Error> {
        let (id, secret): ([u8; ID_BYTES], [u8; SECRET_BYTES]) = (rand::random(), rand::random());
        let drawn = JoinToken::new(id, secret, "");
        let request = pb::CreateTokenRequest {
            request_id: request_id(),
            voter,
            ttl_ms,
            id: drawn.id,
            secret_hash: join_token::secret_hash(&drawn.secret),
        };
        let made = unary!(self, ClusterServiceClient, create_token, request)?;
        Ok((JoinToken::new(id, secret, &made.cluster_id), made.ttl_ms))
    }

    /// # Errors
    /// No server answered.
    pub async fn tokens(&self) -> Result<Vec<pb::Token>, Error> {
        let request = pb::ListTokensRequest {};
        Ok(unary!(self, ClusterServiceClient, list_tokens, request)?.tokens)
    }

    /// # Errors
    /// No server answered.
    pub async fn revoke_token(&self, id: &str) -> Result<(), Error> {
        let request = pb::RevokeTokenRequest {
            id: id.into(),
            request_id: request_id(),
        };
        unary!(self, ClusterServiceClient, revoke_token, request).map(drop)
    }

    /// Uses a join token up: this node, which listens at `peer` and `admin`, gets its id.
    ///
    /// The secret is sent only to a server that has proved to know its hash.
    ///
    /// # Errors
    /// The server is of another cluster, the token is not good any more, the name or address is
    /// taken, or no server answered.
    pub async fn join(
        &self,
        token: &JoinToken,
        name: &str,
        peer: &str,
        admin: &str,
    ) -> Result<pb::JoinNodeResponse, Error> {
        let nonce: [u8; 16] = rand::random();
        let greeting = pb::GreetRequest {
            token_id: token.id.clone(),
            nonce: nonce.to_vec().into(),
        };
        let (greeted, proven) = self.greet(&greeting).await?;
        let hash = join_token::secret_hash(&token.secret);
        let proof = join_token::proof(&hash, &nonce, &greeted.cluster_id);
        if !token.is_for(&greeted.cluster_id) || greeted.proof != proof.as_slice() {
            return Err(Error::new(
                Code::PermissionDenied,
                "STRANGER",
                "the server does not belong to the cluster that made this token; the secret was \
                 not sent to it",
            ));
        }
        let request = pb::JoinNodeRequest {
            token_id: token.id.clone(),
            secret: token.secret.clone(),
            request_id: request_id(),
            name: name.into(),
            peer: peer.into(),
            admin: admin.into(),
        };
        unary!(proven, ClusterServiceClient, join_node, request)
    }

    /// The greeting's answer, and a client of the server alone that gave it.
    async fn greet(&self, greeting: &pb::GreetRequest) -> Result<(pb::GreetResponse, Self), Error> {
        let mut last = None;
        for one in self.each() {
            match unary!(one, ClusterServiceClient, greet, greeting.clone()) {
                Ok(greeted) => return Ok((greeted, one)),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(no_server))
    }

    /// Makes a learner a voter, as soon as it has caught up.
    ///
    /// # Errors
    /// No such node, or no server answered.
    pub async fn promote(&self, node: u64) -> Result<u64, Error> {
        let request = pb::PromoteNodeRequest {
            node,
            request_id: request_id(),
        };
        Ok(unary!(self, ClusterServiceClient, promote_node, request)?.index)
    }

    /// Takes a node out for good.
    ///
    /// # Errors
    /// No such node, the rest could not decide without it, or no server answered.
    pub async fn remove(&self, node: u64) -> Result<u64, Error> {
        let request = pb::RemoveNodeRequest {
            node,
            request_id: request_id(),
            only_check: false,
        };
        Ok(unary!(self, ClusterServiceClient, remove_node, request)?.index)
    }

    /// Whether a node could be taken out now; nothing is changed.
    ///
    /// # Errors
    /// It could not, as [`Self::remove`] says it, or no server answered.
    pub async fn check_removal(&self, node: u64) -> Result<(), Error> {
        let request = pb::RemoveNodeRequest {
            node,
            request_id: String::new(),
            only_check: true,
        };
        unary!(self, ClusterServiceClient, remove_node, request).map(drop)
    }

    /// No new instance is placed on the node; what runs there stays.
    ///
    /// # Errors
    /// No such node, or no server answered.
    pub async fn cordon(&self, node: u64) -> Result<u64, Error> {
        let request = pb::CordonNodeRequest {
            node,
            request_id: request_id(),
        };
        Ok(unary!(self, ClusterServiceClient, cordon_node, request)?.index)
    }

    /// Begins to move everything away from the node; [`Self::describe_node`] shows how far it is.
    ///
    /// # Errors
    /// No such node, or no server answered.
    pub async fn drain(&self, node: u64) -> Result<u64, Error> {
        let request = pb::DrainNodeRequest {
            node,
            request_id: request_id(),
        };
        Ok(unary!(self, ClusterServiceClient, drain_node, request)?.index)
    }

    /// The node is given all work again.
    ///
    /// # Errors
    /// No such node, or no server answered.
    pub async fn uncordon(&self, node: u64) -> Result<u64, Error> {
        let request = pb::UncordonNodeRequest {
            node,
            request_id: request_id(),
        };
        Ok(unary!(self, ClusterServiceClient, uncordon_node, request)?.index)
    }

    /// Has a node replace its program in place; returns once it has begun to: within what time it answers
    /// what is under way first, or zero where it does not say.
    ///
    /// # Errors
    /// It does not, and goes on as it is; or no server answered.
    pub async fn restart_node(&self, node: u64) -> Result<Duration, Error> {
        let request = pb::RestartNodeRequest { node };
        let answer = unary!(self, ClusterServiceClient, restart_node, request)?;
        Ok(Duration::from_millis(answer.answers_within_ms))
    }

    /// A node with what it runs, and what keeps that there while the node is drained.
    ///
    /// # Errors
    /// No such node, or no server answered.
    pub async fn describe_node(&self, node: u64) -> Result<pb::DescribeNodeResponse, Error> {
        let request = pb::DescribeNodeRequest { node };
        unary!(self, ClusterServiceClient, describe_node, request)
    }

    /// Raises the cluster version to what every node knows; returns the one in force then.
    ///
    /// # Errors
    /// A node runs an older build, or no server answered.
    pub async fn finalize_version(&self) -> Result<u32, Error> {
        let request = pb::FinalizeVersionRequest {
            request_id: request_id(),
        };
        let answer = unary!(self, ClusterServiceClient, finalize_version, request)?;
        Ok(answer.cluster_version)
    }

    /// The whole state as a dump file in pieces, in order; only its reader can tell whether it is
    /// whole.
    ///
    /// # Errors
    /// No server answered.
    pub async fn backup(&self) -> Result<BackupStream, Error> {
        let stream = self
            .call(|channel| async move {
                ClusterServiceClient::new(channel)
                    .backup(pb::BackupRequest {})
                    .await
            })
            .await?;
        Ok(BackupStream {
            stream,
            server: self.address(self.current()).to_owned(),
        })
    }
}

/// Pieces of one backup.
#[derive(Debug)]
pub struct BackupStream {
    stream: Streaming<pb::BackupChunk>,
    server: String,
}

impl BackupStream {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// The stream broke: what has come is of no use.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let piece = self.stream.message().await;
        piece
            .map(|piece| piece.map(|piece| piece.data))
            .map_err(|status| Error::from_status(&status, &self.server))
    }
}
