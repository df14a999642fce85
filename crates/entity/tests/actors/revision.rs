//! The Revision actor: instances by what is wanted, conditions by what becomes of them.

use nihilo_entity::event::ProposalOutcome;
use nihilo_entity::revision::RevisionActor;
use nihilo_entity::table::{Refusal, RefusalKind, RowState};
use nihilo_entity::{Effect, Event};
use nihilo_types::autoscaler::DataPath;
use nihilo_types::condition::ConditionStatus;
use nihilo_types::id::{InstanceId, LogIndex, SessionId};
use nihilo_types::instance::{Exit, InstanceState, stage};
use nihilo_types::isolation::Isolation;
use nihilo_types::probe::ProbeKind;

use crate::stage::{ONE, Stage, TWO, key, orders, started, words};

fn desired(n: u32) -> Event {
    Event::Desired {
        n,
        path: DataPath::Proxy,
        near: None,
    }
}

/// The actor as loaded now.
fn load(stage: &Stage) -> RevisionActor {
    RevisionActor::load(&key("hello-00001"), stage.view())
}

/// One turn, its orders executed.
fn turn(actor: &mut RevisionActor, stage: &mut Stage, event: Event) -> Vec<String> {
    let outputs = actor.turn(stage.view(), &event, stage.now_ms);
    stage.execute(&outputs);
    orders(&outputs)
}

fn ended(stage: &mut Stage, session: SessionId) {
    let now_ms = stage.now_ms;
    stage.keeper.session_ended(session, false, now_ms);
}

fn refuse(stage: &mut Stage, n: u64, kind: RefusalKind) {
    let text = "no".to_owned();
    let state = RowState::Refused(Refusal { kind, text });
    let now_ms = stage.now_ms;
    stage.keeper.set(&started(n), state, now_ms);
}

struct Case {
    name: &'static str,
    annotations: &'static [(&'static str, &'static str)],
    given: fn(&mut Stage),
    desired: u32,
    want: &'static [&'static str],
}

fn check(cases: &[Case]) {
    for case in cases {
        let mut stage = Stage::new(case.annotations);
        stage.mark_ready("hello-00001");
        (case.given)(&mut stage);
        let mut actor = load(&stage);
        let got = turn(&mut actor, &mut stage, desired(case.desired));
        assert_eq!(got, case.want, "{}", case.name);
    }
}

const CAP_2: &[(&str, &str)] = &[("max-scale", "2")];

#[test]
fn where_requests_wait_comes_first_within_its_slack() {
    // (instances of others there, near, what is ordered): without a wish it is node 2.
    let cases = [
        (0, None, "start #1 on 2"),
        (0, Some(TWO), "start #1 on 3"),
        (2, Some(TWO), "start #1 on 3"),
        (3, Some(TWO), "start #1 on 2"),
        (0, Some(SessionId(99)), "start #1 on 2"),
    ];
    for (n_others, near, want) in cases {
        let mut stage = Stage::new(&[]);
        stage.mark_ready("hello-00001");
        for n in 0..n_others {
            let id = InstanceId::from(format!("other-{n}").as_str());
            let mut report = stage.report(&id, InstanceState::Ready);
            report.revision = key("other-00001");
            stage.take(TWO, report);
        }
        let mut actor = load(&stage);
        let path = DataPath::Proxy;
        let got = turn(&mut actor, &mut stage, Event::Desired { n: 1, path, near });
        assert_eq!(got, [want], "{n_others} others, near {near:?}");
    }
}

#[test]
fn what_waits_somewhere_does_not_keep_the_rest_from_being_spread() {
    let mut stage = Stage::new(&[]);
    stage.mark_ready("hello-00001");
    let mut actor = load(&stage);
    let (path, near) = (DataPath::Proxy, Some(TWO));
    let got = turn(&mut actor, &mut stage, Event::Desired { n: 3, path, near });
    assert_eq!(got, ["start #1 on 3", "start #2 on 2", "start #3 on 3"]);
}

