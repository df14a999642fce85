//! A node whose store holds many services before its first start.
//!
//! The state is made by the commands that make services, applied here, and written down as a
//! restored backup is: what would take a cluster minutes takes seconds.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail};
use nihilo_machine::command::{
    AssignTraffic, CLUSTER_VERSION, Envelope, Expect, InitCluster, Move, OpenSession, PutService,
    Reassign, RecordRevision, RecordScale, RecordService, RequestKey, Roles, ScaleUpdate, Uids,
};
use nihilo_machine::{Command as Entry, Fence, Outcome, State};
use nihilo_raft::{anew, backup::Backup};
use nihilo_types::autoscaler::ScaleRecord;
use nihilo_types::condition::{Assertion, ConditionStatus, types};
use nihilo_types::id::{LogIndex, NodeId, ObjectKey, ShardId};
use nihilo_types::node_config::{Member, NodeConfig, OnNodeExit};
use nihilo_types::route::TrafficTarget;
use nihilo_types::service::Service;
use nihilo_types::shard::{N_SHARDS, shard_of};

use crate::cluster::{service, with_scale};

const CLUSTER: &str = "bench";
/// Of the services that are only there, so that lists of others stay short.
const IDLE_NAMESPACE: &str = "idle";

/// A state that grows by commands.
#[derive(Debug, Default)]
pub(crate) struct Filling {
    state: State,
    index: u64,
}

impl Filling {
    /// A founded cluster.
    pub(crate) fn begin() -> anyhow::Result<Self> {
        let mut filling = Self::default();
        // Services at zero are meant to stay there from the start.
        let no_instances = ("allow-zero-initial-scale".to_owned(), "true".to_owned());
        filling.apply(Entry::InitCluster(InitCluster {
            cluster_id: CLUSTER.into(),
            name: CLUSTER.into(),
            domain: "localhost".into(),
            external_port: 80,
            autoscaler: BTreeMap::from([no_instances]),
        }))?;
        Ok(filling)
    }

    /// So many services at zero, as they are when nobody has looked at them yet.
    ///
    /// # Errors
    /// A command is refused: the benchmark is wrong.
    pub(crate) fn add_services(&mut self, n: usize, image: &str) -> anyhow::Result<()> {
        for n in 0..n {
            let idle = service(&format!("idle-{n}"), image, &[]);
            self.put(with_scale(idle, "initial-scale", "0"))?;
        }
        Ok(())
    }

    /// So many services at zero that their owners have brought to Ready: each has its route.
    ///
    /// # Errors
    /// A command is refused: the benchmark is wrong.
    pub(crate) fn add_routes(&mut self, n: usize, image: &str) -> anyhow::Result<()> {
        self.own_all_shards()?;
        for n in 0..n {
            let mut idle = service(&format!("idle-{n}"), image, &[]);
            idle.metadata.namespace = IDLE_NAMESPACE.into();
            let idle = with_scale(idle, "initial-scale", "0");
            let key = idle.metadata.key();
            self.put(idle)?;
            self.make_ready(&key)?;
        }
        Ok(())
    }

    fn put(&mut self, service: Service) -> anyhow::Result<()> {
        self.apply(Entry::PutService(Box::new(PutService {
            service,
            expect: Expect::Absent,
            uids: Uids::default(),
            user: "bench".into(),
        })))?;
        Ok(())
    }

    /// What actors do needs an owner; this one is gone when the state is restored.
    fn own_all_shards(&mut self) -> anyhow::Result<()> {
        let opened = self.apply(Entry::OpenSession(OpenSession {
            node: NodeId(1),
            name: "filling".into(),
            boot_id: "filling".into(),
            roles: Roles::ALL,
            peer_address: String::new(),
            gateway_address: String::new(),
            admin_address: String::new(),
            pid: 0,
            capacity: 0,
            t_self_ms: 0,
            kills_instances_on_exit: false,
            store_id: String::new(),
        }))?;
        let Outcome::Session(session) = opened else {
            bail!("no session was opened");
        };
        let moves = (0..N_SHARDS).map(|shard| Move {
            shard: ShardId(shard),
            from_epoch: self.state.owner(ShardId(shard)).epoch,
            to: session,
        });
        let moves = moves.collect();
        self.apply(Entry::Reassign(Reassign { moves }))?;
        Ok(())
    }

