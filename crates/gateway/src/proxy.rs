//! One request from arrival to the head of its answer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::header::{ALLOW, CONNECTION, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use nihilo_failpoint::{Bug, planted};
use nihilo_types::endpoint::EndpointTable;
use nihilo_types::id::{NodeId, ObjectKey};
use nihilo_types::route_table::{RevisionTarget, RouteTable};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::access_log::AccessLog;
use crate::body::{ClientBody, Limits, RequestBody, ResponseBody, Upstream};
use crate::connection::{Client, ClientLimits};
use crate::limiter::{LocalInstances, Refusal};
use crate::line::{Line, LineError, Surroundings, Trouble, Wish};
use crate::mesh::Mesh;
use crate::record::Record;
use crate::rescue::{Cause, Tongue};
use crate::reservations::Reservations;
use crate::router::{Chosen, Router};
use crate::rules;
use crate::send::{Failed, Sent};
use crate::tunnel::{self, Tunnel, TunnelLimits, Wanted};

/// Sends of one request after which something of it may have arrived.
const MAX_ATTEMPTS: u32 = 3;
/// A request of which nothing could be sent goes back to the line for so long: longer than it
/// takes to declare a node down and to replace its instances.
const UNSENT_LIMIT: Duration = Duration::from_secs(10);
const PROBE: HeaderName = HeaderName::from_static("k-network-probe");
const PROBE_HASH: HeaderName = HeaderName::from_static("k-network-hash");
const TAG: HeaderName = HeaderName::from_static("knative-serving-tag");
const DEFAULT_ROUTE: HeaderName = HeaderName::from_static("knative-serving-default-route");

/// Everything a request touches on this node.
pub struct Plane {
    pub node: NodeId,
    pub node_name: HeaderValue,
    pub via: rules::Via,
    pub routes: Arc<ArcSwap<RouteTable>>,
    pub router: Router,
    pub lines: Mutex<HashMap<ObjectKey, Arc<Line>>>,
    /// The newest that owners said about each revision, for lines that are made later.
    pub endpoints: Mutex<HashMap<ObjectKey, EndpointTable>>,
    pub around: Surroundings,
    pub local: LocalInstances,
    pub mesh: Mesh,
    pub reservations: Reservations,
    pub log: Arc<AccessLog>,
    pub limits: ClientLimits,
    /// Turns true when tunnels are to close.
    pub leaving: watch::Receiver<bool>,
    /// For tunnels whose client is another gateway's.
    pub never_leaving: watch::Receiver<bool>,
    pub(crate) _never: watch::Sender<bool>,
    /// Watched by every connection and tunnel while it lives.
    pub alive: watch::Sender<()>,
}

impl std::fmt::Debug for Plane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plane")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// One request's own facts.
pub(crate) struct Exchange {
    pub(crate) line: Arc<Line>,
    pub(crate) target: Arc<RevisionTarget>,
    pub(crate) wish: Wish,
    pub(crate) body: Option<ClientBody>,
    pub(crate) tunnel: Option<Wanted>,
    is_idempotent: bool,
}

/// A request's head, to make it anew with.
struct Again {
    method: Method,
    uri: http::Uri,
    headers: HeaderMap,
}

impl Again {
    fn of(request: &Request<RequestBody>) -> Self {
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: request.headers().clone(),
        }
    }

    fn make(self, body: RequestBody) -> Request<RequestBody> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        request
    }
}

impl Exchange {
    fn attempt(&self) -> Option<RequestBody> {
        match &self.body {
            None => Some(RequestBody::Empty),
            Some(body) => body.attempt(),
        }
    }
}

impl Plane {
    /// Answers one request of a client.
    pub async fn serve(
        self: Arc<Self>,
        request: Request<Incoming>,
        client: Arc<Client>,
    ) -> Response<ResponseBody> {
        let metrics = self.around.metrics.clone();
        let mut record = Record::begin(&request, client.clone(), self.log.clone(), metrics);
        let is_h2 = request.version() == Version::HTTP_2;
        let tongue = match (rules::is_grpc(request.headers()), is_h2) {
            (true, _) => Tongue::Grpc,
            (false, true) => Tongue::Http2,
            (false, false) => Tongue::Http1,
        };
        let (mut response, tunnel) = match self.dispatch(request, &client, &mut record).await {
            Ok(answer) => {
                record.answered(answer.0.status().as_u16(), "");
                answer
            }
            Err(cause) => {
                let cause = client_fault(&record, cause);
                record.answered(cause.status().as_u16(), cause.reason());
                (cause.answer(tongue), None)
            }
        };
        if let Some(id) = record.request_id() {
            response.headers_mut().insert(rules::trace::REQUEST_ID, id);
        }
        let record = Box::new(record);
        match tunnel {
            Some(tunnel) => drop(tokio::spawn(tunnel.with(record).run())),
            None => response.body_mut().keep(record),
        }
        response
    }

