//! The decision (04-autoscaler §5), step by step as upstream takes it.
//!
//! Source: knative/serving:pkg/autoscaler/scaling/autoscaler.go (`Scale`).

use serde::{Deserialize, Serialize};

use crate::burst;
use crate::config::RevisionScale;
use crate::max_window::MaxWindow;

/// What a decider remembers between decisions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// `None` while nobody can tell: then nothing is decided.
    pub n_ready: Option<u32>,
    /// False only when the revision is certainly not routed to.
    pub reachable: bool,
}

/// What it decides, with the numbers on the way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decision {
    pub desired: i32,
    /// Excess burst capacity; negative = the burst reserve is not there.
    pub excess_burst: i32,
    /// What the averages alone ask for.
    pub stable_need: i32,
    pub panic_need: i32,
    /// The same between the rates and lifted by the activation scale.
    pub stable_clamped: i32,
    pub panic_clamped: i32,
    pub over: bool,
    pub in_panic: bool,
    /// The scale-down delay holds it up.
    pub delayed: bool,
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
        Self::taken_over(scale, (held > 0).then_some(now_ms), held.max(0))
    }

    /// A decider with this panic state; its maximum is the first entry of the delay window.
    pub fn taken_over(scale: &RevisionScale, panic_since_ms: Option<u64>, max_panic: i32) -> Self {
        let mut delay = delay_of(scale);
        if let (Some(delay), Some(since_ms)) = (&mut delay, panic_since_ms) {
            delay.record(since_ms, max_panic);
        }
        Self {
            panic_since_ms,
            max_panic,
            delay,
        }
    }

    /// Moves every time by the difference of two clocks: the state was another owner's.
    pub fn shift(&mut self, by_ms: i64) {
        let shifted = |at: u64| at.saturating_add_signed(by_ms);
        self.panic_since_ms = self.panic_since_ms.map(shifted);
        if let Some(delay) = &mut self.delay {
            delay.shift(by_ms);
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

    /// Since when it panics, in the caller's milliseconds.
    pub fn panic_since_ms(&self) -> Option<u64> {
        self.panic_since_ms
    }

    /// The most that was wanted in this panic; what is ready before the first one.
    pub fn max_panic(&self) -> i32 {
        self.max_panic
    }

    /// `None`, and no change of any kind, while the ready instances cannot be counted.
    pub fn decide(&mut self, scale: &RevisionScale, observed: Observed) -> Option<Decision> {
        let n_ready = observed.n_ready?;
        let ready = f64::from(n_ready.max(1));
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
        let stable_clamped = activate(stable_need, clamp(stable_need));
        let panic_clamped = activate(panic_need, clamp(panic_need));

        let over = f64::from(panic_need) / ready >= scale.panic_threshold;
        self.move_panic(scale, observed.now_ms, over);
        let mut decided = stable_clamped;
        if self.in_panic() {
            self.max_panic = self.max_panic.max(stable_clamped).max(panic_clamped);
            decided = self.max_panic;
        }
        let mut desired = decided;
        if let Some(delay) = self.delay.as_mut().filter(|_| observed.reachable) {
            desired = delay.record(observed.now_ms, desired);
        }
        Some(Decision {
            desired,
            excess_burst: burst::excess(scale, n_ready, observed.panic),
            stable_need,
            panic_need,
            stable_clamped,
            panic_clamped,
            over,
            in_panic: self.in_panic(),
            delayed: desired > decided,
        })
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

/// Floats to integers saturate.
pub(crate) fn to_i32(number: f64) -> i32 {
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
            n_ready: Some(n_ready),
            reachable: true,
        }
    }

    #[test]
    fn a_taken_over_revision_keeps_what_was_wanted() {
        let scale = scale(&[], 10);
        let mut decider = Decider::resume(&scale, 0, 2, 5);
        let mut desired = |now_ms, ready| {
            let decision = decider.decide(&scale, observe(now_ms, 1.0, 1.0, ready));
            decision.unwrap().desired
        };
        assert_eq!(desired(1_000, 2), 5);
        assert_eq!(desired(60_000, 5), 5);
        assert!(desired(60_001, 5) < 5);
    }

    #[test]
    fn what_cannot_be_counted_changes_nothing() {
        let scale = scale(&[], 10);
        let mut decider = Decider::new(&scale, 0, 1);
        let before = decider.clone();
        let unknown = Observed {
            n_ready: None,
            ..observe(1_000, 500.0, 500.0, 0)
        };
        assert_eq!(decider.decide(&scale, unknown), None);
        assert_eq!(decider, before);
    }

    /// A decider in any state that its own history can lead to.
    fn run(scale: &RevisionScale, steps: &[(u64, f64, f64, u32)]) -> Vec<Decision> {
        let mut now_ms = 0;
        let mut decider = Decider::new(scale, now_ms, 1);
        let mut decide = |(after, stable, panic, ready): &(u64, f64, f64, u32)| {
            now_ms += after;
            let observed = observe(now_ms, *stable, *panic, *ready);
            decider.decide(scale, observed).unwrap()
        };
        steps.iter().map(&mut decide).collect()
    }

    fn steps() -> impl proptest::strategy::Strategy<Value = Vec<(u64, f64, f64, u32)>> {
        let step = (0u64..70_000, 0.0f64..3_000.0, 0.0f64..3_000.0, 0u32..60);
        proptest::collection::vec(step, 1..20)
    }

    proptest::proptest! {
        #[test]
        fn more_load_never_wants_fewer(
            history in steps(), last in (0u64..70_000, 0.0f64..5_000.0, 0.0f64..5_000.0, 0u32..50),
            more in 0.0f64..5_000.0,
        ) {
            let scale = scale(&[("scale-down-delay", "20s")], 10);
            let want = |more: f64| {
                let mut steps = history.clone();
                steps.push((last.0, last.1 + more, last.2 + more, last.3));
                run(&scale, &steps).last().unwrap().desired
            };
            proptest::prop_assert!(want(0.0) <= want(more));
        }

        #[test]
        fn nothing_falls_in_panic(history in steps()) {
            let scale = scale(&[], 10);
            let decisions = run(&scale, &history);
            for pair in decisions.windows(2).filter(|p| p[0].in_panic && p[1].in_panic) {
                proptest::prop_assert!(pair[0].desired <= pair[1].desired);
            }
        }

        #[test]
        fn a_step_stays_between_the_rates(history in steps()) {
            let scale = scale(&[], 10);
            for (decision, (_, _, _, ready)) in run(&scale, &history).iter().zip(&history) {
                let ready = i32::try_from(*ready).unwrap().max(1);
                proptest::prop_assert!(decision.desired >= ready / 2);
                proptest::prop_assert!(decision.in_panic || decision.desired <= ready * 1_000);
            }
        }

        #[test]
        fn looking_again_at_the_same_changes_nothing(history in steps()) {
            let scale = scale(&[], 10);
            let mut twice: Vec<_> = history.clone();
            let (_, stable, panic, ready) = *history.last().unwrap();
            twice.push((0, stable, panic, ready));
            let decisions = run(&scale, &twice);
            let n = decisions.len();
            proptest::prop_assert_eq!(decisions[n - 1], decisions[n - 2]);
        }
    }
}
