//! Bodies: what holds a request's places until the last byte, and its time limits.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use tokio::time::{Instant, Sleep};

use crate::limiter::{Admitted, LocalInstance};
use crate::line::{Counted, Taken};

/// The body of a request on its way to an instance.
#[derive(Debug)]
pub enum RequestBody {
    Empty,
    Streaming(Incoming),
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            RequestBody::Empty => Poll::Ready(None),
            RequestBody::Streaming(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Streaming(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Streaming(body) => body.size_hint(),
        }
    }
}

/// The body of an answer.
#[derive(Debug)]
pub enum ResponseBody {
    Own(Option<Bytes>),
    Upstream(Box<Upstream>),
}

/// An instance's body with everything that lives as long as it.
#[derive(Debug)]
pub struct Upstream {
    pub body: Incoming,
    pub limits: Option<Limits>,
    pub held: Held,
}

/// Dropped with the body: places become free when the last byte is out, not when the head is.
#[derive(Debug, Default)]
pub struct Held {
    pub counted: Option<Counted>,
    pub taken: Option<Taken>,
    pub admitted: Option<Admitted>,
    /// Goes back to its pool if the exchange ended exactly.
    pub connection: Option<(Arc<LocalInstance>, SendRequest<RequestBody>)>,
}

/// The total and the idle limit of a response.
#[derive(Debug)]
pub struct Limits {
    total: Instant,
    idle: Option<Duration>,
    timer: Pin<Box<Sleep>>,
}

impl Limits {
    pub fn new(total: Instant, idle: Option<Duration>) -> Self {
        let mut limits = Self {
            total,
            idle,
            timer: Box::pin(tokio::time::sleep_until(total)),
        };
        limits.rearm();
        limits
    }

    fn rearm(&mut self) {
        let next = self
            .idle
            .map_or(self.total, |idle| (Instant::now() + idle).min(self.total));
        self.timer.as_mut().reset(next);
    }
}

impl ResponseBody {
    pub fn text(text: impl Into<Bytes>) -> Self {
        ResponseBody::Own(Some(text.into()))
    }
}

/// A body that was cut: the client's connection ends uncleanly, it never gets foreign text.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the instance's answer broke off")]
    Upstream(#[from] hyper::Error),
    #[error("the answer took too long")]
    TimedOut,
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            ResponseBody::Own(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            ResponseBody::Upstream(upstream) => upstream.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ResponseBody::Own(bytes) => bytes.is_none(),
            // Held until polled to its end, so that the connection can be given back.
            ResponseBody::Upstream(upstream) => upstream.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::Own(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64))
            }
            ResponseBody::Upstream(upstream) => upstream.body.size_hint(),
        }
    }
}

impl Upstream {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(limits) = self.limits.as_mut().filter(|limits| limits.idle.is_some()) {
                    limits.rearm();
                }
                return Poll::Ready(Some(Ok(frame)));
            }
            Poll::Ready(Some(Err(error))) => {
                self.held.connection = None;
                return Poll::Ready(Some(Err(error.into())));
            }
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => {}
        }
        let Some(limits) = &mut self.limits else {
            return Poll::Pending;
        };
        if limits.timer.as_mut().poll(context).is_ready() {
            self.held.connection = None;
            return Poll::Ready(Some(Err(BodyError::TimedOut)));
        }
        Poll::Pending
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if !self.body.is_end_stream() {
            self.held.connection = None;
        }
        if let Some((instance, sender)) = self.held.connection.take() {
            instance.give_back(sender);
        }
    }
}