    /// What the actors of a service, its route, its revision and its autoscaler write until it is
    /// Ready and at zero: none of them has anything left to do.
    fn make_ready(&mut self, key: &ObjectKey) -> anyhow::Result<()> {
        let shard = shard_of(key);
        let epoch = self.state.owner(shard).epoch;
        let fence = Fence { shard, epoch };
        let truth = Assertion::truth;
        let configuration = self.state.configuration(key).context("no configuration")?;
        let revision = configuration.status.latest_created_revision_name.clone();
        let revision_key = key.sibling(revision.as_str());
        let stored = self.state.revision(&revision_key).context("no revision")?;
        let (version, uid) = (
            stored.metadata.version(),
            stored.metadata.uid.as_str().into(),
        );
        self.apply(Entry::RecordScale(RecordScale {
            scales: vec![ScaleUpdate {
                fence,
                revision: revision_key.clone(),
                uid,
                record: at_zero(),
            }],
        }))?;
        self.apply(Entry::RecordRevision(RecordRevision {
            fence,
            version,
            key: revision_key,
            assertions: vec![
                truth(types::RESOURCES_AVAILABLE),
                truth(types::CONTAINER_HEALTHY),
            ],
        }))?;
        let route = self.state.route(key).context("no route")?;
        self.apply(Entry::AssignTraffic(AssignTraffic {
            fence,
            key: key.clone(),
            version: route.metadata.version(),
            traffic: vec![TrafficTarget {
                revision_name: revision.clone(),
                ..TrafficTarget::latest(100)
            }],
            rollouts: Vec::new(),
            assertions: route_is_ready(),
        }))?;
        let service = self.state.service(key).context("no service")?;
        let configuration = self.state.configuration(key).context("no configuration")?;
        self.apply(Entry::RecordService(RecordService {
            fence,
            key: key.clone(),
            service_version: service.metadata.version(),
            configuration_version: configuration.metadata.version(),
            latest_ready: revision,
            configuration: vec![truth(types::READY)],
            service: vec![
                truth(types::CONFIGURATIONS_READY),
                truth(types::ROUTES_READY),
            ],
        }))?;
        Ok(())
    }

    fn apply(&mut self, command: Entry) -> anyhow::Result<Outcome> {
        self.index += 1;
        let envelope = Envelope {
            cluster_version: CLUSTER_VERSION,
            log_ms: self.index,
            wall_ms: self.index,
            request: RequestKey::default(),
            command,
        };
        let index = self.index;
        match self.state.apply(LogIndex(index), &envelope).reply.result {
            Ok(outcome) => Ok(outcome),
            Err(rejection) => bail!("entry {index}: {rejection}"),
        }
    }

    /// Makes `dir` the store of a cluster of one node, whose ports and instances' ports are so
    /// much above the default ones.
    ///
    /// # Errors
    /// The directory is in use, or cannot be written.
    pub(crate) fn write(self, dir: &Path, offsets: (u16, u16)) -> anyhow::Result<NodeConfig> {
        std::fs::create_dir_all(dir)?;
        let mut config = NodeConfig::of_one("node1".into(), 0, dir.to_owned());
        config.cluster = CLUSTER.into();
        config.joined = true;
        let (of_node, of_instances) = offsets;
        config.gateway_port += of_node;
        config.admin_port += of_node;
        config.peer_port += of_node;
        config.instance_ports += of_instances;
        // Benches kill their nodes, and nothing shall be left of them.
        config.on_node_exit = Some(OnNodeExit::Kill);
        let backup = Backup::of(self.state, CLUSTER, self.index);
        let place = anew::Place {
            name: config.name.clone(),
            peer_address: config.peer_address(),
            admin_address: config.admin_address(),
        };
        config.node_id = anew::restore(dir, backup, CLUSTER, place)?.node_id;
        config.members = vec![Member {
            id: config.node_id,
            name: config.name.clone(),
            peer: config.peer_address(),
            admin: config.admin_address(),
        }];
        Ok(config)
    }
}

fn at_zero() -> ScaleRecord {
    ScaleRecord {
        desired: 0,
        active: ConditionStatus::False,
        active_reason: "NoTraffic".into(),
        initialized: true,
        ..ScaleRecord::default()
    }
}

/// In the words of the route's owner, so that it has nothing to correct.
fn route_is_ready() -> Vec<Assertion> {
    let certificate = Assertion::new(
        types::CERTIFICATE_PROVISIONED,
        ConditionStatus::True,
        "TLSNotEnabled",
        "external-domain-tls is not enabled",
    );
    vec![
        Assertion::truth(types::ALL_TRAFFIC_ASSIGNED),
        Assertion::truth(types::INGRESS_READY),
        certificate,
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use nihilo_machine::route_table;

    use super::*;

    #[test]
    fn each_service_has_its_host_and_is_ready() {
        let mut filling = Filling::begin().unwrap();
        filling.add_routes(3, "file:///bin/true").unwrap();
        let table = route_table::build(&filling.state, LogIndex(filling.index));
        let hosts = table.hosts.keys().map(|host| host.to_string());
        let hosts: BTreeSet<_> = hosts.collect();
        let wanted = ["idle-0", "idle-1", "idle-2"].map(|name| format!("{name}.idle.localhost"));
        assert_eq!(hosts, BTreeSet::from(wanted));
        assert!(table.hosts.values().all(|entry| entry.split.len() == 1));
        let key = ObjectKey::new(IDLE_NAMESPACE, "idle-1");
        let service = filling.state.service(&key).unwrap();
        assert!(service.status.conditions.is_true(types::READY));
        assert_eq!(service.status.traffic[0].percent, Some(100));
        let revision = key.sibling(service.status.latest_ready_revision_name.as_str());
        let scale = filling.state.scale(&revision);
        assert_eq!((scale.desired, scale.initialized), (0, true));
    }

    #[test]
    fn services_alone_have_no_host_yet() {
        let mut filling = Filling::begin().unwrap();
        filling.add_services(3, "file:///bin/true").unwrap();
        let table = route_table::build(&filling.state, LogIndex(filling.index));
        assert!(table.hosts.is_empty());
    }
}
