//! Containers that outlive their node, and what its next process makes of them. As in `adoption.rs`, a
//! life of the node is a runtime here.

use std::io::Write;

use super::adoption::{Node, everything};
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
        ("serves on", serves_on as fn(&Cluster)),
        ("ended meanwhile", ended_meanwhile),
        ("removed meanwhile", removed_meanwhile),
        ("frozen", frozen),
        ("told to end", told_to_end),
        ("its output", its_output),
        ("not wanted any more", not_wanted_any_more),
    ] {
        eprintln!("{what}");
        cluster.node = Node::new();
        check(&cluster);
        cluster.wait_none_left(what);
    }
}

fn frozen(cluster: &Cluster) {
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
        life.agent.thaw(SHARD, EPOCH, 3, &spec.id).unwrap();
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

fn serves_on(cluster: &Cluster) {
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

fn ended_meanwhile(cluster: &Cluster) {
    let spec = cluster.spec("demo/hello", 1);
    cluster.leave_running(&spec, InstanceState::Ready);
    let [container] = <[String; 1]>::try_from(cluster.image.containers()).unwrap();
    must(docker(&["kill", "--signal", "KILL", &container]));
    cluster.node.live(async |life| {
        let gone = life.becomes(&spec.id, InstanceState::Destroyed).await;
        assert_eq!(gone.exit, Some(Exit::Signal(9)));
    });
}

fn removed_meanwhile(cluster: &Cluster) {
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

fn told_to_end(cluster: &Cluster) {
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

fn its_output(cluster: &Cluster) {
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

/// Counted until the engine has removed it.
fn not_wanted_any_more(cluster: &Cluster) {
    let spec = cluster.spec("demo/hello", 1);
    cluster.leave_running(&spec, InstanceState::Ready);
    cluster.node.live_as(false, async |life| {
        let (report, _) = life.report(&spec.id).unwrap();
        assert_eq!(report.state, InstanceState::Stopping);
        life.becomes(&spec.id, InstanceState::Destroyed).await;
        assert_eq!(cluster.image.containers(), Vec::<String>::new());
    });
}
