//! A node's agent on a fake driver. Mirrors `runtime/agent.rs` and `runtime/life.rs`, and the
//! limiter of `gateway/limiter.rs`; the floors are the real ones.

use std::collections::{BTreeMap, BTreeSet};

use nihilo_types::fence::Floors;
use nihilo_types::id::{Epoch, InstanceId, ObjectKey, SessionId, ShardId};
use nihilo_types::instance::{Exit, InstanceReport, InstanceSpec, InstanceState};

use super::World;
use super::calls::{CallAnswer, CallFence, CallRefusal, WireBody};
use super::event::{Address, Event};
use super::plan::{MS, SECOND};
use super::plant::Plant;

/// Ended instances that are remembered, at most.
const MAX_REMEMBERED: usize = 200;
/// From one state of an instance to the task that acts on it.
const LOOK_US: (u64, u64) = (10, 200);
/// Permille of stops to which the fault `late_clients` applies.
const LATE_CLIENTS: u64 = 300;
/// Longest from a thaw to the good look.
const WAKE_US: u64 = 50 * MS;
/// From exited to destroyed: the last output is waited for.
const LAST_WORDS_US: u64 = 20 * MS;

#[derive(Debug, Default)]
pub(crate) struct Agent {
    floors: Floors,
    pub(crate) is_accepting: bool,
    pub(crate) instances: BTreeMap<InstanceId, Instance>,
    pub(crate) subscribers: BTreeSet<(Address, SessionId)>,
    /// The frozen one that was stopped last to make room.
    evicted: Option<InstanceId>,
}

#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) report: InstanceReport,
    spec: InstanceSpec,
    started_us: u64,
    /// In its state since then.
    since_us: u64,
    wants_run: bool,
    /// Where it is not to run: it is to be frozen and not stopped.
    freezes: bool,
    pub(crate) gate_is_open: bool,
    limit: u32,
    /// Requests being executed: number, attempt, and the gateway that sent each.
    pub(crate) running: BTreeMap<usize, (u32, Address)>,
    /// Places given to gateways that have not sent their request yet, and since when.
    pub(crate) held: BTreeMap<u64, u64>,
    /// The node ends: nobody calls its stop off.
    leaves: bool,
    fate: Fate,
    pub(crate) has_term: bool,
    /// Counts drains, so that an old deadline ends no new one.
    n_drains: u32,
}

/// What the fake driver lets happen to one instance.
#[derive(Debug, Clone, Copy)]
struct Fate {
    spawn_us: u64,
    /// `None` = it never listens.
    boot_us: Option<u64>,
    fails_to_spawn: bool,
    /// Since it listens.
    crash_after_us: Option<u64>,
    /// Requests are taken and never answered from then on.
    hang_after_us: Option<u64>,
    ignores_term: bool,
    term_us: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Begin,
    Spawned,
    Listening,
    BootDeadline,
    /// Look whether an order, or the end of a drain, is to be followed.
    Look,
    /// Thawed, and seen to listen.
    Woken,
    DrainDeadline(u32),
    Crash,
    Ended,
    Kill,
    Destroyed,
}

impl Agent {
    /// Instances that count, by id.
    pub(crate) fn running(&self) -> Vec<InstanceId> {
        let counted = self.instances.iter();
        counted
            .filter(|(_, instance)| instance.report.state.is_counted())
            .map(|(id, _)| id.clone())
            .collect()
    }

    fn is_making_room(&self) -> bool {
        let evicted = self.evicted.as_ref();
        let evicted = evicted.and_then(|id| self.instances.get(id));
        evicted.is_some_and(|instance| {
            let is_to_end = !instance.wants_run && !instance.freezes;
            is_to_end && instance.report.state.is_counted()
        })
    }

    fn forget_old(&mut self) {
        let ended = |instance: &Instance| instance.report.state == InstanceState::Destroyed;
        let surplus = self.instances.values().filter(|i| ended(i)).count();
        let surplus = surplus.saturating_sub(MAX_REMEMBERED);
        let oldest: Vec<_> = self
            .instances
            .iter()
            .filter(|(_, instance)| ended(instance))
            .take(surplus)
            .map(|(id, _)| id.clone())
            .collect();
        for id in oldest {
            self.instances.remove(&id);
        }
    }
}

