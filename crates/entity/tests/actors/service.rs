//! The Service actor: rolls up its children, and moves `latestReady` only forward.

use nihilo_entity::Event;
use nihilo_entity::event::ProposalOutcome;
use nihilo_entity::service::ServiceActor;
use nihilo_machine::Command;
use nihilo_machine::command::RecordRoute;
use nihilo_types::condition::{Assertion, types};
use nihilo_types::id::LogIndex;
use nihilo_types::route::TrafficTarget;

use crate::stage::{Stage, key, words};

fn proposes(stage: &Stage) -> Vec<String> {
    let mut actor = ServiceActor::load(&key("hello"));
    words(&actor.turn(stage.view(), &Event::Changed))
}

fn fail(stage: &mut Stage, name: &str) {
    let failed = Assertion::falsity(types::CONTAINER_HEALTHY, "ExitCode1", "it broke");
    stage.mark_revision(name, vec![failed]);
}

/// The route serves all of it from this revision, and says so.
fn route_ready(stage: &mut Stage, revision: &str) {
    stage.assign(vec![TrafficTarget::revision(revision, 100)]);
    let version = stage.state.route(&key("hello")).unwrap().metadata.version();
    let truths = [
        types::ALL_TRAFFIC_ASSIGNED,
        types::INGRESS_READY,
        types::CERTIFICATE_PROVISIONED,
    ];
    stage.apply(Command::RecordRoute(RecordRoute {
        fence: Stage::fence(),
        key: key("hello"),
        version,
        assertions: truths.map(Assertion::truth).to_vec(),
    }));
}

#[test]
fn the_children_roll_up() {
    struct Case {
        name: &'static str,
        given: fn(&mut Stage),
        want: &'static [&'static str],
    }
    let cases = [
        Case {
            name: "nothing has happened yet",
            given: |_| {},
            want: &["service, latest ready \"\": configuration Ready=Unknown; \
                     ConfigurationsReady=Unknown RoutesReady=Unknown(OutOfDate)"],
        },
        Case {
            name: "the revision is ready, the route is not",
            given: |stage| stage.mark_ready("hello-00001"),
            want: &[
                "service, latest ready \"hello-00001\": configuration Ready=True; \
                     ConfigurationsReady=True RoutesReady=Unknown(OutOfDate)",
            ],
        },
        Case {
            name: "all of it is ready",
            given: |stage| {
                stage.mark_ready("hello-00001");
                route_ready(stage, "hello-00001");
            },
            want: &[
                "service, latest ready \"hello-00001\": configuration Ready=True; \
                     ConfigurationsReady=True RoutesReady=True",
            ],
        },
        Case {
            name: "the revision has failed",
            given: |stage| fail(stage, "hello-00001"),
            want: &[
                "service, latest ready \"\": configuration Ready=False(RevisionFailed); \
                     ConfigurationsReady=False(RevisionFailed) RoutesReady=Unknown(OutOfDate)",
            ],
        },
        Case {
            name: "a newer one fails: the older one stays the latest ready",
            given: |stage| {
                stage.mark_ready("hello-00001");
                route_ready(stage, "hello-00001");
                stage.mark_latest_ready("hello-00001");
                stage.put("demo/echo");
                fail(stage, "hello-00002");
            },
            want: &["service, latest ready \"hello-00001\": configuration \
                     Ready=False(RevisionFailed); ConfigurationsReady=False(RevisionFailed) \
                     RoutesReady=True"],
        },
        Case {
            name: "a newer one is ready, the route has not followed",
            given: |stage| {
                stage.mark_ready("hello-00001");
                route_ready(stage, "hello-00001");
                stage.mark_latest_ready("hello-00001");
                stage.put("demo/echo");
                stage.mark_ready("hello-00002");
            },
            want: &[
                "service, latest ready \"hello-00002\": configuration Ready=True; \
                     ConfigurationsReady=True RoutesReady=Unknown(TrafficNotMigrated)",
            ],
        },
        Case {
            name: "an older one that becomes ready late does not go back",
            given: |stage| {
                stage.put("demo/echo");
                stage.mark_ready("hello-00002");
                stage.mark_latest_ready("hello-00002");
                stage.mark_ready("hello-00001");
            },
            want: &[
                "service, latest ready \"hello-00002\": configuration Ready=True; \
                     ConfigurationsReady=True RoutesReady=Unknown(OutOfDate)",
            ],
        },
        Case {
            name: "it moves forward one that is not the newest",
            given: |stage| {
                stage.mark_ready("hello-00001");
                stage.mark_latest_ready("hello-00001");
                stage.put("demo/echo");
                stage.put("demo/sleep");
                stage.mark_ready("hello-00002");
            },
            want: &[
                "service, latest ready \"hello-00002\": configuration Ready=Unknown; \
                     ConfigurationsReady=Unknown RoutesReady=Unknown(OutOfDate)",
            ],
        },
        Case {
            name: "it is gone",
            given: Stage::delete,
            want: &[],
        },
    ];
    for case in cases {
        let mut stage = Stage::new(&[]);
        (case.given)(&mut stage);
        assert_eq!(proposes(&stage), case.want, "{}", case.name);
    }
}

