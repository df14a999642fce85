//! What a revision with `nihilo.dev/idle: freeze` keeps at zero, and what becomes of it.

use nihilo_entity::revision::RevisionActor;
use nihilo_entity::{Effect, Event};
use nihilo_machine::member::Duty;
use nihilo_types::autoscaler::DataPath;
use nihilo_types::condition::ConditionStatus;
use nihilo_types::id::{InstanceId, SessionId};
use nihilo_types::instance::{Exit, InstanceState};
use nihilo_types::route::TrafficTarget;

use crate::stage::{ONE, Stage, TWO, key, orders, started, words};
use InstanceState::{Booting, Draining, Frozen, Ready, Stopping};

const FREEZE: (&str, &str) = ("nihilo.dev/idle", "freeze");
const FULL: [Duty; 2] = [Duty::Full, Duty::Full];

fn desired(n: u32) -> Event {
    Event::Desired {
        n,
        path: DataPath::Proxy,
        near: None,
    }
}

fn load(stage: &Stage) -> RevisionActor {
    RevisionActor::load(&key("hello-00001"), stage.view())
}

fn turn(actor: &mut RevisionActor, stage: &mut Stage, event: Event) -> Vec<String> {
    let outputs = actor.turn(stage.view(), &event, stage.now_ms);
    stage.execute(&outputs);
    orders(&outputs)
}

/// Instances by name, session and state; what is ordered with so many wanted.
struct Case {
    name: &'static str,
    max_scale: &'static str,
    duties: [Duty; 2],
    there: &'static [(&'static str, SessionId, InstanceState)],
    desired: u32,
    want: &'static [&'static str],
}

const ANY: Case = Case {
    name: "",
    max_scale: "0",
    duties: FULL,
    there: &[],
    desired: 0,
    want: &[],
};

fn check(cases: &[Case]) {
    for case in cases {
        let mut stage = Stage::new(&[FREEZE, ("max-scale", case.max_scale)]);
        stage.route();
        for (id, session, state) in case.there {
            stage.instance(id, *session, *state);
        }
        let mut actor = load(&stage);
        stage.duties(case.duties);
        let got = turn(&mut actor, &mut stage, desired(case.desired));
        assert_eq!(got, case.want, "{}", case.name);
    }
}

#[test]
fn at_zero_the_last_one_is_frozen_and_no_second_one() {
    check(&[
        Case {
            name: "nothing there",
            ..ANY
        },
        Case {
            name: "one",
            there: &[("a", ONE, Ready)],
            want: &["freeze a on 2"],
            ..ANY
        },
        Case {
            name: "of three, that with which most would be lost",
            there: &[("a", ONE, Ready), ("b", ONE, Booting), ("c", TWO, Ready)],
            want: &[
                "stop b on 2: scale_down",
                "stop a on 2: scale_down",
                "freeze c on 3",
            ],
            ..ANY
        },
        Case {
            name: "one that boots has nothing worth keeping",
            there: &[("a", ONE, Booting)],
            want: &["stop a on 2: scale_down"],
            ..ANY
        },
        Case {
            name: "not zero yet",
            there: &[("a", ONE, Ready), ("b", TWO, Ready)],
            desired: 1,
            want: &["stop a on 2: scale_down"],
            ..ANY
        },
        Case {
            name: "one is frozen already",
            there: &[("a", ONE, Frozen)],
            ..ANY
        },
        Case {
            name: "one is frozen already, another serves",
            there: &[("a", ONE, Frozen), ("b", TWO, Ready)],
            want: &["stop b on 3: scale_down"],
            ..ANY
        },
        Case {
            name: "two are",
            there: &[("a", ONE, Frozen), ("b", TWO, Frozen)],
            want: &["stop b on 3: surplus"],
            ..ANY
        },
        Case {
            name: "one that drains towards it is left alone",
            there: &[("a", ONE, Draining)],
            ..ANY
        },
    ]);
}