impl Instance {
    /// `LocalInstances::admit`.
    pub(crate) fn admit(&self, minds_limit: bool) -> Result<(), super::gateway::Refusal> {
        use super::gateway::Refusal;
        let is_known = match self.report.state {
            InstanceState::Ready | InstanceState::Frozen => true,
            InstanceState::Draining | InstanceState::Stopping => true,
            InstanceState::Booting => self.report.ready_after_ms > 0,
            _ => false,
        };
        if !is_known {
            return Err(Refusal::Gone);
        }
        if !self.gate_is_open {
            return Err(Refusal::Draining);
        }
        if minds_limit && self.limit > 0 && self.n_taken() >= self.limit as usize {
            return Err(Refusal::Busy);
        }
        Ok(())
    }

    pub(crate) fn wants(&self) -> bool {
        self.wants_run
    }

    /// Requests in execution and places that are held for some.
    pub(crate) fn n_taken(&self) -> usize {
        self.running.len() + self.held.len()
    }

    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    pub(crate) fn leave(&mut self) {
        (self.leaves, self.wants_run, self.freezes) = (true, false, false);
    }

    /// Whatever ailed it is over.
    pub(crate) fn cure(&mut self) {
        self.fate.hang_after_us = None;
        self.fate.ignores_term = false;
    }

    fn refreshed(&self, now_us: u64) -> InstanceReport {
        let mut report = self.report.clone();
        report.age_ms = (now_us - self.started_us) / MS;
        report.in_flight = u32::try_from(self.n_taken()).unwrap_or(u32::MAX);
        report
    }

    pub(crate) fn hangs(&self, now_us: u64) -> bool {
        let since = self.started_us + self.report.ready_after_ms * MS;
        let hangs = self.fate.hang_after_us;
        hangs.is_some_and(|after| now_us >= since + after)
    }
}

impl World {
    pub(crate) fn set_floors(&mut self, n: usize, floors: &[(ShardId, Epoch)]) {
        if self.plant == Some(Plant::FloorForgotten) {
            return;
        }
        for (shard, epoch) in floors {
            self.nodes[n].agent.floors.raise(*shard, *epoch);
        }
    }

    pub(crate) fn set_accepting(&mut self, n: usize, accepting: bool) {
        self.nodes[n].agent.is_accepting = accepting;
    }

    pub(crate) fn agent_call(&mut self, n: usize, call: WireBody) -> CallAnswer {
        let is_of_this_life = |session| {
            session == self.nodes[n].control.session || self.plant == Some(Plant::SessionIgnored)
        };
        let answer = match call {
            WireBody::Start(session, ..) if !is_of_this_life(session) => Err(CallRefusal::NotReady),
            WireBody::Start(_, fence, spec) => self.agent_start(n, fence, *spec),
            WireBody::Stop(fence, id) => self.agent_stop(n, fence, &id),
            WireBody::Reopen(fence, id) | WireBody::Thaw(fence, id) => {
                self.agent_reopen(n, fence, &id)
            }
            WireBody::Freeze(fence, id) => self.agent_freeze(n, fence, &id),
            WireBody::List(fences) => self.agent_list(n, &fences),
        };
        answer.unwrap_or_else(CallAnswer::Refused)
    }

    fn admit_call(&mut self, n: usize, fence: CallFence) -> Result<(), CallRefusal> {
        let CallFence { shard, epoch, seq } = fence;
        let node = &self.nodes[n];
        if !node.agent.is_accepting {
            return Err(CallRefusal::NotReady);
        }
        let plant = self.plant;
        let admitted = match self.nodes[n].agent.floors.admit(shard, epoch, seq) {
            Ok(()) => true,
            Err(nihilo_types::fence::Stale::Epoch(_)) => plant == Some(Plant::EpochIgnored),
            Err(nihilo_types::fence::Stale::Seq) => plant == Some(Plant::SeqIgnored),
        };
        if !admitted {
            return Err(CallRefusal::Stale);
        }
        let verdict = self.checks.floors.accepted(n, shard, epoch, seq);
        self.judge("agent floors", verdict);
        Ok(())
    }

    /// As [`Self::admit_call`], for what changes something.
    fn admit_order(&mut self, n: usize, fence: CallFence) -> Result<(), CallRefusal> {
        if self.nodes[n].leaving.is_some() {
            return Err(CallRefusal::NotReady);
        }
        self.admit_call(n, fence)
    }

