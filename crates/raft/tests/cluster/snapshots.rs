//! A node that is too far behind for the log.

use std::time::Duration;

use nihilo_machine::Command;
use nihilo_machine::command::{Expect, PutService, RequestKey, Uids};
use nihilo_raft::RaftNode;
use nihilo_types::id::{LogIndex, SessionId};

use crate::world::{Cluster, LIMIT, Office, Rules, dir_of, open, write};

/// Of filling, of moving and of reading a state that is as large as half a gibibyte.
const LARGE_LIMIT: Duration = Duration::from_secs(300);

/// Between two looks for a file.
const LOOK_EVERY: Duration = Duration::from_millis(20);

async fn catches_up(node: &RaftNode, to: SessionId, limit: Duration) {
    let mut applied = node.applied();
    let caught_up = applied.wait_for(|index| index.0 >= to.0);
    tokio::time::timeout(limit, caught_up)
        .await
        .unwrap()
        .unwrap();
}

async fn a_late_node_gets_a_snapshot(snapshot_every: Option<u64>) {
    let rules = Rules {
        snapshot_every,
        ..Rules::default()
    };
    let mut cluster = Cluster::start_by(rules, &[1, 2]).await;
    cluster.leader(None).await;
    let mut last = SessionId(0);
    for boot in 0..300 {
        last = write(cluster.any(), open(7, boot)).await;
    }
    let listener = cluster.rebind(3).await;
    cluster.start_member(3, listener).await;
    let late = &cluster.members[&3].node;
    catches_up(late, last, LIMIT).await;
    assert!(late.state().read(|state| state.session(last).is_some()));
    assert!(
        late.changes_since(LogIndex(1)).is_err(),
        "it must have come by snapshot, not by log"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_behind_a_purged_log_gets_a_snapshot() {
    a_late_node_gets_a_snapshot(Some(50)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[should_panic(expected = "it must have come by snapshot")]
async fn planted_a_log_that_is_never_purged_is_found() {
    a_late_node_gets_a_snapshot(None).await;
}

fn large_service(n: u64, n_bytes: usize) -> Command {
    let service = serde_json::json!({
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": format!("s-{n}"), "namespace": "default"},
        "spec": {"template": {"spec": {"containers": [{
            "image": "demo/hello",
            "env": [{"name": "LARGE", "value": "x".repeat(n_bytes)}],
        }]}}},
    });
    Command::PutService(Box::new(PutService {
        service: serde_json::from_value(service).unwrap(),
        expect: Expect::Absent,
        uids: Uids::default(),
        user: "test".into(),
    }))
}

/// The length of a node's newest snapshot; 0 = there is none.
fn snapshot_bytes(cluster: &Cluster, id: u64) -> u64 {
    let files = std::fs::read_dir(dir_of(cluster, id).join("snapshots")).unwrap();
    let files = files.map(|file| file.unwrap());
    let whole = files.filter(|file| {
        file.path()
            .extension()
            .is_some_and(|ending| ending == "snap")
    });
    let lengths = whole.map(|file| file.metadata().unwrap().len());
    lengths.max().unwrap_or(0)
}

/// Service, Configuration and Revision each hold what is large.
fn all_bytes(n: u64, n_bytes: usize) -> u64 {
    n * 3 * n_bytes as u64
}

/// Fills the state with `n` Services, and goes on until the leader has let go of the log of them;
/// returns the index of the last of them, and the last write.
async fn fill(cluster: &Cluster, leader: u64, n: u64, n_bytes: usize) -> (u64, SessionId) {
    for i in 0..n {
        let service = large_service(i, n_bytes);
        let proposed = cluster.any().propose(service, RequestKey::default(), LIMIT);
        proposed.await.unwrap().result.unwrap();
    }
    let filled_at = cluster.members[&leader].node.status().last_log;
    for boot in 0..n {
        write(cluster.any(), open(7, boot)).await;
    }
    let mut look = tokio::time::interval(LOOK_EVERY);
    while snapshot_bytes(cluster, leader) < all_bytes(n, n_bytes) {
        look.tick().await;
    }
    (filled_at, write(cluster.any(), open(8, 0)).await)
}

/// A state of `n` large services comes to a node that has nothing, and nobody is elected meanwhile.
///
/// Snapshots and digests read all of the state: one of them every few entries, and filling takes time
/// by the square of `n`.
async fn moves_without_an_election(n: u64, n_bytes: usize, snapshot_every: u64) {
    let rules = Rules {
        snapshot_every: Some(snapshot_every),
        digest_every: None,
        ..Rules::default()
    };
    let mut cluster = Cluster::start_by(rules, &[1, 2]).await;
    let leader = cluster.leader(None).await;
    let filling = fill(&cluster, leader, n, n_bytes);
    let (filled_at, last) = tokio::time::timeout(LARGE_LIMIT, filling).await.unwrap();
    let office = Office::of(&cluster.members[&leader].node);
    let listener = cluster.rebind(3).await;
    cluster.start_member(3, listener).await;
    let late = &cluster.members[&3].node;
    catches_up(late, last, LARGE_LIMIT).await;
    let leading = &cluster.members[&leader].node;
    assert_eq!(Office::of(leading), office, "nobody was elected meanwhile");
    let moved = snapshot_bytes(&cluster, 3);
    assert!(moved >= all_bytes(n, n_bytes), "{moved} bytes moved");
    let n_by_log = late.io_stats().lock().n_entries;
    let n_small = leading.status().last_log - filled_at;
    assert!(
        n_by_log <= n_small,
        "{n_by_log} entries came by log, {n_small} are of small writes"
    );
    let n_services = late.state().read(|state| state.n_services());
    assert_eq!(n_services as u64, n);
    assert_eq!(late.state().digest().1, leading.state().digest().1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_state_moves_without_an_election() {
    moves_without_an_election(24, 150_000, 18).await;
}

/// 515 MiB of rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes and 4 GiB of disk: runs in `cargo xtask test --long`"]
async fn half_a_gibibyte_moves_without_an_election() {
    moves_without_an_election(600, 300_000, 750).await;
}
