//! The change log: what a watch can go on from, after a restart and below what memory holds.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use nihilo_machine::ObjectEvent;
use nihilo_machine::command::{
    CLUSTER_VERSION, Command, Envelope, Expect, PutService, RequestKey, Uids,
};
use nihilo_store::changes::MAX_IN_MEMORY;
use nihilo_store::type_config::{Entry, LeaderId, LogId};
use nihilo_store::{Compacted, EntryBytes, Identity, OpenError, StateHandle, Store};
use nihilo_types::id::LogIndex;
use nihilo_wire::codec;
use openraft::EntryPayload;
use openraft::storage::RaftStateMachine;

/// Changes of one entry: a Service, its Configuration, Route and Revision.
const CHANGES_PER_ENTRY: u64 = 4;

async fn open(dir: &Path) -> Store {
    let identity = Identity {
        cluster_id: "test".into(),
        node_id: 1,
    };
    for _ in 0..1_000 {
        match Store::open(dir, &identity).await {
            Ok(store) => return store,
            Err(OpenError::Database { .. }) => tokio::task::yield_now().await,
            Err(other) => panic!("{other:?}"),
        }
    }
    panic!("the database was never released");
}

fn entry(index: u64) -> Entry {
    let service = serde_json::json!({
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": format!("s-{index}"), "namespace": "default"},
        "spec": {"template": {"spec": {"containers": [{"image": "demo/hello"}]}}},
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

async fn apply(store: &mut Store, indexes: std::ops::RangeInclusive<u64>) {
    let entries: Vec<_> = indexes.map(|index| Ok((entry(index), None))).collect();
    let stream = futures_util::stream::iter(entries);
    store.machine.apply(stream).await.unwrap();
}

/// Everything after `from`, page by page.
async fn follow(state: &StateHandle, from: u64) -> Result<Vec<ObjectEvent>, Compacted> {
    let (mut at, mut all) = (LogIndex(from), Vec::new());
    let applied = *state.applied().borrow();
    while at < applied {
        let page = state.changes_after(at).await?;
        assert!(page.upto > at, "a page moves on");
        let within = |event: &ObjectEvent| event.index > at && event.index <= page.upto;
        assert!(page.events.iter().all(within));
        at = page.upto;
        all.extend(page.events);
    }
    Ok(all)
}

fn check(events: &[ObjectEvent], entries: std::ops::RangeInclusive<u64>) {
    let n = (entries.end() - entries.start() + 1) * CHANGES_PER_ENTRY;
    assert_eq!(events.len() as u64, n, "no gap and no repetition");
    let wanted = entries.flat_map(|index| [index; CHANGES_PER_ENTRY as usize]);
    assert!(
        events.iter().map(|event| event.index.0).eq(wanted),
        "in order"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_from_below_memory_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path()).await;
    let n = MAX_IN_MEMORY as u64 / CHANGES_PER_ENTRY + 700;
    for first in (1..=n).step_by(100) {
        apply(&mut store, first..=(first + 99).min(n)).await;
    }
    assert!(
        store.state.changes_since(LogIndex(5)).is_err(),
        "memory has let it go"
    );
    check(&follow(&store.state, 0).await.unwrap(), 1..=n);
    check(&follow(&store.state, 5).await.unwrap(), 6..=n);
    check(&follow(&store.state, n - 1).await.unwrap(), n..=n);
    assert!(follow(&store.state, n).await.unwrap().is_empty());
    drop(store);

    let mut store = open(dir.path()).await;
    check(&follow(&store.state, 0).await.unwrap(), 1..=n);
    apply(&mut store, n + 1..=n + 3).await;
    check(&follow(&store.state, n - 2).await.unwrap(), n - 1..=n + 3);
    drop(store);
    let store = open(dir.path()).await;
    check(&follow(&store.state, 7).await.unwrap(), 8..=n + 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_from_the_future_has_nothing_yet() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path()).await;
    apply(&mut store, 1..=2).await;
    let page = store.state.changes_after(LogIndex(9)).await.unwrap();
    assert!(page.events.is_empty());
    assert_eq!(
        page.upto,
        LogIndex(9),
        "it waits there, it does not go back"
    );
}
