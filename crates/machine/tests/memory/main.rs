//! What the state takes in memory for services that nobody uses (goal P16 of 10-goals.md).
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod counted;

use std::collections::BTreeMap;

use nihilo_machine::command::{
    AssignTraffic, CLUSTER_VERSION, Envelope, Expect, InitCluster, Move, OpenSession, PutService,
    Reassign, RecordRevision, RecordScale, RecordService, RequestKey, Roles, ScaleUpdate, Uids,
};
use nihilo_machine::{Command, Fence, Outcome, State};
use nihilo_types::autoscaler::ScaleRecord;
use nihilo_types::condition::{Assertion, ConditionStatus, types};
use nihilo_types::id::{LogIndex, NodeId, ObjectKey, ShardId};
use nihilo_types::route::TrafficTarget;
use nihilo_types::service::Service;
use nihilo_types::shard::{N_SHARDS, shard_of};
use nihilo_types::template::Container;

use crate::counted::Counted;

#[global_allocator]
static HEAP: Counted = Counted::new();

/// More than stay open in any case.
const N_SERVICES: usize = 5_000;
/// Goal P16 is 3 KiB for a whole node: the state leaves some of it to what is derived from it.
const MOST_BYTES: usize = 2_560;

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

#[test]
fn a_service_at_zero_takes_little_of_the_state() {
    for (is_ready, name) in [(false, "never looked at"), (true, "ready, at zero")] {
        let rows = rows_of(&filled(is_ready));
        let kinds = ["service", "configuration", "revision", "route", "scale"];
        let of_kind = |kind: &str| {
            let mut rows = rows.clone();
            rows.retain(|(key, _)| key.starts_with(kind.as_bytes()));
            let n_json: usize = rows.iter().map(|(_, value)| value.len()).sum();
            (n_json / N_SERVICES, measured(rows))
        };
        for kind in kinds {
            let (n_json, n_bytes) = of_kind(kind);
            println!("{name}: {kind}: {n_json} bytes of JSON, alone {n_bytes} in memory");
        }
        let n_bytes = measured(rows);
        println!("{name}: {n_bytes} bytes a service");
        assert!(n_bytes <= MOST_BYTES, "{name}: {n_bytes} bytes a service");
    }
}

/// Bytes a service of the state that is made of these rows.
fn measured(rows: Rows) -> usize {
    // The first state makes what is made once.
    let before = HEAP.n_bytes();
    let n_rows = rows.len();
    let state = State::from_rows(rows.iter().cloned()).unwrap();
    let taken = HEAP.n_bytes() - before;
    assert!(n_rows >= state.n_services());
    taken / N_SERVICES
}

fn rows_of(state: &State) -> Rows {
    let rows = state.rows().into_iter();
    let mut rows: Rows = rows.map(|row| (row.key, row.value.unwrap())).collect();
    rows.sort();
    rows
}

fn filled(is_ready: bool) -> State {
    let mut filling = Filling::default();
    filling.begin();
    for n in 0..N_SERVICES {
        let name = format!("idle-{n}");
        filling.put(&name, n);
        if is_ready {
            filling.make_ready(&ObjectKey::new("default", name));
        }
    }
    filling.state
}

#[derive(Default)]
struct Filling {
    state: State,
    index: u64,
}

impl Filling {
    fn apply(&mut self, command: Command) -> Outcome {
        self.index += 1;
        let envelope = Envelope {
            cluster_version: CLUSTER_VERSION,
            log_ms: self.index,
            wall_ms: 1_790_000_000_000 + 7_919 * self.index,
            request: RequestKey::default(),
            command,
        };
        let applied = self.state.apply(LogIndex(self.index), &envelope);
        applied.reply.result.unwrap()
    }

