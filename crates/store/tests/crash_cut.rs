//! What is acknowledged was durable: at each acknowledgement the directory is copied as a power cut
//! would leave it, its write-ahead log cut where it was last synced, and opened again
//! (02-store §18, row 1).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod planted;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use nihilo_store::disk::Batch;
use nihilo_store::type_config::{Entry, LeaderId, LogId, Vote};
use nihilo_store::{EntryBytes, Identity, Store, TypeConfig};
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::{EntryPayload, RaftLogReader};

use planted::Bug;

fn identity() -> Identity {
    Identity {
        cluster_id: "test".into(),
        node_id: 1,
    }
}

fn leader(term: u64) -> LeaderId {
    LeaderId { term, node_id: 1 }
}

fn entry(term: u64, index: u64) -> Entry {
    openraft::Entry {
        log_id: LogId {
            leader_id: leader(term),
            index,
        },
        payload: EntryPayload::Normal(EntryBytes(Bytes::from(vec![index as u8; 300]))),
    }
}

/// What has been acknowledged by now.
#[derive(Debug, Clone, Default, PartialEq)]
struct Acknowledged {
    entries: Vec<LogId>,
    vote: Option<Vote>,
}

/// A store, and how much of its write-ahead log would survive a power cut.
struct Watched {
    dir: tempfile::TempDir,
    store: Store,
    n_syncs: u64,
    durable_bytes: u64,
    acknowledged: Acknowledged,
}

impl Watched {
    async fn open(bug: Bug) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let opened = Store::open_through(dir.path(), &identity(), planted::on(bug)).await;
        let store = opened.unwrap();
        let n_syncs = store.n_wal_syncs();
        let durable_bytes = length(&write_ahead_log(dir.path()));
        Self {
            dir,
            store,
            n_syncs,
            durable_bytes,
            acknowledged: Acknowledged::default(),
        }
    }

    async fn append(&mut self, term: u64, indexes: std::ops::RangeInclusive<u64>) {
        let entries: Vec<_> = indexes.map(|index| entry(term, index)).collect();
        let ids = entries.iter().map(|entry| entry.log_id);
        self.acknowledged.entries.extend(ids);
        let (done, flushed) = TypeConfig::oneshot();
        let callback = IOFlushed::signal(done);
        self.store.log.append(entries, callback).await.unwrap();
        flushed.await.unwrap().unwrap();
    }

    async fn vote(&mut self, term: u64) {
        let vote = Vote {
            leader_id: leader(term),
            committed: false,
        };
        self.store.log.save_vote(&vote).await.unwrap();
        self.acknowledged.vote = Some(vote);
    }

    async fn truncate_after(&mut self, last: u64) {
        let kept = self.acknowledged.entries.iter().find(|id| id.index == last);
        let kept = kept.copied();
        self.store.log.truncate_after(kept).await.unwrap();
        self.acknowledged.entries.retain(|id| id.index <= last);
    }

    /// Only the thread that acknowledges writes the log, and nothing else was asked of it: a sync
    /// that has been counted covers all that is in the file.
    fn look(&mut self) {
        let n_syncs = self.store.n_wal_syncs();
        if n_syncs > self.n_syncs {
            self.n_syncs = n_syncs;
            self.durable_bytes = length(&write_ahead_log(self.dir.path()));
        }
    }

    /// The directory as a power cut would leave it now, with `torn` bytes beyond what was synced.
    fn cut(&self, torn: u64) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(self.dir.path(), copy.path());
        let log = write_ahead_log(copy.path());
        let kept = length(&log).min(self.durable_bytes + torn);
        let file = std::fs::OpenOptions::new().write(true).open(log).unwrap();
        file.set_len(kept).unwrap();
        copy
    }
}

fn write_ahead_log(dir: &Path) -> PathBuf {
    let files = std::fs::read_dir(dir.join("db")).unwrap();
    files
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "log"))
        .max()
        .unwrap()
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().len()
}

fn copy_dir(from: &Path, to: &Path) {
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let target = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy_dir(&file.path(), &target);
        } else {
            std::fs::copy(file.path(), target).unwrap();
        }
    }
}

/// Everything acknowledged is there, and in its place.
async fn holds(dir: &Path, acknowledged: &Acknowledged, step: &str) {
    let opened = Store::open(dir, &identity()).await;
    let mut store = opened.unwrap_or_else(|error| panic!("{step}: {error}"));
    let entries = store.log.try_get_log_entries(0..).await.unwrap();
    let ids: Vec<_> = entries.iter().map(|entry| entry.log_id).collect();
    let n_acknowledged = acknowledged.entries.len();
    assert!(ids.len() >= n_acknowledged, "{step}: {ids:?}");
    assert_eq!(ids[..n_acknowledged], acknowledged.entries, "{step}");
    let vote = store.log.read_vote().await.unwrap();
    assert!(vote >= acknowledged.vote, "{step}: {vote:?}");
}

async fn every_acknowledgement_survives_a_power_cut_right_after_it(bug: Bug) {
    let mut watched = Watched::open(bug).await;
    watched.vote(1).await;
    watched.look();
    holds(watched.cut(0).path(), &watched.acknowledged, "first vote").await;
    let (mut term, mut next) = (1, 1);
    for round in 0..24_u64 {
        let step = match round % 6 {
            3 => {
                term += 1;
                watched.vote(term).await;
                format!("round {round}: vote")
            }
            5 => {
                next -= 2;
                watched.truncate_after(next - 1).await;
                format!("round {round}: truncated after {}", next - 1)
            }
            _ => {
                let last = next + round % 3;
                watched.append(term, next..=last).await;
                next = last + 1;
                format!("round {round}: appended to {last}")
            }
        };
        watched.look();
        holds(watched.cut(0).path(), &watched.acknowledged, &step).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_acknowledged_survives_a_power_cut_right_after() {
    every_acknowledgement_survives_a_power_cut_right_after_it(planted::none).await;
}

fn never_synced(_: &mut Batch, batch: Batch, _: bool) -> planted::Written {
    Ok((batch, false))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[should_panic(expected = "the log ends at entry none, but 1 was acknowledged")]
async fn planted_acknowledgements_before_the_sync_are_found() {
    every_acknowledgement_survives_a_power_cut_right_after_it(never_synced).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_record_after_the_acknowledged_ones_is_no_damage() {
    let mut watched = Watched::open(planted::none).await;
    watched.vote(1).await;
    watched.append(1, 1..=5).await;
    watched.look();
    let (acknowledged, mark) = (
        watched.acknowledged.clone(),
        watched.dir.path().join("high-water"),
    );
    let mark = std::fs::read(mark).unwrap();
    // The next one reaches the disk in part; nobody was told of it.
    watched.append(1, 6..=8).await;
    let beyond = length(&write_ahead_log(watched.dir.path())) - watched.durable_bytes;
    for torn in [1, 7, beyond / 3, beyond / 2, beyond - 1, beyond] {
        let cut = watched.cut(torn);
        std::fs::write(cut.path().join("high-water"), &mark).unwrap();
        holds(
            cut.path(),
            &acknowledged,
            &format!("{torn} of {beyond} bytes more"),
        )
        .await;
    }
}
