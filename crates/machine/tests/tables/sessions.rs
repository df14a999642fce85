//! `InitCluster`, `OpenSession`, `CloseSession`, `NodeDown`, `Reassign`: nodes and what they own.

use nihilo_machine::Command;
use nihilo_machine::command::{CloseSession, DownCause, Move, NodeDown, Reassign, Roles};
use nihilo_machine::member::Duty;
use nihilo_machine::ownership::{MAX_MOVES_TO_A_JOINER, moves_away_from, next_moves};
use nihilo_types::id::{Epoch, SessionId, ShardId};
use nihilo_types::shard::shard_of;

use crate::members::{duty, founders};
use crate::world::{Case, World, check, init, key, open, open_session, reply_of, rows_of, step};

const NOTHING: &[&str] = &[];
/// The shard of `default/hello`, owned by session 2 since 4.
const HELLO: ShardId = ShardId(40);

fn reassign(moves: Vec<Move>) -> Command {
    Command::Reassign(Reassign { moves })
}

fn down(session: u64, moves: Vec<Move>) -> Command {
    Command::NodeDown(NodeDown {
        session: SessionId(session),
        cause: DownCause::Silent,
        moves,
    })
}

fn close(session: u64, moves: Vec<Move>) -> Command {
    Command::CloseSession(CloseSession {
        session: SessionId(session),
        moves,
        returns: false,
    })
}

#[test]
fn a_cluster_is_founded_once() {
    check(vec![
        Case {
            name: "the first entry",
            given: World::default(),
            when: init(),
            reply: "done",
            rows: &[
                "+configmap/knative-serving/config-autoscaler",
                "+configmap/knative-serving/config-network",
                "+configmap/knative-serving/config-gc",
                "+cluster",
                "+version",
            ],
            events: &[
                "Added configmap config-autoscaler",
                "Added configmap config-network",
                "Added configmap config-gc",
            ],
        },
        Case {
            name: "a second one",
            given: World::founded(),
            when: init(),
            reply: "refused: the cluster is initialised already",
            rows: NOTHING,
            events: NOTHING,
        },
    ]);
}

#[test]
fn a_node_has_one_session_and_the_next_one_inherits() {
    let gateway_only = {
        let mut open = open_session(1, "boot-2");
        open.roles = Roles {
            control: false,
            ..Roles::ALL
        };
        Command::OpenSession(open)
    };
    let case = |name, when, reply, rows| Case {
        name,
        given: World::founded(),
        when,
        reply,
        rows,
        events: NOTHING,
    };
    check(vec![
        case(
            "another node",
            open(3, "boot-1"),
            "session 5",
            &["+session/5"],
        ),
        case(
            "the same start again",
            open(1, "boot-1"),
            "session 2",
            NOTHING,
        ),
        case(
            "a restart",
            open(1, "boot-2"),
            "session 5",
            &["+session/5", "-session/2", "+owner/40"],
        ),
        case(
            "a restart that owns no more",
            gateway_only,
            "session 5",
            &["+session/5", "-session/2", "+owner/40"],
        ),
    ]);
}

#[test]
fn an_id_belongs_to_one_store_for_ever() {
    let with_store = |boot: &str, store: &str| {
        let mut open = open_session(3, boot);
        open.store_id = store.into();
        Command::OpenSession(open)
    };
    let case = |name, given: &World, when, reply, rows| Case {
        name,
        given: given.clone(),
        when,
        reply,
        rows,
        events: NOTHING,
    };
    let first = World::founded();
    let mut known = first.clone();
    known.must(with_store("boot-1", "a"));
    check(vec![
        case(
            "the first one is remembered",
            &first,
            with_store("boot-1", "a"),
            "session 5",
            &["+store/3", "+session/5"],
        ),
        case(
            "the same after a restart",
            &known,
            with_store("boot-2", "a"),
            "session 6",
            &["+session/6", "-session/5"],
        ),
        case(
            "another one after a restart",
            &known,
            with_store("boot-2", "b"),
            "refused: node 3 has lost its store: its id belongs to the one before; wipe the \
             directory and join under a new id",
            NOTHING,
        ),
    ]);
    // Not even when the node has been away.
    known.must(close(5, vec![]));
    let refused = known.clone().apply(with_store("boot-3", "b")).reply;
    let replaced = nihilo_machine::Rejection::StoreReplaced(nihilo_types::id::NodeId(3));
    assert_eq!(refused.result, Err(replaced));
}

