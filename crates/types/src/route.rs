//! Route: host names and weighted traffic to revisions.

use serde::{Deserialize, Serialize};

use crate::condition::Conditions;
use crate::meta::{ObjectMeta, is_zero};
use crate::rollout::Rollout;
use crate::service::{Address, is_default};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Route {
    pub api_version: String,
    pub kind: String,
    pub metadata: ObjectMeta,
    pub spec: RouteSpec,
    #[serde(default, skip_serializing_if = "is_default")]
    pub status: RouteStatus,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteSpec {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub traffic: Vec<TrafficTarget>,
}

/// One share of a route's traffic, or one tag.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrafficTarget {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tag: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub revision_name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub configuration_name: String,
    /// Defaults to "no revision is named".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest_revision: Option<bool>,
    /// 0..=100, absent = 0; the entries of a route sum to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u32>,
    /// Output only.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub url: String,
}

impl TrafficTarget {
    pub fn latest(percent: u32) -> Self {
        Self {
            latest_revision: Some(true),
            percent: Some(percent),
            ..Self::default()
        }
    }

    pub fn revision(name: &str, percent: u32) -> Self {
        Self {
            revision_name: name.into(),
            latest_revision: Some(false),
            percent: Some(percent),
            ..Self::default()
        }
    }

    pub fn is_latest(&self) -> bool {
        self.latest_revision
            .unwrap_or(self.revision_name.is_empty())
    }

    pub fn share(&self) -> u32 {
        self.percent.unwrap_or(0)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteStatus {
    #[serde(default, skip_serializing_if = "is_zero")]
    pub observed_generation: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub conditions: Conditions,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub url: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub address: Address,
    /// The assignment that the route table serves: revisions only, percents summing to 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub traffic: Vec<TrafficTarget>,
    /// Targets whose newest revision does not have its whole share yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rollouts: Vec<Rollout>,
    /// Index of the entry that made `traffic`; the route is ready once every live gateway has
    /// swapped in a table at or above it. 0 = nothing assigned yet.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub assigned_at: u64,
}
