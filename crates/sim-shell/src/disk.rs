//! A disk that loses what was not synced.
//!
//! ```text
//! write ─► pending ──sync──► durable
//!             │                 │
//!   kill -9   stays             stays      the page cache outlives the process
//!   power cut a beginning stays stays      in the order of writes, as a write-ahead log has it
//! ```

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use nihilo_sim::world::Random;
use nihilo_store::disk::{Batch, Change, Disk, Mark, Rows, Visit};
use nihilo_store::keys;
use parking_lot::Mutex;

use crate::plant::Plant;

/// How a node ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Its process is killed.
    Kill,
    /// Its host is gone, with all that was not synced.
    PowerCut,
}

type Families = BTreeMap<&'static str, BTreeMap<Vec<u8>, Vec<u8>>>;

/// What is on one node's disk; outlives the node's process.
#[derive(Debug)]
pub(crate) struct Platter(Mutex<State>);

#[derive(Debug)]
struct State {
    durable: Families,
    /// Written, but not known to be durable.
    pending: Vec<Batch>,
    mark: Mark,
    /// The oldest mark that a power cut may bring back.
    durable_mark: Mark,
    sync_takes: (Duration, Duration),
    fails_next_sync: bool,
    n_lost: u64,
    random: Random,
    plant: Option<Plant>,
}

impl Platter {
    pub(crate) fn new(random: Random, plant: Option<Plant>) -> Self {
        Self(Mutex::new(State {
            durable: Families::new(),
            pending: Vec::new(),
            mark: Mark::default(),
            durable_mark: Mark::default(),
            sync_takes: (Duration::ZERO, Duration::ZERO),
            fails_next_sync: false,
            n_lost: 0,
            random,
            plant,
        }))
    }

    /// A sync takes a time of this range from now on.
    pub(crate) fn set_sync_takes(&self, least: Duration, most: Duration) {
        self.0.lock().sync_takes = (least, most);
    }

    pub(crate) fn fail_next_sync(&self, fails: bool) {
        self.0.lock().fails_next_sync = fails;
    }

    /// The node has ended: decides what is left of what was not synced.
    pub(crate) fn end(&self, end: End) {
        let mut state = self.0.lock();
        state.fails_next_sync = false;
        if end == End::PowerCut {
            let n_pending = state.pending.len();
            let n_kept = state.random.index(n_pending + 1);
            let torn = (state.plant == Some(Plant::TornBatch) && n_kept < n_pending)
                .then(|| state.pending[n_kept].clone());
            state.pending.truncate(n_kept);
            state.n_lost += u64::try_from(n_pending - n_kept).unwrap_or(0);
            if let Some(mut batch) = torn {
                batch.truncate(batch.len() / 2);
                state.pending.push(batch);
            }
            if state.random.chance(500) {
                state.mark = state.durable_mark;
            }
        }
        // What the next process reads is what it finds, synced or not: it cannot tell.
        state.flush();
    }

    /// Batches that power cuts have taken.
    pub(crate) fn n_lost(&self) -> u64 {
        self.0.lock().n_lost
    }
}

impl State {
    fn flush(&mut self) {
        for batch in std::mem::take(&mut self.pending) {
            for change in batch {
                apply(&mut self.durable, change);
            }
        }
    }

    /// Time that this sync takes.
    fn sync_time(&mut self) -> Duration {
        let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let (least, most) = self.sync_takes;
        Duration::from_micros(self.random.between(us(least), us(most)))
    }

    /// Whether the planted bug leaves this batch unsynced.
    fn skips_sync(&self, batch: &Batch) -> bool {
        let is_vote = |change: &Change| {
            matches!(change, Change::Put { family, key, .. }
                if *family == keys::META && key == keys::VOTE)
        };
        match self.plant {
            Some(Plant::AckBeforeSync) => true,
            Some(Plant::VoteNotSynced) => batch.iter().all(is_vote),
            _ => false,
        }
    }
}

