//! One attempt to have a request answered by an instance, here or behind another node's gateway.

use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use nihilo_failpoint::{Point, hit};
use nihilo_types::endpoint::Endpoint;
use nihilo_types::id::InstanceId;
use tokio::time::Instant;

use crate::body::{Begun, Held, RequestBody};
use crate::limiter::Refusal;
use crate::line::{Taken, Trouble};
use crate::proxy::{Exchange, Plane};
use crate::rescue::Cause;
use crate::upstream::{SendError, send_local};

/// Names the instance on the mesh.
pub(crate) const MESH_INSTANCE: HeaderName = HeaderName::from_static("nihilo-mesh-instance");
/// Asks only for a place, or names the place that was given.
pub(crate) const MESH_RESERVE: HeaderName = HeaderName::from_static("nihilo-mesh-reserve");
pub(crate) const MESH_ANSWER: HeaderName = HeaderName::from_static("nihilo-mesh-answer");
/// The instance took the request and ended without an answer: the asking gateway knows whether it
/// may be repeated.
pub(crate) const MESH_LOST: HeaderName = HeaderName::from_static("nihilo-mesh-lost");
/// What [`MESH_LOST`] says: the instance fell silent; the connection was an old one; the instance
/// did nothing, by its own word or since it was not reached.
pub(crate) const LOST_UNANSWERED: &str = "unanswered";
pub(crate) const LOST_STALE: &str = "stale";
pub(crate) const LOST_UNPROCESSED: &str = "unprocessed";
/// The home node's name.
pub(crate) const MESH_NODE: HeaderName = HeaderName::from_static("nihilo-node");

/// An instance's answer, and what is held for it.
pub(crate) struct Sent {
    pub(crate) response: Response<Begun>,
    pub(crate) held: Held,
    pub(crate) id: InstanceId,
    /// The home node, when it is another.
    pub(crate) node: Option<HeaderValue>,
}

/// A send that is to be tried again, or not.
#[derive(Debug)]
pub(crate) enum Failed {
    /// Nothing was sent and the instance said why; back to the line.
    Refused(Refusal, Box<Request<RequestBody>>),
    Unsent(Trouble, Box<Request<RequestBody>>),
    /// Some of it was sent, and the instance did nothing with it.
    Unprocessed,
    /// It may have been executed; the trouble is the endpoint's, if it is known to have one.
    Lost(Cause, Option<Trouble>),
}

impl Plane {
    pub(crate) async fn send(
        &self,
        exchange: &Exchange,
        taken: Taken,
        request: Request<RequestBody>,
    ) -> Result<Sent, Failed> {
        let endpoint = taken.endpoint.clone();
        let mut held = Held {
            taken: Some(taken),
            ..Held::default()
        };
        let (limit, cause) = head_limit(exchange);
        let send = async {
            if endpoint.node == self.node {
                self.send_here(&endpoint.id, request, &mut held).await
            } else {
                self.send_away(&endpoint, exchange.body.is_some(), request)
                    .await
                    .map_err(Failed::without_place)
            }
        };
        let response = match tokio::time::timeout_at(limit, send).await {
            Ok(answer) => answer?,
            Err(_) => return Err(Failed::Lost(cause, None)),
        };
        let mut response = self.begin(exchange, &endpoint, response).await?;
        if let Some(taken) = &mut held.taken {
            taken.answered();
        }
        let node = match endpoint.node == self.node {
            true => None,
            false => response.headers_mut().remove(MESH_NODE),
        };
        let id = endpoint.id;
        Ok(Sent {
            response,
            held,
            id,
            node,
        })
    }

    /// What breaks off before its client has seen anything may be tried again like what was never
    /// answered. A tunnel's bytes are not looked at.
    async fn begin(
        &self,
        exchange: &Exchange,
        endpoint: &Endpoint,
        response: Response<Incoming>,
    ) -> Result<Response<Begun>, Failed> {
        let (parts, body) = response.into_parts();
        let body = match exchange.tunnel {
            Some(_) => Begun::unseen(body),
            None => Begun::look(body).await.map_err(|_| {
                let trouble = match endpoint.node == self.node {
                    true => Trouble::Broken,
                    false => Trouble::Unreached,
                };
                Failed::Lost(Cause::UpstreamError, Some(trouble))
            })?,
        };
        Ok(Response::from_parts(parts, body))
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
        hit(Point::RequestSentHere);
        match send_local(&self.mesh.net, &instance, request).await {
            Ok((response, lease)) => {
                held.lease = Some(lease);
                held.admitted = Some(admitted);
                Ok(response)
            }
            Err(SendError::Unsent(request)) => Err(Failed::Unsent(Trouble::Broken, request)),
            Err(SendError::Unprocessed) => Err(Failed::Unprocessed),
            Err(SendError::Stale) => Err(Failed::Lost(Cause::UpstreamError, None)),
            Err(SendError::Unanswered | SendError::NodeLost) => {
                Err(Failed::Lost(Cause::UpstreamError, Some(Trouble::Broken)))
            }
        }
    }

