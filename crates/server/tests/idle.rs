//! Services that idle frozen (`nihilo.dev/idle: freeze`), with real processes: what is kept at zero,
//! and how long a wake takes beside a cold start.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, Instant};

use common::{Cluster, get, must, text, wait_for};

/// Of each kind, for the wakes; each is woken once a round.
const N_SERVICES: usize = 10;
/// Rounds of wakes, unless this variable names more: each waits for the way to zero.
const ROUNDS: &str = "NIHILO_TEST_WAKE_ROUNDS";
/// What is frozen takes no cpu for so long; the goal's own span.
const STILL: Duration = Duration::from_secs(10);

struct House(Cluster);

/// An instance as `nihilo instance list` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shown {
    id: String,
    node: String,
    state: String,
    pid: i32,
}

/// A service of one instance that goes to zero as soon as one may.
fn manifest(name: &str, idle: &str) -> String {
    format!(
        "apiVersion: serving.knative.dev/v1\n\
         kind: Service\n\
         metadata: {{name: {name}}}\n\
         spec:\n  \
           template:\n    \
             metadata:\n      \
               annotations:\n        \
                 autoscaling.knative.dev/window: 6s\n        \
                 autoscaling.knative.dev/max-scale: '1'\n        \
                 nihilo.dev/idle: {idle}\n    \
             spec:\n      \
               containers: [{{image: demo/count}}]\n---\n"
    )
}

impl House {
    fn new(cluster: Cluster, services: &[(String, &str)]) -> Self {
        let setting = "scale-to-zero-grace-period=1s";
        let args = [
            "configmap",
            "set",
            "config-autoscaler",
            setting,
            "-n",
            "knative-serving",
        ];
        must(cluster.cli(&args));
        let manifests = services.iter().map(|(name, idle)| manifest(name, idle));
        let file = cluster.path().join("services.yaml");
        std::fs::write(&file, manifests.collect::<String>()).unwrap();
        must(cluster.cli(&["apply", "-f", file.to_str().unwrap()]));
        Self(cluster)
    }

    /// Those that have not ended.
    fn instances(&self) -> Vec<Shown> {
        let shown = must(self.0.cli(&["instance", "list", "-o", "json"]));
        let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
        let text = |item: &serde_json::Value, key: &str| item[key].as_str().unwrap().to_owned();
        let items = shown["items"].as_array().unwrap().iter();
        let all = items.map(|item| Shown {
            id: text(item, "id"),
            node: text(item, "node"),
            state: text(item, "state"),
            pid: i32::try_from(item["pid"].as_i64().unwrap()).unwrap(),
        });
        all.filter(|shown| !matches!(shown.state.as_str(), "Exited" | "Destroyed"))
            .collect()
    }

    fn only(&self, state: &str) -> Shown {
        let what = format!("one instance that is {state}");
        wait_for(&what, || match self.instances().as_slice() {
            [one] if one.state == state => Some(one.clone()),
            _ => None,
        })
    }

    /// Status line, headers and body, on a connection of its own.
    fn ask(&self, service: &str) -> String {
        let host = format!("{service}.default.localhost");
        let answer = get(self.0.gateway(0), &host).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer
    }
}

fn header<'a>(answer: &'a str, name: &str) -> &'a str {
    let mut lines = answer.lines();
    let found = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    found.unwrap_or_else(|| panic!("no {name}: {answer}"))
}

