//! The gateways' table: derived from the state alone, however it was reached.

use std::collections::BTreeMap;

use nihilo_machine::command::{Expect, Reassign};
use nihilo_machine::route_table::{Changed, build, update};
use nihilo_machine::{Command, State};
use nihilo_types::id::LogIndex;
use nihilo_types::meta::keys;
use nihilo_types::probe_paths::Listed;
use nihilo_types::route::TrafficTarget;
use nihilo_types::route_table::{RouteTable, Visibility};
use nihilo_types::shard::shard_of;

use crate::domains::{HOST, autocreate, claim, map, mapping, put_mapping, unclaim, unmap};
use crate::world::{World, delete, key, put, put_service, service, step};

/// Makes a Service with one revision, owned, and assigns its traffic with these tags.
fn serve(world: &mut World, name: &str, tags: &[&str]) {
    if world.state.service(&key(name)).is_none() {
        world.must(put(name, Expect::Absent, "demo/hello"));
    }
    let shard = shard_of(&key(name));
    let from = world.state.owner(shard).epoch.0;
    world.must(Command::Reassign(Reassign {
        moves: vec![step(shard, from, 2)],
    }));
    let revision = format!("{name}-00001");
    let mut traffic = vec![TrafficTarget::revision(&revision, 100)];
    traffic.extend(tags.iter().map(|tag| TrafficTarget {
        tag: (*tag).into(),
        ..TrafficTarget::revision(&revision, 0)
    }));
    world.must(Command::AssignTraffic(world.assign(name, traffic)));
}

/// Host to the route that holds it.
fn holders(state: &State) -> BTreeMap<String, String> {
    let table = build(state, LogIndex(1));
    let hosts = table.hosts.iter();
    hosts
        .map(|(host, entry)| {
            let host = host.trim_end_matches(".default.localhost");
            (host.to_owned(), entry.route.name.to_string())
        })
        .collect()
}

fn of(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(host, route): &(&str, &str)| ((*host).to_owned(), (*route).to_owned());
    pairs.iter().map(owned).collect()
}

#[test]
fn a_host_that_two_could_claim_has_one_holder() {
    let mut world = World::founded();
    serve(&mut world, "b", &["a"]);
    assert_eq!(holders(&world.state), of(&[("b", "b"), ("a-b", "b")]));
    // A route's own name wins, whoever came first.
    serve(&mut world, "a-b", &[]);
    assert_eq!(holders(&world.state), of(&[("b", "b"), ("a-b", "a-b")]));
    world.must(delete("a-b", Expect::Any));
    assert_eq!(holders(&world.state), of(&[("b", "b"), ("a-b", "b")]));
    // Of two tags the longer route name wins.
    serve(&mut world, "c", &["a-b"]);
    serve(&mut world, "b-c", &["a"]);
    let tags = holders(&world.state);
    assert_eq!(tags.get("a-b-c").map(String::as_str), Some("b-c"));
}

#[test]
fn a_tag_host_serves_its_revision_only() {
    let mut world = World::founded();
    serve(&mut world, "hello", &["v1"]);
    let table = build(&world.state, LogIndex(9));
    let entry = &table.hosts["v1-hello.default.localhost"];
    assert_eq!(entry.tag.as_deref(), Some("v1"));
    assert_eq!(entry.split.len(), 1);
    assert_eq!(entry.split[0].percent, 100);
    assert!(entry.tags.is_empty());
    let main = &table.hosts["hello.default.localhost"];
    assert_eq!(
        main.split.iter().map(|share| share.percent).sum::<u32>(),
        100
    );
    assert!(main.tags.contains_key("v1"));
    assert_eq!(main.index, LogIndex(world.index));
}

#[test]
fn a_route_is_private_by_its_label_and_a_line_as_deep_as_its_revision_says() {
    let mut world = World::founded();
    serve(&mut world, "open", &[]);
    let mut private = service("closed", "demo/hello");
    let label = (keys::VISIBILITY.to_owned(), keys::CLUSTER_LOCAL.to_owned());
    private.metadata.labels.extend([label]);
    let template = &mut private.spec.template;
    template.spec.container_concurrency = Some(2);
    let max_scale = format!("{}max-scale", keys::AUTOSCALING_PREFIX);
    let annotations = &mut template.metadata.annotations;
    annotations.insert(max_scale, "30".into());
    world.must(put_service(private, Expect::Absent));
    serve(&mut world, "closed", &[]);
    let table = build(&world.state, LogIndex(9));
    assert_eq!(&*table.domain, "localhost");
    let entry = |name: &str| &table.hosts[format!("{name}.default.localhost").as_str()];
    assert_eq!(entry("open").visibility, Visibility::Public);
    assert_eq!(entry("closed").visibility, Visibility::ClusterLocal);
    let target = |name: &str| &entry(name).split[0].target;
    assert_eq!(
        (target("open").queue_depth, target("open").max_scale),
        (10_000, 0)
    );
    assert_eq!(
        (target("closed").queue_depth, target("closed").max_scale),
        (600, 30)
    );

    let mut shallow = service("shallow", "demo/hello");
    let annotations = &mut shallow.spec.template.metadata.annotations;
    annotations.insert(keys::QUEUE_DEPTH.into(), "7".into());
    annotations.insert(keys::PROBE_PATHS.into(), "/up".into());
    world.must(put_service(shallow, Expect::Absent));
    serve(&mut world, "shallow", &[]);
    let table = build(&world.state, LogIndex(9));
    let entry = &table.hosts["shallow.default.localhost"];
    let target = &entry.split[0].target;
    assert_eq!(target.queue_depth, 7);
    assert_eq!(target.probe_paths.find("/up"), Listed::Yes);
}

