//! The Autoscaler actor of one revision: statistics of all gateways in, wanted instances out.

mod explain;

use std::collections::BTreeMap;
use std::sync::Arc;

use nihilo_machine::command::{Fence, ScaleUpdate};
use nihilo_scale::config::RevisionScale;
use nihilo_scale::decider::{Decider, Decision, Observed};
use nihilo_scale::fast::FastFloor;
use nihilo_scale::to_zero::{self, Active, Question, Reachability};
use nihilo_scale::window::Window;
use nihilo_types::autoscaler::{DataPath, ScaleRecord};
use nihilo_types::condition::ConditionStatus;
use nihilo_types::id::ObjectKey;
use nihilo_types::revision::{Revision, RoutingState};

use crate::effect::{Effect, Outputs};
use crate::event::Event;
use crate::gateways::{Gateways, HELD_MS, all_gateways_heard};
use crate::key::EntityKey;
use crate::rows::{is_counted, is_ready, is_staying, own_rows};
use crate::table::{InstanceRow, View};

/// Seconds are closed, and decisions taken, this often while anything is non-zero.
const TICK_MS: u64 = 1_000;
const TICK: &str = "tick";
const LOOK: &str = "look";
/// A record that the log does not show by then is written again: it may have been dropped.
const WRITE_AGAIN_MS: u64 = 5_000;

#[derive(Debug)]
pub struct AutoscalerActor {
    key: ObjectKey,
    /// The life that all of this is about; empty before the revision was seen.
    uid: Arc<str>,
    settings: RevisionScale,
    decider: Decider,
    stable: Window,
    panic: Window,
    floor: FastFloor,
    active: Active,
    initialized: bool,
    want: i32,
    path: DataPath,
    proxy_since_ms: u64,
    gateways: Gateways,
    loaded_ms: u64,
    next_tick_ms: u64,
    /// The newest second in the windows.
    closed_second: u64,
    /// A tick was asked for: when it comes late, time was lost and not slept away.
    is_ticking: bool,
    looked_at: Option<Seen>,
    told: Option<(u32, DataPath)>,
    recorded: ScaleRecord,
    recorded_at_ms: u64,
}

/// What calls for a decision when it changes, besides demand, ticks and timers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    n_ready: u32,
    reachability: Reachability,
    is_complete: bool,
}

impl AutoscalerActor {
    pub fn load(key: &ObjectKey, view: View<'_>, now_ms: u64) -> Self {
        let mut recorded = view.state.scale(key).as_ref().clone();
        // The state machine's to set; nothing that this actor compares.
        recorded.active_since_ms = 0;
        let settings = settings_of(key, view);
        let revision = view.state.revision(key);
        // What boots counts as wanted: the log may not show yet why it was started.
        let n_staying = revision.map_or(0, |r| count(view, key, r, is_staying));
        let decider = match recorded.desired > 0 || n_staying > 0 {
            true => Decider::resume(&settings, now_ms, n_staying, recorded.desired),
            false => Decider::new(&settings, now_ms, 0),
        };
        Self {
            key: key.clone(),
            uid: revision.map_or("", |r| r.metadata.uid.as_str()).into(),
            stable: Window::new(settings.stable_seconds(), settings.aggregation),
            panic: Window::new(settings.panic_seconds(), settings.aggregation),
            decider,
            floor: FastFloor::default(),
            active: Active {
                status: recorded.active,
                reason: "",
                since_ms: now_ms,
            },
            initialized: recorded.initialized,
            want: first_want(&recorded, &settings),
            path: recorded.data_path,
            proxy_since_ms: now_ms,
            gateways: Gateways::default(),
            loaded_ms: now_ms,
            next_tick_ms: now_ms + TICK_MS,
            closed_second: now_ms / 1000,
            is_ticking: false,
            looked_at: None,
            told: None,
            recorded,
            recorded_at_ms: now_ms,
            settings,
        }
    }

    pub fn turn(&mut self, view: View<'_>, event: &Event, now_ms: u64) -> Outputs {
        let mut outputs = Outputs::default();
        let Some(revision) = view.state.revision(&self.key) else {
            return outputs;
        };
        if *self.uid != *revision.metadata.uid {
            // The name was issued anew: nothing of its earlier life holds.
            *self = Self::load(&self.key, view, now_ms);
        }
        let reconfigured = self.reconfigure(view, now_ms);
        self.gateways.take_reports(&self.key, view);
        if let Event::Demand {
            gateway,
            n_waiting,
            in_flight,
            ..
        } = event
        {
            self.gateways.demand(*gateway, *n_waiting, *in_flight);
            let n_staying = count(view, &self.key, revision, is_staying);
            if i64::from(n_staying) != i64::from(self.want) {
                // Nothing has come of the last order, and requests wait: say it again at once.
                self.told = None;
            }
            self.raise_floor(view, revision, now_ms);
        }
        let ticked = now_ms >= self.next_tick_ms;
        if ticked {
            self.tick(view, revision, now_ms);
        }
        let seen = Seen {
            n_ready: count(view, &self.key, revision, is_ready),
            reachability: reachability_of(revision),
            is_complete: view.table.complete,
        };
        // Statistics alone decide nothing before their second is closed.
        let only_statistics = *event == Event::Changed && !ticked && !reconfigured;
        if !only_statistics || self.looked_at != Some(seen) {
            self.looked_at = Some(seen);
            self.evaluate(view, revision, seen, now_ms, &mut outputs);
        }
        self.is_ticking = self.is_busy(view);
        if self.is_ticking {
            outputs.timer(TICK, self.next_tick_ms.saturating_sub(now_ms));
        }
        outputs
    }