    async fn dispatch(
        &self,
        mut request: Request<Incoming>,
        client: &Client,
        record: &mut Record,
    ) -> Result<(Response<ResponseBody>, Option<Tunnel>), Cause> {
        let host = rules::check(&request)?;
        client.check_authority(&host)?;
        let chosen = self.route(&request, &host, client)?;
        if let Some(probe) = request.headers().get(PROBE) {
            return answer_probe(probe, &chosen).map(|answer| (answer, None));
        }
        if !rules::count_down(&request.method().clone(), request.headers_mut()) {
            return Ok((answer_options(), None));
        }
        let mut target = chosen.target.clone();
        let is_grpc = rules::is_grpc(request.headers());
        if is_grpc && !target.h2c {
            return Err(Cause::NoGrpc);
        }
        if is_grpc
            && let Some(limit) = rules::grpc_timeout(request.headers())
            && limit < Duration::from_millis(target.timeout_ms)
        {
            let timeout_ms = u64::try_from(limit.as_millis()).unwrap_or(target.timeout_ms);
            target = Arc::new(RevisionTarget {
                timeout_ms,
                ..(*target).clone()
            });
        }
        let line = self.line(&chosen.target);
        record.counted = Some(line.count());
        record.line = Some(line.clone());
        record.target = Some(target.clone());
        let mut tunnel = Wanted::of(&mut request);
        let wish = Wish {
            arrived: record.arrived,
            deadline: record.arrived + Duration::from_millis(target.timeout_ms),
            source: client.source,
            n_bytes: head_bytes(&request),
            is_back: false,
        };
        let has_body = tunnel.is_none() && !request.body().is_end_stream();
        let is_idempotent = rules::is_idempotent(request.method()) && tunnel.is_none();
        let (head, incoming) = request.into_parts();
        let body = has_body.then(|| ClientBody::new(incoming, &self.limits));
        record.body.clone_from(&body);
        let mut request = Request::from_parts(head, RequestBody::Empty);
        let id = self.prepare(&mut request, client, &host, &chosen)?;
        record.name(request.headers(), id);
        if let Some(tunnel) = &mut tunnel {
            tunnel.write(&mut request);
        }
        let mut exchange = Exchange {
            line,
            target,
            wish,
            body,
            tunnel,
            is_idempotent,
        };
        if let Some(body) = exchange.attempt() {
            *request.body_mut() = body;
        }
        let sent = self.exchange(&mut exchange, request, record).await?;
        self.finish(exchange, sent, record)
    }

    fn route(
        &self,
        request: &Request<Incoming>,
        host: &HeaderValue,
        client: &Client,
    ) -> Result<Chosen, Cause> {
        let tag = request.headers().get(TAG);
        let tag = tag.and_then(|tag| tag.to_str().ok());
        let host = host.to_str().map_err(|_| Cause::UnknownHost)?;
        let table = self.routes.load();
        self.router.route(&table, host, tag, client.is_private)
    }

    /// Turns the client's head into the one an instance gets; returns the request's id.
    fn prepare(
        &self,
        request: &mut Request<RequestBody>,
        client: &Client,
        host: &HeaderValue,
        chosen: &Chosen,
    ) -> Result<HeaderValue, Cause> {
        let version = request.version();
        let origin = rules::target::to_origin(request.uri());
        *request.uri_mut() = origin;
        *request.version_mut() = Version::HTTP_11;
        let headers = request.headers_mut();
        rules::strip_request(headers, client.hop.is_trusted);
        if version == Version::HTTP_2 {
            rules::join_cookies(headers);
        }
        if !chosen.target.h2c {
            headers.remove(http::header::TE);
        }
        headers.insert(http::header::HOST, host.clone());
        client.write_forwarded(headers, host);
        self.via.add(headers, version)?;
        rules::trace::ensure(headers);
        match &chosen.tag {
            Some(tag) => {
                if let Ok(tag) = HeaderValue::from_str(tag) {
                    headers.insert(TAG, tag);
                }
            }
            None => {
                headers.insert(DEFAULT_ROUTE, HeaderValue::from_static("true"));
            }
        }
        Ok(rules::trace::request_id(headers, client.hop.is_trusted))
    }

