//! ConfigMaps of apps: they come and change; what is marked immutable keeps its values.

use std::collections::BTreeMap;

use nihilo_machine::Command;
use nihilo_machine::command::{Expect, PutConfigMap};
use nihilo_types::config_map::ConfigMap;
use nihilo_types::meta::ObjectMeta;

use crate::world::{Case, World, check};

/// A ConfigMap `app` with one value.
fn put(value: &str, change: impl FnOnce(&mut ConfigMap)) -> Command {
    let mut config_map = ConfigMap {
        metadata: ObjectMeta {
            name: "app".into(),
            ..ObjectMeta::default()
        },
        data: BTreeMap::from([("colour".to_owned(), value.to_owned())]),
        ..ConfigMap::default()
    };
    change(&mut config_map);
    Command::PutConfigMap(Box::new(PutConfigMap {
        config_map,
        expect: Expect::Any,
        uid: "uid-app".into(),
    }))
}

fn with_map(change: impl FnOnce(&mut ConfigMap)) -> World {
    let mut world = World::with_hello();
    world.must(put("blue", change));
    world
}

fn immutable(map: &mut ConfigMap) {
    map.immutable = true;
}

const UPDATED: &[&str] = &["Modified configmap app"];
const ROW: &[&str] = &["+configmap app"];
const REFUSED: &str = "refused: field is immutable when `immutable` is set: data";

#[test]
fn what_is_immutable_keeps_its_values_and_its_mark() {
    let case = |name, given, when, reply, rows, events| Case {
        name,
        given,
        when,
        reply,
        rows,
        events,
    };
    let labelled = |map: &mut ConfigMap| {
        immutable(map);
        map.metadata.labels.insert("team".into(), "a".into());
    };
    check(vec![
        case(
            "another value",
            with_map(|_| {}),
            put("red", |_| {}),
            "updated app",
            ROW,
            UPDATED,
        ),
        case(
            "from now on",
            with_map(|_| {}),
            put("red", immutable),
            "updated app",
            ROW,
            UPDATED,
        ),
        case(
            "another value of an immutable one",
            with_map(immutable),
            put("red", immutable),
            REFUSED,
            &[],
            &[],
        ),
        case(
            "no longer immutable",
            with_map(immutable),
            put("blue", |_| {}),
            REFUSED,
            &[],
            &[],
        ),
        case(
            "a label of an immutable one",
            with_map(immutable),
            put("blue", labelled),
            "updated app",
            ROW,
            UPDATED,
        ),
        case(
            "the same",
            with_map(immutable),
            put("blue", immutable),
            "unchanged app",
            &[],
            &[],
        ),
    ]);
}
