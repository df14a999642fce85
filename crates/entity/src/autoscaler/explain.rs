//! The Autoscaler's decision in numbers, for those who ask why.

use nihilo_scale::burst;
use nihilo_scale::decider::Decision;
use nihilo_scale::to_zero::{self, Wanted};

use super::{AutoscalerActor, Seen};
use crate::decision::{DecisionRecord, Kpa};
use crate::effect::{Effect, Outputs};
use crate::gateways::Silence;
use crate::table::View;

/// What a turn has decided, and on what.
pub(super) struct Explained<'a> {
    pub(super) occasion: &'static str,
    pub(super) now_ms: u64,
    pub(super) decision: Option<&'a Decision>,
    pub(super) wanted: &'a Wanted,
    pub(super) silence: Silence,
    pub(super) degraded: bool,
    pub(super) seen: Seen,
    pub(super) n_frozen: u32,
    pub(super) idles_frozen: bool,
}

impl AutoscalerActor {
    /// The decision with its inputs, for `nihilo why`.
    pub(super) fn explain(&mut self, view: View<'_>, of: Explained<'_>, outputs: &mut Outputs) {
        let settings = &self.settings;
        let (min, max) = to_zero::bounds(settings, of.seen.reachability, self.initialized);
        let (in_flight, queued) = self.gateways.requests();
        let record = DecisionRecord {
            at_ms: of.now_ms,
            occasion: of.occasion,
            epoch: view.table.epoch,
            stable: self.stable.average(self.closed_second),
            panic: self.panic.average(self.closed_second),
            stable_window_ms: settings.stable_window_ms,
            panic_window_ms: settings.panic_window_ms,
            held: of.silence.held,
            unknown: of.silence.unknown,
            given_up: of.silence.given_up,
            ready: of.seen.is_complete.then_some(of.seen.n_ready),
            target: settings.target,
            total: settings.total,
            kpa: of.decision.map(Kpa::from),
            panic_since_ms: self.decider.panic_since_ms(),
            max_panic: self.decider.max_panic(),
            in_flight,
            queued,
            fast_floor: self.floor.at(of.now_ms),
            degraded: of.degraded,
            min,
            max,
            rule: of.wanted.rule.as_str(),
            want: self.want,
            frozen: of.n_frozen,
            idles_frozen: of.idles_frozen,
            data_path: self.path,
            activators: burst::activators(settings, of.seen.n_ready),
            active: self.active.status,
            reason: self.active.reason,
            takeover: self.takeover.take(),
        };
        outputs.effect(Effect::Explain {
            revision: self.key.clone(),
            record: Box::new(record),
        });
    }
}
