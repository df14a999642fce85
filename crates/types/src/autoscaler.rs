//! What an Autoscaler leaves in the log for its next owner (04-autoscaler §8).

use serde::{Deserialize, Serialize};

use crate::condition::ConditionStatus;

/// Whether requests pass the activator's line first, or go straight to an instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DataPath {
    #[default]
    Proxy,
    Serve,
}

/// Recorded after acting, coalesced; a hint for the next owner, never a permission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScaleRecord {
    /// Instances wanted; −1 = never decided.
    pub desired: i32,
    pub ready: u32,
    pub data_path: DataPath,
    pub active: ConditionStatus,
    pub active_reason: String,
    /// LogTime in milliseconds of the last change of `active`; set by the state machine.
    pub active_since_ms: u64,
    /// True for ever once ready reached the initial scale.
    pub initialized: bool,
}

impl Default for ScaleRecord {
    fn default() -> Self {
        Self {
            desired: -1,
            ready: 0,
            data_path: DataPath::Proxy,
            active: ConditionStatus::Unknown,
            active_reason: String::new(),
            active_since_ms: 0,
            initialized: false,
        }
    }
}
