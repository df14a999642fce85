//! Who may join, who votes, who has gone.

use nihilo_machine::command::{
    AddNode, CreateToken, Founder, PromoteNode, RecordMembers, RemoveNode, RevokeToken,
    SetClusterVersion, SetDuty,
};
use nihilo_machine::member::{Duty, Standing};
use nihilo_machine::{Command, Outcome, Rejection};
use nihilo_types::id::{LogIndex, NodeId, SessionId};

use crate::world::{World, digest, open};

pub(crate) fn founders(ids: &[u64]) -> Command {
    let founder = |id: &u64| Founder {
        id: NodeId(*id),
        name: format!("node{id}"),
        peer_address: format!("host{id}:7071"),
        admin_address: format!("host{id}:7070"),
    };
    let members = ids.iter().map(founder).collect();
    Command::RecordMembers(RecordMembers { members })
}

pub(crate) fn create(id: &str, voter: bool) -> Command {
    Command::CreateToken(CreateToken {
        id: id.into(),
        secret_hash: format!("hash-of-{id}"),
        voter,
        ttl_ms: 10_000,
    })
}

pub(crate) fn add(token: &str, name: &str) -> Command {
    Command::AddNode(AddNode {
        token: token.into(),
        secret_hash: format!("hash-of-{token}"),
        name: name.into(),
        peer_address: format!("{name}:7071"),
        admin_address: format!("{name}:7070"),
    })
}

fn remove(node: u64) -> Command {
    let node = NodeId(node);
    Command::RemoveNode(RemoveNode { node })
}

/// [`World::founded`] with nodes 1 to 3 as its founding members.
fn with_members() -> World {
    let mut world = World::founded();
    world.must(founders(&[1, 2, 3]));
    world
}

fn refused(world: &mut World, command: Command) -> Rejection {
    // The clock moves with every entry.
    let without_clock = |world: &World| {
        let mut rows = digest(&world.state);
        rows.retain(|(key, _)| key != "clock");
        rows
    };
    let before = without_clock(world);
    let reply = world.apply(command).reply;
    assert_eq!(without_clock(world), before, "a refusal changes nothing");
    reply.result.unwrap_err()
}

#[test]
fn a_token_lets_one_node_in_under_the_index_of_its_entry() {
    let mut world = with_members();
    world.must(create("a1", false));
    let reply = world.must(add("a1", "node4")).reply;
    let id = NodeId(reply.index.0);
    assert_eq!(reply.result, Ok(Outcome::Node(id)));
    let member = world.state.member(id).unwrap();
    assert_eq!(
        (member.standing, member.is_founder),
        (Standing::Learner, false)
    );
    assert_eq!(world.state.tokens().count(), 0);
    assert!(matches!(
        refused(&mut world, add("a1", "node5")),
        Rejection::TokenRefused { .. }
    ));
}

#[test]
fn a_token_for_a_voter_makes_one() {
    let mut world = with_members();
    world.must(create("a1", true));
    let id = world.must(add("a1", "node4")).reply.index.0;
    assert!(world.state.member(NodeId(id)).unwrap().is_voter());
}

#[test]
fn what_is_wrong_lets_nobody_in_and_keeps_the_token() {
    let mut world = with_members();
    world.must(create("a1", false));
    let Command::AddNode(mut wrong) = add("a1", "node4") else {
        unreachable!()
    };
    wrong.secret_hash = "another".into();
    refused(&mut world, Command::AddNode(wrong));
    for taken in ["node1", "host1"] {
        let why = refused(&mut world, add("a1", taken));
        assert!(matches!(why, Rejection::NodeTaken(_)), "{taken}: {why}");
    }
    world.must(add("a1", "node4"));
}

#[test]
fn an_expired_or_revoked_token_is_worth_nothing() {
    let mut world = with_members();
    world.must(create("a1", false));
    world.must(create("b2", false));
    world.must(Command::RevokeToken(RevokeToken { id: "b2".into() }));
    refused(&mut world, add("b2", "node4"));
    // Each entry is a second of log time.
    (0..11).for_each(|_| drop(world.apply(founders(&[]))));
    let why = refused(&mut world, add("a1", "node4")).to_string();
    assert!(why.contains("expired"), "{why}");
    world.must(create("c3", false));
    assert_eq!(world.state.tokens().count(), 1, "the expired one has gone");
}

#[test]
fn tokens_are_bounded() {
    let mut world = with_members();
    let Command::CreateToken(mut create) = create("x", false) else {
        unreachable!()
    };
    create.ttl_ms = u64::MAX;
    for n in 0..256 {
        create.id = format!("t{n}");
        world.must(Command::CreateToken(create.clone()));
    }
    create.id = "more".into();
    let why = refused(&mut world, Command::CreateToken(create));
    assert!(matches!(why, Rejection::LimitReached(_)), "{why}");
}

