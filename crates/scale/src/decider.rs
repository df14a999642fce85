//! The decision (04-autoscaler §5), step by step as upstream takes it.
//!
//! Source: knative/serving:pkg/autoscaler/scaling/autoscaler.go (`Scale`).

use crate::config::RevisionScale;
use crate::max_window::MaxWindow;

/// What a decider remembers between decisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decider {
    panic_since_ms: Option<u64>,
    max_panic: i32,
    delay: Option<MaxWindow>,
}

/// What it looks at. Concurrency (or requests per second) in whole and broken units.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observed {
    pub now_ms: u64,
    /// Averages over the stable and the panic window.
    pub stable: f64,
    pub panic: f64,
    pub n_ready: u32,
    /// False only when the revision is certainly not routed to.
    pub reachable: bool,
}

/// What it decides, with the numbers on the way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decision {
    pub desired: i32,
    /// Excess burst capacity; negative = the burst reserve is not there.
    pub excess_burst: f64,
    pub stable_need: i32,
    pub panic_need: i32,
    pub over: bool,
    pub in_panic: bool,
}

impl Decider {
    /// A decider without history and with more than one ready instance begins in panic, so that it
    /// never scales down first.
    pub fn new(scale: &RevisionScale, now_ms: u64, n_ready: u32) -> Self {
        let ready = to_i32(f64::from(n_ready));
        Self {
            panic_since_ms: (ready > 1).then_some(now_ms),
            max_panic: ready,
            delay: delay_of(scale),
        }
    }

    /// Begins in panic at what the dead owner last wanted or what is ready, whichever is more
    /// (04-autoscaler §8): nothing falls while the windows refill.
    pub fn resume(scale: &RevisionScale, now_ms: u64, n_ready: u32, recorded: i32) -> Self {
        let held = to_i32(f64::from(n_ready)).max(recorded);
        let mut delay = delay_of(scale);
        if let Some(delay) = &mut delay {
            delay.record(now_ms, held);
        }
        Self {
            panic_since_ms: (held > 0).then_some(now_ms),
            max_panic: held.max(0),
            delay,
        }
    }

    pub fn reconfigure(&mut self, old: &RevisionScale, new: &RevisionScale) {
        if old.scale_down_delay_ms != new.scale_down_delay_ms {
            self.delay = delay_of(new);
        }
    }

    pub fn in_panic(&self) -> bool {
        self.panic_since_ms.is_some()
    }

    pub fn decide(&mut self, scale: &RevisionScale, observed: Observed) -> Decision {
        let ready = f64::from(observed.n_ready.max(1));
        let up = to_i32((scale.max_scale_up_rate * ready).ceil());
        let down = match observed.reachable {
            true => to_i32((ready / scale.max_scale_down_rate).floor()),
            false => 0,
        };
        let stable_need = to_i32((observed.stable / scale.target).ceil());
        let panic_need = to_i32((observed.panic / scale.target).ceil());
        let clamp = |need: i32| need.max(down).min(up);
        // After the clamp: the activation scale may exceed the rate.
        let activate = |need: i32, clamped: i32| match need > 0 {
            true => clamped.max(scale.activation_scale),
            false => clamped,
        };
        let stable = activate(stable_need, clamp(stable_need));
        let panic = activate(panic_need, clamp(panic_need));

        let over = f64::from(panic_need) / ready >= scale.panic_threshold;
        self.move_panic(scale, observed.now_ms, over);
        let mut desired = stable;
        if self.in_panic() {
            self.max_panic = self.max_panic.max(stable.max(panic));
            desired = self.max_panic;
        }
        if let Some(delay) = self.delay.as_mut().filter(|_| observed.reachable) {
            desired = delay.record(observed.now_ms, desired);
        }
        Decision {
            desired,
            excess_burst: excess_burst(scale, observed),
            stable_need,
            panic_need,
            over,
            in_panic: self.in_panic(),
        }
    }

    // Stable => Panic when over; Panic => Panic (extended) while over; Panic => Stable after a
    // whole stable window without.
    fn move_panic(&mut self, scale: &RevisionScale, now_ms: u64, over: bool) {
        if over {
            self.panic_since_ms = Some(now_ms);
        } else if self
            .panic_since_ms
            .is_some_and(|since| since + scale.stable_window_ms < now_ms)
        {
            self.panic_since_ms = None;
            self.max_panic = 0;
        }
    }
}

fn delay_of(scale: &RevisionScale) -> Option<MaxWindow> {
    (scale.scale_down_delay_ms > 0).then(|| MaxWindow::new(scale.scale_down_delay_ms))
}