    fn agent_start(
        &mut self,
        n: usize,
        fence: CallFence,
        spec: InstanceSpec,
    ) -> Result<CallAnswer, CallRefusal> {
        self.admit_order(n, fence)?;
        let now_us = self.now_us;
        let agent = &mut self.nodes[n].agent;
        if let Some(instance) = agent.instances.get(&spec.id) {
            return Ok(CallAnswer::Started(Box::new(instance.refreshed(now_us))));
        }
        if agent.running().len() >= self.plan.capacity as usize {
            self.make_room(n);
            return Err(CallRefusal::NoCapacity);
        }
        agent.forget_old();
        let id = spec.id.clone();
        let report = spec.accepted(fence.shard, fence.epoch);
        let fate = self.draw_fate();
        self.trace.add(now_us, &[7, n as u64, fence.seq], || {
            format!(
                "node {} starts {id} for epoch {} ({fate:?})",
                n + 1,
                fence.epoch
            )
        });
        let verdict = self.observe_start(n, &spec);
        self.judge("max-scale", verdict);
        let instance = Instance {
            report: report.clone(),
            limit: spec.container_concurrency,
            spec,
            started_us: now_us,
            since_us: now_us,
            wants_run: true,
            freezes: false,
            gate_is_open: false,
            running: BTreeMap::new(),
            held: BTreeMap::new(),
            leaves: false,
            fate,
            has_term: false,
            n_drains: 0,
        };
        self.nodes[n].agent.instances.insert(id.clone(), instance);
        self.counters.n_instances += 1;
        self.instance_later(n, &id, LOOK_US.0, Step::Begin);
        Ok(CallAnswer::Started(Box::new(report)))
    }

    fn agent_stop(
        &mut self,
        n: usize,
        fence: CallFence,
        id: &InstanceId,
    ) -> Result<CallAnswer, CallRefusal> {
        self.admit_order(n, fence)?;
        let instance = self.nodes[n].agent.instances.get_mut(id);
        let instance = instance.ok_or(CallRefusal::TooLate)?;
        (instance.wants_run, instance.freezes) = (false, false);
        self.look_soon(n, id);
        Ok(CallAnswer::Done)
    }

    fn agent_freeze(
        &mut self,
        n: usize,
        fence: CallFence,
        id: &InstanceId,
    ) -> Result<CallAnswer, CallRefusal> {
        self.admit_order(n, fence)?;
        let instance = self.nodes[n].agent.instances.get_mut(id);
        let instance = instance.ok_or(CallRefusal::TooLate)?;
        let is_so = !instance.wants_run && instance.freezes;
        match instance.report.state {
            InstanceState::Ready | InstanceState::Draining | InstanceState::Frozen => {
                (instance.wants_run, instance.freezes) = (false, true);
            }
            _ => return Err(CallRefusal::TooLate),
        }
        self.look_soon(n, id);
        if is_so {
            self.tell_again(n, id);
        }
        Ok(CallAnswer::Done)
    }

    /// `Table::make_room`.
    fn make_room(&mut self, n: usize) {
        let agent = &mut self.nodes[n].agent;
        if agent.is_making_room() {
            return;
        }
        let frozen = agent.instances.iter_mut().filter(|(_, instance)| {
            let is_kept = instance.freezes && !instance.wants_run;
            is_kept && instance.report.state == InstanceState::Frozen
        });
        if let Some((id, instance)) = frozen.min_by_key(|(_, instance)| instance.since_us) {
            instance.freezes = false;
            let id = id.clone();
            agent.evicted = Some(id.clone());
            self.look_soon(n, &id);
        }
    }

    /// Whoever asks for what is so already has missed what it has become.
    fn tell_again(&mut self, n: usize, id: &InstanceId) {
        let now_us = self.now_us;
        let instance = self.nodes[n].agent.instances.get(id);
        if let Some(report) = instance.map(|instance| instance.refreshed(now_us)) {
            self.tell_subscribers(n, &report);
        }
    }

