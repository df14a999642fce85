//! A store whose files were damaged says which and stays as it is; it never starts empty.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nihilo_machine::command::{CLUSTER_VERSION, Command, Envelope, InitCluster, RequestKey};
use nihilo_store::type_config::{Entry, LeaderId, LogId, Vote};
use nihilo_store::{EntryBytes, Identity, OpenError, Store, TypeConfig};
use nihilo_wire::codec;
use openraft::storage::{IOFlushed, RaftLogStorage, RaftStateMachine};
use openraft::type_config::TypeConfigExt;
use openraft::{EntryPayload, RaftLogReader};

/// Entries of a store, each of about a KiB.
const N_ENTRIES: u64 = 200;

fn identity() -> Identity {
    Identity {
        cluster_id: "test".into(),
        node_id: 1,
    }
}

fn entry(index: u64) -> Entry {
    let leader_id = LeaderId {
        term: 1,
        node_id: 1,
    };
    let envelope = Envelope {
        cluster_version: CLUSTER_VERSION,
        log_ms: index,
        wall_ms: index,
        request: RequestKey::default(),
        command: Command::InitCluster(InitCluster {
            cluster_id: format!("c{index}{}", "x".repeat(1_000)),
            name: "n".into(),
            domain: "localhost".into(),
            external_port: 80,
            autoscaler: std::collections::BTreeMap::new(),
        }),
    };
    openraft::Entry {
        log_id: LogId { leader_id, index },
        payload: EntryPayload::Normal(EntryBytes(codec::encode_entry(&envelope))),
    }
}

async fn append(store: &mut Store, index: u64) {
    let (done, flushed) = TypeConfig::oneshot();
    store
        .log
        .append([entry(index)], IOFlushed::signal(done))
        .await
        .unwrap();
    flushed.await.unwrap().unwrap();
}

/// A store with a vote and [`N_ENTRIES`] acknowledged entries, closed again.
async fn filled() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), &identity()).await.unwrap();
    let vote = Vote {
        leader_id: LeaderId {
            term: 1,
            node_id: 1,
        },
        committed: true,
    };
    store.log.save_vote(&vote).await.unwrap();
    for index in 1..=N_ENTRIES {
        append(&mut store, index).await;
        let applied = futures_util::stream::iter([Ok((entry(index), None))]);
        store.machine.apply(applied).await.unwrap();
    }
    drop(store);
    dir
}

/// The only (or largest) file of the database with this ending.
fn file(dir: &Path, ending: &str) -> PathBuf {
    let files = std::fs::read_dir(dir.join("db")).unwrap();
    files
        .map(|file| file.unwrap().path())
        .filter(|path| path.to_str().unwrap().ends_with(ending))
        .max_by_key(|path| path.metadata().unwrap().len())
        .unwrap_or_else(|| panic!("no `{ending}` file"))
}

fn flip(path: &Path, at: impl FnOnce(usize) -> usize) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = at(bytes.len());
    bytes[at] ^= 0xff;
    std::fs::write(path, bytes).unwrap();
}

/// Names and contents of what the database must not lose: tables and write-ahead logs.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = std::fs::read_dir(dir.join("db")).unwrap();
    files
        .map(|file| file.unwrap().path())
        .filter(|path| {
            let ending = path.extension().and_then(|ending| ending.to_str());
            matches!(ending, Some("sst" | "log"))
        })
        .map(|path| (path.clone(), std::fs::read(&path).unwrap()))
        .collect()
}

/// It is refused, twice alike; the error names `named`; tables and logs are as they were.
async fn is_refused(dir: &Path, named: &str) {
    let before = contents(dir);
    for _ in 0..2 {
        let error = Store::open(dir, &identity()).await.unwrap_err();
        assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(named), "`{named}` in {text}");
        assert!(text.contains("join under a new id"), "{text}");
    }
    assert!(before == contents(dir), "the refusal changed files");
}

