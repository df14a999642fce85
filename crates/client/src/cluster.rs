//! The cluster itself.

use nihilo_wire::cluster as pb;
use pb::cluster_service_client::ClusterServiceClient;

use crate::call::{Client, unary};
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
}
