//! Writes desired scales to the log after acting: coalesced, newest value only, never waited for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nihilo_failpoint::{Point, hit};
use nihilo_machine::Command;
use nihilo_machine::command::{RecordScale, RequestKey, ScaleUpdate};
use nihilo_types::id::ObjectKey;
use tokio::sync::mpsc;
use tracing::debug;

use crate::node::Shared;

/// One entry per node in this time (03-actors §6).
pub const PERIOD: Duration = Duration::from_millis(100);
/// Revisions in one entry, at most.
pub const MAX_PER_ENTRY: usize = 256;
/// Updates that may wait for the task; beyond, the sender's is dropped and comes again.
pub const QUEUE: usize = 4096;
const LIMIT: Duration = Duration::from_secs(2);

/// Runs until the sender is gone. Without a leader the newest record per revision waits.
pub(crate) async fn run(shared: Arc<Shared>, mut updates: mpsc::Receiver<ScaleUpdate>) {
    let mut pending: BTreeMap<ObjectKey, ScaleUpdate> = BTreeMap::new();
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // Updates first: an entry carries the newest value there is.
        tokio::select! {
            biased;
            update = updates.recv() => match update {
                Some(update) => drop(pending.insert(update.revision.clone(), update)),
                None => return,
            },
            _ = tick.tick(), if !pending.is_empty() => write(&shared, &mut pending).await,
        }
    }
}

async fn write(shared: &Shared, pending: &mut BTreeMap<ObjectKey, ScaleUpdate>) {
    hit(Point::ScaleRecorded);
    let scales: Vec<_> = pending.values().take(MAX_PER_ENTRY).cloned().collect();
    let command = Command::RecordScale(RecordScale {
        scales: scales.clone(),
    });
    match shared
        .ports
        .proposer
        .propose(command, RequestKey::default(), LIMIT)
        .await
    {
        Ok(_) => {
            for written in scales {
                pending.remove(&written.revision);
            }
        }
        Err(error) => debug!(%error, n_pending = pending.len(), "scale records wait"),
    }
}
