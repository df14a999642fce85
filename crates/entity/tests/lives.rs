//! A Service that is deleted and made anew under its name, and actors that were loaded again: found
//! by the simulation, kept as tables.

use std::collections::BTreeMap;

use nihilo_entity::reconcile::AnyActor;
use nihilo_entity::table::{InstanceRow, RowState};
use nihilo_entity::{Effect, EntityKey, Event, Settings, ShardTable, View};
use nihilo_machine::command::{
    CLUSTER_VERSION, DeleteService, Expect, OpenSession, PutService, RequestKey, Roles, Uids,
};
use nihilo_machine::{Command, Envelope, State};
use nihilo_types::autoscaler::DataPath;
use nihilo_types::id::{Epoch, InstanceId, LogIndex, NodeId, ObjectKey, SessionId, ShardId};
use nihilo_types::instance::{InstanceReport, InstanceState};
use nihilo_types::meta::ObjectMeta;
use nihilo_types::service::{Service, ServiceSpec};
use nihilo_types::shard::shard_of;
use nihilo_types::template::{Container, RevisionSpec, RevisionTemplate};

struct Fixture {
    state: State,
    n_entries: u64,
    table: ShardTable,
    settings: Settings,
}

const NODE: (SessionId, NodeId) = (SessionId(1), NodeId(1));

impl Fixture {
    fn new() -> Self {
        let mut fixture = Self {
            state: State::default(),
            n_entries: 0,
            table: ShardTable::new(shard_of(&service_key()), Epoch(1)),
            settings: Settings::default(),
        };
        fixture.table.complete = true;
        fixture.apply(Command::OpenSession(OpenSession {
            node: NODE.1,
            name: "node-1".into(),
            boot_id: "1".into(),
            roles: Roles::ALL,
            peer_address: "a:1".into(),
            gateway_address: "a:2".into(),
            admin_address: "a:3".into(),
            pid: 1,
            capacity: 10,
            t_self_ms: 400,
            kills_instances_on_exit: true,
            store_id: String::new(),
        }));
        fixture.create("first");
        fixture
    }

    fn apply(&mut self, command: Command) {
        self.n_entries += 1;
        let envelope = Envelope {
            cluster_version: CLUSTER_VERSION,
            log_ms: self.n_entries,
            wall_ms: self.n_entries,
            request: RequestKey::default(),
            command,
        };
        let applied = self.state.apply(LogIndex(self.n_entries), &envelope);
        assert!(applied.reply.result.is_ok(), "{:?}", applied.reply);
    }

    fn create(&mut self, uid: &str) {
        let template = RevisionTemplate {
            spec: RevisionSpec {
                containers: vec![Container {
                    image: "demo/hello".into(),
                    ..Container::default()
                }],
                ..RevisionSpec::default()
            },
            ..RevisionTemplate::default()
        };
        self.apply(Command::PutService(Box::new(PutService {
            service: Service {
                metadata: ObjectMeta {
                    name: "hello".into(),
                    namespace: "default".into(),
                    ..ObjectMeta::default()
                },
                spec: ServiceSpec {
                    template,
                    traffic: Vec::new(),
                },
                ..Service::default()
            },
            expect: Expect::Absent,
            uids: Uids {
                revision: uid.into(),
                ..Uids::default()
            },
            user: "test".into(),
        })));
    }

    fn make_anew(&mut self) {
        self.apply(Command::DeleteService(DeleteService {
            key: service_key(),
            expect: Expect::Present,
        }));
        self.create("second");
    }

    fn view(&self) -> View<'_> {
        View {
            state: &self.state,
            table: &self.table,
            settings: &self.settings,
        }
    }

    fn turn(&self, actor: &mut AnyActor, event: &Event, now_ms: u64) -> Vec<Effect> {
        actor.turn(self.view(), event, now_ms).effects
    }

    fn reported(&mut self, id: &str, uid: &str, state: InstanceState) {
        let report = InstanceReport {
            id: InstanceId::from(id),
            revision: revision_key(),
            revision_uid: uid.into(),
            shard: ShardId(0),
            epoch: Epoch(1),
            state,
            address: None,
            pid: None,
            in_flight: 0,
            age_ms: 0,
            spawned_after_ms: 1,
            ready_after_ms: 1,
            exit: None,
            last_output: Vec::new(),
            isolation: None,
            waking: Default::default(),
        };
        let row = InstanceRow {
            revision: revision_key(),
            session: NODE.0,
            node: NODE.1,
            state: RowState::Reported(Box::new(report)),
            since_ms: 0,
        };
        self.table.instances.insert(InstanceId::from(id), row);
    }
}

