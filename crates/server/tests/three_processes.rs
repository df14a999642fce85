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
