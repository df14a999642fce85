//! Programs that outlive their node, and what its next process makes of them. A life of the node is
//! a runtime here: with its end no task of it does anything any more, as after kill -9.

use std::path::PathBuf;

use nihilo_runtime::logs::Output;
use tokio::runtime::Runtime;

use super::*;

/// One node's directory, and a life after the other in it.
pub(super) struct Node {
    pub(super) dir: tempfile::TempDir,
    first_port: u16,
    objects: Objects,
    pub(super) docker: DockerSettings,
}

impl Node {
    pub(super) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            first_port: free_ports(),
            objects: Objects::some(),
            docker: DockerSettings::default(),
        }
    }

    /// A life that ends when what is done in it is done.
    pub(super) fn live<T>(&self, life: impl AsyncFnOnce(&Life) -> T) -> T {
        self.live_as(true, life)
    }

    pub(super) fn live_as<T>(&self, adopts: bool, life: impl AsyncFnOnce(&Life) -> T) -> T {
        let runtime = Runtime::new().unwrap();
        let driver = DriverConfig::Process {
            first_port: self.first_port,
            settings: ProcessSettings {
                isolation: Isolation::None,
                ..ProcessSettings::default()
            },
            private: Vec::new(),
            docker: self.docker.clone(),
            adopts,
        };
        let done = runtime.block_on(async {
            let (agent, admission) = agent_with(self.dir.path(), driver, self.objects.clone());
            life(&Life { agent, admission }).await
        });
        runtime.shutdown_timeout(LIMIT);
        done
    }

    /// Starts an instance and leaves it running; returns what was reported of it.
    fn leave_running(&self, spec: &InstanceSpec, state: InstanceState) -> InstanceReport {
        let report = self.live(async |life| {
            life.agent.set_accepting(true);
            life.agent.start(SHARD, EPOCH, 1, spec.clone()).unwrap();
            life.becomes(&spec.id, state).await
        });
        assert!(is_alive(report.pid.unwrap()));
        report
    }

    fn instance_dir(&self, id: &InstanceId) -> PathBuf {
        self.dir.path().join("instances").join(id.as_str())
    }

    /// What was written down of starts and ends.
    pub(super) fn events(&self, event: &str) -> usize {
        let log = std::fs::read_to_string(self.dir.path().join("startstop.log")).unwrap();
        log.matches(&format!("\"event\":\"{event}\"")).count()
    }
}

impl Drop for Node {
    /// Its last process is told to stop: nothing of any before is left then.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.live(async |life| life.agent.shutdown(LEAVE_LIMIT).await);
            leftovers::assert_none(self.dir.path(), self.first_port..self.first_port + N_PORTS);
        }
        drop(end_everything(self.dir.path()));
    }
}

pub(super) struct Life {
    pub(super) agent: Agent,
    pub(super) admission: LocalInstances,
}

impl Life {
    pub(super) fn report(&self, id: &InstanceId) -> Option<(InstanceReport, Output)> {
        let mut all = self.agent.instances().into_iter();
        all.find(|(report, _)| report.id == *id)
    }

    pub(super) async fn becomes(&self, id: &InstanceId, state: InstanceState) -> InstanceReport {
        let mut events = self.agent.subscribe();
        let reached = async {
            loop {
                match self.report(id) {
                    Some((report, _)) if report.state == state => return report,
                    _ => drop(events.recv().await),
                }
            }
        };
        let in_time = tokio::time::timeout(LIMIT, reached).await;
        in_time.unwrap_or_else(|_| panic!("{id} has not become {state:?}"))
    }

    /// Waits until the instance has printed the line.
    pub(super) async fn prints(&self, id: &InstanceId, wanted: &str) {
        let (kept, mut later) = self.report(id).unwrap().1.follow();
        let is_it = |line: &[u8]| line == wanted.as_bytes();
        if kept.iter().any(|line| is_it(&line.line)) {
            return;
        }
        let printed = async { while !is_it(&later.recv().await.unwrap().line) {} };
        let in_time = tokio::time::timeout(LIMIT, printed).await;
        in_time.unwrap_or_else(|_| panic!("{id} has not printed {wanted}"));
    }
}

fn is_alive(pid: u32) -> bool {
    // Its words and variables are empty while it becomes another program; this is not.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    !after_name.is_empty() && !after_name.starts_with(['Z', 'X'])
}

/// Whoever asks first how a child of an earlier life has ended is told: the agent, or the runtime that it
/// was a child of. After kill -9 of a node nobody is; after a restart in place the agent is.
fn ended_somehow(report: &InstanceReport) -> bool {
    matches!(
        report.exit,
        Some(Exit::Unknown | Exit::Code(0) | Exit::Signal(9 | 15))
    )
}

