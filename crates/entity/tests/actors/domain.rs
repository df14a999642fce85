//! The Route actor and its Route's own domains: each is served when every live gateway serves it.

use nihilo_entity::reconcile::{hot_entities, waiting_for_gateways};
use nihilo_entity::route::RouteActor;
use nihilo_entity::{EntityKey, Event};
use nihilo_machine::Command;
use nihilo_machine::command::{Expect, PutDomainClaim, PutDomainMapping, RecordRoute};
use nihilo_types::condition::{Assertion, ConditionStatus, types};
use nihilo_types::domain::{ClusterDomainClaim, DomainMapping, Reference};
use nihilo_types::id::LogIndex;
use nihilo_types::route::TrafficTarget;

use crate::stage::{SHARD, Stage, key, words};

const HOST: &str = "www.example.org";

/// A Service of which every gateway serves the assignment, and a mapping of its namespace to it.
fn mapped() -> (Stage, LogIndex) {
    let mut stage = Stage::new(&[]);
    settle(&mut stage);
    stage.apply(Command::PutDomainClaim(Box::new(PutDomainClaim {
        claim: ClusterDomainClaim::new(HOST, "default"),
        expect: Expect::Any,
        uid: "claim".into(),
    })));
    let at = map(&mut stage);
    (stage, at)
}

fn settle(stage: &mut Stage) {
    stage.mark_ready("hello-00001");
    stage.mark_latest_ready("hello-00001");
    stage.assign(vec![TrafficTarget {
        revision_name: "hello-00001".into(),
        ..TrafficTarget::latest(100)
    }]);
    let route = stage.state.route(&key("hello")).unwrap();
    stage.keeper.table.acknowledged = LogIndex(route.status.assigned_at);
    let text = "external-domain-tls is not enabled";
    let certificate = types::CERTIFICATE_PROVISIONED;
    stage.apply(Command::RecordRoute(RecordRoute {
        fence: Stage::fence(),
        key: key("hello"),
        version: route.metadata.version(),
        assertions: vec![
            Assertion::truth(types::ALL_TRAFFIC_ASSIGNED),
            Assertion::truth(types::INGRESS_READY),
            Assertion::new(certificate, ConditionStatus::True, "TLSNotEnabled", text),
        ],
    }));
}

/// Returns the entry that makes the mapping.
fn map(stage: &mut Stage) -> LogIndex {
    let mut domain_mapping = DomainMapping::default();
    domain_mapping.metadata.name = HOST.into();
    domain_mapping.spec.reference = Reference {
        api_version: "serving.knative.dev/v1".into(),
        kind: "Service".into(),
        name: "hello".into(),
        namespace: String::new(),
    };
    let applied = stage.apply(Command::PutDomainMapping(Box::new(PutDomainMapping {
        domain_mapping,
        expect: Expect::Any,
        uid: "domain".into(),
        user: "test".into(),
    })));
    applied.reply.index
}

fn hello() -> Vec<EntityKey> {
    vec![EntityKey::Route(key("hello"))]
}

#[test]
fn a_domain_is_served_once_every_gateway_has_its_entry() {
    let (mut stage, at) = mapped();
    let mut actor = RouteActor::load(&key("hello"));
    let mut say = |stage: &Stage| words(&actor.turn(stage.view(), &Event::Changed));
    assert_eq!(say(&stage), [""; 0], "no gateway has it yet");
    stage.keeper.table.acknowledged = LogIndex(at.0 - 1);
    assert_eq!(say(&stage), [""; 0], "some gateway does not have it yet");
    stage.keeper.table.acknowledged = at;
    assert_eq!(say(&stage), ["domain www.example.org: IngressReady=True"]);
}

#[test]
fn the_actor_stays_awake_and_is_woken_for_a_domain_that_waits() {
    let (mut stage, at) = mapped();
    let mut actor = RouteActor::load(&key("hello"));
    assert!(!actor.may_passivate(stage.view()));
    assert!(hot_entities(stage.view()).contains(&hello()[0]));
    assert_eq!(waiting_for_gateways(&stage.state, SHARD, at), hello());
    stage.keeper.table.acknowledged = at;
    let outputs = actor.turn(stage.view(), &Event::Changed);
    for effect in outputs.effects {
        if let nihilo_entity::Effect::Propose(command) = effect {
            stage.apply(*command);
        }
    }
    let actor = RouteActor::load(&key("hello"));
    assert!(actor.may_passivate(stage.view()));
    assert!(waiting_for_gateways(&stage.state, SHARD, at).is_empty());
    let mapping = stage.state.domain_mapping(&key(HOST)).unwrap();
    assert!(mapping.status.conditions.is_true(types::READY));
}

#[test]
fn a_domain_of_a_route_that_serves_nobody_waits_for_its_traffic() {
    let mut stage = Stage::new(&[]);
    stage.apply(Command::PutDomainClaim(Box::new(PutDomainClaim {
        claim: ClusterDomainClaim::new(HOST, "default"),
        expect: Expect::Any,
        uid: "claim".into(),
    })));
    let at = map(&mut stage);
    stage.keeper.table.acknowledged = at;
    let mut actor = RouteActor::load(&key("hello"));
    let said = words(&actor.turn(stage.view(), &Event::Changed));
    assert!(
        said.iter().all(|said| !said.starts_with("domain")),
        "{said:?}"
    );
    settle(&mut stage);
    let mut actor = RouteActor::load(&key("hello"));
    let said = words(&actor.turn(stage.view(), &Event::Changed));
    assert_eq!(said, ["domain www.example.org: IngressReady=True"]);
}
