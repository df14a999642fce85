//! The Autoscaler actor of one revision: statistics of all gateways in, wanted instances out.

use std::collections::BTreeMap;

use nihilo_machine::command::{Fence, ScaleUpdate};
use nihilo_scale::config::{Metric, RevisionScale};
use nihilo_scale::decider::{Decider, Decision, Observed};
use nihilo_scale::fast::FastFloor;
use nihilo_scale::to_zero::{self, Active, Question, Reachability};
use nihilo_scale::window::Window;
use nihilo_types::autoscaler::{DataPath, ScaleRecord};
use nihilo_types::condition::ConditionStatus;
use nihilo_types::id::{ObjectKey, SessionId};
use nihilo_types::instance::InstanceState;
use nihilo_types::revision::{Revision, RoutingState};

use crate::effect::{Effect, Outputs};
use crate::event::Event;
use crate::key::EntityKey;
use crate::placement::{is_counted, is_leaving};
use crate::table::{RowState, StatRow, View};

/// Seconds are closed, and decisions taken, this often while anything is non-zero.
const TICK_MS: u64 = 1_000;
const TICK: &str = "tick";
const LOOK: &str = "look";
/// A gateway not heard for longer is unknown, not zero (04-autoscaler §3.4).
const HELD_MS: u64 = 3_000;

#[derive(Debug)]
pub struct AutoscalerActor {
    key: ObjectKey,
    /// The revision's life that everything below belongs to.
    uid: String,
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
    gateways: BTreeMap<SessionId, GatewayShare>,
    /// Waiting requests by gateway, from demand edges until the next report.
    demand: BTreeMap<SessionId, u64>,
    next_tick_ms: u64,
    told: Option<(u32, DataPath)>,
    recorded: ScaleRecord,
}

/// The newest that one gateway has said.
#[derive(Debug, Clone, Copy, Default)]
struct GatewayShare {
    seq: u64,
    concurrency: f64,
    rps: f64,
    in_flight: u64,
}

impl AutoscalerActor {
    pub fn load(key: &ObjectKey, view: View<'_>, now_ms: u64) -> Self {
        let recorded = view.state.scale(key).as_ref().clone();
        let settings = settings_of(key, view);
        let n_ready = count_ready(key, view);
        let decider = match recorded.desired > 0 || n_ready > 0 {
            true => Decider::resume(&settings, now_ms, n_ready, recorded.desired),
            false => Decider::new(&settings, now_ms, n_ready),
        };
        Self {
            key: key.clone(),
            uid: uid_of(key, view),
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
            gateways: BTreeMap::new(),
            demand: BTreeMap::new(),
            next_tick_ms: now_ms + TICK_MS,
            told: None,
            recorded,
            settings,
        }
    }

    pub fn turn(&mut self, view: View<'_>, event: &Event, now_ms: u64) -> Outputs {
        let mut outputs = Outputs::default();
        let Some(revision) = view.state.revision(&self.key) else {
            return outputs;
        };
        if revision.metadata.uid != self.uid {
            // Deleted and made anew under its name while this actor was awake.
            *self = Self::load(&self.key, view, now_ms);
        }
        self.reconfigure(view, now_ms);
        self.take_reports(view);
        if let Event::Demand {
            gateway,
            n_waiting,
            in_flight,
            ..
        } = event
        {
            self.demand.insert(*gateway, *n_waiting.max(in_flight));
            self.raise_floor(view, now_ms);
        }
        let ticked = now_ms >= self.next_tick_ms;
        if ticked {
            self.close_second(view, now_ms);
            self.next_tick_ms = now_ms + TICK_MS;
        }
        // Statistics alone decide nothing before their second is closed.
        let only_statistics = *event == Event::Changed && !ticked && self.told.is_some();
        if !only_statistics || self.readiness_changed(view) {
            self.evaluate(view, revision, now_ms, &mut outputs);
        }
        if ticked || matches!(event, Event::Demand { .. }) {
            self.repeat(view, &mut outputs);
        }
        if self.is_busy(view) {
            outputs.timer(TICK, self.next_tick_ms.saturating_sub(now_ms));
        }
        outputs
    }

    pub fn may_passivate(&self, view: View<'_>) -> bool {
        view.state.revision(&self.key).is_none() || !self.is_busy(view)
    }

