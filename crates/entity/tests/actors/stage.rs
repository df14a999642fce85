//! A small cluster for one actor: two nodes, one Service, the shard's keeper; and effects in words.

use std::collections::BTreeMap;

use nihilo_entity::keeper::Keeper;
use nihilo_entity::table::{InstanceRow, RowState};
use nihilo_entity::{Effect, Event, Outputs, Settings, ShardTable, View};
use nihilo_machine::command::{
    AssignTraffic, CLUSTER_VERSION, DeleteService, Envelope, Expect, Fence, Founder, InitCluster,
    Move, OpenSession, PutService, Reassign, RecordMembers, RecordRevision, RecordScale,
    RecordService, RequestKey, Roles, ScaleUpdate, SetDuty, Uids,
};
use nihilo_machine::member::Duty;
use nihilo_machine::state::Applied;
use nihilo_machine::{Command, State};
use nihilo_types::autoscaler::ScaleRecord;
use nihilo_types::condition::{Assertion, ConditionStatus, types};
use nihilo_types::id::{Epoch, InstanceId, LogIndex, NodeId, ObjectKey, SessionId, ShardId};
use nihilo_types::instance::{Exit, InstanceReport, InstanceState};
use nihilo_types::route::TrafficTarget;
use nihilo_types::service::Service;

/// The shard of `default/hello`, owned by session 2 since 4.
pub(crate) const SHARD: ShardId = ShardId(40);
pub(crate) const EPOCH: Epoch = Epoch(4);
/// Sessions of nodes 1 and 2.
pub(crate) const ONE: SessionId = SessionId(2);
pub(crate) const TWO: SessionId = SessionId(3);
/// When a stage begins, in the owner's milliseconds.
pub(crate) const START_MS: u64 = 1_000_000;

#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) state: State,
    index: u64,
    pub(crate) keeper: Keeper,
    settings: Settings,
    pub(crate) now_ms: u64,
    n_put: u32,
    annotations: BTreeMap<String, String>,
    n_adopted: u32,
}

impl Stage {
    /// Service `hello` with one revision, not seen by any actor yet.
    pub(crate) fn new(annotations: &[(&str, &str)]) -> Self {
        let full = |key: &str| match key.contains('/') {
            true => key.to_owned(),
            false => format!("autoscaling.knative.dev/{key}"),
        };
        let annotations = annotations.iter().map(|(k, v)| (full(k), (*v).to_owned()));
        let mut stage = Self {
            state: State::default(),
            index: 0,
            keeper: Keeper::new(SHARD, EPOCH, std::iter::empty()),
            settings: Settings::default(),
            now_ms: START_MS,
            n_put: 0,
            annotations: annotations.collect(),
            n_adopted: 0,
        };
        stage.keeper.table.complete = true;
        stage.apply(Command::InitCluster(InitCluster {
            cluster_id: "test".into(),
            name: "test".into(),
            domain: "localhost".into(),
            external_port: 80,
            autoscaler: std::collections::BTreeMap::new(),
        }));
        stage.open(1, "boot-1");
        stage.open(2, "boot-1");
        stage.apply(Command::Reassign(Reassign {
            moves: vec![Move {
                shard: SHARD,
                from_epoch: Epoch(0),
                to: ONE,
            }],
        }));
        stage.put("demo/hello");
        stage
    }

    /// [`Stage::new`] with a cluster setting changed.
    pub(crate) fn with_settings(
        annotations: &[(&str, &str)],
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let mut stage = Self::new(annotations);
        change(&mut stage.settings);
        stage
    }