fn service_key() -> ObjectKey {
    ObjectKey::new("default", "hello")
}

fn revision_key() -> ObjectKey {
    ObjectKey::new("default", "hello-00001")
}

fn desired(effects: &[Effect]) -> Vec<u32> {
    let told = effects.iter().filter_map(|effect| match effect {
        Effect::Tell(_, Event::Desired { n, .. }) => Some(*n),
        _ => None,
    });
    told.collect()
}

fn orders(effects: &[Effect]) -> BTreeMap<String, &'static str> {
    let named = effects.iter().filter_map(|effect| match effect {
        Effect::Start { spec, .. } => Some((spec.revision_uid.to_string(), "start")),
        Effect::Stop { instance, .. } => Some((instance.to_string(), "stop")),
        Effect::Reopen { instance, .. } => Some((instance.to_string(), "reopen")),
        _ => None,
    });
    named.collect()
}

#[test]
fn an_awake_autoscaler_begins_anew_with_a_revision_made_anew() {
    let mut fixture = Fixture::new();
    let key = EntityKey::Autoscaler(revision_key());
    let mut actor = AnyActor::load(&key, fixture.view(), 0);
    fixture.turn(&mut actor, &Event::Changed, 0);
    // Its activation timed out: nothing is wanted any more.
    let given_up = fixture.turn(&mut actor, &Event::Changed, 700_000);
    assert_eq!(desired(&given_up), [0]);
    fixture.make_anew();
    let effects = fixture.turn(&mut actor, &Event::Changed, 700_100);
    assert_eq!(
        desired(&effects),
        [1],
        "the new revision has its initial scale"
    );
}

#[test]
fn instances_of_a_deleted_revision_do_not_serve_the_next_one_of_its_name() {
    let mut fixture = Fixture::new();
    let key = EntityKey::Revision(revision_key());
    fixture.reported("old", "first", InstanceState::Ready);
    let mut actor = AnyActor::load(&key, fixture.view(), 0);
    fixture.turn(&mut actor, &Event::Changed, 0);
    fixture.make_anew();
    let wanted = Event::Desired {
        n: 1,
        path: DataPath::Proxy,
        near: None,
    };
    let effects = fixture.turn(&mut actor, &wanted, 10);
    let expected = [("old".to_owned(), "stop"), ("second".to_owned(), "start")];
    assert_eq!(orders(&effects), BTreeMap::from(expected));
    let named = effects.iter().find_map(|effect| match effect {
        Effect::PushEndpoints(table) => Some(table.instances.len()),
        _ => None,
    });
    assert_eq!(named, Some(0));
}

#[test]
fn a_revision_actor_that_was_loaded_again_is_told_again_what_is_wanted() {
    let mut fixture = Fixture::new();
    let key = EntityKey::Autoscaler(revision_key());
    let mut actor = AnyActor::load(&key, fixture.view(), 0);
    assert_eq!(desired(&fixture.turn(&mut actor, &Event::Changed, 0)), [1]);
    let demand = Event::Demand {
        gateway: NODE.0,
        n_waiting: 1,
        in_flight: 1,
        oldest_age_ms: 0,
    };
    // Nothing came of it: the Revision actor forgot it with a reload.
    assert_eq!(desired(&fixture.turn(&mut actor, &demand, 10)), [1]);
    assert_eq!(
        desired(&fixture.turn(&mut actor, &Event::Changed, 1_000)),
        [1]
    );
    fixture.reported("new", "first", InstanceState::Booting);
    assert_eq!(desired(&fixture.turn(&mut actor, &demand, 1_100)), [0; 0]);
}
