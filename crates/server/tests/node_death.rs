//! A node that is killed takes its instances along; what got away goes with its next start.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Cluster, is_alive, kill, must, wait_for};
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

/// The process that started `pid`.
fn home_of(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(')').unwrap();
    rest.split_whitespace().nth(1).unwrap().parse().unwrap()
}
