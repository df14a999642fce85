//! The fast floor: a burst is answered before a window has seen it (04-autoscaler §7.2).

use serde::{Deserialize, Serialize};

use crate::config::RevisionScale;
use crate::decider::to_i32;

/// Requests of a revision at a demand edge, over all gateways, and what can take them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Burst {
    /// Queued ones included.
    pub in_flight: u64,
    pub queued: u64,
    pub n_ready: u32,
    /// Places that the ready instances have together; `None` = they take any number.
    pub slots: Option<u64>,
    /// How long an instance is busy with one request, on average.
    pub service_ms: f64,
    /// From a start to its first request, on average.
    pub boot_ms: f64,
}

/// What the edge asks for, between 0 and the rate.
pub fn needed(scale: &RevisionScale, burst: &Burst) -> i32 {
    let up = to_i32((scale.max_scale_up_rate * f64::from(burst.n_ready.max(1))).ceil());
    let needed = to_i32((burst.in_flight as f64 / scale.concurrency_target).ceil());
    let needed = needed.max(i32::from(burst.in_flight > 0));
    match scale.activation_scale > 1 && needed > 0 {
        true => needed.max(scale.activation_scale).min(up),
        false => needed.min(up),
    }
}

/// Whether an instance that is started now comes in time: nothing else can drain the queue, or
/// the queue lasts at least as long as a start.
pub fn counts(burst: &Burst) -> bool {
    match burst.slots {
        _ if burst.n_ready == 0 => true,
        Some(0) => true,
        Some(slots) => burst.queued as f64 * burst.service_ms / slots as f64 >= burst.boot_ms,
        None => false,
    }
}

/// What a demand edge asks for until the windows carry it on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FastFloor {
    value: i32,
    until_ms: u64,
}

impl FastFloor {
    /// Takes a demand edge. One that is not lower replaces the floor and restarts its hold of one
    /// panic window.
    pub fn demand(&mut self, scale: &RevisionScale, now_ms: u64, burst: &Burst) {
        if !counts(burst) {
            return;
        }
        let value = needed(scale, burst);
        if value >= self.at(now_ms) {
            *self = Self {
                value,
                until_ms: now_ms + scale.panic_window_ms,
            };
        }
    }

    /// The floor now; 0 = none.
    pub fn at(&self, now_ms: u64) -> i32 {
        if now_ms < self.until_ms {
            self.value
        } else {
            0
        }
    }

    /// When it ends, if it stands.
    pub fn ends_at_ms(&self, now_ms: u64) -> Option<u64> {
        (self.at(now_ms) > 0).then_some(self.until_ms)
    }

    /// Moves its end by the difference of two clocks.
    pub fn shift(&mut self, by_ms: i64) {
        self.until_ms = self.until_ms.saturating_add_signed(by_ms);
    }
}
