//! The checkers: pure functions from what was recorded to a verdict.
//!
//! Each module is one checker of the reliability contract, with its input beside it; all of them
//! are proven by planted bugs in their tests (`docs/reliability.md` lists them). None runs
//! anything, reads a clock or a file.

pub mod instance_bound;
pub mod linearizable;
pub mod register;
pub mod request_ledger;
#[cfg(test)]
pub(crate) mod testkit;
pub mod verdict;

pub use verdict::{Check, Class, Evidence, Passed, Report, Verdict, Violation};
