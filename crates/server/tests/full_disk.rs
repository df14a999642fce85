//! A disk that fills up: first no new writes are led from it, then its store fails, and the node
//! never acknowledges again; the others go on, and nothing acknowledged is lost.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::{Cluster, get, kill, must, text, wait_for, wait_up_to};
use rustix::process::Signal;

/// Room of the disk: more than a node refuses to lead with, so that both steps are seen.
const DISK_MIB: u64 = 420;
const MIB: u64 = 1024 * 1024;
/// Some eighty writes of a mebibyte, each by a command of its own.
const FILLING_LIMIT: Duration = Duration::from_secs(120);

/// A small disk of its own; unmounted when dropped.
struct Disk(PathBuf);

impl Disk {
    /// `None` where mounting is not permitted.
    fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let size = format!("size={DISK_MIB}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(at)
            .output();
        mounted
            .is_ok_and(|output| output.status.success())
            .then(|| Self(at.into()))
    }

    fn free(&self) -> u64 {
        let disk = rustix::fs::statvfs(&self.0).unwrap();
        disk.f_bavail * disk.f_frsize
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Leaves `left` bytes free.
    fn fill_to(&self, left: u64) {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.ballast())
            .unwrap();
        let now = file.metadata().unwrap().len();
        let more = self.free().saturating_sub(left);
        let flags = rustix::fs::FallocateFlags::empty();
        rustix::fs::fallocate(&file, flags, now, more).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).output());
    }
}

fn role(cluster: &Cluster, name: &str) -> (String, String) {
    let status = cluster.status_at(&cluster.servers());
    let nodes = status["nodes"].as_array().unwrap();
    let node = nodes.iter().find(|node| node["name"] == name).unwrap();
    let word = |key: &str| node[key].as_str().unwrap().to_owned();
    (word("role"), word("store"))
}

/// A manifest near the size of the largest command; its app cannot start, and need not.
fn large_service(cluster: &Cluster, n: u64) -> String {
    let file = cluster.path().join("large.yaml");
    let value = "x".repeat(900_000);
    let manifest = format!(
        "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata:\n  name: write-{n}\nspec:\n  \
         template:\n    spec:\n      containers:\n        - image: demo/hello\n          env:\n            \
         - name: LARGE\n              value: {value}\n"
    );
    std::fs::write(&file, manifest).unwrap();
    file.to_str().unwrap().into()
}

#[test]
fn a_full_disk_takes_one_store_and_no_acknowledged_write() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mount(&dir.path().join("node2")) else {
        eprintln!("skipped: mounting a tmpfs needs root");
        return;
    };
    let cluster = Cluster::start_in(dir, 6);
    must(cluster.cli(&["service", "create", "first", "--image", "demo/hello"]));
    must(cluster.cli(&["cluster", "transfer-leader", "node2"]));
    wait_for("leadership of node2", || {
        (role(&cluster, "node2").0 == "leader").then_some(())
    });

    // Low: another node leads, and writes go on.
    disk.fill_to(100 * MIB);
    wait_for("another leader", || {
        (role(&cluster, "node2").0 == "follower").then_some(())
    });
    must(cluster.cli(&["service", "create", "second", "--image", "demo/hello"]));
    // Made to lead all the same, it says why it takes no writes.
    let refused = wait_for("refusal for want of space", || {
        must(cluster.cli(&["cluster", "transfer-leader", "node2"]));
        let update = cluster.cli(&["service", "update", "first", "--env", "A=1"]);
        (!update.status.success()).then_some(update)
    });
    assert_eq!(refused.status.code(), Some(9), "{}", text(&refused));
    assert!(
        text(&refused).contains("disk-low: node 2 leads"),
        "{}",
        text(&refused)
    );

    // Full: the space that it had set aside is used up, then its store fails.
    disk.fill_to(0);
    let mut n_written = 0;
    let (_, cause) = wait_up_to(FILLING_LIMIT, "failed store of node2", || {
        let file = large_service(&cluster, n_written);
        let written = cluster.cli(&["apply", "-f", &file, "--no-wait"]);
        if written.status.success() {
            n_written += 1;
        } else {
            // It was elected: anybody may be.
            assert!(text(&written).contains("disk-low"), "{}", text(&written));
            drop(cluster.cli(&["cluster", "transfer-leader", "node1"]));
        }
        let now = role(&cluster, "node2");
        (now.0 == "store-failed").then_some(now)
    });
    assert!(cause.to_lowercase().contains("no space"), "{cause}");
    let pid = cluster.pid(1);
    assert!(common::is_alive(pid), "the node's traffic must go on");

    // It says so everywhere: its log, the status of every node, its own answers.
    let shown = must(cluster.cli(&["cluster", "status"]));
    assert!(
        text(&shown).contains("the store of node2 has failed"),
        "{}",
        text(&shown)
    );
    assert!(
        text(&shown).contains(&format!("stop node2 (process {pid})")),
        "{}",
        text(&shown)
    );
    let own = must(cluster.cli_at(&cluster.admin(1), &["cluster", "status", "-o", "json"]));
    assert!(text(&own).contains("store-failed"), "{}", text(&own));
    let asked = cluster.cli_at(&cluster.admin(1), &["service", "list"]);
    assert!(
        !asked.status.success() && text(&asked).contains("store"),
        "{}",
        text(&asked)
    );

    // The two others go on, and its own gateway does.
    must(cluster.cli(&["service", "update", "first", "--env", "TARGET=survivors"]));
    let answer = get(cluster.gateway(0), "first.default.localhost").unwrap();
    assert!(answer.contains("Hello survivors!"), "{answer}");
    let through = get(cluster.gateway(1), "second.default.localhost").unwrap();
    assert!(through.starts_with("HTTP/1.1 200"), "{through}");
    // Once failed, always failed: space alone does not make it vote again.
    std::fs::remove_file(disk.ballast()).unwrap();
    assert_eq!(role(&cluster, "node2").0, "store-failed");

    // A restart with space brings it back, with everything.
    kill(pid, Signal::TERM);
    wait_for("end of node2", || (!common::is_alive(pid)).then_some(()));
    must(cluster.start_missing());
    wait_for("node2 as a follower", || {
        (role(&cluster, "node2").1 == "ok").then_some(())
    });
    let listed = must(cluster.cli_at(&cluster.admin(1), &["service", "list", "-o", "name"]));
    for name in ["first", "second"] {
        assert!(
            text(&listed).contains(&format!("/{name}")),
            "{}",
            text(&listed)
        );
    }
    for n in 0..n_written {
        assert!(
            text(&listed).contains(&format!("/write-{n}")),
            "{}",
            text(&listed)
        );
    }
    // Before the disk goes, nobody may use it.
    drop(cluster.stop());
    drop(disk);
}
