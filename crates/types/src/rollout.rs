//! A gradual rollout as it stands: shares of one latest target's revisions (01-objects §8).

use serde::{Deserialize, Serialize};

use crate::service::is_default;

/// One (tag, target) whose newest revision does not have its whole share yet. Times are
/// nanoseconds of LogTime.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tag: String,
    /// Toward a named revision, by `nihilo traffic ramp`, and not toward the latest one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ramp: bool,
    /// Share of all of its revisions together.
    pub percent: u32,
    /// Oldest first; the shares sum to `percent`.
    pub revisions: Vec<RevisionShare>,
    /// When the newest revision came.
    pub start_ns: u64,
    /// 0 = the steps are not known before every gateway serves the first one.
    pub next_step_ns: u64,
    pub step_duration_ns: u64,
    pub step_size: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevisionShare {
    pub revision: String,
    pub percent: u32,
}
