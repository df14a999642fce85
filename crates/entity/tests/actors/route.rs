//! The Route actor: traffic is assigned when its revisions are ready, and Ready when served.

use nihilo_entity::Event;
use nihilo_entity::event::ProposalOutcome;
use nihilo_entity::route::RouteActor;
use nihilo_machine::Command;
use nihilo_machine::command::{Expect, PutService, RecordRoute, Uids};
use nihilo_types::condition::{Assertion, types};
use nihilo_types::id::LogIndex;
use nihilo_types::route::TrafficTarget;
use nihilo_types::service::Service;

use crate::stage::{Stage, key, words};

/// What a freshly loaded actor proposes.
fn proposes(stage: &Stage) -> Vec<String> {
    let mut actor = RouteActor::load(&key("hello"));
    words(&actor.turn(stage.view(), &Event::Changed))
}

fn shares(pairs: &[(&str, u32)]) -> Vec<TrafficTarget> {
    let share = |(name, percent): &(&str, u32)| match *name {
        "" => TrafficTarget::latest(*percent),
        name => TrafficTarget::revision(name, *percent),
    };
    pairs.iter().map(share).collect()
}

fn tagged(tag: &str, target: TrafficTarget) -> TrafficTarget {
    TrafficTarget {
        tag: tag.into(),
        ..target
    }
}

const ASSIGNED: &str = "AllTrafficAssigned=True IngressReady=Unknown(IngressNotConfigured) \
                        CertificateProvisioned=True(TLSNotEnabled)";

/// Two revisions; the second one is the latest created. Upstream's names where it has them.
#[test]
fn targets_are_resolved_to_revisions_or_say_why_not() {
    struct Case {
        name: &'static str,
        traffic: Vec<TrafficTarget>,
        given: fn(&mut Stage),
        want: String,
    }
    let both_ready: fn(&mut Stage) = |stage| {
        stage.mark_ready("hello-00001");
        stage.mark_ready("hello-00002");
        stage.mark_latest_ready("hello-00002");
    };
    let assign = |traffic: &str| format!("assign [{traffic}]: {ASSIGNED}");
    let problem = |text: &str| format!("route: AllTrafficAssigned={text}");
    let cases = vec![
        Case {
            name: "VanillaScheme: the latest that is ready",
            traffic: shares(&[("", 100)]),
            given: both_ready,
            want: assign("hello-00002! 100%"),
        },
        Case {
            name: "the latest ready one, while a newer one is made",
            traffic: shares(&[("", 100)]),
            given: |stage| {
                stage.mark_ready("hello-00001");
                stage.mark_latest_ready("hello-00001");
            },
            want: assign("hello-00001! 100%"),
        },
        Case {
            name: "BuildTrafficConfiguration/Canary: split between fixed and latest",
            traffic: shares(&[("hello-00001", 90), ("", 10)]),
            given: both_ready,
            want: assign("hello-00001 90%, hello-00002! 10%"),
        },
        Case {
            name: "BuildTrafficConfiguration/Consolidated: equal targets add up",
            traffic: shares(&[("hello-00001", 49), ("hello-00002", 50), ("hello-00001", 1)]),
            given: both_ready,
            want: assign("hello-00001 50%, hello-00002 50%"),
        },
        Case {
            name: "BuildTrafficConfiguration/TwoFixedRevisions: latest and fixed stay apart",
            traffic: shares(&[("hello-00002", 40), ("", 60)]),
            given: both_ready,
            want: assign("hello-00002 40%, hello-00002! 60%"),
        },
        Case {
            name: "BuildTrafficConfiguration/Preliminary: a tag without traffic",
            traffic: vec![
                TrafficTarget::latest(100),
                tagged("beta", TrafficTarget::revision("hello-00001", 0)),
            ],
            given: both_ready,
            want: assign("hello-00002! 100%, beta=hello-00001 0%"),
        },
        Case {
            name: "BuildTrafficConfiguration/NotRoutableRevision: not ready yet",
            traffic: shares(&[("hello-00001", 100)]),
            given: |_| {},
            want: problem("Unknown(RevisionMissing)"),
        },
        Case {
            name: "BuildTrafficConfiguration/FailedRevision",
            traffic: shares(&[("hello-00001", 100)]),
            given: |stage| {
                let failed = Assertion::falsity(types::CONTAINER_HEALTHY, "ExitCode1", "x");
                stage.mark_revision("hello-00001", vec![failed]);
            },
            want: problem("False(RevisionMissing)"),
        },
        Case {
            name: "BuildTrafficConfiguration/EmptyConfiguration: nothing ready yet",
            traffic: shares(&[("", 100)]),
            given: |_| {},
            want: problem("Unknown(RevisionMissing)"),
        },
        Case {
            name: "BuildTrafficConfiguration/MissingRevision",
            traffic: shares(&[("hello-00009", 100)]),
            given: both_ready,
            want: problem("False(RevisionMissing)"),
        },
        Case {
            name: "a failure is told before what is not there yet",
            traffic: shares(&[("hello-00001", 50), ("hello-00009", 50)]),
            given: |_| {},
            want: problem("False(RevisionMissing)"),
        },
        Case {
            name: "one target that is not ready holds all of them",
            traffic: shares(&[("hello-00001", 50), ("hello-00002", 50)]),
            given: |stage| stage.mark_ready("hello-00001"),
            want: problem("Unknown(RevisionMissing)"),
        },
    ];
    for case in cases {
        let mut stage = Stage::new(&[]);
        stage.put("demo/echo");
        (case.given)(&mut stage);
        stage.put_with_traffic("demo/echo", case.traffic);
        assert_eq!(proposes(&stage), [case.want], "{}", case.name);
    }
}