    fn is_busy(&self, view: View<'_>) -> bool {
        let instances = view.table.of(&self.key).any(|(_, row)| is_counted(row));
        let traffic = self.gateways.values().any(|share| share.in_flight > 0);
        let inactive = self.active.status == ConditionStatus::False;
        self.want != 0 || instances || traffic || !inactive
    }

    fn reconfigure(&mut self, view: View<'_>, now_ms: u64) {
        let settings = settings_of(&self.key, view);
        if settings == self.settings {
            return;
        }
        self.stable.resize(settings.stable_seconds(), now_ms / 1000);
        self.panic.resize(settings.panic_seconds(), now_ms / 1000);
        self.stable.aggregate_by(settings.aggregation);
        self.panic.aggregate_by(settings.aggregation);
        self.decider.reconfigure(&self.settings, &settings);
        self.settings = settings;
    }

    /// Takes what the gateways reported since the last turn.
    fn take_reports(&mut self, view: View<'_>) {
        let Some(rows) = view.table.stats.get(&self.key) else {
            return;
        };
        for (gateway, rows) in rows {
            let share = self.gateways.entry(*gateway).or_default();
            let fresh: Vec<&StatRow> = rows.iter().filter(|row| row.seq > share.seq).collect();
            let Some(newest) = fresh.last() else { continue };
            let area: u64 = fresh.iter().map(|row| row.area_us).sum();
            let used: u64 = fresh.iter().map(|row| row.used_us).sum();
            let started: u64 = fresh.iter().map(|row| row.n_started).sum();
            let used = used.max(1) as f64;
            share.concurrency = area as f64 / used;
            share.rps = started as f64 * 1e6 / used;
            share.in_flight = newest.in_flight;
            share.seq = newest.seq;
            self.demand.remove(gateway);
        }
    }

    /// Adds the second that has ended to the windows: the sum over gateways, each counted once.
    fn close_second(&mut self, view: View<'_>, now_ms: u64) {
        let open = |id: &SessionId| view.state.session(*id).is_some();
        self.gateways.retain(|id, _| open(id));
        self.demand.retain(|id, _| open(id));
        for (id, share) in &mut self.gateways {
            // A batch that does not list the revision says exactly zero.
            let newest = view.table.heard.get(id).map_or(0, |heard| heard.seq);
            if newest > share.seq + 1 {
                *share = GatewayShare {
                    seq: share.seq,
                    ..GatewayShare::default()
                };
            }
        }
        let value: f64 = self
            .gateways
            .values()
            .map(|share| match self.settings.metric {
                Metric::Concurrency => share.concurrency,
                Metric::Rps => share.rps,
            })
            .sum();
        let silent = value == 0.0 && count_ready(&self.key, view) == 0;
        if !silent {
            self.stable.record(now_ms / 1000, value);
            self.panic.record(now_ms / 1000, value);
        }
    }

    /// An open gateway that was not heard lately: its share is held, and nothing may fall.
    fn is_degraded(&self, view: View<'_>, now_ms: u64) -> bool {
        self.gateways.keys().any(|id| {
            let heard = view.table.heard.get(id).map_or(0, |heard| heard.at_ms);
            view.state.session(*id).is_some() && heard + HELD_MS < now_ms
        })
    }

    fn raise_floor(&mut self, view: View<'_>, now_ms: u64) {
        let n_ready = count_ready(&self.key, view);
        if n_ready > 0 && !self.settings.fast_scale {
            return;
        }
        let waiting: u64 = self.demand.values().sum();
        let others = self
            .gateways
            .iter()
            .filter(|(id, _)| !self.demand.contains_key(id));
        let in_flight: u64 = others.map(|(_, share)| share.in_flight).sum();
        let settings = &self.settings;
        let up = (settings.max_scale_up_rate * f64::from(n_ready.max(1))).ceil() as i32;
        self.floor.demand(
            now_ms,
            waiting + in_flight,
            settings.concurrency_target,
            settings.activation_scale,
            up,
            settings.panic_window_ms,
        );
    }

    fn readiness_changed(&self, view: View<'_>) -> bool {
        count_ready(&self.key, view) != self.recorded.ready
    }

