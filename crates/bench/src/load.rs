//! The load generator: closed loop for how much a proxy can do, open loop for how long it takes.
//!
//! One blocking thread per connection, all of them on one core: it is the kernel's scheduler that
//! waits, to some 50 µs, not a timer wheel of milliseconds.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use hdrhistogram::Histogram;

use crate::http::{Connection, get};
use crate::proc;

/// Connections of one load, at most: each is a thread.
pub(crate) const MAX_CONNECTIONS: usize = 1_024;
/// Highest latency that is told apart, in microseconds.
const MAX_LATENCY_US: u64 = 60_000_000;
/// How late the kernel may wake a generator's thread, in nanoseconds.
const TIMER_SLACK_NS: NonZeroU64 = NonZeroU64::MIN;

/// Where a load goes and how much of it.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) address: SocketAddr,
    pub(crate) host: String,
    pub(crate) n_connections: usize,
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
    /// Each connection sends as soon as it has its answer.
    Closed,
    /// Requests are due at fixed times, whoever sends them.
    Open {
        interval: Duration,
        next: Arc<AtomicU64>,
    },
}

/// As many requests as `n_connections` clients can make one after the other.
pub(crate) fn closed(load: &Load) -> anyhow::Result<Outcome> {
    run(load, &Pace::Closed)
}

/// `rate` requests per second, sent when they are due even if earlier ones are late.
pub(crate) fn open(load: &Load, rate: f64) -> anyhow::Result<Outcome> {
    let interval = Duration::from_secs_f64(1.0 / rate.max(1.0));
    let next = Arc::default();
    run(load, &Pace::Open { interval, next })
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

    fn failed(&mut self, why: String) {
        self.n_failed += 1;
        self.first_failure.get_or_insert(why);
    }
}

fn run(load: &Load, pace: &Pace) -> anyhow::Result<Outcome> {
    if load.n_connections == 0 || load.n_connections > MAX_CONNECTIONS {
        bail!("connections must be in [1, {MAX_CONNECTIONS}]");
    }
    let connections: Vec<_> = (0..load.n_connections)
        .map(|_| Connection::open(load.address))
        .collect::<Result<_, _>>()
        .with_context(|| format!("connect to {}", load.address))?;
    let request = get(&load.host);
    let start = Instant::now();
    let end = start + load.lasts;
    let mut total = Outcome::empty()?;
    thread::scope(|scope| {
        let clients: Vec<_> = connections
            .into_iter()
            .map(|connection| {
                let request = &request;
                scope.spawn(move || {
                    proc::pin_this_thread(load.core)?;
                    rustix::thread::set_current_timer_slack(Some(TIMER_SLACK_NS))?;
                    client(connection, request, pace, start, end)
                })
            })
            .collect();
        for client in clients {
            let outcome = client.join().map_err(|_| anyhow!("a client panicked"))??;
            total.add(outcome)?;
        }
        anyhow::Ok(())
    })?;
    total.elapsed = start.elapsed();
    Ok(total)
}

/// One connection until the end, or until it breaks.
fn client(
    mut connection: Connection,
    request: &[u8],
    pace: &Pace,
    start: Instant,
    end: Instant,
) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::empty()?;
    loop {
        let due = match pace {
            Pace::Closed => Instant::now(),
            Pace::Open { interval, next } => {
                let n = next.fetch_add(1, Ordering::Relaxed);
                start + interval.mul_f64(n as f64)
            }
        };
        if due >= end {
            return Ok(outcome);
        }
        thread::sleep(due.saturating_duration_since(Instant::now()));
        match connection.exchange(request) {
            Ok(answer) if answer.status == 200 => {
                outcome.n_answered += 1;
                let us = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
                outcome.latencies.saturating_record(us);
            }
            Ok(answer) => outcome.failed(format!("status {}", answer.status)),
            Err(error) => {
                outcome.failed(error.to_string());
                return Ok(outcome);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

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

    fn load(lasts: Duration, n_connections: usize) -> Load {
        Load {
            address: server(),
            host: "a".into(),
            n_connections,
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
