//! What each actor decides: (actor, view, event, now) → outputs. Pure: no clock, no IO, no async,
//! no mailbox; `control` binds this to the actor runtime and executes the effects.
#![forbid(unsafe_code)]

pub mod autoscaler;
pub mod decision;
mod domain;
pub mod effect;
pub mod event;
mod failures;
mod gateways;
mod gc;
pub mod keeper;
pub mod key;
pub mod liveness;
pub mod placement;
mod plan;
pub mod reconcile;
pub mod revision;
pub mod route;
pub mod rows;
pub mod service;
pub mod simulate;
pub mod table;

pub use effect::{Effect, Outputs, TimerOp};
pub use event::Event;
pub use key::EntityKey;
pub use table::{Settings, ShardTable, View};
