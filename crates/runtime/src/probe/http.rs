//! `httpGet`: one request on a connection of its own.

use std::future::Future;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::header::{CONNECTION, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nihilo_host::Stream;
use nihilo_types::probe::HttpHeader;

use super::check::{Failure, with_words};

const AGENT: HeaderValue = HeaderValue::from_static("Nihilo-Probe/1");
/// Bytes of a body that are read; a longer one is not looked at.
const MAX_BODY: usize = 1024;

/// # Errors
/// No answer, or one with another status than 200 to 399. Redirects are not followed.
pub(super) async fn get(
    stream: Stream,
    is_h2c: bool,
    address: SocketAddr,
    path: &str,
    headers: &[HttpHeader],
) -> Result<(), Failure> {
    let broken = |error: hyper::Error| Failure::new(format!("GET {path}: {}", chain(&error)));
    let io = TokioIo::new(stream);
    if is_h2c {
        let request = request(&format!("http://{address}{path}"), None, headers)?;
        let handshake = http2::handshake(TokioExecutor::new(), io).await;
        let (mut sender, connection) = handshake.map_err(broken)?;
        let answer =
            async { judge(path, sender.send_request(request).await.map_err(broken)?).await };
        return beside(connection, answer).await;
    }
    let request = request(path, Some(address), headers)?;
    let (mut sender, connection) = http1::handshake(io).await.map_err(broken)?;
    let answer = async { judge(path, sender.send_request(request).await.map_err(broken)?).await };
    beside(connection, answer).await
}

/// The template's headers come in place of ours.
fn request(
    uri: &str,
    host: Option<SocketAddr>,
    headers: &[HttpHeader],
) -> Result<Request<Empty<Bytes>>, Failure> {
    let wrong = |error: hyper::http::Error| Failure::new(format!("GET {uri}: {error}"));
    let request = Request::get(uri).body(Empty::new());
    let mut request = request.map_err(wrong)?;
    let ours = request.headers_mut();
    ours.insert(USER_AGENT, AGENT);
    if let Some(host) = host {
        let host = HeaderValue::from_str(&host.to_string());
        ours.insert(HOST, host.map_err(|error| wrong(error.into()))?);
        ours.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    for HttpHeader { name, value } in headers {
        let name = HeaderName::try_from(name).map_err(|error| wrong(error.into()))?;
        let value = HeaderValue::try_from(value).map_err(|error| wrong(error.into()))?;
        ours.insert(name, value);
    }
    Ok(request)
}

async fn judge(path: &str, response: Response<Incoming>) -> Result<(), Failure> {
    let status = response.status();
    if (200..400).contains(&status.as_u16()) {
        return Ok(());
    }
    let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
    let said = body.map(|body| body.to_bytes()).unwrap_or_default();
    let text = format!("GET {path} answered {}", status.as_u16());
    Err(Failure::new(with_words(text, &said)))
}

/// An exchange, while its connection is driven.
pub(super) async fn beside<T>(connection: impl Future, exchange: impl Future<Output = T>) -> T {
    tokio::pin!(connection, exchange);
    tokio::select! {
        biased;
        done = &mut exchange => done,
        // It has ended: whatever it had to say is there.
        _ = &mut connection => exchange.await,
    }
}

pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}
