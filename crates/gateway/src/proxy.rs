//! One request from arrival to the head of its answer.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::header::{CONTENT_LENGTH, HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use nihilo_types::endpoint::EndpointTable;
use nihilo_types::id::{InstanceId, NodeId, ObjectKey};
use nihilo_types::route_table::{RevisionTarget, RouteTable};
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::debug;

use crate::body::{Held, Limits, RequestBody, ResponseBody, Upstream};
use crate::limiter::{LocalInstances, Refusal};
use crate::line::{Line, LineError, Taken, Trouble};
use crate::ports::ScaleUp;
use crate::rescue::Cause;
use crate::reservations::Reservations;
use crate::router::Router;
use crate::rules;
use crate::upstream::{Mesh, SendError, send_local};

/// Names the instance on the mesh.
const MESH_INSTANCE: HeaderName = HeaderName::from_static("nihilo-mesh-instance");
/// Asks only for a place, or names the place that was given.
const MESH_RESERVE: HeaderName = HeaderName::from_static("nihilo-mesh-reserve");
const MESH_ANSWER: HeaderName = HeaderName::from_static("nihilo-mesh-answer");
/// The instance took the request and ended without an answer: the asking gateway knows whether it
/// may be repeated.
const MESH_LOST: HeaderName = HeaderName::from_static("nihilo-mesh-lost");
/// Sends of one request after which something of it may have arrived.
const MAX_ATTEMPTS: u32 = 3;
/// A request of which nothing could be sent goes back to the line for so long: longer than it
/// takes to declare a node down and to replace its instances.
const UNSENT_LIMIT: Duration = Duration::from_secs(10);

/// Everything a request touches on this node.
pub struct Plane {
    pub node: NodeId,
    pub node_name: HeaderValue,
    pub routes: Arc<ArcSwap<RouteTable>>,
    pub router: Router,
    pub lines: Mutex<HashMap<ObjectKey, Arc<Line>>>,
    /// The newest that owners said about each revision, for lines that are made later.
    pub endpoints: Mutex<HashMap<ObjectKey, EndpointTable>>,
    pub scale_up: Arc<dyn ScaleUp>,
    pub local: LocalInstances,
    pub mesh: Mesh,
    pub reservations: Reservations,
}

impl std::fmt::Debug for Plane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plane")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// One request's own facts.
struct Exchange {
    line: Arc<Line>,
    target: Arc<RevisionTarget>,
    arrived: Instant,
    deadline: Instant,
    is_idempotent: bool,
    has_body: bool,
}

/// A send that is to be tried again, or not.
enum Failed {
    /// Nothing was sent and the instance said why; back to the line.
    Refused(Refusal, Box<Request<RequestBody>>),
    Unsent(Box<Request<RequestBody>>),
    /// It may have been executed; the trouble is the endpoint's, if it is known to have one.
    Lost(Cause, Option<Trouble>),
}

impl Plane {
    /// Answers one request of a client.
    pub async fn serve(
        self: Arc<Self>,
        request: Request<Incoming>,
        client: IpAddr,
    ) -> Response<ResponseBody> {
        let arrived = Instant::now();
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let response = match self.dispatch(request, client, arrived).await {
            Ok(response) => response,
            Err(cause) => cause.answer(),
        };
        let ms = arrived.elapsed().as_secs_f64() * 1e3;
        debug!(target: "nihilo::access", %method, path, status = response.status().as_u16(), ms);
        response
    }

