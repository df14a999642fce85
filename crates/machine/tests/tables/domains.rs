//! Own domains: whose a host is, what it refers to, and who takes over.

use std::collections::BTreeMap;

use nihilo_machine::Command;
use nihilo_machine::command::{
    DeleteDomainClaim, DeleteDomainMapping, Expect, Fence, PutConfigMap, PutDomainClaim,
    PutDomainMapping, RecordDomainMapping,
};
use nihilo_types::condition::{Assertion, ConditionStatus, types};
use nihilo_types::config_map::{CONFIG_NETWORK, ConfigMap};
use nihilo_types::domain::{ClusterDomainClaim, DomainMapping, Reference};
use nihilo_types::id::{Epoch, LogIndex, ObjectKey};
use nihilo_types::shard::shard_of;

use crate::world::{Case, World, check, delete, key, put, reply_of};

pub(crate) const HOST: &str = "www.example.org";

pub(crate) fn mapping(namespace: &str, host: &str, route: &str) -> DomainMapping {
    let mut mapping = DomainMapping::default();
    mapping.metadata.name = host.into();
    mapping.metadata.namespace = namespace.into();
    mapping.spec.reference = Reference {
        api_version: "serving.knative.dev/v1".into(),
        kind: "Service".into(),
        name: route.into(),
        namespace: String::new(),
    };
    mapping
}

pub(crate) fn put_mapping(domain_mapping: DomainMapping, expect: Expect) -> Command {
    let meta = &domain_mapping.metadata;
    Command::PutDomainMapping(Box::new(PutDomainMapping {
        expect,
        uid: format!("domain-of-{}", meta.namespace),
        user: "test".into(),
        domain_mapping,
    }))
}

/// [`HOST`] for a Service of a namespace.
pub(crate) fn map(namespace: &str, route: &str) -> Command {
    put_mapping(mapping(namespace, HOST, route), Expect::Any)
}

pub(crate) fn unmap(namespace: &str) -> Command {
    Command::DeleteDomainMapping(DeleteDomainMapping {
        key: ObjectKey::new(namespace, HOST),
        expect: Expect::Any,
    })
}

pub(crate) fn claim(namespace: &str) -> Command {
    Command::PutDomainClaim(Box::new(PutDomainClaim {
        claim: ClusterDomainClaim::new(HOST, namespace),
        expect: Expect::Any,
        uid: format!("claim-of-{namespace}"),
    }))
}

pub(crate) fn unclaim() -> Command {
    Command::DeleteDomainClaim(DeleteDomainClaim {
        host: HOST.into(),
        expect: Expect::Any,
    })
}

/// Whether the cluster claims by itself.
pub(crate) fn autocreate(is_on: bool) -> Command {
    let key = "autocreate-cluster-domain-claims".to_owned();
    let data = BTreeMap::from([(key, is_on.to_string())]);
    Command::PutConfigMap(Box::new(PutConfigMap {
        config_map: ConfigMap::system(CONFIG_NETWORK, data),
        expect: Expect::Any,
        uid: String::new(),
    }))
}

/// What the owner of a Route's shard says of a host of it.
pub(crate) fn served(world: &World, namespace: &str) -> Option<Command> {
    let key = ObjectKey::new(namespace, HOST);
    let mapping = world.state.domain_mapping(&key)?;
    let shard = shard_of(&mapping.route());
    Some(Command::RecordDomainMapping(RecordDomainMapping {
        fence: Fence {
            shard,
            epoch: world.state.owner(shard).epoch,
        },
        key,
        version: mapping.metadata.version(),
        assertions: vec![Assertion::truth(types::INGRESS_READY)],
    }))
}

/// [`World::with_hello`] that claims by itself.
fn claiming() -> World {
    let mut world = World::with_hello();
    world.must(autocreate(true));
    world
}

fn after(mut world: World, commands: Vec<Command>) -> World {
    for command in commands {
        world.must(command);
    }
    world
}

/// The conditions of a namespace's [`HOST`], those that are simply true by their name alone.
fn says(world: &World, namespace: &str) -> String {
    let mapping = world
        .state
        .domain_mapping(&ObjectKey::new(namespace, HOST))
        .unwrap();
    let words = mapping.status.conditions.0.iter().map(|condition| {
        match (condition.status, condition.reason.as_str()) {
            (ConditionStatus::True, _) => condition.kind.clone(),
            (ConditionStatus::False, reason) => format!("!{} {reason}", condition.kind),
            (ConditionStatus::Unknown, reason) => format!("?{} {reason}", condition.kind),
        }
    });
    words.collect::<Vec<_>>().join(", ")
}

