//! The Autoscaler actor: what gateways say and agents report in, wanted instances out.

use std::collections::{BTreeMap, BTreeSet};

use nihilo_entity::autoscaler::AutoscalerActor;
use nihilo_entity::table::{Heard, StatRow};
use nihilo_entity::{Effect, Event, Outputs};
use nihilo_machine::Command;
use nihilo_machine::command::{CloseSession, RecordScale};
use nihilo_types::condition::ConditionStatus;
use nihilo_types::id::{InstanceId, SessionId};
use nihilo_types::instance::InstanceState;
use nihilo_types::route::TrafficTarget;

use crate::stage::{ONE, START_MS, Stage, TWO, key, words};

/// An actor, its stage and the timers that it asked for.
struct Play {
    stage: Stage,
    actor: AutoscalerActor,
    tick_at_ms: Option<u64>,
    look_at_ms: Option<u64>,
    /// The newest batch of each gateway.
    seq: BTreeMap<SessionId, u64>,
    /// Gateways whose batches do not arrive.
    silent: BTreeSet<SessionId>,
    /// `(ms since the start, instances told)`, changes only.
    told: Vec<(u64, u32)>,
}

impl Play {
    fn new(stage: Stage) -> Self {
        let actor = load(&stage);
        Self {
            stage,
            actor,
            tick_at_ms: None,
            look_at_ms: None,
            seq: BTreeMap::new(),
            silent: BTreeSet::new(),
            told: Vec::new(),
        }
    }

    /// At zero, as a revision without traffic is: inactive, initialized.
    fn at_zero(annotations: &[(&str, &str)]) -> Self {
        let mut stage = Stage::new(annotations);
        stage.recorded(0, ConditionStatus::False);
        Self::new(stage)
    }

    /// `n` ready and wanted by an earlier owner, active.
    fn taken_over(annotations: &[(&str, &str)], n: u32) -> Self {
        let mut stage = Stage::new(annotations);
        stage.recorded(n as i32, ConditionStatus::True);
        stage.ready(n);
        Self::new(stage)
    }

    fn turn(&mut self, event: Event) -> Outputs {
        let now_ms = self.stage.now_ms;
        let outputs = self.actor.turn(self.stage.view(), &event, now_ms);
        for timer in &outputs.timers {
            let at_ms = timer.after_ms.map(|after| now_ms + after);
            match timer.name {
                "tick" => self.tick_at_ms = at_ms,
                "look" => self.look_at_ms = at_ms,
                other => panic!("timer {other}"),
            }
        }
        for effect in &outputs.effects {
            if let Effect::Tell(_, Event::Desired { n, .. }) = effect
                && self.told.last().is_none_or(|(_, told)| told != n)
            {
                self.told.push((now_ms - START_MS, *n));
            }
        }
        outputs
    }

    fn demand(&mut self, gateway: SessionId, n_waiting: u64) -> Outputs {
        self.turn(Event::Demand {
            gateway,
            n_waiting,
            in_flight: 0,
            oldest_age_ms: 0,
        })
    }

    /// One gateway's second: so much concurrency, and as many requests still under way.
    fn reports(&mut self, gateway: SessionId, concurrency: f64) {
        self.reports_over(gateway, concurrency, 1);
    }

    /// One batch that stands for several seconds.
    fn reports_over(&mut self, gateway: SessionId, concurrency: f64, seconds: u64) {
        let seq = self.seq.get(&gateway).copied().unwrap_or(0) + 1;
        let row = StatRow {
            seq,
            area_us: (concurrency * 1e6) as u64 * seconds,
            used_us: 1_000_000 * seconds,
            n_started: concurrency as u64,
            in_flight: concurrency as u64,
            queued: 0,
            oldest_ms: 0,
        };
        let table = &mut self.stage.keeper.table;
        let rows = table.stats.entry(key("hello-00001")).or_default();
        let rows = rows.entry(gateway).or_default();
        rows.push_back(row);
        if rows.len() > nihilo_entity::table::MAX_PENDING_STATS {
            rows.pop_front();
        }
        self.heard(gateway);
    }

    /// A batch that lists nothing, or the one that a report came in.
    fn heard(&mut self, gateway: SessionId) {
        let seq = self.seq.entry(gateway).or_default();
        *seq += 1;
        let heard = Heard {
            seq: *seq,
            at_ms: self.stage.now_ms,
        };
        self.stage.keeper.table.heard.insert(gateway, heard);
    }