    /// The revision's line, made with what is known of its instances.
    pub fn line(&self, target: &Arc<RevisionTarget>) -> Arc<Line> {
        let mut lines = self.lines.lock();
        if let Some(line) = lines.get(&target.revision)
            && line.target.lock().uid == target.uid
        {
            return line.clone();
        }
        // None yet, or the revision was deleted and made anew: other instances, another line.
        let line = Arc::new(Line::new(target.clone(), self.around.clone()));
        if let Some(table) = self.endpoints.lock().get(&target.revision)
            && table.revision_uid == target.uid
        {
            line.update(table.clone());
        }
        lines.insert(target.revision.clone(), line.clone());
        line
    }

    /// Finds an instance, sends, and tries again where that is harmless.
    async fn exchange(
        &self,
        exchange: &mut Exchange,
        mut request: Request<RequestBody>,
        record: &mut Record,
    ) -> Result<Sent, Cause> {
        let mut unsent_since: Option<Instant> = None;
        let metrics = &self.around.metrics;
        loop {
            let waited_from = Instant::now();
            let taken = exchange.line.take(&exchange.wish).await.map_err(refusal)?;
            record.queued += waited_from.elapsed();
            record.is_cold |= taken.is_cold;
            record.sent_at = Some(Instant::now());
            record.n_sends += 1;
            let endpoint = taken.endpoint.clone();
            let is_harmless = exchange.is_idempotent || planted(Bug::PostRetried);
            let may_repeat = is_harmless || exchange.target.h2c;
            let again = may_repeat.then(|| Again::of(&request));
            exchange.wish.is_back = true;
            let failed = match self.send(exchange, taken, request).await {
                Ok(sent) => return Ok(sent),
                Err(failed) => failed,
            };
            let trouble = failed.trouble();
            if let Some(trouble) = trouble {
                exchange.line.avoid(&endpoint, trouble);
            }
            request = match failed {
                Failed::Refused(_, unsent) => *unsent,
                Failed::Unsent(_, unsent) => {
                    let since = *unsent_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= UNSENT_LIMIT {
                        return Err(Cause::ConnectFailed);
                    }
                    *unsent
                }
                Failed::Unprocessed => {
                    record.n_failed += 1;
                    metrics.retried("unprocessed");
                    make_again(exchange, again, record).ok_or(Cause::UpstreamError)?
                }
                Failed::Lost(cause, _) => {
                    record.n_failed += 1;
                    let is_final = !is_harmless || cause.is_timeout();
                    let made = match is_final {
                        true => None,
                        false => make_again(exchange, again, record),
                    };
                    let Some(made) = made else { return Err(cause) };
                    metrics.retried(cause.reason());
                    made
                }
            };
        }
    }

    /// Makes the client's answer of the instance's.
    fn finish(
        &self,
        mut exchange: Exchange,
        sent: Sent,
        record: &mut Record,
    ) -> Result<(Response<ResponseBody>, Option<Tunnel>), Cause> {
        let Sent {
            mut response,
            held,
            id,
            node,
        } = sent;
        let node = node.unwrap_or_else(|| self.node_name.clone());
        record.instance = Some(id.clone());
        record.first_byte_at = Some(Instant::now());
        let deadline = exchange.wish.deadline.into();
        let idle = exchange.target.idle_timeout_ms;
        let idle = (idle > 0).then(|| Duration::from_millis(idle));
        let has_switched = exchange.tunnel.is_some() && tunnel::has_switched(&response);
        if !has_switched && response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Cause::UpstreamError);
        }
        let signed = |headers: &mut HeaderMap| {
            sign(headers, &exchange.target, &id, node);
            note_start(headers, record);
        };
        if has_switched && let Some(wanted) = exchange.tunnel.take() {
            let instance = hyper::upgrade::on(&mut response);
            let is_from_h2 = response.version() == Version::HTTP_2;
            let answer = wanted.answer(&mut response.map(|_| ()), is_from_h2);
            let mut answer = answer.ok_or(Cause::UpstreamError)?;
            signed(answer.headers_mut());
            let tunnel = Tunnel {
                client: wanted.into_parts(),
                instance,
                limits: TunnelLimits {
                    total: Some(deadline),
                    idle,
                },
                held,
                record: None,
                leaving: self.leaving.clone(),
                alive: Some(self.alive.subscribe()),
            };
            return Ok((answer.map(|()| ResponseBody::empty()), Some(tunnel)));
        }
        let (mut parts, body) = response.into_parts();
        parts.version = Version::HTTP_11;
        clean_answer(&mut parts.headers);
        signed(&mut parts.headers);
        if exchange
            .tunnel
            .as_ref()
            .is_some_and(|wanted| !wanted.is_h2())
        {
            // What the client may have sent for the tunnel is not to be read as a request.
            parts
                .headers
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let limits = Some(Limits::new(deadline, idle));
        let upstream = Upstream { body, limits, held };
        let response = Response::from_parts(parts, ResponseBody::upstream(upstream));
        Ok((response, None))
    }
}

