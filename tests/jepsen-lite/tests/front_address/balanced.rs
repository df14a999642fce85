//! Requests without a pause, through HAProxy as its recipe is shipped, and by three addresses of one name:
//! how many fail when a node is killed, is told to stop, is restarted in place, or loses its network.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nihilo_jepsen_lite::backend::{GUEST, N_NODES};
use nihilo_jepsen_lite::probe;
use nihilo_types::node_config::OnNodeExit;
use rustix::process::Signal;

use super::boxes::{Boxes, GATEWAY, HOST, Machine, ask, inside, missing, signal, wait_for};

const HAPROXY: &str = include_str!("../../../../packaging/haproxy/haproxy.cfg");
const ZONE: &str = include_str!("../../../../packaging/dns/zone.example");
/// As the recipe binds.
const FRONT: u16 = 80;
/// Requests under way at a time.
const N_CLIENTS: usize = 4;
/// Beyond this an answer counts as none.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Of a fault, with and after it: far above what anybody needs to notice it.
const SETTLE: Duration = Duration::from_secs(6);
/// Of a client that was given three addresses: half of it goes to the first.
const CURL_CONNECT_SECONDS: &str = "2";

/// One request by one way; an error says how it failed.
type Ask = Arc<dyn Fn(usize) -> Result<(), String> + Send + Sync>;

#[derive(Default)]
struct Counted {
    over: AtomicBool,
    n_asked: AtomicU64,
    failed: Mutex<Vec<(Instant, String)>>,
}