fn apply(families: &mut Families, change: Change) {
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

/// The disk in the hands of one process.
#[derive(Debug)]
pub(crate) struct SimDisk(pub(crate) Arc<Platter>);

impl Rows for Platter {
    fn get(&self, family: &str, key: &[u8]) -> Result<Option<Vec<u8>>, String> {
        let state = self.0.lock();
        let rows = state.durable.get(family);
        Ok(rows.and_then(|rows| rows.get(key)).cloned())
    }

    fn scan(&self, family: &str, from: &[u8], row: &mut Visit<'_>) -> Result<(), String> {
        let state = self.0.lock();
        let Some(rows) = state.durable.get(family) else {
            return Ok(());
        };
        for (key, value) in rows.range(from.to_vec()..) {
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

impl Rows for SimDisk {
    fn get(&self, family: &str, key: &[u8]) -> Result<Option<Vec<u8>>, String> {
        self.0.get(family, key)
    }

    fn scan(&self, family: &str, from: &[u8], row: &mut Visit<'_>) -> Result<(), String> {
        self.0.scan(family, from, row)
    }

    fn has_family(&self, family: &str) -> bool {
        self.0.has_family(family)
    }
}

impl SimDisk {
    async fn write_in_time(&self, batch: Batch, sync: bool) -> Result<(), String> {
        let takes = {
            let mut state = self.0.0.lock();
            let skips = state.skips_sync(&batch);
            state.pending.push(batch);
            if !sync || skips {
                return Ok(());
            }
            state.sync_time()
        };
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        let mut state = self.0.0.lock();
        if state.fails_next_sync {
            state.fails_next_sync = false;
            // The pages are dropped, and clean: what is asked for next would succeed.
            state.pending.pop();
            if state.plant == Some(Plant::SyncErrorIgnored) {
                return Ok(());
            }
            return Err("simulated: the sync failed".into());
        }
        state.flush();
        Ok(())
    }
}

impl Disk for SimDisk {
    fn write(&mut self, batch: Batch, sync: bool) -> BoxFuture<'_, Result<(), String>> {
        self.write_in_time(batch, sync).boxed()
    }

    fn reader(&self) -> Weak<dyn Rows + Send + Sync> {
        let rows: Arc<dyn Rows + Send + Sync> = self.0.clone();
        Arc::downgrade(&rows)
    }

    fn mark(&self) -> Mark {
        self.0.0.lock().mark
    }

    fn raise_mark(&mut self, mark: Mark) -> io::Result<()> {
        self.0.0.lock().mark = mark;
        Ok(())
    }

    fn lower_mark(&mut self, mark: Mark) -> io::Result<()> {
        let mut state = self.0.0.lock();
        (state.mark, state.durable_mark) = (mark, mark);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;

    fn put(key: u8) -> Batch {
        vec![Change::Put {
            family: keys::LOG,
            key: vec![key],
            value: vec![key],
        }]
    }

    fn platter(plant: Option<Plant>) -> Arc<Platter> {
        Arc::new(Platter::new(Random::new(1), plant))
    }

    fn keys_of(platter: &Arc<Platter>) -> Vec<u8> {
        let mut found = Vec::new();
        let disk = SimDisk(platter.clone());
        disk.scan(keys::LOG, &[], &mut |key, _| {
            found.push(key[0]);
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
        found
    }

    #[tokio::test]
    async fn a_power_cut_takes_only_what_was_not_synced_and_in_order() {
        let mut seen = std::collections::BTreeSet::new();
        let platter = platter(None);
        for _ in 0..40 {
            let mut disk = SimDisk(platter.clone());
            disk.write(put(1), true).await.unwrap();
            disk.write(put(2), false).await.unwrap();
            disk.write(put(3), false).await.unwrap();
            platter.end(End::PowerCut);
            let found = keys_of(&platter);
            assert!(
                [vec![1], vec![1, 2], vec![1, 2, 3]].contains(&found),
                "{found:?}"
            );
            seen.insert(found);
            let all = Change::DeleteRange {
                family: keys::LOG,
                from: vec![0],
                to: vec![9],
            };
            disk.write(vec![all], true).await.unwrap();
        }
        assert_eq!(seen.len(), 3, "every outcome occurs");
    }

    #[tokio::test]
    async fn a_kill_takes_nothing_and_a_failed_sync_takes_its_batch() {
        let platter = platter(None);
        let mut disk = SimDisk(platter.clone());
        disk.write(put(1), false).await.unwrap();
        platter.end(End::Kill);
        assert_eq!(keys_of(&platter), [1]);
        platter.fail_next_sync(true);
        assert!(disk.write(put(2), true).await.is_err());
        platter.end(End::Kill);
        assert_eq!(keys_of(&platter), [1]);
    }
}
