//! A client's head on its way to an instance: where it goes, what it becomes, and what the gateway
//! says itself.

use std::sync::Arc;
use std::time::Duration;

use http::header::{ALLOW, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, Version};
use hyper::body::Incoming;
use nihilo_types::route_table::RevisionTarget;

use crate::body::{RequestBody, ResponseBody};
use crate::connection::Client;
use crate::proxy::Plane;
use crate::rescue::Cause;
use crate::router::Chosen;
use crate::rules;

const PROBE: HeaderName = HeaderName::from_static("k-network-probe");
const PROBE_HASH: HeaderName = HeaderName::from_static("k-network-hash");
const TAG: HeaderName = HeaderName::from_static("knative-serving-tag");
const DEFAULT_ROUTE: HeaderName = HeaderName::from_static("knative-serving-default-route");

impl Plane {
    pub(crate) fn route(
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
    pub(crate) fn prepare(
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
}

/// What the gateway answers for the host's owner: Knative's probe, and OPTIONS for its last
/// recipient.
pub(crate) fn own_answer(
    request: &mut Request<Incoming>,
    chosen: &Chosen,
) -> Option<Result<Response<ResponseBody>, Cause>> {
    if let Some(probe) = request.headers().get(PROBE) {
        return Some(answer_probe(probe, chosen));
    }
    let method = request.method().clone();
    let goes_on = rules::count_down(&method, request.headers_mut());
    (!goes_on).then(|| Ok(answer_options()))
}

/// The revision, with the time that a gRPC client gives it, if that is less.
pub(crate) fn target_for(
    headers: &HeaderMap,
    target: &Arc<RevisionTarget>,
) -> Result<Arc<RevisionTarget>, Cause> {
    if !rules::is_grpc(headers) {
        return Ok(target.clone());
    }
    if !target.h2c {
        return Err(Cause::NoGrpc);
    }
    let own = Duration::from_millis(target.timeout_ms);
    let Some(limit) = rules::grpc_timeout(headers).filter(|limit| *limit < own) else {
        return Ok(target.clone());
    };
    let timeout_ms = u64::try_from(limit.as_millis()).unwrap_or(target.timeout_ms);
    Ok(Arc::new(RevisionTarget {
        timeout_ms,
        ..(**target).clone()
    }))
}

/// What a waiting request holds: its fields and its target.
pub(crate) fn head_bytes(request: &Request<Incoming>) -> usize {
    let fields = request.headers().iter();
    let fields: usize = fields
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    fields + request.uri().path().len() + request.uri().query().map_or(0, str::len)
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
