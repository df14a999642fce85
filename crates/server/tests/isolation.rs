//! A node that isolates its programs: bundles serve, the level is told, and who wants more is refused.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use common::{Cluster, NIHILO, get, must, run, wait_for};

/// The node with another level; whether it has that.
fn restart(cluster: &Cluster, from: &str, to: &str) -> bool {
    must(cluster.stop());
    let file = cluster.config(0);
    let text = std::fs::read_to_string(&file).unwrap();
    let (from, wanted) = (format!("isolation: {from}"), format!("isolation: {to}"));
    assert!(text.contains(&from), "{text}");
    std::fs::write(&file, text.replace(&from, &wanted)).unwrap();
    must(cluster.start_missing());
    let nodes = json(cluster, &["node", "list"]);
    let offered = nodes["items"][0]["isolation"].as_str().unwrap();
    let has = offered.split(' ').next() == Some(to);
    if !has {
        eprintln!("not tried: this host offers no `{to}`: {offered}");
    }
    has
}

fn json(cluster: &Cluster, args: &[&str]) -> serde_json::Value {
    let output = must(cluster.cli(&[args, &["-o", "json"]].concat()));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A directory whose entry is a script beside what it needs.
fn app(cluster: &Cluster) -> PathBuf {
    let dir = cluster.path().join("app");
    std::fs::create_dir(&dir).unwrap();
    std::fs::copy(NIHILO, dir.join("server")).unwrap();
    let text = "#!/bin/sh\nTARGET=$(cat target) exec ./server demo-app hello\n";
    std::fs::write(dir.join("run"), text).unwrap();
    std::fs::write(dir.join("target"), "tree").unwrap();
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(dir.join("run"), mode).unwrap();
    dir
}

fn serves(cluster: &Cluster, service: &str, text: &str) {
    let answer = get(cluster.gateway(0), &format!("{service}.default.localhost")).unwrap();
    assert!(answer.contains(text), "{answer}");
}

#[test]
fn bundles_serve_at_each_level_and_the_level_is_told() {
    let cluster = Cluster::start_one(68);
    let dir = app(&cluster);
    let (admin, dir) = (cluster.admin(0), dir.to_str().unwrap().to_owned());
    let deploy = |args: &[&str]| {
        let begin = ["deploy", "--server", &admin, "--wait-timeout", "60"];
        must(run(&[&begin[..], args].concat()));
    };
    deploy(&["tree", "--cmd", "./run", &dir]);
    deploy(&["binary", "--", NIHILO, "demo-app", "hello"]);
    serves(&cluster, "tree", "Hello tree!");
    let mut before = "none";
    for level in ["landlock", "full"] {
        if !restart(&cluster, before, level) {
            return;
        }
        before = level;
        serves(&cluster, "tree", "Hello tree!");
        serves(&cluster, "binary", "Hello World!");
        let instances = json(&cluster, &["instance", "list"]);
        let all = instances["items"].as_array().unwrap().iter();
        let ready: Vec<_> = all.filter(|one| one["state"] == "Ready").collect();
        assert!(ready.len() >= 2, "{instances}");
        assert!(
            ready.iter().all(|one| one["isolation"] == level),
            "{instances}"
        );
    }
}

#[test]
fn a_service_that_wants_more_than_the_nodes_have_says_what_is_missing_where() {
    let cluster = Cluster::start_one(69);
    let asks = |level: &str| format!("nihilo.dev/min-isolation={level}");
    let create = |name: &str, level: &str| {
        let args = [
            "service",
            "create",
            name,
            "--image",
            "demo/hello",
            "--no-wait",
        ];
        must(cluster.cli(&[&args[..], &["--annotation", &asks(level)]].concat()));
    };
    create("strict", "full");
    let said = wait_for("refusal", || {
        let shown = json(&cluster, &["revision", "list", "-s", "strict"]);
        let conditions = shown["items"][0]["status"]["conditions"].as_array()?;
        let refused = conditions
            .iter()
            .find(|condition| condition["reason"] == "IsolationUnavailable")?;
        Some(refused["message"].as_str().unwrap().to_owned())
    });
    for part in ["`full`", "`none`", "node `node1`", "`process: isolation`"] {
        assert!(said.contains(part), "{said}");
    }
    // No level of that name.
    let args = ["service", "create", "odd", "--image", "demo/hello"];
    let odd = cluster.cli(&[&args[..], &["--annotation", &asks("most")]].concat());
    let told = String::from_utf8_lossy(&odd.stderr).into_owned();
    assert!(
        !odd.status.success() && told.contains("invalid value: most"),
        "{told}"
    );
    // What is offered is enough.
    create("easy", "none");
    wait_for("an easy one", || {
        let answer = get(cluster.gateway(0), "easy.default.localhost").ok()?;
        answer.contains("Hello World!").then_some(())
    });
}
