//! One suite for every driver, through the agent that uses it: the states, the exits and the
//! evidence an owner relies on. What only real programs, and only containers, can show follows below.
//!
//! The Docker driver is tried where an engine answers, in one test: its image is made once.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod adoption;
mod called_off;
mod config;
mod container_adoption;
mod disk_waits;
#[path = "../common/engine.rs"]
mod engine;
mod freeze;
mod isolation;
#[path = "../../../runtime/tests/common/leftovers.rs"]
mod leftovers;
mod probes;
#[path = "../../../runtime/tests/common/tenant.rs"]
mod tenant;

use std::future::Future;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use config::Objects;
use engine::{TestImage, docker, must};
use nihilo_gateway::LocalInstances;
use nihilo_host::Host;
use nihilo_runtime::process::end_everything;
use nihilo_runtime::{Agent, AgentConfig, AgentError, DriverConfig, FakeConfig};
use nihilo_server::ports::AdmissionPort;
use nihilo_types::id::{Epoch, InstanceId, ObjectKey, ShardId};
use nihilo_types::instance::{Exit, InstanceReport, InstanceSpec, InstanceState, Probes};
use nihilo_types::instance_config::InstanceConfig;
use nihilo_types::isolation::Isolation;
use nihilo_types::node_config::{BootDelay, DockerSettings, ProcessSettings};
use nihilo_types::template::PullPolicy;
use tokio::runtime::Handle;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

const SHARD: ShardId = ShardId(7);
const EPOCH: Epoch = Epoch(11);
/// Far above what any step takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

/// Of one agent's instances; more than any test starts.
const N_PORTS: u16 = 20;
/// What still runs when a test is over may take so long before it is killed.
const LEAVE_LIMIT: Duration = Duration::from_millis(500);

/// An agent with one driver, in a directory of its own. Nothing is left of it when it is dropped.
struct Harness {
    agent: Agent,
    admission: LocalInstances,
    dir: Arc<tempfile::TempDir>,
    ports: Range<u16>,
    /// Of the binary under test: demo apps are run in containers of it.
    image: Option<String>,
}

impl Harness {
    fn new(driver: DriverConfig) -> Self {
        Self::new_in(Arc::new(tempfile::tempdir().unwrap()), driver)
    }

    fn new_in(dir: Arc<tempfile::TempDir>, driver: DriverConfig) -> Self {
        Self::with(dir, driver, Objects::default())
    }

    fn with(dir: Arc<tempfile::TempDir>, driver: DriverConfig, objects: Objects) -> Self {
        let ports = ports_of(&driver);
        let (agent, admission) = agent_with(dir.path(), driver, objects);
        agent.set_accepting(true);
        Self {
            agent,
            admission,
            dir,
            ports,
            image: None,
        }
    }

    fn process() -> Self {
        Self::new(Self::real(DockerSettings::default(), false))
    }

    /// Programs that would outlive the node, were it killed.
    fn outliving() -> Self {
        Self::new(Self::real(DockerSettings::default(), true))
    }

    fn of_programs() -> [Self; 2] {
        [Self::process(), Self::outliving()]
    }

    fn docker(image: &TestImage) -> Self {
        Self::docker_in(Arc::new(tempfile::tempdir().unwrap()), image)
    }

    fn docker_in(dir: Arc<tempfile::TempDir>, image: &TestImage) -> Self {
        let mut harness = Self::new_in(dir, Self::real(DockerSettings::default(), false));
        harness.image = Some(image.name().into());
        harness
    }

    fn real(docker: DockerSettings, adopts: bool) -> DriverConfig {
        DriverConfig::Process {
            first_port: free_ports(),
            // What a host lets programs do beyond this is the subject of `isolation`.
            settings: ProcessSettings {
                isolation: Isolation::None,
                ..ProcessSettings::default()
            },
            private: Vec::new(),
            docker,
            adopts,
        }
    }

    fn fake() -> Self {
        let (min_ms, max_ms) = (5, 20);
        let fake = FakeConfig {
            boot: BootDelay { min_ms, max_ms },
            listener: None,
        };
        Self::new(DriverConfig::Fake(fake))
    }

    fn start(&self, spec: &InstanceSpec) -> Result<InstanceReport, AgentError> {
        let spec = match &self.image {
            Some(image) => contained(spec, image),
            None => spec.clone(),
        };
        self.agent.start(SHARD, EPOCH, 1, spec)
    }

    fn drain(&self, id: &InstanceId) {
        self.agent.stop(SHARD, EPOCH, 2, id, "test").unwrap();
    }

    /// Everything an instance has printed, byte for byte.
    fn output(&self, id: &InstanceId) -> Vec<Vec<u8>> {
        let all = self.agent.instances();
        let (_, output) = all
            .into_iter()
            .find(|(report, _)| report.id == *id)
            .unwrap();
        output
            .follow()
            .0
            .into_iter()
            .map(|line| line.line)
            .collect()
    }

