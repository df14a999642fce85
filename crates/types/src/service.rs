//! Service: owns one Configuration and one Route of its own name.

use serde::{Deserialize, Serialize};

use crate::condition::Conditions;
use crate::configuration::ConfigurationSpec;
use crate::meta::{ObjectMeta, is_zero, keys};
use crate::route::TrafficTarget;
use crate::template::RevisionTemplate;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Service {
    pub api_version: String,
    pub kind: String,
    pub metadata: ObjectMeta,
    pub spec: ServiceSpec,
    #[serde(default, skip_serializing_if = "is_default")]
    pub status: ServiceStatus,
}

/// `template` (the Configuration's) and `traffic` (the Route's) in one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceSpec {
    pub template: RevisionTemplate,
    /// Empty on input = 100 % to the latest ready revision.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub traffic: Vec<TrafficTarget>,
}

impl Service {
    /// Whether it says anything that builds before cluster version 2 do not know.
    pub fn is_of_version_2(&self) -> bool {
        let annotations = &self.metadata.annotations;
        let is_newer = |key| annotations.contains_key(key);
        keys::OF_VERSION_2.into_iter().any(is_newer) || self.spec.template.is_of_version_2()
    }
}

impl ServiceSpec {
    pub fn configuration_spec(&self) -> ConfigurationSpec {
        ConfigurationSpec {
            template: self.template.clone(),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    #[serde(default, skip_serializing_if = "is_zero")]
    pub observed_generation: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub conditions: Conditions,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub latest_created_revision_name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub latest_ready_revision_name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub url: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub address: Address,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub traffic: Vec<TrafficTarget>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Address {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub url: String,
}

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
