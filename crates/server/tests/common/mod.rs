//! A cluster of real node processes on loopback, and what tests ask of it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each test binary uses its part of it")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

pub(crate) mod adopting;
pub(crate) mod load;
mod offset;

use offset::Offset;

pub(crate) const NIHILO: &str = env!("CARGO_BIN_EXE_nihilo");
/// Far above what any single step needs on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
/// Between two looks at a level that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Ports that `nihilo dev` gives to node 1; see `crates/cli/src/dev/layout.rs`.
const GATEWAY: u16 = 8080;
const ADMIN: u16 = 7070;
const PEER: u16 = 7071;
const INSTANCES: u16 = 20_000;

/// Of one node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) gateway: u16,
    pub(crate) admin: u16,
    pub(crate) peer: u16,
    pub(crate) instances: u16,
}

/// Nodes made by `nihilo dev --nodes N --detach`; stopped when it is dropped.
#[derive(Debug)]
pub(crate) struct Cluster {
    dir: tempfile::TempDir,
    offset: Offset,
    n_nodes: u16,
}

impl Cluster {
    /// Three nodes. `slot` keeps the ports of tests that run at the same time apart.
    pub(crate) fn start(slot: u16) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), slot)
    }

    /// As [`Self::start`], in a directory that the test has prepared.
    pub(crate) fn start_in(dir: tempfile::TempDir, slot: u16) -> Self {
        Self::start_nodes(dir, slot, 3)
    }

    pub(crate) fn start_one(slot: u16) -> Self {
        Self::start_nodes(tempfile::tempdir().unwrap(), slot, 1)
    }

    /// The same with one node.
    pub(crate) fn start_one_in(dir: tempfile::TempDir, slot: u16) -> Self {
        Self::start_nodes(dir, slot, 1)
    }

    fn start_nodes(dir: tempfile::TempDir, slot: u16, n_nodes: u16) -> Self {
        let cluster = Self {
            dir,
            offset: Offset::find(slot),
            n_nodes,
        };
        let offset = cluster.offset.number.to_string();
        must(cluster.dev(&["--detach", "--port-offset", &offset]));
        cluster
    }

    fn dev(&self, args: &[&str]) -> Output {
        let (dir, nodes) = (self.path().to_str().unwrap(), self.n_nodes.to_string());
        let mut all = vec!["dev", "--data-dir", dir, "--nodes", &nodes];
        all.extend(args);
        run(&all)
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Data directory of node `i` (0, 1, 2).
    pub(crate) fn node_dir(&self, i: usize) -> PathBuf {
        self.path().join(format!("node{}", i + 1))
    }

    pub(crate) fn config(&self, i: usize) -> PathBuf {
        self.node_dir(i).join("node.yaml")
    }

    pub(crate) fn log(&self, i: usize) -> String {
        let bytes = std::fs::read(self.node_dir(i).join("node.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub(crate) fn admin(&self, i: u16) -> String {
        format!("127.0.0.1:{}", ADMIN + 100 * i + self.offset.number)
    }

    pub(crate) fn servers(&self) -> String {
        let admins: Vec<_> = (0..self.n_nodes).map(|i| self.admin(i)).collect();
        admins.join(",")
    }

    pub(crate) fn gateway(&self, i: u16) -> u16 {
        GATEWAY + i + self.offset.number
    }

    /// Ports that node `i` gives to its first hundred instances.
    pub(crate) fn instance_ports(&self, i: u16) -> std::ops::Range<u16> {
        let first = INSTANCES + 1_000 * i + self.offset.number;
        first..first + 100
    }

    pub(crate) fn cli(&self, args: &[&str]) -> Output {
        self.cli_at(&self.servers(), args)
    }

    /// Runs a command against the given servers only.
    pub(crate) fn cli_at(&self, servers: &str, args: &[&str]) -> Output {
        let mut all = args.to_vec();
        all.extend(["--server", servers]);
        if let ["service", "create" | "update" | "wait", ..] = args {
            all.extend(["--wait-timeout", "30"]);
        }
        run(&all)
    }

    /// Has a Service of exactly one instance, whose container is given as one line of YAML.
    pub(crate) fn apply_one(&self, name: &str, container: &str) {
        let manifest = format!(
            "{{apiVersion: serving.knative.dev/v1, kind: Service, metadata: {{name: {name}}}, spec: {{template: {{\
             metadata: {{annotations: {{\
             autoscaling.knative.dev/min-scale: '1', autoscaling.knative.dev/max-scale: '1'}}}}, \
             spec: {{containers: [{container}]}}}}}}}}"
        );
        let file = self.path().join(format!("{name}.yaml"));
        std::fs::write(&file, manifest).unwrap();
        must(self.cli(&["apply", "-f", file.to_str().unwrap()]));
    }

    /// What `nihilo cluster status` says, asked of the nodes that `servers` names.
    pub(crate) fn status_at(&self, servers: &str) -> serde_json::Value {
        let output = must(self.cli_at(servers, &["cluster", "status", "-o", "json"]));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Nodes by index with role and pid.
    pub(crate) fn status(&self) -> Vec<(String, i32)> {
        let status = self.status_at(&self.servers());
        let nodes = status["nodes"].as_array().unwrap().iter();
        nodes
            .map(|node| {
                let pid = i32::try_from(node["pid"].as_i64().unwrap()).unwrap();
                (node["role"].as_str().unwrap().to_owned(), pid)
            })
            .collect()
    }

    /// Index and pid of the leader, once there is one.
    pub(crate) fn leader(&self) -> (usize, i32) {
        wait_for("a leader", || {
            let status = self.status();
            let index = status.iter().position(|(role, _)| role == "leader")?;
            Some((index, status[index].1))
        })
    }

    pub(crate) fn pid(&self, i: usize) -> i32 {
        let text = std::fs::read_to_string(self.node_dir(i).join("nihilo.pid")).unwrap();
        text.trim().parse().unwrap()
    }

    /// A join token, and the servers to show it to.
    pub(crate) fn join_token(&self, servers: &str, more: &[&str]) -> String {
        let mut args = vec!["cluster", "token", "create", "-o", "name"];
        args.extend(more);
        let made = must(self.cli_at(servers, &args));
        let token = String::from_utf8(made.stdout).unwrap();
        format!("{}@{servers}", token.trim())
    }

    /// Makes a node's directory by a token; does not run it yet.
    pub(crate) fn join(&self, token: &str, name: &str, ports: Ports) -> Output {
        let dir = self.path().join(name);
        let numbers = [ports.gateway, ports.admin, ports.peer, ports.instances];
        let [gateway, admin, peer, instances] = numbers.map(|port| port.to_string());
        run(&[
            "cluster",
            "join",
            token,
            "--name",
            name,
            "--data-dir",
            dir.to_str().unwrap(),
            "--gateway-port",
            &gateway,
            "--admin-port",
            &admin,
            "--peer-port",
            &peer,
            "--instance-ports",
            &instances,
            "--on-node-exit",
            "kill",
            "--no-start",
        ])
    }

    /// Runs the node of a directory, with its output in `node.log`.
    pub(crate) fn start_node(&self, name: &str) -> std::process::Child {
        let dir = self.path().join(name);
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(dir.join("node.log"))
            .unwrap();
        Command::new(NIHILO)
            .args(["node", "start", "--config"])
            .arg(dir.join("node.yaml"))
            .stdin(std::process::Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// Ports for a node beyond the first three.
    pub(crate) fn ports(&self, i: u16) -> Ports {
        let free = || {
            let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
            listener.local_addr().unwrap().port()
        };
        Ports {
            gateway: free(),
            admin: free(),
            peer: free(),
            instances: INSTANCES + 1_000 * i + self.offset.number,
        }
    }

    /// Starts whatever does not run, and waits until all serve.
    pub(crate) fn start_missing(&self) -> Output {
        self.dev(&["--detach"])
    }

    pub(crate) fn stop(&self) -> Output {
        self.dev(&["--stop"])
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.stop());
    }
}

pub(crate) fn run(args: &[&str]) -> Output {
    Command::new(NIHILO).args(args).output().unwrap()
}

/// Both streams of a command.
pub(crate) fn text(output: &Output) -> String {
    format!(
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

pub(crate) fn must(output: Output) -> Output {
    assert!(output.status.success(), "{}", text(&output));
    output
}

/// Looks until there is something, within [`LIMIT`].
pub(crate) fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait_up_to(LIMIT, what, look)
}

/// For what takes many steps of its own.
pub(crate) fn wait_up_to<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "no {what} within {limit:?}");
        std::thread::park_timeout(LOOK_EVERY);
    }
}

pub(crate) fn kill(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// A zombie is gone, unless threads of it are still on their way out: they hold its files.
pub(crate) fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    let state = stat.ok().and_then(|stat| {
        let (_, after_name) = stat.rsplit_once(')')?;
        after_name.trim_start().chars().next()
    });
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
    let n_threads = threads.map_or(0, Iterator::count);
    !matches!(state, None | Some('Z' | 'X')) || n_threads > 1
}

pub(crate) fn get(port: u16, host: &str) -> std::io::Result<String> {
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
