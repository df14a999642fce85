//! Whatever comes in, in whatever order: orders never make more than max-scale.

use std::collections::BTreeMap;

use nihilo_entity::keeper::RESTART_GRACE_MS;
use nihilo_entity::revision::RevisionActor;
use nihilo_entity::rows::is_counted;
use nihilo_entity::table::{Refusal, RefusalKind, RowState};
use nihilo_entity::{Effect, Event};
use nihilo_machine::member::Duty;
use nihilo_types::autoscaler::DataPath;
use nihilo_types::id::{InstanceId, NodeId, SessionId};
use nihilo_types::instance::{Exit, InstanceState};
use proptest::prelude::*;

use crate::stage::{ONE, Stage, TWO, key};

/// One thing that may happen. Numbers choose among what is there.
#[derive(Debug, Clone)]
enum Happening {
    Desired(u32),
    Look,
    Reload,
    Pass(u64),
    /// A start gets as far as its agent, or is refused there.
    Arrive(usize),
    Refuse(usize, u8),
    /// An instance goes on in its life.
    Advance(usize),
    Crash(usize),
    /// An agent answers a list that was asked for now, or before what was sent since.
    List(bool, bool),
    /// A node is declared down; its instances live on.
    Down(bool),
    /// It is back: its agent joins, and later lists what it still runs.
    Back(bool),
    /// What the nodes are given to do.
    Duties([Duty; 2]),
}

fn happening() -> impl Strategy<Value = Happening> {
    use Happening::*;
    prop_oneof![
        6 => (0u32..6).prop_map(Desired),
        2 => Just(Look),
        1 => Just(Reload),
        3 => prop::sample::select(vec![10, 500, 1_100, 5_000]).prop_map(Pass),
        6 => (0usize..9).prop_map(Arrive),
        2 => (0usize..9, 0u8..4).prop_map(|(i, kind)| Refuse(i, kind)),
        6 => (0usize..9).prop_map(Advance),
        2 => (0usize..9).prop_map(Crash),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(node, late)| List(node, late)),
        1 => any::<bool>().prop_map(Down),
        2 => any::<bool>().prop_map(Back),
        2 => [duty(), duty()].prop_map(Duties),
    ]
}

fn idle() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["stop", "freeze"])
}

fn duty() -> impl Strategy<Value = Duty> {
    prop::sample::select(vec![Duty::Full, Duty::Full, Duty::Cordoned, Duty::Drained])
}

/// The cluster as it truly is, beside what the keeper knows of it.
struct World {
    stage: Stage,
    actor: RevisionActor,
    /// By node: its open session, if any.
    sessions: [Option<SessionId>; 2],
    /// Starts on their way, with the number of their call.
    on_their_way: BTreeMap<InstanceId, (usize, u64)>,
    /// What the agents run.
    running: BTreeMap<InstanceId, (usize, InstanceState)>,
    seq: u64,
}

impl World {
    fn new(max_scale: u32) -> Self {
        Self::idling(max_scale, "stop")
    }

    fn idling(max_scale: u32, idle: &str) -> Self {
        let max = max_scale.to_string();
        let mut stage = Stage::new(&[("max-scale", &max), ("nihilo.dev/idle", idle)]);
        stage.route();
        let actor = RevisionActor::load(&key("hello-00001"), stage.view());
        Self {
            stage,
            actor,
            sessions: [Some(ONE), Some(TWO)],
            on_their_way: BTreeMap::new(),
            running: BTreeMap::new(),
            seq: 0,
        }
    }

    fn n_counted(&self) -> usize {
        let revision = key("hello-00001");
        let rows = self.stage.keeper.table.of(&revision);
        rows.filter(|(_, row)| is_counted(row)).count()
    }

    /// A turn with its effects; returns how many starts it ordered.
    fn turn(&mut self, event: &Event) -> usize {
        let outputs = self.actor.turn(self.stage.view(), event, self.stage.now_ms);
        self.stage.execute(&outputs);
        let mut n_starts = 0;
        for effect in outputs.effects {
            match effect {
                Effect::Start { session, spec } => {
                    n_starts += 1;
                    self.seq += 1;
                    self.stage.keeper.leaving(&spec.id, self.seq);
                    if let Some(node) = self.node_of(session) {
                        self.on_their_way.insert(spec.id.clone(), (node, self.seq));
                    }
                }
                Effect::Stop { instance, .. } => self.order(&instance, InstanceState::Draining),
                Effect::Reopen { instance, .. } if self.is(&instance, InstanceState::Draining) => {
                    self.order(&instance, InstanceState::Ready);
                }
                Effect::Freeze { instance, .. } => self.order(&instance, InstanceState::Frozen),
                Effect::Thaw { instance, .. } if self.is(&instance, InstanceState::Frozen) => {
                    self.order(&instance, InstanceState::Booting);
                }
                _ => {}
            }
        }
        n_starts
    }

    fn is(&self, id: &InstanceId, wanted: InstanceState) -> bool {
        let running = self.running.get(id);
        running.is_some_and(|(_, state)| *state == wanted)
    }

