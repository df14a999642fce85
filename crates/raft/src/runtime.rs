//! The runtime that openraft has for itself, so that no other work makes its ticks late.

use std::ops::Deref;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

const RAFT_WORKERS: usize = 2;
/// Tasks of the Raft runtime get this long to let go of the store.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(2);

/// A tokio runtime that may be dropped anywhere, inside another runtime too.
#[derive(Debug)]
pub(crate) struct RaftRuntime(Option<Runtime>);

impl RaftRuntime {
    pub(crate) fn start() -> std::io::Result<Self> {
        Builder::new_multi_thread()
            .worker_threads(RAFT_WORKERS)
            .thread_name("raft")
            .enable_all()
            .build()
            .map(|runtime| Self(Some(runtime)))
    }
}

impl Deref for RaftRuntime {
    type Target = Runtime;

    fn deref(&self) -> &Runtime {
        let Some(runtime) = &self.0 else {
            unreachable!("it is taken out only in drop")
        };
        runtime
    }
}

impl Drop for RaftRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // tokio refuses to drop a runtime inside another one, so a thread does it; waited for,
            // so that the store is closed before the process can end.
            let end = std::thread::spawn(move || runtime.shutdown_timeout(SHUTDOWN_LIMIT));
            if end.join().is_err() {
                tracing::error!("raft runtime panicked while it was shut down");
            }
        }
    }
}
