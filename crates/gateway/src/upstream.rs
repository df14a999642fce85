//! Connections to instances of this node.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderValue, TRANSFER_ENCODING};
use http::{Request, Response};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nihilo_host::{Net, Stream};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::body::RequestBody;
use crate::h2_form::{from_h2, to_h2};
use crate::limiter::LocalInstance;
use crate::pool::{H1, H2, Lease, StreamLease};

const LOCAL_CONNECT: Duration = Duration::from_millis(300);
/// Head of an answer, at most (05-gateway §8).
const MAX_HEAD: usize = 64 * 1024;

/// What went wrong, and whether the request may be sent again.
#[derive(Debug)]
pub enum SendError {
    /// Nothing of it was sent: here it is again.
    Unsent(Box<Request<RequestBody>>),
    /// The peer says that it did nothing with it (RFC 9113 §8.7); it has to be made anew.
    Unprocessed,
    /// It was sent and there is no answer.
    Unanswered,
    /// The same, on a connection that had served before: the peer may just have closed it for its
    /// age, which says nothing of the peer (RFC 9112 §9.3.1).
    Stale,
    /// The node that runs the instance was declared down.
    NodeLost,
}

/// Sends to an instance of this node, over a connection that exists if there is one.
pub async fn send_local(
    net: &Net,
    instance: &Arc<LocalInstance>,
    request: Request<RequestBody>,
) -> Result<(Response<Incoming>, Lease), SendError> {
    match instance.h2c {
        true => send_h2c(net, instance, request).await,
        false => send_h1(net, instance, request).await,
    }
}

async fn send_h1(
    net: &Net,
    instance: &Arc<LocalInstance>,
    mut request: Request<RequestBody>,
) -> Result<(Response<Incoming>, Lease), SendError> {
    if request.body().size_hint().exact().is_none() {
        // The codec takes a GET whose body has no length for one without a body.
        let chunked = HeaderValue::from_static("chunked");
        request.headers_mut().insert(TRANSFER_ENCODING, chunked);
    }
    while let Some(mut sender) = instance.pool.take_idle() {
        match sender.try_send_request(request).await {
            Ok(response) => return Ok((response, Lease::Own(instance.clone(), sender))),
            Err(mut failed) => match failed.take_message() {
                // It was closed just now: the next one, or one of its own.
                Some(unsent) => request = unsent,
                None => return Err(SendError::Stale),
            },
        }
    }
    let Ok(mut sender) = connect_h1(net, instance).await else {
        return Err(SendError::Unsent(Box::new(request)));
    };
    match sender.try_send_request(request).await {
        Ok(response) => Ok((response, Lease::Own(instance.clone(), sender))),
        Err(mut failed) => match failed.take_message() {
            Some(request) => Err(SendError::Unsent(Box::new(request))),
            None => Err(SendError::Unanswered),
        },
    }
}

async fn send_h2c(
    net: &Net,
    instance: &Arc<LocalInstance>,
    mut request: Request<RequestBody>,
) -> Result<(Response<Incoming>, Lease), SendError> {
    let (mut sender, lease) = match instance.pool.take_shared() {
        Some(shared) => shared,
        None => match connect_h2(net, instance).await {
            Ok(shared) => shared,
            Err(_) => return Err(SendError::Unsent(Box::new(request))),
        },
    };
    to_h2(&mut request);
    match sender.try_send_request(request).await {
        Ok(response) => Ok((response, Lease::Shared(lease))),
        Err(mut failed) => match failed.take_message() {
            Some(mut request) => {
                from_h2(&mut request);
                Err(SendError::Unsent(Box::new(request)))
            }
            None => Err(unanswered(failed.error())),
        },
    }
}

/// A stream that was refused, or that the peer's GOAWAY leaves out, was not processed.
pub(crate) fn unanswered(error: &hyper::Error) -> SendError {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(cause) = cause.downcast_ref::<h2::Error>() {
            let is_unprocessed = cause.reason() == Some(h2::Reason::REFUSED_STREAM)
                || (cause.is_go_away() && cause.reason() == Some(h2::Reason::NO_ERROR));
            if is_unprocessed && cause.is_remote() {
                return SendError::Unprocessed;
            }
        }
        source = cause.source();
    }
    SendError::Unanswered
}

pub(crate) async fn connect(net: &Net, address: &str, limit: Duration) -> io::Result<Stream> {
    let stream = tokio::time::timeout(limit, net.dial(address)).await??;
    stream.set_nodelay()?;
    Ok(stream)
}

async fn connect_h1(net: &Net, instance: &LocalInstance) -> io::Result<H1> {
    let stream = connect(net, &instance.address.to_string(), LOCAL_CONNECT).await?;
    let (sender, connection) = http1::Builder::new()
        .max_header_size(MAX_HEAD)
        .max_buf_size(MAX_HEAD + 16 * 1024)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(async move {
        // The exchange that it carries sees the error.
        drop(connection.with_upgrades().await);
    });
    Ok(sender)
}

async fn connect_h2(net: &Net, instance: &LocalInstance) -> io::Result<(H2, StreamLease)> {
    let stream = connect(net, &instance.address.to_string(), LOCAL_CONNECT).await?;
    let sender = handshake_h2(http2::Builder::new(TokioExecutor::new()), stream).await?;
    Ok(instance.pool.share(sender))
}

pub(crate) async fn handshake_h2<S>(
    mut builder: http2::Builder<TokioExecutor>,
    stream: S,
) -> io::Result<H2>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    builder.max_header_list_size(MAX_HEAD as u32);
    let (sender, connection) = builder
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}
