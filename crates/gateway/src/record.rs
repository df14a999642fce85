//! What is known of one request, and what is said of it when it ends, however it ends.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderMap, REFERER, USER_AGENT};
use http::{HeaderValue, Method, Request, Uri, Version};
use nihilo_types::id::InstanceId;
use nihilo_types::instance::Waking;
use nihilo_types::route_table::RevisionTarget;
use tokio::time::Instant;

use crate::access_log::{AccessLog, Entry};
use crate::body::{BodyError, ClientBody};
use crate::cold::ColdStart;
use crate::connection::Client;
use crate::line::{Counted, Line};
use crate::metrics::Metrics;

/// nginx's code for a client that left before it was answered.
const CLIENT_GONE: u16 = 499;

/// One request, from its head to the end of its answer. Dropping it ends it.
#[derive(Debug)]
pub struct Record {
    client: Arc<Client>,
    log: Arc<AccessLog>,
    metrics: Metrics,
    pub arrived: Instant,
    method: Method,
    uri: Uri,
    version: Version,
    said: Said,
    pub body: Option<ClientBody>,
    pub line: Option<Arc<Line>>,
    pub counted: Option<Counted>,
    pub target: Option<Arc<RevisionTarget>>,
    pub instance: Option<InstanceId>,
    pub queued: Duration,
    pub sent_at: Option<Instant>,
    pub first_byte_at: Option<Instant>,
    /// How the instance was woken that it waited for; `None` = one was ready.
    pub waited_for: Option<Waking>,
    /// Sends, and those of them that may have been executed in vain.
    pub n_sends: u32,
    pub n_failed: u32,
    status: Option<u16>,
    reason: &'static str,
    n_sent: u64,
}

/// Fields of the head that only the log wants.
#[derive(Debug, Default)]
struct Said {
    user_agent: Option<HeaderValue>,
    referer: Option<HeaderValue>,
    trace: Option<HeaderValue>,
    request_id: Option<HeaderValue>,
}

impl Record {
    pub fn begin<B>(
        request: &Request<B>,
        client: Arc<Client>,
        log: Arc<AccessLog>,
        metrics: Metrics,
    ) -> Self {
        client.activity.begin();
        let field = |name| request.headers().get(name).cloned();
        let said = match log.is_on() {
            true => Said {
                user_agent: field(USER_AGENT),
                referer: field(REFERER),
                ..Said::default()
            },
            false => Said::default(),
        };
        Self {
            client,
            log,
            metrics,
            arrived: Instant::now(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            said,
            body: None,
            line: None,
            counted: None,
            target: None,
            instance: None,
            queued: Duration::ZERO,
            sent_at: None,
            first_byte_at: None,
            waited_for: None,
            n_sends: 0,
            n_failed: 0,
            status: None,
            reason: "",
            n_sent: 0,
        }
    }

    /// Ids that were passed on or made.
    pub fn name(&mut self, headers: &HeaderMap, request_id: HeaderValue) {
        if self.log.is_on() {
            self.said.trace = crate::rules::trace::trace_id(headers);
        }
        self.said.request_id = Some(request_id);
    }

    pub fn request_id(&self) -> Option<HeaderValue> {
        self.said.request_id.clone()
    }

    /// The head of the answer is on its way. `reason` is empty for an instance's own.
    pub fn answered(&mut self, status: u16, reason: &'static str) {
        self.status = Some(status);
        self.reason = reason;
        if !reason.is_empty() {
            self.metrics.answered(status, reason);
        }
    }

    pub fn sent(&mut self, n: usize) {
        self.n_sent += n as u64;
    }

    /// Where its time went up to the first byte, or up to now; `None` where one was ready, or nothing has
    /// been sent.
    pub(crate) fn cold_start(&self) -> Option<ColdStart> {
        let (waking, sent) = (self.waited_for?, self.sent_at?);
        let first_byte = self.first_byte_at.unwrap_or_else(Instant::now);
        let waited = sent.duration_since(self.arrived);
        Some(ColdStart::of(waited, waking, first_byte - sent))
    }

    /// The answer's body could not be brought to its end.
    pub fn cut(&mut self, error: &BodyError) {
        self.reason = match error {
            BodyError::Upstream(_) => "cut_after_head",
            BodyError::TimedOut => "total_timeout",
        };
        self.metrics.answered(self.status.unwrap_or(0), self.reason);
    }

    fn log(&mut self, status: u16, latency: Duration) {
        let is_notable = status >= 500 || self.waited_for.is_some() || !self.reason.is_empty();
        if !self.log.admits(is_notable) {
            return;
        }
        let said = std::mem::take(&mut self.said);
        let between = |from: Option<Instant>| from.map_or(Duration::ZERO, |at| at.elapsed());
        self.log.write(Entry {
            method: self.method.clone(),
            path: self.uri.path().to_owned(),
            version: self.version,
            status,
            request_bytes: self.body.as_ref().map_or(0, ClientBody::n_bytes),
            response_bytes: self.n_sent,
            user_agent: said.user_agent,
            referer: said.referer,
            remote: self.client.hop.client,
            server: self.client.local,
            latency,
            trace: said.trace,
            request_id: said.request_id,
            target: self.target.clone(),
            instance: self.instance.clone(),
            is_cold: self.waited_for.is_some(),
            queued: self.queued,
            upstream: between(self.sent_at),
            n_attempts: self.n_sends,
            reason: self.reason,
        });
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let latency = self.arrived.elapsed();
        let status = self.status.unwrap_or_else(|| {
            self.reason = "client_gone";
            self.client.reset_by_client();
            CLIENT_GONE
        });
        self.client.activity.end_if(self.version != Version::HTTP_2);
        if let Some(line) = &self.line {
            let upstream = self.sent_at.map(|at| at.elapsed());
            line.meters.answered(status, latency, upstream);
            if let Some(cold) = self.cold_start().filter(|_| self.first_byte_at.is_some()) {
                line.meters.started_cold(cold);
            }
        }
        self.log(status, latency);
    }
}
