//! What people get wrong: each mistake is told with what, where, why and the next step, and
//! nothing that was stored is lost by it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use common::{Cluster, NIHILO, get, must, run, text};

/// Exit codes of the command line.
const USAGE: i32 = 2;
const NOT_FOUND: i32 = 3;
const NOT_READY: i32 = 6;
const UNREACHABLE: i32 = 7;
const STORE_REFUSED: i32 = 65;

/// A failed command, and every piece that its text must hold.
fn fails(output: &Output, code: i32, pieces: &[&str]) {
    let shown = text(output);
    assert_eq!(output.status.code(), Some(code), "{shown}");
    for piece in pieces {
        assert!(shown.contains(piece), "`{piece}` in {shown}");
    }
}

fn start(config: &Path) -> Output {
    run(&["node", "start", "--config", config.to_str().unwrap()])
}

#[test]
fn mistakes_in_services_are_told_with_their_evidence() {
    let cluster = Cluster::start(1);
    must(cluster.cli(&["service", "create", "good", "--image", "demo/hello"]));

    invalid_names(&cluster);
    misspelt_and_oversized_manifests(&cluster);
    missing_programs(&cluster);
    a_crashing_app(&cluster);
    an_app_that_is_never_ready(&cluster);

    let missing = cluster.cli(&["service", "describe", "nobody"]);
    fails(&missing, NOT_FOUND, &["nobody", "nihilo service list"]);
    let answer = get(cluster.gateway(1), "good.default.localhost").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

fn invalid_names(cluster: &Cluster) {
    let long = "a".repeat(64);
    let names = [
        "Hello",
        "1hello",
        "hello_1",
        "hello-",
        "hello.world",
        "héllo",
        "hello world",
        "",
        &long,
    ];
    for name in names {
        let output = cluster.cli(&["service", "create", name, "--image", "demo/hello"]);
        fails(&output, USAGE, &["metadata.name"]);
    }
    let leading = cluster.cli(&["service", "create", "--image", "demo/hello", "--", "-hello"]);
    assert_ne!(leading.status.code(), Some(0), "{}", text(&leading));
    let revision = cluster.cli(&[
        "service",
        "update",
        "good",
        "--env",
        "A=1",
        "--revision-name",
        "other-1",
    ]);
    fails(&revision, USAGE, &["must have prefix \"good-\""]);
    let namespace = cluster.cli(&[
        "service",
        "create",
        "hello",
        "--image",
        "demo/hello",
        "--namespace",
        "Not_Good",
    ]);
    fails(&namespace, USAGE, &["metadata.namespace"]);
    let reserved = cluster.cli(&[
        "service",
        "create",
        "hello",
        "--image",
        "demo/hello",
        "--env",
        "PORT=80",
    ]);
    fails(
        &reserved,
        USAGE,
        &["\"PORT\" is a reserved environment variable"],
    );
    let listed = must(cluster.cli(&["service", "list", "-A", "-o", "name"]));
    assert_eq!(
        String::from_utf8_lossy(&listed.stdout).trim(),
        "service.serving.knative.dev/good"
    );
}

fn misspelt_and_oversized_manifests(cluster: &Cluster) {
    let manifest = cluster.path().join("service.yaml");
    let file = manifest.to_str().unwrap();
    let head = "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata:\n  name: typo\nspec:\n  \
                template:\n    spec:\n";
    let container = "      containers:\n        - image: demo/hello\n";
    std::fs::write(
        &manifest,
        format!("{head}      containerConcurency: 1\n{container}"),
    )
    .unwrap();
    let typo = cluster.cli(&["apply", "-f", file]);
    fails(
        &typo,
        USAGE,
        &["service.yaml", "did you mean `containerConcurrency`?"],
    );

    // Fits a manifest, and not a command.
    let value = "x".repeat(2 * 1024 * 1024);
    let env = format!("          env:\n            - name: BIG\n              value: {value}\n");
    std::fs::write(&manifest, format!("{head}{container}{env}")).unwrap();
    let large = cluster.cli(&["apply", "-f", file]);
    fails(&large, USAGE, &["bytes, at most 1048576 are possible"]);
    // Fits neither.
    std::fs::write(&manifest, "#".repeat(5 * 1024 * 1024)).unwrap();
    let huge = cluster.cli(&["apply", "-f", file]);
    fails(&huge, USAGE, &["service.yaml", "larger than 4194304 bytes"]);
}

fn missing_programs(cluster: &Cluster) {
    let gone = [
        "service",
        "create",
        "gone",
        "--image",
        "file:///no/such/program",
    ];
    fails(
        &cluster.cli(&gone),
        NOT_READY,
        &["no such file `/no/such/program`"],
    );
    let unknown = ["service", "create", "unknown", "--image", "demo/helo"];
    fails(
        &cluster.cli(&unknown),
        USAGE,
        &["did you mean `demo/hello`?"],
    );
}

fn a_crashing_app(cluster: &Cluster) {
    let crash = cluster.cli(&["service", "create", "bad", "--image", "demo/crash"]);
    let pieces = [
        "service 'bad' is not ready: ExitCode1",
        "bad-00001",
        "DATABASE_URL is not set",
        "nihilo logs bad --previous",
    ];
    fails(&crash, NOT_READY, &pieces);
    // It is tried again, each time later, and that can be seen.
    let shown = common::wait_for("visible backoff", || {
        let shown = must(cluster.cli(&["service", "describe", "bad"]));
        let shown = text(&shown);
        let is_backing_off = shown.contains("times in a row, not started again for");
        is_backing_off.then_some(shown)
    });
    assert!(shown.contains("| DATABASE_URL is not set"), "{shown}");
}

fn an_app_that_is_never_ready(cluster: &Cluster) {
    let started = Instant::now();
    let never = cluster.cli(&[
        "service",
        "create",
        "never",
        "--image",
        "demo/never-ready",
        "--annotation",
        "serving.knative.dev/progress-deadline=8s",
    ]);
    let pieces = [
        // While it waits.
        "does not listen on $PORT (",
        // When it has failed.
        "service 'never' is not ready: ProgressDeadlineExceeded",
        "not ready after 8 s",
        "starting, and never listening",
        "nothing listens on $PORT (",
    ];
    fails(&never, NOT_READY, &pieces);
    assert!(
        started.elapsed() < Duration::from_secs(60),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn a_port_in_use_is_named_with_its_setting() {
    let cluster = Cluster::start_one(3);
    let config = cluster.config(0);
    let before = std::fs::read_to_string(&config).unwrap();
    must(cluster.stop());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for what in ["gateway", "admin", "peer"] {
        let key = format!("{what}-port: ");
        let changed = before.lines().map(|line| match line.strip_prefix(&key) {
            Some(_) => format!("{key}{port}"),
            None => line.to_owned(),
        });
        std::fs::write(&config, changed.collect::<Vec<_>>().join("\n")).unwrap();
        let started = start(&config);
        let address = format!("{what} address 127.0.0.1:{port} cannot be used");
        let next = format!("`ss -ltnp 'sport = :{port}'`");
        fails(&started, 1, &[&address, &next, &format!("`{what}-port`")]);
        let dev = cluster.start_missing();
        assert!(!dev.status.success());
        assert!(
            text(&dev).contains(&format!("port {port} ({what} of node1)")),
            "{}",
            text(&dev)
        );
    }
    std::fs::write(&config, before).unwrap();
    must(cluster.start_missing());
}

#[test]
fn a_data_directory_that_cannot_be_used_is_left_as_it_is() {
    let cluster = Cluster::start_one(4);
    must(cluster.cli(&["service", "create", "kept", "--image", "demo/hello"]));
    let config = cluster.config(0);
    let before = std::fs::read_to_string(&config).unwrap();

    // A second process on it, while the first runs.
    let pid = cluster.pid(0).to_string();
    let in_use = format!("in use by process {pid}; stop it first");
    fails(
        &start(&config),
        1,
        &[&in_use, cluster.node_dir(0).to_str().unwrap()],
    );
    assert_eq!(cluster.pid(0).to_string(), pid);
    must(cluster.stop());

    // Another node's, or another cluster's.
    std::fs::write(&config, before.replace("cluster: dev", "cluster: other")).unwrap();
    let other = "belongs to node 1 of cluster `dev`, not to node 1 of cluster `other`";
    let pieces = [other, "correct `data-dir`"];
    fails(&start(&config), STORE_REFUSED, &pieces);

    // No directory at all.
    let file = cluster.path().join("a-file");
    std::fs::write(&file, "not a directory").unwrap();
    let dir = format!("data-dir: {}", file.display());
    let lines = before
        .lines()
        .map(|line| match line.starts_with("data-dir: ") {
            true => dir.as_str(),
            false => line,
        });
    std::fs::write(&config, lines.collect::<Vec<_>>().join("\n")).unwrap();
    fails(
        &start(&config),
        1,
        &[file.to_str().unwrap(), "set another `data-dir`"],
    );

    // A broken configuration beside good data.
    let cut = before.find("members:").unwrap();
    std::fs::write(&config, &before[..cut]).unwrap();
    fails(&start(&config), USAGE, &["node.yaml", "hint: correct "]);

    std::fs::write(&config, before).unwrap();
    must(cluster.start_missing());
    let listed = must(cluster.cli(&["service", "list", "-o", "name"]));
    assert!(text(&listed).contains("kept"), "{}", text(&listed));
}

#[test]
fn a_check_refuses_what_a_start_would() {
    let dir = tempfile::tempdir().unwrap();
    let (file, data) = (dir.path().join("node.yaml"), dir.path().join("data"));
    let good = format!(
        "name: node1\nnode-id: 1\ndata-dir: {}\nmembers:\n  - {{id: 1, name: node1, peer: \
         '127.0.0.1:7071', admin: '127.0.0.1:7070'}}\n",
        data.display()
    );
    let check = |lines: &str| {
        std::fs::write(&file, format!("{good}{lines}")).unwrap();
        let mut command = Command::new(NIHILO);
        command.env_remove("NIHILO_LOG");
        command.args(["node", "start", "--check", "--config"]);
        command.arg(&file).output().unwrap()
    };
    must(check(""));
    let cases = [
        ("log: nihilo=loud\n", "log = `nihilo=loud`"),
        ("autoscaler: {no-such-key: '1'}\n", "autoscaler settings"),
        (
            "gateway: {trusted-proxies: [10.0.0.0/99]}\n",
            "trusted-proxies",
        ),
    ];
    for (lines, piece) in cases {
        fails(&check(lines), USAGE, &["node1", piece]);
    }
    assert!(!data.exists(), "a check starts nothing");
}

#[test]
fn a_damaged_store_is_refused_and_named() {
    let cluster = Cluster::start_one(5);
    must(cluster.cli(&["service", "create", "kept", "--image", "demo/hello"]));
    must(cluster.stop());
    let current = cluster.node_dir(0).join("db/CURRENT");
    let good = std::fs::read(&current).unwrap();
    std::fs::write(&current, "garbage").unwrap();
    let refused = start(&cluster.config(0));
    fails(
        &refused,
        STORE_REFUSED,
        &["log-damaged", "CURRENT", "join under a new id"],
    );
    let dev = cluster.start_missing();
    assert!(!dev.status.success());
    assert!(text(&dev).contains("log-damaged"), "{}", text(&dev));
    // Put back from a copy, everything is there.
    std::fs::write(&current, good).unwrap();
    must(cluster.start_missing());
    let listed = must(cluster.cli(&["service", "list", "-o", "name"]));
    assert!(text(&listed).contains("kept"), "{}", text(&listed));
}

#[test]
fn a_server_that_is_not_there_is_named_with_the_next_step() {
    // Bound and not listening: nobody else can be there.
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    drop(socket);
    let output = run(&["service", "list", "--server", &address]);
    let unreachable = format!("server {address} cannot be reached");
    fails(
        &output,
        UNREACHABLE,
        &[&unreachable, "nihilo dev --nodes 3 --detach"],
    );
    let malformed = run(&["service", "list", "--server", "nowhere"]);
    fails(
        &malformed,
        USAGE,
        &["`nowhere` is not of the form HOST:PORT"],
    );
}
