//! Three members in one process over real sockets and real disks.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use nihilo_machine::command::{
    CLUSTER_VERSION, DownCause, Envelope, Expect, NodeDown, OpenSession, PutService, RequestKey,
    Roles, Uids,
};
use nihilo_machine::{Command, Outcome, Rejection};
use nihilo_raft::{Identity, RaftConfig, RaftNode, Role, StoreReplaced};
use nihilo_types::id::{NodeId, SessionId};
use nihilo_types::node_config::Profile;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;

const LIMIT: Duration = Duration::from_secs(20);

struct Member {
    node: RaftNode,
    server: JoinHandle<()>,
    leave: oneshot::Sender<()>,
    introduced: JoinHandle<Result<(), StoreReplaced>>,
}

struct Cluster {
    dirs: Vec<TempDir>,
    addresses: BTreeMap<u64, String>,
    members: BTreeMap<u64, Member>,
    snapshot_every: Option<u64>,
    digest_every: Option<u64>,
}

impl Cluster {
    async fn start(ids: &[u64], snapshot_every: Option<u64>) -> Self {
        let mut cluster = Self {
            dirs: (0..3).map(|_| tempfile::tempdir().unwrap()).collect(),
            addresses: BTreeMap::new(),
            members: BTreeMap::new(),
            snapshot_every,
            digest_every: Some(20),
        };
        let mut listeners = BTreeMap::new();
        for id in 1..=3 {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            cluster
                .addresses
                .insert(id, listener.local_addr().unwrap().to_string());
            listeners.insert(id, listener);
        }
        for id in ids {
            let listener = listeners.remove(id).unwrap();
            cluster.start_member(*id, listener).await;
        }
        let founder = &cluster.members[&1].node;
        founder.introduce().await.unwrap();
        founder.initialize().await.unwrap();
        cluster
    }

    async fn start_member(&mut self, id: u64, listener: TcpListener) {
        let config = RaftConfig {
            identity: Identity {
                cluster_id: "test".into(),
                node_id: id,
            },
            data_dir: self.dirs[id as usize - 1].path().to_owned(),
            members: self.addresses.clone(),
            profile: Profile::Balanced,
            founders: Vec::new(),
            digest_every: self.digest_every,
            snapshot_every: self.snapshot_every,
        };
        let node = start_when_free(config).await;
        let service = node.peer_server().into_service();
        let incoming = TcpListenerStream::new(listener);
        let (leave, left) = oneshot::channel::<()>();
        let server = tokio::spawn(async move {
            let served = tonic::transport::Server::builder().add_service(service);
            // A dropped sender says the same.
            let left = async { drop(left.await) };
            let ended = served.serve_with_incoming_shutdown(incoming, left);
            ended.await.unwrap();
        });
        let introduced = tokio::spawn({
            let node = node.clone();
            async move { node.introduce().await }
        });
        let member = Member {
            node,
            server,
            leave,
            introduced,
        };
        self.members.insert(id, member);
    }

    async fn rebind(&self, id: u64) -> TcpListener {
        TcpListener::bind(&self.addresses[&id]).await.unwrap()
    }

    async fn stop(&mut self, id: u64) {
        let member = self.members.remove(&id).unwrap();
        member.introduced.abort();
        member.node.shutdown().await;
        // Connections that peers keep hold the node, and so its directory.
        drop(member.leave);
        let ended = tokio::time::timeout(LIMIT, member.server).await;
        ended.unwrap().unwrap();
        let failure = member.node.failure();
        assert!(failure.has_changed().is_err(), "the store is closed");
    }

    fn any(&self) -> &RaftNode {
        &self.members.values().next().unwrap().node
    }

    async fn leader(&self, not: Option<u64>) -> u64 {
        let mut status = self.any().status_watch();
        let seen = status.wait_for(|s| s.leader.is_some() && s.leader != not);
        tokio::time::timeout(LIMIT, seen)
            .await
            .unwrap()
            .unwrap()
            .leader
            .unwrap()
    }
}

