//! The bytes of every command, reply and row, as this release writes them. A difference is a
//! change of an interface: logs and snapshots of earlier releases must still be read.

use std::collections::BTreeMap;

use nihilo_machine::command::{
    AdvanceRollout, CloseSession, CollectRevisions, DeleteConfigMap, DownCause, Expect, NodeDown,
    PromoteNode, PutConfigMap, Reassign, RecordDomainMapping, RemoveNode, RevokeToken,
    SetClusterVersion,
};
use nihilo_machine::member::Duty;
use nihilo_machine::{Command, Rejection, Reply};
use nihilo_types::bundle::BundleVersion;
use nihilo_types::condition::{Assertion, types};
use nihilo_types::config_map::ConfigMap;
use nihilo_types::id::{LogIndex, NodeId, SessionId};
use nihilo_types::quantity::Quantity;
use nihilo_types::route::TrafficTarget;

use crate::bundles::{delete_bundle, put_bundle};
use crate::domains::{HOST, autocreate, claim, map, mapping, put_mapping, unclaim, unmap};
use crate::members::{add, create, duty, founders};
use crate::secrets::{delete_secret, put_secret};
use crate::world::{
    World, delete, digest, fenced, init, key, open, put, put_service, service, step,
};

/// One line each: what it is, a tab, its JSON.
const GOLDEN: &str = include_str!("golden/v2.txt");
/// What earlier releases wrote; it is read for ever.
const EARLIER: [&str; 1] = [include_str!("golden/v1.txt")];

fn commands(world: &World) -> Vec<(&'static str, Command)> {
    let traffic = vec![TrafficTarget::revision("hello-00001", 100)];
    let moves = vec![step(nihilo_types::id::ShardId(40), 4, 3)];
    vec![
        ("InitCluster", init()),
        (
            "PutService",
            put("hello", Expect::Version(LogIndex(5)), "demo/hello"),
        ),
        ("DeleteService", delete("hello", Expect::Any)),
        (
            "RecordService",
            Command::RecordService(world.record_service("hello", "hello-00001")),
        ),
        (
            "RecordRevision",
            Command::RecordRevision(world.record_revision("hello-00001", false)),
        ),
        (
            "AssignTraffic",
            Command::AssignTraffic(world.assign("hello", traffic)),
        ),
        (
            "RecordRoute",
            Command::RecordRoute(world.record_route("hello")),
        ),
        (
            "RecordScale",
            Command::RecordScale(world.record_scale("hello-00001", 2)),
        ),
        ("OpenSession", open(3, "boot-1")),
        (
            "OpenSession with its store",
            Command::OpenSession(nihilo_machine::command::OpenSession {
                store_id: "store-3".into(),
                ..crate::world::open_session(3, "boot-1")
            }),
        ),
        (
            "CloseSession",
            Command::CloseSession(CloseSession {
                session: SessionId(2),
                moves: moves.clone(),
                returns: false,
            }),
        ),
        (
            "CloseSession of a node that returns",
            Command::CloseSession(CloseSession {
                session: SessionId(2),
                moves: moves.clone(),
                returns: true,
            }),
        ),
        (
            "NodeDown",
            Command::NodeDown(NodeDown {
                session: SessionId(2),
                cause: DownCause::Refused,
                moves: moves.clone(),
            }),
        ),
        ("Reassign", Command::Reassign(Reassign { moves })),
        (
            "AdvanceRollout",
            Command::AdvanceRollout(AdvanceRollout {
                fence: world.assign("hello", Vec::new()).fence,
                key: key("hello"),
                version: LogIndex(5),
                plan_for_s: Some(60),
            }),
        ),
        (
            "CollectRevisions",
            Command::CollectRevisions(CollectRevisions {
                fence: world.assign("hello", Vec::new()).fence,
                key: key("hello"),
                revisions: vec!["hello-00001".into()],
            }),
        ),
        (
            "PutConfigMap",
            Command::PutConfigMap(Box::new(PutConfigMap {
                config_map: ConfigMap::system("config-network", BTreeMap::new()),
                expect: Expect::Any,
                uid: "uid".into(),
            })),
        ),
        (
            "DeleteConfigMap",
            Command::DeleteConfigMap(DeleteConfigMap {
                key: key("hello"),
                expect: Expect::Any,
            }),
        ),
        (
            "PutDomainMapping",
            put_mapping(mapping("default", HOST, "hello"), Expect::Absent),
        ),
        ("DeleteDomainMapping", unmap("default")),
        (
            "RecordDomainMapping",
            Command::RecordDomainMapping(RecordDomainMapping {
                fence: world.assign("hello", Vec::new()).fence,
                key: key(HOST),
                version: LogIndex(5),
                assertions: vec![Assertion::truth(types::INGRESS_READY)],
            }),
        ),
        ("PutDomainClaim", claim("default")),
        ("DeleteDomainClaim", unclaim()),
        (
            "SetClusterVersion",
            Command::SetClusterVersion(SetClusterVersion { version: 3 }),
        ),
        ("RecordMembers", founders(&[1])),
        ("CreateToken", create("a1", true)),
        (
            "RevokeToken",
            Command::RevokeToken(RevokeToken { id: "a1".into() }),
        ),
        ("AddNode", add("a1", "node4")),
        (
            "PromoteNode",
            Command::PromoteNode(PromoteNode { node: NodeId(9) }),
        ),
        (
            "RemoveNode",
            Command::RemoveNode(RemoveNode { node: NodeId(9) }),
        ),
        ("SetDuty", duty(9, Duty::Cordoned)),
        ("SetDuty of a drained node", duty(9, Duty::Drained)),
        ("PutBundle", put_bundle(1, "v1")),
        (
            "DeleteBundle",
            delete_bundle(Some(BundleVersion::Tag("v1".into()))),
        ),
        ("PutSecret", put_secret()),
        ("DeleteSecret", delete_secret()),
    ]
}

