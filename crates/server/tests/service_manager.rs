//! A node and the service manager that started it: what it is told, and when.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::adopting::Adopting;
use common::{Cluster, LIMIT, NIHILO, get, kill, must, wait_for};
use rustix::process::Signal;

/// Of a watchdog that is fed three times as often.
const WATCHDOG: Duration = Duration::from_millis(600);

/// Takes the place of systemd.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Manager {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        Self {
            socket,
            path,
            _dir: dir,
        }
    }

    /// Starts the first node of a cluster that is stopped.
    fn start(&self, cluster: &Cluster) -> Child {
        let log = std::fs::File::create(cluster.node_dir(0).join("node.log")).unwrap();
        Command::new(NIHILO)
            .args(["node", "start", "--config"])
            .arg(cluster.config(0))
            .env("NOTIFY_SOCKET", &self.path)
            .env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string())
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// The next words.
    fn hears(&self) -> String {
        let mut words = [0; 4096];
        let n = self.socket.recv(&mut words).unwrap();
        String::from_utf8_lossy(&words[..n]).into_owned()
    }

    /// Words until some of them hold `piece`, those included.
    fn hears_until(&self, piece: &str) -> Vec<String> {
        let mut all = Vec::new();
        let deadline = Instant::now() + LIMIT;
        while !all.iter().any(|words: &String| words.contains(piece)) {
            assert!(Instant::now() < deadline, "no `{piece}` in {all:?}");
            all.push(self.hears());
        }
        all
    }
}

#[test]
fn a_node_tells_when_it_serves_how_it_is_and_when_it_goes() {
    let cluster = Cluster::start(55);
    must(cluster.stop());
    let manager = Manager::new();
    let mut node = manager.start(&cluster);

    // Without the others it has no quorum, and serves what it has.
    let before = manager.hears_until("READY=1");
    assert!(before[0].starts_with("STATUS=waiting"), "{before:?}");
    assert!(before.last().unwrap().contains("no leader"), "{before:?}");
    let answer = get(cluster.gateway(0), "nobody.default.localhost").unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");

    let asked = Instant::now();
    let n_meals = 9;
    for _ in 0..n_meals {
        manager.hears_until("WATCHDOG=1");
    }
    // Nine meals are three periods; twice that is a busy machine's.
    let took = asked.elapsed();
    assert!(took < WATCHDOG * n_meals * 2 / 3, "{took:?}");

    must(cluster.start_missing());
    manager.hears_until("STATUS=serving; ");

    kill(i32::try_from(node.id()).unwrap(), Signal::TERM);
    manager.hears_until("STOPPING=1\nSTATUS=draining");
    let ended = wait_for("end of the node", || node.try_wait().unwrap());
    assert!(ended.success(), "{ended}");
}

#[test]
fn a_restart_in_place_is_told_and_the_watchdog_waits_for_it() {
    let nodes = Adopting::start(Cluster::start_one(56), 1);
    must(nodes.0.stop());
    let manager = Manager::new();
    let mut node = manager.start(&nodes.0);
    manager.hears_until("READY=1");
    let pid = i32::try_from(node.id()).unwrap();
    kill(pid, Signal::USR2);
    let told = manager.hears_until("RELOADING=1");
    let last = told.last().unwrap();
    assert!(last.contains("MONOTONIC_USEC="), "{last}");
    assert!(last.contains("WATCHDOG_USEC=600000000"), "{last}");
    let ready = manager.hears_until("READY=1");
    let as_before = format!("WATCHDOG_USEC={}", WATCHDOG.as_micros());
    assert!(ready.last().unwrap().contains(&as_before), "{ready:?}");
    manager.hears_until("WATCHDOG=1");
    // The same process, for whoever started it.
    assert_eq!(node.try_wait().unwrap(), None);
    kill(pid, Signal::TERM);
    manager.hears_until("STOPPING=1");
    let ended = wait_for("end of the node", || node.try_wait().unwrap());
    assert!(ended.success(), "{ended}");
}
