//! The Autoscaler actor of one revision: statistics of all gateways in, wanted instances out.

mod explain;
mod handover;

use std::collections::BTreeMap;
use std::sync::Arc;

use nihilo_machine::command::{Fence, ScaleUpdate};
use nihilo_scale::burst;
use nihilo_scale::config::RevisionScale;
use nihilo_scale::decider::{Decider, Decision, Observed};
use nihilo_scale::fast::{Burst, FastFloor};
use nihilo_scale::to_zero::{self, Active, Question, Reachability, Wanted};
use nihilo_scale::window::Window;
use nihilo_types::autoscaler::{DataPath, ScaleRecord};
use nihilo_types::condition::{ConditionStatus, types};
use nihilo_types::id::ObjectKey;
use nihilo_types::revision::{Revision, RoutingState};

use crate::decision::Takeover;
use crate::effect::{Effect, Outputs};
use crate::event::Event;
use crate::gateways::Gateways;
use crate::key::EntityKey;
use crate::rows::{is_counted, is_frozen, is_ready, is_staying, own_rows};
use crate::table::{InstanceRow, RowState, View};

pub use handover::Handover;

/// Seconds are closed, and decisions taken, this often while anything is non-zero.
const TICK_MS: u64 = 1_000;
const TICK: &str = "tick";
const LOOK: &str = "look";
/// From a start to readiness, before one was seen (04-autoscaler §7.2).
const FIRST_BOOT_MS: f64 = 500.0;
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
    boot_ms: f64,
    next_tick_ms: u64,
    /// The newest second in the windows.
    closed_second: u64,
    /// What this owner began with; told with its first decision.
    takeover: Option<Takeover>,
    has_decided: bool,
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
        let n_staying = revision
            .as_deref()
            .map_or(0, |r| count(view, key, r, is_staying));
        let uid = revision.as_deref().map_or("", |r| r.metadata.uid.as_str());
        let decider = match recorded.desired > 0 || n_staying > 0 {
            true => Decider::resume(&settings, now_ms, n_staying, recorded.desired),
            false => Decider::new(&settings, now_ms, 0),
        };
        Self {
            key: key.clone(),
            uid: uid.into(),
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
            boot_ms: FIRST_BOOT_MS,
            next_tick_ms: now_ms + TICK_MS,
            closed_second: (now_ms / 1000).saturating_sub(1),
            takeover: None,
            has_decided: false,
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
        let revision = revision.as_ref();
        if *self.uid != *revision.metadata.uid {
            // The name was issued anew: nothing of its earlier life holds.
            *self = Self::load(&self.key, view, now_ms);
        }
        let reconfigured = self.reconfigure(view, now_ms);
        if !self.settings.class_is_served {
            // The Revision says so; nobody here may scale it.
            self.want = 0;
            self.tell(&mut outputs);
            return outputs;
        }
        self.take_reports(view, now_ms);
        self.look_at_boots(view, revision);
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
        if let Event::Windows(handover) = event {
            self.take_over(handover, now_ms);
        }
        let has_ticked = now_ms >= self.next_tick_ms;
        if has_ticked {
            self.tick(view, now_ms);
        }
        let has_closed = self.close_seconds(view, revision, now_ms);
        let seen = Seen {
            n_ready: count(view, &self.key, revision, is_ready),
            reachability: reachability_of(
                revision,
                self.want,
                count(view, &self.key, revision, is_ready),
            ),
            is_complete: view.table.complete,
        };
        // Statistics alone decide nothing before their second is closed; a tick repeats the order.
        let is_news = has_ticked || has_closed || reconfigured;
        let only_statistics = *event == Event::Changed && !is_news;
        if !only_statistics || self.looked_at != Some(seen) {
            self.looked_at = Some(seen);
            self.evaluate(
                view,
                revision,
                seen,
                (occasion(event), now_ms),
                &mut outputs,
            );
        }
        self.is_ticking = self.is_busy(view);
        if self.is_ticking {
            outputs.timer(TICK, self.next_tick_ms.saturating_sub(now_ms));
        }
        outputs
    }

    pub fn may_passivate(&self, view: View<'_>) -> bool {
        view.state.revision_facts(&self.key).is_none() || !self.is_busy(view)
    }

    fn is_busy(&self, view: View<'_>) -> bool {
        let mut rows = view.table.of(&self.key);
        let instances = rows.any(|(_, row)| is_counted(row) && !is_frozen(row));
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

    fn tick(&mut self, view: View<'_>, now_ms: u64) {
        let window_ms = self.settings.stable_window_ms;
        self.gateways.settle(view, now_ms, window_ms);
        // Ticks keep their phase, so that each closes one second.
        self.next_tick_ms += TICK_MS;
        if !self.is_ticking || self.next_tick_ms <= now_ms {
            self.next_tick_ms = now_ms + TICK_MS;
        }
        // The order is a level, told again each second: the Revision may have been loaded anew
        // since, and a message can be dropped.
        self.told = None;
    }

    /// What came too late is added to its own second, which the windows know how to do.
    fn take_reports(&mut self, view: View<'_>, now_ms: u64) {
        let closed = self.closed_second;
        for (second, late) in self.gateways.take_reports(&self.key, view, now_ms, closed) {
            self.record_second(second, late.of(self.settings.metric));
        }
    }

    fn record_second(&mut self, second: u64, value: f64) {
        self.stable.record(second, value);
        self.panic.record(second, value);
    }

    /// Adds the seconds that are over to the windows: the sum over gateways, each counted once.
    /// With no instance and no traffic nothing is written, so that a new burst counts in full.
    fn close_seconds(&mut self, view: View<'_>, revision: &Revision, now_ms: u64) -> bool {
        if !self.is_ticking {
            // It slept, and nothing happened meanwhile.
            self.closed_second = self.closed_second.max((now_ms / 1000).saturating_sub(2));
        }
        let window_ms = self.settings.stable_window_ms;
        let closed = self
            .gateways
            .close(view, now_ms, self.closed_second, window_ms);
        let has_instance = count(view, &self.key, revision, is_ready) > 0;
        for second in &closed {
            if second.is_known && (second.is_listed || has_instance) {
                self.record_second(second.second, second.sum.of(self.settings.metric));
            }
            self.closed_second = second.second;
        }
        !closed.is_empty()
    }

    /// How long a start of this revision takes, as far as its instances show.
    fn look_at_boots(&mut self, view: View<'_>, revision: &Revision) {
        let boots = own_rows(view, &self.key, revision).filter_map(|(_, row)| match &row.state {
            RowState::Reported(report) if report.ready_after_ms > 0 => Some(report.ready_after_ms),
            _ => None,
        });
        let (sum, n) = boots.fold((0, 0), |(sum, n): (u64, u64), ms| (sum + ms, n + 1));
        if n > 0 {
            self.boot_ms = sum as f64 / n as f64;
        }
    }

    fn raise_floor(&mut self, view: View<'_>, revision: &Revision, now_ms: u64) {
        let n_ready = count(view, &self.key, revision, is_ready);
        if n_ready > 0 && !self.settings.fast_scale {
            return;
        }
        let (in_flight, queued) = self.gateways.requests();
        let limit = revision.spec.concurrency_limit();
        let burst = Burst {
            in_flight,
            queued,
            n_ready,
            slots: (limit > 0).then(|| u64::from(limit) * u64::from(n_ready)),
            service_ms: self.gateways.service_ms(),
            boot_ms: self.boot_ms,
        };
        self.floor.demand(&self.settings, now_ms, &burst);
    }

    fn evaluate(
        &mut self,
        view: View<'_>,
        revision: &Revision,
        seen: Seen,
        (occasion, now_ms): (&'static str, u64),
        outputs: &mut Outputs,
    ) {
        self.resume_once(view, revision, seen, now_ms);
        let decision = self.decide(seen, now_ms);
        let window_ms = self.settings.stable_window_ms;
        let silence = self.gateways.silence(view, now_ms, window_ms);
        let degraded = !silence.unknown.is_empty() || !seen.is_complete;
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
                path_safe: true,
            },
        );
        let was = self.active.status;
        self.move_active(wanted.n, seen.n_ready, now_ms);
        if wanted.apply && wanted.n >= 0 {
            self.want = wanted.n;
        }
        self.choose_path(wanted.n, decision.as_ref(), now_ms);
        self.look_again(&wanted, was != self.active.status, now_ms, outputs);
        self.tell(outputs);
        self.record(view, revision, seen.n_ready, now_ms, outputs);
        let explained = explain::Explained {
            occasion,
            now_ms,
            decision: decision.as_ref(),
            wanted: &wanted,
            silence,
            degraded,
            seen,
            n_frozen: count(view, &self.key, revision, is_frozen),
            idles_frozen: revision.idles_frozen(),
        };
        self.explain(view, explained, outputs);
    }

    /// The earliest reason to look without being told: a condition that has just moved, a wait of
    /// the way to zero, the end of the fast floor.
    fn look_again(&self, wanted: &Wanted, moved: bool, now_ms: u64, outputs: &mut Outputs) {
        let at = [
            moved.then_some(now_ms),
            wanted.look_again_ms,
            self.floor.ends_at_ms(now_ms),
        ];
        if let Some(at) = at.into_iter().flatten().min() {
            outputs.timer(LOOK, at.saturating_sub(now_ms).max(1));
        }
    }

    /// Once all agents have answered, a new owner knows what it resumes with (04-autoscaler §8).
    fn resume_once(&mut self, view: View<'_>, revision: &Revision, seen: Seen, now_ms: u64) {
        if self.has_decided || !seen.is_complete {
            return;
        }
        self.has_decided = true;
        let planned = self.takeover.is_some_and(|takeover| takeover.planned);
        let n_staying = count(view, &self.key, revision, is_staying);
        let recorded = view.state.scale(&self.key).desired;
        if recorded <= 0 && n_staying == 0 {
            return;
        }
        if !planned {
            self.decider = Decider::resume(&self.settings, now_ms, n_staying, recorded);
        }
        self.takeover = Some(Takeover {
            ready: seen.n_ready,
            recorded,
            max_panic: self.decider.max_panic(),
            planned,
        });
    }

    /// `None` while the ready instances cannot be counted: not all agents have answered.
    fn decide(&mut self, seen: Seen, now_ms: u64) -> Option<Decision> {
        let observed = Observed {
            now_ms,
            stable: self.stable.average(self.closed_second),
            panic: self.panic.average(self.closed_second),
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
        let threshold = self.settings.first_scale();
        self.initialized |= i64::from(n_ready) >= i64::from(threshold);
    }

    /// Without a decision the path stays, unless nothing is wanted.
    fn choose_path(&mut self, want: i32, decision: Option<&Decision>, now_ms: u64) {
        let path = match decision {
            Some(decision) => burst::data_path(want, decision.excess_burst),
            None if want > 0 => self.path,
            None => DataPath::Proxy,
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
        -1 => settings.first_scale(),
        desired => desired,
    }
}

fn settings_of(key: &ObjectKey, view: View<'_>) -> RevisionScale {
    let none = BTreeMap::new();
    let revision = view.state.revision(key);
    let revision = revision.as_deref();
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

/// A revision that fails although it is wanted counts as not routed to: its minimum does not hold
/// it up (04-autoscaler §1).
fn reachability_of(revision: &Revision, want: i32, n_ready: u32) -> Reachability {
    let conditions = &revision.status.conditions;
    let fails = |kind| conditions.is_false(kind);
    let has_failed = fails(types::RESOURCES_AVAILABLE) || fails(types::CONTAINER_HEALTHY);
    if has_failed && want > 0 && n_ready == 0 {
        return Reachability::Unreachable;
    }
    match revision.routing_state() {
        RoutingState::Active => Reachability::Reachable,
        RoutingState::Reserve => Reachability::Unreachable,
        RoutingState::Pending => Reachability::Unknown,
    }
}

fn occasion(event: &Event) -> &'static str {
    match event {
        Event::Changed => "change",
        Event::Demand { .. } => "demand",
        Event::Windows(_) => "handover",
        Event::Timer { .. } => "tick",
        Event::Desired { .. } | Event::Proposed { .. } => "other",
    }
}