#[test]
fn what_stands_is_not_written_again() {
    let mut stage = Stage::new(&[]);
    stage.mark_ready("hello-00001");
    route_ready(&mut stage, "hello-00001");
    let mut actor = ServiceActor::load(&key("hello"));
    let outputs = actor.turn(stage.view(), &Event::Changed);
    let [nihilo_entity::Effect::Propose(command)] = outputs.effects.as_slice() else {
        panic!("{outputs:?}")
    };
    assert!(!actor.may_passivate());
    stage.apply(command.as_ref().clone());
    let applied = Event::Proposed {
        outcome: ProposalOutcome::Applied(LogIndex(1)),
    };
    assert_eq!(words(&actor.turn(stage.view(), &applied)), [""; 0]);
    assert!(actor.may_passivate());
    let service = stage.state.service(&key("hello")).unwrap();
    assert!(service.status.conditions.is_true(types::READY));
}

#[test]
fn a_refused_proposal_is_decided_anew() {
    let stage = Stage::new(&[]);
    let mut actor = ServiceActor::load(&key("hello"));
    let mut say = |event: &Event| words(&actor.turn(stage.view(), event));
    let first = say(&Event::Changed);
    assert_eq!(first.len(), 1);
    assert_eq!(say(&Event::Changed), [""; 0]);
    let rejected = Event::Proposed {
        outcome: ProposalOutcome::Rejected,
    };
    assert_eq!(say(&rejected), first);
}

#[test]
fn revisions_that_nobody_needs_are_collected_and_those_in_use_stay() {
    let mut stage = Stage::with_settings(&[], |settings| {
        settings.gc.min_non_active = 1;
        settings.gc.max_non_active = Some(2);
        settings.gc.since_create_ms = None;
        settings.gc.since_active_ms = None;
    });
    for image in ["demo/echo", "demo/sleep", "demo/hello", "demo/echo"] {
        stage.put(image);
    }
    for n in 1..=5 {
        stage.mark_ready(&format!("hello-0000{n}"));
    }
    stage.mark_latest_ready("hello-00005");
    // All but the last are in reserve once it has the traffic.
    route_ready(&mut stage, "hello-00005");
    let mut actor = ServiceActor::load(&key("hello"));
    let mut event = Event::Changed;
    for _ in 0..5 {
        let outputs = actor.turn(stage.view(), &event);
        for effect in outputs.effects {
            if let nihilo_entity::Effect::Propose(command) = effect {
                stage.apply(*command);
            }
        }
        event = Event::Proposed {
            outcome: ProposalOutcome::Applied(LogIndex(1)),
        };
    }
    let left: Vec<_> = stage
        .state
        .revisions_of(&key("hello"))
        .map(|revision| revision.metadata.name.clone())
        .collect();
    assert_eq!(left, ["hello-00003", "hello-00004", "hello-00005"]);
}
