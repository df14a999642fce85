//! A write with a request id takes effect once, however often it is sent (02-store §12).

use nihilo_machine::command::{
    CLUSTER_VERSION, DeleteService, Envelope, Expect, InitCluster, PutService, RequestKey, Uids,
};
use nihilo_machine::state::{Applied, State};
use nihilo_machine::{Command, Rejection};
use nihilo_types::id::{LogIndex, ObjectKey};
use nihilo_types::service::Service;

fn service(image: &str) -> Service {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": "hello", "namespace": "default"},
        "spec": {"template": {"spec": {"containers": [{"image": image}]}}},
    }))
    .unwrap()
}

/// `attempt` marks what a server draws anew each time that the same request is sent.
fn put(expect: Expect, image: &str, attempt: &str) -> Command {
    let uid = |kind: &str| format!("{kind}-{attempt}");
    Command::PutService(Box::new(PutService {
        service: service(image),
        expect,
        uids: Uids {
            service: uid("service"),
            configuration: uid("configuration"),
            route: uid("route"),
            revision: uid("revision"),
        },
        user: "test".into(),
    }))
}

fn envelope(request: RequestKey, command: Command) -> Envelope {
    Envelope {
        cluster_version: CLUSTER_VERSION,
        log_ms: 1_000,
        wall_ms: 1_700_000_000_000,
        request,
        command,
    }
}

fn founded() -> State {
    let mut state = State::default();
    let init = Command::InitCluster(InitCluster {
        cluster_id: "test".into(),
        name: "test".into(),
        domain: "localhost".into(),
        external_port: 8080,
        autoscaler: std::collections::BTreeMap::new(),
    });
    let reply = state
        .apply(LogIndex(1), &envelope(RequestKey::default(), init))
        .reply;
    assert!(reply.result.is_ok(), "{reply:?}");
    state
}

fn key(id: &str, asked: &str) -> RequestKey {
    RequestKey::new(id, "create", asked.as_bytes())
}

/// How the state takes an entry.
type Apply = fn(&mut State, LogIndex, &Envelope) -> Applied;

/// Request ids are not looked at.
fn apply_again(state: &mut State, index: LogIndex, entry: &Envelope) -> Applied {
    let without_id = Envelope {
        request: RequestKey::default(),
        ..entry.clone()
    };
    state.apply(index, &without_id)
}

fn a_repetition_changes_nothing(apply: Apply) {
    let mut state = founded();
    let first = envelope(key("r1", "hello"), put(Expect::Any, "demo/hello", "1"));
    let told = apply(&mut state, LogIndex(2), &first);
    assert!(told.reply.result.is_ok(), "{:?}", told.reply);

    let second = envelope(key("r1", "hello"), put(Expect::Any, "demo/echo", "2"));
    let again = apply(&mut state, LogIndex(3), &second);
    assert_eq!(again.events, vec![], "applied twice");
    assert_eq!(again.reply, told.reply);
    let stored = state.service(&ObjectKey::new("default", "hello")).unwrap();
    assert_eq!(stored.metadata.uid, "service-1");
}

#[test]
fn a_repetition_gets_the_first_reply_and_changes_nothing() {
    a_repetition_changes_nothing(State::apply);
}

#[test]
#[should_panic(expected = "applied twice")]
fn planted_a_repetition_that_is_applied_is_found() {
    a_repetition_changes_nothing(apply_again);
}

fn a_refusal_stays_one(apply: Apply) {
    let mut state = founded();
    let request = || envelope(key("r1", "hello"), put(Expect::Present, "demo/hello", "1"));
    let told = apply(&mut state, LogIndex(2), &request());
    assert!(told.reply.result.is_err(), "{:?}", told.reply);
    // Meanwhile the reason for the refusal has gone.
    let made = envelope(
        RequestKey::default(),
        put(Expect::Absent, "demo/hello", "2"),
    );
    assert!(state.apply(LogIndex(3), &made).reply.result.is_ok());

    let again = apply(&mut state, LogIndex(4), &request());
    assert_eq!(again.reply, told.reply, "another answer than before");
}

#[test]
fn a_refusal_is_repeated_too() {
    a_refusal_stays_one(State::apply);
}

#[test]
#[should_panic(expected = "another answer than before")]
fn planted_a_refusal_that_is_forgotten_is_found() {
    a_refusal_stays_one(apply_again);
}

#[test]
fn an_id_serves_one_request_only() {
    let mut state = founded();
    let first = envelope(key("r1", "hello"), put(Expect::Absent, "demo/hello", "1"));
    assert!(state.apply(LogIndex(2), &first).reply.result.is_ok());

    let delete = || {
        Command::DeleteService(DeleteService {
            key: ObjectKey::new("default", "hello"),
            expect: Expect::Any,
        })
    };
    let other_words = envelope(key("r1", "other"), delete());
    let other_method = envelope(RequestKey::new("r1", "delete", b"hello"), delete());
    for (at, reused) in [(3, other_words), (4, other_method)] {
        let reply = state.apply(LogIndex(at), &reused).reply;
        assert_eq!(reply.result, Err(Rejection::RequestIdReused));
    }
    assert!(state.service(&ObjectKey::new("default", "hello")).is_some());
}

#[test]
fn without_an_id_each_attempt_stands_alone() {
    let mut state = founded();
    let request = || {
        envelope(
            RequestKey::default(),
            put(Expect::Absent, "demo/hello", "1"),
        )
    };
    assert!(state.apply(LogIndex(2), &request()).reply.result.is_ok());
    assert!(state.apply(LogIndex(3), &request()).reply.result.is_err());
}
