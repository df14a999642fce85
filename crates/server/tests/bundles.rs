//! Programs that the cluster keeps itself: uploaded once to one node, served from all, collected when
//! nobody needs them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicU64, Ordering};

use nihilo_client::{Client, Push, Upload};
use nihilo_types::bundle::{Blob, BundleKind, CHUNK_BYTES, Digest, Manifest, Platform, SCHEMA};

use common::{Cluster, NIHILO, get, kill, must, run, text, wait_for};
use rustix::process::Signal;

/// A program of a user's own, which happens to hold a web server.
fn program(cluster: &Cluster) -> PathBuf {
    let path = cluster.path().join("server");
    std::fs::copy(NIHILO, &path).unwrap();
    path
}

/// `deploy` by one node alone; what follows `--` must be the last.
fn deploy(cluster: &Cluster, node: u16, args: &[&str], program: &[&str]) -> Output {
    let admin = cluster.admin(node);
    let mut all = vec!["deploy", "--server", &admin, "--wait-timeout", "60"];
    all.extend(args);
    if !program.is_empty() {
        all.push("--");
        all.extend(program);
    }
    run(&all)
}

/// Blobs that a node has whole.
fn n_blobs(node: &Path) -> usize {
    let shards = std::fs::read_dir(node.join("bundles/blobs/sha256"))
        .unwrap()
        .map(|shard| shard.unwrap().path());
    shards
        .map(|shard| std::fs::read_dir(shard).unwrap().count())
        .sum()
}

