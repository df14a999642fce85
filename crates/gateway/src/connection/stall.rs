//! HTTP/2 streams whose client takes nothing: given up after a while, alone.
//!
//! The codec asks a body for more only when there is room to send it, so no body can know by
//! itself that it is stuck. The stream's task can.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::Executor;
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};

thread_local! {
    static CURRENT: RefCell<Option<Arc<Progress>>> = const { RefCell::new(None) };
}

/// What a stream's body tells its task.
#[derive(Debug, Default)]
pub struct Progress {
    /// Since when data waits to be sent.
    waiting_since: Mutex<Option<Instant>>,
}

impl Progress {
    /// That of the stream whose task is running.
    pub fn current() -> Option<Arc<Self>> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// The body was asked for more: everything before has been taken.
    pub fn is_asked(&self) {
        *self.waiting_since.lock() = None;
    }

    pub fn handed_out(&self) {
        *self.waiting_since.lock() = Some(Instant::now());
    }

    fn waiting_since(&self) -> Option<Instant> {
        *self.waiting_since.lock()
    }
}

/// Spawns streams that end when their client takes nothing for `limit`.
#[derive(Debug, Clone, Copy)]
pub(super) struct StreamExecutor {
    pub(super) limit: Duration,
}

impl<F> Executor<F> for StreamExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        tokio::spawn(Watched {
            stream: Box::pin(stream),
            progress: Arc::default(),
            limit: self.limit,
            timer: None,
        });
    }
}

struct Watched<F> {
    stream: Pin<Box<F>>,
    progress: Arc<Progress>,
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<F: Future<Output = ()>> Future for Watched<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        CURRENT.set(Some(this.progress.clone()));
        let polled = this.stream.as_mut().poll(context);
        CURRENT.set(None);
        if polled.is_ready() {
            return polled;
        }
        let Some(since) = this.progress.waiting_since() else {
            this.timer = None;
            return Poll::Pending;
        };
        let deadline = since + this.limit;
        let timer = this
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        // Ending the task resets the stream.
        timer.as_mut().poll(context)
    }
}