    pub fn may_passivate(&self, view: View<'_>) -> bool {
        view.state.revision(&self.key).is_none() || !self.is_busy(view)
    }

    fn is_busy(&self, view: View<'_>) -> bool {
        let instances = view.table.of(&self.key).any(|(_, row)| is_counted(row));
        let inactive = self.active.status == ConditionStatus::False;
        self.want != 0 || instances || self.gateways.has_traffic() || !inactive
    }

    /// Returns whether there was something new.
    fn reconfigure(&mut self, view: View<'_>, now_ms: u64) -> bool {
        let settings = settings_of(&self.key, view);
        if settings == self.settings {
            return false;
        }
        self.stable.resize(settings.stable_seconds(), now_ms / 1000);
        self.panic.resize(settings.panic_seconds(), now_ms / 1000);
        self.stable.aggregate_by(settings.aggregation);
        self.panic.aggregate_by(settings.aggregation);
        self.decider.reconfigure(&self.settings, &settings);
        self.settings = settings;
        true
    }

    fn tick(&mut self, view: View<'_>, revision: &Revision, now_ms: u64) {
        let window_ms = self.settings.stable_window_ms;
        self.gateways.settle(view, now_ms, window_ms);
        self.close_seconds(view, revision, now_ms);
        // Ticks keep their phase, so that each closes one second.
        self.next_tick_ms += TICK_MS;
        if !self.is_ticking || self.next_tick_ms <= now_ms {
            self.next_tick_ms = now_ms + TICK_MS;
        }
        // The order is a level, told again each second: the Revision may have been loaded anew
        // since, and a message can be dropped.
        self.told = None;
    }

    /// Adds the seconds that have ended to the windows: the sum over gateways, each counted once.
    /// A late tick stands for every second since the last one, none is left out or taken twice.
    /// What a new owner has not been told yet is no zero.
    fn close_seconds(&mut self, view: View<'_>, revision: &Revision, now_ms: u64) {
        let second = now_ms / 1000;
        let value = self.gateways.value(self.settings.metric);
        let n_ready = count(view, &self.key, revision, is_ready);
        let first = match self.is_ticking {
            true => (self.closed_second + 1).max(second.saturating_sub(self.stable.seconds())),
            false => second,
        };
        let silent = value == 0.0 && n_ready == 0;
        let is_early = now_ms < self.loaded_ms + HELD_MS && !all_gateways_heard(view);
        if !silent && !is_early {
            for ended in first..=second {
                self.stable.record(ended, value);
                self.panic.record(ended, value);
            }
        }
        self.closed_second = second;
    }

    fn raise_floor(&mut self, view: View<'_>, revision: &Revision, now_ms: u64) {
        let n_ready = count(view, &self.key, revision, is_ready);
        if n_ready > 0 && !self.settings.fast_scale {
            return;
        }
        let settings = &self.settings;
        let up = (settings.max_scale_up_rate * f64::from(n_ready.max(1))).ceil() as i32;
        self.floor.demand(
            now_ms,
            self.gateways.n_requests(),
            settings.concurrency_target,
            settings.activation_scale,
            up,
            settings.panic_window_ms,
        );
    }

    fn evaluate(
        &mut self,
        view: View<'_>,
        revision: &Revision,
        seen: Seen,
        now_ms: u64,
        outputs: &mut Outputs,
    ) {
        let decision = self.decide(seen, now_ms);
        let window_ms = self.settings.stable_window_ms;
        let degraded = self.gateways.is_incomplete(view, now_ms, window_ms) || !seen.is_complete;
        let mut decided = decision
            .map_or(-1, |d| d.desired)
            .max(self.floor.at(now_ms));
        if degraded {
            decided = decided.max(self.want);
        }
        let wanted = to_zero::wanted(
            &self.settings,
            Question {
                now_ms,
                decided,
                active: self.active,
                initialized: self.initialized,
                reachability: seen.reachability,
                proxy_since_ms: (self.path == DataPath::Proxy).then_some(self.proxy_since_ms),
            },
        );
        self.move_active(wanted.n, seen.n_ready, now_ms);
        if wanted.apply && wanted.n >= 0 {
            self.want = wanted.n;
        }
        self.choose_path(wanted.n, decision.as_ref(), now_ms);
        if let Some(at) = wanted
            .look_again_ms
            .or_else(|| self.floor.ends_at_ms(now_ms))
        {
            outputs.timer(LOOK, at.saturating_sub(now_ms).max(1));
        }
        self.tell(outputs);
        self.record(view, revision, seen.n_ready, now_ms, outputs);
        self.explain(decision.as_ref(), seen.n_ready, degraded, now_ms, outputs);
    }