    /// Starts an instance and returns its events from when it was ready.
    async fn ready(&self, spec: &InstanceSpec) -> Receiver<InstanceReport> {
        let mut events = self.agent.subscribe();
        self.start(spec).unwrap();
        reached(&mut events, &spec.id, InstanceState::Ready).await;
        events
    }

    /// Starts an instance and returns how it ended.
    async fn run(&self, spec: &InstanceSpec) -> InstanceReport {
        let mut events = self.agent.subscribe();
        self.start(spec).unwrap();
        reached(&mut events, &spec.id, InstanceState::Destroyed).await
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            tokio::task::block_in_place(|| {
                Handle::current().block_on(self.agent.shutdown(LEAVE_LIMIT));
            });
            leftovers::assert_none(self.dir.path(), self.ports.clone());
        }
        // What outlives a node outlives no test, be it a failed one.
        drop(end_everything(self.dir.path()));
    }
}

/// None of its own where instances are simulated.
fn ports_of(driver: &DriverConfig) -> Range<u16> {
    match driver {
        DriverConfig::Process { first_port, .. } => *first_port..*first_port + N_PORTS,
        DriverConfig::Fake(_) => 0..0,
    }
}

fn agent_with(dir: &Path, driver: DriverConfig, objects: Objects) -> (Agent, LocalInstances) {
    agent_of(config_in(dir, driver), objects)
}

fn config_in(dir: &Path, driver: DriverConfig) -> AgentConfig {
    AgentConfig {
        bundles: None,
        node_name: "node1".into(),
        executable: env!("CARGO_BIN_EXE_nihilo").into(),
        dir: dir.into(),
        capacity: 3,
        driver,
        host: Host::default(),
        orders: None,
    }
}

fn agent_of(config: AgentConfig, objects: Objects) -> (Agent, LocalInstances) {
    let admission = LocalInstances::default();
    let admitting = Arc::new(AdmissionPort(admission.clone()));
    let agent = Agent::new(config, admitting, Arc::new(objects)).unwrap();
    (agent, admission)
}

/// Agents that run at the same time need ports of their own: to an agent, whatever listens on an
/// instance's port is the instance.
fn free_ports() -> u16 {
    static N_HARNESSES: AtomicU16 = AtomicU16::new(0);
    let block = u16::try_from(std::process::id() % 10).unwrap();
    let place = N_HARNESSES.fetch_add(1, Ordering::Relaxed);
    20_000 + block * 1_000 + place % 50 * N_PORTS
}

/// The first report of `id` in `state`.
async fn reached(
    events: &mut Receiver<InstanceReport>,
    id: &InstanceId,
    state: InstanceState,
) -> InstanceReport {
    let wanted = async {
        loop {
            match events.recv().await {
                Ok(report) if report.id == *id && report.state == state => return report,
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => panic!("the agent is gone"),
            }
        }
    };
    let in_time = tokio::time::timeout(LIMIT, wanted).await;
    in_time.unwrap_or_else(|_| panic!("{id} has not reached {state:?}"))
}

fn spec(image: &str, counter: u64) -> InstanceSpec {
    InstanceSpec {
        id: InstanceId::new("hello-00001", EPOCH, counter),
        revision: ObjectKey::new("default", "hello-00001"),
        service: "hello".into(),
        configuration: "hello".into(),
        image: image.into(),
        args: Vec::new(),
        termination_grace_ms: 10_000,
        ..tenant::shell(counter, "")
    }
}

/// The same in a container: a demo app of the image, a missing file as an image that nobody has, on
/// a port that nobody listens on.
fn contained(spec: &InstanceSpec, image: &str) -> InstanceSpec {
    let mut spec = spec.clone();
    let written = spec.image.clone();
    if let Some(app) = written.strip_prefix("demo/") {
        spec.image = image.into();
        spec.args = vec!["demo-app".into(), app.into()];
    } else if let Some(path) = written.strip_prefix("file://") {
        spec.image = format!("localhost:1{path}");
    }
    spec
}

/// A program of the host's shell.
fn shell(script: &str, counter: u64) -> InstanceSpec {
    InstanceSpec {
        args: vec!["-c".into(), script.into()],
        ..spec("file:///bin/sh", counter)
    }
}

fn answers(address: std::net::SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else {
        return false;
    };
    let request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let mut answer = String::new();
    stream.write_all(request).is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.starts_with("HTTP/1.1 200")
}

