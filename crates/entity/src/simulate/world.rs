//! One revision, one gateway, one node, and their virtual time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use nihilo_machine::command::{
    CLUSTER_VERSION, Envelope, Expect, InitCluster, Move, OpenSession, PutService, Reassign,
    RequestKey, Roles, Uids,
};
use nihilo_machine::{Command, State};
use nihilo_scale::integrator::Integrator;
use nihilo_types::id::{Epoch, LogIndex, NodeId, ObjectKey, SessionId, ShardId};
use nihilo_types::instance::{InstanceReport, InstanceState, Waking};
use nihilo_types::service::Service;
use nihilo_types::shard::shard_of;
use nihilo_types::template::Container;

use super::instances::{Instances, Random};
use super::{Load, Row, Scenario, Timeline};
use crate::autoscaler::AutoscalerActor;
use crate::decision::DecisionRecord;
use crate::effect::{Effect, Outputs};
use crate::event::Event;
use crate::keeper::Keeper;
use crate::table::{Heard, StatRow, View};

const SESSION: SessionId = SessionId(2);
const EPOCH: Epoch = Epoch(3);
/// A gateway repeats its demand so often while nothing is ready.
const DEMAND_AGAIN_MS: u64 = 250;
/// Virtual time begins late enough for every window to lie in it.
const BEGIN_MS: u64 = 10_000_000;

/// What happens next; the order breaks ties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    Booted(u64),
    Finished(u64),
    Line(usize),
    Demand,
    Second(u64),
    Timer(&'static str, u64),
}

pub(super) struct World<'a> {
    scenario: &'a Scenario,
    state: State,
    key: ObjectKey,
    uid: String,
    shard: ShardId,
    keeper: Keeper,
    actor: AutoscalerActor,
    agenda: BinaryHeap<Reverse<(u64, Next)>>,
    timers: BTreeMap<&'static str, u64>,
    n_timers: u64,
    now_ms: u64,
    end_ms: u64,
    random: Random,
    instances: Instances,
    integrator: Integrator,
    /// The newest measured second, in place of what the integrator says.
    measured: Option<(f64, f64)>,
    is_asking: bool,
    asked_for: u64,
    desired: u32,
    rows: Vec<Row>,
    decisions: Vec<DecisionRecord>,
    n_requests: u64,
    seq: u64,
}

impl<'a> World<'a> {
    pub(super) fn new(scenario: &'a Scenario) -> Self {
        let service_key = ObjectKey::new("default", "simulated");
        let shard = shard_of(&service_key);
        let state = cluster(scenario, shard);
        let key = service_key.sibling("simulated-00001");
        let uid = state
            .revision(&key)
            .map(|revision| revision.metadata.uid.clone())
            .unwrap_or_default();
        let mut keeper = Keeper::new(shard, EPOCH, std::iter::empty());
        keeper.table.complete = true;
        let view = View {
            state: &state,
            table: &keeper.table,
            settings: &scenario.settings,
        };
        let actor = AutoscalerActor::load(&key, view, BEGIN_MS);
        let last_ms = scenario.trace.last().map_or(0, Load::t_ms);
        Self {
            scenario,
            key,
            uid,
            shard,
            actor,
            state,
            keeper,
            agenda: BinaryHeap::new(),
            timers: BTreeMap::new(),
            n_timers: 0,
            now_ms: BEGIN_MS,
            end_ms: BEGIN_MS + last_ms + scenario.tail_s * 1_000,
            random: Random(scenario.seed),
            instances: Instances::default(),
            integrator: Integrator::new(BEGIN_MS * 1_000),
            measured: None,
            is_asking: false,
            asked_for: 0,
            desired: 0,
            rows: Vec::new(),
            decisions: Vec::new(),
            n_requests: 0,
            seq: 0,
        }
    }

