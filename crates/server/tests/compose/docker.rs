//! Docker, compose and the cluster that they run, for as long as a test does.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

const NIHILO: &str = env!("CARGO_BIN_EXE_nihilo");
const N_NODES: usize = 3;
/// Between two looks at something that takes seconds: each look starts processes.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The way to call compose: the plugin, or the program of its first version.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Compose(&'static [&'static str]);

impl Compose {
    /// The first that answers; `None` with a printed reason.
    pub(crate) fn find() -> Option<Self> {
        let engine = output(&["docker", "version", "--format", "{{.Server.Version}}"]);
        if let Err(why) = engine {
            eprintln!("skipped: no Docker engine answers: {why}");
            return None;
        }
        let ways: [&[&str]; 2] = [&["docker", "compose"], &["docker-compose"]];
        let works = |way: &&&[&str]| output(&[**way, &["version"]].concat()).is_ok();
        let Some(way) = ways.iter().find(works) else {
            eprintln!("skipped: neither `docker compose` nor `docker-compose` works");
            return None;
        };
        eprintln!("compose is `{}`", way.join(" "));
        Some(Self(way))
    }
}

/// Removed with everything it has, its image included, when dropped.
#[derive(Debug)]
pub(crate) struct Cluster {
    compose: Compose,
    project: String,
    image: Image,
    gateways: [u16; N_NODES],
    admins: [u16; N_NODES],
}

#[derive(Debug)]
enum Image {
    Made(String),
    Named(String),
}

impl Image {
    fn of(project: &str) -> Self {
        if let Ok(name) = std::env::var("NIHILO_TEST_IMAGE") {
            return Self::Named(name);
        }
        let tag = format!("nihilo:{project}");
        let xtask = ["cargo", "xtask", "image", "--binary", NIHILO, "--tag", &tag];
        must(output(&xtask));
        Self::Made(tag)
    }

    fn name(&self) -> &str {
        let (Self::Made(name) | Self::Named(name)) = self;
        name
    }
}

impl Cluster {
    pub(crate) fn up(compose: Compose) -> Self {
        let cluster = Self::prepared(compose);
        cluster.start();
        cluster
    }

    /// Its image and its ports, and nothing that runs.
    pub(crate) fn prepared(compose: Compose) -> Self {
        let project = format!("nihilo-test-{}", std::process::id());
        let [g1, g2, g3, a1, a2, a3] = free_ports();
        Self {
            compose,
            image: Image::of(&project),
            project,
            gateways: [g1, g2, g3],
            admins: [a1, a2, a3],
        }
    }

    pub(crate) fn start(&self) {
        self.compose(&["up", "--detach", "--no-build"]);
    }

    /// One after the other; none is waited for.
    pub(crate) fn start_in_order(&self, order: [usize; N_NODES]) {
        for node in order {
            let service = format!("node{}", node + 1);
            self.compose(&["up", "--detach", "--no-build", &service]);
        }
    }

    /// Removes the containers; the volumes stay unless they shall go too.
    pub(crate) fn down(&self, with_volumes: bool) {
        let volumes = with_volumes.then_some("--volumes");
        let args: Vec<_> = ["down"].into_iter().chain(volumes).collect();
        self.compose(&args);
    }

    /// What one node keeps, which nothing uses now.
    pub(crate) fn remove_volume(&self, node: usize) {
        let volume = format!("{}_data{}", self.project, node + 1);
        must(output(&["docker", "volume", "rm", &volume]));
    }

    pub(crate) fn exit_code(&self, node: usize) -> String {
        self.inspect(node, "{{.State.ExitCode}}")
    }

    pub(crate) fn output_of(&self, node: usize) -> String {
        let mut logs = Command::new("docker");
        logs.arg("logs").arg(self.container(node));
        // What a node says goes to its standard error.
        let said = logs.output().expect("docker");
        String::from_utf8_lossy(&said.stderr).into_owned()
    }

    fn compose(&self, args: &[&str]) -> String {
        must(run(&mut self.compose_command(args)))
    }

    fn compose_command(&self, args: &[&str]) -> Command {
        let file = root().join("cluster/docker-compose.yml");
        let mut command = Command::new(self.compose.0[0]);
        command
            .args(&self.compose.0[1..])
            .args(["--project-name", &self.project, "--file"])
            .arg(file)
            .args(args)
            .env("NIHILO_IMAGE", self.image.name());
        for node in 0..N_NODES {
            let port = |of: &str| format!("NIHILO_{of}{}_PORT", node + 1);
            command.env(port("GATEWAY"), self.gateways[node].to_string());
            command.env(port("ADMIN"), self.admins[node].to_string());
        }
        command
    }

    fn container(&self, node: usize) -> String {
        // Stopped ones have to be asked for, and not every version of compose can be.
        let label = |key: &str, value: &str| format!("label=com.docker.compose.{key}={value}");
        let (project, service) = (
            label("project", &self.project),
            label("service", &format!("node{}", node + 1)),
        );
        let ps = ["docker", "ps", "--all", "--quiet", "--filter"];
        let id = must(output(
            &[&ps[..], &[&project, "--filter", &service]].concat(),
        ));
        id.trim().to_owned()
    }

