//! A planned move: the old owner hands on what it has seen, so that the new one decides as it
//! would have (04-autoscaler §8). A saving, never a need.

use nihilo_scale::decider::Decider;
use nihilo_scale::fast::FastFloor;
use nihilo_scale::window::Window;
use nihilo_types::id::ObjectKey;
use serde::{Deserialize, Serialize};

use super::AutoscalerActor;
use crate::decision::Takeover;

/// One revision's windows and decider, with times of the clock of the owner that sends it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Handover {
    pub revision: ObjectKey,
    /// The life that all of this is about.
    pub uid: String,
    /// The sender's clock when it stopped.
    pub at_ms: u64,
    closed_second: u64,
    stable: Window,
    panic: Window,
    decider: Decider,
    floor: FastFloor,
    want: i32,
    active_since_ms: u64,
    proxy_since_ms: u64,
    boot_ms: f64,
}

impl AutoscalerActor {
    /// What the next owner should know; `None` when there is nothing worth it.
    pub fn hand_over(&self, now_ms: u64) -> Option<Handover> {
        (self.has_decided && self.want > 0).then(|| Handover {
            revision: self.key.clone(),
            uid: self.uid.to_string(),
            at_ms: now_ms,
            closed_second: self.closed_second,
            stable: self.stable.clone(),
            panic: self.panic.clone(),
            decider: self.decider.clone(),
            floor: self.floor,
            want: self.want,
            active_since_ms: self.active.since_ms,
            proxy_since_ms: self.proxy_since_ms,
            boot_ms: self.boot_ms,
        })
    }

    /// Takes the place of the state that was resumed without it, unless this owner has seen
    /// seconds of its own meanwhile.
    pub(super) fn take_over(&mut self, old: &Handover, now_ms: u64) {
        let fits = old.uid == *self.uid
            && old.stable.seconds() == self.settings.stable_seconds()
            && old.panic.seconds() == self.settings.panic_seconds();
        if !fits || !self.stable.is_empty(self.closed_second) {
            return;
        }
        let by_ms = now_ms.cast_signed().wrapping_sub(old.at_ms.cast_signed());
        // Whole seconds, so that the newest second here follows the newest there.
        let by_seconds = (by_ms as f64 / 1e3).round() as i64;
        (self.stable, self.panic) = (old.stable.clone(), old.panic.clone());
        self.stable.shift(by_seconds);
        self.panic.shift(by_seconds);
        self.stable.aggregate_by(self.settings.aggregation);
        self.panic.aggregate_by(self.settings.aggregation);
        self.decider = old.decider.clone();
        self.decider.shift(by_ms);
        self.floor = old.floor;
        self.floor.shift(by_ms);
        let shifted = |at: u64| at.saturating_add_signed(by_ms).min(now_ms);
        self.active.since_ms = shifted(old.active_since_ms);
        self.proxy_since_ms = shifted(old.proxy_since_ms);
        self.boot_ms = old.boot_ms;
        self.closed_second = old.closed_second.saturating_add_signed(by_seconds);
        self.takeover = Some(Takeover {
            ready: 0,
            recorded: old.want,
            max_panic: self.decider.max_panic(),
            planned: true,
        });
    }
}