    pub(super) fn run(mut self) -> Timeline {
        self.at(BEGIN_MS + 1_000, Next::Second(1));
        for (i, load) in self.scenario.trace.iter().enumerate() {
            self.at(BEGIN_MS + load.t_ms(), Next::Line(i));
        }
        self.turn(&Event::Changed);
        while let Some(Reverse((at_ms, next))) = self.agenda.pop() {
            if at_ms > self.end_ms {
                break;
            }
            self.now_ms = at_ms;
            self.happen(next);
        }
        self.timeline()
    }

    fn at(&mut self, at_ms: u64, next: Next) {
        self.agenda.push(Reverse((at_ms, next)));
    }

    fn happen(&mut self, next: Next) {
        match next {
            Next::Booted(id) => self.booted(id),
            Next::Finished(id) => self.finished(id),
            Next::Line(i) => self.line(i),
            Next::Demand => self.ask_again(),
            Next::Second(t_s) => self.second(t_s),
            Next::Timer(name, stamp) => {
                if self.timers.get(name) == Some(&stamp) {
                    self.timers.remove(name);
                    self.turn(&Event::Timer { name });
                }
            }
        }
    }

    fn line(&mut self, i: usize) {
        match self.scenario.trace[i] {
            Load::Arrivals {
                start, duration_ms, ..
            } => {
                for _ in 0..start {
                    self.n_requests += 1;
                    self.integrator.started(self.now_ms * 1_000);
                    self.instances.queue.push_back((self.now_ms, duration_ms));
                }
                self.dispatch();
                self.ask_if_grown();
            }
            Load::Measured {
                concurrency, rps, ..
            } => {
                self.measured = Some((concurrency, rps));
                if concurrency > 0.0 && self.instances.n_ready(self.now_ms) == 0 {
                    self.demand();
                }
            }
        }
    }

    fn dispatch(&mut self) {
        let limit = self.scenario.container_concurrency;
        while let Some((came_ms, duration_ms)) = self.instances.queue.front().copied() {
            let Some(id) = self.instances.free(self.now_ms, limit) else {
                return;
            };
            self.instances.queue.pop_front();
            self.instances.waits_ms.push(self.now_ms - came_ms);
            if let Some(instance) = self.instances.all.get_mut(&id) {
                instance.in_flight += 1;
            }
            self.at(self.now_ms + duration_ms, Next::Finished(id));
        }
        self.asked_for = 0;
    }

    fn finished(&mut self, id: u64) {
        self.integrator.ended(self.now_ms * 1_000);
        if let Some(instance) = self.instances.all.get_mut(&id) {
            instance.in_flight -= 1;
        }
        self.instances.end_if_idle(id, self.now_ms);
        self.dispatch();
        self.report_instances();
    }

    fn booted(&mut self, id: u64) {
        if self.instances.all.contains_key(&id) {
            self.dispatch();
            self.report_instances();
            self.turn(&Event::Changed);
        }
    }

    /// On the first waiting request, and again on each doubling.
    fn ask_if_grown(&mut self) {
        let waiting = self.instances.queue.len() as u64;
        if waiting > 0 && waiting >= self.asked_for * 2 {
            self.asked_for = waiting;
            self.demand();
        }
    }

    fn demand(&mut self) {
        let waiting = self.instances.queue.len() as u64;
        let measured = self
            .measured
            .map_or(0, |(concurrency, _)| concurrency.ceil() as u64);
        self.turn(&Event::Demand {
            gateway: SESSION,
            n_waiting: waiting.max(measured),
            in_flight: self.instances.in_flight().max(measured),
            oldest_age_ms: 0,
        });
        if !self.is_asking {
            self.is_asking = true;
            self.at(self.now_ms + DEMAND_AGAIN_MS, Next::Demand);
        }
    }

    fn ask_again(&mut self) {
        self.is_asking = false;
        let waits = !self.instances.queue.is_empty();
        if waits && self.instances.n_ready(self.now_ms) == 0 {
            self.demand();
        }
    }