    /// Lets time pass, firing timers when they are due, `late_ms` late, and with an empty batch of
    /// every gateway each second.
    fn wait(&mut self, ms: u64, late_ms: u64) {
        self.wait_but(ms, late_ms, None);
    }

    /// The same, but for what `busy` says by itself at the end.
    fn wait_but(&mut self, ms: u64, late_ms: u64, busy: Option<SessionId>) {
        let end = self.stage.now_ms + ms;
        loop {
            let next_second = (self.stage.now_ms / 1_000 + 1) * 1_000;
            let timers = [
                (self.tick_at_ms.map(|at| at + late_ms), "tick"),
                (self.look_at_ms.map(|at| at + late_ms), "look"),
                (Some(next_second), "batch"),
            ];
            let due = timers
                .into_iter()
                .filter_map(|(at, name)| Some((at?, name)));
            let Some((at_ms, name)) = due.min().filter(|(at, _)| *at <= end) else {
                break;
            };
            self.stage.now_ms = at_ms.max(self.stage.now_ms);
            match name {
                "batch" => {
                    self.batches(busy);
                    self.turn(Event::Changed);
                    continue;
                }
                "tick" => self.tick_at_ms = None,
                _ => self.look_at_ms = None,
            }
            self.turn(Event::Timer { name });
        }
        self.stage.now_ms = end;
    }

    fn batches(&mut self, busy: Option<SessionId>) {
        let open: Vec<_> = self.stage.state.sessions().map(|s| s.id).collect();
        for gateway in open {
            if !self.silent.contains(&gateway) && busy != Some(gateway) {
                self.heard(gateway);
            }
        }
    }

    /// Seconds of steady load at gateway [`ONE`]; what is told is what is ready.
    fn serve(&mut self, seconds: u64, load: f64) {
        for _ in 0..seconds {
            self.wait_but(1_000, 0, Some(ONE));
            self.reports(ONE, load);
            self.turn(Event::Changed);
        }
    }

    fn want(&self) -> u32 {
        self.told.last().map_or(0, |(_, n)| *n)
    }
}

fn load(stage: &Stage) -> AutoscalerActor {
    AutoscalerActor::load(&key("hello-00001"), stage.view(), stage.now_ms)
}

#[test]
fn the_first_waiting_request_wants_an_instance_at_once() {
    let mut play = Play::at_zero(&[]);
    let outputs = play.demand(TWO, 1);
    assert_eq!(
        words(&outputs),
        [
            "tell revision: 1 Proxy",
            "record 1 of 0 ready, Proxy, Active Unknown Queued, initialized true"
        ]
    );
    // The same demand again, as gateways send it while nothing is ready: nothing has come of the
    // order, so it is told again, and that is all.
    play.stage.now_ms += 250;
    assert_eq!(words(&play.demand(TWO, 1)), ["tell revision: 1 Proxy"]);
}

#[test]
fn demand_adds_up_over_gateways_and_is_bounded() {
    for (annotations, waiting, want) in [
        (&[][..], [1, 0], 1),
        (&[][..], [70, 0], 1),
        (&[][..], [70, 1], 2),
        (&[][..], [100, 200], 5),
        (&[("max-scale", "3")][..], [1_000, 0], 3),
        (&[("activation-scale", "4")][..], [1, 0], 4),
        (&[("target", "1")][..], [3, 2], 8),
        (&[("nihilo.dev/fast-scale", "false")][..], [200, 0], 3),
    ] {
        let mut play = Play::at_zero(annotations);
        for (gateway, n) in [ONE, TWO].into_iter().zip(waiting) {
            if n > 0 {
                play.demand(gateway, n);
            }
        }
        assert_eq!(play.want(), want, "{annotations:?} {waiting:?}");
    }
}

#[test]
fn a_floor_that_was_not_real_ends_with_its_hold() {
    let mut play = Play::at_zero(&[("window", "6s")]);
    play.demand(ONE, 300);
    assert_eq!(play.told, [(0, 5)]);
    play.stage.ready(5);
    play.turn(Event::Changed);
    for _ in 0..3 {
        play.wait(1_000, 0);
    }
    // Not below half of what is ready at a time.
    assert_eq!(play.told[1], (1_000, 2));
}

