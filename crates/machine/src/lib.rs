//! The replicated state machine: `Command` in, `State` changed, `Reply` and row changes out.
//!
//! [`State::apply`] is the only door to replicated state. It is deterministic: no clock, no
//! randomness, no environment, no hash-map order, no floats. Time comes with the entry, ids are
//! drawn by the proposer, a business refusal is a reply.
#![forbid(unsafe_code)]

mod anew;
pub mod apply;
pub mod bundles;
pub mod command;
pub mod digest;
mod domains;
pub mod member;
pub mod objects;
pub mod ownership;
mod packed;
mod replies;
pub mod reply;
pub mod rollout;
pub mod route_table;
pub mod rows;
pub mod settings;
mod siblings;
pub mod state;

pub use command::{Command, Envelope, Fence};
pub use reply::{Outcome, Rejection, Reply};
pub use state::{Applied, ObjectEvent, RowChange, State};