    fn evaluate(
        &mut self,
        view: View<'_>,
        revision: &Revision,
        now_ms: u64,
        outputs: &mut Outputs,
    ) {
        let n_ready = count_ready(&self.key, view);
        let reachability = reachability_of(revision);
        let decision = self.decide(n_ready, reachability, now_ms);
        let degraded = self.is_degraded(view, now_ms) || !view.table.complete;
        let mut decided = decision
            .map_or(-1, |d| d.desired)
            .max(self.floor.at(now_ms));
        if degraded {
            decided = decided.max(self.want);
        }
        let threshold = self.settings.min_scale.max(self.settings.initial_scale);
        self.initialized |= i64::from(n_ready) >= i64::from(threshold);
        let wanted = to_zero::wanted(
            &self.settings,
            Question {
                now_ms,
                decided,
                active: self.active,
                initialized: self.initialized,
                reachability,
                proxy_since_ms: (self.path == DataPath::Proxy).then_some(self.proxy_since_ms),
            },
        );
        self.move_active(wanted.n, n_ready, now_ms);
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
        self.record(view, revision, n_ready, outputs);
        self.explain(decision.as_ref(), n_ready, degraded, now_ms, outputs);
    }

    fn decide(
        &mut self,
        n_ready: u32,
        reachability: Reachability,
        now_ms: u64,
    ) -> Option<Decision> {
        let second = now_ms / 1000;
        let observed = Observed {
            now_ms,
            stable: self.stable.average(second),
            panic: self.panic.average(second),
            n_ready: Some(n_ready),
            reachable: reachability != Reachability::Unreachable,
        };
        self.decider.decide(&self.settings, observed)
    }

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
    }

    fn choose_path(&mut self, want: i32, decision: Option<&Decision>, now_ms: u64) {
        let has_room = decision.is_some_and(|decision| decision.excess_burst >= 0.0);
        let path = if want > 0 && has_room {
            DataPath::Serve
        } else {
            DataPath::Proxy
        };
        if path == DataPath::Proxy && self.path == DataPath::Serve {
            self.proxy_since_ms = now_ms;
        }
        self.path = path;
    }

    /// The Revision actor may have forgotten what it was told, by a reload: what does not come
    /// about is said again.
    fn repeat(&mut self, view: View<'_>, outputs: &mut Outputs) {
        let staying = view
            .table
            .of_life(&self.key, &self.uid)
            .filter(|(_, row)| is_counted(row) && !is_leaving(row));
        let said_just_now = outputs
            .effects
            .iter()
            .any(|effect| matches!(effect, Effect::Tell(..)));
        if !said_just_now && usize::try_from(self.want).is_ok_and(|want| want != staying.count()) {
            self.told = None;
            self.tell(outputs);
        }
    }

    fn tell(&mut self, outputs: &mut Outputs) {
        let now = (u32::try_from(self.want).unwrap_or(0), self.path);
        if self.want >= 0 && self.told != Some(now) {
            self.told = Some(now);
            let event = Event::Desired {
                n: now.0,
                path: now.1,
            };
            outputs.effect(Effect::Tell(EntityKey::Revision(self.key.clone()), event));
        }
    }

    fn record(&mut self, view: View<'_>, revision: &Revision, ready: u32, outputs: &mut Outputs) {
        let record = ScaleRecord {
            desired: self.want,
            ready,
            data_path: self.path,
            active: self.active.status,
            active_reason: self.active.reason.into(),
            active_since_ms: 0,
            initialized: self.initialized,
        };
        if record == self.recorded {
            return;
        }
        self.recorded = record.clone();
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

    /// The decision with its inputs, for `nihilo why`.
    fn explain(
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

fn uid_of(key: &ObjectKey, view: View<'_>) -> String {
    let revision = view.state.revision(key);
    revision.map_or_else(String::new, |revision| revision.metadata.uid.clone())
}

fn count_ready(key: &ObjectKey, view: View<'_>) -> u32 {
    let uid = uid_of(key, view);
    let ready = view.table.of_life(key, &uid).filter(|(_, row)| {
        matches!(&row.state, RowState::Reported(report) if report.state == InstanceState::Ready)
    });
    u32::try_from(ready.count()).unwrap_or(u32::MAX)
}

fn reachability_of(revision: &Revision) -> Reachability {
    match revision.routing_state() {
        RoutingState::Active => Reachability::Reachable,
        RoutingState::Reserve => Reachability::Unreachable,
        RoutingState::Pending => Reachability::Unknown,
    }
}
