//! Requests through the gateways, open loop: arrivals do not wait for answers, as in life.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::services::{TIMEOUT_SECONDS, host};
use crate::clock::{at, boottime_ns};
use crate::gateway_client::{GatewayClient, Reply, Sent};
use crate::instance_ledger::{ANSWERED_BY, NONCE};
use crate::record::{Answered, Outcome, Recorder, RequestRecord};
use crate::seed::Random;

/// After the gateway's own limit there must be an outcome; the rest is the machine's noise.
pub const HANG_LIMIT: Duration = Duration::from_secs(TIMEOUT_SECONDS as u64 + 10);
/// Requests of one load that are open at once, at most; an arrival beyond that is not sent.
const MAX_OPEN: usize = 400;
const POST_PERCENT: u64 = 60;
const MAX_BODY: u64 = 256 * 1024;

/// All clients of a trial.
#[derive(Debug)]
pub struct Clients {
    gateways: Vec<GatewayClient>,
    /// Those that new requests go to: who knows that a gateway is gone uses another one.
    in_use: Mutex<Vec<usize>>,
    recorder: Arc<Recorder>,
    next: AtomicU64,
    trial: String,
}

/// One request to make.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub service: String,
    pub gateway: usize,
    pub is_post: bool,
    pub body_bytes: usize,
    pub app_ms: u64,
}

/// What an open loop sends.
#[derive(Debug, Clone)]
pub struct Mix {
    pub services: Vec<String>,
    pub per_second: u64,
    /// The app's own time of a request in milliseconds, from and below.
    pub app_ms: (u64, u64),
}

impl Mix {
    /// `None` when there is no gateway to send to.
    fn draw(&self, gateways: &[usize], random: &mut Random) -> Option<Wanted> {
        let service = random.pick(&self.services)?.clone();
        let gateway = *random.pick(gateways)?;
        // A quarter without a body, half of a usual size, a quarter anything.
        let bytes = match random.between(0, 4) {
            0 => 0,
            1 | 2 => random.between(1, 2_048),
            _ => random.between(1, MAX_BODY),
        };
        Some(Wanted {
            service,
            gateway,
            is_post: random.chance(POST_PERCENT),
            body_bytes: usize::try_from(bytes).unwrap_or(0),
            app_ms: random.between(self.app_ms.0, self.app_ms.1),
        })
    }
}

impl Clients {
    pub fn new(gateways: Vec<String>, recorder: Arc<Recorder>, trial: String) -> Arc<Self> {
        Arc::new(Self {
            in_use: Mutex::new((0..gateways.len()).collect()),
            gateways: gateways.into_iter().map(GatewayClient::new).collect(),
            recorder,
            next: AtomicU64::new(1),
            trial,
        })
    }

    /// From now on new requests go to these gateways only.
    pub fn use_gateways(&self, gateways: &[usize]) {
        *self.in_use.lock().unwrap_or_else(PoisonError::into_inner) = gateways.to_vec();
    }

    pub fn in_use(&self) -> Vec<usize> {
        let in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        in_use.clone()
    }

    /// Sends one request and books it.
    pub async fn request(&self, wanted: Wanted) -> RequestRecord {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut record = RequestRecord {
            nonce: format!("{}-{number}", self.trial),
            method: if wanted.is_post { "POST" } else { "GET" }.into(),
            service: wanted.service.clone(),
            gateway: wanted.gateway,
            body_bytes: wanted.body_bytes,
            app_ms: wanted.app_ms,
            sent_ns: boottime_ns(),
            ended_ns: 0,
            outcome: Outcome::Open,
        };
        self.recorder.sending(&record);
        let body = pattern(&record.nonce, wanted.body_bytes);
        let reply = self.gateways[wanted.gateway].send(sent(&record, &body), HANG_LIMIT);
        record.outcome = judged(reply.await, &record.nonce, &body);
        record.ended_ns = boottime_ns();
        self.recorder.over(record.clone());
        record
    }

    /// Sends `mix` until stopped.
    pub fn start(self: &Arc<Self>, mix: Mix, random: Random) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let mut sender = JoinSet::new();
        sender.spawn(arrivals(self.clone(), mix, random, stop.clone()));
        Load { sender, stop }
    }
}

/// An open loop that runs.
#[derive(Debug)]
pub struct Load {
    sender: JoinSet<u64>,
    stop: Arc<AtomicBool>,
}

impl Load {
    /// Sends nothing new and waits until every request is over; returns how many arrivals were
    /// not sent because too many were open.
    pub async fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        match self.sender.join_next().await {
            Some(Ok(n_unsent)) => n_unsent,
            // A panic of the harness: seen as requests that are in no ledger.
            Some(Err(_)) | None => u64::MAX,
        }
    }
}

