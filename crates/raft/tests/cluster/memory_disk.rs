//! A disk in memory, each write of which takes as long as the test says.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use nihilo_store::disk::{Batch, Change, Disk, Mark, Rows, Visit};
use nihilo_store::keys;
use parking_lot::Mutex;

type Families = BTreeMap<&'static str, BTreeMap<Vec<u8>, Vec<u8>>>;

/// How long each write blocks its thread, of all disks that share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stall(Arc<AtomicU64>);

impl Stall {
    pub(crate) fn set(&self, stall: Duration) {
        let ms = u64::try_from(stall.as_millis()).unwrap();
        self.0.store(ms, Ordering::Relaxed);
    }

    fn block(&self) {
        let until = Instant::now() + Duration::from_millis(self.0.load(Ordering::Relaxed));
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            std::thread::park_timeout(left);
        }
    }
}

#[derive(Debug, Default)]
struct Memory(Mutex<Families>);

#[derive(Debug)]
pub(crate) struct MemoryDisk {
    memory: Arc<Memory>,
    mark: Mark,
    stall: Stall,
}

impl MemoryDisk {
    pub(crate) fn new(stall: &Stall) -> Self {
        Self {
            memory: Arc::default(),
            mark: Mark::default(),
            stall: stall.clone(),
        }
    }
}

impl Rows for Memory {
    fn get(&self, family: &str, key: &[u8]) -> Result<Option<Vec<u8>>, String> {
        let families = self.0.lock();
        let rows = families.get(family);
        Ok(rows.and_then(|rows| rows.get(key)).cloned())
    }

    fn scan(&self, family: &str, from: &[u8], row: &mut Visit<'_>) -> Result<(), String> {
        let families = self.0.lock();
        let rows = families.get(family).into_iter();
        for (key, value) in rows.flat_map(|rows| rows.range(from.to_vec()..)) {
            if row(key, value)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn has_family(&self, family: &str) -> bool {
        keys::FAMILIES.contains(&family)
    }
}

impl Rows for MemoryDisk {
    fn get(&self, family: &str, key: &[u8]) -> Result<Option<Vec<u8>>, String> {
        self.memory.get(family, key)
    }

    fn scan(&self, family: &str, from: &[u8], row: &mut Visit<'_>) -> Result<(), String> {
        self.memory.scan(family, from, row)
    }

    fn has_family(&self, family: &str) -> bool {
        self.memory.has_family(family)
    }
}

impl Disk for MemoryDisk {
    fn write(&mut self, batch: Batch, _sync: bool) -> BoxFuture<'_, Result<(), String>> {
        async move {
            self.stall.block();
            let mut families = self.memory.0.lock();
            for change in batch {
                take(&mut families, change);
            }
            Ok(())
        }
        .boxed()
    }

    fn reader(&self) -> Weak<dyn Rows + Send + Sync> {
        let rows: Arc<dyn Rows + Send + Sync> = self.memory.clone();
        Arc::downgrade(&rows)
    }

    fn mark(&self) -> Mark {
        self.mark
    }

    fn raise_mark(&mut self, mark: Mark) -> io::Result<()> {
        self.mark = mark;
        Ok(())
    }

    fn lower_mark(&mut self, mark: Mark) -> io::Result<()> {
        self.mark = mark;
        Ok(())
    }
}

fn take(families: &mut Families, change: Change) {
    match change {
        Change::Put { family, key, value } => {
            families.entry(family).or_default().insert(key, value);
        }
        Change::Delete { family, key } => {
            families.entry(family).or_default().remove(&key);
        }
        Change::DeleteRange { family, from, to } => {
            let rows = families.entry(family).or_default();
            rows.retain(|key, _| *key < from || *key >= to);
        }
    }
}
