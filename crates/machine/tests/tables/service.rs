//! `PutService`, `DeleteService`, `RecordService`.

use nihilo_machine::Command;
use nihilo_machine::apply::MAX_REVISIONS_PER_SERVICE;
use nihilo_machine::command::{Expect, PutService};
use nihilo_types::id::LogIndex;
use nihilo_types::route::TrafficTarget;
use nihilo_types::service::Service;
use nihilo_types::template::PullPolicy;

use crate::world::{
    Case, World, check, delete, key, put, put_named, put_service, reply_of, rows_of, service,
};

const CREATED_ROWS: &[&str] = &[
    "+route hello",
    "+revision hello-00001",
    "+configuration hello",
    "+service hello",
];
const NOTHING: &[&str] = &[];

fn changed(image: &str, change: impl FnOnce(&mut Service)) -> Command {
    let mut service = service("hello", image);
    change(&mut service);
    put_service(service, Expect::Any)
}

#[test]
fn put_service_makes_everything_in_one_entry_or_nothing() {
    let hello = World::with_hello;
    check(vec![
        Case {
            name: "a new one",
            given: World::founded(),
            when: put("hello", Expect::Absent, "demo/hello"),
            reply: "created hello",
            rows: CREATED_ROWS,
            events: &[
                "Added route hello",
                "Added revision hello-00001",
                "Added configuration hello",
                "Added service hello",
            ],
        },
        Case {
            name: "another template makes a revision",
            given: hello(),
            when: put("hello", Expect::Present, "demo/echo"),
            reply: "updated hello",
            rows: &[
                "+route hello",
                "+revision hello-00002",
                "+configuration hello",
                "+service hello",
            ],
            events: &[
                "Modified route hello",
                "Added revision hello-00002",
                "Modified configuration hello",
                "Modified service hello",
            ],
        },
        Case {
            name: "the same again",
            given: hello(),
            when: put("hello", Expect::Any, "demo/hello"),
            reply: "unchanged hello",
            rows: NOTHING,
            events: NOTHING,
        },
        Case {
            name: "only traffic",
            given: hello(),
            when: changed("demo/hello", |service| {
                service.spec.traffic = vec![TrafficTarget::revision("hello-00001", 100)];
            }),
            reply: "updated hello",
            rows: &["+route hello", "+configuration hello", "+service hello"],
            events: &[
                "Modified route hello",
                "Modified configuration hello",
                "Modified service hello",
            ],
        },
        Case {
            name: "only a label",
            given: hello(),
            when: changed("demo/hello", |service| {
                service.metadata.labels.insert("team".into(), "a".into());
            }),
            reply: "updated hello",
            rows: &["+route hello", "+configuration hello", "+service hello"],
            events: &[
                "Modified route hello",
                "Modified configuration hello",
                "Modified service hello",
            ],
        },
    ]);
}

#[test]
fn put_service_refuses_and_changes_nothing() {
    let hello = World::with_hello;
    let refused = |name, given, when, reply| Case {
        name,
        given,
        when,
        reply,
        rows: NOTHING,
        events: NOTHING,
    };
    check(vec![
        refused(
            "it must not exist",
            hello(),
            put("hello", Expect::Absent, "demo/echo"),
            "refused: `default/hello` already exists",
        ),
        refused(
            "it must exist",
            World::founded(),
            put("hello", Expect::Present, "demo/hello"),
            "refused: `default/hello` not found",
        ),
        refused(
            "a version of what does not exist",
            World::founded(),
            put("hello", Expect::Version(LogIndex(5)), "demo/hello"),
            "refused: `default/hello` not found",
        ),
        refused(
            "another version",
            hello(),
            put("hello", Expect::Version(LogIndex(4)), "demo/echo"),
            "refused: `default/hello` has version 5, the request was made on another one",
        ),
        refused(
            "a name that is no label",
            World::founded(),
            changed("demo/hello", |service| {
                service.metadata.name = "Hello".into()
            }),
            "refused: not a DNS 1035 label: [a DNS-1035 label must consist of lower case \
             alphanumeric characters or '-', start with an alphabetic character, and end with an \
             alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is \
             '[a-z]([-a-z0-9]*[a-z0-9])?')]: metadata.name",
        ),
        refused(
            "percents that do not make a hundred",
            hello(),
            changed("demo/hello", |service| {
                service.spec.traffic = vec![TrafficTarget::latest(90)];
            }),
            "refused: Traffic targets sum to 90, want 100: spec.traffic",
        ),
    ]);
}

