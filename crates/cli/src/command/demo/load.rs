//! Load on the gateways: clients that each send one request after the other, and a poll of what
//! the autoscaler makes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use http::StatusCode;
use nihilo_client::Client;
use tokio::task::JoinSet;

use crate::command::ps::is_ready;
use crate::http::{Answer, HttpClient};

/// After a failure, so that a client does not spin.
const PAUSE: Duration = Duration::from_millis(50);
const POLL_EVERY: Duration = Duration::from_millis(250);
/// Samples kept at most: more than a burst lasts.
const MAX_SAMPLES: usize = 1_000;
/// Precision of latencies: three digits, up to a minute in microseconds.
const DIGITS: u8 = 3;
const MAX_LATENCY_US: u64 = 60_000_000;

/// What came of a load.
#[derive(Debug)]
pub(crate) struct Totals {
    pub sent: u64,
    /// With status 200.
    pub answered: u64,
    pub failed: u64,
    /// Sent again through another gateway, because one broke off.
    pub resent: u64,
    pub first_failure: Option<String>,
    latency_us: Histogram<u64>,
}

impl Default for Totals {
    fn default() -> Self {
        let latency_us = Histogram::new_with_max(MAX_LATENCY_US, DIGITS);
        Self {
            sent: 0,
            answered: 0,
            failed: 0,
            resent: 0,
            first_failure: None,
            latency_us: latency_us.expect("the bounds are valid constants"),
        }
    }
}

impl Totals {
    /// Latency in milliseconds at a quantile of 0..=1.
    pub(crate) fn latency_ms(&self, quantile: f64) -> u64 {
        self.latency_us.value_at_quantile(quantile) / 1000
    }

    /// Counts one outcome; returns whether it was good.
    fn count(&mut self, outcome: Result<Answer, String>) -> bool {
        self.sent += 1;
        let failure = match outcome {
            Ok(answer) => {
                self.resent += u64::from(answer.n_resent);
                if answer.status == StatusCode::OK {
                    self.answered += 1;
                    let us = u64::try_from(answer.took.as_micros()).unwrap_or(MAX_LATENCY_US);
                    self.latency_us.saturating_record(us);
                    return true;
                }
                format!(
                    "{}: {}",
                    answer.status,
                    String::from_utf8_lossy(&answer.body).trim()
                )
            }
            Err(why) => why,
        };
        self.failed += 1;
        self.first_failure.get_or_insert(failure);
        false
    }

    fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.answered += other.answered;
        self.failed += other.failed;
        self.resent += other.resent;
        if self.first_failure.is_none() {
            self.first_failure = other.first_failure;
        }
        self.latency_us
            .add(other.latency_us)
            .expect("both have the same bounds");
    }
}

/// Clients that send until they are told to stop.
#[derive(Debug)]
pub(crate) struct Load {
    clients: JoinSet<Totals>,
    stop: Arc<AtomicBool>,
}

