//! The one place that turns a cause into an answer of the gateway's own (05-gateway §12).
//!
//! Bodies are short, fixed, and reflect nothing of the request.

use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};

use crate::body::ResponseBody;
use crate::finish::START;

const REASON: HeaderName = HeaderName::from_static("nihilo-reason");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// Why the gateway answers by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    UnknownHost,
    Misdirected,
    BadRequest(&'static str),
    NotAllowed(&'static str),
    NotImplemented(&'static str),
    ExpectationFailed,
    TargetTooLong,
    /// The client stopped sending the body that it announced.
    BodyTimeout,
    Loop,
    NoBackend,
    /// HTTP/1 instance, gRPC request.
    NoGrpc,
    QueueFull {
        retry_after: u32,
    },
    Overloaded {
        retry_after: u32,
    },
    QueueDeadline {
        last_failure: String,
    },
    /// Nothing is ready, and the owner that could start something cannot be reached.
    OwnerUnreachable {
        retry_after: u32,
    },
    /// A probe of a service that sleeps, and is well as far as anybody knows.
    Asleep,
    /// A probe of a service that does not start.
    NotReady,
    ConnectFailed,
    UpstreamError,
    InstanceTerminated,
    ResponseStartTimeout,
    IdleTimeout,
    TotalTimeout,
}

/// How the client is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tongue {
    Http1,
    Http2,
    Grpc,
}

/// Status, reason in metrics and access log, gRPC status, text.
type Parts = (StatusCode, &'static str, u8, String);

impl Cause {
    fn parts(&self) -> Parts {
        use StatusCode as S;
        let fixed = |status, reason, grpc, text: &str| (status, reason, grpc, text.to_owned());
        match self {
            Cause::UnknownHost => fixed(S::NOT_FOUND, "unknown_host", 12, "not found"),
            Cause::Misdirected => fixed(
                S::MISDIRECTED_REQUEST,
                "misdirected",
                14,
                "misdirected request",
            ),
            Cause::BadRequest(why) => (
                S::BAD_REQUEST,
                "bad_request",
                13,
                format!("bad request: {why}"),
            ),
            Cause::NotAllowed(why) => fixed(S::METHOD_NOT_ALLOWED, "bad_request", 12, why),
            Cause::NotImplemented(why) => fixed(S::NOT_IMPLEMENTED, "bad_request", 12, why),
            Cause::ExpectationFailed => fixed(
                S::EXPECTATION_FAILED,
                "bad_request",
                13,
                "expectation failed",
            ),
            Cause::TargetTooLong => fixed(S::URI_TOO_LONG, "bad_request", 13, "target too long"),
            Cause::BodyTimeout => fixed(
                S::REQUEST_TIMEOUT,
                "bad_request",
                1,
                "the request's body did not come",
            ),
            Cause::Loop => fixed(S::LOOP_DETECTED, "loop", 13, "loop detected"),
            Cause::NoBackend => fixed(S::INTERNAL_SERVER_ERROR, "no_backend", 13, "no backend"),
            Cause::NoGrpc => fixed(
                S::BAD_GATEWAY,
                "bad_request",
                12,
                "this service does not speak gRPC: name its port `h2c`",
            ),
            Cause::QueueFull { .. } => fixed(
                S::SERVICE_UNAVAILABLE,
                "queue_full",
                14,
                "pending request queue full",
            ),
            Cause::Overloaded { .. } => {
                fixed(S::SERVICE_UNAVAILABLE, "overloaded", 14, "overloaded")
            }
            Cause::QueueDeadline { last_failure } => {
                let text = format!("request timeout{}", said(last_failure));
                (S::GATEWAY_TIMEOUT, "queue_deadline", 4, text)
            }
            Cause::OwnerUnreachable { .. } => fixed(
                S::SERVICE_UNAVAILABLE,
                "owner_unreachable",
                14,
                "no instance is ready, and the node that starts them cannot be reached",
            ),
            Cause::Asleep => fixed(S::OK, "asleep", 14, ""),
            Cause::NotReady => fixed(
                S::SERVICE_UNAVAILABLE,
                "not_ready",
                14,
                "revision not ready",
            ),
            Cause::ConnectFailed => fixed(
                S::BAD_GATEWAY,
                "connect_failed",
                14,
                "no instance could be reached",
            ),
            Cause::UpstreamError => fixed(
                S::BAD_GATEWAY,
                "upstream_error",
                14,
                "the instance ended the exchange without an answer",
            ),
            Cause::InstanceTerminated => fixed(
                S::BAD_GATEWAY,
                "instance_terminated",
                14,
                "the instance's node was lost before it answered",
            ),
            Cause::ResponseStartTimeout => fixed(
                S::GATEWAY_TIMEOUT,
                "response_start_timeout",
                4,
                "request timeout",
            ),
            Cause::IdleTimeout => fixed(S::GATEWAY_TIMEOUT, "idle_timeout", 4, "request timeout"),
            Cause::TotalTimeout => fixed(S::GATEWAY_TIMEOUT, "total_timeout", 4, "request timeout"),
        }
    }

    pub fn status(&self) -> StatusCode {
        self.parts().0
    }

    pub fn reason(&self) -> &'static str {
        self.parts().1
    }

    /// The app had its time: another attempt would have none.
    pub fn is_timeout(&self) -> bool {
        matches!(
            self,
            Cause::ResponseStartTimeout | Cause::IdleTimeout | Cause::TotalTimeout
        )
    }

    /// What was sent cannot be trusted to end where it says.
    fn ends_connection(&self) -> bool {
        matches!(
            self,
            Cause::BadRequest(_)
                | Cause::NotAllowed(_)
                | Cause::NotImplemented(_)
                | Cause::ExpectationFailed
                | Cause::TargetTooLong
                | Cause::BodyTimeout
        )
    }

    fn retry_after(&self) -> Option<u32> {
        match self {
            Cause::QueueFull { retry_after }
            | Cause::Overloaded { retry_after }
            | Cause::OwnerUnreachable { retry_after } => Some(*retry_after),
            _ => None,
        }
    }

    pub fn answer(&self, tongue: Tongue) -> Response<ResponseBody> {
        let (status, reason, grpc, text) = self.parts();
        if tongue == Tongue::Grpc {
            return self.grpc_answer(reason, grpc, &text);
        }
        if *self == Cause::Asleep {
            return asleep();
        }
        let mut response = Response::new(ResponseBody::text(format!("{text}\n")));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        headers.insert(REASON, HeaderValue::from_static(reason));
        if let Some(seconds) = self.retry_after() {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if tongue == Tongue::Http1 && self.ends_connection() {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// Trailers only: the status stands in the head, and there is no body.
    fn grpc_answer(&self, reason: &'static str, grpc: u8, text: &str) -> Response<ResponseBody> {
        let mut response = Response::new(ResponseBody::empty());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(REASON, HeaderValue::from_static(reason));
        headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(grpc)));
        // Percent-encoding is only needed beyond printable ASCII.
        let plain = |c: &char| (' '..='~').contains(c) && *c != '%';
        let message: String = text.chars().filter(plain).collect();
        if let Ok(message) = HeaderValue::try_from(message) {
            headers.insert(GRPC_MESSAGE, message);
        }
        if let Some(seconds) = self.retry_after() {
            headers.insert(GRPC_PUSHBACK, HeaderValue::from(u64::from(seconds) * 1000));
        }
        response
    }
}

/// As the service would answer, which nobody asked: no body, and nobody keeps it.
fn asleep() -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::empty());
    let headers = response.headers_mut();
    headers.insert(START, HeaderValue::from_static("asleep"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn said(last_failure: &str) -> String {
    match last_failure {
        "" => String::new(),
        why => format!("; the revision does not start: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_tell_each_client_in_its_tongue() {
        let full = Cause::QueueFull { retry_after: 7 };
        let answer = full.answer(Tongue::Http1);
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()[RETRY_AFTER], "7");
        assert!(!answer.headers().contains_key(CONNECTION));
        let answer = full.answer(Tongue::Grpc);
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()[GRPC_STATUS], "14");
        assert_eq!(answer.headers()[GRPC_PUSHBACK], "7000");
        let alone = Cause::OwnerUnreachable { retry_after: 5 };
        let answer = alone.answer(Tongue::Http2);
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()[RETRY_AFTER], "5");
        assert_eq!(answer.headers()[REASON], "owner_unreachable");
        let answer = alone.answer(Tongue::Grpc);
        assert_eq!(answer.headers()[GRPC_STATUS], "14");
        assert_eq!(answer.headers()[GRPC_PUSHBACK], "5000");
        let bad = Cause::BadRequest("invalid Host");
        assert_eq!(bad.answer(Tongue::Http1).headers()[CONNECTION], "close");
        assert!(!bad.answer(Tongue::Http2).headers().contains_key(CONNECTION));
    }
}
