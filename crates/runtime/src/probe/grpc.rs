//! `grpc`: `grpc.health.v1.Health/Check`, one call on a connection of its own.
//!
//! One call with one field there and one back: the messages stand here, and no client is generated.
//!
//! Source: grpc/grpc-proto, `grpc/health/v1/health.proto`; grpc/grpc, `doc/PROTOCOL-HTTP2.md`.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nihilo_host::Stream;
use prost::Message;

use super::check::Failure;
use super::http::{beside, chain};

const METHOD: &str = "grpc.health.v1.Health/Check";
const STATUS: &str = "grpc-status";
const MESSAGE: &str = "grpc-message";
/// Not compressed, and so many bytes.
const PREFIX_BYTES: usize = 5;
/// Far above an answer's few bytes.
const MAX_BODY: usize = 4096;

#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    /// An enumeration, which is a number on the wire.
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: i32 = 1;
/// By their numbers.
const STATUSES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];

/// # Errors
/// No answer, or another one than `SERVING`.
pub(super) async fn check(
    stream: Stream,
    address: SocketAddr,
    service: &str,
) -> Result<(), Failure> {
    let broken = |error: hyper::Error| Failure::new(format!("{METHOD}: {}", chain(&error)));
    let request = request(address, service)?;
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(broken)?;
    let answer = async { judge(sender.send_request(request).await.map_err(broken)?).await };
    beside(connection, answer).await
}

fn request(address: SocketAddr, service: &str) -> Result<Request<Full<Bytes>>, Failure> {
    let message = HealthCheckRequest {
        service: service.into(),
    };
    let request = Request::post(format!("http://{address}/{METHOD}"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, "Nihilo-Probe/1")
        .body(Full::new(framed(&message)));
    request.map_err(|error| Failure::new(format!("{METHOD}: {error}")))
}

fn framed(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + message.encoded_len());
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.encoded_len()).unwrap_or(u32::MAX));
    bytes.put(message.encode_to_vec().as_slice());
    bytes.freeze()
}

async fn judge(response: Response<Incoming>) -> Result<(), Failure> {
    let (head, body) = response.into_parts();
    if head.status != 200 {
        let text = format!("{METHOD} answered HTTP {}", head.status.as_u16());
        return Err(Failure::new(text));
    }
    let body = Limited::new(body, MAX_BODY).collect().await;
    let body = body.map_err(|error| Failure::new(format!("{METHOD}: {error}")))?;
    // An answer without a message has its status among the headers.
    let trailers = body.trailers().unwrap_or(&head.headers);
    called(trailers)?;
    match status_in(&body.to_bytes()) {
        Some(SERVING) => Ok(()),
        Some(other) => Err(Failure::new(format!("{METHOD} answered {}", name(other)))),
        None => {
            let text = format!("{METHOD} answered with no such message");
            Err(Failure::new(text))
        }
    }
}

/// # Errors
/// The call itself failed.
fn called(trailers: &HeaderMap) -> Result<(), Failure> {
    let text = |name: &str| trailers.get(name).map(HeaderValue::as_bytes);
    let words =
        |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    match text(STATUS) {
        Some(b"0") => Ok(()),
        Some(status) => {
            let (status, message) = (words(Some(status)), words(text(MESSAGE)));
            let text = format!("{METHOD} failed with status {status}: {message}");
            Err(Failure::new(text.trim_end_matches([':', ' '])))
        }
        None => Err(Failure::new(format!("{METHOD} answered without a status"))),
    }
}

fn status_in(framed: &[u8]) -> Option<i32> {
    let message = framed.get(PREFIX_BYTES..)?;
    let response = HealthCheckResponse::decode(message).ok()?;
    Some(response.status)
}

fn name(status: i32) -> String {
    let place = usize::try_from(status).ok();
    match place.and_then(|place| STATUSES.get(place)) {
        Some(name) => (*name).to_owned(),
        None => format!("status {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_the_protocol_has_them() {
        let service = "queue".to_owned();
        let asked = framed(&HealthCheckRequest { service });
        assert_eq!(&asked[..], b"\0\0\0\0\x07\x0a\x05queue");
        for (bytes, status) in [
            (&b"\0\0\0\0\x02\x08\x01"[..], Some(SERVING)),
            (b"\0\0\0\0\x02\x08\x02", Some(2)),
            // Nothing set is 0.
            (b"\0\0\0\0\0", Some(0)),
            (b"", None),
            (b"\0\0\0", None),
            (b"\0\0\0\0\x02\x01\xff", None),
        ] {
            assert_eq!(status_in(bytes), status, "{bytes:?}");
        }
        assert_eq!(name(2), "NOT_SERVING");
        assert_eq!(name(9), "status 9");
    }

    #[test]
    fn a_failed_call_is_told_by_its_trailers() {
        let trailers = |status: Option<&'static str>, message: Option<&'static str>| {
            let mut trailers = HeaderMap::new();
            for (name, value) in [(STATUS, status), (MESSAGE, message)] {
                if let Some(value) = value {
                    trailers.insert(name, HeaderValue::from_static(value));
                }
            }
            called(&trailers).map_err(|failure| failure.to_string())
        };
        assert_eq!(trailers(Some("0"), None), Ok(()));
        let unknown = trailers(Some("5"), Some("no such service")).unwrap_err();
        assert!(
            unknown.ends_with("failed with status 5: no such service"),
            "{unknown}"
        );
        let plain = trailers(Some("12"), None).unwrap_err();
        assert!(plain.ends_with("failed with status 12"), "{plain}");
        let none = trailers(None, None).unwrap_err();
        assert!(none.ends_with("without a status"), "{none}");
    }
}
