//! The metadata that all objects share (Kubernetes' `ObjectMeta`, the part we honour).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{LogIndex, ObjectKey};

pub const API_VERSION: &str = "serving.knative.dev/v1";
pub const DEFAULT_NAMESPACE: &str = "default";

/// Label and annotation keys that the system sets (01-objects §12).
pub mod keys {
    pub const SERVICE: &str = "serving.knative.dev/service";
    pub const SERVICE_UID: &str = "serving.knative.dev/serviceUID";
    pub const CONFIGURATION: &str = "serving.knative.dev/configuration";
    pub const CONFIGURATION_UID: &str = "serving.knative.dev/configurationUID";
    pub const CONFIGURATION_GENERATION: &str = "serving.knative.dev/configurationGeneration";
    pub const ROUTING_STATE: &str = "serving.knative.dev/routingState";
    pub const ROUTING_STATE_MODIFIED: &str = "serving.knative.dev/routingStateModified";
    pub const NO_GC: &str = "serving.knative.dev/no-gc";
    pub const ROLLOUT_DURATION: &str = "serving.knative.dev/rollout-duration";
    /// Upstream's older spelling.
    pub const ROLLOUT_DURATION_OLD: &str = "serving.knative.dev/rolloutDuration";
    /// Names the revision that `nihilo traffic ramp` moves traffic to by steps.
    pub const RAMP: &str = "nihilo.dev/ramp";
    pub const ROUTES: &str = "serving.knative.dev/routes";
    pub const CREATOR: &str = "serving.knative.dev/creator";
    pub const LAST_MODIFIER: &str = "serving.knative.dev/lastModifier";
    pub const PROGRESS_DEADLINE: &str = "serving.knative.dev/progress-deadline";
    pub const AUTOSCALING_PREFIX: &str = "autoscaling.knative.dev/";
    pub const SERVING_PREFIX: &str = "serving.knative.dev/";
    /// Label: who may use a Service's or Route's hosts.
    pub const VISIBILITY: &str = "networking.knative.dev/visibility";
    pub const CLUSTER_LOCAL: &str = "cluster-local";
    /// Requests of a revision that may wait at one gateway.
    pub const QUEUE_DEPTH: &str = "nihilo.dev/queue-depth";
    /// `true`: instances are handed a socket that listens already (`LISTEN_FDS`).
    pub const SOCKET_ACTIVATION: &str = "nihilo.dev/socket-activation";
    /// `landlock` or `full`: no node runs it with less.
    pub const MIN_ISOLATION: &str = "nihilo.dev/min-isolation";
    /// Paths by which others ask how a service is, without waking it.
    pub const PROBE_PATHS: &str = "nihilo.dev/probe-paths";
    /// What becomes of the last instance of a revision that goes to zero: `stop`, or `freeze`.
    pub const IDLE: &str = "nihilo.dev/idle";
    pub const IDLE_STOP: &str = "stop";
    pub const IDLE_FREEZE: &str = "freeze";
    /// Builds before cluster version 2 do not know them.
    pub const OF_VERSION_2: [&str; 4] = [PROBE_PATHS, SOCKET_ACTIVATION, MIN_ISOLATION, IDLE];
    pub const OURS_PREFIX: &str = "nihilo.dev/";
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ObjectMeta {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The [`LogIndex`] of the last change, as a decimal string; empty on input = unconditional.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    /// Starts at 1, grows by 1 when `spec` changed after defaulting.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub generation: u64,
    /// RFC 3339, whole seconds, from the entry's wall clock.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub creation_timestamp: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owner_references: Vec<OwnerReference>,
}

impl ObjectMeta {
    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(self.namespace.as_str(), self.name.as_str())
    }

    /// The version as a number; 0 when absent or not a number.
    pub fn version(&self) -> LogIndex {
        LogIndex(self.resource_version.parse().unwrap_or(0))
    }

    pub fn set_version(&mut self, index: LogIndex) {
        self.resource_version = index.to_string();
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }

    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OwnerReference {
    pub api_version: String,
    pub kind: String,
    pub name: String,
    pub uid: String,
    #[serde(default)]
    pub controller: bool,
    #[serde(default)]
    pub block_owner_deletion: bool,
}

pub(crate) fn is_zero(number: &u64) -> bool {
    *number == 0
}