#[test]
fn what_is_missing_is_started_and_spread() {
    check(&[
        Case {
            name: "nothing wanted, nothing there",
            annotations: &[],
            given: |_| {},
            desired: 0,
            want: &[],
        },
        Case {
            name: "from zero: the least loaded nodes in turn",
            annotations: &[],
            given: |_| {},
            desired: 3,
            want: &["start #1 on 2", "start #2 on 3", "start #3 on 2"],
        },
        Case {
            name: "only the difference, where it is emptier",
            annotations: &[],
            given: |stage| stage.ready(2),
            desired: 3,
            want: &["start #1 on 3"],
        },
        Case {
            name: "a draining one is called back before another is started",
            annotations: &[],
            given: |stage| {
                stage.instance("d", ONE, InstanceState::Draining);
            },
            desired: 2,
            want: &["reopen d on 2", "start #1 on 3"],
        },
        Case {
            name: "a stopping one cannot be called back",
            annotations: &[],
            given: |stage| {
                stage.instance("s", ONE, InstanceState::Stopping);
            },
            desired: 1,
            want: &["start #1 on 3"],
        },
        Case {
            name: "a stranded one is replaced where nothing caps",
            annotations: &[],
            given: |stage| {
                stage.instance("a", TWO, InstanceState::Ready);
                ended(stage, TWO);
            },
            desired: 1,
            want: &["start #1 on 2"],
        },
        Case {
            name: "nodes that are full get none",
            annotations: &[],
            given: |stage| {
                for i in 0..10 {
                    stage.instance(&format!("a{i}"), ONE, InstanceState::Ready);
                    stage.instance(&format!("b{i}"), TWO, InstanceState::Ready);
                }
            },
            desired: 21,
            want: &["timer backoff 1000"],
        },
    ]);
}

#[test]
fn the_cap_counts_all_that_may_run() {
    check(&[
        Case {
            name: "the cap bounds a start",
            annotations: CAP_2,
            given: |_| {},
            desired: 5,
            want: &["start #1 on 2", "start #2 on 3"],
        },
        Case {
            name: "stopping ones count until they are gone",
            annotations: CAP_2,
            given: |stage| {
                stage.instance("s", ONE, InstanceState::Stopping);
                stage.instance("t", ONE, InstanceState::Stopping);
            },
            desired: 2,
            want: &[],
        },
        Case {
            name: "draining ones are called back, not doubled",
            annotations: CAP_2,
            given: |stage| {
                stage.instance("d", ONE, InstanceState::Draining);
                stage.instance("s", ONE, InstanceState::Stopping);
            },
            desired: 2,
            want: &["reopen d on 2"],
        },
        Case {
            name: "stranded ones count, the room beside them is used",
            annotations: CAP_2,
            given: |stage| {
                stage.instance("a", TWO, InstanceState::Ready);
                ended(stage, TWO);
            },
            desired: 2,
            want: &["start #1 on 2"],
        },
        Case {
            name: "at the cap a stranded one is not replaced",
            annotations: &[("max-scale", "1")],
            given: |stage| {
                stage.instance("a", TWO, InstanceState::Ready);
                ended(stage, TWO);
            },
            desired: 1,
            want: &[],
        },
        Case {
            name: "lost ones count",
            annotations: CAP_2,
            given: |stage| {
                stage.instance("a", ONE, InstanceState::Lost);
            },
            desired: 2,
            want: &["start #1 on 3"],
        },
        Case {
            name: "exited ones do not",
            annotations: &[("max-scale", "1")],
            given: |stage| {
                stage.instance("a", ONE, InstanceState::Exited);
                stage.instance("b", ONE, InstanceState::Destroyed);
            },
            desired: 1,
            want: &["start #1 on 2"],
        },
        Case {
            name: "a new owner waits until every agent has answered",
            annotations: CAP_2,
            given: |stage| stage.keeper.table.complete = false,
            desired: 2,
            want: &["timer push-later 100"],
        },
        Case {
            name: "without a cap it does not",
            annotations: &[],
            given: |stage| stage.keeper.table.complete = false,
            desired: 1,
            want: &["start #1 on 2", "timer push-later 100"],
        },
    ]);
}

#[test]
fn starts_in_doubt_count_in_every_later_turn() {
    let mut stage = Stage::new(CAP_2);
    let mut actor = load(&stage);
    assert_eq!(turn(&mut actor, &mut stage, desired(2)).len(), 2);
    assert_eq!(turn(&mut actor, &mut stage, desired(3)), [""; 0]);
    // The keeper remembers what the actor forgets.
    let mut reloaded = load(&stage);
    assert_eq!(turn(&mut reloaded, &mut stage, desired(2)), [""; 0]);
    // Numbers go on, also over what was refused.
    refuse(&mut stage, 1, RefusalKind::Busy);
    assert_eq!(
        turn(&mut reloaded, &mut stage, Event::Changed),
        ["start #3 on 3"]
    );
}