pub(super) fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + LIMIT;
    while !is_so() {
        assert!(
            std::time::Instant::now() < deadline,
            "not within {LIMIT:?}: {what}"
        );
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// To every process of the session that an instance's first process leads.
pub(super) fn signal_session(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process_group(pid, signal).unwrap();
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let pid = pid.as_raw_nonzero().get().unsigned_abs();
    until("end of what was killed", || !is_alive(pid));
}

#[test]
fn a_start_that_was_noted_and_never_begun_is_noted_as_ended_once() {
    let node = Node::new();
    // As a node leaves it that is killed right after the note.
    let line =
        "{\"boottime_ns\":1,\"instance\":\"r-1-9\",\"epoch\":2,\"event\":\"spawn\",\"pid\":null}\n";
    std::fs::write(node.dir.path().join("startstop.log"), line).unwrap();
    for _ in 0..2 {
        node.live(async |_| ());
        assert_eq!((node.events("spawn"), node.events("exit")), (1, 1));
    }
}

#[test]
fn an_instance_outlives_its_node_and_serves_under_the_next_process() {
    let node = Node::new();
    let spec = spec("demo/hello", 1);
    let before = node.leave_running(&spec, InstanceState::Ready);
    node.live(async |life| {
        let listed = life.agent.list(&[(SHARD, EPOCH)], 1);
        assert_eq!(listed, Err(AgentError::NotReady), "before its session");
        life.agent.set_accepting(true);
        let ready = life.becomes(&spec.id, InstanceState::Ready).await;
        let same = |report: &InstanceReport| {
            let started = (report.spawned_after_ms, report.ready_after_ms);
            (report.pid, report.address, report.epoch, started)
        };
        assert_eq!(same(&ready), same(&before));
        assert!(ready.age_ms >= before.age_ms, "{ready:?} {before:?}");
        let listed = life.agent.list(&[(SHARD, EPOCH)], 1).unwrap();
        assert_eq!(listed.len(), 1);
        // It takes its place, and its owner may ask for it again.
        for counter in 2..=3 {
            let other = super::spec("demo/hello", counter);
            life.agent.start(SHARD, EPOCH, 2, other).unwrap();
        }
        let refused = life
            .agent
            .start(SHARD, EPOCH, 2, super::spec("demo/hello", 4));
        assert!(matches!(refused, Err(AgentError::NoCapacity { .. })));
        let again = life.agent.start(SHARD, EPOCH, 2, spec.clone()).unwrap();
        assert_eq!(again.pid, before.pid);
        let address = ready.address.unwrap();
        let served = tokio::task::spawn_blocking(move || answers(address));
        assert!(served.await.unwrap());
        assert!(life.admission.admit(&spec.id).is_ok());
        assert_eq!(node.events("exit"), 0);

        life.agent.stop(SHARD, EPOCH, 3, &spec.id, "test").unwrap();
        let gone = life.becomes(&spec.id, InstanceState::Destroyed).await;
        assert!(ended_somehow(&gone), "{gone:?}");
        assert!(!is_alive(before.pid.unwrap()));
        assert_eq!(node.events("exit"), 1);
        life.agent.shutdown(LIMIT).await;
    });
    assert_eq!((node.events("spawned"), node.events("exit")), (3, 3));
    node.live(async |life| {
        let remembered = life.agent.instances();
        assert_eq!(remembered.len(), 3);
        assert!(
            remembered
                .iter()
                .all(|(report, _)| !report.state.is_counted())
        );
    });
}

/// What is kept of an instance's output, as text.
pub(super) fn everything(output: &Output) -> String {
    let text = |line: nihilo_runtime::logs::LogLine| {
        let line = String::from_utf8_lossy(&line.line).into_owned();
        line + "\n"
    };
    output.everything().map(text).collect()
}

#[test]
fn what_ended_instances_said_outlives_their_node() {
    const SAID: &str = "starting\nconnecting to database\nDATABASE_URL is not set\n";
    let serves = format!(
        "echo here; exec {} demo-app hello",
        env!("CARGO_BIN_EXE_nihilo")
    );
    for adopts in [true, false] {
        let node = Node::new();
        let (crashed, running) = (spec("demo/crash", 1), shell(&serves, 2));
        let before = node.live_as(adopts, async |life| {
            life.agent.set_accepting(true);
            life.agent.start(SHARD, EPOCH, 1, crashed.clone()).unwrap();
            let before = life.becomes(&crashed.id, InstanceState::Destroyed).await;
            life.agent.start(SHARD, EPOCH, 1, running.clone()).unwrap();
            life.prints(&running.id, "here").await;
            life.becomes(&running.id, InstanceState::Ready).await;
            before
        });
        drop(end_everything(node.dir.path()));
        for _ in 0..2 {
            node.live_as(adopts, async |life| {
                let (report, output) = life.report(&crashed.id).unwrap();
                assert_eq!(report.state, InstanceState::Destroyed);
                assert_eq!(
                    (report.exit, report.last_output),
                    (before.exit.clone(), before.last_output.clone())
                );
                assert!(report.age_ms >= before.age_ms);
                assert_eq!(everything(&output), SAID);
                // This one ended with its node, or while it was away.
                let gone = life.becomes(&running.id, InstanceState::Destroyed).await;
                assert!(ended_somehow(&gone), "{gone:?}");
                let (_, output) = life.report(&running.id).unwrap();
                assert_eq!(everything(&output), "here\n");
            });
        }
    }
}

#[test]
fn a_third_process_adopts_what_the_second_did() {
    let node = Node::new();
    let spec = spec("demo/hello", 1);
    let before = node.leave_running(&spec, InstanceState::Ready);
    for _ in 0..2 {
        let pid = node.live(async |life| {
            let ready = life.becomes(&spec.id, InstanceState::Ready).await;
            ready.pid
        });
        assert_eq!(pid, before.pid);
    }
    node.live(async |life| life.agent.shutdown(LIMIT).await);
    assert!(!is_alive(before.pid.unwrap()));
}

#[test]
fn output_goes_on_and_nothing_printed_meanwhile_is_lost() {
    let node = Node::new();
    let flag = |name: &str| node.dir.path().join(name);
    // A line when it is asked for, and word of having lived through printing it.
    let script = format!(
        "say() {{ while [ ! -e {dir}/$1 ]; do sleep 0.01; done; echo $1; echo $1 >&2; \
         touch {dir}/$1.said; }}; echo begins; say away; say back; exec sleep 300",
        dir = node.dir.path().display()
    );
    let spec = shell(&script, 1);
    node.leave_running(&spec, InstanceState::Booting);
    std::fs::write(flag("away"), "").unwrap();
    until("word of the instance", || flag("away.said").exists());
    node.live(async |life| {
        life.prints(&spec.id, "away").await;
        std::fs::write(flag("back"), "").unwrap();
        life.prints(&spec.id, "back").await;
        life.agent.shutdown(Duration::ZERO).await;
    });
    let file = std::fs::read_to_string(node.instance_dir(&spec.id).join("output.log")).unwrap();
    for word in ["away", "back"] {
        assert_eq!(
            file.lines().filter(|line| *line == word).count(),
            2,
            "{file}"
        );
    }
}

#[test]
fn one_that_died_while_its_node_was_away_is_reported_and_leaves_nothing() {
    let node = Node::new();
    let script = format!(
        "setsid sleep 300 & echo $! > {}/stray; exec {} demo-app hello",
        node.dir.path().display(),
        env!("CARGO_BIN_EXE_nihilo")
    );
    let spec = shell(&script, 1);
    let before = node.leave_running(&spec, InstanceState::Ready);
    let stray = std::fs::read_to_string(node.dir.path().join("stray")).unwrap();
    let stray = stray.trim().parse().unwrap();
    kill(before.pid.unwrap());
    assert!(is_alive(stray));
    node.live(async |life| {
        life.agent.set_accepting(true);
        let gone = life.becomes(&spec.id, InstanceState::Destroyed).await;
        assert!(ended_somehow(&gone), "{gone:?}");
        assert!(!is_alive(stray));
        assert!(life.agent.list(&[(SHARD, EPOCH)], 1).unwrap().is_empty());
    });
    assert_eq!(node.events("exit"), 1);
}

#[test]
fn what_was_provided_outlives_the_node_and_files_follow_their_objects_again() {
    if !config::may_mount() {
        return;
    }
    let (node, at) = (Node::new(), config::MountPoint::new());
    let check = format!(
        "test ${{#PASSWORD}} = 7 && test \"$(cat '{}')\" = changed",
        at.path("db/password")
    );
    let template = config::volumes_and_variable(&at);
    let mut spec = config::configured(shell("exec tail -f /dev/null", 1), &template);
    spec.probes.readiness = Some(Box::new(config::asks(&check)));
    node.leave_running(&spec, InstanceState::Booting);
    let handle = std::fs::read_to_string(node.instance_dir(&spec.id).join("handle")).unwrap();
    assert!(
        handle.contains("secret") || handle.contains("Secret"),
        "{handle}"
    );
    assert!(!handle.contains("hunter2"), "{handle}");
    let holder = nihilo_types::instance_config::Holder::Secret;
    node.objects
        .put(holder, "db", &[("password", "changed"), ("user", "u")]);
    node.live(async |life| {
        // A command inside has the environment of the start, and sees the files of now.
        life.becomes(&spec.id, InstanceState::Ready).await;
    });
}

#[test]
fn one_that_was_told_to_end_ends_under_the_next_process() {
    let node = Node::new();
    let spec = InstanceSpec {
        termination_grace_ms: 3_000,
        ..spec("demo/ignore-term", 1)
    };
    let pid = node.live(async |life| {
        life.agent.set_accepting(true);
        life.agent.start(SHARD, EPOCH, 1, spec.clone()).unwrap();
        life.becomes(&spec.id, InstanceState::Ready).await;
        life.agent.stop(SHARD, EPOCH, 2, &spec.id, "test").unwrap();
        let handle = node.instance_dir(&spec.id).join("handle");
        until("word that it ends", || {
            std::fs::read_to_string(&handle).is_ok_and(|text| text.contains("Stopping"))
        });
        life.report(&spec.id).unwrap().0.pid.unwrap()
    });
    assert!(is_alive(pid));
    node.live(async |life| {
        assert!(life.admission.admit(&spec.id).is_err());
        let gone = life.becomes(&spec.id, InstanceState::Destroyed).await;
        assert!(ended_somehow(&gone), "{gone:?}");
        assert!(!is_alive(pid));
        assert!(life.admission.admit(&spec.id).is_err());
    });
}

#[test]
fn what_a_torn_handle_was_of_is_ended_and_what_is_not_ours_is_left_alone() {
    let node = Node::new();
    let (torn, foreign) = (spec("demo/hello", 1), spec("demo/hello", 2));
    let of_torn = node.leave_running(&torn, InstanceState::Ready).pid.unwrap();
    let handle = node.instance_dir(&torn.id).join("handle");
    let bytes = std::fs::read(&handle).unwrap();
    std::fs::write(&handle, &bytes[..bytes.len() / 2]).unwrap();
    node.live(async |life| {
        until("end of the unknown", || !is_alive(of_torn));
        // Noted once it is gone, which is a moment later.
        until("word of its end", || node.events("exit") == 1);
        assert!(life.agent.instances().is_empty());
    });

    // Its number stands in the handle, and it carries another directory's mark.
    let of_foreign = node.leave_running(&foreign, InstanceState::Ready);
    let mark = node.dir.path().join("mark");
    let own = std::fs::read(&mark).unwrap();
    std::fs::write(&mark, "another").unwrap();
    node.live(async |life| {
        let gone = life.becomes(&foreign.id, InstanceState::Destroyed).await;
        assert!(ended_somehow(&gone), "{gone:?}");
    });
    let pid = of_foreign.pid.unwrap();
    assert!(is_alive(pid));
    kill(pid);
    // Its group goes by the mark that it was made with.
    std::fs::write(mark, own).unwrap();
    end_everything(node.dir.path()).unwrap();
}

#[test]
fn a_process_that_adopts_nothing_ends_what_it_finds() {
    let node = Node::new();
    let spec = spec("demo/hello", 1);
    let before = node.leave_running(&spec, InstanceState::Ready);
    node.live_as(false, async |life| {
        let gone = life.becomes(&spec.id, InstanceState::Destroyed).await;
        assert!(ended_somehow(&gone), "{gone:?}");
    });
    assert!(!is_alive(before.pid.unwrap()));
    assert_eq!(node.events("exit"), 1);
}

/// Takes as long as two looks lie apart.
#[test]
fn what_belongs_to_no_instance_is_swept_once_there_is_a_session() {
    let node = Node::new();
    let (orphan, known) = (spec("demo/hello", 1), spec("demo/hello", 2));
    let of_orphan = node
        .leave_running(&orphan, InstanceState::Ready)
        .pid
        .unwrap();
    std::fs::remove_dir_all(node.instance_dir(&orphan.id)).unwrap();
    let of_known = node
        .leave_running(&known, InstanceState::Ready)
        .pid
        .unwrap();
    node.live(async |life| {
        life.agent.set_accepting(true);
        let swept = tokio::task::spawn_blocking(move || {
            until("end of the orphan", || !is_alive(of_orphan));
        });
        swept.await.unwrap();
        assert!(is_alive(of_known));
        life.agent.shutdown(LIMIT).await;
    });
}