    fn agent_reopen(
        &mut self,
        n: usize,
        fence: CallFence,
        id: &InstanceId,
    ) -> Result<CallAnswer, CallRefusal> {
        self.admit_order(n, fence)?;
        let plant = self.plant;
        let instance = self.nodes[n].agent.instances.get_mut(id);
        let instance = instance.ok_or(CallRefusal::TooLate)?;
        let is_so = instance.wants_run;
        match instance.report.state {
            InstanceState::Draining | InstanceState::Ready | InstanceState::Frozen => {
                instance.wants_run = true;
            }
            InstanceState::Booting if instance.report.ready_after_ms > 0 => {
                instance.wants_run = true;
            }
            InstanceState::Stopping if plant == Some(Plant::ReopenAfterSigterm) => {
                (instance.gate_is_open, instance.wants_run) = (true, true);
                self.enter(n, id, InstanceState::Ready);
                return Ok(CallAnswer::Done);
            }
            _ => return Err(CallRefusal::TooLate),
        }
        self.look_soon(n, id);
        if is_so {
            self.tell_again(n, id);
        }
        Ok(CallAnswer::Done)
    }

    fn agent_list(&mut self, n: usize, fences: &[CallFence]) -> Result<CallAnswer, CallRefusal> {
        for fence in fences {
            self.admit_call(n, *fence)?;
        }
        let now_us = self.now_us;
        let agent = &mut self.nodes[n].agent;
        for fence in fences {
            agent.floors.listed(fence.shard, fence.seq);
            self.checks.floors.listed(n, fence.shard, fence.seq);
        }
        let wanted = |report: &InstanceReport| {
            report.state.is_counted() && fences.iter().any(|fence| fence.shard == report.shard)
        };
        let found = agent.instances.values().filter(|i| wanted(&i.report));
        Ok(CallAnswer::Listed(
            found.map(|instance| instance.refreshed(now_us)).collect(),
        ))
    }

    fn draw_fate(&mut self) -> Fate {
        let trouble = self.plan.faults.instance_trouble;
        let random = &mut self.random;
        let mut bad = |permille| trouble && random.chance(permille);
        let (never, fails, crashes) = (bad(40), bad(30), bad(120));
        let (hangs, ignores, slow, lingers) = (bad(40), bad(60), bad(80), bad(250));
        let boot_us = match slow {
            true => random.between(SECOND, 59 * SECOND),
            false => random.skewed(MS, 800 * MS),
        };
        Fate {
            spawn_us: random.skewed(500, 20 * MS),
            boot_us: (!never).then_some(boot_us),
            fails_to_spawn: fails,
            crash_after_us: crashes.then(|| random.skewed(0, 30 * SECOND)),
            hang_after_us: hangs.then(|| random.skewed(0, 20 * SECOND)),
            ignores_term: ignores,
            term_us: match lingers {
                true => random.skewed(100 * MS, 8 * SECOND),
                false => random.skewed(MS, 100 * MS),
            },
        }
    }

    fn instance_later(&mut self, n: usize, id: &InstanceId, after_us: u64, step: Step) {
        let id = id.clone();
        self.at_node(n, after_us, Event::Instance { id, step });
    }

    pub(crate) fn look_soon(&mut self, n: usize, id: &InstanceId) {
        let delay = self.random.between(LOOK_US.0, LOOK_US.1);
        self.instance_later(n, id, delay, Step::Look);
    }

