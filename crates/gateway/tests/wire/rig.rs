//! A gateway of its own with its services and their backends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nihilo_gateway::connection::ClientLimits;
use nihilo_gateway::{DemandSignal, Gateway, GatewayConfig, LocalInstances, ScaleUp};
use nihilo_host::Host;
use nihilo_types::autoscaler::DataPath;
use nihilo_types::endpoint::{Endpoint, EndpointTable};
use nihilo_types::id::{Epoch, InstanceId, LogIndex, NodeId, ObjectKey, SessionId, ShardId};
use nihilo_types::probe_paths::ProbePaths;
use nihilo_types::route_table::{HostEntry, RevisionTarget, RouteTable, Share, Visibility};

use crate::backend::{Backend, Manner};
use crate::{h2c_backend, ws_backend};

/// The nothing beyond the data plane: instances stand ready, and no more come.
#[derive(Debug)]
struct NoOwner(Arc<AtomicUsize>);

impl ScaleUp for NoOwner {
    fn demand(&self, _signal: DemandSignal) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Pause of the services that make clients wait.
pub const PAUSE: Duration = Duration::from_millis(500);

pub struct Rig {
    pub gateway: Gateway,
    pub address: SocketAddr,
    pub echo: Backend,
    pub scripted: Backend,
    /// How often more instances were asked for.
    pub n_demands: Arc<AtomicUsize>,
}

struct Service {
    name: &'static str,
    address: Option<SocketAddr>,
    h2c: bool,
    timeout_ms: u64,
    response_start_ms: u64,
    idle_ms: u64,
    probe_paths: &'static str,
}

impl Rig {
    pub fn start(is_hasty: bool) -> Self {
        Self::with(|config| {
            if is_hasty {
                config.client_limits = ClientLimits {
                    head: Duration::from_millis(400),
                    idle: Duration::from_millis(800),
                    stall: Duration::from_millis(800),
                    body_idle: Duration::from_millis(400),
                    body_grace: Duration::from_millis(800),
                    linger: Duration::from_millis(200),
                };
            }
        })
    }

    /// With a configuration of its own.
    pub fn with(change: impl FnOnce(&mut GatewayConfig)) -> Self {
        let (echo, scripted) = (
            Backend::start(Manner::Echo),
            Backend::start(Manner::Scripted),
        );
        let slow = Backend::start(Manner::SlowStart(PAUSE));
        let idle = Backend::start(Manner::Idle(PAUSE));
        let refused = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let down = refused.local_addr().expect("an address");
        drop(refused);
        let service = |name, address| Service {
            name,
            address,
            h2c: false,
            timeout_ms: 20_000,
            response_start_ms: 0,
            idle_ms: 0,
            probe_paths: "",
        };
        let services = [
            service("echo", Some(echo.address)),
            service("scripted", Some(scripted.address)),
            Service {
                h2c: true,
                ..service("h2c", Some(h2c_backend::start()))
            },
            Service {
                probe_paths: "/up,*",
                ..service("napping", None)
            },
            Service {
                probe_paths: "/up",
                ..service("watched", Some(echo.address))
            },
            service("ws", Some(ws_backend::start())),
            service("pausing", Some(slow.address)),
            Service {
                timeout_ms: 300,
                ..service("asleep", None)
            },
            Service {
                timeout_ms: 300,
                ..service("down", Some(down))
            },
            Service {
                response_start_ms: 100,
                ..service("slowstart", Some(slow.address))
            },
            Service {
                idle_ms: 100,
                ..service("idle", Some(idle.address))
            },
            Service {
                timeout_ms: 200,
                ..service("short", Some(idle.address))
            },
        ];
        let listen = "127.0.0.1:0".parse().expect("an address");
        let mut config = GatewayConfig::plain(listen, NodeId(1), "node1");
        change(&mut config);
        let instances = LocalInstances::default();
        let (host, n_demands) = (Host::default(), Arc::new(AtomicUsize::new(0)));
        let gateway = Gateway::start(
            &config,
            &host,
            instances.clone(),
            Arc::new(NoOwner(n_demands.clone())),
        );
        // It binds here, and serves on a thread of its own.
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let gateway = runtime.block_on(gateway).expect("a gateway");
        let mut table = RouteTable {
            domain: "test".into(),
            ..RouteTable::default()
        };
        for service in &services {
            let id = InstanceId::from(service.name);
            if let Some(address) = service.address {
                instances.open(&id, address, 0, service.h2c);
                gateway.update_endpoints(endpoints(service.name, &id));
            }
            let entry = Arc::new(service.entry());
            let hosts = [
                format!("{}.test", service.name),
                format!("v1-{}.test", service.name),
            ];
            for host in hosts {
                table.hosts.insert(host.into(), entry.clone());
            }
        }
        let private = HostEntry {
            visibility: Visibility::ClusterLocal,
            ..services[0].entry()
        };
        table.hosts.insert("private.test".into(), Arc::new(private));
        table
            .hosts
            .insert("*.wild.test".into(), Arc::new(services[0].entry()));
        gateway.swap_routes(Arc::new(table));
        gateway.open_listeners();
        Self {
            address: gateway.addresses()[0],
            gateway,
            echo,
            scripted,
            n_demands,
        }
    }

    pub fn backend(&self, service: &str) -> &Backend {
        match service {
            "scripted" => &self.scripted,
            _ => &self.echo,
        }
    }
}

/// The owner's word that a service has no instance, because its last start failed.
pub fn failed(name: &str) -> EndpointTable {
    EndpointTable {
        seq: 2,
        instances: Vec::new(),
        last_failure: "it broke".into(),
        ..endpoints(name, &InstanceId::from(name))
    }
}

fn endpoints(name: &str, id: &InstanceId) -> EndpointTable {
    EndpointTable {
        revision: ObjectKey::new("default", name),
        revision_uid: name.into(),
        epoch: Epoch(1),
        seq: 1,
        data_path: DataPath::Serve,
        instances: vec![Endpoint {
            id: id.clone(),
            node: NodeId(1),
            session: SessionId(1),
            peer_address: "127.0.0.1:1".into(),
            container_concurrency: 0,
            waking: Default::default(),
        }],
        last_failure: String::new(),
    }
}

impl Service {
    fn entry(&self) -> HostEntry {
        let target = Arc::new(RevisionTarget {
            revision: ObjectKey::new("default", self.name),
            uid: self.name.into(),
            service: self.name.into(),
            configuration: self.name.into(),
            shard: ShardId(0),
            container_concurrency: 0,
            timeout_ms: self.timeout_ms,
            response_start_timeout_ms: self.response_start_ms,
            idle_timeout_ms: self.idle_ms,
            h2c: self.h2c,
            queue_depth: 0,
            max_scale: 0,
            probe_paths: ProbePaths::parse(self.probe_paths).unwrap_or_default(),
        });
        HostEntry {
            route: ObjectKey::new("default", self.name),
            index: LogIndex(0xabc),
            tag: None,
            visibility: Visibility::Public,
            split: vec![Share {
                percent: 100,
                target: target.clone(),
            }],
            tags: [("v1".into(), target)].into(),
        }
    }
}
