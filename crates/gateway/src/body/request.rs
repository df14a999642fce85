//! A client's body on its way to an instance: read as it is asked for, kept while it is small, so
//! that it can be sent again.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};

use crate::connection::ClientLimits;
use crate::rescue::Cause;
use crate::rules;

/// Bytes kept for another attempt, at most (05-gateway §20).
const MAX_KEPT: usize = 64 * 1024;
/// Less than this, after a client was waited for long enough, is an attack or no use.
const MIN_BYTES_PER_SECOND: u64 = 240;

/// What ended a client's body before its end.
#[derive(Debug, thiserror::Error)]
pub enum RequestBodyError {
    #[error("the client's body broke off")]
    Client(#[source] hyper::Error),
    #[error("the client's body came too slowly")]
    TooSlow,
    #[error("the client's trailers are too large")]
    Trailers,
}

/// A request's body, or one attempt's view of it.
#[derive(Debug)]
pub enum RequestBody {
    Empty,
    Client(Attempt),
}

/// One attempt to send a client's body.
#[derive(Debug)]
pub struct Attempt {
    source: Arc<Mutex<Source>>,
    n_sent: usize,
    are_trailers_sent: bool,
}

/// The body itself, shared by the attempts of one request.
#[derive(Debug, Clone)]
pub struct ClientBody(Arc<Mutex<Source>>);

#[derive(Debug)]
struct Source {
    incoming: Incoming,
    hint: SizeHint,
    kept: Vec<Bytes>,
    n_kept: usize,
    /// `kept` holds everything that came.
    is_whole: bool,
    trailers: Option<HeaderMap>,
    is_ended: bool,
    n_bytes: u64,
    fault: Option<Fault>,
    patience: Patience,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Broken,
    TooSlow,
    Trailers,
}

/// How long the client was waited for.
#[derive(Debug)]
struct Patience {
    idle: Duration,
    grace: Duration,
    since: Option<Instant>,
    waited: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl ClientBody {
    pub fn new(incoming: Incoming, limits: &ClientLimits) -> Self {
        let hint = incoming.size_hint();
        Self(Arc::new(Mutex::new(Source {
            incoming,
            hint,
            kept: Vec::new(),
            n_kept: 0,
            is_whole: true,
            trailers: None,
            is_ended: false,
            n_bytes: 0,
            fault: None,
            patience: Patience {
                idle: limits.body_idle,
                grace: limits.body_grace,
                since: None,
                waited: Duration::ZERO,
                timer: None,
            },
        })))
    }

    /// The next attempt's view; `None` when what was sent before is not kept.
    pub fn attempt(&self) -> Option<RequestBody> {
        let is_whole = self.0.lock().is_whole;
        is_whole.then(|| {
            RequestBody::Client(Attempt {
                source: self.0.clone(),
                n_sent: 0,
                are_trailers_sent: false,
            })
        })
    }

    pub fn n_bytes(&self) -> u64 {
        self.0.lock().n_bytes
    }

    /// What to tell a client whose own body was the fault.
    pub fn fault(&self) -> Option<Cause> {
        self.0.lock().fault.map(|fault| match fault {
            Fault::Broken => Cause::BadRequest("the body broke off"),
            Fault::TooSlow => Cause::BodyTimeout,
            Fault::Trailers => Cause::BadRequest("the trailers are too large"),
        })
    }
}

impl Patience {
    fn came(&mut self) {
        if let Some(since) = self.since.take() {
            self.waited += since.elapsed();
        }
    }

