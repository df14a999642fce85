//! The durable half of consensus: Raft log and replicated state in one RocksDB per node.
//!
//! One thread, `raft-io`, is the only writer. What it acknowledges has been fsynced; what is
//! applied is handed to it in one batch with `last_applied`, never apart. After a failed write
//! the store of this process is poisoned: it never acknowledges, votes or applies again.

pub mod anew;
pub mod backup;
pub mod changes;
pub mod convert;
pub mod disk;
pub mod dump;
mod high_water;
pub mod io_thread;
pub mod keys;
mod load;
pub mod log;
pub mod open;
mod rocks;
pub mod snapshot;
pub mod state;
pub mod type_config;

pub use changes::{Changes, Compacted};
pub use io_thread::Poisoner;
pub use log::LogStore;
pub use open::{Identity, OpenError, Store, check_unused, create, is_blank};
pub use state::{StateDigest, StateHandle, StateMachine};
pub use type_config::{ApplyReply, EntryBytes, Node, TypeConfig};