#[test]
fn surplus_goes_by_what_is_lost_least() {
    check(&[
        Case {
            name: "not ready, then idle, then few requests, then young",
            annotations: &[],
            given: |stage| {
                for (id, state, in_flight, age_ms) in [
                    ("busy", InstanceState::Ready, 3, 10),
                    ("old", InstanceState::Ready, 0, 90),
                    ("young", InstanceState::Ready, 0, 20),
                    ("boots", InstanceState::Booting, 0, 99),
                    ("some", InstanceState::Ready, 1, 10),
                ] {
                    let mut report = stage.report(&InstanceId::from(id), state);
                    (report.in_flight, report.age_ms) = (in_flight, age_ms);
                    stage.take(ONE, report);
                }
            },
            desired: 1,
            want: &[
                "stop boots on 2: scale_down",
                "stop young on 2: scale_down",
                "stop old on 2: scale_down",
                "stop some on 2: scale_down",
            ],
        },
        Case {
            name: "to zero",
            annotations: &[],
            given: |stage| stage.ready(1),
            desired: 0,
            want: &["stop i1 on 2: scale_down"],
        },
        Case {
            name: "those that leave already are left alone",
            annotations: &[],
            given: |stage| {
                stage.ready(1);
                stage.instance("d", ONE, InstanceState::Draining);
                stage.instance("s", ONE, InstanceState::Stopping);
            },
            desired: 0,
            want: &["stop i1 on 2: scale_down"],
        },
        Case {
            name: "a stranded one that came back is trimmed with the rest",
            annotations: &[],
            given: |stage| {
                stage.ready(1);
                stage.instance("back", TWO, InstanceState::Ready);
            },
            desired: 1,
            want: &["stop back on 3: scale_down"],
        },
    ]);
    // One that nobody can name yet goes as soon as its agent has answered.
    let mut stage = Stage::new(&[]);
    let mut actor = load(&stage);
    turn(&mut actor, &mut stage, desired(1));
    assert_eq!(turn(&mut actor, &mut stage, desired(0)), [""; 0]);
    stage.instance(started(1).as_str(), TWO, InstanceState::Preparing);
    assert_eq!(
        turn(&mut actor, &mut stage, Event::Changed),
        ["stop #1 on 3: scale_down"]
    );
}

#[test]
fn a_node_that_refused_is_avoided_for_a_while() {
    let mut stage = Stage::new(&[]);
    let mut actor = load(&stage);
    turn(&mut actor, &mut stage, desired(1));
    refuse(&mut stage, 1, RefusalKind::NoCapacity);
    assert_eq!(
        turn(&mut actor, &mut stage, Event::Changed),
        ["start #2 on 3"]
    );
    refuse(&mut stage, 2, RefusalKind::NotReady);
    assert_eq!(
        turn(&mut actor, &mut stage, Event::Changed),
        ["timer backoff 1000"]
    );
    stage.now_ms += 1_000;
    let again = turn(&mut actor, &mut stage, Event::Timer { name: "backoff" });
    assert_eq!(again, ["start #3 on 2"]);
    // A refusal tells nothing about the app.
    let outputs = actor.turn(stage.view(), &Event::Changed, stage.now_ms);
    assert!(words(&outputs).iter().all(|text| !text.contains("failed")));
}

/// Boots one instance and lets it fail; returns the orders that follow.
fn fail_once(actor: &mut RevisionActor, stage: &mut Stage, n: u64) -> Vec<String> {
    let id = started(n);
    let session = stage.keeper.table.instances[&id].session;
    stage.instance(id.as_str(), session, InstanceState::Booting);
    stage.exit(&id, Exit::Code(1), false);
    turn(actor, stage, Event::Changed)
}

#[test]
fn failures_in_a_row_make_pauses_that_double() {
    let mut stage = Stage::new(&[]);
    let mut actor = load(&stage);
    turn(&mut actor, &mut stage, desired(1));
    let first = fail_once(&mut actor, &mut stage, 1);
    assert_eq!(
        first.len(),
        1,
        "the first failure is retried at once: {first:?}"
    );
    let pauses = [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000];
    for (n, pause) in (2..).zip(pauses) {
        let want = [format!("timer backoff {pause}")];
        assert_eq!(fail_once(&mut actor, &mut stage, n), want);
        // Any look before the time finds the rest of the pause, not a start, and not silence.
        stage.now_ms += 400;
        let rest = [format!("timer backoff {}", pause - 400)];
        assert_eq!(turn(&mut actor, &mut stage, desired(1)), rest);
        stage.now_ms += pause - 400;
        let started = turn(&mut actor, &mut stage, Event::Timer { name: "backoff" });
        assert_eq!(started.len(), 1, "{started:?}");
        assert!(started[0].starts_with("start"), "{started:?}");
    }
}

