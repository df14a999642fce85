//! One node of the cluster: the server's own wiring on a simulated machine.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nihilo_host::{BootClock, Host, Net, Threads};
use nihilo_raft::RaftNode;
use nihilo_runtime::Agent;
use nihilo_runtime::agent::OrderListener;
use nihilo_runtime::fake::{RequestListener, RequestStep};
use nihilo_server::wiring::{Ground, Node};
use nihilo_sim::checker::single_owner::AgentCommand;
use nihilo_sim::history::ledger::{InstanceRecord, InstanceStep};
use nihilo_types::node_config::{
    BootDelay, BundleSettings, DockerSettings, DriverKind, GatewaySettings, Member, NodeConfig,
    ProcessSettings,
};
use parking_lot::Mutex;

use crate::book::{Book, now_ns};
use crate::disk::{Platter, SimDisk};
use crate::links::Links;
use crate::net::SimNet;
use crate::plan::Plan;

pub(crate) const N_NODES: usize = 3;
pub(crate) const GATEWAY_PORT: u16 = 8080;
pub(crate) const ADMIN_PORT: u16 = 7070;
const PEER_PORT: u16 = 7071;
/// A node that failed to start is started again, as a supervisor does.
const RESTART_PAUSE: Duration = Duration::from_millis(500);
/// Starts that may fail in a row.
const MAX_STARTS: u32 = 3;

/// Where one node lives; outlives its process.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) place: usize,
    pub(crate) platter: Arc<Platter>,
    pub(crate) dir: PathBuf,
    pub(crate) links: Arc<Links>,
    pub(crate) book: Arc<Book>,
    pub(crate) plan: Plan,
    /// Set while the node's process runs.
    pub(crate) view: Mutex<Option<View>>,
}

/// What the harness may look at.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) raft: RaftNode,
    pub(crate) agent: Agent,
}

pub(crate) fn name(place: usize) -> String {
    format!("node{}", place + 1)
}

impl Site {
    pub(crate) fn name(&self) -> String {
        name(self.place)
    }

    /// Runs one life of the node's process.
    pub(crate) async fn run(self: Arc<Self>) -> turmoil::Result {
        for n_starts in 1.. {
            match Node::start(self.config(), self.ground()).await {
                Ok(node) => {
                    *self.view.lock() = Some(View {
                        raft: node.raft().clone(),
                        agent: node.agent().clone(),
                    });
                    if let Err(refused) = node.found(&self.config()).await {
                        self.book
                            .found(&self.name(), format!("may not take part: {refused:#}"));
                    }
                    std::future::pending::<()>().await;
                }
                Err(error) if n_starts >= MAX_STARTS => {
                    self.book
                        .found(&self.name(), format!("does not start: {error:#}"));
                    std::future::pending::<()>().await;
                }
                Err(error) => {
                    self.book
                        .trace(format_args!("{} start failed: {error:#}", self.name()));
                    tokio::time::sleep(RESTART_PAUSE).await;
                }
            }
        }
        Ok(())
    }

    fn ground(&self) -> Ground {
        let clock: Arc<dyn Fn() -> u64 + Send + Sync> = Arc::new(now_ns);
        Ground {
            host: Host {
                net: Net::Given(Arc::new(SimNet::new(&self.name(), self.links.clone()))),
                threads: Threads::Callers,
                clock: BootClock::Given(clock),
            },
            disk: Some(Box::new(SimDisk(self.platter.clone()))),
            requests: Some(self.request_listener()),
            orders: Some(self.order_listener()),
            snapshot_every: Some(self.plan.snapshot_every),
        }
    }

    fn request_listener(&self) -> RequestListener {
        let book = self.book.clone();
        RequestListener(Arc::new(move |instance, step, request| {
            if request.is_empty() {
                return;
            }
            let step = match step {
                RequestStep::Started => InstanceStep::Started,
                RequestStep::Finished => InstanceStep::Finished,
            };
            book.trace(format_args!("{instance} {step:?} {request}"));
            book.instance.lock().push(InstanceRecord {
                request: request.to_owned(),
                at_ns: now_ns(),
                instance: instance.to_string(),
                step,
            });
        }))
    }

    fn order_listener(&self) -> OrderListener {
        let (book, agent) = (self.book.clone(), self.name());
        OrderListener(Arc::new(move |shard, epoch, accepted| {
            book.commands.lock().push(AgentCommand {
                at_ns: now_ns(),
                agent: agent.clone(),
                owned: format!("shard {shard}"),
                epoch: epoch.0,
                // An order does not say who sends it; its epoch has one owner by the log.
                owner: "its owner".into(),
                accepted,
            });
        }))
    }

    fn config(&self) -> NodeConfig {
        let member = |place: usize| Member {
            id: place as u64 + 1,
            name: name(place),
            peer: format!("{}:{PEER_PORT}", name(place)),
            admin: format!("{}:{ADMIN_PORT}", name(place)),
        };
        let autoscaler = [
            ("allow-zero-initial-scale", "true"),
            ("stable-window", "6s"),
            ("scale-to-zero-grace-period", "6s"),
        ];
        let text = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        NodeConfig {
            name: self.name(),
            node_id: self.place as u64 + 1,
            data_dir: self.dir.clone(),
            listen: "0.0.0.0".into(),
            advertise: self.name(),
            gateway_port: GATEWAY_PORT,
            admin_port: ADMIN_PORT,
            peer_port: PEER_PORT,
            members: (0..N_NODES).map(member).collect(),
            joined: false,
            cluster: "sim".into(),
            domain: "localhost".into(),
            external_port: None,
            profile: self.plan.profile,
            failover_fast_path: false,
            autoscaler: autoscaler.map(text).into(),
            capacity: 20,
            driver: DriverKind::Fake,
            fake_boot: Some(BootDelay {
                min_ms: self.plan.boot_ms.0,
                max_ms: self.plan.boot_ms.1,
            }),
            on_node_exit: None,
            instance_ports: 20_000,
            docker: DockerSettings::default(),
            process: ProcessSettings::default(),
            bundles: BundleSettings::default(),
            secrets_key_file: None,
            shutdown_grace: 30,
            log: nihilo_types::node_config::LOG.into(),
            gateway: GatewaySettings::default(),
        }
    }
}
