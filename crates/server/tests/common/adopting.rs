//! Clusters with `on-node-exit: adopt`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use super::{Cluster, is_alive, kill, must, wait_for};

/// A cluster whose instances outlive its nodes; none outlives the test.
#[derive(Debug)]
pub(crate) struct Adopting(pub(crate) Cluster);

impl Adopting {
    pub(crate) fn start(cluster: Cluster, n_nodes: usize) -> Self {
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
    pub(crate) fn create_service(&self) {
        let args = ["service", "create", "kept", "--image", "demo/hello"];
        must(self.0.cli(&[&args[..], &["--scale", "1..1"]].concat()));
    }

    /// Its node's place, and its pid.
    pub(crate) fn only_instance(&self) -> (usize, i32) {
        let all = self.processes();
        let [one] = all.as_slice() else {
            panic!("{all:?}");
        };
        *one
    }

    /// Processes of instances, with the place of the node that started them.
    pub(crate) fn processes(&self) -> Vec<(usize, i32)> {
        let of_node = |i| {
            let marked = marked(&self.0.node_dir(i));
            marked.into_iter().map(move |pid| (i, pid))
        };
        (0..3).flat_map(of_node).collect()
    }

    pub(crate) fn kill_node(&self, i: usize) {
        let pid = self.0.pid(i);
        kill(pid, Signal::KILL);
        wait_for("end of the node", || (!is_alive(pid)).then_some(()));
    }

    /// Starts and ends that the agents have written down.
    pub(crate) fn events(&self, event: &str) -> usize {
        let of_node = |i| {
            let log = self.0.node_dir(i).join("agent/startstop.log");
            let text = std::fs::read_to_string(log).unwrap_or_default();
            text.matches(&format!("\"event\":\"{event}\"")).count()
        };
        (0..3).map(of_node).sum()
    }

    pub(crate) fn until_no_process_is_left(&self) {
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