    async fn dispatch(
        &self,
        request: Request<Incoming>,
        client: IpAddr,
        arrived: Instant,
    ) -> Result<Response<ResponseBody>, Cause> {
        let host = rules::check(&request)?;
        let tag = request
            .headers()
            .get("knative-serving-tag")
            .and_then(|tag| tag.to_str().ok());
        let target = {
            let table = self.routes.load();
            self.router.route(&table, &host, tag)
        };
        let target = target.ok_or_else(|| Cause::UnknownHost(host.clone()))?;
        let line = self.line(&target);
        let counted = line.count();
        let has_body = !request.body().is_end_stream();
        let exchange = Exchange {
            line,
            arrived,
            deadline: arrived + Duration::from_millis(target.timeout_ms),
            is_idempotent: rules::is_idempotent(request.method()),
            has_body,
            target,
        };
        let mut request = request.map(|body| match has_body {
            true => RequestBody::Streaming(body),
            false => RequestBody::Empty,
        });
        rules::forward(request.headers_mut(), &host, client);
        let mut response = self.exchange(&exchange, request).await?;
        if let ResponseBody::Upstream(upstream) = response.body_mut() {
            upstream.held.counted = Some(counted);
        }
        Ok(response)
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
        let line = Arc::new(Line::new(target.clone(), self.scale_up.clone()));
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
        exchange: &Exchange,
        mut request: Request<RequestBody>,
    ) -> Result<Response<ResponseBody>, Cause> {
        let mut n_attempts = 0;
        let mut unsent_since: Option<Instant> = None;
        loop {
            let taken =
                exchange
                    .line
                    .take(exchange.deadline)
                    .await
                    .map_err(|error| match error {
                        LineError::Full => Cause::QueueFull,
                        LineError::Deadline { last_failure } => {
                            Cause::QueueDeadline { last_failure }
                        }
                    })?;
            let endpoint = taken.endpoint.clone();
            let again = (exchange.is_idempotent && !exchange.has_body).then(|| copy(&request));
            match self.send(exchange, taken, request).await {
                Ok(response) => return Ok(response),
                Err(Failed::Refused(refusal, unsent)) => {
                    let trouble = match refusal {
                        Refusal::Busy => Trouble::Busy,
                        Refusal::Draining | Refusal::Gone => Trouble::Gone,
                    };
                    exchange.line.avoid(&endpoint, trouble);
                    request = *unsent;
                }
                Err(Failed::Unsent(unsent)) => {
                    exchange.line.avoid(&endpoint, Trouble::Unreached);
                    let since = *unsent_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= UNSENT_LIMIT {
                        return Err(Cause::ConnectFailed);
                    }
                    request = *unsent;
                }
                Err(Failed::Lost(cause, trouble)) => {
                    // What broke one exchange would break the next: others first.
                    if let Some(trouble) = trouble {
                        exchange.line.avoid(&endpoint, trouble);
                    }
                    n_attempts += 1;
                    let retryable = cause != Cause::ResponseStartTimeout;
                    match again.filter(|_| retryable && n_attempts < MAX_ATTEMPTS) {
                        Some(copy) => request = copy,
                        None => return Err(cause),
                    }
                }
            }
        }
    }

    async fn send(
        &self,
        exchange: &Exchange,
        taken: Taken,
        request: Request<RequestBody>,
    ) -> Result<Response<ResponseBody>, Failed> {
        let start_limit = match exchange.target.response_start_timeout_ms {
            0 => exchange.deadline,
            ms => exchange
                .deadline
                .min(Instant::now() + Duration::from_millis(ms)),
        };
        let sent = Instant::now();
        let (cold_for, endpoint) = (taken.cold_for, taken.endpoint.clone());
        let mut held = Held {
            taken: Some(taken),
            ..Held::default()
        };
        let send = async {
            if endpoint.node == self.node {
                self.send_here(&endpoint.id, request, &mut held).await
            } else {
                self.send_away(&endpoint, exchange.has_body, request).await
            }
        };
        let answer = match tokio::time::timeout_at(start_limit, send).await {
            Ok(answer) => answer?,
            Err(_) => return Err(Failed::Lost(Cause::ResponseStartTimeout, None)),
        };
        let (mut parts, body) = answer.into_parts();
        let had_te = parts.headers.contains_key(http::header::TRANSFER_ENCODING);
        rules::strip(&mut parts.headers);
        if had_te {
            parts.headers.remove(CONTENT_LENGTH);
        }
        let node_name = parts
            .headers
            .remove("x-nihilo-home")
            .unwrap_or_else(|| self.node_name.clone());
        sign(&mut parts.headers, exchange, &endpoint.id, node_name);
        note_start(&mut parts.headers, exchange, cold_for, sent);
        let idle = exchange.target.idle_timeout_ms;
        let idle = (idle > 0).then(|| Duration::from_millis(idle));
        let limits = Some(Limits::new(exchange.deadline, idle));
        let upstream = Upstream { body, limits, held };
        Ok(Response::from_parts(
            parts,
            ResponseBody::Upstream(Box::new(upstream)),
        ))
    }

