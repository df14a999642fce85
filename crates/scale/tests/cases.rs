//! Runs the tables of `cases/*.json`; their format is told in `cases/README.md`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod kinds;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use kinds::Checker;

/// One file: cases of one kind.
#[derive(Debug, Deserialize)]
struct Table {
    kind: String,
    /// Where the cases come from, for people.
    #[serde(default, rename = "source")]
    _source: String,
    cases: Vec<Value>,
}

/// Members of every case that are not its kind's business.
const COMMON: [&str; 5] = ["name", "tol", "source", "note", "why"];

fn each<C: DeserializeOwned>(
    table: &Table,
    failures: &mut Vec<String>,
    check: impl Fn(&C, &mut Checker),
) {
    let mut names = BTreeMap::new();
    for (i, case) in table.cases.iter().enumerate() {
        let name = case["name"].as_str().unwrap_or_default();
        if name.is_empty() || names.insert(name, i).is_some() {
            failures.push(format!("case {i} has no name of its own: `{name}`"));
        }
        let mut checker = Checker::new(case["tol"].as_f64().unwrap_or(0.0));
        let mut own = case.clone();
        if let Some(members) = own.as_object_mut() {
            members.retain(|member, _| !COMMON.contains(&member.as_str()));
        }
        match C::deserialize(own) {
            Ok(case) => check(&case, &mut checker),
            Err(error) => failures.push(format!("`{name}` cannot be read: {error}")),
        }
        failures.extend(checker.finish().map(|text| format!("`{name}` {text}")));
    }
}

/// What does not hold, in words.
fn failures_of(text: &str) -> Vec<String> {
    let table: Table = serde_json::from_str(text).unwrap();
    let mut failures = Vec::new();
    match table.kind.as_str() {
        "decider" => each(&table, &mut failures, kinds::decider::check),
        "window" => each(&table, &mut failures, kinds::window::check),
        "max_window" => each(&table, &mut failures, kinds::window::check_max),
        "integrator" => each(&table, &mut failures, kinds::meters::check),
        "fast" => each(&table, &mut failures, kinds::fast::check),
        "fast_hold" => each(&table, &mut failures, kinds::fast::check_hold),
        "settings" | "target" | "bounds" | "panic_window" | "activators" => {
            each(&table, &mut failures, kinds::settings::check);
        }
        "config" => each(&table, &mut failures, kinds::refusals::check_config),
        "annotations" => each(&table, &mut failures, kinds::refusals::check_annotations),
        "to_zero" => each(&table, &mut failures, kinds::to_zero::check),
        "active" => each(&table, &mut failures, kinds::to_zero::check_active),
        unknown => failures.push(format!("no runner for kind `{unknown}`")),
    }
    failures
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the tables are files")]
fn every_table_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut n_files = 0;
    let mut failures = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        n_files += 1;
        let text = std::fs::read_to_string(&path).unwrap();
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        failures.extend(
            failures_of(&text)
                .iter()
                .map(|text| format!("{file}: {text}")),
        );
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    assert!(n_files >= 10, "only {n_files} tables were found");
}

#[test]
fn a_wrong_number_and_an_empty_case_are_noticed() {
    let table = |case: &str| {
        failures_of(&format!(
            r#"{{"kind": "max_window", "source": "", "cases": [{case}]}}"#
        ))
    };
    let right = r#"{"name": "a", "delay_ms": 10000, "ops": [{"at_ms": 0, "value": 3, "want": 3}]}"#;
    assert_eq!(table(right), Vec::<String>::new());
    assert_eq!(table(&right.replace("\"want\": 3", "\"want\": 4")).len(), 1);
    assert_eq!(table(&right.replace(", \"want\": 3", "")).len(), 1);
    assert_eq!(table(&right.replace("want", "wannt")).len(), 2);
}