#[test]
fn a_restart_inherits_under_its_own_epoch_or_leaves_nobody() {
    let mut world = World::founded();
    world.must(open(1, "boot-2"));
    let owner = world.state.owner(HELLO);
    assert_eq!((owner.session, owner.epoch), (SessionId(5), Epoch(5)));
    let mut open = open_session(1, "boot-3");
    open.roles.control = false;
    world.must(Command::OpenSession(open));
    let owner = world.state.owner(HELLO);
    assert_eq!((owner.session, owner.epoch), (SessionId(0), Epoch(6)));
}

#[test]
fn a_session_ends_once_and_its_shards_move_in_the_same_entry() {
    for (name, end) in [
        ("down", down as fn(u64, Vec<Move>) -> Command),
        ("closed", close),
    ] {
        let case = |what: &str, when, reply, rows| Case {
            name: Box::leak(format!("{name}: {what}").into_boxed_str()),
            given: World::founded(),
            when,
            reply,
            rows,
            events: NOTHING,
        };
        check(vec![
            case(
                "with an heir",
                end(2, vec![step(HELLO, 4, 3)]),
                "done",
                &["-session/2", "+owner/40"],
            ),
            case(
                "without one",
                end(2, vec![]),
                "done",
                &["-session/2", "+owner/40"],
            ),
            case("that owns nothing", end(3, vec![]), "done", &["-session/3"]),
            case(
                "of an ended one",
                end(9, vec![]),
                "refused: session 9 is closed",
                NOTHING,
            ),
            case(
                "an heir that is the ended one",
                end(2, vec![step(HELLO, 4, 2)]),
                "refused: the owner table has moved on",
                NOTHING,
            ),
            case(
                "on an old epoch",
                end(2, vec![step(HELLO, 3, 3)]),
                "refused: the owner table has moved on",
                NOTHING,
            ),
            case(
                "an heir that is not there",
                end(2, vec![step(HELLO, 4, 9)]),
                "refused: the owner table has moved on",
                NOTHING,
            ),
        ]);
    }
    let mut world = World::founded();
    world.must(down(2, vec![step(HELLO, 4, 3)]));
    assert_eq!(world.state.owner(HELLO).epoch, Epoch(5));
    assert_eq!(
        reply_of(&world.apply(down(2, vec![]))),
        "refused: session 2 is closed"
    );
}

#[test]
fn a_shard_moves_from_its_current_epoch_to_an_open_owner() {
    let mut with_gateway = World::founded();
    let mut open = open_session(3, "boot-1");
    open.roles.control = false;
    with_gateway.must(Command::OpenSession(open));
    let moved_on = "refused: the owner table has moved on";
    let case = |name, moves, reply, rows| Case {
        name,
        given: with_gateway.clone(),
        when: reassign(moves),
        reply,
        rows,
        events: NOTHING,
    };
    check(vec![
        case(
            "to another",
            vec![step(HELLO, 4, 3)],
            "done",
            &["+owner/40"],
        ),
        case(
            "never owned ones",
            vec![step(ShardId(0), 0, 2), step(ShardId(255), 0, 3)],
            "done",
            &["+owner/0", "+owner/255"],
        ),
        case("none", vec![], "done", NOTHING),
        case("an old epoch", vec![step(HELLO, 3, 3)], moved_on, NOTHING),
        case("to nobody", vec![step(HELLO, 4, 9)], moved_on, NOTHING),
        case(
            "to one without the role",
            vec![step(HELLO, 4, 5)],
            moved_on,
            NOTHING,
        ),
        case(
            "no such shard",
            vec![step(ShardId(256), 0, 2)],
            moved_on,
            NOTHING,
        ),
        case(
            "all or none",
            vec![step(ShardId(0), 0, 2), step(HELLO, 3, 3)],
            moved_on,
            NOTHING,
        ),
    ]);
}

#[test]
fn epochs_only_grow() {
    let mut world = World::founded();
    let mut last = world.state.owner(HELLO).epoch;
    for (to, boot) in [(3, "a"), (2, "b"), (3, "c")] {
        world.must(reassign(vec![step(HELLO, last.0, to)]));
        let epoch = world.state.owner(HELLO).epoch;
        assert!(epoch > last, "{boot}: {epoch} after {last}");
        last = epoch;
    }
}

