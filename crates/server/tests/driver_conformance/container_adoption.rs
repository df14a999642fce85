//! Containers that outlive their node, and what its next process makes of them. As in `adoption.rs`, a
//! life of the node is a runtime here.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use tokio::runtime::Runtime;

use super::adoption::{Node, everything, until};
use super::*;

/// Told at its start by the app that never listens.
const SAID: &str = "starting, and never listening\n";

struct Cluster {
    image: TestImage,
    node: Node,
}

impl Cluster {
    /// An instance of a demo app in a container.
    fn spec(&self, app: &str, counter: u64) -> InstanceSpec {
        contained(&spec(app, counter), self.image.name())
    }

    fn leave_running(&self, spec: &InstanceSpec, state: InstanceState) -> InstanceReport {
        self.node.live(async |life| {
            life.agent.set_accepting(true);
            life.agent.start(SHARD, EPOCH, 1, spec.clone()).unwrap();
            life.becomes(&spec.id, state).await
        })
    }

    fn wait_none_left(&self, what: &str) {
        let deadline = std::time::Instant::now() + LIMIT;
        while !self.image.containers().is_empty() {
            assert!(std::time::Instant::now() < deadline, "left: {what}");
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}

#[test]
fn containers_outlive_their_node_and_are_adopted() {
    let Some(image) = TestImage::make("adoption") else {
        return;
    };
    let mut cluster = Cluster {
        image,
        node: Node::new(),
    };
    for (what, check) in [
        ("serves on", serves_on as fn(&mut Cluster)),
        ("ended meanwhile", ended_meanwhile),
        ("removed meanwhile", removed_meanwhile),
        ("frozen", frozen),
        ("paused by somebody", paused_by_somebody),
        ("told to end", told_to_end),
        ("its output", its_output),
        ("an engine that breaks off", an_engine_that_breaks_off),
        ("ended without an agent", ended_without_an_agent),
        ("not wanted any more", not_wanted_any_more),
        ("what a power cut leaves", what_a_power_cut_leaves),
    ] {
        eprintln!("{what}");
        cluster.node = Node::new();
        check(&mut cluster);
        cluster.wait_none_left(what);
    }
}

/// The engine remembers a container of which the node does not.
fn what_a_power_cut_leaves(cluster: &mut Cluster) {
    cluster.leave_running(&cluster.spec("demo/hello", 1), InstanceState::Ready);
    let dir = cluster.node.dir.path();
    std::fs::remove_dir_all(dir.join("instances")).unwrap();
    for note in ["docker", "startstop.log"] {
        std::fs::remove_file(dir.join(note)).unwrap();
    }
    assert_eq!(cluster.image.containers().len(), 1);
    let spec = cluster.spec("demo/hello", 2);
    cluster.node.live(async |life| {
        life.agent.set_accepting(true);
        life.agent.start(SHARD, EPOCH, 1, spec.clone()).unwrap();
        life.becomes(&spec.id, InstanceState::Ready).await;
        assert_eq!(cluster.image.containers().len(), 1);
        life.agent.stop(SHARD, EPOCH, 2, &spec.id, "test").unwrap();
        life.becomes(&spec.id, InstanceState::Destroyed).await;
    });
}

fn frozen(cluster: &mut Cluster) {
    let spec = cluster.spec("demo/hello", 1);
    let before = cluster.node.live(async |life| {
        life.agent.set_accepting(true);
        life.agent.start(SHARD, EPOCH, 1, spec.clone()).unwrap();
        life.becomes(&spec.id, InstanceState::Ready).await;
        life.agent.freeze(SHARD, EPOCH, 2, &spec.id).unwrap();
        life.becomes(&spec.id, InstanceState::Frozen).await
    });
    cluster.node.live(async |life| {
        life.agent.set_accepting(true);
        let (found, _) = life.report(&spec.id).unwrap();
        assert_eq!(found.state, InstanceState::Frozen);
        life.agent.reopen(SHARD, EPOCH, 3, &spec.id).unwrap();
        let ready = life.becomes(&spec.id, InstanceState::Ready).await;
        assert_eq!((ready.pid, ready.address), (before.pid, before.address));
        let address = ready.address.unwrap();
        let served = tokio::task::spawn_blocking(move || answers(address));
        assert!(served.await.unwrap());
        life.agent.freeze(SHARD, EPOCH, 4, &spec.id).unwrap();
        life.becomes(&spec.id, InstanceState::Frozen).await;
    });
    cluster.node.live(async |life| {
        life.agent.set_accepting(true);
        life.agent.stop(SHARD, EPOCH, 5, &spec.id, "test").unwrap();
        life.becomes(&spec.id, InstanceState::Destroyed).await;
    });
}

/// Or by a node that died before it could take its note back.
fn paused_by_somebody(cluster: &mut Cluster) {
    let spec = cluster.spec("demo/hello", 1);
    cluster.leave_running(&spec, InstanceState::Ready);
    let [container] = <[String; 1]>::try_from(cluster.image.containers()).unwrap();
    must(docker(&["pause", &container]));
    cluster.node.live(async |life| {
        let ready = life.becomes(&spec.id, InstanceState::Ready).await;
        let address = ready.address.unwrap();
        let served = tokio::task::spawn_blocking(move || answers(address));
        assert!(served.await.unwrap());
        life.agent.set_accepting(true);
        life.agent.stop(SHARD, EPOCH, 3, &spec.id, "test").unwrap();
        life.becomes(&spec.id, InstanceState::Destroyed).await;
    });
}

fn serves_on(cluster: &mut Cluster) {
    let spec = cluster.spec("demo/hello", 1);
    let before = cluster.leave_running(&spec, InstanceState::Ready);
    for _ in 0..2 {
        cluster.node.live(async |life| {
            let ready = life.becomes(&spec.id, InstanceState::Ready).await;
            let same = |report: &InstanceReport| (report.pid, report.address, report.epoch);
            assert_eq!(same(&ready), same(&before));
            assert!(ready.age_ms >= before.age_ms);
            let address = ready.address.unwrap();
            let served = tokio::task::spawn_blocking(move || answers(address));
            assert!(served.await.unwrap());
            assert!(life.admission.admit(&spec.id).is_ok());
            life.agent.set_accepting(true);
            let listed = life.agent.list(&[(SHARD, EPOCH)], 1).unwrap();
            assert_eq!(listed.len(), 1);
        });
    }
    cluster.node.live(async |life| {
        life.becomes(&spec.id, InstanceState::Ready).await;
        life.agent.set_accepting(true);
        life.agent.stop(SHARD, EPOCH, 3, &spec.id, "test").unwrap();
        let gone = life.becomes(&spec.id, InstanceState::Destroyed).await;
        // The engine knows how it ended, whoever started it.
        assert!(
            matches!(gone.exit, Some(Exit::Code(0 | 143) | Exit::Signal(15))),
            "{gone:?}"
        );
    });
    assert_eq!(cluster.node.events("exit"), 1);
}

fn ended_meanwhile(cluster: &mut Cluster) {
    let spec = cluster.spec("demo/hello", 1);
    cluster.leave_running(&spec, InstanceState::Ready);
    let [container] = <[String; 1]>::try_from(cluster.image.containers()).unwrap();
    must(docker(&["kill", "--signal", "KILL", &container]));
    cluster.node.live(async |life| {
        let gone = life.becomes(&spec.id, InstanceState::Destroyed).await;
        assert_eq!(gone.exit, Some(Exit::Signal(9)));
    });
}

fn removed_meanwhile(cluster: &mut Cluster) {
    let spec = cluster.spec("demo/hello", 1);
    cluster.leave_running(&spec, InstanceState::Ready);
    let [container] = <[String; 1]>::try_from(cluster.image.containers()).unwrap();
    must(docker(&["rm", "--force", &container]));
    cluster.node.live(async |life| {
        let gone = life.becomes(&spec.id, InstanceState::Destroyed).await;
        assert_eq!(gone.exit, Some(Exit::Unknown));
    });
    assert_eq!(cluster.node.events("exit"), 1);
}

fn told_to_end(cluster: &mut Cluster) {
    let spec = InstanceSpec {
        termination_grace_ms: 60_000,
        ..cluster.spec("demo/ignore-term", 1)
    };
    cluster.node.live(async |life| {
        life.agent.set_accepting(true);
        life.agent.start(SHARD, EPOCH, 1, spec.clone()).unwrap();
        life.becomes(&spec.id, InstanceState::Ready).await;
        life.agent.stop(SHARD, EPOCH, 2, &spec.id, "test").unwrap();
        life.becomes(&spec.id, InstanceState::Stopping).await;
    });
    cluster.node.live(async |life| {
        let (report, _) = life.report(&spec.id).unwrap();
        assert_eq!(report.state, InstanceState::Stopping);
        assert!(life.admission.admit(&spec.id).is_err());
        life.agent.shutdown(Duration::ZERO).await;
        let gone = life.becomes(&spec.id, InstanceState::Destroyed).await;
        assert_eq!(gone.exit, Some(Exit::Signal(9)));
    });
}

fn its_output(cluster: &mut Cluster) {
    let spec = InstanceSpec {
        boot_deadline_ms: 60_000,
        ..cluster.spec("demo/never-ready", 1)
    };
    let before = cluster.node.live(async |life| {
        life.agent.set_accepting(true);
        life.agent.start(SHARD, EPOCH, 1, spec.clone()).unwrap();
        life.prints(&spec.id, SAID.trim()).await;
        life.becomes(&spec.id, InstanceState::Booting).await
    });
    // Into what the app writes to, where this test may.
    let stdout = format!("/proc/{}/fd/1", before.pid.unwrap());
    let open = || std::fs::OpenOptions::new().write(true).open(&stdout);
    let may_write = open().is_ok();
    let say = |text: &str| {
        if may_write {
            open().unwrap().write_all(text.as_bytes()).unwrap();
        }
    };
    say("away\n");
    let wanted = |later: &str| match may_write {
        true => format!("{SAID}away\n{later}"),
        false => SAID.into(),
    };
    cluster.node.live(async |life| {
        life.becomes(&spec.id, InstanceState::Booting).await;
        life.prints(&spec.id, SAID.trim()).await;
        if may_write {
            life.prints(&spec.id, "away").await;
            say("back\n");
            life.prints(&spec.id, "back").await;
        }
        life.agent.shutdown(Duration::ZERO).await;
        let (_, output) = life.report(&spec.id).unwrap();
        assert_eq!(everything(&output), wanted("back\n"));
    });
    // And once more, of one that has ended.
    cluster.node.live(async |life| {
        let (_, output) = life.report(&spec.id).unwrap();
        assert_eq!(everything(&output), wanted("back\n"));
    });
}

/// What was kept is there until all of it has come again, and is not there twice then.
fn an_engine_that_breaks_off(cluster: &mut Cluster) {
    let spec = InstanceSpec {
        boot_deadline_ms: 60_000,
        ..cluster.spec("demo/never-ready", 1)
    };
    cluster.node.live(async |life| {
        life.agent.set_accepting(true);
        life.agent.start(SHARD, EPOCH, 1, spec.clone()).unwrap();
        life.prints(&spec.id, SAID.trim()).await;
        life.becomes(&spec.id, InstanceState::Booting).await;
    });
    let cutter = Cutter::before(&DockerSettings::default().socket, cluster.node.dir.path());
    cluster.node.docker.socket = cutter.socket.clone();
    cluster.node.live(async |life| {
        life.prints(&spec.id, SAID.trim()).await;
        // What was kept is shown before the engine is asked.
        let is_cut = || cutter.n_cut.load(Ordering::SeqCst) == 1;
        tokio::task::block_in_place(|| until("an answer that breaks off", is_cut));
        life.agent.shutdown(Duration::ZERO).await;
        let (_, output) = life.report(&spec.id).unwrap();
        assert_eq!(everything(&output), SAID);
    });
}

/// Between a node and the engine: the first answer with what a container has said breaks off in the middle.
struct Cutter {
    socket: PathBuf,
    n_cut: Arc<AtomicU16>,
}

impl Cutter {
    fn before(engine: &Path, dir: &Path) -> Self {
        let socket = dir.join("cut.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let n_cut = Arc::new(AtomicU16::new(0));
        let (engine, cut) = (engine.to_owned(), n_cut.clone());
        std::thread::spawn(move || {
            for node in listener.incoming().flatten() {
                let engine = UnixStream::connect(&engine).unwrap();
                between(&node, &engine, &cut);
            }
        });
        Self { socket, n_cut }
    }
}

fn between(node: &UnixStream, engine: &UnixStream, n_cut: &Arc<AtomicU16>) {
    let is_to_cut = Arc::new(AtomicBool::new(false));
    let ends = || (node.try_clone().unwrap(), engine.try_clone().unwrap());
    let (mut asks, mut hears) = ends();
    let (cut, cuts) = (is_to_cut.clone(), n_cut.clone());
    std::thread::spawn(move || {
        pass(&mut asks, &mut hears, |bytes| {
            let text = String::from_utf8_lossy(bytes);
            let is_first = || {
                cuts.compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst)
                    .is_ok()
            };
            if text.contains("/logs?") && text.contains("until=") && is_first() {
                cut.store(true, Ordering::SeqCst);
            }
            bytes.len()
        });
    });
    let (mut answered, mut answers) = ends();
    std::thread::spawn(move || {
        pass(&mut answers, &mut answered, |bytes| {
            match is_to_cut.load(Ordering::SeqCst) {
                true => bytes.len() / 2,
                false => bytes.len(),
            }
        });
    });
}

/// Until one of them has ended, or `n_passed` is less than there was.
fn pass(from: &mut UnixStream, to: &mut UnixStream, n_passed: impl Fn(&[u8]) -> usize) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = from.read(&mut bytes) {
        let n_kept = n_passed(&bytes[..n]);
        if to.write_all(&bytes[..n_kept]).is_err() || n_kept < n {
            break;
        }
    }
    for end in [from, to] {
        drop(end.shutdown(std::net::Shutdown::Both));
    }
}

fn ended_without_an_agent(cluster: &mut Cluster) {
    let spec = cluster.spec("demo/hello", 1);
    cluster.leave_running(&spec, InstanceState::Ready);
    assert_eq!(cluster.image.containers().len(), 1);
    let ended = Runtime::new()
        .unwrap()
        .block_on(nihilo_runtime::docker::end_everything(
            DockerSettings::default(),
            cluster.node.dir.path(),
        ));
    ended.unwrap();
    assert_eq!(cluster.image.containers(), Vec::<String>::new());
    // Where none ever was, no engine is asked.
    let dir = tempfile::tempdir().unwrap();
    let none = DockerSettings {
        socket: dir.path().join("none.sock"),
        ..DockerSettings::default()
    };
    let ended = Runtime::new().unwrap();
    let ended = ended.block_on(nihilo_runtime::docker::end_everything(none, dir.path()));
    ended.unwrap();
}

/// Counted until the engine has removed it.
fn not_wanted_any_more(cluster: &mut Cluster) {
    let spec = cluster.spec("demo/hello", 1);
    cluster.leave_running(&spec, InstanceState::Ready);
    cluster.node.live_as(false, async |life| {
        let (report, _) = life.report(&spec.id).unwrap();
        assert_eq!(report.state, InstanceState::Stopping);
        life.becomes(&spec.id, InstanceState::Destroyed).await;
        assert_eq!(cluster.image.containers(), Vec::<String>::new());
    });
}