#[test]
fn a_burst_panics_and_holds_for_a_stable_window() {
    let mut play = Play::taken_over(
        &[("target", "10"), ("target-utilization-percentage", "100")],
        1,
    );
    play.serve(3, 1.0);
    assert_eq!(play.want(), 1);
    play.serve(7, 100.0);
    assert_eq!(play.want(), 10);
    let panicked_ms = play.stage.now_ms - START_MS;
    play.stage.ready(9);
    play.serve(55, 10.0);
    assert_eq!(play.want(), 10, "{:?}", play.told);
    play.serve(30, 10.0);
    let (fell_ms, n) = play.told[play.told.len() - 1];
    assert!(n < 10 && fell_ms >= panicked_ms + 54_000, "{:?}", play.told);
}

#[test]
fn idle_goes_to_zero_by_the_window_and_the_grace() {
    let mut play = Play::taken_over(&[("window", "10s")], 1);
    play.turn(Event::Changed);
    for _ in 0..60 {
        play.wait(1_000, 0);
        play.turn(Event::Changed);
    }
    // In panic for the window after a takeover; with the path in Proxy since then, the grace of
    // 30 s has run along.
    let last = play.told[play.told.len() - 1];
    assert_eq!(play.told[0], (0, 1));
    assert_eq!(last, (30_000, 0), "{:?}", play.told);
    assert!(
        !play.actor.may_passivate(play.stage.view()),
        "one is still there"
    );
    let id = InstanceId::from("i1");
    play.stage
        .exit(&id, nihilo_types::instance::Exit::Signal(15), true);
    play.turn(Event::Changed);
    assert!(play.actor.may_passivate(play.stage.view()));
}

#[test]
fn every_step_to_zero_leaves_its_record() {
    let mut play = Play::taken_over(&[("window", "10s"), ("target-burst-capacity", "0")], 1);
    let mut records = Vec::new();
    let mut keep = |outputs: &Outputs, at_ms: u64| {
        let said = words(outputs);
        let record = said.iter().filter(|text| text.starts_with("record"));
        records.extend(record.map(|text| (at_ms, text.clone())));
    };
    for _ in 0..80 {
        play.batches(None);
        let outputs = play.turn(Event::Timer { name: "tick" });
        keep(&outputs, play.stage.now_ms - START_MS);
        // What is written shows in the log before the next look.
        for effect in outputs.effects {
            if let Effect::RecordScale(update) = effect {
                let scales = vec![update];
                play.stage
                    .apply(Command::RecordScale(RecordScale { scales }));
            }
        }
        play.stage.now_ms += 1_000;
    }
    let want = [
        (
            0,
            "record 1 of 1 ready, Serve, Active True , initialized true",
        ),
        (
            11_000,
            "record 1 of 1 ready, Proxy, Active False NoTraffic, initialized true",
        ),
        (
            41_000,
            "record 0 of 1 ready, Proxy, Active False NoTraffic, initialized true",
        ),
    ];
    let want = want.map(|(at_ms, text)| (at_ms, text.to_owned()));
    assert_eq!(records, want);
}

#[test]
fn a_new_owner_keeps_what_was_wanted_for_a_stable_window() {
    let mut play = Play::taken_over(&[("window", "10s")], 5);
    play.stage.keeper.table.instances.clear();
    play.stage.ready(2);
    play.actor = load(&play.stage);
    play.turn(Event::Changed);
    assert_eq!(play.told, [(0, 5)]);
    play.stage.ready(3);
    play.wait(10_000, 0);
    assert_eq!(play.told, [(0, 5)]);
    play.wait(2_000, 0);
    assert_eq!(play.told[1], (11_000, 2), "{:?}", play.told);
}

#[test]
fn a_reload_in_a_cold_start_keeps_what_boots() {
    let mut play = Play::at_zero(&[]);
    for id in ["a", "b"] {
        play.stage.instance(id, ONE, InstanceState::Booting);
    }
    play.actor = load(&play.stage);
    play.turn(Event::Changed);
    assert_eq!(play.told, [(0, 2)]);
}

#[test]
fn until_all_agents_have_answered_nothing_falls_and_demand_counts() {
    let mut play = Play::taken_over(&[("window", "6s")], 3);
    play.stage.keeper.table.complete = false;
    play.actor = load(&play.stage);
    play.turn(Event::Changed);
    play.wait(60_000, 0);
    assert_eq!(play.told, [(0, 3)]);
    play.stage.keeper.table.instances.clear();
    play.demand(ONE, 500);
    assert_eq!(play.want(), 8);
    play.wait(10_000, 0);
    play.stage.keeper.table.complete = true;
    play.turn(Event::Changed);
    assert!(play.want() < 8, "{:?}", play.told);
}