/// Opens once more, so that RocksDB turns its write-ahead log into tables.
async fn with_tables(dir: &Path) {
    for _ in 0..2 {
        drop(Store::open(dir, &identity()).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_in_the_write_ahead_log_is_refused() {
    let dir = filled().await;
    let log = file(dir.path(), ".log");
    flip(&log, |length| length / 2);
    is_refused(dir.path(), log.to_str().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_write_ahead_log_is_refused_and_a_torn_unacknowledged_tail_is_not() {
    let dir = filled().await;
    // One more record, cut in its middle, as if the process had died before it was acknowledged.
    let mark = dir.path().join("high-water");
    let mark_before = std::fs::read(&mark).unwrap();
    let mut store = Store::open(dir.path(), &identity()).await.unwrap();
    let log = file(dir.path(), ".log");
    let length = std::fs::metadata(&log).unwrap().len();
    append(&mut store, N_ENTRIES + 1).await;
    drop(store);
    let bytes = std::fs::read(&log).unwrap();
    let torn = usize::try_from(length).unwrap() + 500;
    assert!(bytes.len() > torn, "{} {torn}", bytes.len());
    std::fs::write(&log, &bytes[..torn]).unwrap();
    std::fs::write(&mark, mark_before).unwrap();
    let mut store = Store::open(dir.path(), &identity()).await.unwrap();
    let entries = store.log.try_get_log_entries(0..).await.unwrap();
    assert_eq!(entries.len() as u64, N_ENTRIES);
    drop(store);

    let dir = filled().await;
    let log = file(dir.path(), ".log");
    let bytes = std::fs::read(&log).unwrap();
    std::fs::write(&log, &bytes[..bytes.len() - 3_000]).unwrap();
    is_refused(dir.path(), &format!("but {N_ENTRIES} was acknowledged")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_in_a_table_is_refused() {
    let dir = filled().await;
    with_tables(dir.path()).await;
    let table = file(dir.path(), ".sst");
    flip(&table, |length| length / 3);
    let name = table.file_name().unwrap().to_str().unwrap().to_owned();
    is_refused(dir.path(), &name).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_table_is_refused() {
    let dir = filled().await;
    with_tables(dir.path()).await;
    let table = file(dir.path(), ".sst");
    std::fs::remove_file(&table).unwrap();
    let name = table.file_name().unwrap().to_str().unwrap().to_owned();
    is_refused(dir.path(), &name).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_or_missing_current_file_is_refused() {
    let dir = filled().await;
    let current = dir.path().join("db/CURRENT");
    let good = std::fs::read(&current).unwrap();
    std::fs::write(&current, b"garbage").unwrap();
    is_refused(dir.path(), "CURRENT").await;
    std::fs::remove_file(&current).unwrap();
    is_refused(dir.path(), "CURRENT` is missing").await;
    std::fs::write(&current, good).unwrap();
    let store = Store::open(dir.path(), &identity()).await.unwrap();
    assert_eq!(store.state.applied().borrow().0, N_ENTRIES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_or_a_mark_that_is_gone_is_refused() {
    let dir = filled().await;
    let (mark, aside) = (dir.path().join("high-water"), dir.path().join("aside"));
    std::fs::rename(&mark, &aside).unwrap();
    is_refused(dir.path(), "high-water` is missing").await;
    std::fs::write(&mark, vec![7; 8_192]).unwrap();
    is_refused(dir.path(), "high-water` is damaged").await;
    std::fs::rename(&aside, &mark).unwrap();
    std::fs::remove_dir_all(dir.path().join("db")).unwrap();
    let error = Store::open(dir.path(), &identity()).await.unwrap_err();
    assert!(error.to_string().contains("CURRENT` is missing"), "{error}");
    assert!(
        dir.path().join("db").read_dir().is_err(),
        "an empty database was made"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_vote_is_restored_from_the_mark() {
    let dir = filled().await;
    // The newest record of the write-ahead log is a vote, and it is cut off.
    let before = std::fs::metadata(file(dir.path(), ".log")).unwrap().len();
    let mut store = Store::open(dir.path(), &identity()).await.unwrap();
    let log = file(dir.path(), ".log");
    let start = std::fs::metadata(&log).unwrap().len();
    let vote = Vote {
        leader_id: LeaderId {
            term: 9,
            node_id: 2,
        },
        committed: false,
    };
    store.log.save_vote(&vote).await.unwrap();
    drop(store);
    let bytes = std::fs::read(&log).unwrap();
    assert!(bytes.len() as u64 > start, "{before} {start}");
    std::fs::write(&log, &bytes[..usize::try_from(start).unwrap()]).unwrap();
    let mut store = Store::open(dir.path(), &identity()).await.unwrap();
    assert_eq!(store.log.read_vote().await.unwrap(), Some(vote));
    let entries = store.log.try_get_log_entries(0..).await.unwrap();
    assert_eq!(entries.len() as u64, N_ENTRIES);
}