#[test]
fn an_own_domain_is_served_as_its_route_is_and_without_the_tags() {
    let mut world = World::founded();
    world.must(autocreate(true));
    world.must(map("default", "hello"));
    world.must(map("other", "hello"));
    let entry = |world: &World| build(&world.state, LogIndex(9)).hosts.get(HOST).cloned();
    assert_eq!(entry(&world), None, "there is no such route");
    world.must(put("hello", Expect::Absent, "demo/hello"));
    assert_eq!(entry(&world), None, "it serves nobody yet");
    serve(&mut world, "hello", &["v1"]);
    let own = entry(&world).unwrap();
    assert_eq!(
        (&*own.route.namespace, &*own.route.name),
        ("default", "hello")
    );
    assert!(own.tags.is_empty() && own.tag.is_none());
    let table = build(&world.state, LogIndex(9));
    assert_eq!(own.split, table.hosts["hello.default.localhost"].split);
    assert!(!table.hosts.contains_key("v1-www.example.org"));

    serve(&mut world, "other", &[]);
    world.must(map("default", "other"));
    assert_eq!(&*entry(&world).unwrap().route.name, "other");
    world.must(map("default", "nobody"));
    assert_eq!(entry(&world), None);
    world.must(map("default", "hello"));
    assert!(entry(&world).is_some());
    // It goes to another namespace, where there is no such route.
    world.must(unmap("default"));
    assert_eq!(entry(&world), None);
    world.must(unmap("other"));
    world.must(map("default", "hello"));
    world.must(delete("hello", Expect::Any));
    assert_eq!(entry(&world), None);
}

#[test]
fn a_private_routes_own_domain_is_as_private() {
    let mut world = World::founded();
    let mut private = service("closed", "demo/hello");
    let label = (keys::VISIBILITY.to_owned(), keys::CLUSTER_LOCAL.to_owned());
    private.metadata.labels.extend([label]);
    world.must(put_service(private, Expect::Absent));
    serve(&mut world, "closed", &[]);
    world.must(claim("default"));
    world.must(map("default", "closed"));
    let table = build(&world.state, LogIndex(9));
    assert_eq!(table.hosts[HOST].visibility, Visibility::ClusterLocal);
}

/// It is refused when it is written: one that is stored nevertheless takes nothing.
#[test]
fn a_mapping_with_a_routes_host_is_never_served() {
    let mut world = World::founded();
    world.must(autocreate(true));
    serve(&mut world, "hello", &[]);
    serve(&mut world, "a", &[]);
    let taken = mapping("default", "a.default.elsewhere", "hello");
    world.must(put_mapping(taken, Expect::Absent));
    let rows = world.state.rows().into_iter().map(|row| {
        let text = |bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).unwrap();
            text.replace("a.default.elsewhere", "a.default.localhost")
                .into_bytes()
        };
        (text(row.key), text(row.value.unwrap()))
    });
    let state = State::from_rows(rows).unwrap();
    assert_eq!(state.domain_mappings().count(), 1);
    let table = build(&state, LogIndex(9));
    assert_eq!(&*table.hosts["a.default.localhost"].route.name, "a");
}

/// One change of the routes of `a`, `b`, `a-b`, `b-a` with tags of the same letters.
#[derive(Debug, Clone)]
enum Change {
    Serve(&'static str, Vec<&'static str>),
    Delete(&'static str),
    Map(&'static str, &'static str),
    Unmap(&'static str),
    Claim(&'static str),
    Unclaim,
}

fn change() -> impl proptest::strategy::Strategy<Value = Change> {
    use proptest::prelude::*;
    let name = || prop::sample::select(vec!["a", "b", "a-b", "b-a", "a-b-a"]);
    let namespace = || prop::sample::select(vec!["default", "other"]);
    let tags = prop::sample::subsequence(vec!["a", "b", "a-b"], 0..=3);
    prop_oneof![
        3 => (name(), tags).prop_map(|(name, tags)| Change::Serve(name, tags)),
        1 => name().prop_map(Change::Delete),
        2 => (namespace(), name()).prop_map(|(space, name)| Change::Map(space, name)),
        1 => namespace().prop_map(Change::Unmap),
        1 => namespace().prop_map(Change::Claim),
        1 => Just(Change::Unclaim),
    ]
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    #[test]
    fn a_table_that_was_moved_on_equals_one_built_anew(
        changes in proptest::collection::vec(change(), 1..16), autocreates in proptest::bool::ANY,
    ) {
        let mut world = World::founded();
        world.must(autocreate(autocreates));
        let mut table = RouteTable::default();
        for change in changes {
            match change {
                Change::Serve(name, tags) => serve(&mut world, name, &tags),
                Change::Delete(name) => drop(world.apply(delete(name, Expect::Any))),
                Change::Map(namespace, name) => drop(world.apply(map(namespace, name))),
                Change::Unmap(namespace) => drop(world.apply(unmap(namespace))),
                Change::Claim(namespace) => drop(world.apply(claim(namespace))),
                Change::Unclaim => drop(world.apply(unclaim())),
            }
            let index = LogIndex(world.index);
            let changed = Changed::of(&world.changes);
            world.changes.clear();
            table = update(&table, &world.state, &changed, index);
            proptest::prop_assert_eq!(&table, &build(&world.state, index));
        }
    }
}
