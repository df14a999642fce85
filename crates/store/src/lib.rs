//! The durable half of consensus: Raft log and replicated state in one RocksDB per node.
//!
//! One thread, `raft-io`, is the only writer. What it acknowledges has been fsynced; what is
//! applied is handed to it in one batch with `last_applied`, never apart. After a failed write
//! the store of this process is poisoned: it never acknowledges, votes or applies again.

pub mod convert;
pub mod disk;
mod high_water;
pub mod io_thread;
pub mod keys;
pub mod log;
pub mod open;
mod rocks;
pub mod snapshot;
pub mod state;
pub mod type_config;

pub use log::LogStore;
pub use open::{Identity, OpenError, Store, check_unused};
pub use state::{Compacted, StateHandle, StateMachine};
pub use type_config::{ApplyReply, EntryBytes, Node, TypeConfig};