    pub(crate) fn view(&self) -> View<'_> {
        View {
            state: &self.state,
            table: &self.keeper.table,
            settings: &self.settings,
        }
    }

    pub(crate) fn apply(&mut self, command: Command) -> Applied {
        self.index += 1;
        let envelope = Envelope {
            cluster_version: CLUSTER_VERSION,
            log_ms: self.index * 1_000,
            wall_ms: 1_700_000_000_000 + self.index * 1_000,
            request: RequestKey::default(),
            command,
        };
        let applied = self.state.apply(LogIndex(self.index), &envelope);
        assert!(applied.reply.result.is_ok(), "{:?}", applied.reply);
        applied
    }

    pub(crate) fn open(&mut self, node: u64, boot: &str) -> SessionId {
        self.apply(Command::OpenSession(OpenSession {
            node: NodeId(node),
            name: format!("node-{node}"),
            boot_id: boot.into(),
            roles: Roles::ALL,
            peer_address: format!("10.0.0.{node}:7000"),
            gateway_address: String::new(),
            admin_address: String::new(),
            pid: 1,
            capacity: 10,
            t_self_ms: 400,
            kills_instances_on_exit: false,
            store_id: String::new(),
        }));
        SessionId(self.index)
    }

    /// Nodes 1 and 2 as members with these duties.
    pub(crate) fn duties(&mut self, duties: [Duty; 2]) {
        let founder = |id: u64| Founder {
            id: NodeId(id),
            name: format!("node-{id}"),
            peer_address: format!("10.0.0.{id}:7000"),
            admin_address: String::new(),
        };
        let members = (1..=2).map(founder).collect();
        self.apply(Command::RecordMembers(RecordMembers { members }));
        for (node, duty) in (1..).map(NodeId).zip(duties) {
            self.apply(Command::SetDuty(SetDuty { node, duty }));
        }
    }

    /// The next template of `hello`; the first one creates it.
    pub(crate) fn put(&mut self, image: &str) {
        self.put_with_traffic(image, Vec::new());
    }

    pub(crate) fn put_with_traffic(&mut self, image: &str, traffic: Vec<TrafficTarget>) {
        self.n_put += 1;
        let mut service: Service = serde_json::from_value(serde_json::json!({
            "apiVersion": "serving.knative.dev/v1",
            "kind": "Service",
            "metadata": {"name": "hello", "namespace": "default"},
            "spec": {"template": {"spec": {"containers": [{"image": image}]}}},
        }))
        .unwrap();
        service.spec.template.metadata.annotations = self.annotations.clone();
        service.spec.traffic = traffic;
        let uid = |kind: &str| format!("{kind}-{}", self.n_put);
        let uids = Uids {
            service: uid("service"),
            configuration: uid("configuration"),
            route: uid("route"),
            revision: uid("revision"),
        };
        self.apply(Command::PutService(Box::new(PutService {
            service,
            expect: Expect::Any,
            uids,
            user: "test".into(),
        })));
    }

    pub(crate) fn delete(&mut self) {
        self.apply(Command::DeleteService(DeleteService {
            key: key("hello"),
            expect: Expect::Any,
        }));
    }

    pub(crate) fn fence() -> Fence {
        Fence {
            shard: SHARD,
            epoch: EPOCH,
        }
    }

    pub(crate) fn mark_revision(&mut self, name: &str, assertions: Vec<Assertion>) {
        let version = self.state.revision(&key(name)).unwrap().metadata.version();
        self.apply(Command::RecordRevision(RecordRevision {
            fence: Self::fence(),
            key: key(name),
            version,
            assertions,
        }));
    }

    pub(crate) fn mark_ready(&mut self, name: &str) {
        let truths = [types::RESOURCES_AVAILABLE, types::CONTAINER_HEALTHY];
        self.mark_revision(name, truths.map(Assertion::truth).to_vec());
    }

    /// The Service actor's roll-up, as far as the route looks at it.
    pub(crate) fn mark_latest_ready(&mut self, name: &str) {
        let version = |meta: &nihilo_types::meta::ObjectMeta| meta.version();
        let service_version = version(&self.state.service(&key("hello")).unwrap().metadata);
        let configuration = self.state.configuration(&key("hello")).unwrap();
        self.apply(Command::RecordService(RecordService {
            fence: Self::fence(),
            key: key("hello"),
            service_version,
            configuration_version: version(&configuration.metadata),
            latest_ready: name.into(),
            configuration: vec![Assertion::truth(types::READY)],
            service: Vec::new(),
        }));
    }

    pub(crate) fn assign(&mut self, traffic: Vec<TrafficTarget>) {
        let route = self.state.route(&key("hello")).unwrap();
        let version = route.metadata.version();
        self.apply(Command::AssignTraffic(AssignTraffic {
            fence: Self::fence(),
            key: key("hello"),
            version,
            traffic,
            rollouts: Vec::new(),
            assertions: vec![Assertion::truth(types::ALL_TRAFFIC_ASSIGNED)],
        }));
    }

    /// All traffic goes to the first revision: it is routed.
    pub(crate) fn route(&mut self) {
        self.mark_ready("hello-00001");
        self.assign(vec![TrafficTarget::revision("hello-00001", 100)]);
    }

    /// What an earlier owner left in the log.
    pub(crate) fn recorded(&mut self, desired: i32, active: ConditionStatus) {
        let revision = self.state.revision(&key("hello-00001")).unwrap();
        let uid = revision.metadata.uid.as_str().into();
        self.apply(Command::RecordScale(RecordScale {
            scales: vec![ScaleUpdate {
                fence: Self::fence(),
                revision: key("hello-00001"),
                uid,
                record: ScaleRecord {
                    desired,
                    active,
                    initialized: true,
                    ..ScaleRecord::default()
                },
            }],
        }));
    }

    /// A report of the first revision's present life.
    pub(crate) fn report(&self, id: &InstanceId, state: InstanceState) -> InstanceReport {
        let revision = self.state.revision(&key("hello-00001"));
        let uid = revision
            .as_deref()
            .map_or("gone", |revision| revision.metadata.uid.as_str());
        InstanceReport {
            id: id.clone(),
            revision: key("hello-00001"),
            revision_uid: uid.into(),
            shard: SHARD,
            epoch: EPOCH,
            state,
            address: None,
            pid: None,
            in_flight: 0,
            age_ms: 0,
            spawned_after_ms: 0,
            ready_after_ms: u64::from(state >= InstanceState::Ready),
            exit: None,
            last_output: Vec::new(),
            isolation: None,
            waking: Default::default(),
        }
    }

    /// An instance that its agent reports in this state, known or not before.
    pub(crate) fn instance(&mut self, id: &str, at: SessionId, state: InstanceState) -> InstanceId {
        let id = InstanceId::from(id);
        let report = self.report(&id, state);
        self.take(at, report);
        id
    }

    pub(crate) fn take(&mut self, at: SessionId, report: InstanceReport) {
        let node = self.state.session(at).map_or(NodeId(9), |s| s.opened.node);
        self.keeper.reported((at, node), report, self.now_ms);
    }

    pub(crate) fn exit(&mut self, id: &InstanceId, exit: Exit, ever_ready: bool) {
        let session = self.keeper.table.instances[id].session;
        self.exit_at(session, id, exit, ever_ready);
    }

    /// The same for one that the keeper may have forgotten.
    pub(crate) fn exit_at(
        &mut self,
        session: SessionId,
        id: &InstanceId,
        exit: Exit,
        ever_ready: bool,
    ) {
        let mut report = self.report(id, InstanceState::Exited);
        report.exit = Some(exit);
        report.ready_after_ms = u64::from(ever_ready);
        report.last_output = vec!["boom".into()];
        self.take(session, report);
    }

    /// Instances that were reported ready, by names of their own.
    pub(crate) fn ready(&mut self, n: u32) {
        for _ in 0..n {
            self.n_adopted += 1;
            let id = format!("i{}", self.n_adopted);
            self.instance(&id, ONE, InstanceState::Ready);
        }
    }

    /// Executes starts as the shell does: the row stands before the call leaves.
    pub(crate) fn execute(&mut self, outputs: &Outputs) {
        for effect in &outputs.effects {
            if let Effect::Start { session, spec } = effect {
                let node = self.state.session(*session).unwrap().opened.node;
                let row = InstanceRow {
                    revision: spec.revision.clone(),
                    session: *session,
                    node,
                    state: RowState::Requested,
                    since_ms: self.now_ms,
                };
                self.keeper.requested(&spec.id, row);
            }
        }
    }
}

