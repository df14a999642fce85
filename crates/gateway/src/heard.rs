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

    /// Resolves once nothing was noted for so long.
    pub(crate) async fn until_silent(&self, limit: Duration) {
        loop {
            let left = limit.saturating_sub(self.0.lock().elapsed());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
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
    notes_sent: bool,
}

impl<S> Heard<S> {
    pub(crate) fn new(inner: S, last: LastHeard) -> Self {
        Self {
            inner,
            last,
            notes_sent: false,
        }
    }

    /// Notes what goes too: the other end need not ask whether this one is there while it is sent something.
    pub(crate) fn either_way(inner: S, last: LastHeard) -> Self {
        Self {
            notes_sent: true,
            ..Self::new(inner, last)
        }
    }

    fn sent(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if self.notes_sent && matches!(polled, Poll::Ready(Ok(_))) {
            self.last.note();
        }
        polled
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
        let polled = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.sent(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.sent(polled)
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

    #[tokio::test(start_paused = true)]
    async fn it_is_silent_once_nothing_came_or_went_for_so_long() {
        let limit = Duration::from_secs(3);
        let (ours, _theirs) = tokio::io::duplex(64);
        let begun = Instant::now();
        let last = LastHeard::at(begun);
        let mut ours = Heard::either_way(ours, last.clone());
        let talk = async {
            tokio::time::advance(Duration::from_secs(2)).await;
            ours.write_all(b"news").await.unwrap();
        };
        tokio::join!(last.until_silent(limit), talk);
        assert_eq!(begun.elapsed(), Duration::from_secs(5));
    }
}