#[test]
fn another_services_revision_is_not_ours_to_serve() {
    let mut stage = Stage::new(&[]);
    let service: Service = serde_json::from_value(serde_json::json!({
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": "other", "namespace": "default"},
        "spec": {"template": {"spec": {"containers": [{"image": "demo/echo"}]}}},
    }))
    .unwrap();
    stage.apply(Command::PutService(Box::new(PutService {
        service,
        expect: Expect::Absent,
        uids: Uids::default(),
        user: "test".into(),
    })));
    stage.put_with_traffic("demo/hello", shares(&[("other-00001", 100)]));
    assert_eq!(
        proposes(&stage),
        ["route: AllTrafficAssigned=False(RevisionNotOwned)"]
    );
}

/// A route whose assignment stands, made by the entry that this returns.
fn assigned(stage: &mut Stage) -> LogIndex {
    stage.mark_ready("hello-00001");
    stage.mark_latest_ready("hello-00001");
    stage.assign(vec![TrafficTarget {
        revision_name: "hello-00001".into(),
        latest_revision: Some(true),
        percent: Some(100),
        ..TrafficTarget::default()
    }]);
    LogIndex(stage.state.route(&key("hello")).unwrap().status.assigned_at)
}

#[test]
fn ready_waits_until_every_gateway_serves_the_assignment() {
    let mut stage = Stage::new(&[]);
    let at = assigned(&mut stage);
    let mut actor = RouteActor::load(&key("hello"));
    let waits = format!("route: {ASSIGNED}");
    let is_ready = format!(
        "route: {}",
        ASSIGNED.replace("Unknown(IngressNotConfigured)", "True")
    );
    let rejected = Event::Proposed {
        outcome: ProposalOutcome::Rejected,
    };
    let mut say = |stage: &Stage, event: &Event| words(&actor.turn(stage.view(), event));
    assert_eq!(say(&stage, &Event::Changed), std::slice::from_ref(&waits));
    stage.keeper.table.acknowledged = LogIndex(at.0 - 1);
    assert_eq!(
        say(&stage, &Event::Changed),
        [""; 0],
        "a proposal is under way"
    );
    assert_eq!(say(&stage, &rejected), [waits]);
    stage.keeper.table.acknowledged = at;
    assert_eq!(
        say(&stage, &Event::Changed),
        [""; 0],
        "a proposal is under way"
    );
    assert_eq!(say(&stage, &rejected), [is_ready]);
    assert!(!actor.may_passivate(stage.view()), "not Ready yet");
}