/// As of cluster version 2: see `Command::since`.
fn limited(name: &str) -> Command {
    let mut service = service(name, "demo/hello");
    let container = &mut service.spec.template.spec.containers[0];
    container.resources.limits.memory = Some(Quantity::new("128Mi"));
    container.resources.requests.cpu = Some(Quantity::new("0.5"));
    container.security_context.run_as_user = Some(65_532);
    put_service(service, Expect::Version(LogIndex(5)))
}

#[test]
fn limits_of_a_service_need_a_version_that_knows_them() {
    let limited = limited("hello");
    assert_eq!(limited.since(), 2);
    assert_eq!(put("hello", Expect::Any, "demo/hello").since(), 1);
    let json = serde_json::to_string(&limited).unwrap();
    let container = r#"{"image":"demo/hello","resources":{"limits":{"memory":"128Mi"},"requests":{"cpu":"0.5"}},"securityContext":{"runAsUser":65532}}"#;
    assert!(json.contains(container), "{json}");
    assert_eq!(serde_json::from_str::<Command>(&json).unwrap(), limited);
}

/// As of cluster version 2 too.
#[test]
fn probes_of_a_service_need_a_version_that_knows_them() {
    let mut service = service("hello", "demo/hello");
    let container = &mut service.spec.template.spec.containers[0];
    let written = r#"{"httpGet":{"path":"/readyz","port":8080},"periodSeconds":2}"#;
    container.readiness_probe = Some(serde_json::from_str(written).unwrap());
    let probed = put_service(service, Expect::Version(LogIndex(5)));
    assert_eq!(probed.since(), 2);
    let json = serde_json::to_string(&probed).unwrap();
    let container = format!(r#"{{"image":"demo/hello","readinessProbe":{written}}}"#);
    assert!(json.contains(&container), "{json}");
    assert_eq!(serde_json::from_str::<Command>(&json).unwrap(), probed);
}

/// As of cluster version 2 too.
#[test]
fn references_of_a_service_need_a_version_that_knows_them() {
    let container = |change: &str| {
        let mut service = service("hello", "demo/hello");
        let changed = format!(r#"{{"image":"demo/hello",{change}}}"#);
        service.spec.template.spec.containers[0] = serde_json::from_str(&changed).unwrap();
        (service, changed)
    };
    for change in [
        r#""env":[{"name":"A","value":"","valueFrom":{"secretKeyRef":{"name":"db","key":"k"}}}]"#,
        r#""envFrom":[{"configMapRef":{"name":"app"}}]"#,
        r#""volumeMounts":[{"name":"v","mountPath":"/v","readOnly":true}]"#,
    ] {
        let (service, changed) = container(change);
        let referring = put_service(service, Expect::Any);
        assert_eq!(referring.since(), 2, "{change}");
        let json = serde_json::to_string(&referring).unwrap();
        assert!(json.contains(&changed), "{json}");
        assert_eq!(serde_json::from_str::<Command>(&json).unwrap(), referring);
    }
    let mut service = service("hello", "demo/hello");
    let volume = r#"{"name":"v","emptyDir":{}}"#;
    service.spec.template.spec.volumes = vec![serde_json::from_str(volume).unwrap()];
    assert_eq!(put_service(service, Expect::Any).since(), 2);
}

fn replies(world: &World) -> Vec<(&'static str, Reply)> {
    let mut all: Vec<_> = commands(world)
        .into_iter()
        .map(|(name, command)| (name, world.clone().apply(command).reply))
        .collect();
    let refusals = [
        ("Invalid", Rejection::Invalid("no".into())),
        ("AlreadyExists", Rejection::AlreadyExists(key("hello"))),
        ("NotFound", Rejection::NotFound(key("hello"))),
        (
            "Conflict",
            Rejection::Conflict {
                key: key("hello"),
                have: LogIndex(5),
            },
        ),
        ("Fenced", fenced(3, 6)),
        ("RequestIdReused", Rejection::RequestIdReused),
        ("SessionClosed", Rejection::SessionClosed(SessionId(2))),
        ("AlreadyInitialised", Rejection::AlreadyInitialised),
        ("StaleMove", Rejection::StaleMove),
        (
            "StoreReplaced",
            Rejection::StoreReplaced(nihilo_types::id::NodeId(3)),
        ),
        (
            "RevisionNameTaken",
            Rejection::RevisionNameTaken("hello-a".into()),
        ),
        ("LimitReached", Rejection::LimitReached("at most 1".into())),
        (
            "NodeTaken",
            Rejection::NodeTaken("`node1` is a member already".into()),
        ),
        (
            "NodeRemoved",
            Rejection::NodeRemoved {
                node: NodeId(1),
                at: LogIndex(5),
            },
        ),
        ("LastVoter", Rejection::LastVoter(NodeId(1))),
        ("UnknownBundle", Rejection::UnknownBundle("no".into())),
        ("BundleInUse", Rejection::BundleInUse("no".into())),
    ];
    all.extend(refusals.map(|(name, refusal)| {
        let reply = Reply {
            index: LogIndex(6),
            result: Err(refusal),
        };
        (name, reply)
    }));
    all
}

/// A state with a row of every kind.
fn furnished() -> World {
    let mut world = World::with_hello();
    world.must(Command::RecordScale(world.record_scale("hello-00001", 2)));
    let mut session = crate::world::open_session(3, "boot-1");
    session.store_id = "store-3".into();
    world.must(Command::OpenSession(session));
    world.index += 1;
    let mut entry = crate::world::envelope(world.index, delete("nobody", Expect::Any));
    entry.request = nihilo_machine::command::RequestKey::new("r1", "delete", b"nobody");
    world.state.apply(LogIndex(world.index), &entry);
    world.must(founders(&[1]));
    world.must(create("a1", true));
    world.must(autocreate(true));
    world.must(map("default", "hello"));
    world.must(put_bundle(1, "v1"));
    world.must(put_secret());
    world
}

fn written() -> String {
    let world = World::with_hello();
    let mut lines = Vec::new();
    for (name, command) in commands(&world) {
        lines.push(format!(
            "command {name}\t{}",
            serde_json::to_string(&command).unwrap()
        ));
    }
    for (name, reply) in replies(&world) {
        lines.push(format!(
            "reply {name}\t{}",
            serde_json::to_string(&reply).unwrap()
        ));
    }
    for (key, value) in digest(&furnished().state) {
        lines.push(format!("row {}\t{value}", key.replace('\0', "/")));
    }
    lines.join("\n") + "\n"
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "leaves the new bytes for a review"
)]
fn this_release_writes_these_bytes() {
    let written = written();
    if written == GOLDEN {
        return;
    }
    let new = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("v2.txt");
    std::fs::write(&new, &written).unwrap();
    let differs = |(new, old): &(&str, &str)| new != old;
    let (new_line, old_line) = (written.lines().chain([""]))
        .zip(GOLDEN.lines().chain([""]))
        .find(differs)
        .unwrap_or(("(the rest)", "(the rest)"));
    panic!(
        "writes\n{new_line}\ninstead of\n{old_line}\nall of it is in {}",
        new.display()
    );
}

#[test]
fn what_was_written_is_read_back_as_the_same() {
    let mut n_read = 0;
    for line in EARLIER
        .iter()
        .chain([&GOLDEN])
        .flat_map(|text| text.lines())
    {
        let (what, json) = line.split_once('\t').unwrap();
        let again = match what.split_once(' ').unwrap().0 {
            "command" => serde_json::to_string(&serde_json::from_str::<Command>(json).unwrap()),
            "reply" => serde_json::to_string(&serde_json::from_str::<Reply>(json).unwrap()),
            _ => continue,
        };
        assert_eq!(again.unwrap(), json, "{what}");
        n_read += 1;
    }
    assert!(n_read >= 95, "only {n_read} lines were read");
}
