//! containerConcurrency holds across gateways: three real nodes, a hundred clients, and the app's
//! own word about what ran at the same time.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;

use common::{Cluster, LIMIT, must};

const CLIENTS: u16 = 100;
const REQUESTS: usize = 5;

/// One request on a connection of its own; waits as long as the service's own limit lets it.
fn ask(port: u16, nonce: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(4 * LIMIT)).unwrap();
    write!(
        stream,
        "GET /?ms=10 HTTP/1.1\r\nHost: one.default.localhost\r\nx-demo-nonce: {nonce}\r\n\
         Connection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_hundred_clients_at_three_gateways_never_overlap_in_an_instance() {
    let cluster = Cluster::start(3);
    let ledger = tempfile::tempdir().unwrap();
    let env = format!("NIHILO_DEMO_LEDGER={}", ledger.path().display());
    must(cluster.cli(&[
        "service",
        "create",
        "one",
        "--image",
        "demo/hello",
        "--concurrency-limit",
        "1",
        "--scale",
        "0..4",
        "--env",
        &env,
    ]));
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            // Skewed: half of them at one gateway.
            let port = cluster.gateway([0, 0, 1, 2][usize::from(client % 4)]);
            scope.spawn(move || {
                for n in 0..REQUESTS {
                    let nonce = format!("{client}-{n}");
                    let answer = ask(port, &nonce);
                    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                    assert!(
                        answer.contains(&format!("x-demo-nonce: {nonce}\r\n")),
                        "{answer}"
                    );
                }
            });
        }
    });
    let mut n_started = 0;
    for entry in std::fs::read_dir(ledger.path()).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for line in text.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(line["in_flight"].as_u64().unwrap() <= 1, "{line}");
            let is_own = !line["rid"].as_str().unwrap().is_empty();
            n_started += usize::from(is_own && line["ph"] == "started");
        }
    }
    assert_eq!(n_started, usize::from(CLIENTS) * REQUESTS);
}
