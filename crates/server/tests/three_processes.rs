//! Three real node processes on loopback: the whole way of a request, and the loss of the leader.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Cluster, get, kill, must, wait_for};
use rustix::process::Signal;

#[test]
fn a_service_is_served_by_every_gateway_and_survives_the_leader() {
    let cluster = Cluster::start(0);
    must(cluster.cli(&["service", "create", "hello", "--image", "demo/hello"]));
    for i in 0..3 {
        let answer = get(cluster.gateway(i), "hello.default.localhost").unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains("Hello World!"),
            "{answer}"
        );
        assert!(answer.contains("nihilo-revision: hello-00001"), "{answer}");
    }
    let unknown = get(cluster.gateway(0), "nobody.default.localhost").unwrap();
    assert!(unknown.starts_with("HTTP/1.1 404"), "{unknown}");

    let (leader, pid) = cluster.leader();
    kill(pid, Signal::KILL);
    for i in (0..3).filter(|i| usize::from(*i) != leader) {
        let answer = get(cluster.gateway(i), "hello.default.localhost").unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    // Writes go on under the next leader, and the state is all there.
    must(cluster.cli(&["service", "update", "hello", "--env", "TARGET=again"]));
    let survivor = if leader == 0 { 1 } else { 0 };
    wait_for("answer of the new revision", || {
        let answer = get(cluster.gateway(survivor), "hello.default.localhost").unwrap();
        answer.contains("Hello again!").then_some(())
    });
}

#[test]
fn followers_that_the_dead_leader_refuses_campaign_at_once() {
    let cluster = Cluster::start(32);
    must(cluster.stop());
    for i in 0..3 {
        let config = std::fs::read_to_string(cluster.config(i)).unwrap();
        let config = format!("{config}failover-fast-path: true\n");
        std::fs::write(cluster.config(i), config).unwrap();
    }
    must(cluster.start_missing());
    let (leader, pid) = cluster.leader();
    let survivors = (0..3).filter(|i| *i != leader);
    wait_for("both followers to watch the leader", || {
        let watching = format!("watching the peer port of node {}", leader + 1);
        let is_watched = |i| cluster.log(i).contains(&watching);
        survivors.clone().all(is_watched).then_some(())
    });
    kill(pid, Signal::KILL);
    wait_for("another leader", || {
        let status = cluster.status();
        let index = status.iter().position(|(role, _)| role == "leader")?;
        (index != leader).then_some(())
    });
    let n_campaigns = survivors
        .filter(|i| cluster.log(*i).contains("campaigning without waiting"))
        .count();
    assert_eq!(n_campaigns, 1, "one campaigns, and not by its timer");
    must(cluster.cli(&["service", "create", "hello", "--image", "demo/hello"]));
}
