//! A snapshot that is installed, and killed at every write of it: the state is the old one or the
//! new one, never a mixture, and the install can be done again.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod planted;

use std::path::Path;

use nihilo_machine::command::{
    CLUSTER_VERSION, Command, Envelope, Expect, PutService, RequestKey, Uids,
};
use nihilo_store::disk::{Batch, Change};
use nihilo_store::keys;
use nihilo_store::snapshot::DumpFile;
use nihilo_store::type_config::{Entry, LeaderId, LogId, SnapshotMeta};
use nihilo_store::{EntryBytes, Identity, OpenError, Store};
use nihilo_types::id::LogIndex;
use nihilo_wire::codec;
use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, RaftSnapshotBuilder};

use planted::Bug;

/// Of one service: a snapshot of a few of them takes several writes.
const LARGE: usize = 400_000;

async fn open(dir: &Path) -> Store {
    open_with(dir, planted::none).await
}

async fn open_with(dir: &Path, bug: Bug) -> Store {
    let identity = Identity {
        cluster_id: "test".into(),
        node_id: 1,
    };
    for _ in 0..1_000 {
        match Store::open_through(dir, &identity, planted::on(bug)).await {
            Ok(store) => return store,
            Err(OpenError::Database { .. }) => tokio::task::yield_now().await,
            Err(other) => panic!("{other:?}"),
        }
    }
    panic!("the database was never released");
}

fn entry(index: u64, n_bytes: usize) -> Entry {
    let service = serde_json::json!({
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": format!("s-{index}"), "namespace": "default"},
        "spec": {"template": {"spec": {"containers": [{
            "image": "demo/hello",
            "env": [{"name": "LARGE", "value": "x".repeat(n_bytes)}],
        }]}}},
    });
    let put = PutService {
        service: serde_json::from_value(service).unwrap(),
        expect: Expect::Absent,
        uids: Uids::default(),
        user: "test".into(),
    };
    let envelope = Envelope {
        cluster_version: CLUSTER_VERSION,
        log_ms: index,
        wall_ms: index,
        request: RequestKey::default(),
        command: Command::PutService(Box::new(put)),
    };
    openraft::Entry {
        log_id: LogId {
            leader_id: LeaderId {
                term: 1,
                node_id: 1,
            },
            index,
        },
        payload: EntryPayload::Normal(EntryBytes(codec::encode_entry(&envelope))),
    }
}

