//! A disk that fills up while a bundle comes: an upload, and a fetch. What is refused says why, nothing is
//! taken for whole, and it goes on where it was once there is room.
//!
//! Needs a file system of its own, so root; without it the tests say so and end.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{Cluster, get, must, text, wait_for};
use nihilo_client::{Client, Error, Push, Pushed, Upload};
use nihilo_types::bundle::{Blob, BundleKind, CHUNK_BYTES, Digest, Manifest, Platform, SCHEMA};

const MIB: u64 = 1024 * 1024;
/// Of a disk; its file takes no more room than what is written to it.
const DISK: u64 = 128 * MIB;
/// Of what is pushed.
const CONTENT: u64 = 40 * MIB;

/// A small ext4 of its own for one node's bundles; unmounted when dropped.
struct Disk {
    at: PathBuf,
    file: PathBuf,
}

impl Disk {
    /// `None`, with a printed reason, where none can be mounted.
    fn mount(dir: &Path, node: &str) -> Option<Self> {
        let at = dir.join(node).join("bundles");
        std::fs::create_dir_all(&at).unwrap();
        let file = dir.join(format!("{node}.ext4"));
        std::fs::File::create(&file).unwrap().set_len(DISK).unwrap();
        let made = Command::new("mkfs.ext4")
            .args(["-q", "-F", "-m", "0"])
            .arg(&file)
            .output();
        let is_made = made.is_ok_and(|output| output.status.success());
        let mounted = Command::new("mount")
            .args(["-o", "loop"])
            .args([&file, &at])
            .output();
        if !is_made || !mounted.is_ok_and(|output| output.status.success()) {
            eprintln!(
                "skipped: making and mounting an ext4 needs root, mkfs.ext4 and loop devices"
            );
            return None;
        }
        Some(Self { at, file })
    }

    fn ballast(&self) -> PathBuf {
        self.at.join("ballast")
    }

    /// Leaves about `left` bytes free.
    fn fill_to(&self, left: u64) {
        let disk = rustix::fs::statvfs(&self.at).unwrap();
        let n_bytes = (disk.f_bavail * disk.f_frsize).saturating_sub(left);
        let file = std::fs::File::create(self.ballast()).unwrap();
        let flags = rustix::fs::FallocateFlags::empty();
        rustix::fs::fallocate(&file, flags, 0, n_bytes).unwrap();
    }

    fn make_room(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }

    /// Files below a directory of the store, by their names.
    fn files(&self, below: &str) -> Vec<String> {
        let (mut found, mut dirs) = (Vec::new(), vec![self.at.join(below)]);
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let entry = entry.unwrap();
                match entry.file_type().unwrap().is_dir() {
                    true => dirs.push(entry.path()),
                    false => found.push(entry.file_name().into_string().unwrap()),
                }
            }
        }
        found
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.at).output());
        drop(std::fs::remove_file(&self.file));
    }
}

struct Content {
    bytes: Vec<u8>,
    n_read: AtomicU64,
}

impl Upload for Content {
    fn read(&self, at: u64, n: u64) -> std::io::Result<Vec<u8>> {
        self.n_read.fetch_add(n, Ordering::Relaxed);
        let range = usize::try_from(at).unwrap()..usize::try_from(at + n).unwrap();
        Ok(self.bytes[range].to_vec())
    }

    fn progress(&self, _: &str, _: u64, _: u64) {}
}

/// Bytes that no disk stores as holes.
fn content() -> Vec<u8> {
    (0..CONTENT)
        .map(|i| (i / 11 % 251) as u8 ^ (i / MIB) as u8)
        .collect()
}

fn push(cluster: &Cluster, content: &Content) -> Result<Pushed, Error> {
    let chunks = content.bytes.chunks(usize::try_from(CHUNK_BYTES).unwrap());
    let manifest = Manifest {
        schema: SCHEMA,
        kind: BundleKind::Binary,
        platform: Platform::linux(Platform::ANY_ARCH),
        entrypoint: Vec::new(),
        blob: Blob {
            digest: Digest::of(&content.bytes),
            size: content.bytes.len() as u64,
            chunks: chunks.map(Digest::of).collect(),
        },
        image_id: None,
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = Client::connect_lazy(vec![cluster.admin(0)]).unwrap();
        let push = Push {
            namespace: "default",
            name: "large",
            tag: "v1",
            manifest: &manifest,
        };
        client.push_bundle(push, content).await
    })
}