    fn node_of(&self, session: SessionId) -> Option<usize> {
        self.sessions.iter().position(|open| *open == Some(session))
    }

    /// The agent obeys, if it can be reached; its event tells the keeper.
    fn order(&mut self, id: &InstanceId, state: InstanceState) {
        let Some((node, _)) = self.running.get(id).copied() else {
            return;
        };
        if self.sessions[node].is_some() {
            self.running.insert(id.clone(), (node, state));
            self.tell(id);
        }
    }

    fn tell(&mut self, id: &InstanceId) {
        let (node, state) = self.running[id];
        if let Some(session) = self.sessions[node] {
            let report = self.stage.report(id, state);
            self.stage.take(session, report);
        }
    }

    fn pick<T: Clone>(from: Vec<T>, i: usize) -> Option<T> {
        let n = from.len();
        (n > 0).then(|| from[i % n].clone())
    }

    fn happen(&mut self, happening: &Happening) {
        match happening {
            Happening::Desired(_) | Happening::Look => {}
            Happening::Reload => {
                self.actor = RevisionActor::load(&key("hello-00001"), self.stage.view());
            }
            Happening::Pass(ms) => {
                self.stage.now_ms += ms;
                let now_ms = self.stage.now_ms;
                self.stage.keeper.sweep(now_ms);
            }
            Happening::Arrive(i) => {
                let ids = self.on_their_way.keys().cloned().collect();
                let Some(id) = Self::pick(ids, *i) else {
                    return;
                };
                let Some((node, _)) = self.on_their_way.remove(&id) else {
                    return;
                };
                if self.sessions[node].is_some() {
                    self.running
                        .insert(id.clone(), (node, InstanceState::Preparing));
                    self.tell(&id);
                }
            }
            Happening::Refuse(i, kind) => self.refuse(*i, *kind),
            Happening::Advance(i) => self.advance(*i),
            Happening::Crash(i) => {
                let ids = self.running.keys().cloned().collect();
                let Some(id) = Self::pick(ids, *i) else {
                    return;
                };
                let Some((node, _)) = self.running.remove(&id) else {
                    return;
                };
                if let Some(session) = self.sessions[node] {
                    self.stage.exit_at(session, &id, Exit::Code(1), false);
                }
            }
            Happening::List(node, late) => self.list(usize::from(*node), *late),
            Happening::Down(node) => self.down(usize::from(*node)),
            Happening::Back(node) => self.back(usize::from(*node)),
            Happening::Duties(duties) => self.stage.duties(*duties),
        }
    }

    fn refuse(&mut self, i: usize, kind: u8) {
        let ids = self.on_their_way.keys().cloned().collect();
        let Some(id) = Self::pick(ids, i) else { return };
        self.on_their_way.remove(&id);
        let kinds = [
            RefusalKind::NoCapacity,
            RefusalKind::Busy,
            RefusalKind::NotReady,
            RefusalKind::Failed,
        ];
        let refusal = Refusal {
            kind: kinds[usize::from(kind)],
            text: "no".into(),
        };
        let now_ms = self.stage.now_ms;
        self.stage
            .keeper
            .set(&id, RowState::Refused(refusal), now_ms);
    }

    fn advance(&mut self, i: usize) {
        use InstanceState::*;
        let ids = self.running.keys().cloned().collect();
        let Some(id) = Self::pick(ids, i) else { return };
        let (node, state) = self.running[&id];
        let next = match state {
            Preparing => Starting,
            Starting => Booting,
            Booting => Ready,
            Draining => Stopping,
            Stopping => {
                self.running.remove(&id);
                if let Some(session) = self.sessions[node] {
                    self.stage.exit_at(session, &id, Exit::Signal(15), true);
                }
                return;
            }
            other => other,
        };
        self.running.insert(id.clone(), (node, next));
        self.tell(&id);
    }

    /// A list that left before later starts must not take those for missing ones.
    fn list(&mut self, node: usize, is_late: bool) {
        let Some(session) = self.sessions[node] else {
            return;
        };
        let seq = match is_late {
            true => 0,
            false => {
                // What was sent before it and has not arrived never will: the agent refuses it.
                self.on_their_way.retain(|_, (at, _)| *at != node);
                self.seq += 1;
                self.seq
            }
        };
        let ids: Vec<_> = (self.running.iter())
            .filter(|(_, (at, _))| *at == node)
            .map(|(id, (_, state))| self.stage.report(id, *state))
            .collect();
        let now_ms = self.stage.now_ms;
        let from = (session, NodeId(node as u64 + 1));
        self.stage.keeper.listed(from, seq, ids, now_ms);
        self.stage.keeper.table.complete = self.stage.keeper.is_complete();
    }

    fn down(&mut self, node: usize) {
        let Some(session) = self.sessions[node].take() else {
            return;
        };
        self.on_their_way.retain(|_, (at, _)| *at != node);
        let now_ms = self.stage.now_ms;
        self.stage.keeper.session_ended(session, false, now_ms);
        self.stage.keeper.table.complete = self.stage.keeper.is_complete();
    }

