//! The one way to spawn a task: a panic in it is seen and named.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tracing::error;

/// Spawns on the present runtime.
///
/// # Panics
/// Outside a tokio runtime.
pub fn spawn(
    name: &'static str,
    task: impl Future<Output = ()> + Send + 'static,
) -> JoinHandle<()> {
    spawn_on(&Handle::current(), name, task)
}

/// Spawns on `runtime`; a panic is logged under `name` and ends only that task.
pub fn spawn_on(
    runtime: &Handle,
    name: &'static str,
    task: impl Future<Output = ()> + Send + 'static,
) -> JoinHandle<()> {
    runtime.spawn(async move {
        if (CatchUnwind {
            task: Box::pin(task),
        })
        .await
        .is_err()
        {
            error!(task = name, "task panicked");
        }
    })
}

struct CatchUnwind<F> {
    task: Pin<Box<F>>,
}

impl<F: Future<Output = ()>> Future for CatchUnwind<F> {
    type Output = Result<(), ()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let poll = AssertUnwindSafe(|| self.task.as_mut().poll(context));
        match std::panic::catch_unwind(poll) {
            Ok(poll) => poll.map(Ok),
            Err(_) => Poll::Ready(Err(())),
        }
    }
}
