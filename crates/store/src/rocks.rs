//! The real disk: one RocksDB, and the mark's file beside it.

use std::fmt;
use std::io;
use std::sync::{Arc, Weak};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rocksdb::{ColumnFamily, DB, ReadOptions, WriteBatch, WriteOptions};

use crate::disk::{Batch, Change, Disk, Mark, Rows, Visit};
use crate::high_water::HighWater;

pub(crate) struct RocksDisk {
    pub(crate) db: Arc<DB>,
    pub(crate) high_water: HighWater,
}

impl fmt::Debug for RocksDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RocksDisk")
            .field("path", &self.db.path())
            .finish_non_exhaustive()
    }
}

fn family<'a>(db: &'a DB, name: &str) -> Result<&'a ColumnFamily, String> {
    db.cf_handle(name)
        .ok_or_else(|| format!("no column family `{name}`"))
}

impl Rows for DB {
    fn get(&self, name: &str, key: &[u8]) -> Result<Option<Vec<u8>>, String> {
        self.get_cf(family(self, name)?, key)
            .map_err(|error| error.to_string())
    }

    fn scan(&self, name: &str, from: &[u8], row: &mut Visit<'_>) -> Result<(), String> {
        let mut options = ReadOptions::default();
        // What is read once need not stay in memory.
        options.fill_cache(false);
        let mut found = self.raw_iterator_cf_opt(family(self, name)?, options);
        found.seek(from);
        while let Some((key, value)) = found.item() {
            if row(key, value)?.is_break() {
                return Ok(());
            }
            found.next();
        }
        found.status().map_err(|error| error.to_string())
    }

    fn has_family(&self, name: &str) -> bool {
        self.cf_handle(name).is_some()
    }
}

impl Rows for RocksDisk {
    fn get(&self, name: &str, key: &[u8]) -> Result<Option<Vec<u8>>, String> {
        Rows::get(self.db.as_ref(), name, key)
    }

    fn scan(&self, name: &str, from: &[u8], row: &mut Visit<'_>) -> Result<(), String> {
        self.db.scan(name, from, row)
    }

    fn has_family(&self, name: &str) -> bool {
        self.db.has_family(name)
    }
}

impl RocksDisk {
    fn write_now(&self, batch: Batch, sync: bool) -> Result<(), String> {
        let mut rows = WriteBatch::default();
        for change in batch {
            match change {
                Change::Put {
                    family: name,
                    key,
                    value,
                } => rows.put_cf(family(&self.db, name)?, key, value),
                Change::Delete { family: name, key } => {
                    rows.delete_cf(family(&self.db, name)?, key);
                }
                Change::DeleteRange {
                    family: name,
                    from,
                    to,
                } => rows.delete_range_cf(family(&self.db, name)?, from, to),
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        self.db
            .write_opt(rows, &options)
            .map_err(|error| error.to_string())
    }
}

impl Disk for RocksDisk {
    /// Blocks: it runs on the writer's own thread.
    fn write(&mut self, batch: Batch, sync: bool) -> BoxFuture<'_, Result<(), String>> {
        async move { self.write_now(batch, sync) }.boxed()
    }

    fn reader(&self) -> Weak<dyn Rows + Send + Sync> {
        let rows: Arc<dyn Rows + Send + Sync> = self.db.clone();
        Arc::downgrade(&rows)
    }

    fn mark(&self) -> Mark {
        self.high_water.mark()
    }

    fn raise_mark(&mut self, mark: Mark) -> io::Result<()> {
        self.high_water.write(mark)
    }

    fn lower_mark(&mut self, mark: Mark) -> io::Result<()> {
        self.high_water.lower(mark)
    }
}
