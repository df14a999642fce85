//! Instances without cpu: what they keep, what they miss, and how they come back or go.

use std::time::Instant;

use super::adoption::Node;
use super::*;

/// What is watched has its part of two cores for so long, if it runs.
const SPAN: Duration = Duration::from_millis(200);
/// 06-runtime, bars: a thaw's p99; held here in the median, on machines that do other things too.
const THAW_LIMIT: Duration = Duration::from_millis(10);
const N_THAWS: usize = 100;

/// A neighbour's work.
fn work() {
    let until = Instant::now() + SPAN;
    while Instant::now() < until {
        std::hint::spin_loop();
    }
}

/// Serves, while another process of it burns cpu as fast as it can.
fn burning(counter: u64) -> InstanceSpec {
    let nihilo = env!("CARGO_BIN_EXE_nihilo");
    let script = format!("while :; do :; done & exec {nihilo} demo-app hello");
    shell(&script, counter)
}

/// Nanoseconds that its processes, all of one session, have had a processor.
fn cpu_ns(pid: u32) -> u64 {
    let processes = std::fs::read_dir("/proc").unwrap();
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let session = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, after_name) = stat.rsplit_once(") ")?;
        after_name.split(' ').nth(3)?.parse::<u32>().ok()
    };
    let members: Vec<_> = pids.filter(|other| session(*other) == Some(pid)).collect();
    assert!(members.len() >= 2, "{members:?}");
    let spent = members.iter().map(|pid| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
        text.split(' ').next().unwrap().parse::<u64>().unwrap()
    });
    spent.sum()
}

/// Whether its processes get no cpu while there is some.
fn is_still(pid: u32) -> bool {
    let before = cpu_ns(pid);
    work();
    cpu_ns(pid) == before
}

impl Harness {
    fn freeze(&self, seq: u64, id: &InstanceId) -> Result<(), AgentError> {
        self.agent.freeze(SHARD, EPOCH, seq, id)
    }