    fn back(&mut self, node: usize) {
        if self.sessions[node].is_some() {
            return;
        }
        let boot = format!("boot-{}", self.seq);
        let session = self.stage.open(node as u64 + 1, &boot);
        self.seq += 1;
        self.sessions[node] = Some(session);
        self.stage.keeper.waiting.insert(session);
        self.stage.keeper.table.complete = false;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn orders_never_make_more_than_the_cap(
        max_scale in 1u32..4, idle in idle(),
        happenings in prop::collection::vec(happening(), 1..80),
    ) {
        let mut world = World::idling(max_scale, idle);
        for happening in &happenings {
            world.happen(happening);
            let event = match happening {
                Happening::Desired(n) => Event::Desired { n: *n, path: DataPath::Proxy, near: None },
                _ => Event::Changed,
            };
            let before = world.n_counted();
            let n_starts = world.turn(&event);
            let n_counted = world.n_counted();
            prop_assert_eq!(n_counted, before + n_starts);
            prop_assert!(
                n_starts == 0 || n_counted <= max_scale as usize,
                "{} counted of {} after {:?}", n_counted, max_scale, happening
            );
        }
    }

    /// Then the truth as well: while no node was away for longer than the restart grace, no more
    /// ran than the cap allows.
    #[test]
    fn no_more_run_than_the_cap_while_every_node_is_heard(
        max_scale in 1u32..4, idle in idle(),
        happenings in prop::collection::vec(happening(), 1..80),
    ) {
        let mut world = World::idling(max_scale, idle);
        for happening in &happenings {
            if matches!(happening, Happening::Down(_)) {
                continue;
            }
            world.happen(happening);
            let event = match happening {
                Happening::Desired(n) => Event::Desired { n: *n, path: DataPath::Proxy, near: None },
                _ => Event::Changed,
            };
            world.turn(&event);
            let n_running = world.running.len() + world.on_their_way.len();
            prop_assert!(
                n_running <= max_scale as usize,
                "{} run of {} after {:?}", n_running, max_scale, happening
            );
        }
    }
}

#[test]
fn a_node_that_is_back_within_the_grace_is_not_doubled() {
    let mut world = World::new(1);
    world.turn(&Event::Desired {
        n: 1,
        path: DataPath::Proxy,
        near: None,
    });
    world.happen(&Happening::Arrive(0));
    for _ in 0..3 {
        world.happen(&Happening::Advance(0));
    }
    let (_, (node, state)) = world.running.iter().next().unwrap();
    let (node, is_second) = (*node, *node == 1);
    assert_eq!(*state, InstanceState::Ready);
    world.happen(&Happening::Down(is_second));
    assert_eq!(world.turn(&Event::Changed), 0);
    world.happen(&Happening::Pass(RESTART_GRACE_MS - 1));
    world.happen(&Happening::Back(is_second));
    world.happen(&Happening::Pass(10));
    assert_eq!(world.turn(&Event::Changed), 0, "its agent has not answered");
    world.list(node, false);
    assert_eq!(world.turn(&Event::Changed), 0, "it was adopted");
    assert_eq!(world.n_counted(), 1);
}

/// Whatever fits under the cap beside what moves is started first; where nothing fits, one at a time
/// is given up. All of it ends on the other node.
#[test]
fn what_a_drained_node_runs_ends_elsewhere_with_as_few_missing_as_the_cap_allows() {
    for (max_scale, wanted) in [(1, 1), (2, 1), (2, 2), (3, 2), (3, 3), (9, 3)] {
        let mut world = World::new(max_scale);
        // All of it on node 1.
        world.stage.duties([Duty::Full, Duty::Cordoned]);
        let order = Event::Desired {
            n: wanted,
            path: DataPath::Proxy,
            near: None,
        };
        let step = |world: &mut World, event: &Event| {
            world.happen(&Happening::Arrive(0));
            // Each in turn: numbers choose among what is there.
            (0..world.running.len()).for_each(|i| world.happen(&Happening::Advance(i)));
            world.turn(event);
        };
        (0..20).for_each(|_| step(&mut world, &order));
        let n_ready = |world: &World| {
            let states = world.running.values();
            let ready = states.filter(|(_, state)| *state == InstanceState::Ready);
            ready.count()
        };
        let case = format!("{wanted} of at most {max_scale}");
        assert_eq!(n_ready(&world), wanted as usize, "{case}");
        world.stage.duties([Duty::Drained, Duty::Full]);
        let least = match max_scale > wanted {
            true => wanted as usize,
            false => wanted as usize - 1,
        };
        world.turn(&Event::Changed);
        for _ in 0..100 {
            step(&mut world, &Event::Changed);
            assert!(n_ready(&world) >= least, "{case}");
        }
        let nodes: Vec<_> = world.running.values().collect();
        let there = (1, InstanceState::Ready);
        assert_eq!(nodes, vec![&there; wanted as usize], "{case}");
    }
}