    /// The gateway's batch, and a row of the answer.
    fn second(&mut self, t_s: u64) {
        self.seq += 1;
        let report = self.integrator.report(self.now_ms * 1_000);
        let row = match self.measured.take() {
            Some((concurrency, rps)) => StatRow {
                seq: self.seq,
                area_us: (concurrency * 1e6) as u64,
                used_us: 1_000_000,
                n_started: rps.round() as u64,
                in_flight: concurrency.round() as u64,
                queued: 0,
                oldest_ms: 0,
            },
            None => StatRow {
                seq: self.seq,
                area_us: report.area_us,
                used_us: report.used_us,
                n_started: report.n_started,
                in_flight: report.in_flight,
                queued: self.instances.queue.len() as u64,
                oldest_ms: 0,
            },
        };
        if row.area_us > 0 || row.n_started > 0 || row.in_flight > 0 {
            self.keeper.reported_load(&self.key, SESSION, row);
        }
        let heard = Heard {
            seq: self.seq,
            at_ms: self.now_ms,
        };
        self.keeper.table.heard.insert(SESSION, heard);
        self.turn(&Event::Changed);
        self.rows.push(Row {
            t_s,
            desired: self.desired,
            instances: self.instances.n_staying(),
            ready: self.instances.n_ready(self.now_ms),
            in_flight: self.instances.in_flight(),
            queued: self.instances.queue.len() as u64,
            panic: self
                .decisions
                .last()
                .is_some_and(|d| d.panic_since_ms.is_some()),
        });
        self.at(self.now_ms + 1_000, Next::Second(t_s + 1));
    }

    fn turn(&mut self, event: &Event) {
        let view = View {
            state: &self.state,
            table: &self.keeper.table,
            settings: &self.scenario.settings,
        };
        let Outputs { effects, timers } = self.actor.turn(view, event, self.now_ms);
        for timer in timers {
            self.n_timers += 1;
            match timer.after_ms {
                Some(after_ms) => {
                    self.timers.insert(timer.name, self.n_timers);
                    self.at(
                        self.now_ms + after_ms,
                        Next::Timer(timer.name, self.n_timers),
                    );
                }
                None => drop(self.timers.remove(timer.name)),
            }
        }
        for effect in effects {
            match effect {
                Effect::Tell(_, Event::Desired { n, .. }) => self.scale_to(n),
                Effect::Explain { record, .. } => self.decisions.push(*record),
                Effect::Propose(_)
                | Effect::RecordScale(_)
                | Effect::Start { .. }
                | Effect::Stop { .. }
                | Effect::Reopen { .. }
                | Effect::Freeze { .. }
                | Effect::Thaw { .. }
                | Effect::PushEndpoints(_)
                | Effect::Tell(..) => {}
            }
        }
    }

    /// In place of the Revision actor: at once, on one node that has room.
    fn scale_to(&mut self, n: u32) {
        self.desired = n;
        let have = self.instances.n_staying();
        for _ in have..n {
            let boot_ms = self.random.boot_ms(self.scenario.boot);
            let (id, ready_at_ms) = self.instances.start(self.now_ms, boot_ms);
            self.at(ready_at_ms, Next::Booted(id));
        }
        self.instances.stop(have.saturating_sub(n), self.now_ms);
        self.report_instances();
    }

    fn report_instances(&mut self) {
        let reports = self
            .instances
            .all
            .iter()
            .map(|(id, instance)| InstanceReport {
                id: Instances::id(*id),
                revision: self.key.clone(),
                revision_uid: self.uid.as_str().into(),
                shard: self.shard,
                epoch: EPOCH,
                state: match (instance.is_leaving, instance.ready_at_ms <= self.now_ms) {
                    (true, _) => InstanceState::Draining,
                    (false, true) => InstanceState::Ready,
                    (false, false) => InstanceState::Booting,
                },
                address: None,
                pid: None,
                in_flight: instance.in_flight,
                age_ms: self.now_ms - instance.started_ms,
                spawned_after_ms: 0,
                ready_after_ms: match instance.ready_at_ms <= self.now_ms {
                    true => instance.ready_at_ms - instance.started_ms,
                    false => 0,
                },
                exit: None,
                last_output: Vec::new(),
                isolation: None,
                waking: Waking::default(),
            });
        let reports = reports.collect();
        self.keeper
            .listed((SESSION, NodeId(1)), u64::MAX, reports, self.now_ms);
    }

