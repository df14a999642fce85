//! A node that is killed takes its instances along; what got away goes with its next start. A node
//! that lost its disk does not come back as if nothing had happened.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Cluster, is_alive, kill, must, run, text, wait_for};
use rustix::process::Signal;

#[test]
fn instances_do_not_outlive_their_node() {
    let cluster = Cluster::start(2);
    let pids = cluster.path().join("pids");
    // An app that listens, with a descendant that left its group.
    let script = format!(
        "setsid sleep 300 & echo $$ $! >> {}; exec {} demo-app hello",
        pids.display(),
        common::NIHILO
    );
    must(cluster.cli(&[
        "service",
        "create",
        "stray",
        "--image",
        "file:///bin/sh",
        "--arg",
        "-c",
        "--arg",
        &script,
        "--scale",
        "1..",
    ]));
    let text = std::fs::read_to_string(&pids).unwrap();
    let mut words = text
        .split_whitespace()
        .map(|pid| pid.parse::<i32>().unwrap());
    let (app, stray) = (words.next().unwrap(), words.next().unwrap());
    let home = home_of(app);
    let node = (0..3).find(|i| cluster.pid(*i) == home).unwrap();
    kill(home, Signal::KILL);
    wait_for("end of the app after its node's", || {
        (!is_alive(app)).then_some(())
    });
    wait_for("end of the node", || (!is_alive(home)).then_some(()));
    must(cluster.start_missing());
    wait_for("end of the stray", || (!is_alive(stray)).then_some(()));
    assert!(
        cluster
            .log(node)
            .contains("killed what an earlier process of this node left running")
    );
}

#[test]
fn a_node_whose_disk_was_wiped_is_refused_under_its_old_id() {
    let cluster = Cluster::start(7);
    must(cluster.cli(&["service", "create", "kept", "--image", "demo/hello"]));
    let (leader, _) = cluster.leader();
    let wiped = (0..3).find(|i| *i != leader).unwrap();
    let pid = cluster.pid(wiped);
    kill(pid, Signal::KILL);
    wait_for("end of the node", || (!is_alive(pid)).then_some(()));
    let config = cluster.config(wiped);
    let kept = std::fs::read(&config).unwrap();
    std::fs::remove_dir_all(cluster.node_dir(wiped)).unwrap();
    std::fs::create_dir(cluster.node_dir(wiped)).unwrap();
    std::fs::write(&config, kept).unwrap();

    let refused = run(&["node", "start", "--config", config.to_str().unwrap()]);
    let shown = text(&refused);
    assert_eq!(refused.status.code(), Some(65), "{shown}");
    for piece in ["store-replaced", "under a new id"] {
        assert!(shown.contains(piece), "`{piece}` in {shown}");
    }
    let listed = must(cluster.cli(&["service", "list", "-o", "name"]));
    assert!(text(&listed).contains("kept"), "{}", text(&listed));
}

/// The process that started `pid`.
fn home_of(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(')').unwrap();
    rest.split_whitespace().nth(1).unwrap().parse().unwrap()
}