/// Runs one check against every driver.
async fn each_driver<F: Future<Output = ()>>(check: impl Fn(Harness) -> F) {
    check(Harness::fake()).await;
    check(Harness::process()).await;
    check(Harness::outliving()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_starts_serves_and_stops() {
    each_driver(starts_serves_and_stops).await;
}

async fn starts_serves_and_stops(harness: Harness) {
    let mut events = harness.agent.subscribe();
    let spec = spec("demo/hello", 1);
    harness.start(&spec).unwrap();
    let booting = reached(&mut events, &spec.id, InstanceState::Booting).await;
    let ready = reached(&mut events, &spec.id, InstanceState::Ready).await;
    assert_eq!(ready.address, booting.address);
    assert!(
        ready.ready_after_ms > 0 && ready.exit.is_none(),
        "{ready:?}"
    );
    let address = ready.address.unwrap();
    assert!(
        tokio::task::spawn_blocking(move || answers(address))
            .await
            .unwrap()
    );
    assert!(harness.admission.admit(&spec.id).is_ok());
    harness.drain(&spec.id);
    let gone = reached(&mut events, &spec.id, InstanceState::Destroyed).await;
    assert_eq!(gone.exit, Some(Exit::Code(0)));
    assert!(TcpStream::connect(address).is_err());
    assert!(harness.admission.admit(&spec.id).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_id_twice_is_one_instance() {
    each_driver(same_id_twice).await;
}

async fn same_id_twice(harness: Harness) {
    let mut events = harness.agent.subscribe();
    let spec = spec("demo/hello", 1);
    harness.start(&spec).unwrap();
    let ready = reached(&mut events, &spec.id, InstanceState::Ready).await;
    let again = harness.start(&spec).unwrap();
    assert_eq!((again.state, again.pid), (InstanceState::Ready, ready.pid));
    assert_eq!(harness.agent.instances().len(), 1);
    let log = std::fs::read_to_string(harness.dir.path().join("startstop.log")).unwrap();
    assert_eq!(log.matches("\"spawned\"").count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_node_refuses_and_starts_nothing() {
    each_driver(full_node).await;
}

async fn full_node(harness: Harness) {
    for counter in 1..=3 {
        harness.start(&spec("demo/hello", counter)).unwrap();
    }
    let refused = harness.start(&spec("demo/hello", 4));
    assert!(matches!(
        refused,
        Err(AgentError::NoCapacity { running: 3, .. })
    ));
    assert_eq!(harness.agent.instances().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_program_is_named() {
    each_driver(missing_program).await;
}

async fn missing_program(harness: Harness) {
    let report = harness.run(&spec("file:///no/such/program", 1)).await;
    let Some(Exit::StartFailed { stage, cause }) = &report.exit else {
        panic!("{report:?}");
    };
    assert_eq!((stage.as_str(), report.pid), ("image", None));
    let words = match harness.image {
        Some(_) => "image `localhost:1/no/such/program:latest` is not on this node",
        None => "no such file `/no/such/program`",
    };
    assert!(cause.contains(words), "{cause}");
    assert_eq!(report.spawned_after_ms, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_start_leaves_its_last_lines() {
    each_driver(crash_at_start).await;
}

async fn crash_at_start(harness: Harness) {
    let report = harness.run(&spec("demo/crash", 1)).await;
    assert_eq!(report.exit, Some(Exit::Code(1)));
    assert_eq!(report.ready_after_ms, 0);
    let last = report.last_output.last().unwrap();
    assert_eq!(last, "DATABASE_URL is not set");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_never_listens_ends_at_its_deadline() {
    each_driver(never_listens).await;
}

async fn never_listens(harness: Harness) {
    let spec = InstanceSpec {
        boot_deadline_ms: 300,
        ..spec("demo/never-ready", 1)
    };
    let report = harness.run(&spec).await;
    assert_eq!(report.exit, Some(Exit::NeverReady { after_ms: 300 }));
    assert!(
        report.age_ms >= 300 && report.ready_after_ms == 0,
        "{report:?}"
    );
    let output = report.last_output.join("\n");
    assert!(output.contains("starting"), "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_ignores_sigterm_is_killed_after_its_grace() {
    each_driver(ignores_sigterm).await;
}

async fn ignores_sigterm(harness: Harness) {
    let mut events = harness.agent.subscribe();
    let spec = InstanceSpec {
        termination_grace_ms: 200,
        ..spec("demo/ignore-term", 1)
    };
    harness.start(&spec).unwrap();
    reached(&mut events, &spec.id, InstanceState::Ready).await;
    harness.drain(&spec.id);
    let stopping = reached(&mut events, &spec.id, InstanceState::Stopping).await;
    let gone = reached(&mut events, &spec.id, InstanceState::Destroyed).await;
    assert_eq!(gone.exit, Some(Exit::Signal(9)));
    assert!(
        gone.age_ms >= stopping.age_ms + 200,
        "{stopping:?} {gone:?}"
    );
    assert!(TcpStream::connect(gone.address.unwrap()).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_does_wrong_what_its_file_says() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("fault");
    let harness = Harness::process();
    let with_file = |counter| InstanceSpec {
        env: vec![("NIHILO_DEMO_FAULT".into(), file.display().to_string())],
        boot_deadline_ms: 2_000,
        termination_grace_ms: 200,
        ..spec("demo/echo", counter)
    };
    std::fs::write(&file, "never-ready\n").unwrap();
    let report = harness.run(&with_file(1)).await;
    assert_eq!(report.exit, Some(Exit::NeverReady { after_ms: 2_000 }));

    // As it was before there was one; what runs looks again when it is told to end.
    std::fs::remove_file(&file).unwrap();
    let stubborn = InstanceSpec {
        boot_deadline_ms: 20_000,
        ..with_file(2)
    };
    let mut events = harness.ready(&stubborn).await;
    std::fs::write(&file, "ignore-term").unwrap();
    harness.drain(&stubborn.id);
    let gone = reached(&mut events, &stubborn.id, InstanceState::Destroyed).await;
    assert_eq!(gone.exit, Some(Exit::Signal(9)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_during_boot_ends_it_before_it_was_ready() {
    each_driver(stop_during_boot).await;
}

async fn stop_during_boot(harness: Harness) {
    let mut events = harness.agent.subscribe();
    let spec = spec("demo/never-ready", 1);
    harness.start(&spec).unwrap();
    reached(&mut events, &spec.id, InstanceState::Booting).await;
    harness.drain(&spec.id);
    let gone = reached(&mut events, &spec.id, InstanceState::Destroyed).await;
    // By its own clean exit, or by the signal where it came before the handler.
    assert!(
        matches!(gone.exit, Some(Exit::Code(0) | Exit::Signal(15))),
        "{gone:?}"
    );
    assert_eq!(gone.ready_after_ms, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_waits_for_requests_and_can_be_called_off() {
    each_driver(drain_called_off).await;
}

async fn drain_called_off(harness: Harness) {
    let spec = spec("demo/hello", 1);
    let mut events = harness.ready(&spec).await;
    let request = harness.admission.admit(&spec.id).unwrap();
    harness.drain(&spec.id);
    let draining = reached(&mut events, &spec.id, InstanceState::Draining).await;
    assert_eq!(draining.in_flight, 1);
    assert!(harness.admission.admit(&spec.id).is_err());
    harness.agent.reopen(SHARD, EPOCH, 3, &spec.id).unwrap();
    reached(&mut events, &spec.id, InstanceState::Ready).await;
    drop(harness.admission.admit(&spec.id).unwrap());
    // Past SIGTERM there is no way back.
    drop(request);
    harness
        .agent
        .stop(SHARD, EPOCH, 4, &spec.id, "test")
        .unwrap();
    reached(&mut events, &spec.id, InstanceState::Destroyed).await;
    let late = harness.agent.reopen(SHARD, EPOCH, 5, &spec.id);
    assert_eq!(late, Err(AgentError::TooLate));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_lets_requests_end_and_is_not_called_back() {
    each_driver(leaving_lets_requests_end).await;
}

async fn leaving_lets_requests_end(harness: Harness) {
    let spec = spec("demo/hello", 1);
    let mut events = harness.ready(&spec).await;
    let request = harness.admission.admit(&spec.id).unwrap();
    let agent = harness.agent.clone();
    let stopped = tokio::spawn(async move { agent.shutdown(LIMIT).await });
    // Owners see it on its way out, so that they replace it and do not open it again.
    let leaving = reached(&mut events, &spec.id, InstanceState::Stopping).await;
    assert_eq!((leaving.in_flight, leaving.exit), (1, None));
    assert!(harness.admission.admit(&spec.id).is_err());
    let called_back = harness.agent.reopen(SHARD, EPOCH, 3, &spec.id);
    assert_eq!(called_back, Err(AgentError::NotReady));
    assert_eq!(harness.agent.list(&[(SHARD, EPOCH)], 4).unwrap().len(), 1);
    drop(request);
    reached(&mut events, &spec.id, InstanceState::Destroyed).await;
    stopped.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_takes_its_instances_along() {
    each_driver(leaving_takes_all_along).await;
}

async fn leaving_takes_all_along(harness: Harness) {
    let mut events = harness.agent.subscribe();
    for counter in 1..=2 {
        let spec = spec("demo/hello", counter);
        harness.start(&spec).unwrap();
        reached(&mut events, &spec.id, InstanceState::Ready).await;
    }
    harness.agent.shutdown(LIMIT).await;
    let left = harness.agent.instances();
    assert!(
        left.iter().all(|(report, _)| !report.state.is_counted()),
        "{left:?}"
    );
    assert_eq!(
        harness.start(&spec("demo/hello", 3)),
        Err(AgentError::NotReady)
    );
}

/// Its session ends next, and with it the count of what runs here: nothing may outlive it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_time_is_up_kills_what_a_request_holds() {
    each_driver(time_is_up).await;
}

async fn time_is_up(harness: Harness) {
    let spec = spec("demo/hello", 1);
    let _events = harness.ready(&spec).await;
    let _request = harness.admission.admit(&spec.id).unwrap();
    harness.agent.shutdown(Duration::from_millis(50)).await;
    let left = harness.agent.instances();
    assert!(
        left.iter().all(|(report, _)| !report.state.is_counted()),
        "{left:?}"
    );
}

// Real programs only.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_environment_is_built_from_nothing() {
    for harness in Harness::of_programs() {
        let spec = InstanceSpec {
            env: vec![("GREETING".into(), "hello there".into())],
            ..shell("env", 1)
        };
        let report = harness.run(&spec).await;
        assert_eq!(report.exit, Some(Exit::Code(0)));
        let lines = harness.output(&spec.id);
        let lines: Vec<_> = lines
            .iter()
            .map(|line| String::from_utf8_lossy(line))
            .collect();
        let port = report.address.unwrap().port();
        for wanted in [
            "GREETING=hello there",
            "PATH=/usr/local/bin:/usr/bin:/bin",
            "HOST=127.0.0.1",
            "K_SERVICE=hello",
            "K_CONFIGURATION=hello",
            "K_REVISION=hello-00001",
            "NIHILO_NODE=node1",
            &format!("PORT={port}"),
            &format!("NIHILO_INSTANCE={}", spec.id),
        ] {
            assert!(
                lines.iter().any(|line| line == wanted),
                "{wanted} in {lines:#?}"
            );
        }
        let ours = |name: &str| name.starts_with("K_") || name.starts_with("NIHILO_");
        let shells = ["PWD", "SHLVL", "_", "OLDPWD"];
        let known = ["GREETING", "PATH", "HOME", "HOST", "PORT"];
        for line in &lines {
            let name = line.split('=').next().unwrap();
            assert!(
                ours(name) || known.contains(&name) || shells.contains(&name),
                "{line}"
            );
        }
        assert!(!lines.iter().any(|line| line.starts_with("CARGO")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_the_node_is_inherited_but_the_standard_streams() {
    // What this test's own parent left open for everybody is not the node's to give.
    let theirs = inheritable_descriptors();
    for harness in Harness::of_programs() {
        let _own = std::fs::File::open("/proc/self/stat").unwrap();
        let spec = shell("ls /proc/$$/fd; cat", 1);
        let report = harness.run(&spec).await;
        // Standard input is at its end, so `cat` ends too.
        assert_eq!(report.exit, Some(Exit::Code(0)));
        for line in harness.output(&spec.id) {
            let descriptor = String::from_utf8(line).unwrap();
            let known = ["0", "1", "2"].contains(&descriptor.as_str());
            assert!(known || theirs.contains(&descriptor), "{descriptor}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_is_handed_over_is_all_that_is_inherited_beside_the_streams() {
    let theirs = inheritable_descriptors();
    for harness in Harness::of_programs() {
        let script = "echo $LISTEN_FDS $LISTEN_FDNAMES; [ $LISTEN_PID = $$ ] && echo mine; \
                      readlink /proc/$$/fd/3 | cut -d: -f1; ls /proc/$$/fd; cat";
        let spec = InstanceSpec {
            socket_activation: true,
            ..shell(script, 1)
        };
        let report = harness.run(&spec).await;
        assert_eq!(report.exit, Some(Exit::Code(0)));
        let lines = harness.output(&spec.id).into_iter();
        let lines: Vec<_> = lines.map(|line| String::from_utf8(line).unwrap()).collect();
        let (said, descriptors) = lines.split_at(3);
        assert_eq!(said, ["1 http", "mine", "socket"]);
        for descriptor in descriptors {
            let known = ["0", "1", "2", "3"].contains(&descriptor.as_str());
            assert!(known || theirs.contains(descriptor), "{descriptor}");
        }
    }
}

/// Who dials before the program runs is queued; who is queued when it ends is told at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_dials_before_the_program_accepts_waits_for_it() {
    for harness in Harness::of_programs() {
        let mut events = harness.agent.subscribe();
        let late = "file:///bin/sh";
        let gate = harness.dir.path().join("gate");
        let own = env!("CARGO_BIN_EXE_nihilo");
        let script = format!(
            "until [ -e {} ]; do sleep 0.01; done; exec {own} demo-app hello",
            gate.display()
        );
        let spec = InstanceSpec {
            args: vec!["-c".into(), script],
            socket_activation: true,
            ..spec(late, 1)
        };
        harness.start(&spec).unwrap();
        let ready = reached(&mut events, &spec.id, InstanceState::Ready).await;
        let address = ready.address.unwrap();
        let waits = tokio::task::spawn_blocking(move || answers(address));
        // `exec` keeps the process, so that the socket is still its own.
        std::fs::write(&gate, "").unwrap();
        assert!(waits.await.unwrap());
        harness.drain(&spec.id);
        let gone = reached(&mut events, &spec.id, InstanceState::Destroyed).await;
        assert_eq!(gone.exit, Some(Exit::Code(0)));
    }
}

/// Descriptors of this process that a program it executes would get.
fn inheritable_descriptors() -> Vec<String> {
    const CLOSE_ON_EXEC: u32 = 0o2_000_000;
    let entries = std::fs::read_dir("/proc/self/fdinfo").unwrap();
    let is_inheritable = |name: &String| {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{name}")).ok()?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
        let flags = u32::from_str_radix(flags.trim(), 8).ok()?;
        Some(flags & CLOSE_ON_EXEC == 0)
    };
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| is_inheritable(name).unwrap_or(false))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_working_directory_is_the_one_asked_for_or_named() {
    for harness in Harness::of_programs() {
        let spec_in = |dir: &Path, counter| InstanceSpec {
            working_dir: dir.to_str().unwrap().into(),
            ..shell("pwd", counter)
        };
        let here = spec_in(harness.dir.path(), 1);
        harness.run(&here).await;
        let shown = harness.output(&here.id);
        assert_eq!(shown, [harness.dir.path().to_str().unwrap().as_bytes()]);
        let nowhere = harness.run(&spec_in(Path::new("/no/such/dir"), 2)).await;
        let Some(Exit::StartFailed { stage, cause }) = nowhere.exit else {
            panic!("{nowhere:?}");
        };
        assert_eq!(stage, "working-dir");
        assert!(
            cause.contains("no such directory `/no/such/dir`"),
            "{cause}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_does_not_exist_is_named() {
    for harness in Harness::of_programs() {
        let spec = InstanceSpec {
            command: vec!["/no/such/command".into()],
            ..spec("file:///bin/sh", 1)
        };
        let report = harness.run(&spec).await;
        let Some(Exit::StartFailed { cause, .. }) = report.exit else {
            panic!("{report:?}");
        };
        assert!(cause.contains("no such file `/no/such/command`"), "{cause}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_is_kept_byte_for_byte_and_long_lines_are_cut() {
    for harness in Harness::of_programs() {
        let script = "head -c 20000 /dev/zero | tr '\\0' x; echo; printf 'caf\\351\\n'; \
                  printf 'no newline'";
        let spec = shell(script, 1);
        let report = harness.run(&spec).await;
        let lines = harness.output(&spec.id);
        let total: usize = lines
            .iter()
            .filter(|line| line.starts_with(b"x"))
            .map(Vec::len)
            .sum();
        assert_eq!(total, 20_000);
        assert!(lines.iter().all(|line| line.len() <= 16 * 1024));
        assert!(lines.contains(&b"caf\xe9".to_vec()));
        assert_eq!(lines.last().unwrap(), b"no newline");
        // For people: escaped, and at most 1 KiB of each.
        let shown = report.last_output.join("\n");
        assert!(shown.contains("caf\u{fffd}"), "{shown}");
        assert!(report.last_output.iter().all(|line| line.len() <= 1024));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn descendants_go_with_it_wherever_they_went() {
    for harness in Harness::of_programs() {
        // One stays in the group, one leaves it; both ignore what can be ignored.
        let script = "trap '' TERM HUP\n\
                  sleep 300 & echo $!\n\
                  setsid sleep 300 & echo $!\n\
                  wait";
        let spec = InstanceSpec {
            termination_grace_ms: 100,
            boot_deadline_ms: 500,
            ..shell(script, 1)
        };
        let report = harness.run(&spec).await;
        assert!(
            matches!(report.exit, Some(Exit::NeverReady { .. })),
            "{report:?}"
        );
        let pids = harness.output(&spec.id);
        assert_eq!(pids.len(), 2);
        for pid in &pids {
            let pid = std::str::from_utf8(pid).unwrap();
            let left = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            assert!(left.is_empty(), "process {pid} outlived its instance");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_listens_elsewhere_is_told_so() {
    for harness in Harness::of_programs() {
        // The program overrides the port it was given: the usual mistake.
        let elsewhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = elsewhere.local_addr().unwrap().port();
        drop(elsewhere);
        let nihilo = env!("CARGO_BIN_EXE_nihilo");
        let spec = InstanceSpec {
            boot_deadline_ms: 1_500,
            ..shell(&format!("PORT={port} exec {nihilo} demo-app hello"), 1)
        };
        let report = harness.run(&spec).await;
        let last = report.last_output.last().unwrap();
        let given = report.address.unwrap().port();
        assert_eq!(
            last,
            &format!("the app listens on port {port}, not on $PORT ({given})")
        );
    }
}

// Containers only.

type Check = fn(Harness) -> std::pin::Pin<Box<dyn Future<Output = ()>>>;

/// The suite above, and what is a container's own.
const OF_CONTAINERS: [(&str, Check); 24] = [
    ("starts, serves and stops", |h| {
        Box::pin(starts_serves_and_stops(h))
    }),
    ("same id twice", |h| Box::pin(same_id_twice(h))),
    ("full node", |h| Box::pin(full_node(h))),
    ("missing program", |h| Box::pin(missing_program(h))),
    ("crash at start", |h| Box::pin(crash_at_start(h))),
    ("never listens", |h| Box::pin(never_listens(h))),
    ("ignores SIGTERM", |h| Box::pin(ignores_sigterm(h))),
    ("stop during boot", |h| Box::pin(stop_during_boot(h))),
    ("drain called off", |h| Box::pin(drain_called_off(h))),
    ("leaving lets requests end", |h| {
        Box::pin(leaving_lets_requests_end(h))
    }),
    ("leaving takes all along", |h| {
        Box::pin(leaving_takes_all_along(h))
    }),
    ("frozen and thawed", |h| {
        Box::pin(freeze::frozen_and_thawed(h))
    }),
    ("freeze called off", |h| {
        Box::pin(freeze::freeze_called_off(h))
    }),
    ("stopped frozen", |h| Box::pin(freeze::stopped_frozen(h))),
    ("leaves frozen", |h| Box::pin(freeze::leaves_frozen(h))),
    ("time is up", |h| Box::pin(time_is_up(h))),
    ("environment and labels", |h| {
        Box::pin(environment_and_labels(h))
    }),
    ("command that does not exist", |h| {
        Box::pin(missing_command(h))
    }),
    ("listens elsewhere", |h| Box::pin(listens_elsewhere(h))),
    ("listens on loopback", |h| Box::pin(listens_on_loopback(h))),
    ("its probes", |h| Box::pin(probes::of_a_container(h))),
    ("never pulled", |h| Box::pin(never_pulled(h))),
    ("removed by somebody", |h| Box::pin(removed_by_somebody(h))),
    ("output to the last byte", |h| {
        Box::pin(output_to_the_last_byte(h))
    }),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_are_run_as_programs_are() {
    let Some(image) = TestImage::make("conformance") else {
        return;
    };
    for (what, check) in OF_CONTAINERS {
        eprintln!("{what}");
        let harness = Harness::docker(&image);
        let agent = harness.agent.clone();
        let _dir = harness.dir.clone();
        check(harness).await;
        agent.shutdown(LIMIT).await;
        assert_eq!(image.containers(), Vec::<String>::new(), "left by: {what}");
    }
    config::containers_get_variables_and_files(&image).await;
    config::a_container_that_is_refused_leaves_no_volume(&image).await;
    what_an_earlier_process_left_is_removed(&image).await;
}

async fn environment_and_labels(harness: Harness) {
    let spec = InstanceSpec {
        env: vec![("GREETING".into(), "hello there".into())],
        container_port: 9_090,
        ..spec("demo/hello", 1)
    };
    let mut events = harness.agent.subscribe();
    harness.start(&spec).unwrap();
    let ready = reached(&mut events, &spec.id, InstanceState::Ready).await;
    assert_eq!(ready.address.unwrap().port(), 9_090);
    assert!(ready.pid.is_some(), "{ready:?}");
    let id = spec.id.as_str();
    let filter = format!("label=nihilo.dev/instance={id}");
    let container = must(docker(&["ps", "--quiet", "--filter", &filter]));
    let format = "{{json .Config.Env}} {{json .Config.Labels}} {{json .HostConfig}}";
    let shown = must(docker(&["inspect", "--format", format, container.trim()]));
    let mark = std::fs::read_to_string(harness.dir.path().join("mark")).unwrap();
    for wanted in [
        "GREETING=hello there",
        "PORT=9090",
        "HOST=0.0.0.0",
        "K_SERVICE=hello",
        "K_CONFIGURATION=hello",
        "K_REVISION=hello-00001",
        "NIHILO_NODE=node1",
        &format!("NIHILO_INSTANCE={id}"),
        &format!("\"nihilo.dev/mark\":\"{mark}\""),
        "\"nihilo.dev/revision\":\"default/hello-00001\"",
        "\"nihilo.dev/revision-uid\":\"uid\"",
        "\"no-new-privileges\"",
    ] {
        assert!(shown.contains(wanted), "{wanted} in {shown}");
    }
    // Nothing of it is reachable past the gateway.
    assert!(!shown.contains("HostPort"), "{shown}");
}

async fn missing_command(harness: Harness) {
    let spec = InstanceSpec {
        command: vec!["/no/such/command".into()],
        ..spec("demo/hello", 1)
    };
    let report = harness.run(&spec).await;
    let Some(Exit::StartFailed { stage, cause }) = report.exit else {
        panic!("{report:?}");
    };
    assert_eq!(stage, "exec");
    assert!(cause.contains("no such file `/no/such/command`"), "{cause}");
}

async fn listens_elsewhere(harness: Harness) {
    let spec = InstanceSpec {
        env: vec![("PORT".into(), "9999".into())],
        boot_deadline_ms: 1_500,
        ..spec("demo/hello", 1)
    };
    let report = harness.run(&spec).await;
    let last = report.last_output.last().unwrap();
    assert!(
        last.contains("listens on port 9999, not on $PORT (8080)"),
        "{last}"
    );
}

async fn listens_on_loopback(harness: Harness) {
    let spec = InstanceSpec {
        env: vec![("HOST".into(), "127.0.0.1".into())],
        boot_deadline_ms: 1_500,
        ..spec("demo/hello", 1)
    };
    let report = harness.run(&spec).await;
    let last = report.last_output.last().unwrap();
    assert!(last.contains("let it listen on 0.0.0.0"), "{last}");
}

async fn never_pulled(harness: Harness) {
    let spec = InstanceSpec {
        pull_policy: PullPolicy::Never,
        ..spec("file:///no/such/program", 1)
    };
    let report = harness.run(&spec).await;
    let Some(Exit::StartFailed { stage, cause }) = report.exit else {
        panic!("{report:?}");
    };
    assert_eq!(stage, "image");
    assert!(cause.contains("imagePullPolicy is `Never`"), "{cause}");
    assert!(report.last_output.is_empty(), "{:?}", report.last_output);
}

async fn removed_by_somebody(harness: Harness) {
    let spec = spec("demo/hello", 1);
    let mut events = harness.ready(&spec).await;
    let filter = format!("label=nihilo.dev/instance={}", spec.id);
    let container = must(docker(&["ps", "--quiet", "--filter", &filter]));
    must(docker(&["rm", "--force", container.trim()]));
    let gone = reached(&mut events, &spec.id, InstanceState::Destroyed).await;
    // As a kill where the engine still knew it, and as what nobody knows where it did not.
    assert!(
        matches!(gone.exit, Some(Exit::Signal(9) | Exit::Unknown)),
        "{gone:?}"
    );
}

async fn output_to_the_last_byte(harness: Harness) {
    let spec = spec("demo/crash", 1);
    harness.run(&spec).await;
    let lines = harness.output(&spec.id);
    let wanted = [
        "starting",
        "connecting to database",
        "DATABASE_URL is not set",
    ];
    assert_eq!(lines, wanted.map(|line| line.as_bytes().to_vec()));
}

/// By its mark: what another node's directory started stays.
async fn what_an_earlier_process_left_is_removed(image: &TestImage) {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let first = Harness::docker_in(dir.clone(), image);
    first.run(&spec("demo/crash", 1)).await;
    let mark = std::fs::read_to_string(dir.path().join("mark")).unwrap();
    let create = |mark: &str| {
        let label = format!("nihilo.dev/mark={mark}");
        let args = [
            "run",
            "--detach",
            "--label",
            &label,
            image.name(),
            "demo-app",
            "hello",
        ];
        must(docker(&args)).trim().to_owned()
    };
    let (ours, theirs) = (create(&mark), create("another"));
    let volume = |mark: &str| {
        let name = format!("nihilo-{mark}-test-{}", std::process::id());
        let label = format!("nihilo.dev/mark={mark}");
        must(docker(&["volume", "create", "--label", &label, &name]));
        name
    };
    let (our_volume, their_volume) = (volume(&mark), volume("another"));
    let is_there = |volume: &str| docker(&["volume", "inspect", volume]).is_ok();
    drop(first);
    let _second = Harness::docker_in(dir, image);
    let deadline = std::time::Instant::now() + LIMIT;
    while image.containers().iter().any(|id| ours.starts_with(id)) || is_there(&our_volume) {
        assert!(
            std::time::Instant::now() < deadline,
            "{ours} or {our_volume} is not removed"
        );
        std::thread::park_timeout(Duration::from_millis(20));
    }
    let left = image.containers();
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(theirs.starts_with(&left[0]), "{left:?}");
    must(docker(&["volume", "rm", &their_volume]));
}

/// Needs no engine: programs run as ever, and a container image says what to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_an_engine_says_so_and_runs_programs() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let docker = DockerSettings {
        socket: dir.path().join("none.sock"),
        ..DockerSettings::default()
    };
    let harness = Harness::new_in(dir, Harness::real(docker, false));
    let report = harness.run(&spec("nginx", 1)).await;
    let Some(Exit::StartFailed { stage, cause }) = report.exit else {
        panic!("{report:?}");
    };
    assert_eq!(stage, "engine");
    for wanted in ["none.sock", "start the engine"] {
        assert!(cause.contains(wanted), "{wanted} in {cause}");
    }
    harness.ready(&spec("demo/hello", 2)).await;
    // Nothing was noted that a next start would have to look for.
    assert!(!harness.dir.path().join("docker").try_exists().unwrap());
}
