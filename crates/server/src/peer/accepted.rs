//! An accepted connection in the form that tonic serves.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream as Incoming;
use nihilo_host::{Listener, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;
use tracing::{debug, warn};

/// After a connection that could not be accepted.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(10);

/// Tells services nothing about its client: who that is stands in the messages.
#[derive(Debug)]
pub struct Accepted(pub Stream);

impl Connected for Accepted {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

/// Everything that a listener accepts, for ever.
pub fn incoming(listener: Listener) -> impl Incoming<Item = io::Result<Accepted>> {
    futures_util::stream::unfold(listener, |listener| async {
        let stream = next(&listener).await;
        Some((Ok(Accepted(stream)), listener))
    })
}

/// The next connection. Out of descriptors and the like is never a reason to stop listening, and to
/// try again at once would only burn the processor.
pub(super) async fn next(listener: &Listener) -> Stream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Small answers would wait 40 ms for the peer's delayed acknowledgment (RFC 896,
                // RFC 1122 §4.2.3.2); tonic sees to it for its own listeners only.
                if let Err(error) = stream.set_nodelay() {
                    debug!(%error, "nodelay");
                }
                return stream;
            }
            Err(error) => {
                warn!(%error, "no connection can be accepted now");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
