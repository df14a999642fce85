//! Revision: the immutable snapshot of a template.

use serde::{Deserialize, Serialize};

use crate::condition::Conditions;
use crate::id::ObjectKey;
use crate::meta::{ObjectMeta, is_zero, keys};
use crate::service::is_default;
use crate::template::RevisionSpec;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Revision {
    pub api_version: String,
    pub kind: String,
    pub metadata: ObjectMeta,
    pub spec: RevisionSpec,
    #[serde(default, skip_serializing_if = "is_default")]
    pub status: RevisionStatus,
}

impl Revision {
    /// The Service (or bare Configuration) this revision belongs to; decides its shard.
    pub fn root(&self) -> ObjectKey {
        let root = self
            .metadata
            .label(keys::SERVICE)
            .or_else(|| self.metadata.label(keys::CONFIGURATION))
            .unwrap_or(&self.metadata.name);
        ObjectKey::new(self.metadata.namespace.as_str(), root)
    }

    pub fn configuration_generation(&self) -> u64 {
        self.metadata
            .label(keys::CONFIGURATION_GENERATION)
            .and_then(|text| text.parse().ok())
            .unwrap_or(0)
    }

    /// Its last instance is frozen and not stopped, as long as something is routed to it
    /// (`nihilo.dev/idle`).
    pub fn idles_frozen(&self) -> bool {
        let is_asked = self.metadata.annotation(keys::IDLE) == Some(keys::IDLE_FREEZE);
        is_asked && self.routing_state() == RoutingState::Active
    }

    pub fn routing_state(&self) -> RoutingState {
        match self.metadata.label(keys::ROUTING_STATE) {
            Some("active") => RoutingState::Active,
            Some("reserve") => RoutingState::Reserve,
            _ => RoutingState::Pending,
        }
    }
}

/// Whether a Route refers to the revision (01-objects §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RoutingState {
    Active,
    Reserve,
    Pending,
}

impl RoutingState {
    pub fn as_str(self) -> &'static str {
        match self {
            RoutingState::Active => "active",
            RoutingState::Reserve => "reserve",
            RoutingState::Pending => "pending",
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevisionStatus {
    #[serde(default, skip_serializing_if = "is_zero")]
    pub observed_generation: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub conditions: Conditions,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actual_replicas: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_replicas: Option<u32>,
}
