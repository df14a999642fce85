//! The runtime that openraft has for itself, so that no other work makes its ticks late.

use std::ops::Deref;
use std::time::Duration;

use nihilo_host::Threads;
use tokio::runtime::{Builder, Handle, Runtime};

const RAFT_WORKERS: usize = 2;
/// Tasks of the Raft runtime get this long to let go of the store.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(2);

/// Where openraft runs. May be dropped anywhere, inside another runtime too.
#[derive(Debug)]
pub(crate) struct RaftRuntime {
    own: Option<Runtime>,
    handle: Handle,
}

impl RaftRuntime {
    /// Must be called inside a runtime, which is the one used if no other is wanted.
    pub(crate) fn start(threads: Threads) -> std::io::Result<Self> {
        let own = match threads {
            Threads::Callers => None,
            Threads::Own => Some(
                Builder::new_multi_thread()
                    .worker_threads(RAFT_WORKERS)
                    .thread_name("raft")
                    .enable_all()
                    .build()?,
            ),
        };
        let handle = own
            .as_ref()
            .map_or_else(Handle::current, |runtime| runtime.handle().clone());
        Ok(Self { own, handle })
    }
}

impl Deref for RaftRuntime {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for RaftRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.own.take() {
            // tokio refuses to drop a runtime inside another one, so a thread does it; waited for,
            // so that the store is closed before the process can end.
            let end = std::thread::spawn(move || runtime.shutdown_timeout(SHUTDOWN_LIMIT));
            if end.join().is_err() {
                tracing::error!("raft runtime panicked while it was shut down");
            }
        }
    }
}
