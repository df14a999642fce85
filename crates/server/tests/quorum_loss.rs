//! Two of three nodes are killed: what the third cannot have started is refused, not kept waiting,
//! until there is a leader again.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, Instant};

use common::{Cluster, get, is_alive, kill, must, wait_for};
use rustix::process::Signal;

/// At zero, each on one of 256 shards: that one node owns all of them has odds of 1 to 3⁷.
const N_SERVICES: usize = 8;
/// Far above T_dead and the last wait together, far below a request's own 300 s.
const REFUSED_WITHIN: Duration = Duration::from_secs(20);

fn host(n: usize) -> String {
    format!("cold-{n}.default.localhost")
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

/// A field of the answer's head, in lower case as the gateway writes it.
fn field<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let lines = answer.lines();
    let mut fields = lines.filter_map(|line| line.split_once(": "));
    fields.find_map(|(known, value)| (known == name).then_some(value))
}

#[test]
fn a_cold_request_whose_owner_is_dead_is_refused_until_there_is_a_leader_again() {
    let cluster = Cluster::start(40);
    let set = [
        "configmap",
        "set",
        "config-autoscaler",
        "-n",
        "knative-serving",
    ];
    let from_zero = ["allow-zero-initial-scale=true", "initial-scale=0"];
    must(cluster.cli(&[&set[..], &from_zero].concat()));
    for n in 0..N_SERVICES {
        let name = format!("cold-{n}");
        must(cluster.cli(&["service", "create", &name, "--image", "demo/hello"]));
    }
    let (leader, _) = cluster.leader();
    let third = (0..3).find(|i| *i != leader).unwrap();
    let gateway = cluster.gateway(u16::try_from(third).unwrap());
    let dead: Vec<_> = (0..3).filter(|i| *i != third).collect();
    for node in &dead {
        let pid = cluster.pid(*node);
        kill(pid, Signal::KILL);
        wait_for("end of a node", || (!is_alive(pid)).then_some(()));
    }
    // All at once: each ends by itself, with an answer or with a refusal.
    let asked = Instant::now();
    let answers: Vec<String> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..N_SERVICES)
            .map(|n| scope.spawn(move || get(gateway, &host(n)).unwrap()))
            .collect();
        asking.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(asked.elapsed() < REFUSED_WITHIN, "{:?}", asked.elapsed());
    let refused: Vec<_> = (0..N_SERVICES)
        .filter(|n| status(&answers[*n]) == "503")
        .collect();
    assert!(!refused.is_empty(), "{answers:?}");
    for answer in &answers {
        match status(answer) {
            // Its owner lives, and needs no quorum to start it.
            "200" => {}
            "503" => {
                assert_eq!(field(answer, "nihilo-reason"), Some("owner_unreachable"));
                let seconds = field(answer, "retry-after").unwrap();
                assert!(
                    (1..=30).contains(&seconds.parse::<u32>().unwrap()),
                    "{answer}"
                );
            }
            _ => panic!("{answer}"),
        }
    }
    // Another one is told at once.
    let asked = Instant::now();
    let again = get(gateway, &host(refused[0])).unwrap();
    assert_eq!(status(&again), "503", "{again}");
    assert!(
        asked.elapsed() < Duration::from_secs(1),
        "{:?}",
        asked.elapsed()
    );
    // With one node more there is a leader, and a living owner.
    let mut back = cluster.start_node(&format!("node{}", dead[0] + 1));
    wait_for("an answer of each", || {
        let answer = |n: &usize| get(gateway, &host(*n)).unwrap();
        refused
            .iter()
            .all(|n| status(&answer(n)) == "200")
            .then_some(())
    });
    kill(i32::try_from(back.id()).unwrap(), Signal::TERM);
    drop(back.wait());
}