#[test]
fn what_is_frozen_is_thawed_before_anything_is_started() {
    check(&[
        Case {
            name: "the first request",
            there: &[("a", ONE, Frozen)],
            desired: 1,
            want: &["thaw a on 2"],
            ..ANY
        },
        Case {
            name: "at the cap",
            max_scale: "1",
            there: &[("a", ONE, Frozen)],
            desired: 1,
            want: &["thaw a on 2"],
            ..ANY
        },
        Case {
            name: "and the rest is started",
            there: &[("a", ONE, Frozen)],
            desired: 3,
            want: &["thaw a on 2", "start #1 on 3", "start #2 on 2"],
            ..ANY
        },
        Case {
            name: "it counts under the cap",
            max_scale: "2",
            there: &[("a", ONE, Frozen), ("s", TWO, Stopping)],
            desired: 2,
            want: &["thaw a on 2"],
            ..ANY
        },
        Case {
            name: "one that only drains is nearer",
            there: &[("a", ONE, Frozen), ("d", TWO, Draining)],
            desired: 1,
            want: &["reopen d on 3"],
            ..ANY
        },
        Case {
            name: "one that is not needed is not kept beside those that serve",
            there: &[("a", ONE, Frozen), ("b", TWO, Ready)],
            desired: 1,
            want: &["stop a on 2: surplus"],
            ..ANY
        },
        Case {
            name: "on a cordoned node too",
            duties: [Duty::Cordoned, Duty::Full],
            there: &[("a", ONE, Frozen)],
            desired: 1,
            want: &["thaw a on 2"],
            ..ANY
        },
    ]);
}

#[test]
fn a_node_that_is_drained_keeps_nothing_frozen() {
    let duties = [Duty::Drained, Duty::Full];
    check(&[
        Case {
            name: "nothing wanted",
            duties,
            there: &[("a", ONE, Frozen)],
            want: &["stop a on 2: drain"],
            ..ANY
        },
        Case {
            name: "wanted: another is started",
            duties,
            there: &[("a", ONE, Frozen)],
            desired: 1,
            want: &["stop a on 2: drain", "start #1 on 3"],
            ..ANY
        },
        Case {
            name: "wanted, at the cap: once there is room",
            max_scale: "1",
            duties,
            there: &[("a", ONE, Frozen)],
            desired: 1,
            want: &["stop a on 2: drain"],
        },
        Case {
            name: "what serves there is stopped at zero, not frozen",
            duties,
            there: &[("a", ONE, Ready)],
            want: &["stop a on 2: drain"],
            ..ANY
        },
    ]);
}

#[test]
fn nothing_is_kept_that_is_not_routed_to_or_not_asked_for() {
    let mut stage = Stage::new(&[FREEZE]);
    stage.route();
    stage.instance("a", ONE, Frozen);
    stage.put("demo/echo");
    stage.mark_ready("hello-00002");
    let mut actor = load(&stage);
    assert_eq!(turn(&mut actor, &mut stage, desired(0)), [""; 0]);
    stage.assign(vec![TrafficTarget::revision("hello-00002", 100)]);
    let gone = turn(&mut actor, &mut stage, Event::Changed);
    assert_eq!(gone, ["stop a on 2: scale_down"]);
    for annotations in [&[][..], &[("nihilo.dev/idle", "stop")]] {
        let mut stage = Stage::new(annotations);
        stage.route();
        stage.ready(1);
        let mut actor = load(&stage);
        let stopped = turn(&mut actor, &mut stage, desired(0));
        assert_eq!(stopped, ["stop i1 on 2: scale_down"]);
    }
    // With its revision goes whatever there is of it.
    let mut stage = Stage::new(&[FREEZE]);
    stage.route();
    stage.instance("a", ONE, Frozen);
    stage.delete();
    let mut actor = load(&stage);
    let gone = turn(&mut actor, &mut stage, Event::Changed);
    assert_eq!(gone, ["stop a on 2: deleted"]);
}

#[test]
fn a_frozen_one_is_no_endpoint_wakes_nobody_and_survives_a_reload() {
    let mut stage = Stage::new(&[FREEZE]);
    stage.route();
    stage.recorded(0, ConditionStatus::False);
    stage.ready(1);
    let mut actor = load(&stage);
    let pushed = |actor: &mut RevisionActor, stage: &Stage, event| {
        let all = words(&actor.turn(stage.view(), &event, stage.now_ms)).into_iter();
        all.filter(|word| word.starts_with("push"))
            .collect::<Vec<_>>()
    };
    assert_eq!(pushed(&mut actor, &stage, desired(1)), ["push Proxy [i1]"]);
    stage.instance("i1", ONE, Draining);
    assert_eq!(pushed(&mut actor, &stage, desired(0)), ["push Proxy []"]);
    assert!(!actor.may_passivate(stage.view()), "it drains");
    stage.instance("i1", ONE, Frozen);
    assert_eq!(pushed(&mut actor, &stage, Event::Changed), [""; 0]);
    assert!(actor.may_passivate(stage.view()));
    let mut actor = load(&stage);
    assert_eq!(turn(&mut actor, &mut stage, Event::Changed), [""; 0]);
    assert_eq!(turn(&mut actor, &mut stage, desired(1)), ["thaw i1 on 2"]);
}