impl Load {
    pub(crate) fn start(http: &Arc<HttpClient>, host: &str, path: &str, n_clients: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for _ in 0..n_clients {
            let (http, stop) = (http.clone(), stop.clone());
            let (host, path) = (host.to_owned(), path.to_owned());
            clients.spawn(async move {
                let mut totals = Totals::default();
                while !stop.load(Ordering::Relaxed) {
                    if !totals.count(http.get(&host, &path).await) {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
                totals
            });
        }
        Self { clients, stop }
    }

    /// Lets requests in flight finish.
    pub(crate) async fn stop(mut self) -> Totals {
        self.stop.store(true, Ordering::Relaxed);
        let mut totals = Totals::default();
        while let Some(client) = self.clients.join_next().await {
            // A client ends only by its loop: one that panicked must not pass for a success.
            totals.add(client.unwrap_or_else(|error| Totals {
                failed: 1,
                first_failure: Some(error.to_string()),
                ..Totals::default()
            }));
        }
        totals
    }
}

/// Instances of a service over time.
#[derive(Debug, Default)]
pub(crate) struct Scale {
    /// Ready ones at each poll.
    pub ready: Vec<usize>,
    /// Nodes that had a ready one at any time.
    pub nodes: BTreeSet<String>,
}

impl Scale {
    pub(crate) fn peak(&self) -> usize {
        self.ready.iter().copied().max().unwrap_or(0)
    }
}

/// Polls instances until dropped or stopped.
#[derive(Debug)]
pub(crate) struct Poll {
    task: JoinSet<Scale>,
    stop: Arc<AtomicBool>,
}

impl Poll {
    pub(crate) fn start(client: &Client, namespace: &str, service: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (client, seen) = (client.clone(), stop.clone());
        let (namespace, service) = (namespace.to_owned(), service.to_owned());
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut scale = Scale::default();
            while !seen.load(Ordering::Relaxed) && scale.ready.len() < MAX_SAMPLES {
                // A poll without an answer is a gap, not a zero.
                if let Ok(answer) = client.instances(Some(&namespace), &service).await {
                    let ready: Vec<_> = answer.items.iter().filter(|i| is_ready(i)).collect();
                    scale.ready.push(ready.len());
                    scale
                        .nodes
                        .extend(ready.into_iter().map(|i| i.node.clone()));
                }
                tokio::time::sleep(POLL_EVERY).await;
            }
            scale
        });
        Self { task, stop }
    }

    pub(crate) async fn stop(mut self) -> Scale {
        self.stop.store(true, Ordering::Relaxed);
        match self.task.join_next().await {
            Some(Ok(scale)) => scale,
            _ => Scale::default(),
        }
    }
}

/// Sends `n` requests from `n_clients` clients; returns how many each revision answered.
///
/// # Errors
/// The first request that was not answered with 200.
pub(crate) async fn by_revision(
    http: &Arc<HttpClient>,
    host: &str,
    n: u32,
    n_clients: u32,
) -> Result<BTreeMap<String, u32>, String> {
    let next = Arc::new(AtomicU32::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..n_clients {
        let (http, next, host) = (http.clone(), next.clone(), host.to_owned());
        clients.spawn(async move {
            let mut counts = BTreeMap::new();
            while next.fetch_add(1, Ordering::Relaxed) < n {
                let answer = http.get(&host, "/").await?;
                if answer.status != StatusCode::OK {
                    return Err(format!("a request got {}", answer.status));
                }
                *counts
                    .entry(answer.header("nihilo-revision").to_owned())
                    .or_insert(0) += 1;
            }
            Ok(counts)
        });
    }
    let mut all = BTreeMap::new();
    while let Some(client) = clients.join_next().await {
        for (revision, n) in client.map_err(|error| error.to_string())?? {
            *all.entry(revision).or_insert(0) += n;
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: StatusCode, milliseconds: u64, n_resent: u32) -> Answer {
        Answer {
            status,
            headers: http::HeaderMap::new(),
            body: "revision not ready".into(),
            took: Duration::from_millis(milliseconds),
            n_resent,
        }
    }

    #[test]
    fn every_request_is_either_answered_or_failed() {
        let mut totals = Totals::default();
        assert!(totals.count(Ok(answer(StatusCode::OK, 100, 1))));
        let mut other = Totals::default();
        assert!(!other.count(Ok(answer(StatusCode::SERVICE_UNAVAILABLE, 1, 0))));
        assert!(!other.count(Err("gateway a:1: closed".into())));
        totals.add(other);
        let counts = (totals.sent, totals.answered, totals.failed, totals.resent);
        assert_eq!(counts, (3, 1, 2, 1));
        let first = totals.first_failure.as_deref();
        assert_eq!(first, Some("503 Service Unavailable: revision not ready"));
        assert_eq!(totals.latency_ms(0.99), 100);
    }
}