#[test]
fn the_right_version_is_taken_once() {
    let mut world = World::with_hello();
    let at = world.service_version("hello");
    let update = |image| put("hello", Expect::Version(at), image);
    assert_eq!(
        reply_of(&world.apply(update("demo/count"))),
        "updated hello"
    );
    assert_eq!(
        reply_of(&world.apply(update("demo/sleep"))),
        "refused: `default/hello` has version 6, the request was made on another one"
    );
}

#[test]
fn revision_numbers_only_grow_within_one_life() {
    let mut world = World::with_hello();
    for image in ["demo/count", "demo/hello", "demo/count"] {
        world.must(put("hello", Expect::Present, image));
    }
    let names = |world: &World| -> Vec<String> {
        let hello = key("hello");
        let revisions = world.state.revisions_of(&hello);
        revisions.map(|r| r.metadata.name.clone()).collect()
    };
    assert_eq!(
        names(&world),
        ["hello-00001", "hello-00002", "hello-00003", "hello-00004"]
    );
    let uid = |world: &World, name: &str| {
        let revision = world.state.revision(&key(name)).unwrap();
        revision.metadata.uid.clone()
    };
    let before = uid(&world, "hello-00001");
    world.must(delete("hello", Expect::Present));
    assert_eq!(names(&world), Vec::<String>::new());
    // A new life begins at 1 again, with uids of its own.
    world.must(put("hello", Expect::Absent, "demo/count"));
    assert_eq!(names(&world), ["hello-00001"]);
    assert_ne!(uid(&world, "hello-00001"), before);
}

#[test]
fn an_own_name_brings_an_older_revision_back() {
    let mut world = World::founded();
    world.must(put_named("hello", "demo/hello", "hello-a"));
    world.must(put_named("hello", "demo/echo", "hello-b"));
    let applied = world.must(put_named("hello", "demo/hello", "hello-a"));
    assert!(rows_of(&applied).contains(&"+revision hello-a".into()));
    let revision = world.state.revision(&key("hello-a")).unwrap();
    assert_eq!(revision.configuration_generation(), 3);
    let configuration = world.state.configuration(&key("hello")).unwrap();
    let latest = &configuration.status.latest_created_revision_name;
    assert_eq!(latest, "hello-a");
}

#[test]
fn no_revision_is_taken_for_another() {
    let mut own = World::founded();
    own.must(put_named("hello", "demo/hello", "hello-00002"));
    let mut foreign = World::founded();
    foreign.must(put_named("a", "demo/count", "a-b-00001"));
    let refused = |name, given, when, reply| Case {
        name,
        given,
        when,
        reply,
        rows: NOTHING,
        events: NOTHING,
    };
    check(vec![
        refused(
            "an own name with another spec",
            own.clone(),
            put_named("hello", "demo/echo", "hello-00002"),
            "refused: Saw the following changes without a name change (-old +new): \
             spec.template.metadata.name",
        ),
        refused(
            "the number generated next has another spec",
            own,
            put("hello", Expect::Present, "demo/echo"),
            "refused: revision name `hello-00002` is taken by a conflicting revision",
        ),
        refused(
            "the number generated first is another Service's",
            foreign.clone(),
            put("a-b", Expect::Absent, "demo/count"),
            "refused: revision name `a-b-00001` is taken by a conflicting revision",
        ),
        refused(
            "an own name is another Service's",
            foreign,
            put_named("a-b", "demo/count", "a-b-00001"),
            "refused: revision name `a-b-00001` is taken by a conflicting revision",
        ),
    ]);
}

#[test]
fn the_limit_of_revisions_stops_new_ones_only() {
    let mut world = World::with_hello();
    for i in 2..=MAX_REVISIONS_PER_SERVICE {
        world.must(changed("demo/hello", |service| {
            service.spec.template.spec.containers[0].args = vec![i.to_string()];
        }));
    }
    let last = MAX_REVISIONS_PER_SERVICE.to_string();
    let traffic_back = changed("demo/hello", |service| {
        service.spec.template.spec.containers[0].args = vec![last];
        service.spec.traffic = vec![TrafficTarget::revision("hello-00001", 100)];
    });
    let one_more = changed("demo/hello", |_| {});
    assert_eq!(
        reply_of(&world.apply(one_more)),
        "refused: at most 1200 revisions of a service"
    );
    assert_eq!(reply_of(&world.apply(traffic_back)), "updated hello");
}

