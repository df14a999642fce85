//! `nihilo node restart`: another program in the place of a node's, in the same process.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/engine.rs"]
mod engine;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::adopting::Adopting;
use common::load::Load;
use common::{Cluster, LIMIT, NIHILO, get, is_alive, kill, must, text, wait_for};
use engine::{TestImage, docker};
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

/// Words of how instances of the first node ended.
fn ends(nodes: &Cluster) -> String {
    let instances = std::fs::read_dir(nodes.node_dir(0).join("agent/instances")).unwrap();
    let words =
        instances.filter_map(|dir| std::fs::read_to_string(dir.ok()?.path().join("end")).ok());
    words.collect::<Vec<_>>().join("\n")
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
    wait_for("word of its end", || {
        ends(&node.0)
            .contains("\"exit\":{\"Code\":7}")
            .then_some(())
    });
}

/// The one ready instance: id, pid and address.
fn only_ready(nodes: &Cluster) -> Option<(String, i64, String)> {
    let output = nodes.cli(&["instance", "list", "-o", "json"]);
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let items = listed["items"].as_array()?.iter();
    let ready: Vec<_> = items.filter(|item| item["state"] == "Ready").collect();
    let [one] = ready.as_slice() else { return None };
    let text = |key: &str| one[key].as_str().unwrap().to_owned();
    Some((text("id"), one["pid"].as_i64().unwrap(), text("address")))
}

#[test]
fn a_container_serves_on_and_its_output_and_its_end_are_told_by_the_next_program() {
    let Some(image) = TestImage::make("restart") else {
        return;
    };
    let node = Adopting::start(Cluster::start_one(74), 1);
    let app = ["--arg", "demo-app", "--arg", "hello", "--scale", "1..1"];
    let create = ["service", "create", "boxed", "--image", image.name()];
    must(node.0.cli(&[&create[..], &app].concat()));
    let before = wait_for("a container", || only_ready(&node.0));
    // Into what the app writes to, where this test may.
    let stdout = format!("/proc/{}/fd/1", before.1);
    let open = || std::fs::OpenOptions::new().write(true).open(&stdout);
    let may_write = open().is_ok();
    let shown = |more: &[&str]| {
        let output = must(node.0.cli(&[&["logs", "boxed"], more].concat()));
        String::from_utf8(output.stdout).unwrap()
    };
    let say = |word: &str, all: &[&str]| {
        if !may_write {
            return eprintln!("what it says is not tested: this user may not write for it");
        }
        writeln!(open().unwrap(), "{word}").unwrap();
        let wanted: Vec<_> = all
            .iter()
            .map(|word| format!("{} | {word}", before.0))
            .collect();
        wait_for(&format!("{wanted:?}"), || {
            (shown(&[]).lines().collect::<Vec<_>>() == wanted).then_some(())
        });
    };
    say("before", &["before"]);
    let containers = image.containers();
    let mut load = Load::start(&["boxed.default.localhost"], vec![node.0.gateway(0)]);
    load.goes_on();

    must(node.0.cli(&["node", "restart", "node1"]));
    load.goes_on();
    let failed = load.stop();
    assert_eq!(failed, [""; 0]);
    assert_eq!(wait_for("the container", || only_ready(&node.0)), before);
    assert_eq!(
        (image.containers().len(), image.containers()),
        (1, containers)
    );
    say("after", &["before", "after"]);

    must_docker(&["kill", "--signal", "KILL", &image.containers()[0]]);
    wait_for("word of its end", || {
        ends(&node.0)
            .contains("\"exit\":{\"Signal\":9}")
            .then_some(())
    });
    let next = wait_for("one in its place", || {
        only_ready(&node.0).filter(|now| now.0 != before.0)
    });
    assert_ne!(next.1, before.1);
    if may_write {
        let said = format!("{0} | before\n{0} | after\n", before.0);
        assert_eq!(shown(&["--previous"]), said);
    }
}

fn must_docker(args: &[&str]) {
    engine::must(docker(args));
}

/// Processes whose parent this is, with the names of their programs.
fn children_of(pid: i32) -> Vec<(i32, String)> {
    let of = |child: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
        let (before, after) = stat.rsplit_once(')')?;
        let parent: i32 = after.split_whitespace().nth(1)?.parse().ok()?;
        let name = before.split_once('(')?.1.to_owned();
        (parent == pid).then_some((child, name))
    };
    let all = std::fs::read_dir("/proc").unwrap();
    let all = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    all.filter_map(of).collect()
}