const SERVED: &str =
    "CertificateProvisioned, DomainClaimed, IngressReady, Ready, ReferenceResolved";
const WAITS: &str = "CertificateProvisioned, DomainClaimed, ?IngressReady IngressNotConfigured, \
                     ?Ready IngressNotConfigured, ReferenceResolved";
const NOT_ITS: &str = "CertificateProvisioned, !DomainClaimed DomainAlreadyClaimed, ?IngressReady \
                       IngressNotConfigured, !Ready DomainAlreadyClaimed, ReferenceResolved";
const NOTHING_THERE: &str = "CertificateProvisioned, DomainClaimed, ?IngressReady \
                             IngressNotConfigured, !Ready ResolveFailed, !ReferenceResolved \
                             ResolveFailed";

#[test]
fn mappings_are_made_changed_and_deleted_with_what_they_claim() {
    let mapped = || after(claiming(), vec![map("default", "hello")]);
    let contested = || after(mapped(), vec![map("other", "hello")]);
    check(vec![
        Case {
            name: "nobody claims by itself unless it is told to",
            given: World::with_hello(),
            when: map("default", "hello"),
            reply: "created www.example.org",
            rows: &["+domainmapping www.example.org"],
            events: &["Added domainmapping www.example.org"],
        },
        Case {
            name: "the first one claims the host in the same entry",
            given: claiming(),
            when: map("default", "hello"),
            reply: "created www.example.org",
            rows: &[
                "+domainclaim/www.example.org",
                "+domainmapping www.example.org",
            ],
            events: &[
                "Added domainclaim www.example.org",
                "Added domainmapping www.example.org",
            ],
        },
        Case {
            name: "a second one waits",
            given: mapped(),
            when: map("other", "hello"),
            reply: "created www.example.org",
            rows: &["+domainmapping/other/www.example.org"],
            events: &["Added domainmapping www.example.org"],
        },
        Case {
            name: "and takes over when the first goes",
            given: contested(),
            when: unmap("default"),
            reply: "deleted www.example.org",
            rows: &[
                "-domainmapping www.example.org",
                "-domainclaim/www.example.org",
                "+domainclaim/www.example.org",
                "+domainmapping/other/www.example.org",
            ],
            events: &[
                "Deleted domainmapping www.example.org",
                "Deleted domainclaim www.example.org",
                "Added domainclaim www.example.org",
                "Modified domainmapping www.example.org",
            ],
        },
        Case {
            name: "who waits may go",
            given: contested(),
            when: unmap("other"),
            reply: "deleted www.example.org",
            rows: &["-domainmapping/other/www.example.org"],
            events: &["Deleted domainmapping www.example.org"],
        },
        Case {
            name: "the same once more",
            given: mapped(),
            when: map("default", "hello"),
            reply: "unchanged www.example.org",
            rows: &[],
            events: &[],
        },
        Case {
            name: "another reference",
            given: mapped(),
            when: map("default", "nobody"),
            reply: "updated www.example.org",
            rows: &["+domainmapping www.example.org"],
            events: &["Modified domainmapping www.example.org"],
        },
        Case {
            name: "a Service that goes leaves its domains without one",
            given: mapped(),
            when: delete("hello", Expect::Any),
            reply: "deleted hello",
            rows: &[
                "-revision hello-00001",
                "-route hello",
                "-configuration hello",
                "-service hello",
                "+domainmapping www.example.org",
            ],
            events: &[
                "Deleted revision hello-00001",
                "Deleted route hello",
                "Deleted configuration hello",
                "Deleted service hello",
                "Modified domainmapping www.example.org",
            ],
        },
    ]);
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let mapped = || after(claiming(), vec![map("default", "hello")]);
    let named = |host: &str| put_mapping(mapping("default", host, "hello"), Expect::Any);
    let refused = |name, given, when, reply| Case {
        name,
        given,
        when,
        reply,
        rows: &[],
        events: &[],
    };
    check(vec![
        refused(
            "a Route's own host",
            World::with_hello(),
            named("hello.default.localhost"),
            "refused: invalid name \"hello.default.localhost\": must not be a host of the \
             cluster's routes, \"NAME.NAMESPACE.localhost\": metadata.name",
        ),
        refused(
            "the host of a Route that is yet to come",
            World::founded(),
            named("later.default.localhost"),
            "refused: invalid name \"later.default.localhost\": must not be a host of the \
             cluster's routes, \"NAME.NAMESPACE.localhost\": metadata.name",
        ),
        refused(
            "a name inside of the cluster",
            World::with_hello(),
            named("hello.default.svc.cluster.local"),
            "refused: invalid name \"hello.default.svc.cluster.local\": must not be a subdomain \
             of cluster local domain \"cluster.local\": metadata.name",
        ),
        refused(
            "one that is there",
            mapped(),
            put_mapping(mapping("default", HOST, "hello"), Expect::Absent),
            "refused: `default/www.example.org` already exists",
        ),
        refused(
            "on another version",
            mapped(),
            put_mapping(mapping("default", HOST, "a"), Expect::Version(LogIndex(3))),
            "refused: `default/www.example.org` has version 7, the request was made on another one",
        ),
        refused(
            "deletion of none",
            World::with_hello(),
            unmap("default"),
            "refused: `default/www.example.org` not found",
        ),
        refused(
            "a claim of what another namespace has",
            mapped(),
            claim("other"),
            "refused: Immutable fields changed (-old +new): \
             spec.namespace\n-\"default\"\n+\"other\"",
        ),
        refused(
            "the end of no claim",
            World::with_hello(),
            unclaim(),
            "refused: `www.example.org` not found",
        ),
    ]);
}