async fn start_when_free(config: RaftConfig) -> RaftNode {
    let start = async {
        loop {
            match RaftNode::start(config.clone()).await {
                Ok(node) => return node,
                Err(error) if error.to_string().contains("in use") => {
                    tokio::task::yield_now().await;
                }
                Err(error) if error.to_string().contains("does not open") => {
                    tokio::task::yield_now().await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    tokio::time::timeout(LIMIT, start).await.unwrap()
}

fn open(node: u64, boot: u64) -> Command {
    Command::OpenSession(OpenSession {
        node: NodeId(node),
        name: format!("node{node}"),
        boot_id: format!("boot-{boot}"),
        roles: Roles::ALL,
        peer_address: String::new(),
        gateway_address: String::new(),
        admin_address: String::new(),
        pid: 0,
        capacity: 1,
        t_self_ms: 400,
        kills_instances_on_exit: true,
        store_id: String::new(),
    })
}

async fn write(node: &RaftNode, command: Command) -> SessionId {
    match node
        .propose(command, RequestKey::default(), LIMIT)
        .await
        .unwrap()
        .result
    {
        Ok(Outcome::Session(id)) => id,
        other => panic!("{other:?}"),
    }
}

fn dir_of(cluster: &Cluster, id: u64) -> &Path {
    cluster.dirs[id as usize - 1].path()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_takes_writes_and_reads_its_own() {
    let cluster = Cluster::start(&[1, 2, 3], None).await;
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
    let mut cluster = Cluster::start(&[1, 2, 3], None).await;
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
    let mut cluster = Cluster::start(&[1, 2, 3], None).await;
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
async fn a_node_behind_a_purged_log_gets_a_snapshot() {
    let mut cluster = Cluster::start(&[1, 2], Some(50)).await;
    cluster.leader(None).await;
    let mut last = SessionId(0);
    for boot in 0..300 {
        last = write(cluster.any(), open(7, boot)).await;
    }
    let listener = cluster.rebind(3).await;
    cluster.start_member(3, listener).await;
    let late = &cluster.members[&3].node;
    let mut applied = late.applied();
    let caught_up = applied.wait_for(|index| index.0 >= last.0);
    tokio::time::timeout(LIMIT, caught_up)
        .await
        .unwrap()
        .unwrap();
    assert!(late.state().read(|state| state.session(last).is_some()));
    assert!(
        late.changes_since(nihilo_types::id::LogIndex(1)).is_err(),
        "it must have come by snapshot, not by log"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_on_request() {
    let cluster = Cluster::start(&[1, 2, 3], None).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_a_write_is_not_acknowledged() {
    let mut cluster = Cluster::start(&[1, 2, 3], None).await;
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

/// A state of `n` large services comes to a node that has nothing, and nobody is elected meanwhile.
async fn moves_without_an_election(n: u64) {
    let mut cluster = Cluster::start(&[1, 2], Some(20)).await;
    let leader = cluster.leader(None).await;
    for i in 0..n {
        let proposed =
            cluster
                .any()
                .propose(large_service(i, 150_000), RequestKey::default(), LIMIT * 3);
        proposed.await.unwrap().result.unwrap();
    }
    // So that what is large is behind the purged log.
    let mut last = SessionId(0);
    for boot in 0..60 {
        last = write(cluster.any(), open(7, boot)).await;
    }
    let before = cluster.members[&leader].node.status().term;
    let listener = cluster.rebind(3).await;
    cluster.start_member(3, listener).await;
    let late = &cluster.members[&3].node;
    let mut applied = late.applied();
    let caught_up = applied.wait_for(|index| index.0 >= last.0);
    tokio::time::timeout(LIMIT * 15, caught_up)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        late.state().read(|state| state.services().count()) as u64,
        n
    );
    let leading = &cluster.members[&leader].node;
    assert_eq!(late.state().digest().1, leading.state().digest().1);
    assert_eq!(
        leading.status().term,
        before,
        "nobody was elected meanwhile"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_state_moves_without_an_election() {
    moves_without_an_election(24).await;
}

/// Some 500 MiB of rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes and 2 GiB of disk: runs in `cargo xtask test --long`"]
async fn half_a_gibibyte_moves_without_an_election() {
    moves_without_an_election(1_200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_differs_is_found_and_stops() {
    let mut cluster = Cluster::start(&[1, 2, 3], None).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_does_not_come_back_under_its_old_id() {
    let mut cluster = Cluster::start(&[1, 2, 3], None).await;
    let leader = cluster.leader(None).await;
    for member in cluster.members.values() {
        open_with_store(&member.node).await;
    }
    let wiped = (1..=3).find(|id| *id != leader).unwrap();
    cluster.stop(wiped).await;
    cluster.dirs[wiped as usize - 1] = tempfile::tempdir().unwrap();
    let listener = cluster.rebind(wiped).await;
    cluster.start_member(wiped, listener).await;
    let member = cluster.members.get_mut(&wiped).unwrap();
    let introduced = tokio::time::timeout(LIMIT, &mut member.introduced).await;
    let refused = introduced.unwrap().unwrap().unwrap_err();
    assert_eq!(refused, StoreReplaced { node: wiped });
    let status = member.node.status();
    assert_eq!((status.last_log, status.term), (0, 0), "it took nothing");
    // The others go on without it.
    write(&cluster.members[&leader].node, open(9, 1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_never_took_part_is_let_in_late() {
    let mut cluster = Cluster::start(&[1, 2], None).await;
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