#[test]
fn who_made_it_stays_and_who_changed_it_moves() {
    let mut world = World::with_hello();
    let by = |user: &str, command: Command| match command {
        Command::PutService(put) => Command::PutService(Box::new(PutService {
            user: user.into(),
            ..*put
        })),
        other => other,
    };
    world.must(by("eve", put("hello", Expect::Present, "demo/echo")));
    let stored = world.state.service(&key("hello")).unwrap();
    let annotation = |key: &str| stored.metadata.annotation(key);
    assert_eq!(annotation("serving.knative.dev/creator"), Some("test"));
    assert_eq!(annotation("serving.knative.dev/lastModifier"), Some("eve"));
    assert_eq!(stored.metadata.generation, 2);
    assert_eq!(stored.metadata.uid, "service-of-hello-demo/hello");
}

#[test]
fn delete_service_takes_all_that_it_owns() {
    let mut scaled = World::with_hello();
    scaled.must(Command::RecordScale(scaled.record_scale("hello-00001", 3)));
    check(vec![
        Case {
            name: "with a recorded scale",
            given: scaled,
            when: delete("hello", Expect::Any),
            reply: "deleted hello",
            rows: &[
                "-scale hello-00001",
                "-revision hello-00001",
                "-route hello",
                "-configuration hello",
                "-service hello",
            ],
            events: &[
                "Deleted revision hello-00001",
                "Deleted route hello",
                "Deleted configuration hello",
                "Deleted service hello",
            ],
        },
        Case {
            name: "one that does not exist",
            given: World::founded(),
            when: delete("hello", Expect::Any),
            reply: "refused: `default/hello` not found",
            rows: NOTHING,
            events: NOTHING,
        },
        Case {
            name: "another version",
            given: World::with_hello(),
            when: delete("hello", Expect::Version(LogIndex(4))),
            reply: "refused: `default/hello` has version 5, the request was made on another one",
            rows: NOTHING,
            events: NOTHING,
        },
    ]);
}

#[test]
fn record_service_stands_on_the_versions_it_was_decided_on() {
    let hello = World::with_hello();
    let good = hello.record_service("hello", "hello-00001");
    let mut old_service = good.clone();
    old_service.service_version = LogIndex(4);
    let mut old_configuration = good.clone();
    old_configuration.configuration_version = LogIndex(4);
    let conflict = "refused: `default/hello` has version 5, the request was made on another one";
    let case = |name, record, reply, rows, events| Case {
        name,
        given: hello.clone(),
        when: Command::RecordService(record),
        reply,
        rows,
        events,
    };
    check(vec![
        case(
            "both current",
            good,
            "done",
            &["+configuration hello", "+service hello"],
            &["Modified configuration hello", "Modified service hello"],
        ),
        case("an older service", old_service, conflict, NOTHING, NOTHING),
        case(
            "an older configuration",
            old_configuration,
            conflict,
            NOTHING,
            NOTHING,
        ),
    ]);
}

#[test]
fn a_ready_service_says_so_and_shows_its_traffic() {
    let mut world = World::with_hello();
    let traffic = vec![TrafficTarget::revision("hello-00001", 100)];
    world.must(Command::AssignTraffic(world.assign("hello", traffic)));
    world.must(Command::RecordService(
        world.record_service("hello", "hello-00001"),
    ));
    let stored = world.state.service(&key("hello")).unwrap();
    assert!(stored.status.conditions.is_true("Ready"));
    assert_eq!(stored.status.latest_ready_revision_name, "hello-00001");
    assert_eq!(stored.status.traffic.len(), 1);
    assert_eq!(stored.status.url, "http://hello.default.localhost:8080");
    assert_eq!(stored.status.observed_generation, 1);
}

/// Older builds refuse to apply them, so that they must not be asked to.
#[test]
fn container_images_and_pull_policies_are_of_cluster_version_2() {
    let since = |image: &str| put("hello", Expect::Any, image).since();
    assert_eq!(since("demo/hello"), 1);
    assert_eq!(since("file:///bin/app"), 1);
    assert_eq!(since("ghcr.io/team/app:v1"), 2);
    let never = changed("demo/hello", |service| {
        service.spec.template.spec.containers[0].image_pull_policy = PullPolicy::Never;
    });
    assert_eq!(never.since(), 2);
}