#[test]
fn a_reloaded_actor_pauses_no_longer_than_the_one_before() {
    let mut stage = Stage::new(&[]);
    let mut actor = load(&stage);
    turn(&mut actor, &mut stage, desired(1));
    for n in 1..=3 {
        fail_once(&mut actor, &mut stage, n);
        stage.now_ms += 1_000 * u64::from(n == 2);
        turn(&mut actor, &mut stage, desired(1));
    }
    stage.now_ms += 500;
    let mut reloaded = load(&stage);
    let pause = turn(&mut actor, &mut stage, desired(1));
    assert_eq!(pause, ["timer backoff 1500"]);
    assert_eq!(turn(&mut reloaded, &mut stage, desired(1)), pause);
}

#[test]
fn ready_for_a_while_ends_the_row_of_failures() {
    let mut stage = Stage::new(&[]);
    let mut actor = load(&stage);
    turn(&mut actor, &mut stage, desired(1));
    fail_once(&mut actor, &mut stage, 1);
    fail_once(&mut actor, &mut stage, 2);
    stage.now_ms += 1_000;
    turn(&mut actor, &mut stage, Event::Changed);
    let id = stage.instance(started(3).as_str(), ONE, InstanceState::Ready);
    // Ready and gone at once: the row goes on.
    turn(&mut actor, &mut stage, Event::Changed);
    stage.exit(&id, Exit::Code(1), true);
    assert_eq!(
        turn(&mut actor, &mut stage, Event::Changed),
        ["timer backoff 2000"]
    );
    stage.now_ms += 2_000;
    turn(&mut actor, &mut stage, Event::Changed);
    let id = stage.instance(started(4).as_str(), ONE, InstanceState::Ready);
    stage.now_ms += 10_000;
    turn(&mut actor, &mut stage, Event::Changed);
    stage.exit(&id, Exit::Code(1), true);
    let after = turn(&mut actor, &mut stage, Event::Changed);
    assert!(after[0].starts_with("start"), "{after:?}");
}

#[test]
fn an_ordered_stop_is_no_failure_however_it_ends() {
    for exit in [
        Exit::Code(143),
        Exit::Code(1),
        Exit::Signal(15),
        Exit::Unknown,
    ] {
        let mut stage = Stage::new(&[]);
        stage.ready(3);
        let mut actor = load(&stage);
        turn(&mut actor, &mut stage, desired(0));
        for id in ["i1", "i2", "i3"] {
            stage.exit(&InstanceId::from(id), exit.clone(), true);
        }
        turn(&mut actor, &mut stage, Event::Changed);
        // The next cold start waits for nothing.
        let next = turn(&mut actor, &mut stage, desired(1));
        assert_eq!(next, ["start #1 on 2"], "{exit:?}");
    }
}

#[test]
fn a_stop_seen_under_way_is_no_failure_after_a_reload() {
    let mut stage = Stage::new(&[]);
    let ids = ["a", "b"].map(|id| stage.instance(id, ONE, InstanceState::Stopping));
    let mut actor = load(&stage);
    turn(&mut actor, &mut stage, desired(0));
    for id in &ids {
        stage.exit(id, Exit::Code(1), true);
    }
    turn(&mut actor, &mut stage, Event::Changed);
    assert_eq!(turn(&mut actor, &mut stage, desired(1)), ["start #1 on 2"]);
}

#[test]
fn what_is_on_its_way_out_does_not_come_back_by_a_reload() {
    for state in [InstanceState::Draining, InstanceState::Stopping] {
        let mut stage = Stage::new(&[]);
        stage.recorded(0, ConditionStatus::False);
        stage.instance("a", ONE, state);
        let mut actor = load(&stage);
        assert_eq!(turn(&mut actor, &mut stage, Event::Changed), [""; 0]);
    }
}

