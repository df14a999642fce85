//! Under which epochs this node has given orders as an owner: fault tests join it with what the
//! agents decided.
//!
//! Off unless `NIHILO_COMMAND_LEDGER` is set.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use nihilo_types::id::{Epoch, ShardId};
use parking_lot::Mutex;

const SWITCH: &str = "NIHILO_COMMAND_LEDGER";

/// `owned.jsonl` in the node's directory, if it is wanted; each shard and epoch once a process.
#[derive(Debug, Default)]
pub struct OwnerLedger(Option<Mutex<Ledger>>);

#[derive(Debug)]
struct Ledger {
    file: File,
    known: BTreeSet<(ShardId, Epoch)>,
}

impl OwnerLedger {
    /// # Errors
    /// The directory cannot be written.
    pub fn open(dir: &Path) -> std::io::Result<Self> {
        if std::env::var_os(SWITCH).is_none() {
            return Ok(Self(None));
        }
        let path = dir.join("owned.jsonl");
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let known = BTreeSet::new();
        Ok(Self(Some(Mutex::new(Ledger { file, known }))))
    }

    /// An order is about to be sent.
    pub fn note(&self, shard: ShardId, epoch: Epoch) {
        let Some(ledger) = &self.0 else { return };
        let mut ledger = ledger.lock();
        if ledger.known.insert((shard, epoch)) {
            let line = format!("{{\"shard\":{},\"epoch\":{}}}\n", shard.0, epoch.0);
            drop(ledger.file.write_all(line.as_bytes()));
        }
    }
}
