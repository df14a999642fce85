//! `nihilo node restart`: another program in the place of a node's, in the same process.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::adopting::Adopting;
use common::load::Load;
use common::{Cluster, LIMIT, NIHILO, get, is_alive, kill, must, text, wait_for};
use rustix::process::Signal;

/// Admin, peers' and gateway's.
const N_LISTENERS: usize = 3;

fn create(nodes: &Cluster, name: &str, scale: &str) {
    let args = ["service", "create", name, "--image", "demo/hello"];
    must(nodes.cli(&[&args[..], &["--scale", scale]].concat()));
}

/// Sockets of a process that listen.
fn listeners_of(pid: i32) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let listening: BTreeSet<String> = table
        .lines()
        .filter_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            (fields.get(3) == Some(&"0A")).then(|| format!("socket:[{}]", fields[9]))
        })
        .collect();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let targets = open.filter_map(|open| std::fs::read_link(open.unwrap().path()).ok());
    let targets: BTreeSet<String> = targets.map(|target| target.display().to_string()).collect();
    targets.intersection(&listening).count()
}

/// When the present program of a node began, as it says itself; it has a session.
fn age_ms(nodes: &Cluster, i: usize) -> Option<u64> {
    let output = nodes.cli(&["cluster", "status", "-o", "json"]);
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let node = &status["nodes"][i];
    (node["session"].as_u64()? != 0).then(|| node["age_ms"].as_u64())?
}

#[test]
fn each_node_is_restarted_in_turn_and_no_request_fails() {
    let nodes = Adopting::start(Cluster::start(64), 3);
    create(&nodes.0, "many", "3..3");
    create(&nodes.0, "one", "1..1");
    create(&nodes.0, "free", "1..");
    let ports: Vec<u16> = (0..3).map(|i| nodes.0.gateway(i)).collect();
    let hosts = &[
        "many.default.localhost",
        "one.default.localhost",
        "free.default.localhost",
    ];
    let mut load = Load::start(hosts, ports);
    load.goes_on();
    let capped = || {
        let all = nodes.processes().into_iter();
        let is_capped = |(_, pid): &(usize, i32)| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            !String::from_utf8_lossy(&environment).contains("K_SERVICE=free")
        };
        all.filter(is_capped).collect::<Vec<_>>()
    };
    let before = capped();
    assert_eq!(before.len(), 4, "{before:?}");
    // One of them leads, and each runs something.
    for i in 0..3 {
        let pid = nodes.0.pid(i);
        let (asked, n_answered) = (Instant::now(), load.n_answered());
        if i == 0 {
            kill(pid, Signal::USR2);
            wait_for("the next program", || {
                let age = age_ms(&nodes.0, i)?;
                (u128::from(age) < asked.elapsed().as_millis()).then_some(())
            });
        } else {
            let name = format!("node{}", i + 1);
            must(nodes.0.cli(&["node", "restart", &name]));
        }
        let (took, n) = (asked.elapsed(), load.n_answered() - n_answered);
        eprintln!(
            "node{} restarted within {took:?}, {n} answers meanwhile",
            i + 1
        );
        assert!(is_alive(pid));
        assert_eq!((nodes.0.pid(i), nodes.0.status()[i].1), (pid, pid));
        assert_eq!(listeners_of(pid), N_LISTENERS, "node{}", i + 1);
        load.goes_on();
    }
    let failed = load.stop();
    assert_eq!(failed, [""; 0]);
    assert_eq!(capped(), before, "instances are what they were");

    // And each can be stopped as ever: what listened refuses, what ran is gone.
    must(nodes.0.stop());
    assert!(get(nodes.0.gateway(0), hosts[0]).is_err());
    nodes.until_no_process_is_left();
}

#[test]
fn how_an_instance_ended_is_told_by_the_program_after_the_one_that_started_it() {
    let node = Adopting::start(Cluster::start_one(65), 1);
    let flag = node.0.path().join("flag");
    let script = format!(
        "{NIHILO} demo-app hello & until [ -e {} ]; do sleep 0.05; done; kill $!; exit 7",
        flag.display()
    );
    must(node.0.cli(&[
        "service",
        "create",
        "ends",
        "--image",
        "file:///bin/sh",
        "--arg",
        "-c",
        "--arg",
        &script,
        "--scale",
        "1..1",
    ]));
    must(node.0.cli(&["node", "restart", "node1"]));
    std::fs::write(&flag, "").unwrap();
    let ends = || {
        let instances = std::fs::read_dir(node.0.node_dir(0).join("agent/instances")).unwrap();
        let words =
            instances.filter_map(|dir| std::fs::read_to_string(dir.ok()?.path().join("end")).ok());
        words.collect::<Vec<_>>().join("\n")
    };
    wait_for("word of its end", || {
        ends().contains("\"exit\":{\"Code\":7}").then_some(())
    });
}