/// Nanoseconds that a process has had a processor.
fn cpu_ns(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_service_at_zero_keeps_its_process_and_answers_by_it() {
    let house = House::new(Cluster::start_one(64), &[("kept".into(), "freeze")]);
    let first = house.ask("kept");
    assert!(first.ends_with("\r\n1\n"), "its count of requests: {first}");
    let frozen = house.only("Frozen");
    assert_eq!(header(&first, "nihilo-instance"), frozen.id);
    let (before, since) = (cpu_ns(frozen.pid), Instant::now());
    let why = must(house.0.cli(&["why", "autoscaler", "kept-00001"]));
    let why = text(&why);
    assert!(why.contains("frozen and not stopped"), "{why}");
    wait_for("the span in which it takes no cpu", || {
        (since.elapsed() >= STILL).then_some(())
    });
    assert_eq!(house.only("Frozen"), frozen);
    assert_eq!(cpu_ns(frozen.pid), before);
    let second = house.ask("kept");
    assert!(second.ends_with("\r\n2\n"), "the same process: {second}");
    assert_eq!(header(&second, "nihilo-instance"), frozen.id);
    let ready = house.only("Ready");
    assert_eq!((ready.id, ready.pid), (frozen.id.clone(), frozen.pid));
    // Again at zero; killed there, the next request starts another.
    let again = house.only("Frozen");
    assert_eq!(again.pid, frozen.pid);
    common::kill(again.pid, rustix::process::Signal::KILL);
    wait_for("its end", || house.instances().is_empty().then_some(()));
    let third = house.ask("kept");
    assert!(third.ends_with("\r\n1\n"), "another process: {third}");
    // With the service goes what is kept of it.
    let last = house.only("Frozen");
    must(house.0.cli(&["service", "delete", "kept"]));
    wait_for("the end of what was kept", || {
        (!common::is_alive(last.pid)).then_some(())
    });
}

#[test]
fn a_node_that_is_drained_or_stopped_keeps_nothing_frozen() {
    let house = House::new(Cluster::start(65), &[("kept".into(), "freeze")]);
    house.ask("kept");
    let frozen = house.only("Frozen");
    must(house.0.cli(&["node", "drain", &frozen.node]));
    assert!(!common::is_alive(frozen.pid));
    house.ask("kept");
    let elsewhere = house.only("Frozen");
    assert_ne!(elsewhere.node, frozen.node);
    must(house.0.stop());
    assert!(!common::is_alive(elsewhere.pid));
}

/// Times of one kind of wake, sorted.
fn told(what: &str, mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    let (median, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    let n = times.len();
    println!("{what}: median {median:?}, p99 {p99:?}, of {n}");
    (median, p99)
}

/// All parts of the wait, and that they are no more and no less than the whole.
fn tells_where_its_time_went(answer: &str, kind: &str) {
    let told = header(answer, "nihilo-cold-start");
    let part = |name: &str| -> f64 {
        let value = told.split(';').find_map(|part| part.strip_prefix(name));
        let value = value.and_then(|value| value.strip_prefix('='));
        value
            .unwrap_or_else(|| panic!("no `{name}` in `{told}`"))
            .parse()
            .unwrap()
    };
    let parts = ["placed", "spawned", "ready", "first-byte"].map(part);
    let [_, spawned, ready, _] = parts;
    assert!(
        (parts.iter().sum::<f64>() - part("total")).abs() < 0.01,
        "{told}"
    );
    assert_eq!(
        spawned > 0.0,
        kind == "stop",
        "a thaw makes no process: {told}"
    );
    assert!(ready > 0.0, "{told}");
}

#[test]
fn a_wake_takes_less_than_a_cold_start() {
    let rounds = std::env::var(ROUNDS).map_or(1, |rounds| rounds.parse().unwrap());
    let name = |idle: &str, i: usize| format!("{idle}-{i}");
    let kinds = ["freeze", "stop"];
    let of_kind = |idle| (0..N_SERVICES).map(move |i| (name(idle, i), idle));
    let services: Vec<_> = kinds.into_iter().flat_map(of_kind).collect();
    let house = House::new(Cluster::start_one(66), &services);
    let mut times = kinds.map(|_| Vec::new());
    for _ in 0..rounds {
        wait_for("all at zero", || {
            let all = house.instances();
            let is_kept = |shown: &Shown| shown.state == "Frozen";
            (all.len() == N_SERVICES && all.iter().all(is_kept)).then_some(())
        });
        // By turns, so that a busy moment of the machine is both kinds'.
        for i in 0..N_SERVICES {
            for (kind, times) in kinds.iter().zip(&mut times) {
                let service = name(kind, i);
                let begun = Instant::now();
                let answer = house.ask(&service);
                times.push(begun.elapsed());
                assert_eq!(header(&answer, "nihilo-start"), "cold");
                tells_where_its_time_went(&answer, kind);
            }
        }
    }
    let [frozen, stopped] = times;
    let (thawed, _) = told("request that thaws, client to answer", frozen);
    let (cold, _) = told("request that starts, client to answer", stopped);
    assert!(thawed < cold, "{thawed:?} {cold:?}");
}
