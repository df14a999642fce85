//! The revision template: what an instance runs and how it is limited (01-objects §6).
//!
//! Fields that this version does not honour are absent on purpose: a strict reader then refuses
//! them by name instead of accepting them in silence.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::image::Image;
use crate::meta::keys;
use crate::probe::Probe;
use crate::quantity::Quantity;
use crate::service::is_default;
use crate::sources::{EnvFrom, EnvVarSource, Volume, VolumeMount};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RevisionTemplate {
    #[serde(default, skip_serializing_if = "TemplateMeta::is_empty")]
    pub metadata: TemplateMeta,
    pub spec: RevisionSpec,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TemplateMeta {
    /// Own revision name, with prefix `<service>-`; empty = generated.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl RevisionTemplate {
    /// Whether it says anything that builds before cluster version 2 do not know.
    pub fn is_of_version_2(&self) -> bool {
        let annotations = &self.metadata.annotations;
        let is_newer = |key| annotations.contains_key(key);
        keys::OF_VERSION_2.into_iter().any(is_newer) || self.spec.is_of_version_2()
    }
}

impl TemplateMeta {
    pub fn is_empty(&self) -> bool {
        self.name.is_empty() && self.labels.is_empty() && self.annotations.is_empty()
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RevisionSpec {
    /// Hard limit of requests in flight per instance, 0..=1000; 0 = none. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_concurrency: Option<u32>,
    /// Total seconds of a request from arrival at the gateway, 1..=600. Default 300.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
    /// Seconds until the app's first byte; ≤ `timeout_seconds`. Absent = same as the total.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_start_timeout_seconds: Option<u32>,
    /// Seconds without a byte from the app; 0 or absent = off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout_seconds: Option<u32>,
    #[serde(default)]
    pub containers: Vec<Container>,
    /// What containers mount. Since cluster version 2.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
}

impl RevisionSpec {
    pub const DEFAULT_TIMEOUT_SECONDS: u32 = 300;

    pub fn concurrency_limit(&self) -> u32 {
        self.container_concurrency.unwrap_or(0)
    }

    pub fn timeout(&self) -> u32 {
        match self.timeout_seconds {
            None | Some(0) => Self::DEFAULT_TIMEOUT_SECONDS,
            Some(seconds) => seconds,
        }
    }

    fn is_of_version_2(&self) -> bool {
        let is_newer = |container: &Container| {
            Image::is_container(&container.image)
                || Image::bundle(&container.image).is_some()
                || !is_default(&container.image_pull_policy)
                || !is_default(&container.resources)
                || !is_default(&container.security_context)
                || container.probes().next().is_some()
                || !container.env_from.is_empty()
                || !container.volume_mounts.is_empty()
                || container.env.iter().any(|one| one.value_from.is_some())
        };
        !self.volumes.is_empty() || self.containers.iter().any(is_newer)
    }

    /// The one container (validation refuses any other number).
    pub fn container(&self) -> Option<&Container> {
        self.containers.first()
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Container {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// `demo/NAME` = an app built into the binary; `file:///abs/path` = a program of the node; since
    /// cluster version 2 `bundle/NAME:TAG` = a bundle of the namespace, which a revision names by its
    /// digest, and anything else a container image (06-runtime §7.1): a revision names the bundle of one
    /// that was pushed into its namespace.
    #[serde(default)]
    pub image: String,
    /// When a container image is fetched from its registry. Since cluster version 2.
    #[serde(default, skip_serializing_if = "is_default")]
    pub image_pull_policy: PullPolicy,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ContainerPort>,
    /// Since cluster version 2, as what follows.
    #[serde(default, skip_serializing_if = "is_default")]
    pub resources: Resources,
    #[serde(default, skip_serializing_if = "is_default")]
    pub security_context: SecurityContext,
    /// Absent = ready as soon as something listens on the port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness_probe: Option<Box<Probe>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness_probe: Option<Box<Probe>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup_probe: Option<Box<Probe>>,
    /// Whole Secrets and ConfigMaps as environment; `env` wins over them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_from: Vec<EnvFrom>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volume_mounts: Vec<VolumeMount>,
}

impl Container {
    /// What is written of them.
    pub fn probes(&self) -> impl Iterator<Item = &Probe> {
        let all = [
            &self.readiness_probe,
            &self.liveness_probe,
            &self.startup_probe,
        ];
        all.into_iter().filter_map(|probe| probe.as_deref())
    }
}

/// What an instance may use, and what it is weighed by where others want the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Resources {
    /// Never more than this.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: Amounts,
    /// At most `limits` each. That of cpu is a share under contention; that of memory is only kept.
    #[serde(default, skip_serializing_if = "is_default")]
    pub requests: Amounts,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Amounts {
    /// Cores, such as `500m` or `2`. Absent = no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Quantity>,
    /// Bytes, such as `128Mi`; a limit is at least [`MIN_MEMORY_BYTES`]. Absent = no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
}

/// Less than this holds no program: the start itself would be killed.
pub const MIN_MEMORY_BYTES: u64 = 4 * 1024 * 1024;

/// As whom an instance runs; what a node cannot do fails the start there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecurityContext {
    /// 0..=2147483647. Absent = the node's choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_as_user: Option<u32>,
    /// 0..=2147483647. Absent = the same number as the user's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_as_group: Option<u32>,
}

/// When a container image is fetched from its registry.
///
/// Differs from Knative: a tag is not pinned to a digest when the revision is made, so that `Always`
/// asks the registry at every start, and only who asks for it pays that: `latest` is as other tags.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPolicy {
    /// When the node's engine does not have it. The default.
    #[default]
    IfNotPresent,
    Always,
    Never,
}

impl FromStr for PullPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "IfNotPresent" => Ok(Self::IfNotPresent),
            "Always" => Ok(Self::Always),
            "Never" => Ok(Self::Never),
            _ => Err("must be `IfNotPresent`, `Always` or `Never`".into()),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnvVar {
    pub name: String,
    #[serde(default)]
    pub value: String,
    /// Instead of a value. Since cluster version 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<Box<EnvVarSource>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ContainerPort {
    /// Empty, `http1` or `h2c`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_port: Option<u16>,
    /// Empty or `TCP`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub protocol: String,
}
