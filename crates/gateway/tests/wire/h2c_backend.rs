//! An instance that speaks HTTP/2 by prior knowledge: echoes bodies and ends with trailers, as
//! gRPC does.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};

async fn echo(
    request: Request<Incoming>,
) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, Infallible> {
    let kind = request.headers().get("content-type").cloned();
    let te = request.headers().get("te").cloned();
    let body = request.into_body().collect().await;
    let body = body
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers.insert("x-end", HeaderValue::from_static("yes"));
    let frames = [Frame::data(body), Frame::trailers(trailers)];
    let mut response = Response::new(StreamBody::new(futures_util::stream::iter(
        frames.map(Ok::<_, Infallible>),
    )));
    let headers = response.headers_mut();
    headers.insert("trailer", HeaderValue::from_static("x-end"));
    if let Some(kind) = kind {
        headers.insert("content-type", kind);
    }
    if let Some(te) = te {
        headers.insert("x-te", te);
    }
    Ok(response)
}

pub fn start() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("nonblocking");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("a runtime").block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            loop {
                let (socket, _) = listener.accept().await.expect("a connection");
                tokio::spawn(
                    http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(socket), service_fn(echo)),
                );
            }
        });
    });
    address
}
