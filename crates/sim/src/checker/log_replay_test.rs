//! C2 on logs that explain every answer, and on planted bugs.

use super::*;
use crate::checker::register;
use crate::checker::testkit::history_of;
use crate::checker::verdict::Class;

/// `index term request key=value`; `-` stands for no request, no effect, or a removal.
fn log(node: &str, lines: &[&str]) -> NodeLog {
    let entries = lines.iter().map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        let [index, term, request, effect] = words[..] else {
            panic!("four words: {line}");
        };
        LogEntry {
            index: index.parse().unwrap(),
            term: term.parse().unwrap(),
            digest: format!("{request} {effect}"),
            request: (request != "-").then(|| request.to_owned()),
            effects: effect
                .split_once('=')
                .map(|(key, value)| Effect {
                    key: key.to_owned(),
                    value: (value != "-").then(|| value.to_owned()),
                })
                .into_iter()
                .collect(),
        }
    });
    NodeLog {
        node: node.to_owned(),
        entries: entries.collect(),
    }
}

const LOG: [&str; 4] = [
    "1 1 - -",
    "2 1 r-1-0 a=x",
    "3 1 r-2-10 a=y",
    "4 2 r-1-20 b=z",
];

fn verdict(logs: Vec<NodeLog>, history: &[&str]) -> Verdict {
    let operations = history_of(history);
    check(&Input {
        logs,
        base: BTreeMap::new(),
        operations: &operations,
    })
}

fn two_logs() -> Vec<NodeLog> {
    vec![log("n1", &LOG), log("n2", &LOG[..3])]
}

#[track_caller]
fn assert_found(verdict: &Verdict, want: &str) {
    assert_eq!(verdict.class(), Class::Violation, "{verdict}");
    assert!(verdict.to_string().contains(want), "{verdict}");
}

#[test]
fn answers_that_the_log_explains_pass() {
    let verdict = verdict(
        two_logs(),
        &[
            "1 put a x [0,5] -> v2",
            "3 get a [0,4] -> none",
            "3 get a [6,12] -> x v2",
            "2 put a y [10,15] -> v3",
            "3 get a [16,17] -> y v3",
            "1 put b z [20,-] -> unknown",
            "4 put b q [22,23] -> failed",
            "4 get b [24,25] -> none",
        ],
    );
    assert_eq!(verdict.class(), Class::Pass, "{verdict}");
}

#[test]
fn planted_ack_before_the_entry_was_durable() {
    let verdict = verdict(vec![log("n1", &LOG[..2])], &["2 put a y [10,15] -> v3"]);
    assert_found(&verdict, "acknowledged and in no log");
}

#[test]
fn planted_logs_diverge() {
    let mut other = log("n2", &LOG);
    other.entries[2].digest = "another".to_owned();
    assert_found(
        &verdict(vec![log("n1", &LOG), other], &[]),
        "committed logs disagree",
    );
}

#[test]
fn planted_snapshot_misses_the_last_entry() {
    // A follower installed a snapshot that stands for 3 but holds the state of 2.
    let verdict = verdict(
        two_logs(),
        &[
            "1 put a x [0,5] -> v2",
            "2 put a y [10,15] -> v3",
            "3 get a [16,17] -> x v2",
        ],
    );
    assert_found(
        &verdict,
        "stale: true until 2, and 3 was answered before the call",
    );
}

#[test]
fn planted_read_of_another_key_is_stale() {
    // Linearizable per object, and yet this reader saw index 4 before.
    let verdict = verdict(
        two_logs(),
        &["3 get b [21,22] -> z v4", "3 get a [23,24] -> x v2"],
    );
    assert_found(&verdict, "stale");
}

#[test]
fn planted_read_of_an_uncommitted_entry() {
    let verdict = verdict(
        two_logs(),
        &["3 get b [12,14] -> z v4", "1 put b z [20,25] -> v4"],
    );
    assert_found(
        &verdict,
        "from the future: true from 4, and at its end at most 3 was",
    );
    let verdict = self::verdict(two_logs(), &["3 get b [12,14] -> ghost v9"]);
    assert_found(&verdict, "what the log never held");
}