#[test]
fn a_node_that_cannot_go_on_as_another_program_goes_on_as_it_is() {
    let kills = Cluster::start_one(66);
    let refused = kills.cli(&["node", "restart", "node1"]);
    assert_eq!(refused.status.code(), Some(4), "{}", text(&refused));
    assert!(
        text(&refused).contains("on-node-exit: kill"),
        "{}",
        text(&refused)
    );
    drop(kills);

    let node = Adopting::start(Cluster::start_one(66), 1);
    create(&node.0, "kept", "1..1");
    let (file, pid) = (node.0.config(0), node.0.pid(0));
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{good}colour: red\n")).unwrap();
    let refused = node.0.cli(&["node", "restart", "node1"]);
    assert_eq!(refused.status.code(), Some(4), "{}", text(&refused));
    for piece in ["would not start", "colour"] {
        assert!(text(&refused).contains(piece), "{}", text(&refused));
    }
    let age = age_ms(&node.0, 0).unwrap();
    let answer = get(node.0.gateway(0), "kept.default.localhost").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    // With another port in the file, its sockets are the ones that the file names.
    let port = node.0.gateway(0);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let other = free.local_addr().unwrap().port();
    drop(free);
    let moved = good.replace(
        &format!("\ngateway-port: {port}\n"),
        &format!("\ngateway-port: {other}\n"),
    );
    assert_ne!(moved, good);
    std::fs::write(&file, moved).unwrap();
    must(node.0.cli(&["node", "restart", "node1"]));
    assert_eq!(node.0.pid(0), pid);
    assert!(age_ms(&node.0, 0).unwrap() < age + 60_000);
    wait_for("answer at the other port", || {
        let answer = get(other, "kept.default.localhost").ok()?;
        answer.starts_with("HTTP/1.1 200").then_some(())
    });
    assert!(get(port, "kept.default.localhost").is_err());
    assert_eq!(listeners_of(pid), N_LISTENERS);
}

/// How long the app takes for what [`ask_for_long`] asks.
const LONG: Duration = Duration::from_secs(4);

/// A request by a gateway, with a body if it has a word to send.
fn ask_for_long(gateway: u16, host: &'static str, word: &'static str) -> JoinHandle<String> {
    let method = if word.is_empty() { "GET" } else { "POST" };
    let (ms, n) = (LONG.as_millis(), word.len());
    std::thread::spawn(move || {
        let mut stream = TcpStream::connect(("127.0.0.1", gateway)).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        write!(
            stream,
            "{method} /?ms={ms} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {n}\r\n\
             x-demo-nonce: long\r\nConnection: close\r\n\r\n{word}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    })
}

/// Requests that instances of these nodes are answering.
fn n_in_flight(nodes: &Cluster) -> u64 {
    let output = must(nodes.cli(&["ps", "-o", "json"]));
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let lines = listed["items"].as_array().unwrap().iter();
    lines.map(|line| line["inFlight"].as_u64().unwrap()).sum()
}

/// What an app of one request at a time has noted: how often it began one, and those that it began while
/// another one ran.
fn noted(ledger: &Path) -> (usize, Vec<String>) {
    let files = std::fs::read_dir(ledger).unwrap();
    let text: String = files
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap())
        .collect();
    let (mut n_long, mut overlapping) = (0, Vec::new());
    for line in text.lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        n_long += usize::from(entry["rid"] == "long" && entry["ph"] == "started");
        if entry["in_flight"].as_u64().unwrap() > 1 {
            overlapping.push(line.to_owned());
        }
    }
    (n_long, overlapping)
}

#[test]
fn what_other_nodes_have_sent_is_answered_however_long_that_takes() {
    let nodes = Adopting::start(Cluster::start(73), 3);
    let ledger = tempfile::tempdir().unwrap();
    let env = format!("NIHILO_DEMO_LEDGER={}", ledger.path().display());
    for node in ["node2", "node3"] {
        must(nodes.0.cli(&["node", "cordon", node]));
    }
    create(&nodes.0, "many", "1..1");
    must(nodes.0.cli(&[
        "service",
        "create",
        "one",
        "--image",
        "demo/hello",
        "--scale",
        "1..1",
        "--concurrency-limit",
        "1",
        "--env",
        &env,
    ]));
    for node in ["node2", "node3"] {
        must(nodes.0.cli(&["node", "uncordon", node]));
    }
    let before = nodes.processes();
    assert!(before.iter().all(|(i, _)| *i == 0), "{before:?}");
    let (many, one) = ("many.default.localhost", "one.default.localhost");
    let (second, third) = (nodes.0.gateway(1), nodes.0.gateway(2));
    // Each by a gateway that has to send it on; of those with a body, the place is reserved first.
    let begun = Instant::now();
    let long = [
        ask_for_long(second, many, ""),
        ask_for_long(third, many, "word"),
        ask_for_long(second, one, "word"),
    ];
    wait_for("long requests", || {
        (n_in_flight(&nodes.0) == 3).then_some(())
    });
    // Short ones come all the time, by every gateway; those to the second service wait for the long one.
    let ports = (0..3).map(|i| nodes.0.gateway(i)).collect();
    let mut load = Load::start(&["many.default.localhost", "one.default.localhost"], ports);

    let restarted = must(
        nodes
            .0
            .cli_at(&nodes.0.admin(1), &["node", "restart", "node1"]),
    );
    let took = begun.elapsed();
    assert!(took >= LONG, "{took:?}");
    let told = text(&restarted);
    assert!(
        told.contains("node1 first answers what is under way, for 30 s at most"),
        "{told}"
    );
    for long in long {
        let answer = long.join().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    load.goes_on();
    let failed = load.stop();
    assert_eq!(failed, [""; 0]);
    assert_eq!(nodes.processes(), before);
    // None was sent a second time, and none beside another.
    let (n_long, overlapping) = noted(ledger.path());
    assert_eq!((n_long, overlapping), (1, Vec::new()));
    let log = nodes.0.log(0);
    assert!(!log.contains("and cut"), "{log}");
}
