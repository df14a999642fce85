//! A small cluster to apply commands to, and words for what they do.

use nihilo_machine::command::{
    AssignTraffic, CLUSTER_VERSION, DeleteService, Envelope, Expect, Fence, InitCluster, Move,
    OpenSession, PutService, Reassign, RecordRevision, RecordRoute, RecordScale, RecordService,
    RequestKey, Roles, ScaleUpdate, Uids,
};
use nihilo_machine::reply::{Change, Outcome};
use nihilo_machine::state::{Applied, EventKind, ObjectChange};
use nihilo_machine::{Command, Rejection, State};
use nihilo_types::autoscaler::ScaleRecord;
use nihilo_types::condition::{Assertion, types};
use nihilo_types::id::{Epoch, LogIndex, NodeId, ObjectKey, SessionId, ShardId};
use nihilo_types::route::TrafficTarget;
use nihilo_types::service::Service;
use nihilo_types::shard::shard_of;

/// A state and the index of its newest entry.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    pub(crate) state: State,
    pub(crate) index: u64,
    /// What watchers have seen, in order.
    pub(crate) changes: Vec<ObjectChange>,
}

impl World {
    /// Founded at 1; nodes 1 and 2 in sessions 2 and 3; the shard of `default/hello` owned by
    /// session 2 since 4.
    pub(crate) fn founded() -> Self {
        let mut world = Self::default();
        world.must(init());
        world.must(open(1, "boot-1"));
        world.must(open(2, "boot-1"));
        world.must(Command::Reassign(Reassign {
            moves: vec![step(shard_of(&key("hello")), 0, 2)],
        }));
        world
    }

    /// [`World::founded`] with the Service `hello` made at 5.
    pub(crate) fn with_hello() -> Self {
        let mut world = Self::founded();
        world.must(put("hello", Expect::Absent, "demo/hello"));
        world
    }

    pub(crate) fn apply(&mut self, command: Command) -> Applied {
        self.index += 1;
        let entry = envelope(self.index, command);
        let applied = self.state.apply(LogIndex(self.index), &entry);
        let changes = applied.events.iter().map(|event| event.object.clone());
        self.changes.extend(changes);
        applied
    }

    pub(crate) fn must(&mut self, command: Command) -> Applied {
        let applied = self.apply(command);
        assert!(applied.reply.result.is_ok(), "{:?}", applied.reply);
        applied
    }

    /// The fence of whoever owns a Service's shard now.
    pub(crate) fn fence(&self, service: &str) -> Fence {
        let shard = shard_of(&key(service));
        let epoch = self.state.owner(shard).epoch;
        Fence { shard, epoch }
    }

    pub(crate) fn record_revision(&self, name: &str, ready: bool) -> RecordRevision {
        let revision = self.state.revision(&key(name)).unwrap();
        let assertion = |kind| match ready {
            true => Assertion::truth(kind),
            false => Assertion::falsity(kind, "ExitCode1", "it broke"),
        };
        RecordRevision {
            fence: self.fence(&revision.root().name),
            key: key(name),
            version: revision.metadata.version(),
            assertions: vec![
                assertion(types::RESOURCES_AVAILABLE),
                assertion(types::CONTAINER_HEALTHY),
            ],
        }
    }

    pub(crate) fn assign(&self, service: &str, traffic: Vec<TrafficTarget>) -> AssignTraffic {
        AssignTraffic {
            fence: self.fence(service),
            key: key(service),
            version: self.route_version(service),
            traffic,
            rollouts: Vec::new(),
            assertions: vec![Assertion::truth(types::ALL_TRAFFIC_ASSIGNED)],
        }
    }

    pub(crate) fn record_route(&self, service: &str) -> RecordRoute {
        RecordRoute {
            fence: self.fence(service),
            key: key(service),
            version: self.route_version(service),
            assertions: vec![Assertion::truth(types::INGRESS_READY)],
        }
    }

    fn route_version(&self, service: &str) -> LogIndex {
        let route = self.state.route(&key(service)).unwrap();
        route.metadata.version()
    }

    pub(crate) fn record_service(&self, service: &str, latest_ready: &str) -> RecordService {
        let configuration = self.state.configuration(&key(service)).unwrap();
        RecordService {
            fence: self.fence(service),
            key: key(service),
            service_version: self.service_version(service),
            configuration_version: configuration.metadata.version(),
            latest_ready: latest_ready.into(),
            configuration: vec![Assertion::truth(types::READY)],
            service: vec![
                Assertion::truth(types::CONFIGURATIONS_READY),
                Assertion::truth(types::ROUTES_READY),
            ],
        }
    }

