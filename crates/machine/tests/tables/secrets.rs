//! Secrets: what is sealed comes, changes and goes, and no key but the first is let in.

use nihilo_machine::Command;
use nihilo_machine::command::{DeleteSecret, Expect, PutSecret};
use nihilo_types::id::LogIndex;
use nihilo_types::meta::ObjectMeta;
use nihilo_types::sealing::{KEY_BYTES, NONCE_BYTES, SealingKey};
use nihilo_types::secret::{SealedValue, Secret};
use nihilo_types::secret_value::SecretValue;

use crate::world::{Case, World, check, key};

/// A Secret `db` with one value, sealed by the key of `key_byte` with the nonce of `nonce`.
fn put(key_byte: u8, nonce: u8, value: &str, change: impl FnOnce(&mut PutSecret)) -> Command {
    let metadata = ObjectMeta {
        name: "db".into(),
        ..ObjectMeta::default()
    };
    let mut secret = Secret {
        metadata,
        ..Secret::default()
    };
    secret
        .values
        .insert("password".into(), SecretValue::new(value));
    secret.default_fields();
    let key = SealingKey::new([key_byte; KEY_BYTES]);
    let mut put = PutSecret {
        secret: secret.seal(&key, None, || [nonce; NONCE_BYTES]),
        expect: Expect::Any,
        uid: "uid-db".into(),
    };
    change(&mut put);
    Command::PutSecret(Box::new(put))
}

pub(crate) fn put_secret() -> Command {
    put(1, 1, "hunter2", |_| {})
}

pub(crate) fn delete_secret() -> Command {
    Command::DeleteSecret(DeleteSecret {
        key: key("db"),
        expect: Expect::Any,
    })
}

fn with_secret(change: impl FnOnce(&mut PutSecret)) -> World {
    let mut world = World::with_hello();
    world.must(put(1, 1, "hunter2", change));
    world
}

const CREATED: &[&str] = &["Added secret db"];
const UPDATED: &[&str] = &["Modified secret db"];
const ROW: &[&str] = &["+secret db"];

#[test]
fn secrets_come_change_and_go() {
    let case = |name, given, when, reply, rows, events| Case {
        name,
        given,
        when,
        reply,
        rows,
        events,
    };
    let there = || with_secret(|_| {});
    let immutable = || with_secret(|put| put.secret.immutable = true);
    check(vec![
        case(
            "new",
            World::with_hello(),
            put_secret(),
            "created db",
            ROW,
            CREATED,
        ),
        case("the same", there(), put_secret(), "unchanged db", &[], &[]),
        case(
            "another value",
            there(),
            put(1, 2, "x", |_| {}),
            "updated db",
            ROW,
            UPDATED,
        ),
        case(
            "a label",
            there(),
            put(1, 1, "hunter2", |put| {
                put.secret.metadata.labels.insert("a".into(), "b".into());
            }),
            "updated db",
            ROW,
            UPDATED,
        ),
        case(
            "one that must not be there",
            there(),
            put(1, 1, "hunter2", |put| put.expect = Expect::Absent),
            "refused: `default/db` already exists",
            &[],
            &[],
        ),
        case(
            "on an older version",
            there(),
            put(1, 2, "x", |put| put.expect = Expect::Version(LogIndex(1))),
            "refused: `default/db` has version 6, the request was made on another one",
            &[],
            &[],
        ),
        case(
            "another type",
            there(),
            put(1, 1, "hunter2", |put| {
                put.secret.secret_type = "kubernetes.io/dockerconfigjson".into();
                let value = put.secret.sealed.remove("password").unwrap();
                put.secret.sealed.insert(".dockerconfigjson".into(), value);
            }),
            "refused: field is immutable: type",
            &[],
            &[],
        ),
        case(
            "an immutable one",
            immutable(),
            put(1, 2, "x", |put| put.secret.immutable = true),
            "refused: field is immutable when `immutable` is set: data",
            &[],
            &[],
        ),
        case(
            "no longer immutable",
            immutable(),
            put_secret(),
            "refused: field is immutable when `immutable` is set: data",
            &[],
            &[],
        ),
        case(
            "what is not sealed",
            World::with_hello(),
            put(1, 1, "", |put| {
                let plain = SealedValue("hunter2".into());
                put.secret.sealed.insert("password".into(), plain);
            }),
            "refused: data[password]: not sealed",
            &[],
            &[],
        ),
        case(
            "deleted",
            there(),
            delete_secret(),
            "deleted db",
            &["-secret db"],
            &["Deleted secret db"],
        ),
        case(
            "nobody's",
            World::with_hello(),
            delete_secret(),
            "refused: `default/db` not found",
            &[],
            &[],
        ),
    ]);
}

#[test]
fn a_second_key_is_refused_while_the_first_has_sealed_something() {
    let mut world = with_secret(|_| {});
    let first = world.state.secrets_key_id().unwrap().to_owned();
    let second = put(2, 1, "x", |put| put.secret.metadata.name = "other".into());
    let refused = format!("{:?}", world.apply(second.clone()).reply.result);
    assert!(
        refused.contains(&format!("sealed by key {first}")),
        "{refused}"
    );
    world.must(delete_secret());
    assert_eq!(world.state.secrets_key_id(), None);
    world.must(second);
}