#[test]
fn hosts_beside_and_above_those_of_routes_can_be_ones_own() {
    let mut world = claiming();
    for host in ["shop.localhost", "a.b.c.localhost", "notlocalhost.org"] {
        world.must(put_mapping(
            mapping("default", host, "hello"),
            Expect::Absent,
        ));
    }
}

#[test]
fn conditions_follow_the_claim_and_the_reference() {
    let mut world = World::with_hello();
    world.must(map("default", "hello"));
    assert_eq!(says(&world, "default"), NOT_ITS);
    let text = |world: &World| {
        let key = ObjectKey::new("default", HOST);
        let conditions = &world.state.domain_mapping(&key).unwrap().status.conditions;
        conditions
            .get(types::DOMAIN_CLAIMED)
            .unwrap()
            .message
            .clone()
    };
    assert_eq!(
        text(&world),
        "no ClusterDomainClaim found for domain \"www.example.org\""
    );
    world.must(claim("other"));
    assert_eq!(
        text(&world),
        "The domain name is already in use by another DomainMapping"
    );
    world.must(unclaim());
    world.must(claim("default"));
    assert_eq!(says(&world, "default"), WAITS);
    world.must(map("default", "nobody"));
    assert_eq!(says(&world, "default"), NOTHING_THERE);
    world.must(put("nobody", Expect::Absent, "demo/hello"));
    assert_eq!(says(&world, "default"), WAITS);
    world.must(delete("nobody", Expect::Any));
    assert_eq!(says(&world, "default"), NOTHING_THERE);
    world.must(map("default", "hello"));
    assert_eq!(says(&world, "default"), WAITS);
    // An admin's claim stays when the mapping goes, and the host with its namespace.
    world.must(unmap("default"));
    assert!(world.state.domain_claim(HOST).is_some());
    world.must(autocreate(true));
    world.must(map("other", "hello"));
    assert!(says(&world, "other").contains("DomainAlreadyClaimed"));
}

#[test]
fn the_url_is_the_hosts_and_the_counters_are_the_objects() {
    let mut world = claiming();
    let made = world.index + 1;
    world.must(map("default", "hello"));
    world.must(map("default", "nobody"));
    let stored = world.state.domain_mapping(&ObjectKey::new("default", HOST));
    let DomainMapping {
        metadata, status, ..
    } = stored.unwrap().as_ref();
    assert_eq!(status.url, "http://www.example.org:8080");
    assert_eq!(status.address.url, status.url);
    assert_eq!((metadata.generation, status.observed_generation), (2, 2));
    assert_eq!(metadata.uid, "domain-of-default");
    assert_eq!((status.made_at, status.assigned_at), (made, 0));
    assert_eq!(
        metadata.annotation("serving.knative.dev/creator"),
        Some("test")
    );
}