fn json(cluster: &Cluster, args: &[&str]) -> serde_json::Value {
    let output = must(cluster.cli(&[args, &["-o", "json"]].concat()));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn nodes_with_instances(cluster: &Cluster) -> BTreeSet<String> {
    let listed = json(cluster, &["instance", "list", "-A"]);
    let items = listed["items"].as_array().unwrap().iter();
    let running = items.filter(|item| item["state"] == "Ready");
    running
        .map(|item| item["node"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_program_that_was_given_to_one_node_is_served_by_all_and_freed_at_the_end() {
    let cluster = Cluster::start(60);
    let server = program(&cluster);
    let words = [server.to_str().unwrap(), "demo-app", "hello"];
    let deployed = must(deploy(&cluster, 0, &["hello", "--scale", "3..3"], &words));
    let said = text(&deployed);
    assert!(said.contains("'hello:latest' (binary, "), "{said}");
    assert!(said.contains("http://hello.default.localhost"), "{said}");

    // One of them had it given, the third one fetched it to start an instance.
    wait_for("an instance on each node", || {
        (nodes_with_instances(&cluster).len() == 3).then_some(())
    });
    let n_fetched = (0..3).filter(|i| cluster.log(*i).contains("bundle fetched"));
    assert_eq!(n_fetched.count(), 2);
    for i in 0..3 {
        assert_eq!(n_blobs(&cluster.node_dir(i)), 1, "node {i}");
    }
    for i in 0..3 {
        let answer = get(cluster.gateway(i), "hello.default.localhost").unwrap();
        assert!(answer.contains("Hello World!"), "{answer}");
    }

    // The same again, by another node: nothing travels, nothing changes.
    let again = must(deploy(&cluster, 1, &["hello", "--scale", "3..3"], &words));
    let said = text(&again);
    assert!(said.contains("nothing had to be sent"), "{said}");
    assert!(said.contains("No changes to apply"), "{said}");

    let refused = cluster.cli(&["bundle", "delete", "hello"]);
    assert_eq!(refused.status.code(), Some(4), "{}", text(&refused));
    assert!(text(&refused).contains("nihilo service delete hello"));
    must(cluster.cli(&["bundle", "gc"]));
    assert_eq!(n_blobs(&cluster.node_dir(2)), 1);

    must(cluster.cli(&["service", "delete", "hello"]));
    must(cluster.cli(&["bundle", "delete", "hello"]));
    let listed = json(&cluster, &["bundle", "list", "-A"]);
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(0));
    must(cluster.cli(&["bundle", "gc", "--dry-run"]));
    assert_eq!(n_blobs(&cluster.node_dir(0)), 1);

    // Without a quorum nobody can say that it is not needed.
    (1..3).for_each(|i| kill(cluster.pid(i), Signal::KILL));
    let unsure = cluster.cli_at(&cluster.admin(0), &["bundle", "gc"]);
    assert!(!unsure.status.success(), "{}", text(&unsure));
    assert!(text(&unsure).contains("quorum"), "{}", text(&unsure));
    assert_eq!(n_blobs(&cluster.node_dir(0)), 1);
    must(cluster.start_missing());
    // Instances that still run keep it until they have gone.
    wait_for("nodes without bundles", || {
        must(cluster.cli(&["bundle", "gc"]));
        let left: usize = (0..3).map(|i| n_blobs(&cluster.node_dir(i))).sum();
        (left == 0).then_some(())
    });
}

#[test]
fn a_directory_runs_as_its_procfile_says_and_changes_with_its_content() {
    let cluster = Cluster::start_one(61);
    let dir = cluster.path().join("app");
    std::fs::create_dir_all(dir.join("etc")).unwrap();
    std::fs::copy(NIHILO, dir.join("server")).unwrap();
    std::fs::write(dir.join("etc/who"), "there").unwrap();
    let procfile = "web: TARGET=$(cat etc/who) exec ./server demo-app hello\n";
    std::fs::write(dir.join("Procfile"), procfile).unwrap();
    let path = dir.to_str().unwrap();
    must(deploy(&cluster, 0, &["hello", path], &[]));
    let answer = get(cluster.gateway(0), "hello.default.localhost").unwrap();
    assert!(answer.contains("Hello there!"), "{answer}");

    // Another content is another revision; the older one keeps what it had.
    std::fs::write(dir.join("etc/who"), "again").unwrap();
    must(deploy(&cluster, 0, &["hello", path], &[]));
    wait_for("the new content", || {
        let answer = get(cluster.gateway(0), "hello.default.localhost").unwrap();
        answer.contains("Hello again!").then_some(())
    });
    let described = must(cluster.cli(&["bundle", "describe", "hello:latest"]));
    assert!(
        text(&described).contains("Kind:        tree"),
        "{}",
        text(&described)
    );

    // One that is not known is refused before anything is made of it.
    let unknown = cluster.cli(&["service", "create", "other", "--image", "bundle/other:v1"]);
    assert_eq!(unknown.status.code(), Some(4), "{}", text(&unknown));
    let hint = "nihilo bundle push PATH --name other:v1 -n default";
    assert!(text(&unknown).contains(hint), "{}", text(&unknown));

    // By a tag: the revision has what the tag meant when it was made.
    must(cluster.cli(&["bundle", "tag", "hello:latest", "stable"]));
    must(cluster.cli(&[
        "service",
        "create",
        "other",
        "--image",
        "bundle/hello:stable",
    ]));
    let answer = get(cluster.gateway(0), "other.default.localhost").unwrap();
    assert!(answer.contains("Hello again!"), "{answer}");
    let revisions = json(&cluster, &["revision", "list"]);
    let mut revisions = revisions["items"].as_array().unwrap().iter();
    let is_other = |revision: &&serde_json::Value| revision["metadata"]["name"] == "other-00001";
    let image = &revisions.find(is_other).unwrap()["spec"]["containers"][0]["image"];
    let image = image.as_str().unwrap();
    assert!(image.starts_with("bundle/hello@sha256:"), "{image}");
}

/// Bytes that differ from chunk to chunk; reading them breaks when it is told to.
struct Breaking {
    bytes: Vec<u8>,
    /// From here on they cannot be read.
    breaks_at: u64,
    n_read: AtomicU64,
}

impl Breaking {
    fn new(bytes: &[u8], breaks_at: u64) -> Self {
        Self {
            bytes: bytes.to_vec(),
            breaks_at,
            n_read: AtomicU64::new(0),
        }
    }
}

impl Upload for Breaking {
    fn read(&self, at: u64, n: u64) -> std::io::Result<Vec<u8>> {
        if at >= self.breaks_at {
            return Err(std::io::Error::other("the cable is out"));
        }
        self.n_read.fetch_add(n, Ordering::Relaxed);
        let range = usize::try_from(at).unwrap()..usize::try_from(at + n).unwrap();
        Ok(self.bytes[range].to_vec())
    }

    fn progress(&self, _: &str, _: u64, _: u64) {}
}

#[test]
fn an_upload_that_broke_goes_on_where_it_was_even_after_a_crash() {
    let cluster = Cluster::start_one(63);
    let n = 5 * CHUNK_BYTES + 77;
    let bytes: Vec<u8> = (0..n).map(|i| (i / 11 % 253) as u8).collect();
    let chunks = bytes.chunks(usize::try_from(CHUNK_BYTES).unwrap());
    let manifest = Manifest {
        schema: SCHEMA,
        kind: BundleKind::Binary,
        platform: Platform::linux(Platform::ANY_ARCH),
        entrypoint: Vec::new(),
        blob: Blob {
            digest: Digest::of(&bytes),
            size: n,
            chunks: chunks.map(Digest::of).collect(),
        },
        image_id: None,
    };
    let push = |upload: &Breaking| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let client = Client::connect_lazy(vec![cluster.admin(0)]).unwrap();
            let push = Push {
                namespace: "default",
                name: "half",
                tag: "v1",
                manifest: &manifest,
            };
            client.push_bundle(push, upload).await
        })
    };
    let broken = push(&Breaking::new(&bytes, 3 * CHUNK_BYTES)).unwrap_err();
    assert!(broken.to_string().contains("the cable is out"), "{broken}");
    let part = cluster.node_dir(0).join("bundles/tmp");
    let n_parts = || std::fs::read_dir(&part).unwrap().count();
    wait_for("what came of it", || (n_parts() == 1).then_some(()));

    kill(cluster.pid(0), Signal::KILL);
    must(cluster.start_missing());
    let rest = Breaking::new(&bytes, u64::MAX);
    let pushed = push(&rest).unwrap();
    assert_eq!(rest.n_read.load(Ordering::Relaxed), 2 * CHUNK_BYTES + 77);
    assert_eq!((pushed.n_sent, n_parts()), (2 * CHUNK_BYTES + 77, 0));
    assert_eq!(n_blobs(&cluster.node_dir(0)), 1);

    // One wrong byte, and the node says which chunk it is in.
    let mut other = manifest.clone();
    other.blob.chunks[1] = Digest::of(b"another");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let refused = runtime.block_on(async {
        let client = Client::connect_lazy(vec![cluster.admin(0)]).unwrap();
        must(cluster.cli(&["bundle", "delete", "half"]));
        must(cluster.cli(&["bundle", "gc"]));
        let push = Push {
            namespace: "default",
            name: "half",
            tag: "v1",
            manifest: &other,
        };
        client
            .push_bundle(push, &Breaking::new(&bytes, u64::MAX))
            .await
    });
    let refused = refused.unwrap_err();
    assert_eq!(refused.reason, "DIGEST_MISMATCH", "{refused}");
    assert!(refused.to_string().contains("chunk 1 of"), "{refused}");
}

#[test]
fn a_node_keeps_no_more_than_its_bound_and_says_so() {
    let cluster = Cluster::start_one(62);
    must(cluster.stop());
    let config = std::fs::read_to_string(cluster.config(0)).unwrap();
    let config = format!("{config}bundles:\n  max-bytes: 16777216\n");
    std::fs::write(cluster.config(0), config).unwrap();
    must(cluster.start_missing());
    let server = program(&cluster);
    let push = ["bundle", "push", server.to_str().unwrap(), "--name", "big"];
    let full = cluster.cli(&push);
    assert_eq!(full.status.code(), Some(9), "{}", text(&full));
    let said = text(&full);
    assert!(said.contains("of 16777216 bytes"), "{said}");
    assert!(said.contains("raise `bundles: max-bytes`"), "{said}");
    assert_eq!(n_blobs(&cluster.node_dir(0)), 0);
}