    async fn send_here(
        &self,
        id: &InstanceId,
        request: Request<RequestBody>,
        held: &mut Held,
    ) -> Result<Response<Incoming>, Failed> {
        let admitted = match self.local.admit(id) {
            Ok(admitted) => admitted,
            Err(refusal) => return Err(Failed::Refused(refusal, Box::new(request))),
        };
        let instance = admitted.0.clone();
        match send_local(&self.mesh.net, &instance, request).await {
            Ok((response, connection)) => {
                held.connection = connection.map(|sender| (instance, sender));
                held.admitted = Some(admitted);
                Ok(response)
            }
            Err(SendError::Unsent(request)) => Err(Failed::Unsent(request)),
            Err(SendError::Unanswered | SendError::NodeLost) => {
                Err(Failed::Lost(Cause::UpstreamError, Some(Trouble::Gone)))
            }
        }
    }

    /// A request with a body asks for its place first: what was streamed cannot be taken back.
    async fn send_away(
        &self,
        endpoint: &nihilo_types::endpoint::Endpoint,
        has_body: bool,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Failed> {
        let id = HeaderValue::from_str(endpoint.id.as_str())
            .map_err(|_| Failed::Lost(Cause::UpstreamError, None))?;
        request.headers_mut().insert(MESH_INSTANCE, id.clone());
        let (peer, session) = (&endpoint.peer_address, endpoint.session);
        if has_body {
            let mut reserve = Request::new(RequestBody::Empty);
            reserve.headers_mut().insert(MESH_INSTANCE, id);
            reserve
                .headers_mut()
                .insert(MESH_RESERVE, HeaderValue::from_static("?"));
            let answer = match self.mesh.send(peer, session, reserve).await {
                Ok(answer) => answer,
                Err(_) => return Err(Failed::Unsent(Box::new(request))),
            };
            if let Some(refusal) = refusal_in(&answer) {
                return Err(Failed::Refused(refusal, Box::new(request)));
            }
            if let Some(place) = answer.headers().get(MESH_RESERVE) {
                request.headers_mut().insert(MESH_RESERVE, place.clone());
            }
        }
        let again = (!has_body).then(|| copy(&request));
        match self.mesh.send(peer, session, request).await {
            Ok(answer) if answer.headers().contains_key(MESH_LOST) => {
                Err(Failed::Lost(Cause::UpstreamError, Some(Trouble::Gone)))
            }
            Ok(answer) => match (refusal_in(&answer), again) {
                (None, _) => Ok(answer),
                (Some(refusal), Some(again)) => Err(Failed::Refused(refusal, Box::new(again))),
                (Some(_), None) => Err(Failed::Lost(Cause::UpstreamError, None)),
            },
            Err(SendError::Unsent(request)) => Err(Failed::Unsent(request)),
            Err(SendError::Unanswered) => {
                Err(Failed::Lost(Cause::UpstreamError, Some(Trouble::Unreached)))
            }
            Err(SendError::NodeLost) => Err(Failed::Lost(
                Cause::InstanceTerminated,
                Some(Trouble::Unreached),
            )),
        }
    }

    /// Answers a request of another node's gateway for an instance of this node.
    pub async fn serve_mesh(self: Arc<Self>, request: Request<Incoming>) -> Response<ResponseBody> {
        let id = request
            .headers()
            .get(MESH_INSTANCE)
            .and_then(|id| id.to_str().ok());
        let Some(id) = id.map(InstanceId::from) else {
            return Cause::BadRequest("no instance is named").answer();
        };
        let place = request
            .headers()
            .get(MESH_RESERVE)
            .and_then(|place| place.to_str().ok());
        let admitted = match place {
            Some("?") => return self.reserve(&id),
            Some(place) => self.reservations.take(place),
            None => None,
        };
        let admitted = match admitted.map_or_else(|| self.local.admit(&id), Ok) {
            Ok(admitted) => admitted,
            Err(refusal) => return refuse(refusal),
        };
        let has_body = !request.body().is_end_stream();
        let mut request = request.map(|body| match has_body {
            true => RequestBody::Streaming(body),
            false => RequestBody::Empty,
        });
        to_origin_form(&mut request);
        for name in [MESH_INSTANCE, MESH_RESERVE] {
            request.headers_mut().remove(name);
        }
        let instance = admitted.0.clone();
        match send_local(&self.mesh.net, &instance, request).await {
            Ok((mut response, connection)) => {
                let home = HeaderName::from_static("x-nihilo-home");
                response.headers_mut().insert(home, self.node_name.clone());
                let (mut parts, body) = response.into_parts();
                rules::strip(&mut parts.headers);
                let connection = connection.map(|sender| (instance, sender));
                let held = Held {
                    admitted: Some(admitted),
                    connection,
                    ..Held::default()
                };
                let upstream = Upstream {
                    body,
                    limits: None,
                    held,
                };
                Response::from_parts(parts, ResponseBody::Upstream(Box::new(upstream)))
            }
            Err(SendError::Unsent(_)) if !has_body => refuse(Refusal::Gone),
            Err(_) => {
                let mut answer = Cause::UpstreamError.answer();
                let yes = HeaderValue::from_static("1");
                answer.headers_mut().insert(MESH_LOST, yes);
                answer
            }
        }
    }

    fn reserve(&self, id: &InstanceId) -> Response<ResponseBody> {
        let admitted = match self.local.admit(id) {
            Ok(admitted) => admitted,
            Err(refusal) => return refuse(refusal),
        };
        let place = self.reservations.hold(admitted);
        let Some(place) = place.and_then(|place| HeaderValue::from_str(&place).ok()) else {
            return refuse(Refusal::Busy);
        };
        let mut response = Response::new(ResponseBody::Own(None));
        response.headers_mut().insert(MESH_RESERVE, place);
        response
    }
}

fn refuse(refusal: Refusal) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Own(None));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let value = HeaderValue::from_static(refusal.as_str());
    response.headers_mut().insert(MESH_ANSWER, value);
    response
}