#[test]
fn an_upload_to_a_full_disk_says_so_and_goes_on_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mount(dir.path(), "node1") else {
        return;
    };
    let cluster = Cluster::start_one_in(dir, 70);
    disk.fill_to(20 * MIB);
    let content = Content {
        bytes: content(),
        n_read: AtomicU64::new(0),
    };
    let full = push(&cluster, &content).unwrap_err();
    assert_eq!(full.reason, "DISK_FULL", "{full}");
    assert_eq!(full.exit_code(), 9, "{full}");
    assert!(full.to_string().contains("make room on it"), "{full}");
    assert!(disk.files("blobs").is_empty() && disk.files("manifests").is_empty());
    assert_eq!(disk.files("tmp").len(), 1, "what came is kept");
    let listed = must(cluster.cli(&["bundle", "list", "-o", "json"]));
    assert!(!text(&listed).contains("large"), "{}", text(&listed));

    disk.make_room();
    content.n_read.store(0, Ordering::Relaxed);
    let pushed = push(&cluster, &content).unwrap();
    assert!(pushed.n_sent > 0 && pushed.n_sent < CONTENT, "{pushed:?}");
    assert_eq!(disk.files("blobs").len(), 1);
    assert!(disk.files("tmp").is_empty());
    // Before the disk goes, nobody may use it.
    drop(cluster.stop());
    drop(disk);
}

#[test]
fn a_fetch_to_a_full_disk_says_so_and_its_instance_starts_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mount(dir.path(), "node3") else {
        return;
    };
    let cluster = Cluster::start_in(dir, 71);
    disk.fill_to(10 * MIB);
    // Some weight, and a program that is everywhere.
    let app = cluster.path().join("app");
    std::fs::create_dir_all(&app).unwrap();
    std::fs::write(app.join("weight"), content()).unwrap();
    let procfile = format!("web: {} demo-app hello\n", common::NIHILO);
    std::fs::write(app.join("Procfile"), procfile).unwrap();
    let path = app.to_str().unwrap();
    let push = ["bundle", "push", path, "--name", "heavy:v1"];
    // The second copy goes where there is room.
    let pushed = must(cluster.cli_at(&cluster.admin(0), &push));
    assert!(
        text(&pushed).contains("on node1, node2"),
        "{}",
        text(&pushed)
    );

    // Nowhere else.
    for node in ["node1", "node2"] {
        must(cluster.cli(&["node", "cordon", node]));
    }
    let image = "bundle/heavy:v1";
    must(cluster.cli(&[
        "service",
        "create",
        "heavy",
        "--image",
        image,
        "--scale",
        "1..1",
        "--no-wait",
    ]));
    let why = "the disk of this node's bundles is full";
    wait_for("the reason on the third node", || {
        let listed = must(cluster.cli(&["instance", "list", "-A", "-o", "json"]));
        let said = text(&listed) + &cluster.log(2);
        let revisions = must(cluster.cli(&["revision", "list", "-o", "json"]));
        (said + &text(&revisions)).contains(why).then_some(())
    });
    assert!(disk.files("blobs").is_empty() && disk.files("manifests").is_empty());

    // It is started again by itself, after a pause that grows.
    disk.make_room();
    common::wait_up_to(common::LIMIT * 4, "an instance on the third node", || {
        let listed = must(cluster.cli(&["instance", "list", "-A", "-o", "json"]));
        let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
        let mut items = listed["items"].as_array().unwrap().iter();
        let is_there =
            |item: &serde_json::Value| item["node"] == "node3" && item["state"] == "Ready";
        items.any(is_there).then_some(())
    });
    assert_eq!(disk.files("blobs").len(), 1);
    let answer = wait_for("an answer", || {
        let answer = get(cluster.gateway(2), "heavy.default.localhost").unwrap();
        answer.starts_with("HTTP/1.1 200").then_some(answer)
    });
    assert!(answer.contains("Hello World!"), "{answer}");
    drop(cluster.stop());
    drop(disk);
}
