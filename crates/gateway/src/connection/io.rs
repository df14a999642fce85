//! A client's socket with the time limits that the codec does not keep, and a close that lets the
//! last answer arrive.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::guard::FrameGuard;

/// After the last answer what still comes is read up to so many bytes, so that no reset destroys
/// the answer on its way (RFC 9112 §9.6).
const LINGER_BYTES: usize = 64 * 1024;
const TOO_SLOW: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// How long clients are waited for (05-gateway §11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientLimits {
    /// From the first byte of a head to its last, and from the connection to that byte.
    pub head: Duration,
    /// Between two requests of a connection.
    pub idle: Duration,
    /// A client that takes nothing for so long is cut.
    pub stall: Duration,
    /// A client that owes body bytes and sends none for so long is given up.
    pub body_idle: Duration,
    /// After that much waiting a body must have come with 240 bytes a second.
    pub body_grace: Duration,
    /// After the last answer.
    pub linger: Duration,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            stall: Duration::from_secs(60),
            body_idle: Duration::from_secs(60),
            body_grace: Duration::from_secs(20),
            linger: Duration::from_secs(2),
        }
    }
}

/// What the connection is doing, as told by the service.
#[derive(Debug, Default)]
pub struct Activity {
    phase: AtomicU8,
    is_abused: AtomicBool,
}

const IDLE: u8 = 0;
const HEAD: u8 = 1;
const BUSY: u8 = 2;

impl Activity {
    /// A request was read: only its own limits count until its end.
    pub fn begin(&self) {
        self.phase.store(BUSY, Ordering::Relaxed);
    }

    /// One request at a time means that its end leaves the connection idle.
    pub fn end_if(&self, one_at_a_time: bool) {
        if one_at_a_time {
            self.phase.store(IDLE, Ordering::Relaxed);
        }
    }

    /// The connection ends at its next read.
    pub fn condemn(&self) {
        self.is_abused.store(true, Ordering::Relaxed);
    }

    fn phase(&self) -> u8 {
        self.phase.load(Ordering::Relaxed)
    }
}

/// One client's connection.
#[derive(Debug)]
pub(super) struct ClientIo<S> {
    inner: S,
    /// Read before it was known what the client speaks.
    prefix: Bytes,
    activity: Arc<Activity>,
    /// `None` for HTTP/1.
    guard: Option<FrameGuard>,
    limits: Limits,
    is_at_end: bool,
    linger: Option<Linger>,
}

/// One timer for all limits; moved late, when it fires too early.
#[derive(Debug)]
struct Limits {
    of: ClientLimits,
    timer: Option<Pin<Box<Sleep>>>,
    seen: u8,
    since: Instant,
    blocked_since: Option<Instant>,
}

#[derive(Debug)]
struct Linger {
    until: Pin<Box<Sleep>>,
    left: usize,
}

impl<S> ClientIo<S> {
    pub(super) fn h1(
        inner: S,
        prefix: Bytes,
        activity: Arc<Activity>,
        limits: ClientLimits,
    ) -> Self {
        Self::new(inner, prefix, activity, None, limits)
    }

    /// The prefix holds the beginning of the preface.
    pub(super) fn h2(
        inner: S,
        prefix: Bytes,
        activity: Arc<Activity>,
        limits: ClientLimits,
    ) -> Self {
        activity.begin();
        let guard = FrameGuard::new(Instant::now().into_std());
        Self::new(inner, prefix, activity, Some(guard), limits)
    }

    fn new(
        inner: S,
        prefix: Bytes,
        activity: Arc<Activity>,
        guard: Option<FrameGuard>,
        limits: ClientLimits,
    ) -> Self {
        let limits = Limits {
            of: limits,
            timer: None,
            seen: IDLE,
            since: Instant::now(),
            blocked_since: None,
        };
        Self {
            inner,
            prefix,
            activity,
            guard,
            limits,
            is_at_end: false,
            linger: None,
        }
    }
}