#[test]
fn a_new_owner_does_not_take_ready_back() {
    let mut stage = Stage::new(&[]);
    assigned(&mut stage);
    let version = stage.state.route(&key("hello")).unwrap().metadata.version();
    stage.apply(Command::RecordRoute(RecordRoute {
        fence: Stage::fence(),
        key: key("hello"),
        version,
        assertions: vec![
            Assertion::truth(types::ALL_TRAFFIC_ASSIGNED),
            Assertion::truth(types::INGRESS_READY),
            Assertion::new(
                types::CERTIFICATE_PROVISIONED,
                nihilo_types::condition::ConditionStatus::True,
                "TLSNotEnabled",
                "external-domain-tls is not enabled",
            ),
        ],
    }));
    // It has heard of no gateway.
    assert_eq!(proposes(&stage), [""; 0]);
    let actor = RouteActor::load(&key("hello"));
    assert!(actor.may_passivate(stage.view()));
}

#[test]
fn the_old_traffic_stays_while_the_new_one_cannot_be_served() {
    let mut stage = Stage::new(&[]);
    assigned(&mut stage);
    stage.put_with_traffic("demo/echo", shares(&[("hello-00002", 100)]));
    assert_eq!(
        proposes(&stage),
        ["route: AllTrafficAssigned=Unknown(RevisionMissing)"]
    );
    let route = stage.state.route(&key("hello")).unwrap();
    assert_eq!(route.status.traffic[0].revision_name, "hello-00001");
    stage.mark_ready("hello-00002");
    assert_eq!(
        proposes(&stage),
        [format!("assign [hello-00002 100%]: {ASSIGNED}")]
    );
}

#[test]
fn a_route_that_is_gone_asks_for_nothing() {
    let mut stage = Stage::new(&[]);
    stage.delete();
    assert_eq!(proposes(&stage), [""; 0]);
    assert!(RouteActor::load(&key("hello")).may_passivate(stage.view()));
}

/// Turns until nothing is proposed any more, each proposal applied a second after the last.
fn follow(stage: &mut Stage, actor: &mut RouteActor, until: usize) -> Vec<Vec<(String, u32)>> {
    let mut seen = Vec::new();
    let mut event = Event::Changed;
    for _ in 0..until {
        let outputs = actor.turn(stage.view(), &event);
        let proposed = outputs.effects.into_iter().find_map(|effect| match effect {
            nihilo_entity::Effect::Propose(command) => Some(*command),
            _ => None,
        });
        event = match proposed {
            Some(command) => {
                stage.apply(command);
                Event::Proposed {
                    outcome: ProposalOutcome::Applied(LogIndex(1)),
                }
            }
            None if outputs.timers.is_empty() => break,
            None => Event::Timer { name: "rollout" },
        };
        // Every gateway serves what is assigned.
        stage.keeper.table.acknowledged = LogIndex(1_000_000);
        let traffic = &stage.state.route(&key("hello")).unwrap().status.traffic;
        let shown: Vec<_> = traffic
            .iter()
            .map(|t| (t.revision_name.clone(), t.share()))
            .collect();
        if seen.last() != Some(&shown) {
            seen.push(shown);
        }
    }
    seen
}

#[test]
fn a_new_latest_revision_takes_over_by_steps() {
    let mut stage = Stage::with_settings(&[], |settings| {
        settings.network.rollout_duration_s = 20;
    });
    stage.mark_ready("hello-00001");
    stage.mark_latest_ready("hello-00001");
    let mut actor = RouteActor::load(&key("hello"));
    // The first one has nobody to take over from.
    let first = follow(&mut stage, &mut actor, 20);
    assert_eq!(first.last().unwrap(), &[("hello-00001".to_owned(), 100)]);
    stage.put("demo/echo");
    stage.mark_ready("hello-00002");
    stage.mark_latest_ready("hello-00002");
    let said = words(&RouteActor::load(&key("hello")).turn(stage.view(), &Event::Changed));
    assert!(
        said[0].starts_with("assign [hello-00001! 99%, hello-00002! 1%]"),
        "{said:?}"
    );
    let seen = follow(&mut stage, &mut RouteActor::load(&key("hello")), 200);
    let newest: Vec<u32> = seen.iter().map(|shares| shares.last().unwrap().1).collect();
    assert!(newest.is_sorted() && newest.len() > 4, "{newest:?}");
    assert_eq!(seen.last().unwrap(), &[("hello-00002".to_owned(), 100)]);
    let route = stage.state.route(&key("hello")).unwrap();
    assert!(route.status.rollouts.is_empty());
    assert!(
        route.status.conditions.is_true(types::READY),
        "{:?}",
        route.status.conditions
    );
}
