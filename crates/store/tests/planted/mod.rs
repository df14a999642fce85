//! A disk with a bug in it: what a test asserts of a store must fail on one that has it.

use std::io;
use std::sync::Weak;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use nihilo_store::disk::{Batch, Disk, Mark, Rows, Visit};

/// What reaches the files instead, and whether it is synced; or what the disk says.
pub(crate) type Written = Result<(Batch, bool), String>;

/// Makes of a batch what is [`Written`]. The first argument is the bug's own, to hold changes back.
pub(crate) type Bug = fn(&mut Batch, Batch, bool) -> Written;

pub(crate) fn none(_: &mut Batch, batch: Batch, sync: bool) -> Written {
    Ok((batch, sync))
}

/// For [`nihilo_store::Store::open_through`].
pub(crate) fn on(bug: Bug) -> impl FnOnce(Box<dyn Disk>) -> Box<dyn Disk> {
    move |disk| {
        Box::new(Planted {
            disk,
            bug,
            held: Batch::new(),
        })
    }
}

#[derive(Debug)]
struct Planted {
    disk: Box<dyn Disk>,
    bug: Bug,
    held: Batch,
}

impl Rows for Planted {
    fn get(&self, family: &str, key: &[u8]) -> Result<Option<Vec<u8>>, String> {
        self.disk.get(family, key)
    }

    fn scan(&self, family: &str, from: &[u8], row: &mut Visit<'_>) -> Result<(), String> {
        self.disk.scan(family, from, row)
    }

    fn has_family(&self, family: &str) -> bool {
        self.disk.has_family(family)
    }
}

impl Disk for Planted {
    fn write(&mut self, batch: Batch, sync: bool) -> BoxFuture<'_, Result<(), String>> {
        match (self.bug)(&mut self.held, batch, sync) {
            Ok((batch, sync)) => self.disk.write(batch, sync),
            Err(cause) => async move { Err(cause) }.boxed(),
        }
    }

    fn reader(&self) -> Weak<dyn Rows + Send + Sync> {
        self.disk.reader()
    }

    fn mark(&self) -> Mark {
        self.disk.mark()
    }

    fn raise_mark(&mut self, mark: Mark) -> io::Result<()> {
        self.disk.raise_mark(mark)
    }

    fn lower_mark(&mut self, mark: Mark) -> io::Result<()> {
        self.disk.lower_mark(mark)
    }
}
