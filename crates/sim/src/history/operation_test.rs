//! Histories that are read, and malformed ones that are refused as the harness's fault.

use serde_json::json;

use super::*;
use crate::checker::verdict::{Class, Verdict};

fn read(text: &str) -> Result<History, HistoryError> {
    History::read(text.as_bytes())
}

#[test]
fn events_become_operations_in_order_of_invocation() {
    let history = read(concat!(
        r#"{"t":1,"p":1,"ph":"invoke","op":"put","k":"a","in":{"value":"x"},"rid":"r1"}"#,
        "\n",
        r#"{"t":2,"p":2,"ph":"invoke","op":"get","k":"a","node":"n1"}"#,
        "\n",
        r#"{"t":3,"p":0,"ph":"note","op":"fault","in":"leader killed"}"#,
        "\n",
        r#"{"t":4,"p":2,"ph":"ok","op":"get","out":null,"node":"n2"}"#,
        "\n",
        r#"{"t":9,"p":1,"ph":"ok","op":"put","k":"a","out":{"version":3},"idx":3,"rid":"r1"}"#,
        "\n",
    ))
    .unwrap();
    assert_eq!(history.notes.len(), 1);
    let [put, get] = &history.operations[..] else {
        panic!("two operations");
    };
    assert_eq!((put.invoked_ns, put.ended_ns), (1, Some(9)));
    assert_eq!(put.output, json!({"version": 3}));
    assert_eq!(put.log_index, Some(3));
    assert_eq!(
        (get.outcome, get.node.as_deref()),
        (Outcome::Ok, Some("n2"))
    );
}

#[test]
fn info_and_an_operation_without_end_are_unknown_for_ever() {
    let history = read(concat!(
        r#"{"t":1,"p":1,"ph":"invoke","op":"put","k":"a"}"#,
        "\n",
        r#"{"t":2,"p":1,"ph":"info","op":"put","k":"a"}"#,
        "\n",
        r#"{"t":3,"p":2,"ph":"invoke","op":"put","k":"a"}"#,
        "\n",
    ))
    .unwrap();
    for operation in &history.operations {
        assert_eq!(operation.outcome, Outcome::Unknown);
        assert_eq!(operation.ended_ns, None);
    }
}

#[test]
fn what_cannot_have_happened_is_a_harness_fault() {
    let invoke = r#"{"t":5,"p":1,"ph":"invoke","op":"put","k":"a","rid":"r1"}"#;
    let info = r#"{"t":6,"p":1,"ph":"info","op":"put"}"#;
    let cases = [
        (
            "double invoke",
            vec![invoke, r#"{"t":6,"p":1,"ph":"invoke","op":"get"}"#],
            "before its operation of line 1 ended",
        ),
        (
            "completion without invoke",
            vec![r#"{"t":6,"p":1,"ph":"ok","op":"get"}"#],
            "did not invoke",
        ),
        (
            "second completion",
            vec![
                invoke,
                r#"{"t":6,"p":1,"ph":"ok","op":"put"}"#,
                r#"{"t":7,"p":1,"ph":"ok","op":"put"}"#,
            ],
            "did not invoke",
        ),
        (
            "another operation's end",
            vec![invoke, r#"{"t":6,"p":1,"ph":"ok","op":"get"}"#],
            "ends another operation",
        ),
        (
            "another key's end",
            vec![invoke, r#"{"t":6,"p":1,"ph":"ok","op":"put","k":"b"}"#],
            "ends another operation",
        ),
        (
            "time going back",
            vec![invoke, r#"{"t":4,"p":2,"ph":"invoke","op":"get"}"#],
            "time goes back",
        ),
        (
            "a process goes on after info",
            vec![invoke, info, r#"{"t":7,"p":1,"ph":"invoke","op":"get"}"#],
            "goes on after the unknown outcome in line 2",
        ),
        (
            "one request id twice",
            vec![
                invoke,
                r#"{"t":6,"p":2,"ph":"invoke","op":"put","rid":"r1"}"#,
            ],
            "was used before",
        ),
        ("no JSON", vec!["{"], "not a record"),
        (
            "an unknown field",
            vec![r#"{"t":6,"p":1,"ph":"invoke","op":"get","extra":1}"#],
            "not a record",
        ),
        (
            "an unknown phase",
            vec![r#"{"t":6,"p":1,"ph":"maybe","op":"get"}"#],
            "not a record",
        ),
    ];
    for (name, lines, want) in cases {
        let error = read(&lines.join("\n")).expect_err(name);
        let verdict = Verdict::from(error);
        assert_eq!(verdict.class(), Class::HarnessFault, "{name}");
        assert!(verdict.to_string().contains(want), "{name}: {verdict}");
    }
}
