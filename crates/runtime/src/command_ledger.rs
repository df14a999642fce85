//! Every order that the agent took or refused, in the order in which it decided: fault tests judge
//! by it that nobody but the present owner is obeyed.
//!
//! Off unless `NIHILO_COMMAND_LEDGER` is set: lists come many a second.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use nihilo_types::id::{Epoch, ShardId};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

const SWITCH: &str = "NIHILO_COMMAND_LEDGER";

/// `commands.jsonl` in the agent's directory, if it is wanted; kept over restarts.
#[derive(Debug, Default)]
pub(crate) struct CommandLedger(Option<File>);

#[derive(Debug, Serialize)]
struct Line {
    boottime_ns: i128,
    shard: u16,
    epoch: u64,
    seq: u64,
    accepted: bool,
}

impl CommandLedger {
    pub(crate) fn open(dir: &Path) -> std::io::Result<Self> {
        if std::env::var_os(SWITCH).is_none() {
            return Ok(Self(None));
        }
        let path = dir.join("commands.jsonl");
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self(Some(file)))
    }

    pub(crate) fn write(&mut self, shard: ShardId, epoch: Epoch, seq: u64, accepted: bool) {
        let Some(file) = &mut self.0 else { return };
        let now = clock_gettime(ClockId::Boottime);
        let line = Line {
            boottime_ns: i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec),
            shard: shard.0,
            epoch: epoch.0,
            seq,
            accepted,
        };
        let Ok(mut text) = serde_json::to_vec(&line) else {
            return;
        };
        text.push(b'\n');
        // One call, so that a kill leaves a whole line or none.
        drop(file.write_all(&text));
    }
}