    fn inspect(&self, node: usize, format: &str) -> String {
        let container = self.container(node);
        let shown = must(output(&[
            "docker", "inspect", "--format", format, &container,
        ]));
        shown.trim().to_owned()
    }

    pub(crate) fn all_healthy(&self) -> bool {
        (0..N_NODES).all(|node| self.inspect(node, "{{.State.Health.Status}}") == "healthy")
    }

    /// Output of a command of ours, talking to all published admin ports.
    pub(crate) fn cli(&self, args: &[&str]) -> String {
        must(self.try_cli(args))
    }

    fn try_cli(&self, args: &[&str]) -> Result<String, String> {
        let servers = self
            .admins
            .map(|port| format!("127.0.0.1:{port}"))
            .join(",");
        run(Command::new(NIHILO).args(args).args(["--server", &servers]))
    }

    pub(crate) fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.cli(&["cluster", "status", "-o", "json"])).unwrap()
    }

    /// Index of the leader that some node knows and that has a majority.
    pub(crate) fn leader(&self) -> Option<usize> {
        let text = self.try_cli(&["cluster", "status", "-o", "json"]).ok()?;
        let status: serde_json::Value = serde_json::from_str(&text).ok()?;
        let nodes = status["nodes"].as_array()?;
        let position = nodes.iter().position(|node| node["role"] == "leader")?;
        status["quorum"].as_bool()?.then_some(position)
    }

    /// Every node says of itself that it is ready, from inside its container.
    pub(crate) fn is_whole(&self) -> bool {
        (0..N_NODES).all(|node| {
            let container = self.container(node);
            output(&["docker", "exec", &container, "/nihilo", "health", "--ready"]).is_ok()
        })
    }

    pub(crate) fn gateway_port(&self, node: usize) -> u16 {
        self.gateways[node]
    }

    pub(crate) fn kill(&self, node: usize) {
        must(output(&[
            "docker",
            "kill",
            "--signal",
            "KILL",
            &self.container(node),
        ]));
    }

    /// Address of the running container in the cluster's network.
    pub(crate) fn address(&self, node: usize) -> String {
        self.inspect(
            node,
            "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}",
        )
    }

    /// Starts a killed container while another one sits on the address it had.
    pub(crate) fn restart_elsewhere(&self, node: usize) {
        let network = format!("{}_default", self.project);
        let (name, image) = (self.squatter(), self.image.name());
        let squat = [
            "docker",
            "run",
            "--detach",
            "--name",
            &name,
            "--network",
            &network,
        ];
        let program = [image, "demo-app", "hello"];
        must(output(&[&squat[..], &program].concat()));
        must(output(&["docker", "start", &self.container(node)]));
    }

    fn squatter(&self) -> String {
        format!("{}-squatter", self.project)
    }

    /// Stops all nodes politely; their exit codes.
    pub(crate) fn stop(&self) -> [String; N_NODES] {
        self.compose(&["stop"]);
        std::array::from_fn(|node| self.exit_code(node))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = run(&mut self.compose_command(&["logs", "--no-color", "--tail", "60"]));
            eprintln!("{}", logs.unwrap_or_else(|why| why));
        }
        // What was never made cannot be removed.
        drop(output(&["docker", "rm", "--force", &self.squatter()]));
        drop(run(&mut self.compose_command(&[
            "down",
            "--volumes",
            "--timeout",
            "5",
        ])));
        if let Image::Made(tag) = &self.image {
            drop(output(&["docker", "image", "rm", tag]));
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Ports that nobody listens on now; another process may still be faster.
fn free_ports<const N: usize>() -> [u16; N] {
    let held: [TcpListener; N] =
        std::array::from_fn(|_| TcpListener::bind(("127.0.0.1", 0)).unwrap());
    held.each_ref()
        .map(|listener| listener.local_addr().unwrap().port())
}

fn output(line: &[&str]) -> Result<String, String> {
    run(Command::new(line[0]).args(&line[1..]).current_dir(root()))
}

/// What the command printed on stdout, or everything it said if it failed.
fn run(command: &mut Command) -> Result<String, String> {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().map_err(|error| error.to_string())?;
    let (stdout, stderr) = (
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr),
    );
    match status.success() {
        true => Ok(stdout.into_owned()),
        false => Err(format!("{command:?}: {status}\n{stdout}{stderr}")),
    }
}

fn must(outcome: Result<String, String>) -> String {
    outcome.unwrap_or_else(|why| panic!("{why}"))
}

/// Waits until `reached`, and fails after `limit`.
pub(crate) fn within(limit: Duration, what: &str, mut reached: impl FnMut() -> bool) {
    let started = Instant::now();
    while !reached() {
        assert!(started.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::park_timeout(LOOK_EVERY);
    }
    eprintln!("{what} after {:.1} s", started.elapsed().as_secs_f64());
}