    pub(crate) fn service_version(&self, service: &str) -> LogIndex {
        let service = self.state.service(&key(service)).unwrap();
        service.metadata.version()
    }

    pub(crate) fn record_scale(&self, revision: &str, desired: i32) -> RecordScale {
        let stored = self.state.revision(&key(revision)).unwrap();
        RecordScale {
            scales: vec![ScaleUpdate {
                fence: self.fence(&stored.root().name),
                revision: key(revision),
                uid: stored.metadata.uid.as_str().into(),
                record: ScaleRecord {
                    desired,
                    ready: 1,
                    ..ScaleRecord::default()
                },
            }],
        }
    }
}

pub(crate) fn envelope(index: u64, command: Command) -> Envelope {
    Envelope {
        cluster_version: CLUSTER_VERSION,
        log_ms: index * 1_000,
        wall_ms: 1_700_000_000_000 + index * 1_000,
        request: RequestKey::default(),
        command,
    }
}

pub(crate) fn key(name: &str) -> ObjectKey {
    ObjectKey::new("default", name)
}

pub(crate) fn init() -> Command {
    Command::InitCluster(InitCluster {
        cluster_id: "test".into(),
        name: "test".into(),
        domain: "localhost".into(),
        external_port: 8080,
        autoscaler: std::collections::BTreeMap::new(),
    })
}

pub(crate) fn open_session(node: u64, boot: &str) -> OpenSession {
    OpenSession {
        node: NodeId(node),
        name: format!("node-{node}"),
        boot_id: boot.into(),
        roles: Roles::ALL,
        peer_address: format!("127.0.0.1:700{node}"),
        gateway_address: format!("127.0.0.1:800{node}"),
        admin_address: format!("127.0.0.1:900{node}"),
        pid: 100,
        capacity: 10,
        t_self_ms: 400,
        kills_instances_on_exit: false,
        store_id: String::new(),
    }
}

pub(crate) fn open(node: u64, boot: &str) -> Command {
    Command::OpenSession(open_session(node, boot))
}

pub(crate) fn step(shard: ShardId, from_epoch: u64, to: u64) -> Move {
    Move {
        shard,
        from_epoch: Epoch(from_epoch),
        to: SessionId(to),
    }
}

pub(crate) fn service(name: &str, image: &str) -> Service {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"template": {"spec": {"containers": [{"image": image}]}}},
    }))
    .unwrap()
}

pub(crate) fn put_service(service: Service, expect: Expect) -> Command {
    let name = &service.metadata.name;
    let image = &service.spec.template.spec.containers[0].image;
    let uid = |kind: &str| format!("{kind}-of-{name}-{image}");
    let uids = Uids {
        service: uid("service"),
        configuration: uid("configuration"),
        route: uid("route"),
        revision: uid("revision"),
    };
    Command::PutService(Box::new(PutService {
        service,
        expect,
        uids,
        user: "test".into(),
    }))
}

pub(crate) fn put(name: &str, expect: Expect, image: &str) -> Command {
    put_service(service(name, image), expect)
}

/// The same with a name for the revision.
pub(crate) fn put_named(name: &str, image: &str, revision: &str) -> Command {
    let mut service = service(name, image);
    service.spec.template.metadata.name = revision.into();
    put_service(service, Expect::Any)
}

pub(crate) fn delete(name: &str, expect: Expect) -> Command {
    Command::DeleteService(DeleteService {
        key: key(name),
        expect,
    })
}

/// A reply in words.
pub(crate) fn reply_of(applied: &Applied) -> String {
    match &applied.reply.result {
        Ok(outcome) => outcome_text(outcome),
        Err(rejection) => format!("refused: {rejection}"),
    }
}

fn change_text(change: Change) -> &'static str {
    match change {
        Change::Created => "created",
        Change::Updated => "updated",
        Change::Unchanged => "unchanged",
        Change::Deleted => "deleted",
    }
}

