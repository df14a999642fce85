//! The compose cluster on a real Docker engine: a container per node, the CLI outside of them.
//!
//! Where no engine or no compose answers, the test says so and ends. The image is made of the
//! binary under test; `NIHILO_TEST_IMAGE` names another one, such as that of `make image`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod docker;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use docker::{Cluster, Compose, within};

/// All of a step, on a machine that does other things as well.
const LIMIT: Duration = Duration::from_secs(120);
/// Exit code of a node whose store must not be used.
const STORE_REFUSED: &str = "65";
/// Four services, so that each gateway and the survivors' first have one that is asleep.
const SERVICES: [&str; 4] = ["hello1", "hello2", "hello3", "hello4"];

#[test]
fn a_cluster_of_containers_serves_and_survives_its_leader() {
    let Some(compose) = Compose::find() else {
        return;
    };
    let cluster = Cluster::up(compose);
    within(LIMIT, "three healthy containers", || cluster.all_healthy());
    within(LIMIT, "three joined nodes", || cluster.is_whole());
    deploy(&cluster);
    for (gateway, service) in SERVICES.iter().take(3).enumerate() {
        let answer = get(&cluster, gateway, service).unwrap();
        assert_ok(&answer, "cold");
    }

    let leader = cluster.leader().unwrap();
    let address = cluster.address(leader);
    let survivors: Vec<_> = (0..3).filter(|node| *node != leader).collect();
    cluster.kill(leader);
    // Right away: waking an instance needs an owner, and the leader may have been it.
    assert_ok(&get(&cluster, survivors[0], SERVICES[3]).unwrap(), "cold");
    for gateway in &survivors {
        for service in SERVICES {
            let answer = get(&cluster, *gateway, service).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
    }
    within(LIMIT, "another leader", || {
        cluster.leader().is_some_and(|next| next != leader)
    });

    cluster.restart_elsewhere(leader);
    assert_ne!(cluster.address(leader), address);
    within(LIMIT, "a whole cluster again", || cluster.is_whole());
    let answer = get(&cluster, leader, SERVICES[0]).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    assert_eq!(
        cluster.stop(),
        ["0", "0", "0"],
        "exit codes after a polite stop"
    );
}

#[test]
fn nodes_may_be_started_in_any_order() {
    let Some(compose) = Compose::find() else {
        return;
    };
    let cluster = Cluster::prepared(compose);
    for order in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        eprintln!("{order:?}");
        cluster.start_in_order(order);
        within(LIMIT, "three joined nodes", || cluster.is_whole());
        assert!(cluster.leader().is_some());
        cluster.down(true);
    }
}

#[test]
fn what_is_stored_outlives_the_containers_and_a_node_without_it_is_not_let_in() {
    let Some(compose) = Compose::find() else {
        return;
    };
    let cluster = Cluster::up(compose);
    within(LIMIT, "three joined nodes", || cluster.is_whole());
    cluster.cli(&create(SERVICES[0]));
    cluster.down(false);
    cluster.start();
    within(LIMIT, "three joined nodes", || cluster.is_whole());
    let answer = get(&cluster, 1, SERVICES[0]).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    // Under its old id it could vote a second time: it must join as another one.
    cluster.down(false);
    cluster.remove_volume(2);
    cluster.start();
    within(LIMIT, "refusal", || cluster.exit_code(2) == STORE_REFUSED);
    let said = cluster.output_of(2);
    assert!(said.contains("store-replaced"), "{said}");
    for gateway in [0, 1] {
        let answer = get(&cluster, gateway, SERVICES[0]).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

/// Deploys all services at once and waits until none of their instances is left.
fn deploy(cluster: &Cluster) {
    std::thread::scope(|scope| {
        for service in SERVICES {
            scope.spawn(move || cluster.cli(&create(service)));
        }
    });
    within(LIMIT, "no instance left", || {
        let status = cluster.status();
        let nodes = status["nodes"].as_array().unwrap();
        nodes.iter().all(|node| node["instances"] == 0)
    });
}

fn create(service: &str) -> [&str; 11] {
    [
        "service",
        "create",
        service,
        "--image",
        "demo/hello",
        "--scale-window",
        "6s",
        "--annotation",
        "autoscaling.knative.dev/scale-to-zero-pod-retention-period=0s",
        "--wait-timeout",
        "120",
    ]
}

fn assert_ok(answer: &str, start: &str) {
    let is_ok = answer.starts_with("HTTP/1.1 200") && answer.contains("Hello World!");
    assert!(is_ok, "{answer}");
    assert!(
        answer.contains(&format!("nihilo-start: {start}")),
        "{answer}"
    );
}

fn get(cluster: &Cluster, gateway: usize, service: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", cluster.gateway_port(gateway)))?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: {service}.default.localhost\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
