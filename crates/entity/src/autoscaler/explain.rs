//! The Autoscaler's decision in numbers, for those who ask why.

use nihilo_scale::decider::Decision;

use super::AutoscalerActor;
use crate::effect::{Effect, Outputs};

impl AutoscalerActor {
    /// The decision with its inputs, for `nihilo why`.
    pub(super) fn explain(
        &self,
        decision: Option<&Decision>,
        n_ready: u32,
        degraded: bool,
        now_ms: u64,
        outputs: &mut Outputs,
    ) {
        let second = now_ms / 1000;
        let (needs, excess, in_panic) = decision.map_or(((0, 0), 0.0, false), |d| {
            ((d.stable_need, d.panic_need), d.excess_burst, d.in_panic)
        });
        let report = format!(
            "{{\"revision\":\"{}\",\"want\":{},\"ready\":{n_ready},\"stable\":{},\"panic\":{},\
             \"target\":{},\"stableNeed\":{},\"panicNeed\":{},\"inPanic\":{in_panic},\
             \"excessBurst\":{excess},\"fastFloor\":{},\"degraded\":{degraded},\"active\":\"{:?}\",\
             \"reason\":\"{}\",\"dataPath\":\"{:?}\"}}",
            self.key,
            self.want,
            self.stable.average(second),
            self.panic.average(second),
            self.settings.target,
            needs.0,
            needs.1,
            self.floor.at(now_ms),
            self.active.status,
            self.active.reason,
            self.path,
        );
        let revision = self.key.clone();
        outputs.effect(Effect::Explain {
            revision,
            report: report.into(),
        });
    }
}
