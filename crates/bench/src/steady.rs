//! Requests at a fixed rate, as a careful client of several gateways sends them while some of those
//! come and go: it looks whether a kept connection still stands, goes to the next gateway when one
//! refuses, and asks again when a connection ends before a byte of the answer, which for a GET
//! anybody may (RFC 9110 §9.2.2). All else that is not a whole 200 is a failure.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::anyhow;

use crate::figures::{Samples, milliseconds};
use crate::http::{Connection, get};
use crate::proc;

/// Requests under way at most; each client is a thread.
const N_CLIENTS: usize = 32;
/// Then a client goes back to its own gateway, as a balancer's connections do.
const REQUESTS_PER_CONNECTION: usize = 200;
/// Of one request.
const MAX_TRIES: u32 = 3;

/// A load that goes on until it is told to stop.
#[derive(Debug)]
pub(crate) struct Steady {
    is_over: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<Seen>>>,
}

/// What came of one request.
#[derive(Debug)]
struct Seen {
    due: Instant,
    /// From when it was due.
    took: Duration,
    /// Connections that ended without a byte of the answer.
    n_again: u32,
    /// Gateways that took no connection.
    n_refused: u32,
    failure: Option<String>,
}

/// All requests of a load, in no order.
#[derive(Debug)]
pub(crate) struct Ledger(Vec<Seen>);

/// Those of them that were due in some time.
#[derive(Debug)]
pub(crate) struct Window {
    pub(crate) n: usize,
    pub(crate) n_failed: usize,
    pub(crate) first_failure: Option<String>,
    pub(crate) n_again: u32,
    pub(crate) n_refused: u32,
    pub(crate) latency_ms: Samples,
}

impl Steady {
    /// Clients take turns over `gateways`; together they send `rate` requests a second.
    pub(crate) fn start(gateways: &[SocketAddr], host: &str, rate: f64) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let next = Arc::new(AtomicU64::new(0));
        let (start, interval) = (Instant::now(), Duration::from_secs_f64(1.0 / rate));
        let clients = (0..N_CLIENTS).map(|n| {
            let mut client = Client {
                number: n,
                gateways: gateways.to_vec(),
                request: get(host),
                kept: None,
            };
            let (is_over, next) = (is_over.clone(), next.clone());
            std::thread::spawn(move || {
                proc::wake_this_thread_on_time();
                let mut seen = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let due = start + interval.mul_f64(n as f64);
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    seen.push(client.ask(due));
                }
                seen
            })
        });
        let clients = clients.collect();
        Self { is_over, clients }
    }

    pub(crate) fn finish(mut self) -> anyhow::Result<Ledger> {
        self.is_over.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for client in self.clients.drain(..) {
            all.extend(client.join().map_err(|_| anyhow!("a client panicked"))?);
        }
        Ok(Ledger(all))
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        // A benchmark that failed leaves no load behind.
        self.is_over.store(true, Ordering::Relaxed);
    }
}

impl Ledger {
    pub(crate) fn between(&self, from: Instant, to: Instant) -> Window {
        let within = || {
            self.0
                .iter()
                .filter(|seen| seen.due >= from && seen.due < to)
        };
        let mut failures = within().filter_map(|seen| seen.failure.as_ref());
        let first_failure = failures.next().cloned();
        let answered = within().filter(|seen| seen.failure.is_none());
        Window {
            n: within().count(),
            n_failed: failures.count() + usize::from(first_failure.is_some()),
            first_failure,
            n_again: within().map(|seen| seen.n_again).sum(),
            n_refused: within().map(|seen| seen.n_refused).sum(),
            latency_ms: Samples::new(answered.map(|seen| milliseconds(seen.took))),
        }
    }
}

impl Window {
    pub(crate) const COLUMNS: [&'static str; 8] = [
        "",
        "requests",
        "failed",
        "asked again",
        "refused connections",
        "p50 ms",
        "p99 ms",
        "max ms",
    ];

    pub(crate) fn row(&self, what: &str) -> [String; 8] {
        let quantile = |q| format!("{:.2}", self.latency_ms.quantile(q));
        [
            what.into(),
            self.n.to_string(),
            self.n_failed.to_string(),
            self.n_again.to_string(),
            self.n_refused.to_string(),
            quantile(0.5),
            quantile(0.99),
            quantile(1.0),
        ]
    }

    /// `3 of 1000, the first: status 503`.
    pub(crate) fn failures(&self) -> String {
        let first = self.first_failure.as_ref();
        let first = first.map_or(String::new(), |first| format!(", the first: {first}"));
        format!("{} of {}{first}", self.n_failed, self.n)
    }
}

