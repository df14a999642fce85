//! The fast floor: a burst is answered before a window has seen it (04-autoscaler §7.2).

/// What a demand edge asks for until the windows carry it on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FastFloor {
    value: i32,
    until_ms: u64,
}

impl FastFloor {
    /// Takes a demand edge: `d` requests in flight over all gateways, queued included. A higher
    /// edge replaces the floor and restarts its hold of one panic window.
    pub fn demand(
        &mut self,
        now_ms: u64,
        d: u64,
        target: f64,
        activation: i32,
        up: i32,
        hold_ms: u64,
    ) {
        let needed = (d as f64 / target).ceil().min(f64::from(i32::MAX)) as i32;
        let needed = if activation > 1 {
            needed.max(activation)
        } else {
            needed
        };
        let value = needed.max(i32::from(d > 0)).min(up);
        if value >= self.at(now_ms) {
            *self = Self {
                value,
                until_ms: now_ms + hold_ms,
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_holds_for_a_panic_window_and_a_lower_one_does_not_cut_it() {
        let mut floor = FastFloor::default();
        floor.demand(1_000, 200, 10.0, 0, 1_000, 6_000);
        assert_eq!(floor.at(1_000), 20);
        floor.demand(2_000, 5, 10.0, 0, 1_000, 6_000);
        assert_eq!(floor.at(6_999), 20);
        assert_eq!(floor.at(7_000), 0);
    }

    #[test]
    fn one_waiting_request_wants_at_least_the_activation_scale() {
        let mut floor = FastFloor::default();
        floor.demand(0, 1, 100.0, 3, 1_000, 6_000);
        assert_eq!(floor.at(0), 3);
    }
}
