//! Where a node's parts run.

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