    fn begin(&mut self) {
        let no_instances = ("allow-zero-initial-scale".to_owned(), "true".to_owned());
        self.apply(Command::InitCluster(InitCluster {
            cluster_id: "memory".into(),
            name: "memory".into(),
            domain: "localhost".into(),
            external_port: 80,
            autoscaler: BTreeMap::from([no_instances]),
        }));
        let opened = self.apply(Command::OpenSession(OpenSession {
            node: NodeId(1),
            name: "n1".into(),
            boot_id: "boot".into(),
            roles: Roles::ALL,
            peer_address: String::new(),
            gateway_address: String::new(),
            admin_address: String::new(),
            pid: 0,
            capacity: 0,
            t_self_ms: 0,
            kills_instances_on_exit: false,
            store_id: String::new(),
        }));
        let Outcome::Session(session) = opened else {
            panic!("no session: {opened:?}");
        };
        let moves = (0..N_SHARDS).map(|shard| Move {
            shard: ShardId(shard),
            from_epoch: self.state.owner(ShardId(shard)).epoch,
            to: session,
        });
        let moves = moves.collect();
        self.apply(Command::Reassign(Reassign { moves }));
    }

    fn put(&mut self, name: &str, n: usize) {
        let mut service = Service::default();
        service.metadata.name = name.into();
        service.metadata.namespace = "default".into();
        let annotation = ("autoscaling.knative.dev/initial-scale", "0");
        let (key, value) = annotation;
        let template = &mut service.spec.template;
        template
            .metadata
            .annotations
            .insert(key.into(), value.into());
        template.spec.containers = vec![Container {
            image: "file:///srv/team/application/bin/server".into(),
            ..Container::default()
        }];
        self.apply(Command::PutService(Box::new(PutService {
            service,
            expect: Expect::Absent,
            uids: Uids {
                service: uid(4 * n),
                configuration: uid(4 * n + 1),
                route: uid(4 * n + 2),
                revision: uid(4 * n + 3),
            },
            user: "admin".into(),
        })));
    }

    /// What the service's actors write until there is nothing left to do.
    fn make_ready(&mut self, key: &ObjectKey) {
        let shard = shard_of(key);
        let epoch = self.state.owner(shard).epoch;
        let fence = Fence { shard, epoch };
        let revision_key = key.sibling(format!("{}-00001", key.name));
        let revision = self.state.revision(&revision_key).unwrap();
        self.apply(Command::RecordScale(RecordScale {
            scales: vec![ScaleUpdate {
                fence,
                revision: revision_key.clone(),
                uid: revision.metadata.uid.as_str().into(),
                record: ScaleRecord {
                    desired: 0,
                    active: ConditionStatus::False,
                    active_reason: "NoTraffic".into(),
                    initialized: true,
                    ..ScaleRecord::default()
                },
            }],
        }));
        let truths = |kinds: &[&str]| kinds.iter().map(|kind| Assertion::truth(kind)).collect();
        self.apply(Command::RecordRevision(RecordRevision {
            fence,
            version: revision.metadata.version(),
            key: revision_key.clone(),
            assertions: truths(&[types::RESOURCES_AVAILABLE, types::CONTAINER_HEALTHY]),
        }));
        let version = self.state.route(key).unwrap().metadata.version();
        self.apply(Command::AssignTraffic(AssignTraffic {
            fence,
            key: key.clone(),
            version,
            traffic: vec![TrafficTarget {
                revision_name: revision_key.name.to_string(),
                ..TrafficTarget::latest(100)
            }],
            rollouts: Vec::new(),
            assertions: truths(&[
                types::ALL_TRAFFIC_ASSIGNED,
                types::INGRESS_READY,
                types::CERTIFICATE_PROVISIONED,
            ]),
        }));
        let service_version = self.state.service(key).unwrap().metadata.version();
        let configuration = self.state.configuration(key).unwrap();
        self.apply(Command::RecordService(RecordService {
            fence,
            key: key.clone(),
            service_version,
            configuration_version: configuration.metadata.version(),
            latest_ready: revision_key.name.to_string(),
            configuration: truths(&[types::READY]),
            service: truths(&[types::CONFIGURATIONS_READY, types::ROUTES_READY]),
        }));
    }
}

/// As long and as little alike as those that are drawn.
fn uid(n: usize) -> String {
    let mixed = (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let (high, low) = (mixed >> 32, mixed & 0xffff_ffff);
    format!(
        "{high:08x}-{:04x}-4{:03x}-8{:03x}-{low:08x}{:04x}",
        low >> 16,
        high & 0xfff,
        low & 0xfff,
        high & 0xffff
    )
}
