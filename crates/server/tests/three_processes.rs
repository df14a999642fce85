//! Three real node processes on loopback: the whole way of a request, and the loss of the leader.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

const NIHILO: &str = env!("CARGO_BIN_EXE_nihilo");
const LIMIT: Duration = Duration::from_secs(30);

struct Cluster {
    dir: tempfile::TempDir,
    offset: u16,
}

impl Cluster {
    /// `slot` keeps the ports of concurrent tests apart.
    fn start(slot: u16) -> Self {
        let offset = 1_000 + 10 * slot + (std::process::id() % 500) as u16 * 10;
        let cluster = Self {
            dir: tempfile::tempdir().unwrap(),
            offset,
        };
        let port_offset = offset.to_string();
        let mut args = vec![
            "dev",
            "--nodes",
            "3",
            "--detach",
            "--port-offset",
            &port_offset,
        ];
        let dir = cluster.path().to_str().unwrap().to_owned();
        args.extend(["--data-dir", &dir]);
        must(run(&args));
        cluster
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn servers(&self) -> String {
        let admin = |i: u16| format!("127.0.0.1:{}", 7070 + 100 * i + self.offset);
        [admin(0), admin(1), admin(2)].join(",")
    }

    fn cli(&self, args: &[&str]) -> Output {
        let servers = self.servers();
        let mut all = args.to_vec();
        all.extend(["--server", &servers]);
        if args.first() == Some(&"service") {
            all.extend(["--wait-timeout", "30"]);
        }
        run(&all)
    }

    fn gateway(&self, i: u16) -> u16 {
        8080 + i + self.offset
    }

    /// Nodes by index with role and pid.
    fn status(&self) -> Vec<(String, i32)> {
        let output = must(self.cli(&["cluster", "status", "-o", "json"]));
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let nodes = status["nodes"].as_array().unwrap().iter();
        nodes
            .map(|node| {
                let pid = i32::try_from(node["pid"].as_i64().unwrap()).unwrap();
                (node["role"].as_str().unwrap().to_owned(), pid)
            })
            .collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let dir = self.path().to_str().unwrap().to_owned();
        drop(run(&["dev", "--stop", "--data-dir", &dir]));
    }
}

fn run(args: &[&str]) -> Output {
    Command::new(NIHILO).args(args).output().unwrap()
}

fn must(output: Output) -> Output {
    let text = format!(
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{text}");
    output
}

fn get(port: u16, host: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn a_service_is_served_by_every_gateway_and_survives_the_leader() {
    let cluster = Cluster::start(0);
    must(cluster.cli(&["service", "create", "hello", "--image", "demo/hello"]));
    for i in 0..3 {
        let answer = get(cluster.gateway(i), "hello.default.localhost").unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains("Hello World!"),
            "{answer}"
        );
        assert!(answer.contains("nihilo-revision: hello-00001"), "{answer}");
    }
    let unknown = get(cluster.gateway(0), "nobody.default.localhost").unwrap();
    assert!(unknown.starts_with("HTTP/1.1 404"), "{unknown}");

    let status = cluster.status();
    let leader = status
        .iter()
        .position(|(role, _)| role == "leader")
        .unwrap();
    let pid = rustix::process::Pid::from_raw(status[leader].1).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    for i in (0..3).filter(|i| usize::from(*i) != leader) {
        let answer = get(cluster.gateway(i), "hello.default.localhost").unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    // Writes go on under the next leader, and the state is all there.
    must(cluster.cli(&["service", "update", "hello", "--env", "TARGET=again"]));
    let survivor = if leader == 0 { 1 } else { 0 };
    let deadline = Instant::now() + LIMIT;
    loop {
        let answer = get(cluster.gateway(survivor), "hello.default.localhost").unwrap();
        if answer.contains("Hello again!") {
            break;
        }
        assert!(Instant::now() < deadline, "{answer}");
    }
}

#[test]
fn mistakes_are_told_with_their_evidence() {
    let cluster = Cluster::start(1);
    let crash = cluster.cli(&["service", "create", "bad", "--image", "demo/crash"]);
    let text = String::from_utf8_lossy(&crash.stderr).into_owned();
    assert_eq!(crash.status.code(), Some(6), "{text}");
    assert!(text.contains("DATABASE_URL is not set"), "{text}");

    let missing = cluster.cli(&[
        "service",
        "create",
        "gone",
        "--image",
        "file:///no/such/program",
    ]);
    let text = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(text.contains("no such file `/no/such/program`"), "{text}");

    let manifest = cluster.path().join("typo.yaml");
    std::fs::write(
        &manifest,
        "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata:\n  name: typo\nspec:\n  \
         template:\n    spec:\n      containerConcurency: 1\n      containers:\n        - image: \
         demo/hello\n",
    )
    .unwrap();
    let typo = cluster.cli(&["apply", "-f", manifest.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&typo.stderr).into_owned();
    assert_eq!(typo.status.code(), Some(2), "{text}");
    assert!(
        text.contains("did you mean `containerConcurrency`?"),
        "{text}"
    );

    // A second process on the same directory is refused by name.
    let config = cluster.path().join("node1/node.yaml");
    let second = run(&["node", "start", "--config", config.to_str().unwrap()]);
    assert!(!second.status.success());
}
