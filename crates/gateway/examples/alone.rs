//! A gateway alone in its process, in front of one upstream, for profiles and instruction counts:
//! `alone LISTEN UPSTREAM [ROUTES [LOG]]`. Serves `s0.default.localhost`, and as many hosts as are
//! asked for, until its standard input ends. `LOG` is the file of the access log; without it there
//! is none.

use std::net::SocketAddr;
use std::sync::Arc;

use nihilo_gateway::access_log::Destination;
use nihilo_gateway::{DemandSignal, Gateway, GatewayConfig, LocalInstances, ScaleUp};
use nihilo_host::Host;
use nihilo_types::autoscaler::DataPath;
use nihilo_types::endpoint::{Endpoint, EndpointTable};
use nihilo_types::id::{Epoch, InstanceId, LogIndex, NodeId, ObjectKey, SessionId, ShardId};
use nihilo_types::route_table::{HostEntry, RevisionTarget, RouteTable, Share, Visibility};

/// Of every request.
const TIMEOUT_MS: u64 = 300_000;

struct NoOwner;

impl ScaleUp for NoOwner {
    fn demand(&self, _signal: DemandSignal) {}
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let mut next = || args.next().ok_or("LISTEN UPSTREAM [ROUTES [LOG]]");
    let listen: SocketAddr = next()?.parse()?;
    let upstream: SocketAddr = next()?.parse()?;
    let n_routes: usize = next().map_or(Ok(10), |text| text.parse())?;
    let mut config = GatewayConfig::plain(listen, NodeId(1), "node1");
    config.access_log = next().map_or(Destination::Off, |path| Destination::File(path.into()));
    let runtime = tokio::runtime::Runtime::new()?;
    let (host, instances) = (Host::default(), LocalInstances::default());
    let gateway = Gateway::start(&config, &host, instances.clone(), Arc::new(NoOwner));
    let gateway = runtime.block_on(gateway)?;
    let id = InstanceId::from("s0-00001-abc-1");
    instances.open(&id, upstream, 0, false);
    gateway.update_endpoints(endpoints(id));
    let mut table = RouteTable {
        domain: "localhost".into(),
        ..RouteTable::default()
    };
    for n in 0..n_routes {
        let host = format!("s{n}.default.localhost");
        table.hosts.insert(host.into(), Arc::new(entry(n)));
    }
    gateway.swap_routes(Arc::new(table));
    gateway.open_listeners();
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

fn endpoints(id: InstanceId) -> EndpointTable {
    EndpointTable {
        revision: ObjectKey::new("default", "s0-00001"),
        revision_uid: "u".into(),
        epoch: Epoch(1),
        seq: 1,
        data_path: DataPath::Serve,
        instances: vec![Endpoint {
            id,
            node: NodeId(1),
            session: SessionId(1),
            peer_address: "127.0.0.1:1".into(),
            container_concurrency: 0,
            waking: Default::default(),
        }],
        last_failure: String::new(),
    }
}

fn entry(n: usize) -> HostEntry {
    let service: Arc<str> = format!("s{n}").into();
    let target = RevisionTarget {
        revision: ObjectKey::new("default", format!("s{n}-00001").as_str()),
        uid: "u".into(),
        service: service.clone(),
        configuration: service.clone(),
        shard: ShardId(0),
        container_concurrency: 0,
        timeout_ms: TIMEOUT_MS,
        response_start_timeout_ms: TIMEOUT_MS,
        idle_timeout_ms: 0,
        h2c: false,
        queue_depth: 0,
        max_scale: 0,
        probe_paths: Default::default(),
    };
    HostEntry {
        route: ObjectKey::new("default", &*service),
        index: LogIndex(1),
        tag: None,
        visibility: Visibility::Public,
        split: vec![Share {
            percent: 100,
            target: Arc::new(target),
        }],
        tags: std::collections::BTreeMap::new(),
    }
}
