//! SIGHUP: a running node follows what it can of a changed configuration, and names the rest.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;

use common::{Cluster, LIMIT, get, is_alive, kill, must, wait_for};
use rustix::process::Signal;

const HOST: &str = "hello.default.localhost";

/// A node whose configuration is changed while it runs.
struct Changing {
    cluster: Cluster,
    written: String,
}

impl Changing {
    fn start(slot: u16) -> Self {
        let cluster = Cluster::start_one(slot);
        let written = std::fs::read_to_string(cluster.config(0)).unwrap();
        Self { cluster, written }
    }

    /// What the node said after it was told that its file is this now, up to the line that holds `piece`.
    fn becomes(&self, file: &str, piece: &str) -> String {
        let said_before = self.cluster.log(0).len();
        std::fs::write(self.cluster.config(0), file).unwrap();
        kill(self.cluster.pid(0), Signal::HUP);
        wait_for(piece, || {
            let log = self.cluster.log(0);
            let said = log.get(said_before..)?.to_owned();
            said.contains(piece).then_some(said)
        })
    }

    /// The same file with further lines.
    fn with(&self, lines: &str) -> String {
        assert!(!self.written.contains("log:"), "{}", self.written);
        let without_grace = self.written.replace("shutdown-grace: 30\n", "");
        format!("{without_grace}{lines}")
    }
}

/// What a client that begins with `opening` is answered; empty where it is sent away.
fn answered(port: u16, opening: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let request = format!("{opening}GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    // It may have been sent away before it had said all.
    drop(stream.write_all(request.as_bytes()));
    let mut answer = String::new();
    drop(stream.read_to_string(&mut answer));
    answer
}

#[test]
fn a_node_follows_what_it_can_and_names_what_it_cannot() {
    let node = Changing::start(63);
    let port = node.cluster.gateway(0);
    let service = ["service", "create", "hello", "--image", "demo/hello"];
    must(
        node.cluster
            .cli(&[&service[..], &["--scale", "1..1"]].concat()),
    );
    assert!(!node.cluster.log(0).contains("DEBUG"));

    let wanted = node.with(
        "shutdown-grace: 7\nlog: debug\ncapacity: 9\ngateway: {proxy-protocol-from: [127.0.0.0/8]}\n",
    );
    // A file has each key once.
    let wanted = wanted.replacen("capacity: 100\n", "", 1);
    let said = node.becomes(&wanted, "nihilo node restart");
    assert!(said.contains("configuration read again"), "{said}");
    let live = "\"shutdown-grace, log, gateway.proxy-protocol-from\"";
    assert!(said.contains(live), "{said}");
    assert!(said.contains("\"capacity\""), "{said}");
    wait_for("a word of the new level", || {
        node.cluster.log(0).contains("DEBUG").then_some(())
    });
    // Without a PROXY header who comes from there is sent away now, and with one is served.
    assert_eq!(answered(port, ""), "");
    let header = "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n";
    let answer = answered(port, header);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    // Again, with nothing that is new.
    let again = node.becomes(&wanted, "configuration read again");
    assert!(!again.contains("shutdown-grace"), "{again}");
    // A file that is broken, and one whose values are, change nothing and end nothing.
    let broken = node.becomes(&format!("{wanted}colour: red\n"), "nothing changes");
    assert!(broken.contains("colour"), "{broken}");
    let wrong = wanted.replace("log: debug", "log: nihilo=loud");
    let refused = node.becomes(&wrong, "nothing changes");
    assert!(refused.contains("nihilo=loud"), "{refused}");
    assert!(answered(port, header).starts_with("HTTP/1.1 200"));

    let back = node.becomes(&node.written, "configuration read again");
    assert!(back.contains("gateway.proxy-protocol-from"), "{back}");
    assert!(get(port, HOST).unwrap().starts_with("HTTP/1.1 200"));
    assert!(is_alive(node.cluster.pid(0)));
}
