//! A failed sync ends the store of its process: whatever the disk says next, nothing is acknowledged
//! any more (02-store §18, row 10). Asked again, a kernel says that all is well: it has dropped the
//! pages.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod planted;

use std::io;
use std::path::Path;

use bytes::Bytes;
use nihilo_store::disk::{Batch, Change};
use nihilo_store::keys;
use nihilo_store::type_config::{Entry, LeaderId, LogId, Vote};
use nihilo_store::{EntryBytes, Identity, Store, TypeConfig};
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::{EntryPayload, RaftLogReader};

use planted::Bug;

/// The sync of this entry fails, once.
const FAILS_AT: u64 = 3;

fn identity() -> Identity {
    Identity {
        cluster_id: "test".into(),
        node_id: 1,
    }
}

fn leader(term: u64) -> LeaderId {
    LeaderId { term, node_id: 1 }
}

async fn open(dir: &Path, disk: Bug) -> Store {
    let opened = Store::open_through(dir, &identity(), planted::on(disk)).await;
    opened.unwrap()
}

async fn append(store: &mut Store, index: u64) -> io::Result<()> {
    let entry: Entry = openraft::Entry {
        log_id: LogId {
            leader_id: leader(1),
            index,
        },
        payload: EntryPayload::Normal(EntryBytes(Bytes::from_static(b"entry"))),
    };
    let (done, flushed) = TypeConfig::oneshot();
    let appended = store.log.append([entry], IOFlushed::signal(done)).await;
    appended.unwrap();
    flushed.await.unwrap()
}

/// Whether this is the batch that fails: the first with [`FAILS_AT`] in it.
fn is_the_one(held: &mut Batch, batch: &Batch) -> bool {
    let is_entry = |change: &Change| matches!(change, Change::Put { family, key, .. } if *family == keys::LOG && *key == FAILS_AT.to_be_bytes());
    let is_it = held.is_empty() && batch.iter().any(is_entry);
    if is_it {
        held.clone_from(batch);
    }
    is_it
}

fn a_sync_fails(held: &mut Batch, batch: Batch, sync: bool) -> planted::Written {
    match is_the_one(held, &batch) {
        true => Err("input/output error".into()),
        false => Ok((batch, sync)),
    }
}

/// The pages are gone as above, and the error is not looked at.
fn a_failed_sync_is_ignored(held: &mut Batch, batch: Batch, sync: bool) -> planted::Written {
    match is_the_one(held, &batch) {
        true => Ok((Batch::new(), sync)),
        false => Ok((batch, sync)),
    }
}

async fn nothing_is_acknowledged_after_a_failed_sync(disk: Bug) {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path(), disk).await;
    for index in 1..FAILS_AT {
        append(&mut store, index).await.unwrap();
    }
    for index in FAILS_AT..FAILS_AT + 3 {
        let answer = append(&mut store, index).await;
        assert!(answer.is_err(), "entry {index} was acknowledged");
    }
    let vote = Vote {
        leader_id: leader(9),
        committed: false,
    };
    assert!(store.log.save_vote(&vote).await.is_err(), "a vote was");
    let failure = store.failure().borrow().clone();
    assert_eq!(failure.as_deref(), Some("input/output error"));
    drop(store);

    let mut store = open(dir.path(), planted::none).await;
    let entries = store.log.try_get_log_entries(0..).await.unwrap();
    let indexes: Vec<_> = entries.iter().map(|entry| entry.log_id.index).collect();
    assert_eq!(indexes, [1, 2], "what was acknowledged, and nothing else");
    assert_eq!(store.log.read_vote().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failed_sync_nothing_is_acknowledged() {
    nothing_is_acknowledged_after_a_failed_sync(a_sync_fails).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[should_panic(expected = "entry 3 was acknowledged")]
async fn planted_a_failed_sync_that_is_ignored_is_found() {
    nothing_is_acknowledged_after_a_failed_sync(a_failed_sync_is_ignored).await;
}
