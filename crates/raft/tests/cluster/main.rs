//! Three members in one process over real sockets and real disks.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod memory_disk;
mod slow_disk;
mod snapshots;
mod world;

use std::time::{Duration, Instant};

use nihilo_machine::command::{CLUSTER_VERSION, DownCause, Envelope, NodeDown, RequestKey};
use nihilo_machine::{Command, Outcome, Rejection};
use nihilo_raft::{Identity, RaftNode, Role, StoreReplaced};
use nihilo_types::id::SessionId;

use world::{Cluster, LIMIT, dir_of, open, write};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_takes_writes_and_reads_its_own() {
    let cluster = Cluster::start(&[1, 2, 3]).await;
    cluster.leader(None).await;
    for (id, member) in &cluster.members {
        let session = write(&member.node, open(*id, 1)).await;
        for reader in cluster.members.values() {
            reader.node.read_index(LIMIT).await.unwrap();
            assert!(reader.node.state().read(|s| s.session(session).is_some()));
        }
    }
    let down = NodeDown {
        session: SessionId(0),
        cause: DownCause::Silent,
        moves: vec![],
    };
    let reply = cluster
        .any()
        .propose(Command::NodeDown(down), RequestKey::default(), LIMIT)
        .await;
    assert_eq!(
        reply.unwrap().result,
        Err(Rejection::SessionClosed(SessionId(0)))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_leader_is_replaced_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::start(&[1, 2, 3]).await;
    let first = cluster.leader(None).await;
    let before = write(cluster.any(), open(7, 1)).await;
    cluster.stop(first).await;
    let second = cluster.leader(Some(first)).await;
    assert_ne!(first, second);
    let after = write(cluster.any(), open(8, 1)).await;
    // The old leader comes back and catches up.
    let listener = cluster.rebind(first).await;
    cluster.start_member(first, listener).await;
    let back = &cluster.members[&first].node;
    back.read_index(LIMIT).await.unwrap();
    for session in [before, after] {
        assert!(back.state().read(|state| state.session(session).is_some()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_restart_with_everything() {
    let mut cluster = Cluster::start(&[1, 2, 3]).await;
    cluster.leader(None).await;
    let session = write(cluster.any(), open(7, 1)).await;
    for id in 1..=3 {
        cluster.stop(id).await;
    }
    for id in 1..=3 {
        assert!(dir_of(&cluster, id).join("db").is_dir());
        let listener = cluster.rebind(id).await;
        cluster.start_member(id, listener).await;
    }
    cluster.any().read_index(LIMIT).await.unwrap();
    assert!(
        cluster
            .any()
            .state()
            .read(|state| state.session(session).is_some())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_on_request() {
    let cluster = Cluster::start(&[1, 2, 3]).await;
    let first = cluster.leader(None).await;
    write(cluster.any(), open(7, 1)).await;
    let leader = &cluster.members[&first].node;
    assert_eq!(leader.status().role, Role::Leader);
    let second = leader.transfer_leader(None, LIMIT).await.unwrap();
    assert!(second.is_some_and(|id| id != first), "{second:?}");
    write(cluster.any(), open(8, 1)).await;
    let (n_ticks, all) = leader.tick_lateness_since(0);
    assert_eq!(n_ticks, all.len() as u64);
    assert!(n_ticks > 0 && leader.tick_lateness_since(n_ticks).1.len() < all.len());
}

/// A node without power says nothing, not even that its connections have ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_a_lost_leader_does_not_answer_goes_to_the_next() {
    let cluster = Cluster::start(&[1, 2, 3]).await;
    let first = cluster.leader(None).await;
    let before = write(cluster.any(), open(7, 1)).await;
    let silent = &cluster.members[&first];
    silent.hold.send_replace(true);
    let (_, follower) = cluster
        .members
        .iter()
        .find(|(id, _)| **id != first)
        .unwrap();
    let request = RequestKey {
        id: "once".into(),
        hash: 1,
    };
    let asked = Instant::now();
    let write = follower.node.propose(open(8, 1), request, 2 * LIMIT);
    let hand_over = silent.node.transfer_leader(None, LIMIT);
    let (written, second) = tokio::join!(write, hand_over);
    assert_ne!(second.unwrap(), Some(first));
    assert!(matches!(written.unwrap().result, Ok(Outcome::Session(id)) if id > before));
    assert!(
        asked.elapsed() < LIMIT,
        "it was waited for: {:?}",
        asked.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_a_write_is_not_acknowledged() {
    let mut cluster = Cluster::start(&[1, 2, 3]).await;
    let leader = cluster.leader(None).await;
    let others: Vec<_> = (1..=3).filter(|id| *id != leader).collect();
    for id in others {
        cluster.stop(id).await;
    }
    let limit = Duration::from_millis(700);
    let result = cluster
        .any()
        .propose(open(7, 1), RequestKey::default(), limit)
        .await;
    assert!(result.is_err(), "{result:?}");
    // The first may still have found a leader whose last quorum was young enough; later ones don't.
    let refused = async {
        while cluster.any().n_refused() == 0 {
            let late = cluster.any();
            let result = late.propose(open(7, 2), RequestKey::default(), limit).await;
            assert!(result.is_err(), "{result:?}");
        }
    };
    tokio::time::timeout(LIMIT, refused).await.unwrap();
    assert!(cluster.any().read_index(limit).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_differs_is_found_and_stops() {
    let mut cluster = Cluster::start(&[1, 2, 3]).await;
    let leader = cluster.leader(None).await;
    let odd = (1..=3).find(|id| *id != leader).unwrap();
    write(cluster.any(), open(7, 0)).await;
    let node = &cluster.members[&odd].node;
    node.read_index(LIMIT).await.unwrap();
    let (at, term) = (node.applied().borrow().0, node.status().term);
    cluster.stop(odd).await;
    // Its state has taken its newest entry for another one than it is.
    let identity = Identity {
        cluster_id: "test".into(),
        node_id: odd,
    };
    let mut store = nihilo_store::Store::open(dir_of(&cluster, odd), &identity)
        .await
        .unwrap();
    let envelope = Envelope {
        cluster_version: CLUSTER_VERSION,
        log_ms: 0,
        wall_ms: 0,
        request: RequestKey::default(),
        command: open(99, 0),
    };
    let bytes = nihilo_store::EntryBytes(nihilo_wire::codec::encode_entry(&envelope));
    let entry = openraft::Entry {
        log_id: nihilo_store::type_config::LogId {
            leader_id: nihilo_store::type_config::LeaderId {
                term,
                node_id: leader,
            },
            index: at,
        },
        payload: openraft::EntryPayload::Normal(bytes),
    };
    let stream = futures_util::stream::iter([Ok((entry, None))]);
    openraft::storage::RaftStateMachine::apply(&mut store.machine, stream)
        .await
        .unwrap();
    let mut closed = store.failure();
    drop(store);
    drop(closed.wait_for(|_| false).await);
    for boot in 1..3 {
        write(cluster.any(), open(8, boot)).await;
    }
    let listener = cluster.rebind(odd).await;
    cluster.start_member(odd, listener).await;

    // Enough entries for a comparison, and what keep-alives carry.
    let stops = async {
        let mut failure = cluster.members[&odd].node.failure();
        for boot in 3.. {
            if failure.borrow_and_update().is_some() {
                return failure.borrow().clone().unwrap();
            }
            write(&cluster.members[&leader].node, open(9, boot)).await;
            let board = cluster.members[&leader].node.board();
            for (id, member) in &cluster.members {
                for digest in member.node.state().digests() {
                    if let Some(at) = board.hear(*id, CLUSTER_VERSION, Some(digest)) {
                        member.node.diverged_at(at);
                    }
                }
            }
        }
        unreachable!("the loop has no other end")
    };
    let cause = tokio::time::timeout(LIMIT, stops).await.unwrap();
    assert!(cause.contains("diverged"), "{cause}");
    let others = cluster.members.iter().filter(|(id, _)| **id != odd);
    for (id, member) in others {
        assert!(
            member.node.failure().borrow().is_none(),
            "node {id} is right"
        );
    }
    write(&cluster.members[&leader].node, open(10, 1)).await;
}

/// A session under the store that the node really has.
async fn open_with_store(node: &RaftNode) {
    let id = node.identity().node_id;
    let Command::OpenSession(mut session) = open(id, 1) else {
        unreachable!("made so")
    };
    session.store_id = node.store_id().into();
    write(node, Command::OpenSession(session)).await;
}

/// `is_told` = whether the log says which store each node has.
async fn a_wiped_node_is_refused(is_told: bool) {
    let mut cluster = Cluster::start(&[1, 2, 3]).await;
    let leader = cluster.leader(None).await;
    for member in cluster.members.values() {
        match is_told {
            true => open_with_store(&member.node).await,
            false => drop(write(&member.node, open(member.node.identity().node_id, 1)).await),
        }
    }
    let wiped = (1..=3).find(|id| *id != leader).unwrap();
    cluster.stop(wiped).await;
    cluster.dirs[wiped as usize - 1] = tempfile::tempdir().unwrap();
    let listener = cluster.rebind(wiped).await;
    cluster.start_member(wiped, listener).await;
    let member = cluster.members.get_mut(&wiped).unwrap();
    let introduced = tokio::time::timeout(LIMIT, &mut member.introduced).await;
    let introduced = introduced.unwrap().unwrap();
    assert_eq!(introduced, Err(StoreReplaced { node: wiped }));
    let status = member.node.status();
    assert_eq!((status.last_log, status.term), (0, 0), "it took nothing");
    // The others go on without it.
    write(&cluster.members[&leader].node, open(9, 1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_does_not_come_back_under_its_old_id() {
    a_wiped_node_is_refused(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[should_panic(expected = "left: Ok(())")]
async fn planted_stores_that_nobody_remembers_are_found() {
    a_wiped_node_is_refused(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_never_took_part_is_let_in_late() {
    let mut cluster = Cluster::start(&[1, 2]).await;
    cluster.leader(None).await;
    open_with_store(cluster.any()).await;
    let listener = cluster.rebind(3).await;
    cluster.start_member(3, listener).await;
    let late = cluster.members.get_mut(&3).unwrap();
    let introduced = tokio::time::timeout(LIMIT, &mut late.introduced).await;
    introduced.unwrap().unwrap().unwrap();
    late.node.read_index(LIMIT).await.unwrap();
    open_with_store(&late.node).await;
}
