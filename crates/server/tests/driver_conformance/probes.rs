//! Probes of real programs: each kind, what holds an instance up, what takes it out of routing and
//! back, and what ends it.

use std::net::SocketAddr;
use std::path::PathBuf;

use nihilo_types::probe::{Probe, ProbeKind};
use serde_json::json;
use tonic_health::ServingStatus::{NotServing, Serving};

use super::*;

fn probe(written: serde_json::Value) -> Option<Box<Probe>> {
    Some(Box::new(serde_json::from_value(written).unwrap()))
}

/// Asked each second, and failed at the first time.
fn each_second(mut action: serde_json::Value) -> Option<Box<Probe>> {
    action["periodSeconds"] = json!(1);
    action["failureThreshold"] = json!(1);
    probe(action)
}

/// A file that says what the demo app does wrong.
struct Fault {
    file: PathBuf,
    _dir: tempfile::TempDir,
}

impl Fault {
    fn new(fault: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("fault");
        let fault_file = Self { file, _dir: dir };
        fault_file.is(fault);
        fault_file
    }

    /// Seen whole or not at all.
    fn is(&self, fault: &str) {
        let new = self.file.with_extension("new");
        std::fs::write(&new, fault).unwrap();
        std::fs::rename(new, &self.file).unwrap();
    }

    fn app(&self, counter: u64, probes: Probes) -> InstanceSpec {
        InstanceSpec {
            env: vec![("NIHILO_DEMO_FAULT".into(), self.file.display().to_string())],
            probes,
            ..spec("demo/echo", counter)
        }
    }
}

fn readiness(probe: Option<Box<Probe>>) -> Probes {
    Probes {
        readiness: probe,
        ..Probes::default()
    }
}