    /// `life::run`, one step of it.
    pub(crate) fn instance_step(&mut self, n: usize, id: &InstanceId, step: Step) {
        let Some(instance) = self.nodes[n].agent.instances.get(id) else {
            return;
        };
        let (state, fate) = (instance.report.state, instance.fate);
        let boot_deadline_us = instance.spec.boot_deadline_ms * MS;
        match (step, state) {
            (Step::Begin, InstanceState::Preparing) => {
                self.enter(n, id, InstanceState::Starting);
                self.instance_later(n, id, fate.spawn_us, Step::Spawned);
            }
            (Step::Spawned, InstanceState::Starting) if fate.fails_to_spawn => {
                let cause = "no such program".to_owned();
                let stage = "exec".to_owned();
                self.exited(n, id, Exit::StartFailed { stage, cause });
            }
            (Step::Spawned, InstanceState::Starting) => {
                self.enter(n, id, InstanceState::Booting);
                if let Some(boot_us) = fate.boot_us {
                    self.instance_later(n, id, boot_us, Step::Listening);
                }
                self.instance_later(n, id, boot_deadline_us, Step::BootDeadline);
                self.follow_orders(n, id);
            }
            (Step::Listening, InstanceState::Booting) => self.ready(n, id),
            (Step::Woken, InstanceState::Booting) => self.awake(n, id),
            (Step::BootDeadline, InstanceState::Booting) if instance.report.ready_after_ms == 0 => {
                let after_ms = boot_deadline_us / MS;
                self.set_exit(n, id, Exit::NeverReady { after_ms });
                self.stop_instance(n, id, true);
            }
            (Step::Look, _) => self.follow_orders(n, id),
            (Step::DrainDeadline(drain), InstanceState::Draining | InstanceState::Stopping) => {
                let instance = &self.nodes[n].agent.instances[id];
                if instance.n_drains == drain && !instance.has_term {
                    self.stop_instance(n, id, true);
                }
            }
            // Killed, as by the kernel for want of memory: by itself it can do nothing.
            (Step::Crash, InstanceState::Frozen) => self.exited(n, id, Exit::Signal(9)),
            (Step::Crash, state) if is_up(state) => self.exited(n, id, Exit::Code(1)),
            (Step::Ended, InstanceState::Stopping) => self.exited(n, id, Exit::Code(0)),
            (Step::Kill, InstanceState::Stopping) => self.exited(n, id, Exit::Signal(9)),
            (Step::Destroyed, InstanceState::Exited) => {
                self.enter(n, id, InstanceState::Destroyed);
            }
            // `reopen-after-sigterm` leaves the process to its end.
            (Step::Ended | Step::Kill, state) if is_up(state) => {
                self.exited(n, id, Exit::Signal(15));
            }
            _ => {}
        }
    }

    fn ready(&mut self, n: usize, id: &InstanceId) {
        let now_us = self.now_us;
        let Some(instance) = self.nodes[n].agent.instances.get_mut(id) else {
            return;
        };
        instance.gate_is_open = true;
        let fate = instance.fate;
        if instance.report.ready_after_ms == 0 {
            instance.report.ready_after_ms = ((now_us - instance.started_us) / MS).max(1);
        }
        self.enter(n, id, InstanceState::Ready);
        if let Some(after) = fate.crash_after_us {
            self.instance_later(n, id, after, Step::Crash);
        }
        self.follow_orders(n, id);
    }

    /// `Life::wake`.
    fn awake(&mut self, n: usize, id: &InstanceId) {
        let Some(instance) = self.nodes[n].agent.instances.get_mut(id) else {
            return;
        };
        instance.gate_is_open = true;
        self.enter(n, id, InstanceState::Ready);
        self.follow_orders(n, id);
    }

    /// Compares what is wanted with the state (`Life::lead`).
    fn follow_orders(&mut self, n: usize, id: &InstanceId) {
        let plant = self.plant;
        let cuts = plant == Some(Plant::DrainCutsRequests);
        let Some(instance) = self.nodes[n].agent.instances.get_mut(id) else {
            return;
        };
        let deadline_us = instance.spec.drain_deadline_ms * MS;
        match (instance.report.state, instance.wants_run) {
            (InstanceState::Booting, false) if instance.report.ready_after_ms == 0 => {
                self.stop_instance(n, id, true);
            }
            (InstanceState::Booting | InstanceState::Ready, false) => {
                instance.gate_is_open = false;
                instance.n_drains += 1;
                let drain = instance.n_drains;
                let state = match instance.leaves {
                    // Seen as on its way out: owners replace it and never open it again.
                    true => InstanceState::Stopping,
                    false => InstanceState::Draining,
                };
                self.enter(n, id, state);
                self.instance_later(n, id, deadline_us, Step::DrainDeadline(drain));
                self.look_soon(n, id);
            }
            (InstanceState::Draining, true) => {
                instance.gate_is_open = true;
                self.enter(n, id, InstanceState::Ready);
            }
            (InstanceState::Draining, false) if instance.freezes && instance.n_taken() == 0 => {
                self.counters.n_frozen += 1;
                instance.gate_is_open = plant == Some(Plant::FreezesOpen);
                self.enter(n, id, InstanceState::Frozen);
            }
            (InstanceState::Frozen, true) => {
                let after = self.random.skewed(LOOK_US.0, WAKE_US);
                self.enter(n, id, InstanceState::Booting);
                self.instance_later(n, id, after, Step::Woken);
            }
            (InstanceState::Frozen, false) if !instance.freezes => {
                self.stop_instance(n, id, false);
            }
            (InstanceState::Draining, false) if instance.n_taken() == 0 || cuts => {
                self.stop_instance(n, id, false);
            }
            (InstanceState::Draining, false) if instance.leaves => {
                self.enter(n, id, InstanceState::Stopping);
            }
            (InstanceState::Stopping, false) if !instance.has_term && instance.n_taken() == 0 => {
                self.stop_instance(n, id, false);
            }
            _ => {}
        }
    }

