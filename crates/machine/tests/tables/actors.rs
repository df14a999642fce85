//! The commands of actors: `RecordRevision`, `AssignTraffic`, `RecordRoute`, `RecordScale`, and
//! the fence that each of them carries.

use nihilo_machine::Command;
use nihilo_machine::command::{Expect, Fence, Reassign, RecordScale};
use nihilo_types::condition::ConditionStatus;
use nihilo_types::id::{Epoch, LogIndex, ShardId};
use nihilo_types::revision::RoutingState;
use nihilo_types::route::TrafficTarget;
use nihilo_types::shard::shard_of;

use crate::world::{Case, World, check, fenced, key, put, reply_of, rows_of, step};

const NOTHING: &[&str] = &[];

fn all_to(revision: &str) -> Vec<TrafficTarget> {
    vec![TrafficTarget::revision(revision, 100)]
}

/// Every actor's command, valid but for its fence.
fn actor_commands(world: &World, fence: Fence) -> Vec<(&'static str, Command)> {
    let mut revision = world.record_revision("hello-00001", true);
    let mut assign = world.assign("hello", all_to("hello-00001"));
    let mut route = world.record_route("hello");
    let mut service = world.record_service("hello", "hello-00001");
    revision.fence = fence;
    assign.fence = fence;
    route.fence = fence;
    service.fence = fence;
    vec![
        ("RecordRevision", Command::RecordRevision(revision)),
        ("AssignTraffic", Command::AssignTraffic(assign)),
        ("RecordRoute", Command::RecordRoute(route)),
        ("RecordService", Command::RecordService(service)),
    ]
}

/// `believed` = the fence that the state takes a command for, of the one that it carries.
fn a_stale_epoch_is_fenced(believed: fn(&World, Fence) -> Fence) {
    let mut world = World::with_hello();
    let old = world.fence("hello");
    world.must(Command::Reassign(Reassign {
        moves: vec![step(old.shard, 4, 3)],
    }));
    let later = Fence {
        epoch: Epoch(99),
        ..old
    };
    for fence in [old, later] {
        for (name, command) in actor_commands(&world, believed(&world, fence)) {
            let before = world.clone();
            let applied = world.apply(command);
            assert_eq!(applied.reply.result, Err(fenced(3, 6)), "{name}");
            assert_eq!(rows_of(&applied), NOTHING, "{name}");
            world = before;
        }
    }
    let current = world.fence("hello");
    for (name, command) in actor_commands(&world, current) {
        let applied = world.clone().apply(command);
        assert_eq!(reply_of(&applied), "done", "{name}");
    }
}

#[test]
fn a_stale_epoch_is_fenced_and_the_owner_named() {
    a_stale_epoch_is_fenced(|_, fence| fence);
}

#[test]
#[should_panic(expected = "RecordRevision")]
fn planted_an_epoch_that_is_not_looked_at_is_found() {
    a_stale_epoch_is_fenced(|world, _| world.fence("hello"));
}

#[test]
fn a_fence_is_good_for_its_own_shard_only() {
    let mut world = World::with_hello();
    let mine = shard_of(&key("hello"));
    let other = ShardId((mine.0 + 1) % 256);
    world.must(Command::Reassign(Reassign {
        moves: vec![step(other, 0, 2)],
    }));
    let fence = Fence {
        shard: other,
        epoch: Epoch(6),
    };
    for (name, command) in actor_commands(&world, fence) {
        let reply = reply_of(&world.clone().apply(command));
        let want = format!("refused: object belongs to shard {mine}, not {other}");
        assert_eq!(reply, want, "{name}");
    }
}