#[test]
fn one_that_is_not_ready_any_more_keeps_its_place_and_gets_no_requests() {
    let mut stage = Stage::new(&[]);
    stage.mark_ready("hello-00001");
    stage.ready(1);
    let mut actor = load(&stage);
    let mut said = |stage: &Stage, event| {
        let outputs = actor.turn(stage.view(), &event, stage.now_ms);
        let all = words(&outputs).into_iter();
        let known = ["push", "start", "stop"];
        all.filter(|word| known.iter().any(|known| word.starts_with(known)))
            .collect::<Vec<_>>()
    };
    let id = InstanceId::from("i1");
    assert_eq!(said(&stage, desired(1)), ["push Proxy [i1]"]);
    let mut not_ready = stage.report(&id, InstanceState::Booting);
    (not_ready.ready_after_ms, not_ready.age_ms) = (1, 500);
    stage.take(ONE, not_ready);
    let out = said(&stage, Event::Changed);
    assert_eq!(out, ["push Proxy []"], "nothing is started in its place");
    let mut again = stage.report(&id, InstanceState::Ready);
    again.age_ms = 900;
    stage.take(ONE, again);
    assert_eq!(said(&stage, Event::Changed), ["push Proxy [i1]"]);
}

#[test]
fn one_that_failed_a_probe_is_replaced_as_it_goes_and_is_a_failure() {
    let mut stage = Stage::new(&[]);
    stage.ready(1);
    let mut actor = load(&stage);
    turn(&mut actor, &mut stage, desired(1));
    let id = stage.instance("i1", ONE, InstanceState::Stopping);
    let replaced = turn(&mut actor, &mut stage, Event::Changed);
    assert!(
        replaced.iter().any(|word| word.starts_with("start")),
        "{replaced:?}"
    );
    let unhealthy = Exit::Unhealthy {
        probe: ProbeKind::Liveness,
        cause: "liveness probe: no answer within 1s".into(),
    };
    stage.exit(&id, unhealthy, true);
    let outputs = actor.turn(stage.view(), &Event::Changed, stage.now_ms);
    let said = words(&outputs).join(" ");
    let reason = "Container failed with: liveness probe: no answer within 1s";
    assert!(said.contains(reason), "{said}");
}

#[test]
fn a_loaded_actor_holds_what_is_there_until_it_is_told() {
    let mut stage = Stage::new(&[]);
    stage.recorded(0, ConditionStatus::False);
    stage.ready(1);
    let mut actor = load(&stage);
    assert_eq!(turn(&mut actor, &mut stage, Event::Changed), [""; 0]);
    assert!(!actor.may_passivate(stage.view()));
    assert_eq!(
        turn(&mut actor, &mut stage, desired(0)),
        ["stop i1 on 2: scale_down"]
    );
}

#[test]
fn a_deleted_revision_stops_its_instances_and_may_go() {
    let mut stage = Stage::new(&[]);
    stage.mark_ready("hello-00001");
    stage.ready(2);
    let mut actor = load(&stage);
    turn(&mut actor, &mut stage, desired(2));
    stage.delete();
    let outputs = actor.turn(stage.view(), &Event::Changed, stage.now_ms);
    assert_eq!(
        orders(&outputs),
        ["stop i1 on 2: deleted", "stop i2 on 2: deleted"]
    );
    assert_eq!(words(&outputs), ["push Proxy []"]);
    assert!(!actor.may_passivate(stage.view()));
    for id in ["i1", "i2"] {
        stage.exit(&InstanceId::from(id), Exit::Signal(15), true);
    }
    assert_eq!(turn(&mut actor, &mut stage, Event::Changed), [""; 0]);
    assert!(actor.may_passivate(stage.view()));
}

#[test]
fn a_name_issued_anew_takes_nothing_from_its_earlier_life() {
    let mut stage = Stage::new(&[("max-scale", "1")]);
    stage.mark_ready("hello-00001");
    stage.ready(1);
    let mut actor = load(&stage);
    turn(&mut actor, &mut stage, desired(1));
    let old = stage.report(&InstanceId::from("i1"), InstanceState::Draining);
    stage.delete();
    stage.put("demo/echo");
    // Not heard of as deleted in between: the old instance still serves.
    let outputs = actor.turn(stage.view(), &desired(1), stage.now_ms);
    assert_eq!(orders(&outputs), ["stop i1 on 2: deleted", "start #1 on 3"]);
    assert_eq!(
        words(&outputs),
        [
            "push Proxy []",
            "revision: ResourcesAvailable=Unknown(Deploying) ContainerHealthy=Unknown(Deploying)"
        ]
    );
    stage.execute(&outputs);
    // Nor is its drain called off.
    stage.take(ONE, old);
    assert_eq!(turn(&mut actor, &mut stage, desired(1)), [""; 0]);
}