#[test]
fn the_path_does_not_flicker_when_an_agent_joins() {
    let mut play = Play::taken_over(&[("target-burst-capacity", "0")], 2);
    let outputs = play.turn(Event::Changed);
    assert!(words(&outputs).contains(&"tell revision: 2 Serve".into()));
    play.stage.keeper.table.complete = false;
    assert_eq!(words(&play.turn(Event::Changed)), [""; 0]);
    play.stage.keeper.table.complete = true;
    assert_eq!(words(&play.turn(Event::Changed)), [""; 0]);
}

#[test]
fn a_gateway_that_is_not_heard_is_unknown_not_zero() {
    let annotations = &[
        ("window", "6s"),
        ("target", "10"),
        ("target-utilization-percentage", "100"),
    ];
    let mut play = Play::taken_over(annotations, 3);
    play.serve(10, 30.0);
    assert_eq!(play.want(), 3);
    // Not one batch more, while its session stays open: held, then unknown, then given up.
    play.silent.insert(ONE);
    play.wait(60_000, 0);
    assert_eq!(play.want(), 3, "{:?}", play.told);
    play.wait(30_000, 0);
    assert!(play.want() < 3, "{:?}", play.told);
    // Others may raise it all the time.
    let mut play = Play::taken_over(annotations, 3);
    play.serve(10, 30.0);
    play.silent.insert(ONE);
    for _ in 0..20 {
        play.wait_but(1_000, 0, Some(TWO));
        play.reports(TWO, 60.0);
        play.turn(Event::Changed);
    }
    assert_eq!(play.want(), 9);
}

#[test]
fn a_batch_that_lists_nothing_says_zero() {
    let annotations = &[
        ("window", "6s"),
        ("target", "10"),
        ("target-utilization-percentage", "100"),
    ];
    let mut play = Play::taken_over(annotations, 3);
    play.serve(10, 30.0);
    for _ in 0..20 {
        play.wait(1_000, 0);
        play.turn(Event::Changed);
    }
    assert!(play.want() < 3, "{:?}", play.told);
}

#[test]
fn the_load_of_an_ended_gateway_ends_with_it() {
    let annotations = &[("target", "10"), ("target-utilization-percentage", "100")];
    let mut play = Play::taken_over(annotations, 1);
    play.serve(2, 5.0);
    play.reports(TWO, 200.0);
    play.stage.apply(Command::CloseSession(CloseSession {
        session: TWO,
        moves: Vec::new(),
        returns: false,
    }));
    play.turn(Event::Changed);
    assert_eq!(play.want(), 1);
    // Neither in a later floor, though its last rows are still in the table…
    play.stage.keeper.table.instances.clear();
    play.demand(ONE, 20);
    assert_eq!(play.want(), 2);
    // … nor as a reason to stay awake.
    let mut play = Play::at_zero(&[]);
    play.reports(TWO, 200.0);
    play.stage.apply(Command::CloseSession(CloseSession {
        session: TWO,
        moves: Vec::new(),
        returns: false,
    }));
    play.turn(Event::Changed);
    assert!(play.actor.may_passivate(play.stage.view()));
}

#[test]
fn late_ticks_leave_no_second_out() {
    let annotations = &[
        ("window", "6s"),
        ("target", "1"),
        ("target-utilization-percentage", "100"),
        ("target-burst-capacity", "0"),
    ];
    let mut play = Play::taken_over(annotations, 60);
    play.turn(Event::Changed);
    play.wait(980, 0);
    for i in 0..200 {
        // Reports come now before, now after the full second; every timer is late.
        play.wait_but(if i % 2 == 0 { 1_030 } else { 970 }, 60, Some(ONE));
        play.reports(ONE, 60.0);
        play.turn(Event::Changed);
    }
    assert_eq!(play.told, [(0, 60)]);
}

#[test]
fn a_stall_is_filled_and_a_sleep_is_not() {
    let annotations = &[("target", "1"), ("target-utilization-percentage", "100")];
    let mut play = Play::taken_over(annotations, 10);
    play.serve(70, 10.0);
    // The owner is stopped for 20 s; the load goes on.
    play.stage.now_ms += 20_000;
    play.reports_over(ONE, 10.0, 20);
    play.turn(Event::Changed);
    play.serve(5, 10.0);
    assert_eq!(play.want(), 10, "{:?}", play.told);
    // One that slept finds an empty window, in which a burst counts in full and alone.
    let mut play = Play::at_zero(annotations);
    play.turn(Event::Changed);
    play.stage.now_ms += 100_000;
    play.demand(ONE, 4);
    play.stage.ready(4);
    play.serve(2, 4.0);
    play.serve(1, 0.0);
    play.serve(1, 0.0);
    assert_eq!(play.want(), 4, "{:?}", play.told);
}

