//! Container images from one node's engine to the others', without a registry.
//!
//! Where no Docker engine answers, a test says so and ends.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/engine.rs"]
mod engine;
#[path = "common/second_engine.rs"]
mod second_engine;

use std::collections::BTreeSet;
use std::process::Command;

use common::{Cluster, get, kill, must, text, wait_for, wait_up_to};
use engine::{TestImage, docker};
use nihilo_client::{Client, Push, Upload};
use nihilo_types::bundle::{Blob, BundleKind, CHUNK_BYTES, Digest, Manifest, Platform, SCHEMA};
use rustix::process::Signal;
use second_engine::SecondEngine;

/// An image of the binary is saved, copied and loaded by each node.
const LONG: std::time::Duration = std::time::Duration::from_secs(120);

fn create<'a>(name: &'a str, image: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let args = ["--arg", "demo-app", "--arg", "hello"];
    let mut all = vec!["service", "create", name, "--image", image];
    all.extend(args);
    all.extend(more);
    all
}

fn json(cluster: &Cluster, args: &[&str]) -> serde_json::Value {
    let output = must(cluster.cli(&[args, &["-o", "json"]].concat()));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Image of a service's first revision.
fn pinned(cluster: &Cluster, service: &str) -> String {
    let revisions = json(cluster, &["revision", "list"]);
    let wanted = format!("{service}-00001");
    let mut all = revisions["items"].as_array().unwrap().iter();
    let revision = all.find(|one| one["metadata"]["name"] == wanted.as_str());
    let image = &revision.unwrap()["spec"]["containers"][0]["image"];
    image.as_str().unwrap().to_owned()
}

fn ready_nodes(cluster: &Cluster) -> BTreeSet<String> {
    let listed = json(cluster, &["instance", "list", "-A"]);
    let items = listed["items"].as_array().unwrap().iter();
    let ready = items.filter(|item| item["state"] == "Ready");
    ready
        .map(|item| item["node"].as_str().unwrap().to_owned())
        .collect()
}

/// Blobs that a node has whole.
fn n_blobs(cluster: &Cluster, node: usize) -> usize {
    let dir = cluster.node_dir(node).join("bundles/blobs/sha256");
    let shards = std::fs::read_dir(dir).unwrap();
    shards
        .map(|shard| std::fs::read_dir(shard.unwrap().path()).unwrap().count())
        .sum()
}

fn image_id(image: &TestImage) -> String {
    let format = "{{.Id}}";
    let shown = docker(&["image", "inspect", "--format", format, image.name()]);
    shown.unwrap().trim().to_owned()
}

#[test]
fn an_image_of_one_engine_runs_on_nodes_of_another() {
    let Some(image) = TestImage::make("shared") else {
        return;
    };
    let Some(second) = SecondEngine::start() else {
        return;
    };
    let cluster = two_engines(64, &second);
    let name = image.name();

    // A node whose engine lacks it says who has it.
    let elsewhere = cluster.cli_at(&cluster.admin(1), &["image", "push", name]);
    assert_eq!(elsewhere.status.code(), Some(4), "{}", text(&elsewhere));
    let hint = format!(
        "nihilo image push {name} -n default --server {}",
        cluster.admin(0)
    );
    assert!(text(&elsewhere).contains(&hint), "{}", text(&elsewhere));
    let nowhere = cluster.cli(&["image", "push", "no/such:v1"]);
    assert_eq!(nowhere.status.code(), Some(4), "{}", text(&nowhere));
    for wanted in ["node1", "node2", "node3", "no such image", "docker load"] {
        assert!(
            text(&nowhere).contains(wanted),
            "{wanted}: {}",
            text(&nowhere)
        );
    }

    // Whichever server is asked first, the one that has it is found.
    let pushed = must(cluster.cli(&["image", "push", name]));
    let said = text(&pushed);
    assert!(
        said.contains("bundle/image/nihilo-test-shared@sha256:"),
        "{said}"
    );
    let listed = json(&cluster, &["image", "list"]);
    let item = &listed["items"][0];
    assert_eq!(item["image"], "nihilo-test-shared", "{listed}");
    assert_eq!(item["manifest"]["imageId"], image_id(&image).as_str());
    assert_eq!(item["nodes"].as_array().map(Vec::len), Some(2), "{listed}");
    assert_eq!(item["nodes"][0], "node1", "{listed}");

    // Named as ever, on every node, none of which may ask a registry.
    let more = ["--scale", "3..3", "--pull-policy", "Never"];
    must(cluster.cli(&create("boxed", name, &more)));
    assert!(pinned(&cluster, "boxed").starts_with("bundle/image/nihilo-test-shared@sha256:"));
    wait_up_to(LONG, "an instance on each node", || {
        (ready_nodes(&cluster).len() == 3).then_some(())
    });
    for i in 0..3 {
        let answer = get(cluster.gateway(i), "boxed.default.localhost").unwrap();
        assert!(answer.contains("Hello World!"), "{answer}");
    }
    let loaded = second.docker(&["images", "--no-trunc", "--quiet"]).unwrap();
    assert!(loaded.lines().all(|id| id == image_id(&image)), "{loaded}");
    // By one node of the two, which both use the engine, or by both at once.
    let n_loaded = (1..3).filter(|i| cluster.log(*i).contains("image loaded"));
    assert!(n_loaded.count() >= 1);
    assert_eq!(
        second.docker(&["ps", "--quiet"]).unwrap().lines().count(),
        2
    );

    // The same again changes nothing.
    let again = must(cluster.cli_at(&cluster.admin(0), &["image", "push", name]));
    assert!(text(&again).contains("known before"), "{}", text(&again));
    assert_eq!(n_blobs(&cluster, 0), 1);

    // Kept while a revision runs it; gone from disks and from the second engine afterwards.
    let kept = cluster.cli(&["bundle", "delete", "image/nihilo-test-shared"]);
    assert!(
        text(&kept).contains("nihilo service delete boxed"),
        "{}",
        text(&kept)
    );
    must(cluster.cli(&["service", "delete", "boxed"]));
    must(cluster.cli(&["bundle", "delete", "image/nihilo-test-shared"]));
    wait_up_to(LONG, "nodes without the archive and its image", || {
        must(cluster.cli(&["bundle", "gc"]));
        let n_left: usize = (0..3).map(|i| n_blobs(&cluster, i)).sum();
        let images = second.docker(&["images", "--all", "--quiet"]).unwrap();
        (n_left == 0 && images.is_empty()).then_some(())
    });
    // What the first engine had before is its own.
    assert!(docker(&["image", "inspect", name]).is_ok());
}

/// A cluster whose first node has the host's engine, and the others the second one.
fn two_engines(slot: u16, second: &SecondEngine) -> Cluster {
    let cluster = Cluster::start(slot);
    must(cluster.stop());
    configure(&cluster, second, "");
    must(cluster.start_missing());
    cluster
}

/// Writes what the nodes are to know of their engines: `more` on each, where there is any.
fn configure(cluster: &Cluster, second: &SecondEngine, more: &str) {
    for i in 0..3 {
        let config = std::fs::read_to_string(cluster.config(i)).unwrap();
        let without = config.split("docker:\n").next().unwrap();
        let docker = match (i, more) {
            (0, "") => String::new(),
            (0, more) => format!("docker:\n{more}"),
            (_, more) => second.settings() + more,
        };
        std::fs::write(cluster.config(i), format!("{without}{docker}")).unwrap();
    }
}

/// Has every node follow what was written since.
fn follow(cluster: &Cluster) {
    for i in 0..3 {
        let said_before = cluster.log(i).len();
        kill(cluster.pid(i), Signal::HUP);
        wait_for("a node that has read its configuration again", || {
            let log = cluster.log(i);
            let said = log.get(said_before..)?;
            said.contains("\"docker.share-images\"").then_some(())
        });
    }
}

#[test]
fn a_service_brings_the_image_of_one_engine_to_the_others_unless_that_is_off() {
    let Some(image) = TestImage::make("unasked") else {
        return;
    };
    let Some(second) = SecondEngine::start() else {
        return;
    };
    let cluster = two_engines(50, &second);
    let name = image.name();
    let never = ["--pull-policy", "Never"];
    let pushed = || json(&cluster, &["image", "list"])["items"].clone();
    let n_pushed = || pushed().as_array().map_or(0, Vec::len);

    // Off: it is the node's own, and runs there, wherever it was tried first.
    configure(&cluster, &second, "  share-images: false\n");
    follow(&cluster);
    let waits_for_nothing = [&never[..], &["--scale", "1..1", "--no-wait"]].concat();
    must(cluster.cli(&create("own", name, &waits_for_nothing)));
    assert_eq!(pinned(&cluster, "own"), name);
    wait_up_to(LONG, "an instance where its image is", || {
        ready_nodes(&cluster).contains("node1").then_some(())
    });
    assert_eq!(n_pushed(), 0);
    must(cluster.cli(&["service", "delete", "own"]));

    // On, which it is by itself, and told to a node whose engine never had it.
    configure(&cluster, &second, "");
    follow(&cluster);
    let on_each = [&never[..], &["--scale", "3..3"]].concat();
    let created = must(cluster.cli_at(&cluster.admin(1), &create("boxed", name, &on_each)));
    let said = text(&created);
    for wanted in [
        "is not on every node: node1 gives it",
        "is kept by node1, node",
    ] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    let first = pinned(&cluster, "boxed");
    assert!(
        first.starts_with("bundle/image/nihilo-test-unasked@sha256:"),
        "{first}"
    );
    wait_up_to(LONG, "an instance on each node", || {
        (ready_nodes(&cluster).len() == 3).then_some(())
    });
    for i in 0..3 {
        let answer = get(cluster.gateway(i), "boxed.default.localhost").unwrap();
        assert!(answer.contains("Hello World!"), "{answer}");
    }

    // Known by now: nothing is said of it, and nothing pushed.
    let update = ["service", "update", "boxed", "--env", "TARGET=again"];
    let updated = text(&must(cluster.cli(&update)));
    assert!(!updated.contains("Image '"), "{updated}");
    assert_eq!(n_pushed(), 1);

    // Another image of the name elsewhere: what was pushed counts, and the write is not held up.
    let empty = cluster.path().join("empty.tar");
    std::fs::write(&empty, [0; 1_024]).unwrap();
    let other = ["import", empty.to_str().unwrap(), name];
    second.docker(&other).unwrap();
    let update = ["service", "update", "boxed", "--env", "TARGET=more"];
    let warned = text(&must(cluster.cli(&update)));
    for wanted in [
        "warning: image",
        "different images",
        "which was pushed, counts",
    ] {
        assert!(warned.contains(wanted), "{wanted}: {warned}");
    }
    assert_eq!(n_pushed(), 1);
    assert_eq!(
        pushed()[0]["manifest"]["imageId"],
        image_id(&image).as_str()
    );
}

#[test]
fn an_image_that_its_engine_has_lost_comes_back_from_the_archive() {
    let Some(image) = TestImage::make("lost") else {
        return;
    };
    let cluster = Cluster::start_one(65);
    must(cluster.cli(&["image", "push", image.name()]));
    let id = image_id(&image);
    must_docker(&["image", "rm", "--force", image.name()]);
    assert!(docker(&["image", "inspect", &id]).is_err());
    must(cluster.cli(&create("boxed", image.name(), &[])));
    let answer = get(cluster.gateway(0), "boxed.default.localhost").unwrap();
    assert!(answer.contains("Hello World!"), "{answer}");
    assert!(docker(&["image", "inspect", &id]).is_ok());
    must(cluster.cli(&["service", "delete", "boxed"]));
    must(cluster.cli(&["bundle", "delete", "image/nihilo-test-lost"]));
    wait_for("an engine without the image", || {
        must(cluster.cli(&["bundle", "gc"]));
        docker(&["image", "inspect", &id]).err()
    });
}

fn must_docker(args: &[&str]) {
    docker(args).unwrap();
}

struct Bytes(Vec<u8>);

impl Upload for Bytes {
    fn read(&self, at: u64, n: u64) -> std::io::Result<Vec<u8>> {
        let range = usize::try_from(at).unwrap()..usize::try_from(at + n).unwrap();
        Ok(self.0[range].to_vec())
    }

    fn progress(&self, _: &str, _: u64, _: u64) {}
}

/// Pushes what somebody calls an archive of an image.
fn push(cluster: &Cluster, name: &str, archive: Vec<u8>, image_id: Digest) {
    let chunks = archive.chunks(usize::try_from(CHUNK_BYTES).unwrap());
    let manifest = Manifest {
        schema: SCHEMA,
        kind: BundleKind::DockerArchive,
        platform: Platform::linux(Platform::ANY_ARCH),
        entrypoint: Vec::new(),
        blob: Blob {
            digest: Digest::of(&archive),
            size: archive.len() as u64,
            chunks: chunks.map(Digest::of).collect(),
        },
        image_id: Some(image_id),
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let pushed = runtime.block_on(async {
        let client = Client::connect_lazy(vec![cluster.admin(0)]).unwrap();
        let push = Push {
            namespace: "default",
            name,
            tag: "v1",
            manifest: &manifest,
        };
        client.push_bundle(push, &Bytes(archive)).await
    });
    pushed.unwrap();
}

fn saved(what: &str) -> Vec<u8> {
    let output = Command::new("docker")
        .args(["save", what])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    output.stdout
}

#[test]
fn an_archive_that_is_another_image_or_takes_a_name_runs_nowhere() {
    let Some(image) = TestImage::make("wrong") else {
        return;
    };
    let cluster = Cluster::start_one(66);
    let id = image_id(&image);
    let (by_id, by_name) = (saved(&id), saved(image.name()));
    must_docker(&["image", "rm", "--force", image.name()]);

    push(&cluster, "image/other", by_id, Digest::of(b"another image"));
    let refused = cluster.cli(&create("other", "bundle/image/other:v1", &[]));
    assert!(!refused.status.success(), "{}", text(&refused));
    let shown = text(&must(cluster.cli(&["revision", "list", "-o", "json"])));
    for wanted in ["ImageIdMismatch", &id] {
        assert!(shown.contains(wanted), "{wanted} in {shown}");
    }
    // It is tried again from time to time, and removed each time.
    wait_for("an engine without what was loaded", || {
        docker(&["image", "inspect", &id]).err()
    });

    push(
        &cluster,
        "image/named",
        by_name,
        Digest::of(b"never loaded"),
    );
    let refused = cluster.cli(&create("named", "bundle/image/named:v1", &[]));
    assert!(!refused.status.success(), "{}", text(&refused));
    let shown = text(&must(cluster.cli(&["revision", "list", "-o", "json"])));
    assert!(shown.contains("would give the name"), "{shown}");
    assert!(docker(&["image", "inspect", image.name()]).is_err());
}
