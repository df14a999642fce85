//! Nodes with `on-node-exit: adopt`: kill -9 of a node's process costs no instance.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::{Cluster, get, is_alive, kill, must, run, text, wait_for};
use rustix::process::{Pid, Signal, kill_process};

/// How long owners wait for a node that was lost (03-actors §10).
const RESTART_GRACE: Duration = Duration::from_secs(3);
const HOST: &str = "kept.default.localhost";

/// A cluster whose instances outlive its nodes; none outlives the test.
struct Adopting(Cluster);

impl Adopting {
    fn start(cluster: Cluster, n_nodes: usize) -> Self {
        must(cluster.stop());
        for i in 0..n_nodes {
            let file = cluster.config(i);
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(text.contains("on-node-exit: kill"), "{text}");
            let text = text.replace("on-node-exit: kill", "on-node-exit: adopt");
            std::fs::write(&file, text).unwrap();
        }
        must(cluster.start_missing());
        Self(cluster)
    }

    /// One instance, at all times.
    fn create_service(&self) {
        let args = ["service", "create", "kept", "--image", "demo/hello"];
        must(self.0.cli(&[&args[..], &["--scale", "1..1"]].concat()));
    }

    /// Its node's place, and its pid.
    fn only_instance(&self) -> (usize, i32) {
        let all = self.processes();
        let [one] = all.as_slice() else {
            panic!("{all:?}");
        };
        *one
    }

    /// Processes of instances, with the place of the node that started them.
    fn processes(&self) -> Vec<(usize, i32)> {
        let of_node = |i| {
            let marked = marked(&self.0.node_dir(i));
            marked.into_iter().map(move |pid| (i, pid))
        };
        (0..3).flat_map(of_node).collect()
    }

    fn kill_node(&self, i: usize) {
        let pid = self.0.pid(i);
        kill(pid, Signal::KILL);
        wait_for("end of the node", || (!is_alive(pid)).then_some(()));
    }

    /// Starts and ends that the agents have written down.
    fn events(&self, event: &str) -> usize {
        let of_node = |i| {
            let log = self.0.node_dir(i).join("agent/startstop.log");
            let text = std::fs::read_to_string(log).unwrap_or_default();
            text.matches(&format!("\"event\":\"{event}\"")).count()
        };
        (0..3).map(of_node).sum()
    }

    fn until_no_process_is_left(&self) {
        wait_for("host without instances", || {
            self.processes().is_empty().then_some(())
        });
    }
}

impl Drop for Adopting {
    fn drop(&mut self) {
        drop(self.0.stop());
        for (_, pid) in self.processes() {
            // Gone by itself meanwhile is as good.
            let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
        }
    }
}

/// Processes that carry the mark of this node's directory.
fn marked(node_dir: &Path) -> Vec<i32> {
    let Ok(mark) = std::fs::read_to_string(node_dir.join("agent/mark")) else {
        return Vec::new();
    };
    let mark = format!("NIHILO_MARK={}.", mark.trim());
    let is_marked = |pid: &i32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let mut entries = environment.split(|byte| *byte == 0);
        entries.any(|entry| entry.starts_with(mark.as_bytes()))
    };
    let pids = std::fs::read_dir("/proc").unwrap();
    let pids = pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(is_marked).collect()
}

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
