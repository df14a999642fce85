//! Where a node's parts run.

use std::io;

/// Whether parts that must not wait for one another have threads of their own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Threads {
    /// Consensus, the log's writer and the data plane each have their own: no load of one makes
    /// another late.
    #[default]
    Own,
    /// Everything runs on the runtime of the caller, whose time may be simulated.
    Callers,
}

impl Threads {
    /// Runs work that waits for a file or takes long aside of the runtime's tasks; where time may be
    /// simulated it takes none, and runs in the task that asks.
    ///
    /// # Errors
    /// The work panicked.
    pub async fn aside<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        match self {
            Self::Own => tokio::task::spawn_blocking(work)
                .await
                .map_err(io::Error::other),
            Self::Callers => Ok(work()),
        }
    }
}