#[test]
fn the_order_is_told_again_each_second() {
    let mut play = Play::taken_over(&[], 2);
    play.turn(Event::Changed);
    for _ in 0..5 {
        play.stage.now_ms += 1_000;
        let said = words(&play.turn(Event::Timer { name: "tick" }));
        assert_eq!(said[0], "tell revision: 2 Proxy");
    }
    assert_eq!(words(&play.turn(Event::Changed)), [""; 0]);
}

#[test]
fn a_record_that_got_lost_is_written_again() {
    let mut play = Play::at_zero(&[]);
    let first = words(&play.demand(ONE, 1));
    assert_eq!(first.len(), 2);
    let mut n_again = 0;
    for _ in 0..12 {
        play.stage.now_ms += 1_000;
        let said = words(&play.demand(ONE, 1));
        n_again += said.iter().filter(|text| **text == first[1]).count();
    }
    assert_eq!(n_again, 2);
    // One that arrived is not.
    let mut play = Play::at_zero(&[]);
    for effect in play.demand(ONE, 1).effects {
        if let Effect::RecordScale(update) = effect {
            let scales = vec![update];
            play.stage
                .apply(Command::RecordScale(RecordScale { scales }));
        }
    }
    for _ in 0..12 {
        play.stage.now_ms += 1_000;
        let said = words(&play.demand(ONE, 1));
        assert!(
            said.iter().all(|text| !text.starts_with("record")),
            "{said:?}"
        );
    }
}

#[test]
fn loading_writes_nothing_new() {
    let mut play = Play::at_zero(&[]);
    // The reason of the condition is the one thing that the record did not hold.
    let outputs = play.turn(Event::Changed);
    for effect in outputs.effects {
        if let Effect::RecordScale(update) = effect {
            let scales = vec![update];
            play.stage
                .apply(Command::RecordScale(RecordScale { scales }));
        }
    }
    play.stage.now_ms += 60_000;
    play.actor = load(&play.stage);
    let said = words(&play.turn(Event::Changed));
    assert_eq!(said, ["tell revision: 0 Proxy"]);
}

#[test]
fn the_initial_scale_comes_before_any_statistic() {
    let mut play = Play::new(Stage::new(&[("initial-scale", "3")]));
    let said = words(&play.turn(Event::Changed));
    assert_eq!(said[0], "tell revision: 3 Proxy");
    play.stage.ready(2);
    play.turn(Event::Changed);
    play.wait(5_000, 0);
    assert_eq!(play.want(), 3);
    play.stage.ready(1);
    let said = words(&play.turn(Event::Changed));
    // Reached: still three in this very look, and active.
    assert_eq!(
        said,
        [
            "tell revision: 3 Serve",
            "record 3 of 3 ready, Serve, Active True , initialized true"
        ]
    );
    play.wait(5_000, 0);
    assert!(play.want() < 3, "{:?}", play.told);
}

#[test]
fn an_initial_scale_of_zero_is_inactive_at_once() {
    let stage = Stage::with_settings(&[("initial-scale", "0")], |settings| {
        settings.scale.allow_zero_initial_scale = true;
    });
    let mut play = Play::new(stage);
    assert_eq!(
        words(&play.turn(Event::Changed)),
        [
            "tell revision: 0 Proxy",
            "record 0 of 0 ready, Proxy, Active False NoTraffic, initialized true"
        ]
    );
    assert!(play.actor.may_passivate(play.stage.view()));
}

#[test]
fn a_revision_that_is_routed_to_again_gets_its_minimum_at_once() {
    let mut stage = Stage::new(&[("min-scale", "2")]);
    stage.put("demo/echo");
    stage.assign(vec![TrafficTarget::revision("hello-00002", 100)]);
    stage.recorded(0, ConditionStatus::False);
    let mut play = Play::new(stage);
    play.turn(Event::Changed);
    assert_eq!(play.told, [(0, 0)], "unreachable");
    play.stage.now_ms += 200;
    play.stage
        .assign(vec![TrafficTarget::revision("hello-00001", 100)]);
    play.turn(Event::Changed);
    assert_eq!(play.told, [(0, 0), (200, 2)]);
}

