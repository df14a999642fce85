//! openraft's own storage suite on the RocksDB store, and what it does not ask.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod planted;

use std::path::Path;

use nihilo_machine::command::{CLUSTER_VERSION, Command, Envelope, InitCluster, RequestKey};
use nihilo_store::disk::{Batch, Change};
use nihilo_store::keys;
use nihilo_store::type_config::{LeaderId, LogId, Vote};
use nihilo_store::{EntryBytes, Identity, LogStore, OpenError, StateMachine, Store, TypeConfig};
use nihilo_wire::codec;
use openraft::storage::{IOFlushed, RaftLogStorage, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use openraft::{EntryPayload, RaftLogReader, RaftSnapshotBuilder, StorageError};
use tempfile::TempDir;

use planted::Bug;

fn identity() -> Identity {
    Identity {
        cluster_id: "test".into(),
        node_id: 1,
    }
}

async fn open(dir: &Path) -> Store {
    Store::open(dir, &identity()).await.unwrap()
}

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).await;
        Ok((dir, store.log, store.machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_storage_suite_passes() {
    Suite::test_store(&Builder).await.unwrap();
}

fn leader(term: u64) -> LeaderId {
    LeaderId { term, node_id: 1 }
}

fn id(term: u64, index: u64) -> LogId {
    LogId {
        leader_id: leader(term),
        index,
    }
}

fn entry(term: u64, index: u64) -> nihilo_store::type_config::Entry {
    let envelope = Envelope {
        cluster_version: CLUSTER_VERSION,
        log_ms: index,
        wall_ms: index,
        request: RequestKey::default(),
        command: Command::InitCluster(InitCluster {
            cluster_id: format!("c{index}"),
            name: "n".into(),
            domain: "localhost".into(),
            external_port: 80,
            autoscaler: std::collections::BTreeMap::new(),
        }),
    };
    let payload = EntryPayload::Normal(EntryBytes(codec::encode_entry(&envelope)));
    openraft::Entry {
        log_id: id(term, index),
        payload,
    }
}

async fn append(store: &mut Store, entries: Vec<nihilo_store::type_config::Entry>) {
    let (done, flushed) = TypeConfig::oneshot();
    store
        .log
        .append(entries, IOFlushed::signal(done))
        .await
        .unwrap();
    flushed.await.unwrap().unwrap();
}

/// Closes the store and opens it again once the writer thread has let go of the database.
async fn reopen(store: Store, dir: &Path) -> Store {
    drop(store);
    for _ in 0..1_000 {
        match Store::open(dir, &identity()).await {
            Ok(store) => return store,
            Err(OpenError::Database { .. }) => tokio::task::yield_now().await,
            Err(other) => panic!("{other:?}"),
        }
    }
    panic!("the database was never released");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_vote_and_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path()).await;
    let vote = Vote {
        leader_id: leader(3),
        committed: true,
    };
    store.log.save_vote(&vote).await.unwrap();
    append(&mut store, vec![entry(3, 1), entry(3, 2), entry(3, 3)]).await;
    store.log.truncate_after(Some(id(3, 2))).await.unwrap();
    let mut store = reopen(store, dir.path()).await;
    assert_eq!(store.log.read_vote().await.unwrap(), Some(vote));
    let entries = store.log.try_get_log_entries(0..).await.unwrap();
    assert_eq!(entries, vec![entry(3, 1), entry(3, 2)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_carries_the_state_and_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut source = open(dir.path()).await;
    append(&mut source, vec![entry(1, 1)]).await;
    let stream = futures_util::stream::iter([Ok((entry(1, 1), None))]);
    source.machine.apply(stream).await.unwrap();
    assert!(
        source
            .machine
            .get_current_snapshot()
            .await
            .unwrap()
            .is_none()
    );
    let mut builder = source.machine.get_snapshot_builder().await;
    let snapshot = builder.build_snapshot().await.unwrap();

    let other = tempfile::tempdir().unwrap();
    let mut target = open(other.path()).await;
    target
        .machine
        .install_snapshot(&snapshot.meta, snapshot.snapshot)
        .await
        .unwrap();
    let target = reopen(target, other.path()).await;
    let cluster = target.state.read(|state| state.cluster().cloned()).unwrap();
    assert_eq!(cluster.cluster_id, "c1");
    assert_eq!(target.state.applied().borrow().0, 1);
}

/// Opens once whoever had it has let go of the database.
async fn open_when_free(dir: &Path, identity: &Identity, bug: Bug) -> Result<Store, OpenError> {
    for _ in 0..1_000 {
        match Store::open_through(dir, identity, planted::on(bug)).await {
            Err(OpenError::Database { .. }) => tokio::task::yield_now().await,
            other => return other,
        }
    }
    panic!("the database was never released");
}

async fn one_process_and_one_node(bug: Bug) {
    let dir = tempfile::tempdir().unwrap();
    let opened = open_when_free(dir.path(), &identity(), bug).await;
    let second = Store::open(dir.path(), &identity()).await;
    let text = second.unwrap_err().to_string();
    assert!(text.contains(&std::process::id().to_string()), "{text}");
    drop(opened.unwrap());
    drop(open_when_free(dir.path(), &identity(), bug).await.unwrap());
    let stranger = Identity {
        node_id: 2,
        ..identity()
    };
    let refused = open_when_free(dir.path(), &stranger, bug)
        .await
        .unwrap_err();
    assert!(
        matches!(refused, OpenError::WrongIdentity { .. }),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_serves_one_process_and_one_node() {
    one_process_and_one_node(planted::none).await;
}

fn identity_forgotten(_: &mut Batch, mut batch: Batch, sync: bool) -> planted::Written {
    batch.retain(|change| !matches!(change, Change::Put { family, key, .. } if *family == keys::META && key == keys::IDENTITY));
    Ok((batch, sync))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[should_panic(expected = "called `Result::unwrap_err()` on an `Ok` value: Store")]
async fn planted_a_directory_that_forgets_whose_it_is_is_found() {
    one_process_and_one_node(identity_forgotten).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_appends_share_fsyncs() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path()).await;
    let mut waiting = Vec::new();
    for index in 1..=500 {
        let (done, flushed) = TypeConfig::oneshot();
        store
            .log
            .append([entry(1, index)], IOFlushed::signal(done))
            .await
            .unwrap();
        waiting.push(flushed);
    }
    for flushed in waiting {
        flushed.await.unwrap().unwrap();
    }
    let stats = store.stats();
    let stats = stats.lock();
    assert_eq!(stats.n_entries, 500);
    assert!(
        stats.n_fsyncs < 500,
        "{} fsyncs for 500 appends",
        stats.n_fsyncs
    );
}