/// What the client did wrong comes before what that did to the exchange.
fn client_fault(record: &Record, cause: Cause) -> Cause {
    let fault = record.body.as_ref().and_then(ClientBody::fault);
    fault.unwrap_or(cause)
}

fn refusal(error: LineError) -> Cause {
    match error {
        LineError::Full { retry_after } => Cause::QueueFull { retry_after },
        LineError::Overloaded { retry_after } => Cause::Overloaded { retry_after },
        LineError::Deadline { last_failure } => Cause::QueueDeadline { last_failure },
    }
}

fn make_again(
    exchange: &Exchange,
    again: Option<Again>,
    record: &Record,
) -> Option<Request<RequestBody>> {
    let again = again.filter(|_| record.n_failed < MAX_ATTEMPTS)?;
    Some(again.make(exchange.attempt()?))
}

/// What a waiting request holds: its fields and its target.
fn head_bytes(request: &Request<Incoming>) -> usize {
    let fields = request.headers().iter();
    let fields: usize = fields
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    fields + request.uri().path().len() + request.uri().query().map_or(0, str::len)
}

/// Removes what concerns only the instance's connection, and what only we may say. A length beside
/// a transfer coding was never true (RFC 9112 §6.3).
pub(crate) fn clean_answer(headers: &mut HeaderMap) {
    if headers.contains_key(http::header::TRANSFER_ENCODING) {
        headers.remove(http::header::CONTENT_LENGTH);
    }
    rules::hop::strip(headers);
    rules::owned::strip_answer(headers);
}

fn answer_options() -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::empty());
    let methods = "GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH";
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(methods));
    response
}

/// Knative's ingress probe: which version of the host's routing is in use (05-gateway §7.3).
fn answer_probe(probe: &HeaderValue, chosen: &Chosen) -> Result<Response<ResponseBody>, Cause> {
    if probe != "probe" {
        return Err(Cause::BadRequest("unknown K-Network-Probe"));
    }
    let mut response = Response::new(ResponseBody::empty());
    let hash = HeaderValue::try_from(format!("{:x}", chosen.index.0));
    if let Ok(hash) = hash {
        response.headers_mut().insert(PROBE_HASH, hash);
    }
    Ok(response)
}

fn sign(
    headers: &mut HeaderMap,
    target: &RevisionTarget,
    id: &nihilo_types::id::InstanceId,
    node: HeaderValue,
) {
    for (name, value) in [
        (
            "nihilo-revision",
            HeaderValue::from_str(&target.revision.name),
        ),
        ("nihilo-instance", HeaderValue::from_str(id.as_str())),
        ("nihilo-node", Ok(node)),
    ] {
        if let Ok(value) = value {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

/// Says whether the request had to wake its revision, and where the time went.
fn note_start(headers: &mut HeaderMap, record: &Record) {
    let start = if record.is_cold { "cold" } else { "warm" };
    headers.insert("nihilo-start", HeaderValue::from_static(start));
    let Some(sent) = record.sent_at.filter(|_| record.is_cold) else {
        return;
    };
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let text = format!(
        "queued={:.1};first-byte={:.1};total={:.1}",
        ms(record.queued),
        ms(sent.elapsed()),
        ms(record.arrived.elapsed())
    );
    if let Ok(value) = HeaderValue::from_str(&text) {
        headers.insert("nihilo-cold-start", value);
    }
}

impl Tunnel {
    fn with(mut self, record: Box<Record>) -> Self {
        self.record = Some(record);
        self
    }
}

impl Failed {
    fn trouble(&self) -> Option<Trouble> {
        match self {
            Failed::Refused(Refusal::Busy, _) => Some(Trouble::Busy),
            Failed::Refused(Refusal::Draining | Refusal::Gone, _) => Some(Trouble::Gone),
            Failed::Unsent(trouble, _) => Some(*trouble),
            Failed::Unprocessed => None,
            Failed::Lost(_, trouble) => *trouble,
        }
    }
}
