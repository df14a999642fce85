//! The load generator: closed loop for how much a proxy can do, open loop for how long it takes.
//!
//! All of it runs on one core, and it is the kernel's scheduler that waits for the moment when a
//! request is due, to some 50 µs, not a timer wheel of milliseconds.

mod h1;
mod h2;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;
use hdrhistogram::Histogram;

/// Clients of one load, at most: with HTTP/1.1 each is a thread.
pub(crate) const MAX_CLIENTS: usize = 1_024;
/// Highest latency that is told apart, in microseconds.
const MAX_LATENCY_US: u64 = 60_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Protocol {
    /// HTTP/1.1 with keep-alive.
    H1,
    /// HTTP/2 without TLS, by prior knowledge.
    H2,
}

/// Where a load goes and how much of it.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) protocol: Protocol,
    pub(crate) address: SocketAddr,
    pub(crate) host: String,
    /// Requests under way at most: with HTTP/1.1 a connection each, with HTTP/2 a stream each of
    /// a quarter as many connections.
    pub(crate) n_clients: usize,
    pub(crate) lasts: Duration,
    /// Of the generator.
    pub(crate) core: usize,
}

/// What came of it.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) n_answered: u64,
    pub(crate) n_failed: u64,
    pub(crate) first_failure: Option<String>,
    pub(crate) elapsed: Duration,
    /// Microseconds; in an open loop from the moment a request was due, not from when it left.
    latencies: Histogram<u64>,
}

/// When the next request leaves.
#[derive(Debug, Clone)]
enum Pace {
    /// Each client sends as soon as it has its answer.
    Closed,
    /// Requests are due at fixed times, whoever sends them.
    Open(Schedule),
}

impl Pace {
    /// When the next request leaves: a client of an open loop waits for that moment.
    fn take(&self) -> Instant {
        match self {
            Pace::Closed => Instant::now(),
            Pace::Open(schedule) => schedule.take(),
        }
    }
}

#[derive(Debug, Clone)]
struct Schedule {
    start: Instant,
    interval: Duration,
    next: Arc<AtomicU64>,
}

impl Schedule {
    fn due(&self, n: u64) -> Instant {
        self.start + self.interval.mul_f64(n as f64)
    }

    /// When the next request that nobody has taken yet is due.
    fn take(&self) -> Instant {
        self.due(self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// As many requests as the clients can make one after the other.
pub(crate) fn closed(load: &Load) -> anyhow::Result<Outcome> {
    run(load, |_| Pace::Closed)
}

/// `rate` requests per second, sent when they are due even if earlier ones are late.
pub(crate) fn open(load: &Load, rate: f64) -> anyhow::Result<Outcome> {
    let interval = Duration::from_secs_f64(1.0 / rate.max(1.0));
    run(load, |start| {
        let next = Arc::default();
        Pace::Open(Schedule {
            start,
            interval,
            next,
        })
    })
}

/// `pace` is made once all connections stand.
fn run(load: &Load, pace: impl FnOnce(Instant) -> Pace + Send) -> anyhow::Result<Outcome> {
    if load.n_clients == 0 || load.n_clients > MAX_CLIENTS {
        bail!("clients must be in [1, {MAX_CLIENTS}]");
    }
    match load.protocol {
        Protocol::H1 => h1::run(load, pace),
        Protocol::H2 => h2::run(load, pace),
    }
}

impl Outcome {
    fn empty() -> anyhow::Result<Self> {
        Ok(Self {
            n_answered: 0,
            n_failed: 0,
            first_failure: None,
            elapsed: Duration::ZERO,
            latencies: Histogram::new_with_max(MAX_LATENCY_US, 3)?,
        })
    }

    pub(crate) fn rate(&self) -> f64 {
        self.n_answered as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    pub(crate) fn latency_us(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64
    }

    /// # Errors
    /// The first request that was not answered with 200: a benchmark of failures measures nothing.
    pub(crate) fn must_be_whole(self, what: &str) -> anyhow::Result<Self> {
        if self.n_failed > 0 {
            let (n, why) = (self.n_failed, self.first_failure.unwrap_or_default());
            bail!("{what}: {n} requests failed, the first: {why}");
        }
        Ok(self)
    }

    fn add(&mut self, other: Self) -> anyhow::Result<()> {
        self.n_answered += other.n_answered;
        self.n_failed += other.n_failed;
        self.first_failure = self.first_failure.take().or(other.first_failure);
        self.latencies.add(other.latencies)?;
        Ok(())
    }

    /// Files the status of one exchange; `false` = its connection broke, and can carry no other.
    fn file(&mut self, due: Instant, exchanged: anyhow::Result<u16>) -> bool {
        match exchanged {
            Ok(200) => self.answered(due),
            Ok(status) => self.failed(format!("status {status}")),
            Err(error) => {
                self.failed(format!("{error:#}"));
                return false;
            }
        }
        true
    }

    fn answered(&mut self, due: Instant) {
        self.n_answered += 1;
        let us = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.latencies.saturating_record(us);
    }

    fn failed(&mut self, why: String) {
        self.n_failed += 1;
        self.first_failure.get_or_insert(why);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Answers every connection; every hundredth answer of each comes 50 ms late.
    fn server() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for socket in listener.incoming() {
                let mut socket = socket.unwrap();
                thread::spawn(move || {
                    let mut request = [0; 1024];
                    for n in 1.. {
                        if socket.read(&mut request).is_ok_and(|n| n == 0) {
                            return;
                        }
                        if n % 100 == 0 {
                            thread::sleep(Duration::from_millis(50));
                        }
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                        if socket.write_all(answer).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        address
    }

    fn load(lasts: Duration, n_clients: usize) -> Load {
        Load {
            protocol: Protocol::H1,
            address: server(),
            host: "a".into(),
            n_clients,
            lasts,
            core: 0,
        }
    }

    #[test]
    fn an_open_loop_keeps_its_rate_and_counts_the_wait_of_late_requests() {
        let outcome = open(&load(Duration::from_millis(500), 1), 1_000.0).unwrap();
        let outcome = outcome.must_be_whole("test").unwrap();
        // All that were due were sent. A stop of 50 ms makes some 50 requests late, which a closed
        // loop would never have sent.
        assert_eq!(outcome.n_answered, 500);
        assert!(outcome.latency_us(0.99) > 20_000.0);
    }

    #[test]
    fn a_closed_loop_sends_one_request_after_the_other() {
        let outcome = closed(&load(Duration::from_millis(200), 2)).unwrap();
        assert!(outcome.n_answered > 10 && outcome.n_failed == 0);
        assert!(outcome.rate() > 50.0);
    }

    #[test]
    fn failures_are_told() {
        let mut outcome = Outcome::empty().unwrap();
        outcome.failed("status 503".into());
        let error = outcome.must_be_whole("nginx").unwrap_err().to_string();
        assert_eq!(error, "nginx: 1 requests failed, the first: status 503");
    }
}