#[test]
fn a_planned_move_goes_on_where_the_old_owner_stopped() {
    let annotations = &[("target", "10"), ("target-utilization-percentage", "100")];
    let mut play = Play::taken_over(annotations, 4);
    play.serve(70, 35.0);
    assert_eq!(play.want(), 4);
    let old = play.actor.hand_over(play.stage.now_ms).unwrap();
    // The new owner's clock shows something else; it resumes in panic until it is told.
    play.stage.now_ms += 500_000;
    play.actor = load(&play.stage);
    play.turn(Event::Windows(Box::new(old)));
    play.serve(3, 12.0);
    let outputs = play.turn(Event::Timer { name: "tick" });
    let record = outputs.effects.iter().find_map(|effect| match effect {
        Effect::Explain { record, .. } => Some(record),
        _ => None,
    });
    let record = record.unwrap();
    assert_eq!(record.panic_since_ms, None, "{record:?}");
    assert!(
        record.stable > 30.0,
        "the windows are the old ones: {record:?}"
    );
    assert_eq!(play.want(), 4);
}

#[test]
fn a_batch_that_is_late_counts_in_its_own_second() {
    let annotations = &[("target", "1"), ("target-utilization-percentage", "100")];
    let mut play = Play::taken_over(annotations, 10);
    play.serve(70, 10.0);
    // Two batches are delayed, and come together: nothing is lost, nothing counted twice.
    let rows = play.stage.keeper.table.stats.clone();
    play.wait_but(2_000, 0, Some(ONE));
    play.stage.keeper.table.stats = rows;
    play.reports(ONE, 10.0);
    play.reports(ONE, 10.0);
    play.turn(Event::Changed);
    play.serve(70, 10.0);
    assert_eq!(
        play.told.iter().map(|(_, n)| *n).collect::<Vec<_>>(),
        [10],
        "{:?}",
        play.told
    );
}

#[test]
fn a_deleted_revision_lets_its_autoscaler_go() {
    let mut play = Play::taken_over(&[], 2);
    play.turn(Event::Changed);
    assert!(!play.actor.may_passivate(play.stage.view()));
    play.stage.delete();
    assert_eq!(play.turn(Event::Changed), Outputs::default());
    assert!(play.actor.may_passivate(play.stage.view()));
}

#[test]
fn a_name_issued_anew_begins_anew() {
    let mut play = Play::taken_over(&[("initial-scale", "2")], 5);
    play.turn(Event::Changed);
    assert_eq!(play.want(), 5);
    play.stage.delete();
    play.stage.put("demo/echo");
    let said = words(&play.turn(Event::Changed));
    assert_eq!(
        said,
        [
            "tell revision: 2 Proxy",
            "record 2 of 0 ready, Proxy, Active Unknown Queued, initialized false"
        ]
    );
}

#[test]
fn a_failed_activation_is_given_up_after_its_deadline() {
    let mut play = Play::new(Stage::new(&[(
        "serving.knative.dev/progress-deadline",
        "5s",
    )]));
    play.turn(Event::Changed);
    play.wait(34_000, 0);
    assert_eq!(play.told, [(0, 1)]);
    play.wait(2_000, 0);
    assert_eq!(play.told, [(0, 1), (35_001, 0)]);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    #[test]
    fn what_is_told_stays_within_the_bounds_and_serves_what_is_there(
        min in 0u32..4, room in 0u32..6,
        steps in proptest::collection::vec((0u64..4, 0u32..300, 0u32..8), 1..60),
    ) {
        let max = min + room + 1;
        let (low, high) = (min.to_string(), max.to_string());
        let annotations = [
            ("min-scale", low.as_str()), ("max-scale", high.as_str()), ("window", "6s"),
            ("target", "10"), ("target-utilization-percentage", "100"),
        ];
        let mut play = Play::taken_over(&annotations, min);
        for (what, concurrency, n_ready) in steps {
            match what {
                0 => drop(play.demand(TWO, u64::from(concurrency))),
                1 => {
                    play.stage.keeper.table.instances.clear();
                    play.stage.ready(n_ready);
                    play.turn(Event::Changed);
                }
                2 => play.actor = load(&play.stage),
                _ => play.serve(3, f64::from(concurrency)),
            }
            let told = play.told.last().map_or(min, |(_, n)| *n);
            proptest::prop_assert!((min..=max).contains(&told), "{told} of {min}..={max}");
            // Two whole seconds of load are in the window: it cannot be at zero.
            let is_loaded = what == 3 && concurrency > 0;
            proptest::prop_assert!(!is_loaded || told > 0, "{:?}", play.told);
        }
    }
}
