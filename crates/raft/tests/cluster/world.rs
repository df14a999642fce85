//! Three members in one process over real sockets and real disks, and words for what they do.

use std::collections::BTreeMap;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use nihilo_machine::command::{OpenSession, RequestKey, Roles};
use nihilo_machine::{Command, Outcome};
use nihilo_raft::{Ground, Identity, RaftConfig, RaftNode, StoreReplaced};
use nihilo_types::id::{NodeId, SessionId};
use nihilo_types::node_config::Profile;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::server::NamedService;
use tower::Service;

pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) struct Member {
    pub(crate) node: RaftNode,
    server: JoinHandle<()>,
    leave: oneshot::Sender<()>,
    /// True = what others propose to it gets no answer, and nothing else is touched.
    pub(crate) hold: watch::Sender<bool>,
    pub(crate) introduced: JoinHandle<Result<(), StoreReplaced>>,
}

pub(crate) struct Cluster {
    pub(crate) dirs: Vec<TempDir>,
    addresses: BTreeMap<u64, String>,
    pub(crate) members: BTreeMap<u64, Member>,
    rules: Rules,
}

/// What tests do not leave to the product.
pub(crate) struct Rules {
    pub(crate) snapshot_every: Option<u64>,
    pub(crate) digest_every: Option<u64>,
    pub(crate) failover_fast_path: bool,
    /// Under each member.
    pub(crate) ground: Box<dyn Fn() -> Ground>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            snapshot_every: None,
            digest_every: Some(20),
            failover_fast_path: false,
            ground: Box::new(Ground::default),
        }
    }
}

impl Cluster {
    pub(crate) async fn start(ids: &[u64]) -> Self {
        Self::start_by(Rules::default(), ids).await
    }

    pub(crate) async fn start_by(rules: Rules, ids: &[u64]) -> Self {
        let mut cluster = Self {
            dirs: (0..3).map(|_| tempfile::tempdir().unwrap()).collect(),
            addresses: BTreeMap::new(),
            members: BTreeMap::new(),
            rules,
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

    pub(crate) async fn start_member(&mut self, id: u64, listener: TcpListener) {
        let config = RaftConfig {
            identity: Identity {
                cluster_id: "test".into(),
                node_id: id,
            },
            data_dir: self.dirs[id as usize - 1].path().to_owned(),
            members: self.addresses.clone(),
            profile: Profile::Balanced,
            failover_fast_path: self.rules.failover_fast_path,
            founders: Vec::new(),
            digest_every: self.rules.digest_every,
            snapshot_every: self.rules.snapshot_every,
        };
        let node = start_when_free(config, &self.rules.ground).await;
        let (hold, held) = watch::channel(false);
        let service = Holding {
            inner: node.peer_server().into_service(),
            held,
        };
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
            hold,
            introduced,
        };
        self.members.insert(id, member);
    }

    pub(crate) async fn rebind(&self, id: u64) -> TcpListener {
        TcpListener::bind(&self.addresses[&id]).await.unwrap()
    }

    pub(crate) async fn stop(&mut self, id: u64) {
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

    pub(crate) fn any(&self) -> &RaftNode {
        &self.members.values().next().unwrap().node
    }

    pub(crate) async fn leader(&self, not: Option<u64>) -> u64 {
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

/// Holds proposals up.
#[derive(Clone)]
struct Holding<S> {
    inner: S,
    held: watch::Receiver<bool>,
}

impl<S: NamedService> NamedService for Holding<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B> Service<http::Request<B>> for Holding<S>
where
    S: Service<http::Request<B>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let is_proposal = request.uri().path().ends_with("/Propose");
        let mut held = self.held.clone();
        let next = self.inner.clone();
        let mut ready = std::mem::replace(&mut self.inner, next);
        Box::pin(async move {
            // A dropped sender says the same as false.
            if is_proposal {
                drop(held.wait_for(|held| !held).await);
            }
            ready.call(request).await
        })
    }
}

async fn start_when_free(config: RaftConfig, ground: &dyn Fn() -> Ground) -> RaftNode {
    let start = async {
        loop {
            match RaftNode::start_on(config.clone(), ground()).await {
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

pub(crate) fn open(node: u64, boot: u64) -> Command {
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

pub(crate) async fn write(node: &RaftNode, command: Command) -> SessionId {
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

pub(crate) fn dir_of(cluster: &Cluster, id: u64) -> &Path {
    cluster.dirs[id as usize - 1].path()
}

/// Who leads, and since which term: nobody was elected as long as it is kept.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Office {
    leader: Option<u64>,
    term: u64,
}

impl Office {
    /// As the leader itself sees it.
    pub(crate) fn of(leader: &RaftNode) -> Self {
        let status = leader.status();
        Self {
            leader: status.leader,
            term: status.term,
        }
    }
}