    fn stop_instance(&mut self, n: usize, id: &InstanceId, overdue: bool) {
        let Some(instance) = self.nodes[n].agent.instances.get_mut(id) else {
            return;
        };
        instance.has_term = true;
        let fate = instance.fate;
        let grace_us = instance.spec.termination_grace_ms * MS;
        let verdict = crate::invariants::drain::term_sent(id, instance.running.len(), overdue);
        self.judge("drain", verdict);
        self.enter(n, id, InstanceState::Stopping);
        let (after, step) = match fate.ignores_term {
            true => (grace_us, Step::Kill),
            false => (fate.term_us, Step::Ended),
        };
        self.instance_later(n, id, after, step);
    }

    /// `Agent::shutdown`: what is left after the grace is killed, before the session ends.
    pub(crate) fn kill_instances(&mut self, n: usize) {
        for id in self.nodes[n].agent.running() {
            self.exited(n, &id, Exit::Signal(9));
        }
    }

    fn set_exit(&mut self, n: usize, id: &InstanceId, exit: Exit) {
        if let Some(instance) = self.nodes[n].agent.instances.get_mut(id) {
            instance.report.exit = Some(exit);
        }
    }

    fn exited(&mut self, n: usize, id: &InstanceId, exit: Exit) {
        let Some(instance) = self.nodes[n].agent.instances.get_mut(id) else {
            return;
        };
        // What was decided before the process ended is the reason.
        instance.report.exit.get_or_insert(exit);
        instance.gate_is_open = false;
        let cut = std::mem::take(&mut instance.running);
        instance.held.clear();
        self.enter(n, id, InstanceState::Exited);
        self.checks.instances.gone(id);
        self.requests_cut(n, &cut);
        self.instance_later(n, id, LAST_WORDS_US, Step::Destroyed);
    }

    fn enter(&mut self, n: usize, id: &InstanceId, state: InstanceState) {
        let now_us = self.now_us;
        let Some(instance) = self.nodes[n].agent.instances.get_mut(id) else {
            return;
        };
        (instance.report.state, instance.since_us) = (state, now_us);
        let verdict = crate::invariants::drain::told(id, state, instance.has_term);
        let report = instance.refreshed(now_us);
        self.judge("drain", verdict);
        self.trace.add(now_us, &[8, n as u64, state as u64], || {
            format!("node {}: {id} {state:?}", n + 1)
        });
        self.tell_subscribers(n, &report);
        if matches!(
            state,
            InstanceState::Draining | InstanceState::Frozen | InstanceState::Stopping
        ) {
            self.late_clients(&report.revision);
        }
    }

    /// Clients who come back at the worst moment: just when it is being stopped.
    fn late_clients(&mut self, revision: &ObjectKey) {
        if !self.plan.faults.late_clients || !self.random.chance(LATE_CLIENTS) {
            return;
        }
        let root = |name: &String| revision.name.strip_prefix(name.as_str());
        let of = |name: &String| root(name).is_some_and(|rest| rest.starts_with('-'));
        if let Some(service) = self.workload.services.iter().position(of) {
            for _ in 0..self.random.between(1, 3) {
                let after = self.random.skewed(1, 300 * MS);
                self.send_client_request(service, after);
            }
        }
    }

    fn tell_subscribers(&mut self, n: usize, report: &InstanceReport) {
        let loses = self.plan.faults.broken_streams;
        let subscribers: Vec<_> = self.nodes[n].agent.subscribers.iter().copied().collect();
        for (to, session) in subscribers {
            let lost = loses && self.random.chance(5);
            let report = (!lost).then(|| Box::new(report.clone()));
            if !self.send_in_order(n, to, Event::AgentReport { session, report }) {
                self.agent_stream_breaks(n, session, to);
            }
        }
    }
}

fn is_up(state: InstanceState) -> bool {
    matches!(
        state,
        InstanceState::Booting | InstanceState::Ready | InstanceState::Draining
    )
}