async fn arrivals(
    clients: Arc<Clients>,
    mix: Mix,
    mut random: Random,
    stop: Arc<AtomicBool>,
) -> u64 {
    let (open, mut running) = (Arc::new(Semaphore::new(MAX_OPEN)), JoinSet::new());
    let mean_us = 1_000_000 / mix.per_second.max(1);
    let (mut next, mut n_unsent) = (Instant::now(), 0);
    while !stop.load(Ordering::Relaxed) {
        let wanted = mix.draw(&clients.in_use(), &mut random);
        let (Ok(permit), Some(wanted)) = (open.clone().try_acquire_owned(), wanted) else {
            n_unsent += 1;
            next += Duration::from_micros(mean_us);
            at(next).await;
            continue;
        };
        let clients = clients.clone();
        running.spawn(async move {
            clients.request(wanted).await;
            drop(permit);
        });
        while running.try_join_next().is_some() {}
        next += Duration::from_micros(random.between(mean_us / 4, mean_us * 7 / 4));
        at(next).await;
    }
    while running.join_next().await.is_some() {}
    n_unsent
}

fn sent(record: &RequestRecord, body: &Bytes) -> Sent {
    let is_get = record.is_get();
    let (ms, bytes) = (record.app_ms, record.body_bytes);
    let path = match is_get {
        true => format!("/?ms={ms}&bytes={bytes}"),
        false => format!("/?ms={ms}"),
    };
    let mut headers = HeaderMap::new();
    if let Ok(nonce) = HeaderValue::from_str(&record.nonce) {
        headers.insert(HeaderName::from_static(NONCE), nonce);
    }
    Sent {
        method: if is_get { Method::GET } else { Method::POST },
        host: host(&record.service),
        path,
        headers,
        body: if is_get { Bytes::new() } else { body.clone() },
    }
}

/// A body that no other request has.
fn pattern(nonce: &str, n_bytes: usize) -> Bytes {
    nonce.bytes().cycle().take(n_bytes).collect()
}

fn judged(reply: Reply, nonce: &str, body: &Bytes) -> Outcome {
    match reply {
        Reply::Whole(status, headers, answer) => {
            let text = |name: &str| {
                let value = headers.get(name).and_then(|value| value.to_str().ok());
                value.unwrap_or_default().to_owned()
            };
            let mut answered = Answered {
                status: status.as_u16(),
                reason: text("nihilo-reason"),
                instance: text("nihilo-instance"),
                revision: text("nihilo-revision"),
                start: text("nihilo-start"),
                has_retry_after: headers.contains_key(http::header::RETRY_AFTER),
                mistake: String::new(),
            };
            if status.is_success() && answered.reason.is_empty() {
                let by = text(ANSWERED_BY);
                answered.mistake = mistake(&answered, &text(NONCE), nonce, &by, &answer, body);
            }
            Outcome::Answered(answered)
        }
        Reply::Cut(status, headers, why) => Outcome::Cut {
            status: status.as_u16(),
            instance: headers
                .get("nihilo-instance")
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
                .to_owned(),
            why,
        },
        Reply::Refused(why) => Outcome::Refused { why },
        Reply::Broken(why) => Outcome::Broken { why },
        Reply::Hung => Outcome::Hung,
    }
}

/// What is wrong with a good answer; empty = nothing. A GET's body is of another content but of
/// the same length.
fn mistake(
    answered: &Answered,
    echoed: &str,
    nonce: &str,
    by: &str,
    answer: &Bytes,
    body: &Bytes,
) -> String {
    if echoed != nonce {
        return format!("the answer of another request: `{echoed}`");
    }
    if by != answered.instance {
        let named = &answered.instance;
        return format!("the gateway names `{named}`, it was `{by}`");
    }
    let is_filler = answer.iter().all(|byte| *byte == b'x');
    if answer.len() != body.len() || !(is_filler || answer == body) {
        let (n, wanted) = (answer.len(), body.len());
        return format!("the body is another one: {n} bytes, {wanted} expected");
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(nonce: &str, by: &str, body: &[u8]) -> Outcome {
        let mut headers = HeaderMap::new();
        headers.insert(NONCE, nonce.parse().unwrap());
        headers.insert(ANSWERED_BY, by.parse().unwrap());
        headers.insert("nihilo-instance", "i-1".parse().unwrap());
        let answer = Bytes::copy_from_slice(body);
        let reply = Reply::Whole(http::StatusCode::OK, headers, answer);
        judged(reply, "t-7", &pattern("t-7", 7))
    }

    #[test]
    fn an_answer_of_another_request_is_seen() {
        let mistake = |outcome| match outcome {
            Outcome::Answered(answered) => answered.mistake,
            other => panic!("{other:?}"),
        };
        assert_eq!(mistake(whole("t-7", "i-1", b"t-7t-7t")), "");
        assert_eq!(mistake(whole("t-7", "i-1", b"xxxxxxx")), "");
        assert!(mistake(whole("t-8", "i-1", b"t-7t-7t")).contains("another request"));
        assert!(mistake(whole("t-7", "i-2", b"t-7t-7t")).contains("names `i-1`"));
        assert!(mistake(whole("t-7", "i-1", b"t-8t-8t")).contains("body"));
        assert!(mistake(whole("t-7", "i-1", b"t-7t-7")).contains("body"));
    }
}
