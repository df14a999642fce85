//! Bodies: what holds a request's places until the last byte, and its time limits.

mod begun;
mod request;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

pub use begun::Begun;
pub use request::{ClientBody, RequestBody, RequestBodyError, clean_trailers};

use crate::connection::Progress;
use crate::limiter::Admitted;
use crate::line::Taken;
use crate::pool::Lease;
use crate::record::Record;

/// The body of an answer, with what ends when it ends.
#[derive(Debug)]
pub struct ResponseBody {
    kind: Kind,
    record: Option<Box<Record>>,
    /// Of the HTTP/2 stream that it is sent on.
    progress: Option<Arc<Progress>>,
}

#[derive(Debug)]
enum Kind {
    Own(Option<Bytes>),
    Upstream(Box<Upstream>),
}

/// An instance's body with everything that lives as long as it.
#[derive(Debug)]
pub struct Upstream {
    pub body: Begun,
    pub limits: Option<Limits>,
    pub held: Held,
}

/// Dropped with the body: places become free when the last byte is out, not when the head is.
#[derive(Debug, Default)]
pub struct Held {
    pub taken: Option<Taken>,
    pub admitted: Option<Admitted>,
    /// Goes back to its pool if the exchange ended exactly.
    pub lease: Option<Lease>,
}

/// The total and the idle limit of a response.
#[derive(Debug)]
pub struct Limits {
    total: Instant,
    idle: Option<Duration>,
    next: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Limits {
    pub fn new(total: Instant, idle: Option<Duration>) -> Self {
        let mut limits = Self {
            total,
            idle,
            next: total,
            timer: None,
        };
        limits.rearm();
        limits
    }

    /// The app wrote something.
    pub fn rearm(&mut self) {
        if let Some(idle) = self.idle {
            self.next = (Instant::now() + idle).min(self.total);
        }
    }

    /// Ready when a limit has passed.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let next = self.next;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next)));
        if timer.deadline() != next {
            timer.as_mut().reset(next);
        }
        timer.as_mut().poll(context)
    }
}

impl ResponseBody {
    pub fn empty() -> Self {
        Self::own(None)
    }

    pub fn text(text: impl Into<Bytes>) -> Self {
        Self::own(Some(text.into()))
    }

    fn own(bytes: Option<Bytes>) -> Self {
        Self::of(Kind::Own(bytes))
    }

    pub fn upstream(upstream: Upstream) -> Self {
        Self::of(Kind::Upstream(Box::new(upstream)))
    }

    fn of(kind: Kind) -> Self {
        let (record, progress) = (None, None);
        Self {
            kind,
            record,
            progress,
        }
    }

    /// The request counts as under way until the body ends.
    pub fn keep(&mut self, record: Box<Record>) {
        self.record = Some(record);
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
        let this = self.get_mut();
        if this.progress.is_none() {
            this.progress = Progress::current();
        }
        if let Some(progress) = &this.progress {
            progress.is_asked();
        }
        let polled = match &mut this.kind {
            Kind::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Upstream(upstream) => upstream.poll(context),
        };
        if let (Some(progress), Poll::Ready(Some(Ok(_)))) = (&this.progress, &polled) {
            progress.handed_out();
        }
        if let (Some(record), Poll::Ready(polled)) = (&mut this.record, &polled) {
            match polled {
                Some(Ok(frame)) => record.sent(frame.data_ref().map_or(0, Bytes::len)),
                Some(Err(error)) => record.cut(error),
                None => {}
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Own(bytes) => bytes.is_none(),
            Kind::Upstream(upstream) => upstream.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Kind::Upstream(upstream) => upstream.body.size_hint(),
        }
    }
}

impl Upstream {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(limits) = &mut self.limits {
                    limits.rearm();
                }
                return Poll::Ready(Some(Ok(cleaned(frame))));
            }
            Poll::Ready(Some(Err(error))) => {
                self.held.lease = None;
                return Poll::Ready(Some(Err(error.into())));
            }
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => {}
        }
        let Some(limits) = &mut self.limits else {
            return Poll::Pending;
        };
        if limits.poll(context).is_ready() {
            self.held.lease = None;
            return Poll::Ready(Some(Err(BodyError::TimedOut)));
        }
        Poll::Pending
    }
}

fn cleaned(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            clean_trailers(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if let Some(lease) = self.held.lease.take()
            && self.body.is_end_stream()
        {
            lease.give_back();
        }
    }
}
