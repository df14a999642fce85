//! Histories in one line each, for the tests of the register checkers.

use crate::history::register::{Action, Answer, RegisterOperation, Seen};

pub(crate) fn history_of(lines: &[&str]) -> Vec<RegisterOperation> {
    lines.iter().map(|line| op(line)).collect()
}

/// Reads `process action key … [invoked,ended] -> answer`:
///
/// ```text
/// 1 get a [0,1] -> none           1 get a [0,1] -> x v4
/// 1 put a x [2,3] -> v4           1 put a x [2,-] -> unknown
/// 1 create a x [2,3] -> conflict  1 cas a v4 y [2,3] -> failed
/// 1 delete a [2,3] -> v4          1 delete a v4 [2,3] -> v5
/// ```
///
/// The request id of a write is `r-{process}-{invoked}`.
pub(crate) fn op(line: &str) -> RegisterOperation {
    let (call, answer) = line.split_once(" -> ").expect("an arrow");
    let (call, times) = call.split_once(" [").expect("times");
    let (invoked, ended) = times
        .trim_end_matches(']')
        .split_once(',')
        .expect("two times");
    let words: Vec<&str> = call.split(' ').collect();
    let version = |word: &str| word.trim_start_matches('v').parse().expect("a version");
    let action = match words[1..] {
        ["get", _] => Action::Get,
        ["put", _, value] => Action::Put {
            value: value.to_owned(),
        },
        ["create", _, value] => Action::Create {
            value: value.to_owned(),
        },
        ["cas", _, expected, value] => Action::Cas {
            value: value.to_owned(),
            expected: version(expected),
        },
        ["delete", _] => Action::Delete { expected: None },
        ["delete", _, expected] => Action::Delete {
            expected: Some(version(expected)),
        },
        _ => panic!("no action: {line}"),
    };
    let answer = match answer.split(' ').collect::<Vec<_>>()[..] {
        ["none"] => Answer::Read(None),
        ["conflict"] => Answer::Conflict,
        ["failed"] => Answer::Failed,
        ["unknown"] => Answer::Unknown,
        [written] => Answer::Written {
            version: Some(version(written)),
        },
        [value, seen] => Answer::Read(Some(Seen {
            value: value.to_owned(),
            version: Some(version(seen)),
        })),
        _ => panic!("no answer: {line}"),
    };
    RegisterOperation {
        process: words[0].parse().expect("a process"),
        request: action
            .is_write()
            .then(|| format!("r-{}-{invoked}", words[0])),
        node: None,
        key: words[2].to_owned(),
        action,
        answer,
        invoked_ns: invoked.parse().expect("a time"),
        ended_ns: ended.parse().ok(),
        log_index: None,
    }
}
