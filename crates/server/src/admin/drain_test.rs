//! What keeps an instance where it is, by what the nodes say.

use std::sync::Arc;

use nihilo_types::id::{Epoch, InstanceId, ObjectKey, ShardId};
use nihilo_types::instance::Exit;

use super::*;

fn status(id: u64, duty: &str, n_instances: u32) -> pb::NodeStatus {
    pb::NodeStatus {
        id,
        name: format!("node{id}"),
        role: Role::Follower.as_str().into(),
        duty: duty.into(),
        n_instances,
        capacity: 10,
        ..pb::NodeStatus::default()
    }
}

fn instance(id: &str, uid: &str, state: InstanceState) -> InstanceReport {
    InstanceReport {
        id: InstanceId::from(id),
        revision: ObjectKey::new("default", "r-00001"),
        revision_uid: Arc::from(uid),
        shard: ShardId(1),
        epoch: Epoch(5),
        state,
        address: None,
        pid: None,
        in_flight: 0,
        age_ms: 3_000,
        spawned_after_ms: 0,
        ready_after_ms: 0,
        exit: None,
        last_output: Vec::new(),
        isolation: None,
        waking: Default::default(),
    }
}

/// Node 1 is drained and runs `a` of revision `u`, with two other nodes beside it.
struct Case {
    name: &'static str,
    state: InstanceState,
    in_flight: u32,
    others: [pb::NodeStatus; 2],
    /// What node 2 says of its instances.
    elsewhere: Vec<InstanceReport>,
    want: &'static str,
}

#[test]
fn each_instance_says_what_it_waits_for() {
    use InstanceState::{Booting, Draining, Exited, Ready, Stopping};
    let at_work = || [status(2, "", 1), status(3, "", 0)];
    let mut crashed = instance("b", "u", Exited);
    crashed.exit = Some(Exit::Code(1));
    let mut silent = status(3, "", 0);
    silent.role = Role::Stopped.as_str().into();
    let case = |name, state, elsewhere, want| Case {
        name,
        state,
        in_flight: 0,
        others: at_work(),
        elsewhere,
        want,
    };
    let cases = [
        Case {
            in_flight: 2,
            ..case("requests", Draining, vec![], "finishes 2 requests")
        },
        case("none", Stopping, vec![], "is told to end"),
        case(
            "a replacement boots",
            Ready,
            vec![instance("b", "u", Booting), instance("c", "u", Ready)],
            "b on node2 is to replace it: Booting for 3s",
        ),
        case(
            "another life's is none",
            Ready,
            vec![instance("b", "another", Booting)],
            "waits for an instance that replaces it",
        ),
        case(
            "it crashed",
            Ready,
            vec![crashed],
            "b on node2 was to replace it and ended: Code(1)",
        ),
        Case {
            others: [status(2, CORDONED, 1), silent.clone()],
            ..case(
                "nobody works",
                Ready,
                vec![],
                "no other node takes it: node2 is cordoned, node3 does not answer",
            )
        },
        Case {
            others: [status(2, DRAINING, 1), status(3, "", 10)],
            ..case(
                "full",
                Ready,
                vec![instance("b", "u", Booting)],
                "no other node takes it: node2 is draining, node3 runs 10 of 10",
            )
        },
    ];
    for case in cases {
        let mut one = instance("a", "u", case.state);
        one.in_flight = case.in_flight;
        let [two, three] = case.others;
        let nodes = [status(1, DRAINING, 1), two, three];
        let reports = [(NodeId(1), vec![one]), (NodeId(2), case.elsewhere)];
        let described = describe(NodeId(1), &nodes, &reports.into()).unwrap();
        assert_eq!(described.instances[0].waits_for, case.want, "{}", case.name);
    }
}

#[test]
fn only_a_drained_node_has_anything_left() {
    let mut leader = status(1, DRAINING, 0);
    (leader.role, leader.n_shards) = (Role::Leader.as_str().into(), 7);
    let left = |duty: &str, other: &str| {
        let nodes = [
            pb::NodeStatus {
                duty: duty.into(),
                ..leader.clone()
            },
            status(2, other, 0),
        ];
        describe(NodeId(1), &nodes, &Reports::new()).unwrap().left
    };
    assert_eq!(left("", ""), [""; 0]);
    assert_eq!(left(CORDONED, ""), [""; 0]);
    assert_eq!(left(DRAINING, CORDONED), ["7 shards", "leadership"]);
    let alone = left(DRAINING, DRAINED);
    assert!(
        alone.iter().all(|left| left.contains("no other node")),
        "{alone:?}"
    );
    assert_eq!(describe(NodeId(9), &[leader], &Reports::new()), None);
}

#[test]
fn a_node_is_drained_once_it_has_nothing() {
    let mut node = status(1, "", 1);
    assert_eq!(duty_word(Duty::Full, &node), "");
    assert_eq!(duty_word(Duty::Cordoned, &node), CORDONED);
    assert_eq!(duty_word(Duty::Drained, &node), DRAINING);
    node.n_instances = 0;
    assert_eq!(duty_word(Duty::Drained, &node), DRAINED);
    for role in [Role::Leader, Role::Stopped] {
        node.role = role.as_str().into();
        assert_eq!(duty_word(Duty::Drained, &node), DRAINING, "{role}");
    }
}