#[test]
fn a_removed_node_loses_its_session_and_never_comes_back() {
    let mut world = with_members();
    world.must(remove(1));
    let at = LogIndex(world.index);
    assert_eq!(world.state.removed_at(NodeId(1)), Some(at));
    assert!(world.state.session(SessionId(2)).is_none());
    assert!(world.state.has_left(SessionId(2)));
    assert!(
        world
            .state
            .owners()
            .all(|(_, owner)| owner.session != SessionId(2))
    );
    let gone = Rejection::NodeRemoved {
        node: NodeId(1),
        at,
    };
    assert_eq!(refused(&mut world, open(1, "boot-2")), gone);
    assert_eq!(refused(&mut world, remove(1)), gone);
    let promote = Command::PromoteNode(PromoteNode { node: NodeId(1) });
    assert_eq!(refused(&mut world, promote), gone);
    world.must(founders(&[1]));
    assert_eq!(world.state.removed_at(NodeId(1)), Some(at));
    // Its name and address are free for a successor.
    world.must(create("a1", false));
    let Command::AddNode(mut heir) = add("a1", "node1") else {
        unreachable!()
    };
    heir.peer_address = "host1:7071".into();
    world.must(Command::AddNode(heir));
}

#[test]
fn the_last_voter_stays() {
    let mut world = World::founded();
    world.must(founders(&[1, 2]));
    world.must(remove(2));
    assert_eq!(
        refused(&mut world, remove(1)),
        Rejection::LastVoter(NodeId(1))
    );
    assert_eq!(
        refused(&mut world, remove(9)),
        Rejection::NoSuchNode(NodeId(9))
    );
    world.must(create("a1", false));
    let learner = world.must(add("a1", "node4")).reply.index.0;
    world.must(Command::PromoteNode(PromoteNode {
        node: NodeId(learner),
    }));
    world.must(remove(1));
}

pub(crate) fn duty(node: u64, duty: Duty) -> Command {
    let node = NodeId(node);
    Command::SetDuty(SetDuty { node, duty })
}

#[test]
fn a_duty_is_the_nodes_whatever_its_process_does() {
    let mut world = with_members();
    let before = digest(&world.state);
    assert_eq!(world.state.duty_of(NodeId(1)), Duty::Full);
    world.must(duty(1, Duty::Drained));
    world.must(open(1, "boot-2"));
    assert_eq!(world.state.duty_of(NodeId(1)), Duty::Drained);
    world.must(duty(2, Duty::Cordoned));
    let off: Vec<_> = world.state.off_duty().collect();
    assert_eq!(
        off,
        [(NodeId(1), Duty::Drained), (NodeId(2), Duty::Cordoned)]
    );
    world.must(remove(2));
    assert_eq!(world.state.off_duty().count(), 1, "who is gone has none");
    world.must(duty(1, Duty::Full));
    let member = |rows: &[(String, String)]| {
        let mut rows = rows.iter();
        rows.find(|(key, _)| key == "member\u{0}1").cloned()
    };
    let after = digest(&world.state);
    assert_eq!(member(&after), member(&before), "full duty leaves no trace");
}

#[test]
fn only_members_have_duties() {
    let mut world = with_members();
    let nobody = Rejection::NoSuchNode(NodeId(9));
    assert_eq!(refused(&mut world, duty(9, Duty::Cordoned)), nobody);
    world.must(remove(1));
    let why = refused(&mut world, duty(1, Duty::Full));
    assert!(matches!(why, Rejection::NodeRemoved { .. }), "{why}");
}

/// `asked` = the version that the state takes a command for.
fn each_version_follows_the_one_before(asked: fn(u32) -> u32) {
    let mut world = World::founded();
    let set = |version| {
        let version = asked(version);
        Command::SetClusterVersion(SetClusterVersion { version })
    };
    assert_eq!(world.state.cluster_version(), 2, "founded by this build");
    assert_eq!(
        refused(&mut world, set(4)),
        Rejection::WrongVersion { have: 2, wanted: 4 }
    );
    world.must(set(2));
    world.must(set(3));
    assert_eq!(world.state.cluster_version(), 3);
}

#[test]
fn versions_follow_each_other() {
    each_version_follows_the_one_before(|version| version);
}

#[test]
#[should_panic(expected = "a refusal changes nothing")]
fn planted_a_version_beyond_the_next_that_is_taken_is_found() {
    each_version_follows_the_one_before(|version| version.min(3));
}

#[test]
fn a_cluster_of_an_older_build_has_the_first_version_until_it_is_raised() {
    let mut world = World::default();
    let mut old = crate::world::envelope(1, crate::world::init());
    old.cluster_version = 1;
    world.index = 1;
    world.state.apply(LogIndex(1), &old);
    assert_eq!(world.state.cluster_version(), 1);
    assert!(digest(&world.state).iter().all(|(key, _)| key != "version"));
    world.must(Command::SetClusterVersion(SetClusterVersion { version: 2 }));
    assert_eq!(world.state.cluster_version(), 2);
}
