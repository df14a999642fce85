//! Configuration: the template; each change of it makes a Revision.

use serde::{Deserialize, Serialize};

use crate::condition::Conditions;
use crate::meta::{ObjectMeta, is_zero};
use crate::service::is_default;
use crate::template::RevisionTemplate;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Configuration {
    pub api_version: String,
    pub kind: String,
    pub metadata: ObjectMeta,
    pub spec: ConfigurationSpec,
    #[serde(default, skip_serializing_if = "is_default")]
    pub status: ConfigurationStatus,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfigurationSpec {
    pub template: RevisionTemplate,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigurationStatus {
    #[serde(default, skip_serializing_if = "is_zero")]
    pub observed_generation: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub conditions: Conditions,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub latest_created_revision_name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub latest_ready_revision_name: String,
}