#[test]
fn of_several_that_wait_the_oldest_takes_over() {
    let mut world = claiming();
    // By age, not by name.
    for namespace in ["m", "z", "a"] {
        world.must(map(namespace, "hello"));
    }
    let holder = |world: &World| {
        let claim = world.state.domain_claim(HOST);
        claim.map(|claim| claim.spec.namespace.clone())
    };
    assert_eq!(holder(&world).as_deref(), Some("m"));
    // A change makes it no younger, and no older.
    world.must(map("z", "nobody"));
    world.must(unmap("m"));
    assert_eq!(holder(&world).as_deref(), Some("z"));
    // The claim was made for it: who takes it away gives the host to the oldest, which it is.
    world.must(unclaim());
    assert_eq!(holder(&world).as_deref(), Some("z"));
    world.must(unmap("z"));
    assert_eq!(holder(&world).as_deref(), Some("a"));
    world.must(unmap("a"));
    assert_eq!(holder(&world), None);
}

#[test]
fn a_cluster_that_begins_to_claim_gives_every_host_to_its_oldest() {
    let mut world = World::with_hello();
    world.must(map("z", "hello"));
    world.must(map("default", "hello"));
    assert_eq!(says(&world, "default"), NOT_ITS);
    world.must(autocreate(true));
    let claim = world.state.domain_claim(HOST).unwrap();
    assert_eq!(claim.spec.namespace, "z");
    assert!(!says(&world, "z").contains("DomainAlreadyClaimed"));
    assert_eq!(says(&world, "default"), NOT_ITS);
    // What is claimed stays claimed; nothing new is.
    world.must(autocreate(false));
    world.must(unmap("z"));
    assert!(world.state.domain_claim(HOST).is_none());
    assert_eq!(says(&world, "default"), NOT_ITS);
}

#[test]
fn an_admins_word_makes_a_claim_that_stays() {
    let mut world = claiming();
    world.must(map("default", "hello"));
    assert_eq!(
        reply_of(&world.must(claim("default"))),
        "updated www.example.org"
    );
    assert_eq!(
        reply_of(&world.must(claim("default"))),
        "unchanged www.example.org"
    );
    world.must(unmap("default"));
    assert!(world.state.domain_claim(HOST).is_some());
}

#[test]
fn gateways_are_waited_for_again_when_the_host_means_something_else() {
    let mut world = claiming();
    world.must(map("default", "hello"));
    let shard = shard_of(&key("hello"));
    let n_awaited = |world: &World| world.state.domain_mappings_awaited_in(shard).count();
    assert_eq!(n_awaited(&world), 1);
    let Some(Command::RecordDomainMapping(record)) = served(&world, "default") else {
        panic!("it is there");
    };
    let mut stale = record.clone();
    stale.fence.epoch = Epoch(1);
    let refused = world.apply(Command::RecordDomainMapping(stale));
    assert!(reply_of(&refused).starts_with("refused: the shard is owned"));
    let mut outdated = record.clone();
    outdated.version = LogIndex(1);
    let refused = world.apply(Command::RecordDomainMapping(outdated));
    assert!(reply_of(&refused).contains("has version"));
    world.must(Command::RecordDomainMapping(record));
    assert_eq!(says(&world, "default"), SERVED);
    assert_eq!(n_awaited(&world), 0);
    // Labels are not what is served.
    let mut labelled = mapping("default", HOST, "hello");
    labelled.metadata.labels.insert("a".into(), "b".into());
    world.must(put_mapping(labelled, Expect::Present));
    assert_eq!(says(&world, "default"), SERVED);
    // The Service is another one under the same name.
    world.must(delete("hello", Expect::Any));
    world.must(put("hello", Expect::Absent, "demo/hello"));
    assert_eq!(says(&world, "default"), WAITS);
    assert_eq!(n_awaited(&world), 1);
}

#[test]
fn own_domains_are_of_cluster_version_2() {
    let world = after(claiming(), vec![map("default", "hello")]);
    for command in [
        map("default", "hello"),
        unmap("default"),
        claim("default"),
        unclaim(),
        served(&world, "default").unwrap(),
    ] {
        assert_eq!(command.since(), 2, "{command:?}");
    }
}