fn refusal_in(answer: &Response<Incoming>) -> Option<Refusal> {
    answer
        .headers()
        .get(MESH_ANSWER)?
        .to_str()
        .ok()
        .map(Refusal::parse)
}

/// A copy of a request without a body.
fn copy(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// HTTP/2's authority becomes the Host field again.
fn to_origin_form(request: &mut Request<RequestBody>) {
    if let Some(authority) = request.uri().authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().insert(http::header::HOST, host);
    }
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str());
    if let Ok(uri) = path.parse() {
        *request.uri_mut() = uri;
    }
    *request.version_mut() = http::Version::HTTP_11;
}

fn sign(headers: &mut HeaderMap, exchange: &Exchange, id: &InstanceId, node: HeaderValue) {
    for (name, value) in [
        (
            "nihilo-revision",
            HeaderValue::from_str(&exchange.target.revision.name),
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
fn note_start(
    headers: &mut HeaderMap,
    exchange: &Exchange,
    cold_for: Option<Duration>,
    sent: Instant,
) {
    let start = if cold_for.is_some() { "cold" } else { "warm" };
    headers.insert("nihilo-start", HeaderValue::from_static(start));
    let Some(queued) = cold_for else { return };
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let text = format!(
        "queued={:.1};first-byte={:.1};total={:.1}",
        ms(queued),
        ms(sent.elapsed()),
        ms(exchange.arrived.elapsed())
    );
    if let Ok(value) = HeaderValue::from_str(&text) {
        headers.insert("nihilo-cold-start", value);
    }
}
