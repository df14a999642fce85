//! The burst reserve: whether requests may pass the activator's line by (04-autoscaler §5, §6.5).
//!
//! Source: knative/serving:pkg/autoscaler/scaling/{autoscaler.go,multiscaler.go},
//! pkg/reconciler/autoscaling/kpa/kpa.go (`computeNumActivators`).

use nihilo_types::autoscaler::DataPath;

use crate::config::RevisionScale;
use crate::decider::{Decision, to_i32};

/// Activators in the path, at the least.
const MIN_ACTIVATORS: i32 = 2;

/// Spare capacity beyond the reserve: what is *ready* times the *total* of each, less the reserve
/// and the *panic* average.
pub fn excess(scale: &RevisionScale, n_ready: u32, panic: f64) -> i32 {
    match scale.target_burst_capacity {
        0.0 => 0,
        unlimited if unlimited < 0.0 => -1,
        reserve => to_i32((f64::from(n_ready) * scale.total - reserve - panic).floor()),
    }
}

/// The same before anything was observed, by the initial scale.
pub fn initial_excess(scale: &RevisionScale) -> i32 {
    match scale.target_burst_capacity {
        0.0 => 0,
        unlimited if unlimited < 0.0 => -1,
        reserve => to_i32((f64::from(scale.initial_scale) * scale.total - reserve).trunc()),
    }
}

/// Straight to an instance only where something is wanted and the reserve is there.
pub fn data_path(want: i32, excess: i32) -> DataPath {
    match want > 0 && excess >= 0 {
        true => DataPath::Serve,
        false => DataPath::Proxy,
    }
}

/// Activators that should be in the path.
pub fn activators(scale: &RevisionScale, n_ready: u32) -> i32 {
    let reserve = scale.target_burst_capacity;
    if reserve == 0.0 {
        return MIN_ACTIVATORS;
    }
    let capacity = f64::from(n_ready) * scale.total + reserve.max(0.0);
    to_i32((capacity / scale.activator_capacity).ceil()).max(MIN_ACTIVATORS)
}

/// What subscribers were last told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// −1 = nothing decided yet.
    pub desired: i32,
    pub excess_burst: i32,
}

impl Told {
    pub fn at_creation(scale: &RevisionScale) -> Self {
        Self {
            desired: -1,
            excess_burst: initial_excess(scale),
        }
    }

    /// Takes a decision; whether subscribers must hear of it: the number or the *sign* of the
    /// excess has changed, where 0 counts as positive.
    pub fn tell(&mut self, decision: &Decision) -> bool {
        let before = *self;
        *self = Self {
            desired: decision.desired,
            excess_burst: decision.excess_burst,
        };
        before.desired != self.desired || (before.excess_burst < 0) != (self.excess_burst < 0)
    }
}