    /// A request with a body asks for its place first: what was streamed cannot be taken back.
    async fn send_away(
        &self,
        endpoint: &Endpoint,
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
            let ask = HeaderValue::from_static("?");
            reserve.headers_mut().insert(MESH_RESERVE, ask);
            let answer = match self.mesh.send(peer, session, reserve).await {
                Ok(answer) => answer,
                Err(_) => return Err(Failed::Unsent(Trouble::Unreached, Box::new(request))),
            };
            if let Some(refusal) = refusal_in(&answer) {
                return Err(Failed::Refused(refusal, Box::new(request)));
            }
            if let Some(place) = answer.headers().get(MESH_RESERVE) {
                request.headers_mut().insert(MESH_RESERVE, place.clone());
            }
        }
        let again = (!has_body).then(|| copy(&request));
        hit(Point::RequestSentAway);
        match self.mesh.send(peer, session, request).await {
            Ok(answer) if answer.headers().contains_key(MESH_LOST) => Err(lost_in(&answer)),
            Ok(answer) => match (refusal_in(&answer), again) {
                (None, _) => Ok(answer),
                (Some(refusal), Some(again)) => Err(Failed::Refused(refusal, Box::new(again))),
                // Its place was lost with the connection that had it; the instance saw nothing.
                (Some(_), None) => Err(Failed::Unprocessed),
            },
            Err(SendError::Unsent(request)) => Err(Failed::Unsent(Trouble::Unreached, request)),
            Err(SendError::Unprocessed) => Err(Failed::Unprocessed),
            Err(SendError::Unanswered | SendError::Stale) => {
                Err(Failed::Lost(Cause::UpstreamError, Some(Trouble::Unreached)))
            }
            Err(SendError::NodeLost) => Err(Failed::Lost(
                Cause::InstanceTerminated,
                Some(Trouble::Unreached),
            )),
        }
    }
}

/// By when the head of the answer must be there, and what it is called if it is not.
fn head_limit(exchange: &Exchange) -> (Instant, Cause) {
    let target = &exchange.target;
    let now = Instant::now();
    let after = |ms: u64| (ms > 0).then(|| now + Duration::from_millis(ms));
    let total = (exchange.wish.deadline, Cause::TotalTimeout);
    let start = after(target.response_start_timeout_ms);
    let start = start.map(|at| (at, Cause::ResponseStartTimeout));
    let idle = after(target.idle_timeout_ms).map(|at| (at, Cause::IdleTimeout));
    let others = [start, idle].into_iter().flatten();
    others.fold(
        total,
        |first, other| if other.0 < first.0 { other } else { first },
    )
}

pub(crate) fn refusal_in(answer: &Response<Incoming>) -> Option<Refusal> {
    let answer = answer.headers().get(MESH_ANSWER)?;
    answer.to_str().ok().map(Refusal::parse)
}

fn lost_in(answer: &Response<Incoming>) -> Failed {
    let how = answer.headers().get(MESH_LOST);
    match how.map_or(&b""[..], HeaderValue::as_bytes) {
        how if how == LOST_UNPROCESSED.as_bytes() => Failed::Unprocessed,
        how if how == LOST_STALE.as_bytes() => Failed::Lost(Cause::UpstreamError, None),
        _ => Failed::Lost(Cause::UpstreamError, Some(Trouble::Broken)),
    }
}

impl Failed {
    /// The next attempt may go to an instance of this node, which is told nothing of the mesh.
    fn without_place(mut self) -> Self {
        if let Failed::Refused(_, request) | Failed::Unsent(_, request) = &mut self {
            forget_place(request.headers_mut());
        }
        self
    }
}

pub(crate) fn forget_place(headers: &mut HeaderMap) {
    headers.remove(MESH_INSTANCE);
    headers.remove(MESH_RESERVE);
}

/// A copy of a request without a body.
fn copy(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}
