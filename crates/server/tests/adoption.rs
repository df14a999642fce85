//! Nodes with `on-node-exit: adopt`: kill -9 of a node's process costs no instance.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, Instant};

use common::adopting::Adopting;
use common::{Cluster, get, is_alive, kill, must, run, text, wait_for, wait_up_to};
use rustix::process::Signal;

/// How long owners wait for a node that was lost (03-actors §10).
const RESTART_GRACE: Duration = Duration::from_secs(3);
const HOST: &str = "kept.default.localhost";

fn serves(port: u16) -> bool {
    get(port, HOST).is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

#[test]
fn an_instance_survives_its_only_node_and_goes_with_it_in_good_order() {
    let nodes = Adopting::start(Cluster::start_one(8), 1);
    nodes.create_service();
    let (_, before) = nodes.only_instance();
    nodes.kill_node(0);
    assert!(is_alive(before));
    must(nodes.0.start_missing());
    wait_for("answer", || serves(nodes.0.gateway(0)).then_some(()));
    assert_eq!(nodes.only_instance(), (0, before));
    assert_eq!((nodes.events("spawn"), nodes.events("exit")), (1, 0));

    // Its end is seen, though it is nobody's child here.
    kill(before, Signal::KILL);
    let next = wait_for("replacement", || match nodes.processes().as_slice() {
        [(0, pid)] if *pid != before => Some(*pid),
        _ => None,
    });
    wait_for("answer", || serves(nodes.0.gateway(0)).then_some(()));
    assert_eq!((nodes.events("spawn"), nodes.events("exit")), (2, 1));
    must(nodes.0.stop());
    assert!(!is_alive(next));
    nodes.until_no_process_is_left();
}

#[test]
fn a_node_that_is_back_in_time_goes_on_with_its_instance_and_nobody_else_starts_one() {
    let nodes = Adopting::start(Cluster::start(9), 3);
    nodes.create_service();
    let (home, before) = nodes.only_instance();
    let others: Vec<_> = (0..3_u16).filter(|i| usize::from(*i) != home).collect();
    let lost_at = Instant::now();
    nodes.kill_node(home);
    assert!(is_alive(before));
    std::thread::scope(|scope| {
        // They wait for the instance: it is reached through its own node only.
        let asked = others.iter().map(|i| {
            let port = nodes.0.gateway(*i);
            scope.spawn(move || get(port, HOST).unwrap())
        });
        let asked: Vec<_> = asked.collect();
        must(nodes.0.start_missing());
        for answer in asked {
            let answer = answer.join().unwrap();
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
    });
    let was_away = lost_at.elapsed();
    eprintln!("away, and answered again, within {was_away:?}");
    if was_away < RESTART_GRACE {
        assert_eq!(nodes.only_instance(), (home, before));
        assert_eq!((nodes.events("spawn"), nodes.events("exit")), (1, 0));
    } else {
        // Replaced on a machine this slow, and one too many until it was heard.
        wait_for("end of the surplus", || {
            (nodes.processes().len() == 1).then_some(())
        });
    }
    must(nodes.0.cli(&["service", "delete", "kept"]));
    nodes.until_no_process_is_left();
}

#[test]
fn what_a_stopped_node_left_is_swept_and_what_a_crashed_one_left_is_not() {
    let node = Adopting::start(Cluster::start_one(54), 1);
    node.create_service();
    let (_, instance) = node.only_instance();
    let config = node.0.config(0);
    let sweep = |result| {
        let file = config.to_str().unwrap();
        run(&["internal", "sweep", "--config", file, "--result", result])
    };
    let refused = sweep("success");
    assert!(!refused.status.success(), "a node runs: {}", text(&refused));
    assert!(is_alive(instance));

    node.kill_node(0);
    must(sweep("signal"));
    assert!(is_alive(instance));
    must(sweep("timeout"));
    node.until_no_process_is_left();
}

/// So many on one node say that a list is whole and that a count holds.
const N_INSTANCES: usize = 50;
/// Starts of so many more, and the ends of as many, on a machine that does other things too.
const MANY_LIMIT: Duration = Duration::from_secs(60);

#[test]
fn fifty_instances_go_on_with_their_node_and_what_replaced_them_in_vain_is_trimmed() {
    let nodes = Adopting::start(Cluster::start(67), 3);
    // All on one node, as nobody else takes any.
    for other in ["node1", "node3"] {
        must(nodes.0.cli(&["node", "cordon", other]));
    }
    let args = ["service", "create", "kept", "--image", "demo/hello"];
    let scale = format!("{N_INSTANCES}..{N_INSTANCES}");
    must(nodes.0.cli(&[&args[..], &["--scale", &scale]].concat()));
    let all_run = || (nodes.processes().len() == N_INSTANCES).then(|| nodes.processes());
    let before = wait_up_to(MANY_LIMIT, "fifty instances", all_run);
    let home = 1;
    assert!(before.iter().all(|(node, _)| *node == home), "{before:?}");
    for other in ["node1", "node3"] {
        must(nodes.0.cli(&["node", "uncordon", other]));
    }

    // Back in time: at the cap nobody starts a second one.
    let lost_at = Instant::now();
    nodes.kill_node(home);
    must(nodes.0.start_missing());
    wait_for("the node's place", || {
        takes_part(&nodes, home).then_some(())
    });
    let was_away = lost_at.elapsed();
    wait_for("answer", || serves(nodes.0.gateway(0)).then_some(()));
    eprintln!("{N_INSTANCES} instances, node away for {was_away:?}");
    if was_away < RESTART_GRACE {
        assert_eq!(nodes.processes(), before);
        let started_and_ended = (nodes.events("spawn"), nodes.events("exit"));
        assert_eq!(started_and_ended, (N_INSTANCES, 0));
    }

    // Too late: they are replaced, and the surplus goes once the node is heard of.
    nodes.kill_node(home);
    let elsewhere = || {
        let all = nodes.processes();
        all.iter().filter(|(node, _)| *node != home).count()
    };
    wait_up_to(MANY_LIMIT, "fifty replacements", || {
        (elsewhere() >= N_INSTANCES).then_some(())
    });
    must(nodes.0.start_missing());
    wait_up_to(MANY_LIMIT, "end of the surplus", || {
        (takes_part(&nodes, home) && nodes.processes().len() == N_INSTANCES).then_some(())
    });
    assert!(serves(nodes.0.gateway(0)));
    must(nodes.0.cli(&["service", "delete", "kept"]));
    nodes.until_no_process_is_left();
}

/// Whether a node has a session, by its own word.
fn takes_part(nodes: &Adopting, i: usize) -> bool {
    let status = nodes.0.status_at(&nodes.0.servers());
    let session = status["nodes"][i]["session"].as_u64();
    session.is_some_and(|session| session != 0)
}

/// Without a quorum a node serves its last table after so long (05-gateway §7.2).
const STALE_AFTER: Duration = Duration::from_secs(3);
/// On top: the start of a process in a debug build, and a good look at the instance.
const START_MARGIN: Duration = Duration::from_secs(4);

#[test]
fn without_a_quorum_an_adopted_instance_serves_again_once_its_node_is_back() {
    let nodes = Adopting::start(Cluster::start(72), 3);
    nodes.create_service();
    let (home, before) = nodes.only_instance();
    let gateway = nodes.0.gateway(u16::try_from(home).unwrap());
    assert!(serves(gateway));
    for other in (0..3).filter(|i| *i != home) {
        nodes.kill_node(other);
    }
    // It goes on where it is, with nobody left to ask.
    assert!(serves(gateway));
    nodes.kill_node(home);
    assert!(is_alive(before) && !serves(gateway));

    let started_at = Instant::now();
    let mut alone = nodes.0.start_node(&format!("node{}", home + 1));
    // Whoever has ended is not to be taken for one that runs.
    let reaped = std::thread::spawn(move || alone.wait());
    wait_for("answer", || serves(gateway).then_some(()));
    let took = started_at.elapsed();
    eprintln!("without a quorum, answered {took:?} after the start of the process");
    assert!(took < STALE_AFTER + START_MARGIN, "{took:?}");
    assert_eq!(nodes.only_instance(), (home, before));
    assert_eq!((nodes.events("spawn"), nodes.events("exit")), (1, 0));
    let admin = nodes.0.admin(u16::try_from(home).unwrap());
    let status = nodes.0.status_at(&admin);
    assert_eq!(status["quorum"], false, "{status}");

    // With the others it is its owner's again, and the only one.
    must(nodes.0.start_missing());
    wait_for("the node's place", || {
        takes_part(&nodes, home).then_some(())
    });
    for i in 0..3 {
        let port = nodes.0.gateway(i);
        wait_for("answer", || serves(port).then_some(()));
    }
    must(nodes.0.cli(&["service", "delete", "kept"]));
    nodes.until_no_process_is_left();
    assert_eq!((nodes.events("spawn"), nodes.events("exit")), (1, 1));
    must(nodes.0.stop());
    drop(reaped.join().unwrap());
}