impl Limits {
    /// Notes what the connection does now.
    fn see(&mut self, phase: u8) {
        if self.seen != phase {
            self.seen = phase;
            self.since = Instant::now();
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let waiting = match self.seen {
            IDLE => Some(self.since + self.of.idle),
            HEAD => Some(self.since + self.of.head),
            _ => None,
        };
        let stalled = self.blocked_since.map(|since| since + self.of.stall);
        match (waiting, stalled) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    /// Ready when the limit that holds now has passed.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline() else {
            return Poll::Pending;
        };
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        while timer.as_mut().poll(context).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

fn timed_out(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

impl<S: AsyncRead + AsyncWrite + Unpin> ClientIo<S> {
    fn note_read(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            self.is_at_end = true;
            return Ok(());
        }
        match &mut self.guard {
            Some(guard) => {
                let is_fine = guard.received(bytes, Instant::now().into_std());
                if !is_fine || self.activity.is_abused.load(Ordering::Relaxed) {
                    return Err(io::Error::other("the client sends frames without use"));
                }
            }
            None => {
                if self.activity.phase() == IDLE {
                    self.activity.phase.store(HEAD, Ordering::Relaxed);
                    self.limits.see(HEAD);
                }
            }
        }
        Ok(())
    }

    /// Best effort: the client may read why it is left.
    fn say_last_word(&mut self, context: &mut Context<'_>) {
        let word: Vec<u8> = match &self.guard {
            Some(guard) => guard.goaway().map(Vec::from).unwrap_or_default(),
            None if self.limits.blocked_since.is_none() => TOO_SLOW.to_vec(),
            None => Vec::new(),
        };
        if !word.is_empty()
            && Pin::new(&mut self.inner)
                .poll_write(context, &word)
                .is_ready()
        {
            drop(Pin::new(&mut self.inner).poll_flush(context));
            drop(Pin::new(&mut self.inner).poll_shutdown(context));
        }
    }

    fn poll_linger(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let linger = self.linger.get_or_insert_with(|| Linger {
            until: Box::pin(tokio::time::sleep(self.limits.of.linger)),
            left: LINGER_BYTES,
        });
        let mut waste = [0; 4096];
        while linger.left > 0 {
            if linger.until.as_mut().poll(context).is_ready() {
                break;
            }
            let mut waste = ReadBuf::new(&mut waste);
            match ready!(Pin::new(&mut self.inner).poll_read(context, &mut waste)) {
                Ok(()) if !waste.filled().is_empty() => {
                    linger.left = linger.left.saturating_sub(waste.filled().len());
                }
                Ok(()) | Err(_) => break,
            }
        }
        self.is_at_end = true;
        Poll::Ready(Ok(()))
    }

    fn after_write(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(result) => {
                self.limits.blocked_since = None;
                Poll::Ready(result)
            }
            Poll::Pending => {
                self.limits.blocked_since.get_or_insert_with(Instant::now);
                match self.limits.poll(context) {
                    Poll::Ready(()) => Poll::Ready(Err(timed_out("the client takes nothing"))),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ClientIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        if !this.prefix.is_empty() {
            let n = this.prefix.len().min(buffer.remaining());
            buffer.put_slice(&this.prefix[..n]);
            this.prefix.advance(n);
        } else {
            match Pin::new(&mut this.inner).poll_read(context, buffer) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    this.limits.see(this.activity.phase());
                    ready!(this.limits.poll(context));
                    if this.limits.seen == HEAD {
                        this.say_last_word(context);
                    }
                    return Poll::Ready(Err(timed_out("the client says nothing")));
                }
            }
        }
        let result = this.note_read(&buffer.filled()[before..]);
        if result.is_err() {
            this.say_last_word(context);
        }
        Poll::Ready(result)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ClientIo<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = Pin::new(&mut this.inner).poll_write(context, bytes);
        if let (Some(guard), Poll::Ready(Ok(n))) = (&mut this.guard, &written) {
            guard.sent(&bytes[..*n]);
        }
        this.after_write(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = Pin::new(&mut this.inner).poll_write_vectored(context, slices);
        if let (Some(guard), Poll::Ready(Ok(n))) = (&mut this.guard, &written) {
            let mut left = *n;
            for slice in slices {
                let n = left.min(slice.len());
                guard.sent(&slice[..n]);
                left -= n;
            }
        }
        this.after_write(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.inner).poll_shutdown(context))?;
        }
        match this.is_at_end {
            true => Poll::Ready(Ok(())),
            false => this.poll_linger(context),
        }
    }
}