struct Load {
    counted: Arc<Counted>,
    clients: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn start(ask: &Ask) -> Self {
        let counted = Arc::new(Counted::default());
        let clients = (0..N_CLIENTS).map(|client| {
            let (counted, ask) = (counted.clone(), ask.clone());
            std::thread::spawn(move || {
                for n in client.. {
                    if counted.over.load(Ordering::Relaxed) {
                        return;
                    }
                    if let Err(why) = ask(n) {
                        counted.failed.lock().unwrap().push((Instant::now(), why));
                    }
                    counted.n_asked.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        Self {
            clients: clients.collect(),
            counted,
        }
    }

    fn stop(self) -> (u64, Vec<(Instant, String)>) {
        self.counted.over.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("a client");
        }
        let failed = std::mem::take(&mut *self.counted.failed.lock().unwrap());
        (self.counted.n_asked.load(Ordering::Relaxed), failed)
    }
}

/// What came of a fault under load.
#[derive(Debug)]
struct Outcome {
    n_asked: u64,
    failed: Vec<String>,
    /// From the fault to the last failure.
    silence: Duration,
}

/// Requests before, while and after `fault`.
fn under_load(way: &str, what: &str, ask: &Ask, fault: impl FnOnce()) -> Outcome {
    let load = Load::start(ask);
    let n_before = 50;
    wait_for("load", || {
        (load.counted.n_asked.load(Ordering::Relaxed) > n_before).then_some(())
    });
    let begun = Instant::now();
    fault();
    while begun.elapsed() < SETTLE {
        std::thread::park_timeout(SETTLE.saturating_sub(begun.elapsed()));
    }
    let (n_asked, failed) = load.stop();
    let silence = failed
        .iter()
        .map(|(at, _)| at.saturating_duration_since(begun))
        .max();
    let outcome = Outcome {
        n_asked,
        failed: failed.into_iter().map(|(_, why)| why).collect(),
        silence: silence.unwrap_or_default(),
    };
    eprintln!(
        "{way}, {what}: {} requests, {} failed, the last after {:?} {:?}",
        outcome.n_asked,
        outcome.failed.len(),
        outcome.silence,
        outcome.failed.first()
    );
    outcome
}

/// Each fault at another box, which is whole again afterwards. Whoever is asked when its box dies gets no
/// answer; nobody else may fail for longer than it takes to notice.
fn faults(way: &str, boxes: &mut Boxes, ask: &Ask, notices_silence: Duration) {
    let at = |boxes: &Boxes, place: usize, by: Signal| {
        signal(&boxes.all[place].node, by).expect("it runs");
    };
    let restarted = under_load(way, "restarted in place", ask, || {
        at(boxes, 0, Signal::USR2)
    });
    assert_eq!(restarted.failed, [""; 0], "{}", boxes.logs("node.log"));
    boxes.until_well(0);

    let stopped = under_load(way, "told to stop", ask, || at(boxes, 1, Signal::TERM));
    assert_eq!(stopped.failed, [""; 0], "{}", boxes.logs("node.log"));
    boxes.restart(1);

    let killed = under_load(way, "killed", ask, || at(boxes, 2, Signal::KILL));
    assert!(killed.failed.len() <= 2 * N_CLIENTS, "{killed:?}");
    boxes.restart(2);

    let machine: &Machine = &boxes.all[0];
    let unplugged = under_load(way, "unplugged", ask, || machine.plug("down"));
    assert!(unplugged.silence < notices_silence, "{unplugged:?}");
    machine.plug("up");
    boxes.until_well(0);
}

/// Three boxes with a service that runs on each.
fn boxes(program: &str, balanced: bool) -> Option<Boxes> {
    if let Some(why) = missing(&[program]) {
        eprintln!("skipped: {why}");
        return None;
    }
    let binary: PathBuf = probe::binary().expect("it was there");
    let boxes = match Boxes::start(binary, OnNodeExit::Adopt, balanced) {
        Ok(boxes) => boxes,
        Err(error) => {
            eprintln!("skipped: {error:#}");
            return None;
        }
    };
    (0..N_NODES).for_each(|place| boxes.until_well(place));
    let service = ["service", "create", "hello", "--image", "demo/hello"];
    boxes.cli(&[&service[..], &["--scale", "3.."]].concat());
    Some(boxes)
}

fn answered(answer: std::io::Result<String>) -> Result<(), String> {
    let answer = answer.map_err(|error| error.to_string())?;
    let head = answer.lines().next().unwrap_or("nothing").to_owned();
    head.starts_with("HTTP/1.1 200").then_some(()).ok_or(head)
}

struct Balancer(Child);

impl Drop for Balancer {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_balancer_sends_nobody_to_a_node_that_does_not_want_traffic() {
    let Some(mut boxes) = boxes("haproxy", true) else {
        return;
    };
    let config = boxes
        .all
        .iter()
        .enumerate()
        .fold(HAPROXY.to_owned(), |text, (place, machine)| {
            let old = format!(" 10.0.0.{}:{GATEWAY}", place + 1);
            assert!(text.contains(&old), "`{old}` in {text}");
            text.replace(&old, &format!(" {}:{GATEWAY}", machine.address))
        });
    let file = boxes.path().join("haproxy.cfg");
    std::fs::write(&file, config).unwrap();
    let namespace = boxes.network.namespace(GUEST);
    let mut haproxy = inside(&namespace, "haproxy", &boxes.path().join("haproxy.log")).unwrap();
    let haproxy = haproxy.arg("-db").arg("-f").arg(&file).spawn();
    let _balancer = Balancer(haproxy.expect("haproxy"));
    let front = SocketAddr::from((boxes.network.address(GUEST), FRONT));
    wait_for("answer through the balancer", || {
        answered(ask(front, "/", HOST, ANSWER_LIMIT)).ok()
    });
    let way: Ask = Arc::new(move |_| answered(ask(front, "/", HOST, ANSWER_LIMIT)));
    // A connection there takes a second and another one's place, or two looks of a second each; who was
    // being answered waits for its own limit.
    let notices = ANSWER_LIMIT + Duration::from_secs(3);
    faults("haproxy", &mut boxes, &way, notices);
}

#[test]
fn a_client_with_three_addresses_takes_the_next_where_one_is_refused() {
    let Some(mut boxes) = boxes("curl", false) else {
        return;
    };
    let addresses: Vec<IpAddr> = boxes.all.iter().map(|one| one.address.into()).collect();
    assert_eq!(ZONE.matches("IN A ").count(), addresses.len());
    let way: Ask = Arc::new(move |n| {
        // In turn, as a name server gives them.
        let turned = (0..addresses.len()).map(|i| addresses[(n + i) % addresses.len()].to_string());
        let listed = turned.collect::<Vec<_>>().join(",");
        let asked = Command::new("curl")
            .args([
                "--silent",
                "--show-error",
                "--fail",
                "--output",
                "/dev/null",
            ])
            .args(["--connect-timeout", CURL_CONNECT_SECONDS])
            .args(["--max-time", &ANSWER_LIMIT.as_secs().to_string()])
            .args(["--resolve", &format!("{HOST}:{GATEWAY}:{listed}")])
            .arg(format!("http://{HOST}:{GATEWAY}/"))
            .output()
            .map_err(|error| error.to_string())?;
        let why = String::from_utf8_lossy(&asked.stderr).trim().to_owned();
        asked.status.success().then_some(()).ok_or(why)
    });
    // A silent address is taken again and again until its record is gone: no limit for that.
    faults("three addresses", &mut boxes, &way, SETTLE * 2);
}