    fn timeline(mut self) -> Timeline {
        let end_ms = self.now_ms.min(self.end_ms);
        let alive = self
            .instances
            .all
            .values()
            .map(|i| end_ms - i.started_ms.min(end_ms));
        let lived_ms = self.instances.lived_ms + alive.sum::<u64>();
        let mut panics: Vec<(u64, u64)> = Vec::new();
        let mut was_in_panic = false;
        for decision in &self.decisions {
            let at_ms = decision.at_ms - BEGIN_MS;
            let is_in_panic = decision.panic_since_ms.is_some();
            match (panics.last_mut(), is_in_panic) {
                (Some(last), _) if was_in_panic => last.1 = at_ms,
                (_, true) => panics.push((at_ms, at_ms)),
                _ => {}
            }
            was_in_panic = is_in_panic;
        }
        Timeline {
            rows: std::mem::take(&mut self.rows),
            n_requests: self.n_requests,
            cold_starts: self.instances.n_started,
            instance_seconds: lived_ms as f64 / 1e3,
            wait_mean_ms: self.instances.wait_mean_ms(),
            wait_p50_ms: self.instances.wait_ms(0.5),
            wait_p99_ms: self.instances.wait_ms(0.99),
            wait_max_ms: self.instances.wait_ms(1.0),
            panics,
            decisions: self.decisions,
        }
    }
}

/// A cluster of one node that owns the shard, with the revision in it.
fn cluster(scenario: &Scenario, shard: ShardId) -> State {
    let mut service = Service::default();
    service.metadata.name = "simulated".into();
    let template = &mut service.spec.template;
    template
        .metadata
        .annotations
        .clone_from(&scenario.annotations);
    template.spec.container_concurrency = Some(scenario.container_concurrency);
    template.spec.containers = vec![Container {
        image: "demo/hello".into(),
        ..Container::default()
    }];
    let uid = |of: &str| of.to_owned();
    let commands = [
        Command::InitCluster(InitCluster {
            cluster_id: "simulated".into(),
            name: "simulated".into(),
            domain: "localhost".into(),
            external_port: 80,
            autoscaler: BTreeMap::new(),
        }),
        Command::OpenSession(OpenSession {
            node: NodeId(1),
            name: "node1".into(),
            boot_id: "1".into(),
            roles: Roles::ALL,
            peer_address: String::new(),
            gateway_address: String::new(),
            admin_address: String::new(),
            pid: 1,
            capacity: u32::MAX,
            t_self_ms: 400,
            kills_instances_on_exit: true,
            store_id: String::new(),
        }),
        Command::Reassign(Reassign {
            moves: vec![Move {
                shard,
                from_epoch: Epoch(0),
                to: SESSION,
            }],
        }),
        Command::PutService(Box::new(PutService {
            service,
            expect: Expect::Any,
            uids: Uids {
                service: uid("service"),
                configuration: uid("configuration"),
                route: uid("route"),
                revision: uid("revision"),
            },
            user: "simulated".into(),
        })),
    ];
    let mut state = State::default();
    for (i, command) in commands.into_iter().enumerate() {
        let index = i as u64 + 1;
        let envelope = Envelope {
            cluster_version: CLUSTER_VERSION,
            log_ms: index,
            wall_ms: index,
            request: RequestKey::default(),
            command,
        };
        state.apply(LogIndex(index), &envelope);
    }
    state
}
