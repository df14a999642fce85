//! Knative's request-log template, key by key, and ours beside it.

use std::borrow::Cow;
use std::fmt::Display;
use std::time::Duration;

use http::HeaderValue;
use nihilo_types::id::InstanceId;
use serde::{Serialize, Serializer};

use super::Entry;

/// Where a W3C trace context has the trace's id.
const TRACE_ID: std::ops::Range<usize> = 3..35;

/// Borrows what it can: a line is written once and gone.
#[derive(Debug, Serialize)]
pub(super) struct Line<'a> {
    #[serde(rename = "httpRequest")]
    http_request: HttpRequest<'a>,
    #[serde(rename = "traceId")]
    trace_id: Cow<'a, str>,
    #[serde(rename = "requestId")]
    request_id: Cow<'a, str>,
    namespace: &'a str,
    service: &'a str,
    revision: &'a str,
    instance: &'a str,
    node: &'a str,
    cold: bool,
    queue_ms: f64,
    upstream_ms: f64,
    attempts: u32,
    reason: &'a str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct HttpRequest<'a> {
    request_method: &'a str,
    request_url: &'a str,
    #[serde(serialize_with = "as_text")]
    request_size: u64,
    status: u16,
    #[serde(serialize_with = "as_text")]
    response_size: u64,
    user_agent: Cow<'a, str>,
    #[serde(serialize_with = "as_text")]
    remote_ip: std::net::IpAddr,
    server_ip: String,
    referer: Cow<'a, str>,
    #[serde(serialize_with = "as_seconds")]
    latency: Duration,
    #[serde(serialize_with = "as_debug")]
    protocol: http::Version,
}

impl<'a> Line<'a> {
    pub(super) fn of(entry: &'a Entry, node: &'a str) -> Self {
        let target = entry.target.as_deref();
        Self {
            http_request: HttpRequest::of(entry),
            trace_id: trace_id(entry.trace.as_ref()),
            request_id: text(entry.request_id.as_ref()),
            namespace: target.map_or("", |target| &target.revision.namespace),
            service: target.map_or("", |target| &target.service),
            revision: target.map_or("", |target| &target.revision.name),
            instance: entry.instance.as_ref().map_or("", InstanceId::as_str),
            node,
            cold: entry.is_cold,
            queue_ms: ms(entry.queued),
            upstream_ms: ms(entry.upstream),
            attempts: entry.n_attempts,
            reason: entry.reason,
        }
    }
}

impl<'a> HttpRequest<'a> {
    fn of(entry: &'a Entry) -> Self {
        Self {
            request_method: entry.method.as_str(),
            request_url: &entry.path,
            request_size: entry.request_bytes,
            status: entry.status,
            response_size: entry.response_bytes,
            user_agent: text(entry.user_agent.as_ref()),
            remote_ip: entry.remote,
            server_ip: entry
                .server
                .map_or_else(String::new, |server| server.to_string()),
            referer: text(entry.referer.as_ref()),
            latency: entry.latency,
            protocol: entry.version,
        }
    }
}

/// To a tenth.
fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e4).round() / 10.0
}

fn text(value: Option<&HeaderValue>) -> Cow<'_, str> {
    value.map_or(Cow::Borrowed(""), |value| {
        String::from_utf8_lossy(value.as_bytes())
    })
}

fn trace_id(context: Option<&HeaderValue>) -> Cow<'_, str> {
    match text(context) {
        Cow::Borrowed(text) => Cow::Borrowed(text.get(TRACE_ID).unwrap_or_default()),
        Cow::Owned(text) => Cow::Owned(text.get(TRACE_ID).unwrap_or_default().to_owned()),
    }
}

fn as_text<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn as_debug<S: Serializer>(value: &impl std::fmt::Debug, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{value:?}"))
}

fn as_seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{:.6}s", time.as_secs_f64()))
}
