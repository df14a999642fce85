//! The maximum over a sliding time (04-autoscaler §4), for the scale-down delay.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Width of a slot: upstream's tick.
const SLOT_MS: u64 = 2_000;

/// Current = the largest value of the last `delay`; O(1) amortised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaxWindow {
    slots: u64,
    /// Slot and value, values falling from front to back.
    entries: VecDeque<(u64, i32)>,
}

impl MaxWindow {
    pub fn new(delay_ms: u64) -> Self {
        Self::with_slots(delay_ms.div_ceil(SLOT_MS))
    }

    /// One of so many slots, at least 1.
    pub fn with_slots(slots: u64) -> Self {
        Self {
            slots: slots.max(1),
            entries: VecDeque::new(),
        }
    }

    /// Records a value and returns the maximum.
    pub fn record(&mut self, now_ms: u64, value: i32) -> i32 {
        self.record_slot(now_ms / SLOT_MS, value)
    }

    /// Moves the slots by the difference of two clocks.
    pub fn shift(&mut self, by_ms: i64) {
        let by_slots = by_ms.div_euclid(SLOT_MS.cast_signed());
        for (slot, _) in &mut self.entries {
            *slot = slot.saturating_add_signed(by_slots);
        }
    }

    /// Records a value in a slot, numbered in the order of time.
    pub fn record_slot(&mut self, slot: u64, value: i32) -> i32 {
        while self.entries.back().is_some_and(|(_, last)| *last <= value) {
            self.entries.pop_back();
        }
        // Several values in one slot: the largest stands, so that entries never outnumber slots.
        if self
            .entries
            .back()
            .is_none_or(|(newest, _)| *newest != slot)
        {
            self.entries.push_back((slot, value));
        }
        while self
            .entries
            .front()
            .is_some_and(|(at, _)| slot - at.min(&slot) >= self.slots)
        {
            self.entries.pop_front();
        }
        self.entries.front().map_or(value, |(_, max)| *max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fall_is_delayed_and_a_rise_is_not() {
        let mut window = MaxWindow::new(10_000);
        assert_eq!(window.record(0, 5), 5);
        assert_eq!(window.record(2_000, 2), 5);
        assert_eq!(window.record(8_000, 3), 5);
        assert_eq!(window.record(10_000, 1), 3);
        assert_eq!(window.record(12_000, 9), 9);
    }
}
