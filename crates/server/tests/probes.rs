//! What a service's clients and its owner see of its probes, through a whole node: a flap makes
//! requests wait and loses none, and what is not well is replaced, with the reason in its status.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Cluster, get, must, wait_for};

const HOST: &str = "probed.default.localhost";
/// Between two requests of the client.
const ASK_EVERY: Duration = Duration::from_millis(2);
/// So many answers say that it was asked all the time.
const MIN_ANSWERS: usize = 50;

/// A node with one instance of the echo app, which does wrong what a file says.
struct House {
    cluster: Cluster,
    fault: PathBuf,
}

/// An instance as `nihilo instance list` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shown {
    id: String,
    state: String,
    exit: String,
}

impl House {
    fn new(slot: u16, probes: &str) -> Self {
        let cluster = Cluster::start_one(slot);
        let fault = cluster.path().join("fault");
        std::fs::write(&fault, "none").unwrap();
        let fault_file = fault.display();
        cluster.apply_one(
            "probed",
            &format!(
                "{{image: demo/echo, env: [{{name: NIHILO_DEMO_FAULT, value: '{fault_file}'}}], {probes}}}"
            ),
        );
        Self { cluster, fault }
    }

    /// Seen whole or not at all.
    fn fault(&self, fault: &str) {
        let new = self.fault.with_extension("new");
        std::fs::write(&new, fault).unwrap();
        std::fs::rename(new, &self.fault).unwrap();
    }

    fn instances(&self) -> Vec<Shown> {
        let shown = must(self.cluster.cli(&["instance", "list", "-o", "json"]));
        let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
        let text = |item: &serde_json::Value, key: &str| item[key].as_str().unwrap().to_owned();
        let items = shown["items"].as_array().unwrap().iter();
        items
            .map(|item| Shown {
                id: text(item, "id"),
                state: text(item, "state"),
                exit: text(item, "exit"),
            })
            .collect()
    }

    fn wait_for(&self, what: &str, fits: impl Fn(&Shown) -> bool) -> Shown {
        wait_for(what, || self.instances().into_iter().find(&fits))
    }

    fn ask(&self) {
        let answer = get(self.cluster.gateway(0), HOST).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    fn conditions(&self) -> String {
        let shown = must(self.cluster.cli(&["revision", "list", "-o", "json"]));
        let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
        shown["items"][0]["status"]["conditions"].to_string()
    }
}

#[test]
fn a_flap_of_readiness_makes_requests_wait_and_loses_none() {
    let probe = "readinessProbe: {httpGet: {path: /readyz}, periodSeconds: 1, failureThreshold: 1}";
    let house = House::new(60, probe);
    let first = house.wait_for("a ready instance", |shown| shown.state == "Ready");
    let is_over = AtomicBool::new(false);
    let n_answers = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut n_answers = 0;
            while !is_over.load(Ordering::Relaxed) {
                house.ask();
                n_answers += 1;
                std::thread::park_timeout(ASK_EVERY);
            }
            n_answers
        });
        let flapped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..2 {
                house.fault("unready");
                house.wait_for("one that is not ready", |shown| shown.state == "NotReady");
                house.fault("none");
                house.wait_for("one that is ready again", |shown| shown.state == "Ready");
            }
        }));
        is_over.store(true, Ordering::Relaxed);
        let n_answers: usize = asking.join().unwrap();
        if let Err(panic) = flapped {
            std::panic::resume_unwind(panic);
        }
        n_answers
    });
    assert!(n_answers >= MIN_ANSWERS, "{n_answers} answers");
    house.ask();
    let last = house.instances();
    assert_eq!(last, [first], "it was replaced");
}

#[test]
fn one_that_is_not_well_is_replaced_and_its_status_says_why() {
    let probe = "startupProbe: {tcpSocket: {}, periodSeconds: 1}, \
                 livenessProbe: {httpGet: {path: /healthz}, periodSeconds: 1, failureThreshold: 1}";
    let house = House::new(61, probe);
    let first = house.wait_for("a ready instance", |shown| shown.state == "Ready");
    house.fault("unhealthy");
    house.wait_for("its end", |shown| {
        shown.id == first.id && shown.exit.contains("Unhealthy")
    });
    // The next ones are not well either: people are told, and starts get pauses.
    let reason = "liveness probe: GET /healthz answered 503: unhealthy";
    wait_for("the reason in its status", || {
        let said = house.conditions();
        (said.contains("ProbeFailed") && said.contains(reason)).then_some(())
    });
    house.fault("none");
    let next = house.wait_for("another instance", |shown| shown.state == "Ready");
    assert_ne!(next.id, first.id);
    house.ask();
}