    /// Ready when the client has used up its time.
    fn poll(&mut self, n_bytes: u64, context: &mut Context<'_>) -> Poll<()> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let earned = Duration::from_secs(n_bytes / MIN_BYTES_PER_SECOND);
        let left = self.grace.max(earned).saturating_sub(self.waited);
        let deadline = since + left.min(self.idle);
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(context)
    }
}

type Polled = Poll<Option<Result<Frame<Bytes>, RequestBodyError>>>;

impl Source {
    fn poll(&mut self, context: &mut Context<'_>) -> Polled {
        match Pin::new(&mut self.incoming).poll_frame(context) {
            Poll::Ready(frame) => {
                self.patience.came();
                Poll::Ready(self.take(frame))
            }
            Poll::Pending => {
                if self.patience.poll(self.n_bytes, context).is_pending() {
                    return Poll::Pending;
                }
                Poll::Ready(Some(Err(
                    self.fail(Fault::TooSlow, RequestBodyError::TooSlow)
                )))
            }
        }
    }

    fn fail(&mut self, fault: Fault, error: RequestBodyError) -> RequestBodyError {
        self.fault = Some(fault);
        self.is_whole = false;
        error
    }

    fn take(
        &mut self,
        frame: Option<Result<Frame<Bytes>, hyper::Error>>,
    ) -> Option<Result<Frame<Bytes>, RequestBodyError>> {
        let frame = match frame {
            None => {
                self.is_ended = true;
                return None;
            }
            Some(Err(error)) => {
                return Some(Err(
                    self.fail(Fault::Broken, RequestBodyError::Client(error))
                ));
            }
            Some(Ok(frame)) => frame,
        };
        match frame.into_data() {
            Ok(data) => {
                self.n_bytes += data.len() as u64;
                self.keep(&data);
                Some(Ok(Frame::data(data)))
            }
            Err(frame) => {
                let mut trailers = frame.into_trailers().unwrap_or_default();
                let size = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
                    name.as_str().len() + value.len() + 4
                };
                if trailers.iter().map(size).sum::<usize>() > rules::MAX_TRAILERS {
                    return Some(Err(self.fail(Fault::Trailers, RequestBodyError::Trailers)));
                }
                clean_trailers(&mut trailers);
                self.is_ended = true;
                self.trailers = Some(trailers.clone());
                Some(Ok(Frame::trailers(trailers)))
            }
        }
    }

    fn keep(&mut self, data: &Bytes) {
        if !self.is_whole {
            return;
        }
        if self.n_kept + data.len() > MAX_KEPT {
            self.is_whole = false;
            self.kept = Vec::new();
            return;
        }
        self.n_kept += data.len();
        self.kept.push(data.clone());
    }
}

/// Removes what no trailer may say; what is left is never merged into a head.
pub fn clean_trailers(trailers: &mut HeaderMap) {
    let forbidden: Vec<_> = trailers
        .keys()
        .filter(|name| rules::is_forbidden_trailer(name))
        .cloned()
        .collect();
    for name in forbidden {
        trailers.remove(name);
    }
}

impl Attempt {
    fn poll(&mut self, context: &mut Context<'_>) -> Polled {
        let mut source = self.source.lock();
        if source.is_whole
            && let Some(data) = source.kept.get(self.n_sent)
        {
            self.n_sent += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        if source.is_ended {
            let trailers = source.trailers.clone().filter(|_| !self.are_trailers_sent);
            self.are_trailers_sent = true;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let polled = source.poll(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            match frame.is_data() {
                true => self.n_sent += 1,
                false => self.are_trailers_sent = true,
            }
        }
        polled
    }

    fn is_at_end(&self) -> bool {
        let source = self.source.lock();
        let is_ended = source.is_ended || source.incoming.is_end_stream();
        is_ended
            && (!source.is_whole || self.n_sent >= source.kept.len())
            && (source.trailers.is_none() || self.are_trailers_sent)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Polled {
        match self.get_mut() {
            RequestBody::Empty => Poll::Ready(None),
            RequestBody::Client(attempt) => attempt.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Client(attempt) => attempt.is_at_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            // Of the whole: it is asked for once, before the first frame.
            RequestBody::Client(attempt) => attempt.source.lock().hint,
        }
    }
}