async fn apply(store: &mut Store, indexes: std::ops::RangeInclusive<u64>, n_bytes: usize) {
    let entries: Vec<_> = indexes
        .map(|index| Ok((entry(index, n_bytes), None)))
        .collect();
    let stream = futures_util::stream::iter(entries);
    store.machine.apply(stream).await.unwrap();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// A snapshot of four large services, and what its state comes to.
async fn large(dir: &Path) -> (SnapshotMeta, DumpFile, (LogIndex, u64), Store) {
    let mut source = open(dir).await;
    apply(&mut source, 1..=4, LARGE).await;
    let mut builder = source.machine.get_snapshot_builder().await;
    // What comes after the builder is not in the snapshot.
    let wanted = source.state.digest();
    apply(&mut source, 5..=5, 10).await;
    let built = builder.build_snapshot().await.unwrap();
    (built.meta, built.snapshot, wanted, source)
}

/// An install by a store with this bug, killed at every write, and done again by one without.
async fn each_kill_leaves_the_old_state_or_the_new_one(bug: Bug) {
    let (source_dir, base) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (meta, snapshot, new, _source) = large(source_dir.path()).await;
    let mut store = open(base.path()).await;
    apply(&mut store, 1..=3, 10).await;
    let old = store.state.digest();
    drop(store);
    drop(open(base.path()).await);

    let mut n_old = 0;
    for n in 0.. {
        let dir = tempfile::tempdir().unwrap();
        copy(base.path(), dir.path());
        let mut store = open_with(dir.path(), bug).await;
        store.end_after_writes(n);
        let installed = store
            .machine
            .install_snapshot(&meta, snapshot.clone())
            .await;
        drop(store);
        let mut store = open(dir.path()).await;
        let found = store.state.digest();
        assert!(
            found == old || found == new,
            "after {n} writes it is neither: {found:?}"
        );
        match installed {
            Ok(()) => assert_eq!(found, new, "what was acknowledged is there"),
            Err(_) => n_old += u32::from(found == old),
        }
        // Whatever was left behind does not stand in the way, nor in the state.
        let again = store
            .machine
            .install_snapshot(&meta, snapshot.clone())
            .await;
        again.unwrap();
        assert_eq!(store.state.digest(), new);
        drop(store);
        assert_eq!(open(dir.path()).await.state.digest(), new);
        if installed.is_ok() {
            // Four mebibytes and more of rows, a mebibyte and no more of them at a time.
            assert!(n >= 5, "it takes several writes: {n}");
            break;
        }
    }
    assert!(n_old >= 2, "it was killed before its end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_write_leaves_the_old_state_or_the_new_one() {
    each_kill_leaves_the_old_state_or_the_new_one(planted::none).await;
}

/// Rows are loaded over those that are read, and no flip is needed.
fn loaded_in_place(_: &mut Batch, batch: Batch, sync: bool) -> planted::Written {
    let in_place = |change| match change {
        Change::Put { family, key, .. }
            if family == keys::STATE_META && key == keys::GENERATION =>
        {
            None
        }
        Change::DeleteRange { family, .. } if [keys::STATE, keys::STATE_ODD].contains(&family) => {
            None
        }
        Change::Put { family, key, value } if family == keys::STATE_ODD => Some(Change::Put {
            family: keys::STATE,
            key,
            value,
        }),
        other => Some(other),
    };
    Ok((batch.into_iter().filter_map(in_place).collect(), sync))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[should_panic(expected = "writes it is neither")]
async fn planted_an_install_over_the_rows_that_are_read_is_found() {
    each_kill_leaves_the_old_state_or_the_new_one(loaded_in_place).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_over_an_install() {
    let (source_dir, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut source = open(source_dir.path()).await;
    apply(&mut source, 1..=20, 10).await;
    let mut builder = source.machine.get_snapshot_builder().await;
    let built = builder.build_snapshot().await.unwrap();
    let mut store = open(dir.path()).await;
    apply(&mut store, 1..=3, 10).await;
    let installed = store.machine.install_snapshot(&built.meta, built.snapshot);
    installed.await.unwrap();
    for round in 0..2 {
        let page = store.state.changes_after(LogIndex(3)).await.unwrap();
        let indexes: Vec<_> = page.events.iter().map(|event| event.index.0).collect();
        let wanted: Vec<_> = (4..=20).flat_map(|index| [index; 4]).collect();
        assert_eq!(indexes, wanted, "round {round}");
        assert_eq!(page.upto, LogIndex(20));
        // And again after a restart.
        drop(store);
        store = open(dir.path()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_snapshot_stays_over_a_restart_and_older_ones_go() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path()).await;
    for index in 1..=3 {
        apply(&mut store, index..=index, 10).await;
        let mut builder = store.machine.get_snapshot_builder().await;
        builder.build_snapshot().await.unwrap();
    }
    let files = || {
        std::fs::read_dir(dir.path().join("snapshots"))
            .unwrap()
            .count()
    };
    assert_eq!(files(), 1);
    std::fs::write(dir.path().join("snapshots/1-1.tmp"), "half").unwrap();
    drop(store);
    let mut store = open(dir.path()).await;
    assert_eq!(files(), 1, "what was left unfinished is gone");
    let current = store.machine.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(current.meta.last_log_id.unwrap().index, 3);

    // The first snapshot after a restart of a process with the same id takes no older one's name.
    apply(&mut store, 4..=4, 10).await;
    let mut builder = store.machine.get_snapshot_builder().await;
    builder.build_snapshot().await.unwrap();
    drop((current, builder, store));
    let mut store = open(dir.path()).await;
    let current = store.machine.get_current_snapshot().await.unwrap();
    assert_eq!(current.unwrap().meta.last_log_id.unwrap().index, 4);
}