struct Client {
    number: usize,
    gateways: Vec<SocketAddr>,
    request: Vec<u8>,
    /// With the requests that it has carried.
    kept: Option<(Connection, usize)>,
}

impl Client {
    fn ask(&mut self, due: Instant) -> Seen {
        let mut seen = Seen {
            due,
            took: Duration::ZERO,
            n_again: 0,
            n_refused: 0,
            failure: None,
        };
        seen.failure = self.try_to_ask(&mut seen).err();
        seen.took = due.elapsed();
        seen
    }

    fn try_to_ask(&mut self, seen: &mut Seen) -> Result<(), String> {
        loop {
            let (mut connection, n_carried) = self.connection(seen)?;
            match connection.exchange(&self.request) {
                Ok(answer) => {
                    if !answer.is_last() {
                        self.kept = Some((connection, n_carried + 1));
                    }
                    return match answer.status {
                        200 => Ok(()),
                        status => Err(format!("status {status}")),
                    };
                }
                Err(error) if may_ask_again(&error, &connection, seen) => seen.n_again += 1,
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// The kept one, or a new one to the first gateway that takes it, its own first.
    fn connection(&mut self, seen: &mut Seen) -> Result<(Connection, usize), String> {
        let kept = self.kept.take();
        let is_good = |(connection, n_carried): &(Connection, usize)| {
            *n_carried < REQUESTS_PER_CONNECTION && !connection.is_stale()
        };
        if let Some(kept) = kept.filter(is_good) {
            return Ok(kept);
        }
        for n in 0..self.gateways.len() {
            let gateway = self.gateways[(self.number + n) % self.gateways.len()];
            match Connection::open(gateway) {
                Ok(connection) => return Ok((connection, 0)),
                Err(_) => seen.n_refused += 1,
            }
        }
        Err("no gateway takes a connection".into())
    }
}

fn may_ask_again(error: &io::Error, connection: &Connection, seen: &Seen) -> bool {
    // Out of time is an answer that did not come, not a connection that ended.
    let timed_out = [io::ErrorKind::TimedOut, io::ErrorKind::WouldBlock].contains(&error.kind());
    !connection.has_heard() && !timed_out && seen.n_again + 1 < MAX_TRIES
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// Answers each connection's first request with these bytes, and closes.
    fn server(answers: Vec<&'static [u8]>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut socket, _) = listener.accept().unwrap();
                let n = socket.read(&mut [0; 1024]).unwrap();
                assert!(n > 0);
                socket.write_all(answer).unwrap();
            }
        });
        address
    }

    fn client(gateways: Vec<SocketAddr>) -> Client {
        Client {
            number: 0,
            gateways,
            request: get("a"),
            kept: None,
        }
    }

    const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

    #[test]
    fn a_connection_that_ends_in_silence_is_no_failure_and_is_counted() {
        let seen = client(vec![server(vec![b"", OK])]).ask(Instant::now());
        assert_eq!((seen.failure, seen.n_again), (None, 1));
    }

    #[test]
    fn half_an_answer_a_refusal_and_silence_again_and_again_are_failures() {
        let half = &OK[..OK.len() - 1];
        let busy: &[u8] = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n";
        for answers in [vec![half], vec![busy], vec![b"", b"", b""]] {
            let seen = client(vec![server(answers)]).ask(Instant::now());
            assert!(seen.failure.is_some(), "{seen:?}");
        }
    }

    #[test]
    fn the_next_gateway_takes_what_one_refuses() {
        let closed = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        let seen = client(vec![closed, server(vec![OK])]).ask(Instant::now());
        assert_eq!((seen.failure, seen.n_refused), (None, 1));
        let seen = client(vec![closed]).ask(Instant::now());
        assert!(seen.failure.is_some());
    }

    #[test]
    fn a_window_counts_what_was_due_in_it() {
        let start = Instant::now();
        let at = |ms: u64, failure: Option<&str>| Seen {
            due: start + Duration::from_millis(ms),
            took: Duration::from_millis(ms),
            n_again: 1,
            n_refused: 0,
            failure: failure.map(Into::into),
        };
        let ledger = Ledger(vec![at(1, None), at(2, Some("x")), at(5, Some("y"))]);
        let window = ledger.between(start, start + Duration::from_millis(5));
        assert_eq!((window.n, window.n_failed, window.n_again), (2, 1, 2));
        assert_eq!(window.latency_ms.quantile(1.0), 1.0);
        assert_eq!(window.failures(), "1 of 2, the first: x");
    }
}