#[test]
fn conditions_follow_the_instances() {
    let mut stage = Stage::new(&[]);
    let mut actor = load(&stage);
    let mut say = |stage: &Stage, event: Event| {
        let outputs = actor.turn(stage.view(), &event, stage.now_ms);
        (words(&outputs), outputs)
    };
    let waiting =
        "revision: ResourcesAvailable=Unknown(Deploying) ContainerHealthy=Unknown(Deploying)";
    let (said, outputs) = say(&stage, desired(1));
    assert_eq!(said, ["push Proxy []", waiting]);
    stage.execute(&outputs);
    // One proposal at a time.
    assert_eq!(say(&stage, Event::Changed).0, [""; 0]);
    let applied = |stage: &mut Stage| Event::Proposed {
        outcome: ProposalOutcome::Applied(LogIndex(stage.state.revisions().count() as u64)),
    };
    let event = applied(&mut stage);
    assert_eq!(
        say(&stage, event).0,
        [waiting],
        "it is not in the state yet"
    );
    let id = stage.instance(started(1).as_str(), TWO, InstanceState::Booting);
    stage.exit(&id, Exit::Code(3), false);
    let event = applied(&mut stage);
    let (said, outputs) = say(&stage, event);
    assert_eq!(
        said,
        [
            "push Proxy [] failed: Container failed with: boom",
            "revision: ContainerHealthy=False(ExitCode3) ResourcesAvailable=Unknown(Deploying)"
        ]
    );
    stage.execute(&outputs);
    stage.instance(started(2).as_str(), ONE, InstanceState::Ready);
    let event = applied(&mut stage);
    assert_eq!(
        say(&stage, event).0,
        [
            "push Proxy [#2]",
            "revision: ResourcesAvailable=True ContainerHealthy=True"
        ]
    );
}

#[test]
fn ready_is_for_ever_and_a_crash_does_not_take_it_back() {
    let mut stage = Stage::new(&[]);
    stage.mark_ready("hello-00001");
    stage.ready(1);
    let mut actor = load(&stage);
    turn(&mut actor, &mut stage, desired(1));
    stage.exit(&InstanceId::from("i1"), Exit::OutOfMemory, true);
    let outputs = actor.turn(stage.view(), &Event::Changed, stage.now_ms);
    let memory = "killed for want of memory, see `resources.limits.memory`";
    let told = format!("push Proxy [] failed: Container failed with: {memory}\nboom");
    assert_eq!(words(&outputs), [told]);
}

#[test]
fn a_new_owner_takes_nothing_from_gateways_before_every_agent_has_answered() {
    let mut stage = Stage::new(&[]);
    stage.mark_ready("hello-00001");
    stage.recorded(1, ConditionStatus::True);
    stage.keeper.table.complete = false;
    let mut actor = load(&stage);
    let mut said = |stage: &Stage| {
        let outputs = actor.turn(stage.view(), &Event::Changed, stage.now_ms);
        let words = words(&outputs).into_iter();
        words
            .filter(|word| word.starts_with("push"))
            .collect::<Vec<_>>()
    };
    assert_eq!(said(&stage), [""; 0], "it may be on the node not heard yet");
    stage.ready(1);
    assert_eq!(said(&stage), ["push Proxy [i1]"], "what is known is told");
    stage.exit(&InstanceId::from("i1"), Exit::Code(1), true);
    assert_eq!(
        said(&stage),
        ["push Proxy [] failed: Container failed with: boom"],
        "and taken back"
    );
}

#[test]
fn the_initial_scale_decides_when_it_is_ready() {
    for (annotations, n_ready, is_ready) in [
        (&[][..], 1, true),
        (&[("initial-scale", "3")][..], 2, false),
        (&[("initial-scale", "3")][..], 3, true),
        (&[("min-scale", "2")][..], 1, false),
        (&[("min-scale", "2")][..], 2, true),
    ] {
        let mut stage = Stage::new(annotations);
        stage.ready(n_ready);
        let mut actor = load(&stage);
        // Nothing was ready before this look.
        let outputs = actor.turn(stage.view(), &desired(n_ready), stage.now_ms);
        let said = words(&outputs);
        let status = if is_ready { "=True" } else { "=Unknown" };
        assert!(
            said[1].starts_with(&format!("revision: ResourcesAvailable{status}")),
            "{annotations:?}: {said:?}"
        );
    }
}