    fn thaw(&self, seq: u64, id: &InstanceId) -> Result<(), AgentError> {
        self.agent.reopen(SHARD, EPOCH, seq, id)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_frozen_answers_nobody_and_goes_on_where_it_was() {
    each_driver(frozen_and_thawed).await;
}

pub(super) async fn frozen_and_thawed(harness: Harness) {
    let spec = spec("demo/hello", 1);
    let mut events = harness.agent.subscribe();
    harness.start(&spec).unwrap();
    assert_eq!(harness.freeze(2, &spec.id), Err(AgentError::TooLate));
    let ready = reached(&mut events, &spec.id, InstanceState::Ready).await;
    let address = ready.address.unwrap();
    let request = harness.admission.admit(&spec.id).unwrap();
    harness.freeze(3, &spec.id).unwrap();
    let draining = reached(&mut events, &spec.id, InstanceState::Draining).await;
    assert_eq!(draining.in_flight, 1);
    assert!(harness.admission.admit(&spec.id).is_err());
    drop(request);
    let frozen = reached(&mut events, &spec.id, InstanceState::Frozen).await;
    assert_eq!((frozen.pid, frozen.exit), (ready.pid, None));
    assert!(harness.admission.admit(&spec.id).is_err());
    let listed = harness.agent.list(&[(SHARD, EPOCH)], 4).unwrap();
    assert_eq!(listed[0].state, InstanceState::Frozen);
    // Not by an owner of the past, and not by a call from before that list.
    let earlier = harness.agent.reopen(SHARD, Epoch(EPOCH.0 - 1), 9, &spec.id);
    assert_eq!(earlier, Err(AgentError::StaleEpoch { floor: EPOCH }));
    assert_eq!(harness.thaw(3, &spec.id), Err(AgentError::StaleSeq));
    // An owner that has missed it asks again, and is told again.
    harness.freeze(5, &spec.id).unwrap();
    reached(&mut events, &spec.id, InstanceState::Frozen).await;
    // The kernel takes the connection; the app does not.
    let asked = tokio::task::spawn_blocking(move || answers(address));
    tokio::task::spawn_blocking(work).await.unwrap();
    assert!(!asked.is_finished());
    harness.thaw(6, &spec.id).unwrap();
    let again = reached(&mut events, &spec.id, InstanceState::Ready).await;
    assert_eq!((again.pid, again.address), (ready.pid, ready.address));
    assert!(asked.await.unwrap());
    assert!(harness.admission.admit(&spec.id).is_ok());
    let log = std::fs::read_to_string(harness.dir.path().join("startstop.log")).unwrap();
    assert_eq!(log.lines().count(), 2, "a start, and nothing since: {log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_freeze_is_called_off_while_requests_end() {
    each_driver(freeze_called_off).await;
}

pub(super) async fn freeze_called_off(harness: Harness) {
    let spec = spec("demo/hello", 1);
    let mut events = harness.ready(&spec).await;
    let request = harness.admission.admit(&spec.id).unwrap();
    harness.freeze(2, &spec.id).unwrap();
    reached(&mut events, &spec.id, InstanceState::Draining).await;
    harness.thaw(3, &spec.id).unwrap();
    reached(&mut events, &spec.id, InstanceState::Ready).await;
    drop(harness.admission.admit(&spec.id).unwrap());
    // Told to go instead, it goes.
    harness.freeze(4, &spec.id).unwrap();
    reached(&mut events, &spec.id, InstanceState::Draining).await;
    harness.drain(&spec.id);
    drop(request);
    let gone = reached(&mut events, &spec.id, InstanceState::Destroyed).await;
    assert!(gone.exit.is_some());
    assert_eq!(harness.thaw(5, &spec.id), Err(AgentError::TooLate));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_one_that_is_stopped_hears_of_it() {
    each_driver(stopped_frozen).await;
}

pub(super) async fn stopped_frozen(harness: Harness) {
    let spec = spec("demo/hello", 1);
    let mut events = harness.ready(&spec).await;
    harness.freeze(2, &spec.id).unwrap();
    reached(&mut events, &spec.id, InstanceState::Frozen).await;
    harness.drain(&spec.id);
    let gone = reached(&mut events, &spec.id, InstanceState::Destroyed).await;
    assert_eq!(gone.exit, Some(Exit::Code(0)), "its own end, by SIGTERM");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_lets_its_frozen_instances_end() {
    each_driver(leaves_frozen).await;
}

pub(super) async fn leaves_frozen(harness: Harness) {
    let spec = spec("demo/hello", 1);
    let mut events = harness.ready(&spec).await;
    harness.freeze(2, &spec.id).unwrap();
    reached(&mut events, &spec.id, InstanceState::Frozen).await;
    harness.agent.shutdown(LIMIT).await;
    let gone = reached(&mut events, &spec.id, InstanceState::Destroyed).await;
    assert_eq!(gone.exit, Some(Exit::Code(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_node_lets_a_frozen_instance_go_for_the_next_start() {
    each_driver(makes_room).await;
}

async fn makes_room(harness: Harness) {
    let mut events = harness.agent.subscribe();
    for counter in 1..=3 {
        let spec = spec("demo/hello", counter);
        harness.start(&spec).unwrap();
        reached(&mut events, &spec.id, InstanceState::Ready).await;
    }
    for counter in [2, 3] {
        let id = spec("demo/hello", counter).id;
        harness.freeze(2, &id).unwrap();
        reached(&mut events, &id, InstanceState::Frozen).await;
    }
    let next = spec("demo/hello", 4);
    let refused = harness.start(&next);
    assert!(matches!(refused, Err(AgentError::NoCapacity { .. })));
    // However often it asks while the first one goes, no other one goes for it.
    while let Err(refused) = harness.start(&next) {
        assert!(matches!(refused, AgentError::NoCapacity { .. }));
        let changed = tokio::time::timeout(LIMIT, events.recv()).await;
        changed.expect("it goes").unwrap();
    }
    reached(&mut events, &next.id, InstanceState::Ready).await;
    let states = harness.agent.instances().into_iter();
    let frozen = states.filter(|(report, _)| report.state == InstanceState::Frozen);
    let frozen: Vec<_> = frozen.map(|(report, _)| report.id).collect();
    assert_eq!(frozen, [spec("demo/hello", 3).id], "the longest has gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_frozen_program_takes_cpu() {
    for harness in Harness::of_programs() {
        let spec = burning(1);
        let mut events = harness.agent.subscribe();
        harness.start(&spec).unwrap();
        let pid = reached(&mut events, &spec.id, InstanceState::Ready).await;
        let pid = pid.pid.unwrap();
        let still = move || tokio::task::spawn_blocking(move || is_still(pid));
        assert!(!still().await.unwrap());
        harness.freeze(2, &spec.id).unwrap();
        reached(&mut events, &spec.id, InstanceState::Frozen).await;
        assert!(still().await.unwrap());
        harness.thaw(3, &spec.id).unwrap();
        reached(&mut events, &spec.id, InstanceState::Ready).await;
        assert!(!still().await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_killed_while_it_is_frozen_is_gone() {
    for harness in Harness::of_programs() {
        let spec = spec("demo/hello", 1);
        let mut events = harness.ready(&spec).await;
        harness.freeze(2, &spec.id).unwrap();
        let frozen = reached(&mut events, &spec.id, InstanceState::Frozen).await;
        let pid = i32::try_from(frozen.pid.unwrap()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let gone = reached(&mut events, &spec.id, InstanceState::Destroyed).await;
        assert_eq!(gone.exit, Some(Exit::Signal(9)));
        assert_eq!(harness.thaw(3, &spec.id), Err(AgentError::TooLate));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_does_not_fail_for_its_instance_being_frozen() {
    use nihilo_types::probe::{HttpGetAction, Probe};
    let impatient = Probe {
        http_get: Some(HttpGetAction {
            path: "/healthz".into(),
            ..HttpGetAction::default()
        }),
        initial_delay_seconds: Some(1),
        period_seconds: Some(1),
        timeout_seconds: Some(1),
        failure_threshold: Some(1),
        ..Probe::default()
    };
    let probes = Probes {
        liveness: Some(Box::new(impatient.clone())),
        readiness: Some(Box::new(impatient)),
        startup: None,
    };
    let harness = Harness::process();
    let spec = InstanceSpec {
        probes,
        ..spec("demo/echo", 1)
    };
    let mut events = harness.ready(&spec).await;
    harness.freeze(2, &spec.id).unwrap();
    reached(&mut events, &spec.id, InstanceState::Frozen).await;
    // Two of its periods, and the time that each has.
    let anything = tokio::time::timeout(Duration::from_millis(3_500), events.recv());
    assert!(anything.await.is_err());
    harness.thaw(3, &spec.id).unwrap();
    let woken = reached(&mut events, &spec.id, InstanceState::Booting).await;
    let ready = reached(&mut events, &spec.id, InstanceState::Ready).await;
    let waited = ready.age_ms - woken.age_ms;
    assert!(waited < 500, "not for its period, but {waited} ms");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thaw_takes_no_longer_than_it_is_said_to() {
    for harness in Harness::of_programs() {
        let spec = spec("demo/hello", 1);
        let mut events = harness.ready(&spec).await;
        let mut thaws = Vec::with_capacity(N_THAWS);
        for n in 0..N_THAWS as u64 {
            harness.freeze(2 * n + 2, &spec.id).unwrap();
            reached(&mut events, &spec.id, InstanceState::Frozen).await;
            let begun = Instant::now();
            harness.thaw(2 * n + 3, &spec.id).unwrap();
            reached(&mut events, &spec.id, InstanceState::Ready).await;
            thaws.push(begun.elapsed());
        }
        thaws.sort();
        let (median, p99) = (thaws[N_THAWS / 2], thaws[N_THAWS * 99 / 100]);
        println!("thaw to ready: median {median:?}, p99 {p99:?}, of {N_THAWS}");
        assert!(median <= THAW_LIMIT, "{median:?}");
    }
}

/// Starts an instance and leaves it frozen; returns its first process.
fn leave_frozen(node: &Node, spec: &InstanceSpec) -> u32 {
    node.live(async |life| {
        life.agent.set_accepting(true);
        life.agent.start(SHARD, EPOCH, 1, spec.clone()).unwrap();
        life.becomes(&spec.id, InstanceState::Ready).await;
        life.agent.freeze(SHARD, EPOCH, 2, &spec.id).unwrap();
        let frozen = life.becomes(&spec.id, InstanceState::Frozen).await;
        frozen.pid.unwrap()
    })
}

#[test]
fn a_frozen_instance_outlives_its_node_and_is_thawed_by_the_next_process() {
    let node = Node::new();
    let spec = burning(1);
    let pid = leave_frozen(&node, &spec);
    assert!(is_still(pid), "with its node gone");
    node.live(async |life| {
        // Told so before anybody asks, and nothing is sent to it.
        let (found, _) = life.report(&spec.id).unwrap();
        assert_eq!((found.state, found.pid), (InstanceState::Frozen, Some(pid)));
        assert!(life.admission.admit(&spec.id).is_err());
        life.agent.set_accepting(true);
        let listed = life.agent.list(&[(SHARD, EPOCH)], 1).unwrap();
        assert_eq!(listed[0].state, InstanceState::Frozen);
        assert!(is_still(pid));
        life.agent.reopen(SHARD, EPOCH, 2, &spec.id).unwrap();
        let ready = life.becomes(&spec.id, InstanceState::Ready).await;
        assert_eq!(ready.pid, Some(pid));
        let address = ready.address.unwrap();
        let served = tokio::task::spawn_blocking(move || answers(address));
        assert!(served.await.unwrap());
        assert!(life.admission.admit(&spec.id).is_ok());
        life.agent.freeze(SHARD, EPOCH, 3, &spec.id).unwrap();
        life.becomes(&spec.id, InstanceState::Frozen).await;
    });
    // And is stopped by another one still.
    node.live(async |life| {
        life.agent.set_accepting(true);
        life.agent.stop(SHARD, EPOCH, 4, &spec.id, "test").unwrap();
        life.becomes(&spec.id, InstanceState::Destroyed).await;
    });
    assert_eq!((node.events("spawned"), node.events("exit")), (1, 1));
}

#[test]
fn one_that_its_node_was_about_to_freeze_is_frozen_by_the_next_process() {
    let node = Node::new();
    let spec = burning(1);
    let pid = leave_frozen(&node, &spec);
    // As if the note had been written, and the node had died right after it.
    super::adoption::signal_session(pid, rustix::process::Signal::CONT);
    node.live(async |life| {
        life.agent.set_accepting(true);
        let listed = life.agent.list(&[(SHARD, EPOCH)], 1).unwrap();
        assert_eq!(listed[0].state, InstanceState::Frozen);
        let deadline = Instant::now() + LIMIT;
        while !is_still(pid) {
            assert!(Instant::now() < deadline, "it is left running");
        }
        life.agent.shutdown(LIMIT).await;
    });
    assert_eq!(node.events("exit"), 1);
}

#[test]
fn a_frozen_instance_ends_with_a_node_that_adopts_none() {
    let node = Node::new();
    let spec = burning(1);
    let pid = leave_frozen(&node, &spec);
    node.live_as(false, async |life| {
        life.becomes(&spec.id, InstanceState::Destroyed).await;
    });
    assert!(!std::path::Path::new(&format!("/proc/{pid}/exe")).exists());
}
