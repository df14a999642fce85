//! The checkers: pure functions from what was recorded to a verdict.
//!
//! Each module is one checker of the reliability contract, with its input beside it; all of them
//! are proven by planted bugs in their tests (`docs/reliability.md` lists them). None runs
//! anything, reads a clock or a file.

pub mod convergence;
pub mod coverage;
pub mod drain;
pub mod instance_bound;
pub mod linearizable;
pub mod liveness;
pub mod log_replay;
pub mod monotonic;
pub mod no_lost_ack;
pub mod orphans;
pub mod register;
pub mod replica_equality;
pub mod request_ledger;
pub mod single_owner;
pub mod split;
pub mod stale_read;
#[cfg(test)]
pub(crate) mod testkit;
pub mod verdict;
pub mod watch;
pub mod write_chain;

pub use verdict::{Check, Class, Evidence, Passed, Report, Verdict, Violation};