#[test]
fn a_failed_proposal_is_tried_again_after_a_pause() {
    let mut stage = Stage::new(&[]);
    let mut actor = load(&stage);
    turn(&mut actor, &mut stage, desired(0));
    let event = Event::Proposed {
        outcome: ProposalOutcome::NotApplied,
    };
    assert_eq!(turn(&mut actor, &mut stage, event), ["timer retry 100"]);
    let outputs = actor.turn(stage.view(), &Event::Timer { name: "retry" }, stage.now_ms);
    assert_eq!(words(&outputs).len(), 1);
}

#[test]
fn a_node_that_isolates_too_little_is_left_alone_and_the_others_are_asked() {
    let mut stage = Stage::new(&[("nihilo.dev/min-isolation", "full")]);
    let mut actor = load(&stage);
    let outputs = actor.turn(stage.view(), &desired(1), stage.now_ms);
    let asked = outputs.effects.iter().find_map(|effect| match effect {
        Effect::Start { spec, .. } => Some(spec.min_isolation),
        _ => None,
    });
    assert_eq!(asked, Some(Isolation::Full));
    stage.execute(&outputs);
    let refuse = |stage: &mut Stage, n: u64| {
        let id = started(n);
        let session = stage.keeper.table.instances[&id].session;
        stage.instance(id.as_str(), session, InstanceState::Preparing);
        let refused = Exit::StartFailed {
            stage: stage::ISOLATION.into(),
            cause: format!("session {session} lacks it"),
        };
        stage.exit(&id, refused, false);
        session
    };
    let first = refuse(&mut stage, 1);
    let other = if first == ONE { TWO } else { ONE };
    let next = turn(&mut actor, &mut stage, Event::Changed);
    assert_eq!(next, [format!("start #2 on {other}")]);
    assert_eq!(refuse(&mut stage, 2), other);
    // One proposal at a time: that of the start has just been applied.
    let applied = Event::Proposed {
        outcome: ProposalOutcome::Applied(LogIndex(1)),
    };
    let outputs = actor.turn(stage.view(), &applied, stage.now_ms);
    let told = words(&outputs).join("\n");
    let what = "session 2 lacks it; session 3 lacks it\nfailed 2 times in a row";
    assert!(told.contains(what), "{told}");
    let why = "ResourcesAvailable=False(IsolationUnavailable)";
    assert!(told.contains(why), "{told}");
    stage.now_ms += 2_000;
    let nowhere = turn(&mut actor, &mut stage, Event::Timer { name: "backoff" });
    assert_eq!(nowhere, ["timer backoff 1000"]);
    stage.now_ms += 60_000;
    let again = turn(&mut actor, &mut stage, Event::Timer { name: "backoff" });
    assert!(again[0].starts_with("start #3"), "{again:?}");
}

#[test]
fn a_node_that_lacks_the_image_is_asked_last() {
    for lacking in [stage::IMAGE, stage::ENGINE] {
        let mut stage = Stage::new(&[]);
        let mut actor = load(&stage);
        turn(&mut actor, &mut stage, desired(1));
        let fail = |stage: &mut Stage, n: u64| {
            let id = started(n);
            let session = stage.keeper.table.instances[&id].session;
            stage.instance(id.as_str(), session, InstanceState::Preparing);
            let failed = Exit::StartFailed {
                stage: lacking.into(),
                cause: "not here".into(),
            };
            stage.exit(&id, failed, false);
            session
        };
        let first = fail(&mut stage, 1);
        let other = if first == ONE { TWO } else { ONE };
        let next = turn(&mut actor, &mut stage, Event::Changed);
        assert_eq!(next, [format!("start #2 on {other}")], "{lacking}");
        assert_eq!(fail(&mut stage, 2), other);
        turn(&mut actor, &mut stage, Event::Changed);
        // Nobody has it as far as is known: whoever is asked may have got it by now.
        stage.now_ms += 1_000;
        let again = turn(&mut actor, &mut stage, Event::Timer { name: "backoff" });
        assert!(again[0].starts_with("start #3"), "{lacking}: {again:?}");
    }
}