fn unhealthy(report: &InstanceReport, kind: ProbeKind) -> &str {
    match &report.exit {
        Some(Exit::Unhealthy { probe, cause }) if *probe == kind => cause,
        _ => panic!("{report:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_answers_unready_is_never_ready_and_says_why() {
    for harness in Harness::of_programs() {
        let fault = Fault::new("unready");
        for (counter, period) in [(1, 0), (2, 1)] {
            let written = json!({"httpGet": {"path": "/readyz"}, "periodSeconds": period});
            let spec = InstanceSpec {
                boot_deadline_ms: 1_500,
                ..fault.app(counter, readiness(probe(written)))
            };
            let report = harness.run(&spec).await;
            assert_eq!(report.exit, Some(Exit::NeverReady { after_ms: 1_500 }));
            let last = report.last_output.last().unwrap();
            assert_eq!(last, "readiness probe: GET /readyz answered 503: unready");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_does_not_listen_says_so_beside_its_probe() {
    let harness = Harness::process();
    let spec = InstanceSpec {
        boot_deadline_ms: 1_500,
        probes: readiness(each_second(json!({"httpGet": {"path": "/readyz"}}))),
        ..spec("demo/never-ready", 1)
    };
    let report = harness.run(&spec).await;
    let [.., probe, driver] = report.last_output.as_slice() else {
        panic!("{report:?}");
    };
    assert!(
        probe.starts_with("readiness probe: nothing answers on port"),
        "{probe}"
    );
    assert!(driver.starts_with("nothing listens on $PORT"), "{driver}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_takes_it_out_of_routing_and_back_and_loses_nothing() {
    for harness in Harness::of_programs() {
        let fault = Fault::new("none");
        let spec = fault.app(
            1,
            readiness(each_second(json!({"httpGet": {"path": "/readyz"}}))),
        );
        let mut events = harness.ready(&spec).await;
        let before = report_of(&harness, &spec.id);
        let running = harness.admission.admit(&spec.id).unwrap();
        fault.is("unready");
        let out = reached(&mut events, &spec.id, InstanceState::Booting).await;
        // Counted still, what runs goes on, and nothing new comes to it.
        assert!(out.exit.is_none() && out.ready_after_ms > 0, "{out:?}");
        assert_eq!((out.in_flight, out.pid), (1, before.pid));
        assert!(harness.admission.admit(&spec.id).is_err());
        assert!(answers_off_thread(out.address.unwrap()).await);
        drop(running);
        fault.is("none");
        let back = reached(&mut events, &spec.id, InstanceState::Ready).await;
        assert_eq!(back.pid, before.pid);
        assert_eq!(back.ready_after_ms, before.ready_after_ms);
        assert!(harness.admission.admit(&spec.id).is_ok());
        let log = std::fs::read_to_string(harness.dir.path().join("startstop.log")).unwrap();
        assert_eq!(log.matches("\"spawned\"").count(), 1, "{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_that_is_called_off_leaves_it_as_its_probe_has_it() {
    let harness = Harness::process();
    let fault = Fault::new("none");
    let spec = fault.app(
        1,
        readiness(each_second(json!({"httpGet": {"path": "/readyz"}}))),
    );
    let mut events = harness.ready(&spec).await;
    let running = harness.admission.admit(&spec.id).unwrap();
    fault.is("unready");
    reached(&mut events, &spec.id, InstanceState::Booting).await;
    harness.drain(&spec.id);
    reached(&mut events, &spec.id, InstanceState::Draining).await;
    harness.agent.reopen(SHARD, EPOCH, 3, &spec.id).unwrap();
    reached(&mut events, &spec.id, InstanceState::Booting).await;
    assert!(harness.admission.admit(&spec.id).is_err());
    fault.is("none");
    reached(&mut events, &spec.id, InstanceState::Ready).await;
    assert!(harness.admission.admit(&spec.id).is_ok());
    drop(running);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_not_well_is_stopped_with_the_reason() {
    for harness in Harness::of_programs() {
        let fault = Fault::new("none");
        let written = json!({
            "httpGet": {"path": "/healthz"}, "periodSeconds": 1, "failureThreshold": 2,
        });
        let probes = Probes {
            liveness: probe(written),
            ..Probes::default()
        };
        let spec = fault.app(1, probes);
        let mut events = harness.ready(&spec).await;
        fault.is("unhealthy");
        let stopping = reached(&mut events, &spec.id, InstanceState::Stopping).await;
        assert!(harness.admission.admit(&spec.id).is_err());
        let gone = reached(&mut events, &spec.id, InstanceState::Destroyed).await;
        let cause = unhealthy(&gone, ProbeKind::Liveness);
        assert_eq!(
            cause,
            "liveness probe: GET /healthz answered 503: unhealthy"
        );
        // By the second failure, a period after the first.
        assert!(stopping.age_ms >= 1_000, "{stopping:?}");
        assert!(TcpStream::connect(gone.address.unwrap()).is_err());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_startup_probe_holds_the_others_off() {
    let harness = Harness::process();
    let dir = tempfile::tempdir().unwrap();
    let (asked, started) = (dir.path().join("asked"), dir.path().join("started"));
    let look = format!(
        "echo x >> {}; test -f {}",
        asked.display(),
        started.display()
    );
    let probes = Probes {
        startup: probe(json!({
            "exec": {"command": ["sh", "-c", look]}, "periodSeconds": 1, "failureThreshold": 30,
        })),
        // Would end it at once.
        liveness: each_second(json!({"exec": {"command": ["false"]}})),
        ..Probes::default()
    };
    let spec = InstanceSpec {
        probes,
        ..spec("demo/hello", 1)
    };
    let mut events = harness.agent.subscribe();
    harness.start(&spec).unwrap();
    let n_asked = || {
        let said = std::fs::read_to_string(&asked).unwrap_or_default();
        said.lines().count()
    };
    until("the startup probe's second question", || n_asked() >= 2).await;
    let held = report_of(&harness, &spec.id);
    assert_eq!((held.state, held.exit), (InstanceState::Booting, None));
    std::fs::write(&started, "").unwrap();
    let gone = reached(&mut events, &spec.id, InstanceState::Destroyed).await;
    let cause = unhealthy(&gone, ProbeKind::Liveness);
    assert_eq!(cause, "liveness probe: `false` ended with exit code 1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_does_not_start_up_is_stopped_with_the_reason() {
    let harness = Harness::process();
    let probes = Probes {
        startup: each_second(json!({"exec": {"command": ["sh", "-c", "echo no disk; exit 3"]}})),
        ..Probes::default()
    };
    let spec = InstanceSpec {
        probes,
        ..spec("demo/hello", 1)
    };
    let gone = harness.run(&spec).await;
    let cause = unhealthy(&gone, ProbeKind::Startup);
    let said = "startup probe: `sh -c echo no disk; exit 3` ended with exit code 3: no disk";
    assert_eq!((cause, gone.ready_after_ms), (said, 0));
}

/// In its groups, with its environment, in its directory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_runs_inside_the_instance() {
    for harness in Harness::of_programs() {
        let dir = harness.dir.path().display().to_string();
        let script = format!(
            "cat /proc/self/cgroup > groups; exec {} demo-app hello",
            env!("CARGO_BIN_EXE_nihilo")
        );
        let look = "test \"$(cat /proc/self/cgroup)\" = \"$(cat groups)\" && test \"$K_SERVICE\" = \
                    hello && test \"$NIHILO_INSTANCE\" != \"\" && test \"$(ulimit -c)\" = 0";
        let spec = InstanceSpec {
            working_dir: dir,
            probes: readiness(probe(json!({"exec": {"command": ["sh", "-c", look]}}))),
            ..shell(&script, 1)
        };
        harness.ready(&spec).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_hangs_has_failed_and_leaves_nothing() {
    let harness = Harness::process();
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    let hangs = format!("sleep 300 & echo $! > {}; wait", pids.display());
    let fault = Fault::new("none");
    let mut probes = readiness(each_second(
        json!({"exec": {"command": ["sh", "-c", hangs]}}),
    ));
    let late = 20;
    probes.readiness.as_mut().unwrap().failure_threshold = Some(late);
    let spec = fault.app(1, probes);
    harness.start(&spec).unwrap();
    let pid = || {
        let said = std::fs::read_to_string(&pids).ok()?;
        said.trim().parse::<u32>().ok()
    };
    until("the command's child", || pid().is_some()).await;
    let pid = pid().unwrap();
    // With its session, while the instance itself runs on.
    until("the end of the command's child", || {
        let line = std::fs::read(format!("/proc/{pid}/cmdline"));
        line.unwrap_or_default().is_empty()
    })
    .await;
    let report = report_of(&harness, &spec.id);
    assert_eq!((report.state, report.exit), (InstanceState::Booting, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_does_not_exist_is_named_by_its_probe() {
    let harness = Harness::process();
    let spec = InstanceSpec {
        boot_deadline_ms: 1_000,
        probes: readiness(probe(json!({"exec": {"command": ["/no/such/command"]}}))),
        ..spec("demo/hello", 1)
    };
    let report = harness.run(&spec).await;
    let last = report.last_output.last().unwrap();
    assert_eq!(
        last,
        "readiness probe: `/no/such/command` was not run: no such file `/no/such/command`"
    );
}

/// Something that waits for its end, with a port that is the test's to listen on.
fn waits(counter: u64, probes: Probes) -> InstanceSpec {
    InstanceSpec {
        probes,
        ..shell("exec sleep 300", counter)
    }
}

async fn booting(harness: &Harness, spec: &InstanceSpec) -> (Receiver<InstanceReport>, SocketAddr) {
    let mut events = harness.agent.subscribe();
    harness.start(spec).unwrap();
    let booting = reached(&mut events, &spec.id, InstanceState::Booting).await;
    (events, booting.address.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_is_closed_takes_it_out_where_it_is_asked_for() {
    let harness = Harness::process();
    let spec = waits(1, readiness(each_second(json!({"tcpSocket": {}}))));
    let (mut events, address) = booting(&harness, &spec).await;
    for _ in 0..2 {
        let listener = std::net::TcpListener::bind(address).unwrap();
        reached(&mut events, &spec.id, InstanceState::Ready).await;
        drop(listener);
        reached(&mut events, &spec.id, InstanceState::Booting).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_health_is_asked_for_the_service_that_is_named() {
    let harness = Harness::process();
    let written = json!({"grpc": {"service": "queue"}});
    let spec = waits(1, readiness(each_second(written)));
    let (mut events, address) = booting(&harness, &spec).await;
    let (health, service) = tonic_health::server::health_reporter();
    health.set_service_status("queue", NotServing).await;
    let server = tonic::transport::Server::builder().add_service(service);
    let server = tokio::spawn(server.serve(address));
    until_said(&harness, &spec.id, address).await;
    health.set_service_status("queue", Serving).await;
    reached(&mut events, &spec.id, InstanceState::Ready).await;
    health.set_service_status("queue", NotServing).await;
    reached(&mut events, &spec.id, InstanceState::Booting).await;
    server.abort();
}

/// It listens and is not ready: what it answers counts.
async fn until_said(harness: &Harness, id: &InstanceId, address: SocketAddr) {
    until("the gRPC server", || TcpStream::connect(address).is_ok()).await;
    let report = report_of(harness, id);
    assert_eq!(report.state, InstanceState::Booting);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_that_does_not_know_the_service_is_told() {
    let harness = Harness::process();
    let spec = InstanceSpec {
        boot_deadline_ms: 2_000,
        ..waits(1, readiness(probe(json!({"grpc": {"service": "queue"}}))))
    };
    let (mut events, address) = booting(&harness, &spec).await;
    let (_health, service) = tonic_health::server::health_reporter();
    let server = tonic::transport::Server::builder().add_service(service);
    let server = tokio::spawn(server.serve(address));
    let gone = reached(&mut events, &spec.id, InstanceState::Destroyed).await;
    let last = gone.last_output.last().unwrap();
    assert!(
        last.starts_with("readiness probe: grpc.health.v1.Health/Check failed with status 5"),
        "{last}"
    );
    server.abort();
}

/// What an engine runs is asked as a program is; the image holds nothing but the binary.
pub(super) async fn of_a_container(harness: Harness) {
    let nihilo = |args: &[&str]| {
        let mut command = vec!["/nihilo"];
        command.extend(args);
        // An engine on a busy machine takes its time.
        json!({"exec": {"command": command}, "timeoutSeconds": 15})
    };
    let probes = Probes {
        startup: each_second(nihilo(&["version"])),
        readiness: probe(json!({"httpGet": {"path": "/readyz"}})),
        liveness: None,
    };
    let good = InstanceSpec {
        probes,
        ..spec("demo/hello", 1)
    };
    harness.ready(&good).await;
    let probes = Probes {
        startup: each_second(nihilo(&["demo-app", "no-such-app"])),
        ..Probes::default()
    };
    let bad = InstanceSpec {
        probes,
        ..spec("demo/hello", 2)
    };
    let gone = harness.run(&bad).await;
    let cause = unhealthy(&gone, ProbeKind::Startup);
    assert!(
        cause.ends_with("ended with exit code 64: no demo app `no-such-app`"),
        "{cause}"
    );
}

fn report_of(harness: &Harness, id: &InstanceId) -> InstanceReport {
    let mut all = harness.agent.instances().into_iter();
    all.find(|(report, _)| report.id == *id).unwrap().0
}

async fn answers_off_thread(address: SocketAddr) -> bool {
    tokio::task::spawn_blocking(move || answers(address))
        .await
        .unwrap()
}

/// Looks until it is so, within [`LIMIT`].
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let mut looks = tokio::time::interval(Duration::from_millis(10));
    let deadline = std::time::Instant::now() + LIMIT;
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "no {what}");
        looks.tick().await;
    }
}