#[test]
fn one_that_dies_frozen_is_no_failure_and_one_that_was_thawed_can_fail_again() {
    let mut stage = Stage::new(&[FREEZE]);
    stage.route();
    let id = stage.instance("a", ONE, Frozen);
    let mut actor = load(&stage);
    assert_eq!(turn(&mut actor, &mut stage, desired(0)), [""; 0]);
    stage.exit(&id, Exit::Code(1), true);
    assert_eq!(turn(&mut actor, &mut stage, Event::Changed), [""; 0]);
    assert_eq!(turn(&mut actor, &mut stage, desired(1)), ["start #1 on 2"]);

    let failed = |called_back: bool| {
        let mut stage = Stage::new(&[FREEZE]);
        stage.route();
        let id = stage.instance("a", ONE, Frozen);
        let mut actor = load(&stage);
        turn(&mut actor, &mut stage, desired(1));
        if called_back {
            for state in [Booting, Ready] {
                let mut report = stage.report(&id, state);
                (report.ready_after_ms, report.age_ms) = (1, 500);
                stage.take(ONE, report);
                turn(&mut actor, &mut stage, Event::Changed);
            }
        }
        stage.exit(&id, Exit::Code(1), true);
        let outputs = actor.turn(stage.view(), &Event::Changed, stage.now_ms);
        words(&outputs).iter().any(|word| word.contains("failed"))
    };
    assert!(!failed(false), "it was frozen");
    assert!(failed(true), "it served");
}

#[test]
fn a_start_goes_to_a_full_node_only_where_something_frozen_can_make_room() {
    let mut stage = Stage::new(&[FREEZE]);
    stage.route();
    let fill = |stage: &mut Stage, session, n: usize, state| {
        for i in 0..n {
            let id = InstanceId::from(format!("other-{session}-{i}").as_str());
            let mut report = stage.report(&id, state);
            report.revision = key("other-00001");
            stage.take(session, report);
        }
    };
    fill(&mut stage, ONE, 10, Ready);
    fill(&mut stage, TWO, 9, Ready);
    let mut actor = load(&stage);
    assert_eq!(turn(&mut actor, &mut stage, desired(1)), ["start #1 on 3"]);
    stage.keeper.table.instances.remove(&started(1));
    fill(&mut stage, TWO, 10, Ready);
    let full = turn(&mut actor, &mut stage, Event::Changed);
    assert_eq!(full, ["timer backoff 1000"]);
    let id = InstanceId::from(format!("other-{ONE}-3").as_str());
    let mut report = stage.report(&id, Frozen);
    report.revision = key("other-00001");
    stage.take(ONE, report);
    let evicting = turn(&mut actor, &mut stage, Event::Changed);
    assert!(evicting[0].ends_with(" on 2"), "{evicting:?}");
}

/// The autoscaler's words, for `nihilo why`.
#[test]
fn it_is_said_why_an_instance_is_frozen_and_not_stopped() {
    use nihilo_entity::autoscaler::AutoscalerActor;
    let said = |annotations: &[(&str, &str)], state| {
        let mut stage = Stage::new(annotations);
        stage.route();
        stage.recorded(0, ConditionStatus::False);
        stage.instance("a", ONE, state);
        let mut actor = AutoscalerActor::load(&key("hello-00001"), stage.view(), stage.now_ms);
        let outputs = actor.turn(stage.view(), &Event::Changed, stage.now_ms);
        let rests = actor.may_passivate(stage.view());
        let records = outputs
            .effects
            .into_iter()
            .filter_map(|effect| match effect {
                Effect::Explain { record, .. } => Some(record.sentence()),
                _ => None,
            });
        (records.last().unwrap_or_default(), rests)
    };
    let (frozen, rests) = said(&[FREEZE], Frozen);
    assert!(
        frozen.contains("1 frozen, as `nihilo.dev/idle: freeze` asks"),
        "{frozen}"
    );
    assert!(rests, "nothing is to be done for it");
    let (will_be, rests) = said(&[FREEZE], Draining);
    assert!(will_be.contains("is frozen and not stopped"), "{will_be}");
    assert!(!rests);
    let (stopped, _) = said(&[], Draining);
    assert!(!stopped.contains("frozen"), "{stopped}");
}
