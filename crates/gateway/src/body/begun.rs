//! The body of an instance's answer, looked at once before the head goes on.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// An answer that breaks off in the very moment in which its head arrives has not begun: told to the
/// codec after the head, the error would end the client's connection before the head is written, and
/// the client would see neither. For the same reason an error that comes later is told one turn after
/// it was met: the codec writes out what it has before it asks again.
#[derive(Debug)]
pub struct Begun<B: Body = Incoming> {
    body: B,
    /// What the look found; comes first.
    first: Option<Frame<Bytes>>,
    /// Met, and to be told at the next turn.
    broken: Option<B::Error>,
}

impl<B: Body<Data = Bytes, Error: Unpin> + Unpin> Begun<B> {
    /// Without a look.
    pub fn unseen(body: B) -> Self {
        let (first, broken) = (None, None);
        Self {
            body,
            first,
            broken,
        }
    }

    /// Does not wait: an app may say much later what comes after the head.
    ///
    /// # Errors
    /// It has broken off already.
    pub async fn look(mut body: B) -> Result<Self, B::Error> {
        let polled =
            std::future::poll_fn(|context| Poll::Ready(Pin::new(&mut body).poll_frame(context)));
        let first = match polled.await {
            Poll::Ready(Some(frame)) => Some(frame?),
            Poll::Ready(None) | Poll::Pending => None,
        };
        let broken = None;
        Ok(Self {
            body,
            first,
            broken,
        })
    }
}

impl<B: Body<Data = Bytes, Error: Unpin> + Unpin> Body for Begun<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        if let Some(frame) = this.first.take() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if let Some(error) = this.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let polled = Pin::new(&mut this.body).poll_frame(context);
        let Poll::Ready(Some(Err(error))) = polled else {
            return polled;
        };
        this.broken = Some(error);
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.broken.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let data = self.first.as_ref().and_then(Frame::data_ref);
        let n_first = data.map_or(0, |data| data.len() as u64);
        let rest = self.body.size_hint();
        let mut whole = SizeHint::new();
        whole.set_lower(rest.lower() + n_first);
        if let Some(upper) = rest.upper() {
            whole.set_upper(upper + n_first);
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;

    use http::Response;
    use http_body_util::BodyExt;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use parking_lot::Mutex;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Frames in order; an error where there is none.
    #[derive(Debug)]
    struct Told(VecDeque<Result<&'static str, &'static str>>);

    impl Body for Told {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
            let next = self.0.pop_front();
            Poll::Ready(next.map(|told| told.map(|text| Frame::data(text.into()))))
        }

        fn size_hint(&self) -> SizeHint {
            let n: usize = self.0.iter().flatten().map(|text| text.len()).sum();
            SizeHint::with_exact(n as u64)
        }
    }

    /// What a client of HTTP/1 sees of an answer with this body.
    async fn seen_by_a_client(body: Begun<Told>) -> String {
        let (ours, mut client) = tokio::io::duplex(4096);
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .expect("room");
        let body = Mutex::new(Some(body));
        let service = service_fn(move |_| {
            let body = body.lock().take().expect("one request");
            std::future::ready(Ok::<_, Infallible>(Response::new(body)))
        });
        let served = http1::Builder::new()
            .serve_connection(TokioIo::new(ours), service)
            .await;
        assert!(served.is_err(), "the body breaks off");
        let mut seen = String::new();
        client.read_to_string(&mut seen).await.expect("text");
        seen
    }

    #[tokio::test]
    async fn what_has_begun_is_written_before_it_breaks_off() {
        let body = Begun::look(Told([Ok("beginning"), Err("reset"), Ok("end")].into())).await;
        let seen = seen_by_a_client(body.expect("a beginning")).await;
        assert!(seen.starts_with("HTTP/1.1 200 OK\r\n"), "{seen:?}");
        assert!(seen.ends_with("beginning"), "{seen:?}");
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_at_once_has_not_begun_and_any_other_is_what_it_was() {
        assert_eq!(
            Begun::look(Told([Err("reset")].into())).await.err(),
            Some("reset")
        );
        let late = Begun::look(Told([Ok("a"), Err("reset")].into())).await;
        assert_eq!(
            late.expect("a beginning").collect().await.err(),
            Some("reset")
        );
        let whole = Begun::look(Told([Ok("ab"), Ok("c")].into())).await;
        let whole = whole.expect("a beginning");
        assert_eq!(whole.size_hint().exact(), Some(3));
        assert!(!whole.is_end_stream());
        assert_eq!(whole.collect().await.expect("all").to_bytes(), "abc");
    }
}
