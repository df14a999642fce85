//! A connection that knows when it was last heard.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// When something last came by a connection; its beginning counts.
#[derive(Debug, Clone)]
pub(crate) struct LastHeard(Arc<Mutex<Instant>>);

impl LastHeard {
    pub(crate) fn at(instant: Instant) -> Self {
        Self(Arc::new(Mutex::new(instant)))
    }

    pub(crate) fn is_within(&self, limit: Duration) -> bool {
        self.0.lock().elapsed() < limit
    }

    fn note(&self) {
        *self.0.lock() = Instant::now();
    }
}

/// A stream that notes what comes.
#[derive(Debug)]
pub(crate) struct Heard<S> {
    inner: S,
    last: LastHeard,
}

impl<S> Heard<S> {
    pub(crate) fn new(inner: S, last: LastHeard) -> Self {
        Self { inner, last }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        if matches!(polled, Poll::Ready(Ok(()))) {
            self.last.note();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_comes_is_noted_and_what_goes_is_not() {
        let limit = Duration::from_secs(1);
        let (ours, mut theirs) = tokio::io::duplex(64);
        let last = LastHeard::at(Instant::now());
        let mut ours = Heard::new(ours, last.clone());
        tokio::time::advance(limit).await;
        ours.write_all(b"anybody?").await.unwrap();
        assert!(!last.is_within(limit));
        theirs.write_all(b"yes").await.unwrap();
        ours.read_exact(&mut [0; 3]).await.unwrap();
        assert!(last.is_within(limit));
    }
}