#[test]
fn the_command_of_a_probe_that_ran_meanwhile_leaves_nothing() {
    let node = Adopting::start(Cluster::start_one(75), 1);
    node.0.apply_one(
        "probed",
        "{image: demo/hello, livenessProbe: \
         {exec: {command: [sleep, '300']}, timeoutSeconds: 400, periodSeconds: 400}}",
    );
    let pid = node.0.pid(0);
    let probe = |but: i32| {
        let mut all = children_of(pid).into_iter();
        let probe = all.find(|(child, name)| name == "sleep" && *child != but);
        probe.map(|(child, _)| child)
    };
    let before = wait_for("a probe", || probe(0));
    let instance = wait_for("an instance", || only_ready(&node.0));
    must(node.0.cli(&["node", "restart", "node1"]));
    // The next program probes too, and has nothing of what the one before had begun.
    wait_for("a probe of the next program", || probe(before));
    wait_for("the end of the one before", || {
        let is_left = Path::new(&format!("/proc/{before}")).exists();
        (!is_left).then_some(())
    });
    // What is its own is as it was: whoever runs it is told how it ends.
    assert_eq!(wait_for("the instance", || only_ready(&node.0)), instance);
    kill(i32::try_from(instance.1).unwrap(), Signal::KILL);
    wait_for("word of its end", || {
        ends(&node.0)
            .contains("\"exit\":{\"Signal\":9}")
            .then_some(())
    });
}

/// Moments after the store was closed, in which nobody listened before: some before the next program
/// begins, some after.
const MOMENTS: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(1),
    Duration::from_millis(3),
    Duration::from_millis(8),
    Duration::from_millis(15),
    Duration::from_millis(25),
];

fn n_stepped_aside(nodes: &Cluster) -> usize {
    nodes.log(0).matches("node stepped aside").count()
}

/// Waits without a pause for a node's last word, and then for so long.
fn after_last_word(nodes: &Cluster, n_before: usize, moment: Duration) {
    let begun = Instant::now();
    while n_stepped_aside(nodes) == n_before {
        assert!(begun.elapsed() < LIMIT, "it does not step aside");
        std::thread::yield_now();
    }
    let said = Instant::now();
    while said.elapsed() < moment {
        std::thread::yield_now();
    }
}

#[test]
fn a_node_that_is_told_to_stop_between_two_programs_stops_in_order() {
    let node = Adopting::start(Cluster::start_one(76), 1);
    create(&node.0, "kept", "1..1");
    for moment in MOMENTS {
        let pid = node.0.pid(0);
        wait_for("an instance", || {
            (node.processes().len() == 1).then_some(())
        });
        let n_before = n_stepped_aside(&node.0);
        kill(pid, Signal::USR2);
        after_last_word(&node.0, n_before, moment);
        kill(pid, Signal::TERM);
        wait_for(&format!("its end, {moment:?} after"), || {
            (!is_alive(pid)).then_some(())
        });
        // A node that is killed leaves its instances, one that stops does not.
        assert_eq!(node.processes(), [], "{moment:?}");
        assert!(node.0.log(0).ends_with("node stopped\n"), "{moment:?}");
        must(node.0.start_missing());
    }
}

#[test]
fn wishes_between_two_programs_are_the_next_ones_and_end_nothing() {
    let node = Adopting::start(Cluster::start_one(77), 1);
    create(&node.0, "kept", "1..1");
    let (pid, instance) = (node.0.pid(0), node.only_instance());
    for moment in MOMENTS {
        let n_before = n_stepped_aside(&node.0);
        kill(pid, Signal::USR2);
        after_last_word(&node.0, n_before, moment);
        kill(pid, Signal::HUP);
        kill(pid, Signal::USR2);
        // It restarts once more.
        wait_for(&format!("a second restart, {moment:?} after"), || {
            (n_stepped_aside(&node.0) == n_before + 2).then_some(())
        });
        wait_for("the node", || age_ms(&node.0, 0));
        assert!(is_alive(pid), "{moment:?}");
    }
    assert_eq!(node.only_instance(), instance);
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

/// How long the app takes for what [`ask_for_long`] asks: longer than all else that a test does meanwhile.
const LONG: Duration = Duration::from_secs(10);

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
