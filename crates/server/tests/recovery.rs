//! A cluster out of a backup, and out of what one node has left: real processes and directories.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Cluster, get, kill, must, run, text, wait_for};
use rustix::process::Signal;

fn end(pid: i32) {
    kill(pid, Signal::KILL);
    wait_for("end of a node", || (!common::is_alive(pid)).then_some(()));
}

#[test]
fn a_backup_made_while_serving_restores_into_a_new_cluster() {
    let cluster = Cluster::start(30);
    must(cluster.cli(&["service", "create", "hello", "--image", "demo/hello"]));
    let file = cluster.path().join("state.backup");
    let file = file.to_str().unwrap();
    let made = must(cluster.cli(&["cluster", "backup", file]));
    assert!(
        text(&made).contains("cluster `dev` as of index"),
        "{}",
        text(&made)
    );
    let again = cluster.cli(&["cluster", "backup", file]);
    assert_eq!(again.status.code(), Some(4), "{}", text(&again));
    // What comes later is not in it.
    must(cluster.cli(&[
        "service",
        "create",
        "later",
        "--image",
        "demo/hello",
        "--no-wait",
    ]));

    let ports = cluster.ports(3);
    let dir = cluster.path().join("node4");
    let numbers = [ports.gateway, ports.admin, ports.peer, ports.instances];
    let [gateway, admin, peer, instances] = numbers.map(|port| port.to_string());
    let restore = |file: &str| {
        run(&[
            "cluster",
            "restore",
            file,
            "--name",
            "node4",
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
            "--no-start",
        ])
    };
    // A damaged one is refused, and leaves nothing behind.
    let mut bytes = std::fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let broken = cluster.path().join("broken.backup");
    std::fs::write(&broken, bytes).unwrap();
    let refused = restore(broken.to_str().unwrap());
    assert!(text(&refused).contains("damaged"), "{}", text(&refused));

    must(restore(file));
    let mut node = cluster.start_node("node4");
    let server = format!("127.0.0.1:{}", ports.admin);
    wait_for("the restored service's answer", || {
        let answer = get(ports.gateway, "hello.default.localhost").ok()?;
        answer.contains("Hello World!").then_some(())
    });
    let listed = text(&must(
        cluster.cli_at(&server, &["service", "list", "-o", "name"]),
    ));
    assert!(
        listed.contains("/hello") && !listed.contains("/later"),
        "{listed}"
    );
    // It is another cluster, and takes new nodes by its own tokens only.
    let status = cluster.status_at(&server);
    let id = status["cluster_id"].as_str().unwrap();
    assert!(id.starts_with("dev+"), "{id}");
    let foreign = cluster.join_token(&cluster.servers(), &[]);
    let (token, _) = foreign.split_once('@').unwrap();
    let refused = cluster.join(&format!("{token}@{server}"), "node5", cluster.ports(4));
    assert!(!refused.status.success(), "{}", text(&refused));
    let token = cluster.join_token(&server, &["--voter"]);
    must(cluster.join(&token, "node6", cluster.ports(4)));
    let mut second = cluster.start_node("node6");
    wait_for("a second voter", || {
        let members = text(&cluster.cli_at(&server, &["cluster", "members"]));
        (members.matches("  voter  ").count() >= 2).then_some(())
    });
    for child in [&mut node, &mut second] {
        kill(i32::try_from(child.id()).unwrap(), Signal::TERM);
        drop(child.wait());
    }
}

#[test]
fn one_survivor_of_three_becomes_a_cluster_of_its_own() {
    let cluster = Cluster::start(31);
    must(cluster.cli(&["service", "create", "hello", "--image", "demo/hello"]));
    let config = cluster.config(0);
    let config = config.to_str().unwrap();
    let recover = |more: &[&str]| {
        let args = ["cluster", "recover", "--from-this-node", "--config", config];
        run(&[&args[..], more].concat())
    };
    // Not under a node that runs.
    let used = recover(&["--yes", "dev"]);
    assert!(text(&used).contains("in use by process"), "{}", text(&used));
    end(cluster.pid(0));
    // Not while others answer.
    let alive = recover(&["--yes", "dev"]);
    assert_eq!(alive.status.code(), Some(4), "{}", text(&alive));
    assert!(
        text(&alive).contains("voters answer: node"),
        "{}",
        text(&alive)
    );
    end(cluster.pid(1));
    end(cluster.pid(2));
    // Not without the name, and not for a look.
    assert_eq!(recover(&[]).status.code(), Some(2));
    assert_eq!(recover(&["--yes", "prod"]).status.code(), Some(2));
    let looked = must(recover(&["--dry-run"]));
    assert!(
        text(&looked).contains("WHAT MAY BE LOST"),
        "{}",
        text(&looked)
    );

    must(recover(&["--yes", "dev"]));
    assert!(cluster.node_dir(0).join("db.before-recover").is_dir());
    // Nobody joins by a snapshot of the cluster that is no more.
    let old_snapshots = cluster.node_dir(0).join("snapshots.before-recover");
    assert!(old_snapshots.is_dir());
    let mut node = cluster.start_node("node1");
    let server = cluster.admin(0);
    wait_for("the survivor's answer", || {
        let answer = get(cluster.gateway(0), "hello.default.localhost").ok()?;
        answer.contains("Hello World!").then_some(())
    });
    must(cluster.cli_at(
        &server,
        &["service", "create", "after", "--image", "demo/hello"],
    ));
    let status = cluster.status_at(&server);
    assert!(status["cluster_id"].as_str().unwrap().starts_with("dev+"));
    // No version is given twice.
    let shown = text(&must(
        cluster.cli_at(&server, &["service", "describe", "after", "-o", "json"]),
    ));
    let shown: serde_json::Value = serde_json::from_str(shown.trim()).unwrap();
    let version = shown["metadata"]["resourceVersion"]
        .as_str()
        .or(shown["service"]["metadata"]["resourceVersion"].as_str());
    assert!(
        version.unwrap().parse::<u64>().unwrap() > 1 << 20,
        "{shown}"
    );

    // One of the old ones comes back: it is told, and does not take part.
    let mut old = cluster.start_node("node2");
    wait_for("word that the cluster was replaced", || {
        cluster.log(1).contains("cluster-replaced").then_some(())
    });
    kill(i32::try_from(old.id()).unwrap(), Signal::KILL);
    drop(old.wait());
    // Wiped, it joins under a new id.
    std::fs::remove_dir_all(cluster.node_dir(1)).unwrap();
    let token = cluster.join_token(&server, &[]);
    must(cluster.join(&token, "node2", cluster.ports(1)));
    let mut joined = cluster.start_node("node2");
    wait_for("node2 as a voter", || {
        let members = text(&cluster.cli_at(&server, &["cluster", "members"]));
        let line = members.lines().find(|line| line.contains("node2  voter"));
        line.map(|_| ())
    });
    for child in [&mut node, &mut joined] {
        kill(i32::try_from(child.id()).unwrap(), Signal::TERM);
        drop(child.wait());
    }
}