pub(crate) fn key(name: &str) -> ObjectKey {
    ObjectKey::new("default", name)
}

/// The `n`th instance that this epoch's owner starts.
pub(crate) fn started(n: u64) -> InstanceId {
    let mut table = ShardTable::new(SHARD, EPOCH);
    table.next_instance = n;
    table.instance_id(&key("hello-00001"), 0)
}

/// `#n` for the `n`th start, other ids as they are.
fn short(id: &InstanceId) -> String {
    let n = (1..100).find(|n| started(*n) == *id);
    n.map_or_else(|| id.to_string(), |n| format!("#{n}"))
}

/// Orders to agents and timers, in order.
pub(crate) fn orders(outputs: &Outputs) -> Vec<String> {
    let effects = outputs.effects.iter().filter_map(|effect| match effect {
        Effect::Start { session, spec } => Some(format!("start {} on {session}", short(&spec.id))),
        Effect::Stop {
            session,
            instance,
            reason,
        } => Some(format!(
            "stop {} on {session}: {}",
            short(instance),
            reason.as_str()
        )),
        Effect::Reopen { session, instance } => {
            Some(format!("reopen {} on {session}", short(instance)))
        }
        Effect::Freeze { session, instance } => {
            Some(format!("freeze {} on {session}", short(instance)))
        }
        Effect::Thaw { session, instance } => {
            Some(format!("thaw {} on {session}", short(instance)))
        }
        Effect::Propose(_)
        | Effect::RecordScale(_)
        | Effect::PushEndpoints(_)
        | Effect::Tell(..)
        | Effect::Explain { .. } => None,
    });
    let timers = (outputs.timers.iter())
        .map(|timer| format!("timer {} {:?}", timer.name, timer.after_ms.unwrap_or(0)));
    effects.chain(timers).collect()
}

