//! An instance's answer on its way to the client.

use std::time::Duration;

use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode, Version};
use nihilo_types::route_table::RevisionTarget;
use tokio::time::Instant;

use crate::body::{Limits, ResponseBody, Upstream};
use crate::proxy::{Exchange, Plane};
use crate::record::Record;
use crate::rescue::Cause;
use crate::rules;
use crate::send::{MESH_NODE, Sent};
use crate::tunnel::{self, Tunnel, TunnelLimits};

const REVISION: HeaderName = HeaderName::from_static("nihilo-revision");
const INSTANCE: HeaderName = HeaderName::from_static("nihilo-instance");
pub(crate) const START: HeaderName = HeaderName::from_static("nihilo-start");

impl Plane {
    /// Makes the client's answer of the instance's.
    pub(crate) fn finish(
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
        let deadline = exchange.wish.deadline;
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
                alive: self.alive.subscribe(),
            };
            return Ok((answer.map(|()| ResponseBody::empty()), Some(tunnel)));
        }
        let (mut parts, body) = response.into_parts();
        parts.version = Version::HTTP_11;
        clean_answer(&mut parts.headers);
        signed(&mut parts.headers);
        let wanted_on_h2 = exchange.tunnel.as_ref().map(tunnel::Wanted::is_h2);
        if wanted_on_h2 == Some(true) && parts.status.is_success() {
            // A plain success would read as a tunnel (RFC 8441 §5).
            return Err(Cause::UpstreamError);
        }
        if wanted_on_h2 == Some(false) {
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

/// Removes what concerns only the instance's connection, and what only we may say. A length beside
/// a transfer coding was never true (RFC 9112 §6.3).
pub(crate) fn clean_answer(headers: &mut HeaderMap) {
    if headers.contains_key(http::header::TRANSFER_ENCODING) {
        headers.remove(http::header::CONTENT_LENGTH);
    }
    rules::hop::strip(headers);
    rules::owned::strip_answer(headers);
}

fn sign(
    headers: &mut HeaderMap,
    target: &RevisionTarget,
    id: &nihilo_types::id::InstanceId,
    node: HeaderValue,
) {
    for (name, value) in [
        (REVISION, HeaderValue::from_str(&target.revision.name)),
        (INSTANCE, HeaderValue::from_str(id.as_str())),
        (MESH_NODE, Ok(node)),
    ] {
        if let Ok(value) = value {
            headers.insert(name, value);
        }
    }
}

/// Says whether the request had to wake its revision, and where the time went.
fn note_start(headers: &mut HeaderMap, record: &Record) {
    let Some(cold) = record.cold_start() else {
        headers.insert(START, HeaderValue::from_static("warm"));
        return;
    };
    headers.insert(START, HeaderValue::from_static("cold"));
    if let Ok(value) = HeaderValue::from_str(&cold.server_timing()) {
        headers.append("server-timing", value);
    }
    if let Ok(value) = HeaderValue::from_str(&cold.header()) {
        headers.insert("nihilo-cold-start", value);
    }
}
