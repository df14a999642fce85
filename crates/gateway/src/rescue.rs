//! The one place that turns a cause into an answer of the gateway's own.

use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};

use crate::body::ResponseBody;

/// Why the gateway answers by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    UnknownHost(String),
    BadRequest(&'static str),
    NotAllowed(&'static str),
    QueueFull,
    QueueDeadline { last_failure: String },
    ConnectFailed,
    UpstreamError,
    InstanceTerminated,
    ResponseStartTimeout,
    Draining,
}

impl Cause {
    fn parts(&self) -> (StatusCode, &'static str, String) {
        match self {
            Cause::UnknownHost(host) => {
                let text = format!("no service has the host `{host}`");
                (StatusCode::NOT_FOUND, "unknown_host", text)
            }
            Cause::BadRequest(why) => (StatusCode::BAD_REQUEST, "bad_request", (*why).into()),
            Cause::NotAllowed(why) => {
                (StatusCode::METHOD_NOT_ALLOWED, "bad_request", (*why).into())
            }
            Cause::QueueFull => {
                let text = "too many requests wait for this revision".into();
                (StatusCode::SERVICE_UNAVAILABLE, "queue_full", text)
            }
            Cause::QueueDeadline { last_failure } if last_failure.is_empty() => (
                StatusCode::GATEWAY_TIMEOUT,
                "queue_deadline",
                "request timeout".into(),
            ),
            Cause::QueueDeadline { last_failure } => {
                let text = format!("request timeout; the revision does not start: {last_failure}");
                (StatusCode::GATEWAY_TIMEOUT, "queue_deadline", text)
            }
            Cause::ConnectFailed => {
                let text = "no instance could be reached".into();
                (StatusCode::BAD_GATEWAY, "connect_failed", text)
            }
            Cause::UpstreamError => {
                let text = "the instance ended the exchange without an answer".into();
                (StatusCode::BAD_GATEWAY, "upstream_error", text)
            }
            Cause::InstanceTerminated => {
                let text = "the instance's node was lost before it answered".into();
                (StatusCode::BAD_GATEWAY, "instance_terminated", text)
            }
            Cause::ResponseStartTimeout => {
                let text = "request timeout".into();
                (StatusCode::GATEWAY_TIMEOUT, "response_start_timeout", text)
            }
            Cause::Draining => {
                let text = "this gateway is shutting down".into();
                (StatusCode::SERVICE_UNAVAILABLE, "draining", text)
            }
        }
    }

    pub fn answer(&self) -> Response<ResponseBody> {
        let (status, reason, text) = self.parts();
        let mut response = Response::new(ResponseBody::text(format!("{text}\n")));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        headers.insert("nihilo-reason", HeaderValue::from_static(reason));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