#[test]
fn planted_retry_applied_twice() {
    let twice = ["1 1 r-1-0 a=x", "2 1 r-1-0 a=x"];
    let acked = verdict(vec![log("n1", &twice)], &["1 put a x [0,5] -> v1"]);
    assert_found(&acked, "applied twice, at 1 and at 2");
    let unknown = verdict(vec![log("n1", &twice)], &["1 put a x [0,-] -> unknown"]);
    assert_found(&unknown, "applied twice, at 1 and at 2");
    // Known to be a repetition, it has no effect of its own.
    let once = ["1 1 r-1-0 a=x", "2 1 r-1-0 -"];
    let once = verdict(vec![log("n1", &once)], &["1 put a x [0,5] -> v1"]);
    assert_eq!(once.class(), Class::Pass, "{once}");
}

#[test]
fn planted_write_order_against_real_time() {
    let verdict = verdict(
        vec![log("n1", &["1 1 r-2-10 a=y", "2 1 r-1-0 a=x"])],
        &["1 put a x [0,5] -> v2", "2 put a y [10,15] -> v1"],
    );
    assert_found(
        &verdict,
        "applied at 1, before 2, which was answered before it was sent",
    );
}

#[test]
fn planted_refused_write_takes_effect() {
    assert_found(
        &verdict(two_logs(), &["1 put a x [0,5] -> failed"]),
        "refused, and yet applied at 2",
    );
    assert_found(
        &verdict(two_logs(), &["1 create a x [0,5] -> conflict"]),
        "refused, and yet applied at 2",
    );
}

#[test]
fn planted_wrong_content_or_version() {
    assert_found(
        &verdict(two_logs(), &["1 put a other [0,5] -> v2"]),
        "asked for `other`, but entry 2 holds `x`",
    );
    assert_found(
        &verdict(two_logs(), &["1 put a x [0,5] -> v9"]),
        "acknowledged as version 9, but applied at 2",
    );
}

#[test]
fn planted_term_goes_back() {
    let terms = ["1 2 - -", "2 1 r-1-0 a=x"];
    assert_found(&verdict(vec![log("n1", &terms)], &[]), "term goes back");
}

#[test]
fn a_purged_head_needs_a_base() {
    let operations = history_of(&["3 get a [0,4] -> x v2", "2 put a y [10,15] -> v3"]);
    let mut input = Input {
        logs: vec![log("n1", &LOG[2..])],
        base: BTreeMap::new(),
        operations: &operations,
    };
    assert_eq!(check(&input).class(), Class::Unknown);
    let held = Seen {
        value: "x".to_owned(),
        version: Some(2),
    };
    input.base.insert("a".to_owned(), held);
    let verdict = check(&input);
    assert_eq!(verdict.class(), Class::Pass, "{verdict}");
}

#[test]
fn holes_are_the_dumps_fault_or_unknown() {
    let holed = vec![log("n1", &[LOG[0], LOG[2]])];
    assert_eq!(verdict(holed, &[]).class(), Class::HarnessFault);
    let apart = vec![log("n1", &LOG[..1]), log("n2", &LOG[2..])];
    assert_eq!(verdict(apart, &[]).class(), Class::Unknown);
    assert_eq!(verdict(Vec::new(), &[]).class(), Class::Unknown);
}

#[test]
fn the_log_settles_unknown_answers_for_the_search() {
    let operations = history_of(&[
        "1 put a x [0,-] -> unknown",
        "5 put a w [1,-] -> unknown",
        "3 get a [6,12] -> x v2",
    ]);
    let settled = settle(&Input {
        logs: two_logs(),
        base: BTreeMap::new(),
        operations: &operations,
    })
    .unwrap();
    assert_eq!(settled[0].answer, Answer::Written { version: Some(2) });
    assert_eq!(settled[1].answer, Answer::Failed);
    let versions = register::Versions::OfTheHistory;
    let verdict = register::check(&register::Input::new(&settled, versions));
    assert_eq!(verdict.class(), Class::Pass, "{verdict}");
}