/// What others are told: proposals, endpoints, other actors, records; explanations aside.
pub(crate) fn words(outputs: &Outputs) -> Vec<String> {
    let words = outputs.effects.iter().filter_map(|effect| match effect {
        Effect::Propose(command) => Some(proposal(command)),
        Effect::PushEndpoints(table) => {
            let ids: Vec<_> = table.instances.iter().map(|e| short(&e.id)).collect();
            let failure = match table.last_failure.as_str() {
                "" => String::new(),
                text => format!(" failed: {text}"),
            };
            let path = table.data_path;
            Some(format!("push {path:?} [{}]{failure}", ids.join(" ")))
        }
        Effect::Tell(to, Event::Desired { n, path, .. }) => {
            Some(format!("tell {}: {n} {path:?}", to.kind()))
        }
        Effect::Tell(to, event) => Some(format!("tell {}: {event:?}", to.kind())),
        Effect::RecordScale(update) => {
            let record = &update.record;
            Some(format!(
                "record {} of {} ready, {:?}, Active {:?} {}, initialized {}",
                record.desired,
                record.ready,
                record.data_path,
                record.active,
                record.active_reason,
                record.initialized
            ))
        }
        Effect::Start { .. }
        | Effect::Stop { .. }
        | Effect::Reopen { .. }
        | Effect::Freeze { .. }
        | Effect::Thaw { .. }
        | Effect::Explain { .. } => None,
    });
    words.collect()
}

fn proposal(command: &Command) -> String {
    let says = |assertions: &[Assertion]| -> String {
        let one = |a: &Assertion| match a.reason.as_str() {
            "" => format!("{}={:?}", a.kind, a.status),
            reason => format!("{}={:?}({reason})", a.kind, a.status),
        };
        assertions.iter().map(one).collect::<Vec<_>>().join(" ")
    };
    match command {
        Command::RecordRevision(record) => format!("revision: {}", says(&record.assertions)),
        Command::RecordRoute(record) => format!("route: {}", says(&record.assertions)),
        Command::RecordDomainMapping(record) => {
            format!("domain {}: {}", record.key.name, says(&record.assertions))
        }
        Command::AssignTraffic(assign) => {
            let traffic = assign.traffic.iter().map(|target| {
                let tag = match target.tag.as_str() {
                    "" => String::new(),
                    tag => format!("{tag}="),
                };
                let latest = if target.is_latest() { "!" } else { "" };
                format!("{tag}{}{latest} {}%", target.revision_name, target.share())
            });
            let traffic: Vec<_> = traffic.collect();
            format!(
                "assign [{}]: {}",
                traffic.join(", "),
                says(&assign.assertions)
            )
        }
        Command::RecordService(record) => format!(
            "service, latest ready {:?}: configuration {}; {}",
            record.latest_ready,
            says(&record.configuration),
            says(&record.service)
        ),
        other => format!("{other:?}"),
    }
}
