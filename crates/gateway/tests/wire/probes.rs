//! Health probes of others: a service that sleeps goes on sleeping, and one that runs is kept up by
//! none of them.

use std::sync::atomic::Ordering;

use nihilo_gateway::asleep::ProbeAgents;

use crate::client::{Client, Response};
use crate::rig::{Rig, failed};

fn rig() -> Rig {
    Rig::with(|config| config.probe_agents = ProbeAgents::new(vec!["kube-probe/".into()]))
}

fn ask(rig: &Rig, method: &str, service: &str, path: &str, agent: &str) -> Response {
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: {service}.test\r\nUser-Agent: {agent}\r\n\r\n");
    let mut client = Client::connect(rig.address);
    client.send(head.as_bytes(), false);
    client.response(method != "HEAD").expect("an answer")
}

#[test]
fn a_probe_of_what_sleeps_is_answered_and_wakes_nothing() {
    let rig = rig();
    for (method, path, agent) in [
        ("GET", "/up", "Mozilla"),
        ("HEAD", "/up", "Mozilla"),
        ("GET", "/", "kube-probe/1.31"),
    ] {
        let answer = ask(&rig, method, "napping", path, agent);
        assert_eq!(answer.status, 200, "{method} {path}");
        assert_eq!(answer.field("nihilo-start"), Some("asleep"));
        assert_eq!(answer.field("cache-control"), Some("no-store"));
        assert!(answer.body.is_empty());
    }
    assert_eq!(rig.n_demands.load(Ordering::Relaxed), 0);
    assert!(rig.gateway.take_report().is_empty());
    let metrics = rig.gateway.metrics_text();
    assert!(
        metrics.contains("nihilo_probe_answers_total 3"),
        "{metrics}"
    );
    // Who asks for the service itself wakes it.
    let mut client = Client::connect(rig.address);
    client.send(b"GET / HTTP/1.1\r\nHost: napping.test\r\n\r\n", false);
    let deadline = std::time::Instant::now() + crate::client::LIMIT;
    while rig.n_demands.load(Ordering::Relaxed) == 0 {
        assert!(
            std::time::Instant::now() < deadline,
            "nothing was asked for"
        );
        std::thread::park_timeout(std::time::Duration::from_millis(5));
    }
}

#[test]
fn a_probe_of_what_does_not_start_is_told_so() {
    let rig = rig();
    rig.gateway.update_endpoints(failed("napping"));
    let answer = ask(&rig, "GET", "napping", "/up", "Mozilla");
    assert_eq!(answer.status, 503);
    assert_eq!(answer.body, b"revision not ready\n");
    assert_eq!(answer.field("nihilo-reason"), Some("not_ready"));
    assert_eq!(rig.n_demands.load(Ordering::Relaxed), 0);
}

#[test]
fn a_probe_of_what_runs_reaches_it_and_counts_for_nothing() {
    let rig = rig();
    let n_started = |rig: &Rig| -> u64 {
        let reports = rig.gateway.take_report();
        reports.iter().map(|report| report.n_started).sum()
    };
    let answer = ask(&rig, "GET", "watched", "/up", "Mozilla");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.field("nihilo-start"), Some("warm"));
    assert_eq!(n_started(&rig), 0);
    assert_eq!(ask(&rig, "GET", "watched", "/else", "Mozilla").status, 200);
    assert_eq!(n_started(&rig), 1);
}