fn excess_burst(scale: &RevisionScale, observed: Observed) -> f64 {
    match scale.target_burst_capacity {
        0.0 => 0.0,
        unlimited if unlimited < 0.0 => -1.0,
        reserve => (f64::from(observed.n_ready) * scale.total - reserve - observed.panic).floor(),
    }
}

/// Floats to integers saturate.
fn to_i32(number: f64) -> i32 {
    number.clamp(f64::from(i32::MIN), f64::from(i32::MAX)) as i32
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::ScaleConfig;

    fn scale(annotations: &[(&str, &str)], container_concurrency: u32) -> RevisionScale {
        let annotations: BTreeMap<_, _> = annotations
            .iter()
            .map(|(key, value)| (format!("autoscaling.knative.dev/{key}"), value.to_string()))
            .collect();
        RevisionScale::resolve(&annotations, container_concurrency, &ScaleConfig::default())
    }

    fn observe(now_ms: u64, stable: f64, panic: f64, n_ready: u32) -> Observed {
        Observed {
            now_ms,
            stable,
            panic,
            n_ready,
            reachable: true,
        }
    }

    #[test]
    fn the_worked_example_panics_and_holds() {
        let scale = scale(&[], 20);
        assert_eq!((scale.total, scale.target), (20.0, 14.0));
        let mut decider = Decider::new(&scale, 0, 1);
        let first = decider.decide(&scale, observe(0, 90.0, 260.0, 4));
        assert_eq!((first.stable_need, first.panic_need), (7, 19));
        assert!(first.over);
        assert_eq!((first.desired, first.excess_burst), (19, -391.0));
        let later = decider.decide(&scale, observe(10_000, 150.0, 230.0, 19));
        assert!(!later.over);
        assert_eq!((later.desired, later.excess_burst), (19, -61.0));
    }

    #[test]
    fn panic_ends_strictly_after_a_stable_window_without_cause() {
        let scale = scale(&[], 0);
        let mut decider = Decider::new(&scale, 0, 1);
        assert_eq!(decider.decide(&scale, observe(0, 0.0, 500.0, 1)).desired, 8);
        assert_eq!(
            decider
                .decide(&scale, observe(60_000, 70.0, 70.0, 8))
                .desired,
            8
        );
        let after = decider.decide(&scale, observe(60_001, 70.0, 70.0, 8));
        assert!(!after.in_panic);
        // Not below half of what is ready: the scale-down rate.
        assert_eq!(after.desired, 4);
    }

    #[test]
    fn rates_bound_a_step_and_an_unreachable_revision_may_fall_at_once() {
        let scale = scale(&[], 10);
        let mut decider = Decider::new(&scale, 0, 1);
        let rise = decider.decide(&scale, observe(0, 1e9, 1e9, 1)).desired;
        assert_eq!(rise, 1_000);
        let mut decider = Decider::new(&scale, 0, 1);
        let unreachable = Observed {
            reachable: false,
            ..observe(0, 0.0, 0.0, 9)
        };
        assert_eq!(decider.decide(&scale, unreachable).desired, 0);
    }

    #[test]
    fn a_taken_over_revision_keeps_what_was_wanted() {
        let scale = scale(&[], 10);
        let mut decider = Decider::resume(&scale, 0, 2, 5);
        assert_eq!(
            decider.decide(&scale, observe(1_000, 1.0, 1.0, 2)).desired,
            5
        );
        assert_eq!(
            decider.decide(&scale, observe(60_000, 1.0, 1.0, 5)).desired,
            5
        );
        assert!(decider.decide(&scale, observe(60_001, 1.0, 1.0, 5)).desired < 5);
    }

    #[test]
    fn burst_capacity_zero_serves_and_unlimited_proxies() {
        let off = scale(&[("target-burst-capacity", "0")], 0);
        let unlimited = scale(&[("target-burst-capacity", "-1")], 0);
        let observed = observe(0, 10.0, 10.0, 1);
        assert_eq!(
            Decider::new(&off, 0, 1).decide(&off, observed).excess_burst,
            0.0
        );
        assert_eq!(
            Decider::new(&unlimited, 0, 1)
                .decide(&unlimited, observed)
                .excess_burst,
            -1.0
        );
    }

    proptest::proptest! {
        #[test]
        fn more_load_never_wants_fewer(
            ready in 0u32..50, load in 0.0f64..5_000.0, more in 0.0f64..5_000.0,
        ) {
            let scale = scale(&[], 10);
            let want = |load: f64| {
                Decider::new(&scale, 0, 1).decide(&scale, observe(0, load, load, ready)).desired
            };
            proptest::prop_assert!(want(load) <= want(load + more));
        }
    }
}
