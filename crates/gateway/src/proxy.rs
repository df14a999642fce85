//! One request from arrival to the head of its answer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::header::HeaderValue;
use http::{HeaderMap, Method, Request, Response, Version};
use http_body::Body;
use hyper::body::Incoming;
use nihilo_failpoint::{Bug, planted};
use nihilo_types::endpoint::EndpointTable;
use nihilo_types::id::{NodeId, ObjectKey};
use nihilo_types::route_table::{RevisionTarget, RouteTable};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::access_log::AccessLog;
use crate::asleep::ProbeAgents;
use crate::body::{ClientBody, RequestBody, ResponseBody};
use crate::connection::{Client, ClientLimits};
use crate::health::Watched;
use crate::limiter::{LocalInstances, Refusal};
use crate::line::{Line, LineError, Surroundings, Trouble, Wish};
use crate::mesh::Mesh;
use crate::mesh_door::MeshDoor;
use crate::prepare::{head_bytes, own_answer, target_for};
use crate::record::Record;
use crate::rescue::{Cause, Tongue};
use crate::router::Router;
use crate::rules;
use crate::send::{Failed, Sent};
use crate::sweep::Swept;
use crate::tunnel::{Tunnel, Wanted};

/// Sends of one request after which something of it may have arrived.
const MAX_ATTEMPTS: u32 = 3;
/// A request of which nothing could be sent goes back to the line for so long, if its own deadline
/// allows it. Not only until a node is declared down and its instances are replaced: while the link
/// between two living nodes is cut nobody is declared down, and the instance stays where it is.
const UNSENT_LIMIT: Duration = Duration::from_secs(60);

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
    pub(crate) swept: Mutex<Swept>,
    pub around: Surroundings,
    pub local: LocalInstances,
    pub mesh: Mesh,
    pub(crate) mesh_door: MeshDoor,
    pub log: Arc<AccessLog>,
    pub limits: ClientLimits,
    pub probe_agents: ArcSwap<ProbeAgents>,
    /// Who looks whether this gateway wants traffic.
    pub(crate) watched: Watched,
    /// Turns true when tunnels are to close.
    pub leaving: watch::Receiver<bool>,
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
        if let Some(answer) = own_answer(&mut request, &chosen) {
            return answer.map(|answer| (answer, None));
        }
        let target = target_for(request.headers(), &chosen.target)?;
        let (mut exchange, mut request) = self.enter(request, client, record, target);
        let id = self.prepare(&mut request, client, &host, &chosen)?;
        record.name(request.headers(), id);
        if let Some(tunnel) = &mut exchange.tunnel {
            tunnel.write(&mut request);
        }
        if let Some(body) = exchange.attempt() {
            *request.body_mut() = body;
        }
        let sent = self.exchange(&mut exchange, request, record).await?;
        self.finish(exchange, sent, record)
    }

    /// From here on the request counts; its body is not asked for before it is sent.
    fn enter(
        &self,
        mut request: Request<Incoming>,
        client: &Client,
        record: &mut Record,
        target: Arc<RevisionTarget>,
    ) -> (Exchange, Request<RequestBody>) {
        let line = self.line(&target);
        let is_probe = self.probe_agents.load().is_probe(&request, &target);
        // What only asks how a service is keeps it neither up nor awake.
        record.counted = (!is_probe).then(|| line.count());
        record.line = Some(line.clone());
        record.target = Some(target.clone());
        let tunnel = Wanted::of(&mut request);
        let wish = Wish {
            arrived: record.arrived,
            deadline: record.arrived + Duration::from_millis(target.timeout_ms),
            source: client.source,
            n_bytes: head_bytes(&request),
            is_back: false,
            is_probe,
        };
        let has_body = tunnel.is_none() && !request.body().is_end_stream();
        let is_idempotent = rules::is_idempotent(request.method()) && tunnel.is_none();
        let (head, incoming) = request.into_parts();
        let body = has_body.then(|| ClientBody::new(incoming, &self.limits));
        record.body.clone_from(&body);
        let exchange = Exchange {
            line,
            target,
            wish,
            body,
            tunnel,
            is_idempotent,
        };
        (exchange, Request::from_parts(head, RequestBody::Empty))
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
            let taken = exchange.line.take(&exchange.wish).await;
            let waited = waited_from.elapsed();
            record.queued += waited;
            exchange.line.meters.waited(waited);
            let taken = taken.map_err(refusal)?;
            if taken.is_cold {
                record.waited_for = Some(taken.endpoint.waking);
            }
            record.sent_at = Some(Instant::now());
            record.n_sends += 1;
            let endpoint = taken.endpoint.clone();
            let is_harmless = exchange.is_idempotent || planted(Bug::PostRetried);
            // HTTP/2 tells what was not processed.
            let is_over_h2 = exchange.target.h2c || endpoint.node != self.node;
            let may_repeat = is_harmless || is_over_h2;
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
        LineError::OutOfReach { retry_after } => Cause::OwnerUnreachable { retry_after },
        LineError::Asleep => Cause::Asleep,
        LineError::Broken => Cause::NotReady,
    }
}

fn make_again(
    exchange: &Exchange,
    again: Option<Again>,
    record: &Record,
) -> Option<Request<RequestBody>> {
    let again = again.filter(|_| record.n_failed < MAX_ATTEMPTS)?;
    let body = exchange.attempt()?;
    exchange.line.may_retry().then(|| again.make(body))
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
