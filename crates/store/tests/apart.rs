//! The state and the index that it stands at are written together: killed at any write, the state is
//! exactly what the entries up to that index make (etcd 3.5 lost that; only a kill shows it).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod planted;

use std::path::Path;

use nihilo_machine::State;
use nihilo_machine::command::{CLUSTER_VERSION, Command, Envelope, OpenSession, RequestKey, Roles};
use nihilo_store::disk::{Batch, Change};
use nihilo_store::keys;
use nihilo_store::type_config::{Entry, LeaderId, LogId};
use nihilo_store::{EntryBytes, Identity, OpenError, Store};
use nihilo_types::id::{LogIndex, NodeId};
use nihilo_wire::codec;
use openraft::EntryPayload;
use openraft::storage::RaftStateMachine;

use planted::Bug;

const N_ENTRIES: u64 = 40;

async fn open(dir: &Path, bug: Bug) -> Store {
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

/// Not idempotent: each one ends the session of the one before, and repeats a request id at times.
fn envelope(index: u64) -> Envelope {
    Envelope {
        cluster_version: CLUSTER_VERSION,
        log_ms: index,
        wall_ms: index,
        request: RequestKey::new(&format!("r{}", index / 2), "open", b""),
        command: Command::OpenSession(OpenSession {
            node: NodeId(index % 3),
            name: format!("node{}", index % 3),
            boot_id: format!("boot-{index}"),
            store_id: String::new(),
            roles: Roles::ALL,
            peer_address: String::new(),
            gateway_address: String::new(),
            admin_address: String::new(),
            pid: 0,
            capacity: 1,
            t_self_ms: 400,
            kills_instances_on_exit: true,
        }),
    }
}

fn entry(index: u64) -> Entry {
    openraft::Entry {
        log_id: LogId {
            leader_id: LeaderId {
                term: 1,
                node_id: 1,
            },
            index,
        },
        payload: EntryPayload::Normal(EntryBytes(codec::encode_entry(&envelope(index)))),
    }
}

/// Killed at every write of a store with this bug, and opened again.
async fn each_kill_leaves_a_state_that_some_entry_made(bug: Bug) {
    let mut wanted = vec![State::default().digest()];
    let mut state = State::default();
    for index in 1..=N_ENTRIES {
        state.apply(LogIndex(index), &envelope(index));
        wanted.push(state.digest());
    }
    let mut reached = std::collections::BTreeSet::new();
    for n in 0..14 {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path(), bug).await;
        store.end_after_writes(n);
        for first in (1..=N_ENTRIES).step_by(4) {
            let entries: Vec<_> = (first..first + 4).map(|i| Ok((entry(i), None))).collect();
            // Applying goes on in memory; only what was written counts after the kill.
            drop(
                store
                    .machine
                    .apply(futures_util::stream::iter(entries))
                    .await,
            );
            let mut written = store.state.applied();
            drop(written.borrow_and_update());
            tokio::task::yield_now().await;
        }
        drop(store);
        let (at, digest) = open(dir.path(), planted::none).await.state.digest();
        let index = usize::try_from(at.0).unwrap();
        assert_eq!(
            digest, wanted[index],
            "killed after {n} writes, at index {at}"
        );
        reached.insert(at);
    }
    assert!(
        reached.len() >= 2,
        "killed at different places: {reached:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_write_leaves_a_state_that_some_entry_made() {
    each_kill_leaves_a_state_that_some_entry_made(planted::none).await;
}

/// The index of a batch is written with the next one.
fn index_behind_its_rows(held: &mut Batch, batch: Batch, sync: bool) -> planted::Written {
    let is_index = |change: &Change| matches!(change, Change::Put { family, key, .. } if *family == keys::STATE_META && key == keys::APPLIED);
    let (index, rows): (Batch, Batch) = batch.into_iter().partition(is_index);
    let mut now = std::mem::replace(held, index);
    now.extend(rows);
    Ok((now, sync))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[should_panic(expected = "killed after 1 writes, at index 0")]
async fn planted_an_index_that_is_written_after_its_rows_is_found() {
    each_kill_leaves_a_state_that_some_entry_made(index_behind_its_rows).await;
}
