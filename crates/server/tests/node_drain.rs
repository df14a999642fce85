//! Nodes that are cordoned and drained while requests come in, and what is told of what ended: real
//! processes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;

use common::load::Load;
use common::{Cluster, get, is_alive, kill, must, text, wait_for};
use rustix::process::Signal;
use serde_json::Value;

fn create(cluster: &Cluster, name: &str, image: &str, scale: &str) {
    let args = [
        "service", "create", name, "--image", image, "--scale", scale,
    ];
    must(cluster.cli(&args));
}

fn json(cluster: &Cluster, args: &[&str]) -> Value {
    let output = must(cluster.cli(&[args, &["-o", "json"]].concat()));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Nodes that run ready instances of a revision.
fn nodes_of(cluster: &Cluster, revision: &str) -> BTreeSet<String> {
    let listed = json(cluster, &["instance", "list"]);
    let items = listed["items"].as_array().unwrap().iter();
    let ready = items.filter(|item| item["revision"] == revision && item["state"] == "Ready");
    ready
        .map(|item| item["node"].as_str().unwrap().to_owned())
        .collect()
}

fn duty_of(cluster: &Cluster, node: &str) -> String {
    let described = json(cluster, &["node", "describe", node]);
    described["node"]["duty"].as_str().unwrap().to_owned()
}

#[test]
fn a_drained_node_loses_no_request_and_comes_back() {
    let cluster = Cluster::start(60);
    create(&cluster, "hello", "demo/hello", "1..");
    // At its cap: its requests wait while the one instance moves.
    create(&cluster, "capped", "demo/hello", "1..1");
    let all: Vec<u16> = (0..3).map(|i| cluster.gateway(i)).collect();
    let hosts = &["hello.default.localhost", "capped.default.localhost"];
    let mut load = Load::start(hosts, all.clone());
    load.goes_on();

    // Each node in turn: one of them runs each instance, one of them leads.
    for i in 0..3 {
        let node = format!("node{}", i + 1);
        must(cluster.cli(&["node", "drain", &node]));
        load.goes_on();
        let described = json(&cluster, &["node", "describe", &node]);
        assert_eq!(described["node"]["duty"], "drained", "{described}");
        assert_eq!(described["node"]["shards"], 0, "{described}");
        assert_ne!(described["node"]["role"], "leader", "{described}");
        assert_eq!(described["instances"], serde_json::json!([]), "{described}");
        for revision in ["hello-00001", "capped-00001"] {
            let nodes = nodes_of(&cluster, revision);
            assert!(!nodes.is_empty() && !nodes.contains(&node), "{nodes:?}");
        }
        if i < 2 {
            must(cluster.cli(&["node", "uncordon", &node]));
            assert_eq!(duty_of(&cluster, &node), "full");
        }
    }

    // The last one may be stopped; what it is given to do outlives its process.
    load.use_gateways(all[..2].to_vec());
    let pid = cluster.pid(2);
    kill(pid, Signal::TERM);
    wait_for("end of the drained node", || (!is_alive(pid)).then_some(()));
    load.goes_on();
    must(cluster.start_missing());
    assert_eq!(duty_of(&cluster, "node3"), "drained");
    load.use_gateways(all);

    // Back at work, and the only one that is.
    must(cluster.cli(&["node", "uncordon", "node3"]));
    for node in ["node1", "node2"] {
        must(cluster.cli(&["node", "cordon", node]));
    }
    create(&cluster, "new", "demo/hello", "1..");
    assert_eq!(
        nodes_of(&cluster, "new-00001"),
        BTreeSet::from(["node3".to_owned()])
    );
    let kept = nodes_of(&cluster, "hello-00001");
    assert!(
        !kept.contains("node3"),
        "cordoned nodes keep what they run: {kept:?}"
    );
    load.goes_on();
    let failed = load.stop();
    assert_eq!(failed, [""; 0]);
}

#[test]
fn a_drain_that_cannot_end_says_what_stays_and_why() {
    let cluster = Cluster::start_one(61);
    create(&cluster, "hello", "demo/hello", "1..");
    let args = ["node", "drain", "node1", "--wait-timeout", "1"];
    let late = cluster.cli(&args);
    assert_eq!(late.status.code(), Some(5), "{}", text(&late));
    for part in [
        "no node takes new instances now",
        "node1 is not drained after 1 s",
        "default/hello-00001-",
        "there is no other node",
        "leadership",
        "nihilo node uncordon node1",
    ] {
        assert!(text(&late).contains(part), "{part}: {}", text(&late));
    }
    assert_eq!(duty_of(&cluster, "node1"), "draining");
    // It serves on meanwhile.
    let answer = get(cluster.gateway(0), "hello.default.localhost").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    must(cluster.cli(&["node", "uncordon", "node1"]));
    create(&cluster, "again", "demo/hello", "1..");
    let unknown = cluster.cli(&["node", "drain", "node9"]);
    assert_eq!(unknown.status.code(), Some(3), "{}", text(&unknown));
}

#[test]
fn what_a_crashed_instance_said_is_shown_after_its_node_came_back() {
    let cluster = Cluster::start_one(62);
    must(cluster.cli(&[
        "service",
        "create",
        "bad",
        "--image",
        "demo/crash",
        "--no-wait",
    ]));
    let previous = || {
        let shown = must(cluster.cli(&["logs", "bad", "--previous"]));
        String::from_utf8(shown.stdout).unwrap()
    };
    let last_words = "DATABASE_URL is not set";
    let line = wait_for("its last words", || {
        let shown = previous();
        let mut lines = shown.lines();
        lines
            .find(|line| line.ends_with(last_words))
            .map(str::to_owned)
    });
    let pid = cluster.pid(0);
    kill(pid, Signal::KILL);
    wait_for("end of the node", || (!is_alive(pid)).then_some(()));
    must(cluster.start_missing());
    let shown = previous();
    assert!(
        shown.lines().any(|shown| shown == line),
        "{line} in:\n{shown}"
    );
}