#[test]
fn a_scale_stands_or_falls_by_itself() {
    let mut world = World::with_hello();
    world.must(put("hello", Expect::Present, "demo/echo"));
    let good = world.record_scale("hello-00001", 3).scales[0].clone();
    let mut stale = world.record_scale("hello-00002", 1).scales[0].clone();
    stale.fence.epoch = Epoch(3);
    let mut other_life = good.clone();
    other_life.uid = "another".into();
    let mut unknown = good.clone();
    unknown.revision = key("nobody");
    let record = |scales| Command::RecordScale(RecordScale { scales });
    let case = |name, scales, reply, rows, events| Case {
        name,
        given: world.clone(),
        when: record(scales),
        reply,
        rows,
        events,
    };
    check(vec![
        case(
            "a good one among others",
            vec![stale, good.clone(), unknown.clone()],
            "scales, refused [hello-00002 nobody]",
            &["+scale hello-00001"],
            &["Modified scale hello-00001"],
        ),
        case(
            "of an earlier life",
            vec![other_life],
            "scales, refused [hello-00001]",
            NOTHING,
            NOTHING,
        ),
        case(
            "of nobody",
            vec![unknown],
            "scales, refused [nobody]",
            NOTHING,
            NOTHING,
        ),
        case("none", vec![], "scales, refused []", NOTHING, NOTHING),
    ]);
    world.must(record(vec![good.clone()]));
    let again = world.must(record(vec![good]));
    assert_eq!(rows_of(&again), NOTHING, "the same again writes nothing");
}

#[test]
fn the_state_machine_keeps_since_when_and_that_it_was_initialized() {
    let mut world = World::with_hello();
    let mut record = |change: &dyn Fn(&mut nihilo_types::autoscaler::ScaleRecord)| {
        let mut scale = world.record_scale("hello-00001", 1);
        change(&mut scale.scales[0].record);
        world.must(Command::RecordScale(scale));
        world.state.scale(&key("hello-00001"))
    };
    let first = record(&|record| {
        record.active = ConditionStatus::True;
        record.initialized = true;
    });
    assert_eq!(first.active_since_ms, 6_000);
    let second = record(&|record| {
        record.active = ConditionStatus::True;
        record.desired = 4;
    });
    assert_eq!((second.active_since_ms, second.initialized), (6_000, true));
    let third = record(&|record| record.active = ConditionStatus::False);
    assert_eq!((third.active_since_ms, third.initialized), (8_000, true));
}

#[test]
fn record_revision_rolls_its_conditions_up() {
    let hello = World::with_hello();
    let mut old = hello.record_revision("hello-00001", true);
    old.version = LogIndex(4);
    let mut unknown = hello.record_revision("hello-00001", true);
    unknown.key = key("nobody");
    let case = |name, record, reply, rows, events| Case {
        name,
        given: hello.clone(),
        when: Command::RecordRevision(record),
        reply,
        rows,
        events,
    };
    let row = &["+revision hello-00001"];
    let event = &["Modified revision hello-00001"];
    let conflict =
        "refused: `default/hello-00001` has version 5, the request was made on another one";
    check(vec![
        case(
            "ready",
            hello.record_revision("hello-00001", true),
            "done",
            row,
            event,
        ),
        case(
            "failed",
            hello.record_revision("hello-00001", false),
            "done",
            row,
            event,
        ),
        case("on another version", old, conflict, NOTHING, NOTHING),
        case(
            "of nobody",
            unknown,
            "refused: `default/nobody` not found",
            NOTHING,
            NOTHING,
        ),
    ]);
    for (ready, want) in [
        (true, ConditionStatus::True),
        (false, ConditionStatus::False),
    ] {
        let mut world = hello.clone();
        world.must(Command::RecordRevision(
            world.record_revision("hello-00001", ready),
        ));
        let revision = world.state.revision(&key("hello-00001")).unwrap();
        assert_eq!(revision.status.conditions.status("Ready"), want);
        assert_eq!(revision.status.observed_generation, 1);
    }
}

