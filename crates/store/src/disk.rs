//! What the store reads from and writes to: RocksDB, or what a simulation makes of a disk.

use std::fmt::Debug;
use std::io;
use std::ops::ControlFlow;
use std::sync::Weak;

use futures_util::future::BoxFuture;

pub use crate::high_water::Mark;

/// One step of a [`Batch`]; families are those of [`crate::keys`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Put {
        family: &'static str,
        key: Vec<u8>,
        value: Vec<u8>,
    },
    Delete {
        family: &'static str,
        key: Vec<u8>,
    },
    /// Keys from `from` up to, not including, `to`.
    DeleteRange {
        family: &'static str,
        from: Vec<u8>,
        to: Vec<u8>,
    },
}

/// Changes that take effect together, in order, or not at all.
pub type Batch = Vec<Change>;

/// Is shown a key and its value, and says whether it wants more; an error ends the scan too.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, String> + 'a;

/// What stands on a disk.
pub trait Rows {
    /// # Errors
    /// A damaged file, in words.
    fn get(&self, family: &str, key: &[u8]) -> Result<Option<Vec<u8>>, String>;

    /// Calls `row` with each key from `from` on and its value, in the order of keys, until it has
    /// had enough.
    ///
    /// # Errors
    /// A damaged file, or what `row` said.
    fn scan(&self, family: &str, from: &[u8], row: &mut Visit<'_>) -> Result<(), String>;

    /// What an older build made does not have all families.
    fn has_family(&self, family: &str) -> bool;
}

/// What the log's writer writes to. It is the only one, and writes nothing after an error.
pub trait Disk: Rows + Debug + Send + 'static {
    /// Returns when the batch is written; with `sync`, when it and all batches before it are
    /// durable.
    fn write(&mut self, batch: Batch, sync: bool) -> BoxFuture<'_, Result<(), String>>;

    /// The same rows for readers beside the writer; gone when the disk is.
    fn reader(&self) -> Weak<dyn Rows + Send + Sync>;

    /// What was ever acknowledged, kept apart from the rows.
    fn mark(&self) -> Mark;

    /// Raises the mark to what has just been synced.
    ///
    /// # Errors
    /// It was not written.
    fn raise_mark(&mut self, mark: Mark) -> io::Result<()>;

    /// Lowers the mark durably, before the tail above it is discarded.
    ///
    /// # Errors
    /// It may or may not be on the disk.
    fn lower_mark(&mut self, mark: Mark) -> io::Result<()>;
}
