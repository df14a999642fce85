//! `nihilo doctor` on machines that are well, and on one that is not.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::Output;

use common::{Cluster, must, run, text};

/// State and words of every check.
fn findings(output: &Output) -> BTreeMap<String, (String, String)> {
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let word = |item: &serde_json::Value, key: &str| item[key].as_str().unwrap().to_owned();
    let items = list["items"].as_array().unwrap().iter();
    items
        .map(|item| {
            let told = (word(item, "state"), word(item, "found"));
            (word(item, "check"), told)
        })
        .collect()
}

fn doctor(cluster: &Cluster, more: &[&str]) -> Output {
    let config = cluster.config(0);
    let args = ["doctor", "--config", config.to_str().unwrap()];
    run(&[&args[..], more].concat())
}

#[test]
fn a_node_that_runs_is_in_nobodys_way_and_its_peers_have_its_time() {
    let cluster = Cluster::start(57);
    let output = doctor(&cluster, &["-o", "json"]);
    let found = findings(&output);
    let pid = format!("pid {}", cluster.pid(0));
    let (state, words) = &found[&format!("port {}", cluster.gateway(0))];
    assert!(state == "ok" && words.contains(&pid), "{words}");
    for peer in [1, 2] {
        let (state, words) = &found[&format!("clock of {}", cluster.admin(peer))];
        assert_eq!(state, "ok", "{words}");
    }
    let (state, words) = &found["data directory"];
    assert_eq!(state, "ok", "{words}");
}

#[test]
fn a_port_that_another_program_has_is_told_and_fails() {
    let cluster = Cluster::start_one(58);
    must(cluster.stop());
    let _other = TcpListener::bind(("127.0.0.1", cluster.gateway(0))).unwrap();
    let output = doctor(&cluster, &[]);
    let shown = text(&output);
    assert_eq!(output.status.code(), Some(1), "{shown}");
    let fix = format!("ss -ltnp 'sport = :{}'", cluster.gateway(0));
    assert!(shown.contains("FAIL") && shown.contains(&fix), "{shown}");
    assert!(shown.contains("error: 1 of "), "{shown}");
}