#[test]
fn an_assignment_names_own_revisions_and_makes_a_hundred() {
    let mut hello = World::with_hello();
    hello.must(put("hello", Expect::Present, "demo/echo"));
    hello.must(put("stranger", Expect::Absent, "demo/echo"));
    let share = |name: &str, percent| TrafficTarget::revision(name, percent);
    let case = |name, traffic, reply, rows, events| Case {
        name,
        given: hello.clone(),
        when: Command::AssignTraffic(hello.assign("hello", traffic)),
        reply,
        rows,
        events,
    };
    check(vec![
        // The latest one stays active: the route follows it as soon as it is ready.
        case(
            "all to the first",
            all_to("hello-00001"),
            "done",
            &[
                "+route hello",
                "+revision hello-00001",
                "+revision hello-00002",
            ],
            &[
                "Modified route hello",
                "Modified revision hello-00001",
                "Modified revision hello-00002",
            ],
        ),
        case(
            "less than a hundred",
            vec![share("hello-00001", 60), share("hello-00002", 39)],
            "refused: Traffic targets sum to 99, want 100",
            NOTHING,
            NOTHING,
        ),
        case(
            "a sum beyond 32 bits",
            vec![share("hello-00001", u32::MAX), share("hello-00002", 101)],
            "refused: Traffic targets sum to 4294967396, want 100",
            NOTHING,
            NOTHING,
        ),
        case(
            "nothing",
            vec![],
            "refused: Traffic targets sum to 0, want 100",
            NOTHING,
            NOTHING,
        ),
        case(
            "to nobody",
            all_to("hello-00009"),
            "refused: `default/hello-00009` not found",
            NOTHING,
            NOTHING,
        ),
        case(
            "to another Service's",
            all_to("stranger-00001"),
            "refused: `default/stranger-00001` not found",
            NOTHING,
            NOTHING,
        ),
    ]);
}

#[test]
fn an_assignment_marks_what_is_served_and_what_is_kept() {
    let mut world = World::with_hello();
    world.must(put("hello", Expect::Present, "demo/echo"));
    world.must(put("hello", Expect::Present, "demo/sleep"));
    world.must(Command::AssignTraffic(
        world.assign("hello", all_to("hello-00001")),
    ));
    let states = |world: &World| -> Vec<RoutingState> {
        let hello = key("hello");
        let revisions = world.state.revisions_of(&hello);
        revisions.map(|revision| revision.routing_state()).collect()
    };
    use RoutingState::{Active, Reserve};
    assert_eq!(states(&world), [Active, Reserve, Active]);
    world.must(Command::AssignTraffic(
        world.assign("hello", all_to("hello-00003")),
    ));
    assert_eq!(states(&world), [Reserve, Reserve, Active]);
    let route = world.state.route(&key("hello")).unwrap();
    assert_eq!(route.status.assigned_at, world.index);
}

#[test]
fn a_tag_gets_its_url_and_stays_active_without_traffic() {
    let mut world = World::with_hello();
    world.must(put("hello", Expect::Present, "demo/echo"));
    let mut traffic = all_to("hello-00002");
    traffic.push(TrafficTarget {
        tag: "old".into(),
        ..TrafficTarget::revision("hello-00001", 0)
    });
    world.must(Command::AssignTraffic(world.assign("hello", traffic)));
    let route = world.state.route(&key("hello")).unwrap();
    let urls: Vec<_> = route
        .status
        .traffic
        .iter()
        .map(|t| t.url.as_str())
        .collect();
    assert_eq!(urls, ["", "http://old-hello.default.localhost:8080"]);
    let first = world.state.revision(&key("hello-00001")).unwrap();
    assert_eq!(first.routing_state(), RoutingState::Active);
}

#[test]
fn record_route_stands_on_its_version() {
    let hello = World::with_hello();
    let mut old = hello.record_route("hello");
    old.version = LogIndex(4);
    let mut unknown = hello.record_route("hello");
    unknown.key = key("nobody");
    unknown.fence = hello.fence("nobody");
    let case = |name, record, reply, rows, events| Case {
        name,
        given: hello.clone(),
        when: Command::RecordRoute(record),
        reply,
        rows,
        events,
    };
    check(vec![
        case(
            "current",
            hello.record_route("hello"),
            "done",
            &["+route hello"],
            &["Modified route hello"],
        ),
        case(
            "on another version",
            old,
            "refused: `default/hello` has version 5, the request was made on another one",
            NOTHING,
            NOTHING,
        ),
        case(
            "of nobody",
            unknown,
            "refused: `default/nobody` not found",
            NOTHING,
            NOTHING,
        ),
    ]);
}
