//! Endpoints: where a revision's instances can be reached, as owners tell gateways.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::autoscaler::DataPath;
use crate::id::{Epoch, InstanceId, NodeId, ObjectKey, SessionId};
use crate::instance::Waking;
use crate::service::is_default;

/// All routable instances of one revision, versioned by (epoch, seq): a lower version is ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointTable {
    pub revision: ObjectKey,
    pub revision_uid: Arc<str>,
    pub epoch: Epoch,
    pub seq: u64,
    pub data_path: DataPath,
    pub instances: Vec<Endpoint>,
    /// Why the last start failed, shown to waiting clients; empty while nothing failed.
    pub last_failure: String,
}

/// One instance that may be given requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub id: InstanceId,
    pub node: NodeId,
    /// Session of the node that runs it: an applied `NodeDown` ends all its endpoints.
    pub session: SessionId,
    /// `host:port` of the home node's peer listener (mesh); its gateway dials the instance.
    pub peer_address: Arc<str>,
    pub container_concurrency: u32,
    /// For requests that waited for it; older owners tell none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub waking: Waking,
}
