//! Nodes that come and go while the cluster serves: real processes, real kills.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use common::{Cluster, get, kill, must, run, text, wait_for};
use rustix::process::Signal;

/// Writes that go on whatever happens to single nodes: join tokens that nobody uses, each revoked
/// once the next one is there.
struct Load {
    over: Arc<AtomicBool>,
    n_acknowledged: Arc<AtomicU64>,
    writer: Option<JoinHandle<Written>>,
}

#[derive(Debug, Default)]
struct Written {
    /// The newest token.
    there: Option<String>,
    revoked: Vec<String>,
    failed: Vec<String>,
}

impl Load {
    fn start(servers: &str) -> Self {
        let (over, n_acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (is_over, counter): (_, Arc<AtomicU64>) = (over.clone(), Arc::clone(&n_acknowledged));
        let servers = servers.to_owned();
        let writer = std::thread::spawn(move || {
            let mut written = Written::default();
            while !is_over.load(Ordering::Relaxed) {
                match written.step(&servers) {
                    Ok(()) => drop(counter.fetch_add(1, Ordering::Relaxed)),
                    Err(text) => written.failed.push(text),
                }
            }
            written
        });
        Self {
            over,
            n_acknowledged,
            writer: Some(writer),
        }
    }

    /// Waits until more writes were acknowledged: the cluster works as it is now.
    fn goes_on(&self) {
        let before = self.n_acknowledged.load(Ordering::Relaxed);
        wait_for("acknowledged writes", || {
            (self.n_acknowledged.load(Ordering::Relaxed) > before + 2).then_some(())
        });
    }

    fn stop(&mut self) -> Written {
        self.over.store(true, Ordering::Relaxed);
        self.writer.take().unwrap().join().unwrap()
    }
}

impl Written {
    fn step(&mut self, servers: &str) -> Result<(), String> {
        let ask = |args: &[&str]| {
            let output = run(&[args, &["--server", servers]].concat());
            match output.status.success() {
                true => Ok(String::from_utf8(output.stdout).unwrap()),
                false => Err(text(&output)),
            }
        };
        let made = ask(&["cluster", "token", "create", "-o", "json"])?;
        let made: serde_json::Value = serde_json::from_str(&made).unwrap();
        let id = made["id"].as_str().unwrap().to_owned();
        let Some(previous) = self.there.replace(id) else {
            return Ok(());
        };
        ask(&["cluster", "token", "revoke", &previous])?;
        self.revoked.push(previous);
        Ok(())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn standing(cluster: &Cluster, servers: &str, name: &str) -> Option<String> {
    let output = cluster.cli_at(servers, &["cluster", "members", "-o", "json"]);
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let members = listed["members"].as_array()?;
    let member = members.iter().rev().find(|member| member["name"] == name)?;
    Some(member["standing"].as_str()?.to_owned())
}

fn wait_standing(cluster: &Cluster, servers: &str, name: &str, wanted: &str) {
    wait_for(&format!("{name} as {wanted}"), || {
        (standing(cluster, servers, name)? == wanted).then_some(())
    });
}

#[test]
fn nodes_join_vote_leave_and_are_replaced_under_load() {
    let cluster = Cluster::start(20);
    must(cluster.cli(&[
        "service",
        "create",
        "hello",
        "--image",
        "demo/hello",
        "--scale",
        "1..",
    ]));
    let (four, five) = (cluster.ports(3), cluster.ports(4));
    let admins = |ports: &[String]| ports.join(",");
    let all = admins(&[
        cluster.servers(),
        format!("127.0.0.1:{}", four.admin),
        format!("127.0.0.1:{}", five.admin),
    ]);
    let mut load = Load::start(&all);
    load.goes_on();

    // A fourth node: learner first, with a gateway that serves.
    let token = cluster.join_token(&cluster.servers(), &[]);
    must(cluster.join(&token, "node4", four));
    let mut node4 = cluster.start_node("node4");
    wait_standing(&cluster, &all, "node4", "learner");
    wait_for("an answer of the fourth gateway", || {
        let answer = get(four.gateway, "hello.default.localhost").ok()?;
        answer.starts_with("HTTP/1.1 200").then_some(())
    });
    let again = cluster.join(&token, "node5", five);
    assert_eq!(again.status.code(), Some(3), "{}", text(&again));
    assert!(text(&again).contains("join token"), "{}", text(&again));
    load.goes_on();

    // It votes, and a founder leaves for good.
    must(cluster.cli_at(&all, &["cluster", "promote", "node4"]));
    wait_standing(&cluster, &all, "node4", "voter");
    let (leader, _) = cluster.leader();
    let (gone, pid) = (format!("node{}", leader + 1), cluster.pid(leader));
    must(cluster.cli_at(&all, &["cluster", "remove", &gone]));
    wait_for("end of the removed leader", || {
        (!common::is_alive(pid)).then_some(())
    });
    assert!(cluster.log(leader).contains("was removed from the cluster"));
    let refused = cluster.start_node(&gone).wait_with_output().unwrap();
    assert_eq!(refused.status.code(), Some(65));
    assert!(
        cluster.log(leader).contains("join under a new one"),
        "{}",
        cluster.log(leader)
    );
    load.goes_on();

    // One dies; a fifth takes its place without being told to.
    let dead = (0..3).find(|i| *i != leader).unwrap();
    let dead_name = format!("node{}", dead + 1);
    kill(cluster.pid(dead), Signal::KILL);
    must(cluster.cli_at(&all, &["cluster", "remove", &dead_name]));
    let token = cluster.join_token(&all, &[]);
    must(cluster.join(&token, "node5", five));
    let mut node5 = cluster.start_node("node5");
    wait_standing(&cluster, &all, "node5", "voter");
    load.goes_on();
    // The dead one did not hear of its removal; it is told, and does not stay.
    let back = cluster.start_node(&dead_name).wait_with_output().unwrap();
    assert!(!back.status.success());
    assert!(
        cluster.log(dead).contains("node-removed"),
        "{}",
        cluster.log(dead)
    );

    let written = load.stop();
    // Not one write failed: what was not answered was repeated until it was.
    assert!(written.failed.is_empty(), "{:#?}", written.failed);
    let listed = must(cluster.cli_at(&all, &["cluster", "token", "list", "-o", "name"]));
    let listed = text(&listed);
    assert!(listed.contains(&written.there.unwrap()), "{listed}");
    let risen = written.revoked.iter().find(|id| listed.contains(*id));
    assert_eq!(risen, None, "{listed}");
    must(cluster.cli_at(&all, &["cluster", "digests"]));
    for child in [&mut node4, &mut node5] {
        kill(i32::try_from(child.id()).unwrap(), Signal::TERM);
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn a_removal_that_would_end_the_cluster_is_refused() {
    let cluster = Cluster::start(21);
    let (leader, _) = cluster.leader();
    let others: Vec<usize> = (0..3).filter(|i| *i != leader).collect();
    kill(cluster.pid(others[0]), Signal::KILL);
    let name = format!("node{}", others[1] + 1);
    let refused = wait_for("a refusal", || {
        let removed = cluster.cli(&["cluster", "remove", &name]);
        (!removed.status.success()).then_some(removed)
    });
    assert_eq!(refused.status.code(), Some(4), "{}", text(&refused));
    assert!(
        text(&refused).contains("too few to decide"),
        "{}",
        text(&refused)
    );
    // The dead one can go, and what remains goes on.
    must(cluster.cli(&["cluster", "remove", &format!("node{}", others[0] + 1)]));
    must(cluster.cli(&[
        "service",
        "create",
        "hello",
        "--image",
        "demo/hello",
        "--no-wait",
    ]));
}