fn outcome_text(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done => "done".into(),
        Outcome::Session(id) => format!("session {id}"),
        Outcome::Node(id) => format!("node {id}"),
        Outcome::Service { service, change } => {
            format!("{} {}", change_text(*change), service.metadata.name)
        }
        Outcome::ConfigMap { config_map, change } => {
            format!("{} {}", change_text(*change), config_map.metadata.name)
        }
        Outcome::DomainMapping {
            domain_mapping,
            change,
        } => {
            format!("{} {}", change_text(*change), domain_mapping.metadata.name)
        }
        Outcome::DomainClaim { claim, change } => {
            format!("{} {}", change_text(*change), claim.metadata.name)
        }
        Outcome::Secret { secret, change } => {
            format!("{} {}", change_text(*change), secret.metadata.name)
        }
        Outcome::Scales { refused } => {
            let refused: Vec<_> = refused.iter().map(|key| key.name.to_string()).collect();
            format!("scales, refused [{}]", refused.join(" "))
        }
    }
}

/// Rows written (`+`) and deleted (`-`) in order, the clock's aside, which every entry writes.
pub(crate) fn rows_of(applied: &Applied) -> Vec<String> {
    let mut rows = applied.rows.iter().map(|row| {
        let key = String::from_utf8(row.key.clone())
            .unwrap()
            .replace('\0', "/");
        let sign = if row.value.is_some() { '+' } else { '-' };
        format!("{sign}{}", key.replace("/default/", " "))
    });
    assert_eq!(rows.next().as_deref(), Some("+clock"));
    rows.collect()
}

/// What watchers see, in order.
pub(crate) fn events_of(applied: &Applied) -> Vec<String> {
    let text = |kind: &str, change: EventKind, name: &str| format!("{change:?} {kind} {name}");
    let events = applied.events.iter().map(|event| {
        assert_eq!(event.index, applied.reply.index);
        match &event.object {
            ObjectChange::Service { object, change } => {
                text("service", *change, &object.metadata.name)
            }
            ObjectChange::Configuration { object, change } => {
                text("configuration", *change, &object.metadata.name)
            }
            ObjectChange::Revision { object, change } => {
                text("revision", *change, &object.metadata.name)
            }
            ObjectChange::Route { object, change } => text("route", *change, &object.metadata.name),
            ObjectChange::ConfigMap { object, change } => {
                text("configmap", *change, &object.metadata.name)
            }
            ObjectChange::DomainMapping { object, change } => {
                text("domainmapping", *change, &object.metadata.name)
            }
            ObjectChange::DomainClaim { object, change } => {
                text("domainclaim", *change, &object.metadata.name)
            }
            ObjectChange::Secret { object, change } => {
                text("secret", *change, &object.metadata.name)
            }
            ObjectChange::Scale { revision } => format!("Modified scale {}", revision.name),
        }
    });
    events.collect()
}

/// One row of a table: what was, what is asked, and everything that comes of it.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) given: World,
    pub(crate) when: Command,
    pub(crate) reply: &'static str,
    pub(crate) rows: &'static [&'static str],
    pub(crate) events: &'static [&'static str],
}

/// Applies every case, and sees that what is refused changes nothing at all.
pub(crate) fn check(cases: Vec<Case>) {
    for case in cases {
        let mut world = case.given.clone();
        let applied = world.apply(case.when);
        assert_eq!(reply_of(&applied), case.reply, "{}: reply", case.name);
        assert_eq!(rows_of(&applied), case.rows, "{}: rows", case.name);
        assert_eq!(events_of(&applied), case.events, "{}: events", case.name);
        if applied.reply.result.is_err() {
            let unchanged = without_clock(&world.state) == without_clock(&case.given.state);
            assert!(unchanged, "{}: refused, yet something changed", case.name);
            assert!(!applied.ownership_changed, "{}", case.name);
        }
    }
}

/// All rows in order; equal rows are equal states.
pub(crate) fn digest(state: &State) -> Vec<(String, String)> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let mut rows: Vec<_> = (state.rows().into_iter())
        .map(|row| (text(row.key), text(row.value.unwrap())))
        .collect();
    rows.sort();
    rows
}

pub(crate) fn without_clock(state: &State) -> Vec<(String, String)> {
    let mut rows = digest(state);
    rows.retain(|(key, _)| key != "clock");
    rows
}

pub(crate) fn fenced(owner: u64, epoch: u64) -> Rejection {
    Rejection::Fenced {
        owner: SessionId(owner),
        epoch: Epoch(epoch),
    }
}