    /// `None` while the ready instances cannot be counted: not all agents have answered.
    fn decide(&mut self, seen: Seen, now_ms: u64) -> Option<Decision> {
        let second = now_ms / 1000;
        let observed = Observed {
            now_ms,
            stable: self.stable.average(second),
            panic: self.panic.average(second),
            n_ready: seen.is_complete.then_some(seen.n_ready),
            reachable: seen.reachability != Reachability::Unreachable,
        };
        self.decider.decide(&self.settings, observed)
    }

    /// The condition first, by the threshold as it was; then the threshold may have been reached
    /// for the first time. In this order upstream takes a revision with initial scale 0 for
    /// inactive at once.
    fn move_active(&mut self, want: i32, n_ready: u32, now_ms: u64) {
        let (status, reason) = to_zero::active(
            &self.settings,
            self.active.status,
            self.initialized,
            want,
            n_ready,
        );
        let since_ms = if status == self.active.status {
            self.active.since_ms
        } else {
            now_ms
        };
        self.active = Active {
            status,
            reason,
            since_ms,
        };
        let threshold = self.settings.min_scale.max(self.settings.initial_scale);
        self.initialized |= i64::from(n_ready) >= i64::from(threshold);
    }

    /// Without a decision the path stays, unless nothing is wanted.
    fn choose_path(&mut self, want: i32, decision: Option<&Decision>, now_ms: u64) {
        let has_room = match decision {
            Some(decision) => decision.excess_burst >= 0.0,
            None => self.path == DataPath::Serve,
        };
        let path = match want > 0 && has_room {
            true => DataPath::Serve,
            false => DataPath::Proxy,
        };
        if path == DataPath::Proxy && self.path == DataPath::Serve {
            self.proxy_since_ms = now_ms;
        }
        self.path = path;
    }

    fn tell(&mut self, outputs: &mut Outputs) {
        let now = (u32::try_from(self.want).unwrap_or(0), self.path);
        if self.want >= 0 && self.told != Some(now) {
            self.told = Some(now);
            let event = Event::Desired {
                n: now.0,
                path: now.1,
                near: self.gateways.longest_line(),
            };
            outputs.effect(Effect::Tell(EntityKey::Revision(self.key.clone()), event));
        }
    }

    fn record(
        &mut self,
        view: View<'_>,
        revision: &Revision,
        ready: u32,
        now_ms: u64,
        outputs: &mut Outputs,
    ) {
        let record = ScaleRecord {
            desired: self.want,
            ready,
            data_path: self.path,
            active: self.active.status,
            active_reason: self.active.reason.into(),
            active_since_ms: 0,
            initialized: self.initialized,
        };
        let is_late = self.recorded_at_ms + WRITE_AGAIN_MS <= now_ms;
        let is_lost = is_late && !shows(&view.state.scale(&self.key), &record);
        if record == self.recorded && !is_lost {
            return;
        }
        self.recorded = record.clone();
        self.recorded_at_ms = now_ms;
        outputs.effect(Effect::RecordScale(ScaleUpdate {
            fence: Fence {
                shard: view.table.shard,
                epoch: view.table.epoch,
            },
            revision: self.key.clone(),
            uid: revision.metadata.uid.as_str().into(),
            record,
        }));
    }
}

/// A revision that nothing was ever decided for begins with its initial scale.
fn first_want(recorded: &ScaleRecord, settings: &RevisionScale) -> i32 {
    match recorded.desired {
        -1 => settings.min_scale.max(settings.initial_scale),
        desired => desired,
    }
}

fn settings_of(key: &ObjectKey, view: View<'_>) -> RevisionScale {
    let none = BTreeMap::new();
    let revision = view.state.revision(key);
    let annotations = revision.map_or(&none, |revision| &revision.metadata.annotations);
    let limit = revision.map_or(0, |revision| revision.spec.concurrency_limit());
    RevisionScale::resolve(annotations, limit, &view.settings.scale)
}

fn count(
    view: View<'_>,
    key: &ObjectKey,
    revision: &Revision,
    is: impl Fn(&InstanceRow) -> bool,
) -> u32 {
    let rows = own_rows(view, key, revision).filter(|(_, row)| is(row));
    u32::try_from(rows.count()).unwrap_or(u32::MAX)
}

/// Whether the log holds the record, but for what the state machine sets by itself.
fn shows(stored: &ScaleRecord, record: &ScaleRecord) -> bool {
    let written = ScaleRecord {
        active_since_ms: stored.active_since_ms,
        initialized: stored.initialized || record.initialized,
        ..record.clone()
    };
    *stored == written
}

fn reachability_of(revision: &Revision) -> Reachability {
    match revision.routing_state() {
        RoutingState::Active => Reachability::Reachable,
        RoutingState::Reserve => Reachability::Unreachable,
        RoutingState::Pending => Reachability::Unknown,
    }
}