#[test]
fn every_shard_finds_an_owner_and_a_joiner_gets_its_share_in_steps() {
    let mut world = World::founded();
    world.must(reassign(next_moves(&world.state)));
    assert!(next_moves(&world.state).is_empty());
    assert!(world.state.owners().all(|(_, owner)| owner.session.0 > 1));

    world.must(open(3, "boot-1"));
    let joined = SessionId(world.index);
    let mut n_moved = 0;
    loop {
        let moves = next_moves(&world.state);
        if moves.is_empty() {
            break;
        }
        assert!(moves.len() <= MAX_MOVES_TO_A_JOINER);
        assert!(moves.iter().all(|step| step.to == joined), "{moves:?}");
        n_moved += moves.len();
        world.must(reassign(moves));
    }
    // A third of 256, give or take what a hash leaves to chance.
    assert!((50..120).contains(&n_moved), "{n_moved}");
}

#[test]
fn a_leaver_moves_only_what_was_its_own() {
    let mut world = World::founded();
    world.must(open(3, "boot-1"));
    world.must(reassign(next_moves(&world.state)));
    while !next_moves(&world.state).is_empty() {
        world.must(reassign(next_moves(&world.state)));
    }
    let leaving = SessionId(3);
    let moves = moves_away_from(&world.state, leaving);
    let owned = |session| {
        let owners = world.state.owners();
        owners.filter(|(_, owner)| owner.session == session).count()
    };
    assert_eq!(moves.len(), owned(leaving));
    assert!(moves.iter().all(|step| step.to != leaving));
    let applied = world.must(down(3, moves.clone()));
    assert_eq!(rows_of(&applied).len(), moves.len() + 1);
    assert!(next_moves(&world.state).is_empty(), "it was the placement");
}

#[test]
fn nobody_left_leaves_the_shards_to_nobody() {
    let mut world = World::founded();
    world.must(down(3, vec![]));
    assert_eq!(moves_away_from(&world.state, SessionId(2)), vec![]);
    world.must(down(2, vec![]));
    assert_eq!(world.state.owner(shard_of(&key("hello"))).session.0, 0);
    assert_eq!(next_moves(&world.state), vec![]);
}

#[test]
fn a_node_that_leaves_is_told_from_one_that_is_lost() {
    let mut world = World::founded();
    world.must(close(2, Vec::new()));
    world.must(down(3, Vec::new()));
    let (leaving, lost) = (SessionId(2), SessionId(3));
    assert_eq!(world.state.sessions().count(), 0);
    assert!(world.state.has_left(leaving) && !world.state.has_left(lost));
    assert!(!world.state.returns(leaving));
}

#[test]
fn a_node_that_comes_back_is_told_from_one_that_leaves() {
    let mut world = World::founded();
    world.must(Command::CloseSession(CloseSession {
        session: SessionId(2),
        moves: Vec::new(),
        returns: true,
    }));
    assert!(world.state.has_left(SessionId(2)) && world.state.returns(SessionId(2)));
    assert!(!world.state.returns(SessionId(3)), "it is open");
}

#[test]
fn a_drained_node_owns_nothing_after_one_entry_unless_nobody_else_is_there() {
    let mut world = World::founded();
    world.must(founders(&[1, 2]));
    world.must(reassign(next_moves(&world.state)));
    while !next_moves(&world.state).is_empty() {
        world.must(reassign(next_moves(&world.state)));
    }
    let owned = |world: &World, session| {
        let owners = world.state.owners();
        owners
            .filter(|(_, owner)| owner.session == SessionId(session))
            .count()
    };
    let before = owned(&world, 2);
    assert!(before > MAX_MOVES_TO_A_JOINER, "{before}");
    world.must(duty(1, Duty::Cordoned));
    assert_eq!(next_moves(&world.state), vec![], "cordoned, it owns on");
    world.must(duty(1, Duty::Drained));
    world.must(reassign(next_moves(&world.state)));
    assert_eq!((owned(&world, 2), owned(&world, 3)), (0, 256));
    world.must(duty(2, Duty::Drained));
    let moves = next_moves(&world.state);
    assert_eq!(moves.len(), before, "the placement of before, at once");
    world.must(reassign(moves));
    world.must(duty(2, Duty::Full));
    world.must(reassign(next_moves(&world.state)));
    assert_eq!(owned(&world, 3), 256);
    // Back at work, it is moved to as to a joiner.
    world.must(duty(1, Duty::Full));
    assert_eq!(next_moves(&world.state).len(), MAX_MOVES_TO_A_JOINER);
}
