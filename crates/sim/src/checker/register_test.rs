//! C1 on valid histories, planted bugs, and random histories against a search by brute force.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::checker::testkit::{history_of, op};
use crate::checker::verdict::Class;
use crate::history::register::Seen;

fn verdict(lines: &[&str]) -> Verdict {
    let operations = history_of(lines);
    check(&Input::new(&operations, Versions::OfTheHistory))
}

struct Case {
    name: &'static str,
    given: &'static [&'static str],
    want: Class,
}

/// `process action [invoked,ended] -> answer`, see [`op`].
const CASES: [Case; 21] = [
    Case {
        name: "reads see the newest write",
        given: &[
            "1 get a [0,1] -> none",
            "1 put a x [2,3] -> v4",
            "2 get a [4,5] -> x v4",
            "2 cas a v4 y [6,7] -> v9",
            "1 get a [8,9] -> y v9",
        ],
        want: Class::Pass,
    },
    Case {
        name: "overlapping writes come in either order",
        given: &[
            "1 put a x [0,9] -> v5",
            "2 put a y [1,8] -> v4",
            "3 get a [10,11] -> x v5",
        ],
        want: Class::Pass,
    },
    Case {
        name: "a read inside a write sees either value",
        given: &[
            "1 put a x [0,1] -> v1",
            "1 put a y [2,9] -> v2",
            "2 get a [3,4] -> x v1",
            "2 get a [5,6] -> y v2",
        ],
        want: Class::Pass,
    },
    Case {
        name: "an unknown write may have happened",
        given: &["1 put a x [0,-] -> unknown", "2 get a [5,6] -> x v3"],
        want: Class::Pass,
    },
    Case {
        name: "an unknown write may not have happened",
        given: &["1 put a x [0,-] -> unknown", "2 get a [5,6] -> none"],
        want: Class::Pass,
    },
    Case {
        name: "an unknown write may happen late",
        given: &[
            "1 put a x [0,-] -> unknown",
            "2 get a [5,6] -> none",
            "2 put a y [7,8] -> v2",
            "2 get a [9,10] -> x v3",
        ],
        want: Class::Pass,
    },
    Case {
        name: "a failed write is as if it had not been",
        given: &["1 put a x [0,1] -> failed", "2 get a [5,6] -> none"],
        want: Class::Pass,
    },
    Case {
        name: "conflicts tell that the version was another",
        given: &[
            "1 create a x [0,1] -> v1",
            "2 create a y [2,3] -> conflict",
            "2 cas a v7 y [4,5] -> conflict",
            "2 delete a v1 [6,7] -> v2",
            "1 create a z [8,9] -> v3",
        ],
        want: Class::Pass,
    },
    Case {
        name: "keys are judged apart",
        given: &["1 put a x [0,1] -> v7", "1 put b y [2,3] -> v3"],
        want: Class::Pass,
    },
    Case {
        name: "planted: stale read after an acknowledged write",
        given: &[
            "1 put a x [0,1] -> v1",
            "1 put a y [2,3] -> v2",
            "2 get a [4,5] -> x v1",
        ],
        want: Class::Violation,
    },
    Case {
        name: "planted: a read goes back after another read",
        given: &[
            "1 put a x [0,1] -> v1",
            "1 put a y [2,99] -> v2",
            "2 get a [4,5] -> y v2",
            "3 get a [6,7] -> x v1",
        ],
        want: Class::Violation,
    },
    Case {
        name: "planted: lost write",
        given: &["1 put a x [0,1] -> v1", "2 get a [4,5] -> none"],
        want: Class::Violation,
    },
    Case {
        name: "planted: both of two racing compare-and-sets win",
        given: &[
            "1 put a x [0,1] -> v1",
            "2 cas a v1 y [2,9] -> v2",
            "3 cas a v1 z [3,8] -> v3",
        ],
        want: Class::Violation,
    },
    Case {
        name: "planted: versions against real time",
        given: &["1 put a x [0,1] -> v2", "2 put a y [2,3] -> v1"],
        want: Class::Violation,
    },
    Case {
        name: "planted: one version twice",
        given: &["1 put a x [0,9] -> v2", "2 put a y [1,8] -> v2"],
        want: Class::Violation,
    },
    Case {
        name: "planted: the value of one write under the version of another",
        given: &[
            "1 put a x [0,9] -> v1",
            "2 put a y [1,8] -> v2",
            "3 get a [10,11] -> x v2",
        ],
        want: Class::Violation,
    },
    Case {
        name: "planted: a failed write is read",
        given: &["1 put a x [0,1] -> failed", "2 get a [5,6] -> x v3"],
        want: Class::Violation,
    },
    Case {
        name: "planted: an unknown write happens twice",
        given: &[
            "1 put a x [0,-] -> unknown",
            "2 get a [1,2] -> x v3",
            "2 put a y [3,4] -> v4",
            "2 get a [5,6] -> x v5",
        ],
        want: Class::Violation,
    },
    Case {
        name: "planted: a compare-and-set is refused although its version held",
        given: &["1 put a x [0,1] -> v1", "1 cas a v1 y [2,3] -> conflict"],
        want: Class::Violation,
    },
    Case {
        name: "planted: a deleted object is read",
        given: &[
            "1 put a x [0,1] -> v1",
            "1 delete a [2,3] -> v2",
            "2 get a [4,5] -> x v1",
        ],
        want: Class::Violation,
    },
    Case {
        name: "planted: a value nobody wrote",
        given: &["1 get a [0,1] -> ghost v1"],
        want: Class::Violation,
    },
];

#[test]
fn valid_histories_pass_and_planted_bugs_are_found() {
    for case in &CASES {
        let verdict = verdict(case.given);
        assert_eq!(verdict.class(), case.want, "{}: {verdict}", case.name);
    }
}

#[test]
fn evidence_names_the_calls_that_do_not_fit() {
    let text = verdict(&[
        "1 put a x [0,1] -> v1",
        "1 put a y [2,3] -> v2",
        "2 get a [4,5] -> x v1",
    ])
    .to_string();
    assert!(text.contains("before: p1 put `y` a"), "{text}");
    assert!(text.contains("stuck:  p2 get a [0.000000004 s"), "{text}");
}

#[test]
fn hidden_writers_may_raise_the_version_but_not_change_the_value() {
    let given = [
        "1 put a x [0,1] -> v1",
        "2 get a [2,3] -> x v5",
        "1 cas a v1 y [4,5] -> conflict",
        "1 cas a v6 z [6,7] -> v8",
        "2 get a [8,9] -> z v8",
    ];
    let operations = history_of(&given);
    let hidden = check(&Input::new(&operations, Versions::AlsoHidden));
    assert_eq!(hidden.class(), Class::Pass, "{hidden}");
    assert_eq!(verdict(&given).class(), Class::Violation);
    let stale = history_of(&["1 put a x [0,1] -> v7", "2 get a [2,3] -> x v5"]);
    let stale = check(&Input::new(&stale, Versions::AlsoHidden));
    assert_eq!(stale.class(), Class::Violation);
}

#[test]
fn an_exhausted_budget_is_unknown_and_an_empty_history_too() {
    let operations = history_of(&["1 put a x [0,9] -> v5", "2 put a y [1,8] -> v4"]);
    let input = Input {
        max_configurations: 1,
        ..Input::new(&operations, Versions::OfTheHistory)
    };
    assert_eq!(check(&input).class(), Class::Unknown);
    assert_eq!(verdict(&[]).class(), Class::Unknown);
}

#[test]
fn a_write_that_the_log_shows_is_required_without_an_end() {
    let class = |operations: &[RegisterOperation]| {
        check(&Input::new(operations, Versions::OfTheHistory)).class()
    };
    let mut operations = history_of(&[
        "1 put a x [0,1] -> v1",
        "2 put a y [2,-] -> unknown",
        "3 get a [8,9] -> x v1",
    ]);
    assert_eq!(class(&operations), Class::Pass);
    operations[1].answer = Answer::Written { version: Some(2) };
    assert_eq!(class(&operations), Class::Pass);
    operations.push(op("4 get a [12,13] -> x v3"));
    assert_eq!(class(&operations), Class::Violation);
}

/// The second write of `x` leaves the state as it is if it comes first; it must come last.
#[test]
fn a_write_that_changes_nothing_now_may_be_needed_later() {
    let mut operations = history_of(&[
        "1 put a x [0,-] -> unknown",
        "2 get a [1,2] -> x v1",
        "3 put a y [3,-] -> unknown",
        "1 put a x [3,20] -> v9",
        "2 get a [5,6] -> y v2",
        "2 get a [21,22] -> x v3",
    ]);
    operations.iter_mut().for_each(hide_versions);
    let verdict = check(&Input::new(&operations, Versions::OfTheHistory));
    assert_eq!(verdict.class(), Class::Pass, "{verdict}");
}

/// One step of a run that is linearizable by construction.
#[derive(Debug, Clone)]
struct Plan {
    kind: u8,
    value: u8,
    /// Of a compare-and-set: expects the current version, else one that never was.
    expects_current: bool,
    begins_before: u64,
    ends_after: u64,
    /// Percent; below [`UNKNOWN_PERCENT`] the answer is lost, and an odd one never took effect.
    lost: u8,
    version_step: u64,
}

const UNKNOWN_PERCENT: u8 = 10;
/// Distance of the effects of two steps in the run.
const STEP_NS: u64 = 100;
const N_PROCESSES: u64 = 8;

fn plan() -> impl Strategy<Value = Plan> {
    (
        0..6u8,
        0..3u8,
        any::<bool>(),
        0..400u64,
        1..400u64,
        0..100u8,
        1..3u64,
    )
        .prop_map(
            |(kind, value, expects_current, begins_before, ends_after, lost, version_step)| Plan {
                kind,
                value,
                expects_current,
                begins_before,
                ends_after,
                lost,
                version_step,
            },
        )
}

/// Runs the plans one after the other and stretches each around its moment.
fn run(plans: &[Plan]) -> Vec<RegisterOperation> {
    let mut held: Option<(String, u64)> = None;
    let mut version = 0;
    let mut operations = Vec::new();
    for (step, plan) in plans.iter().enumerate() {
        let at_ns = (step as u64 + 4) * STEP_NS;
        let value = format!("{}", plan.value);
        let expected = match &held {
            Some((_, version)) if plan.expects_current => *version,
            _ => 0,
        };
        let action = match plan.kind {
            0 | 1 => Action::Get,
            2 | 3 => Action::Put { value },
            4 => Action::Cas { value, expected },
            _ => Action::Delete { expected: None },
        };
        let is_lost = plan.lost < UNKNOWN_PERCENT;
        let next = version + plan.version_step;
        let answer = if is_lost && plan.lost % 2 == 1 {
            Answer::Unknown
        } else {
            effect(&action, &mut held, &mut version, next)
        };
        operations.push(RegisterOperation {
            process: step as u64 % N_PROCESSES,
            request: None,
            node: None,
            key: "default/a".to_owned(),
            action,
            answer: if is_lost { Answer::Unknown } else { answer },
            invoked_ns: at_ns - plan.begins_before,
            ended_ns: (!is_lost).then_some(at_ns + plan.ends_after),
            log_index: None,
        });
    }
    operations
}

fn effect(
    action: &Action,
    held: &mut Option<(String, u64)>,
    version: &mut u64,
    next: u64,
) -> Answer {
    let holds = match action {
        Action::Get => {
            return Answer::Read(held.as_ref().map(|(value, version)| Seen {
                value: value.clone(),
                version: Some(*version),
            }));
        }
        Action::Put { .. } => true,
        Action::Create { .. } => held.is_none(),
        Action::Delete { .. } => held.is_some(),
        Action::Cas { expected, .. } => held.as_ref().is_some_and(|(_, held)| held == expected),
    };
    if !holds {
        return Answer::Conflict;
    }
    *version = next;
    let value = action.written_value().expect("a get has returned");
    *held = value.map(|value| (value.to_owned(), next));
    Answer::Written {
        version: Some(next),
    }
}

/// Tries every order, with no memo: the reference that the search must agree with.
fn brute_force(calls: &[Call<RegisterOp>]) -> bool {
    fn place(
        model: &Register,
        calls: &[Call<RegisterOp>],
        done: &mut Vec<bool>,
        state: RegisterState,
    ) -> bool {
        let is_missing = |at: usize, done: &[bool]| !done[at] && calls[at].end != End::Unknown;
        if (0..calls.len()).all(|at| !is_missing(at, done)) {
            return true;
        }
        for next in 0..calls.len() {
            let must_wait = (0..calls.len()).any(|at| {
                is_missing(at, done)
                    && matches!(calls[at].end, End::At(end) if end < calls[next].invoked_ns)
            });
            if done[next] || must_wait {
                continue;
            }
            if let Some(state) = model.step(&state, &calls[next].op) {
                done[next] = true;
                if place(model, calls, done, state) {
                    return true;
                }
                done[next] = false;
            }
        }
        false
    }
    let model = Register {
        versions: Versions::OfTheHistory,
    };
    place(
        &model,
        calls,
        &mut vec![false; calls.len()],
        model.initial(),
    )
}

/// Breaks one answer of a history; whether that is a violation is for the reference to say.
fn mutate(operations: &mut [RegisterOperation], kind: u8, at: usize, other: usize) {
    match kind {
        // A stale or invented read.
        0 => {
            operations[at].answer = match &operations[other].answer {
                Answer::Read(seen) => Answer::Read(seen.clone()),
                Answer::Written { version } => Answer::Read(Some(Seen {
                    value: "0".to_owned(),
                    version: *version,
                })),
                Answer::Conflict | Answer::Failed | Answer::Unknown => Answer::Read(None),
            };
            operations[at].action = Action::Get;
        }
        // A lost write: it was acknowledged, and nothing else knows of it.
        1 => {
            operations[at].action = Action::Put {
                value: "lost".to_owned(),
            };
            operations[at].answer = Answer::Written { version: None };
        }
        // Reordered versions.
        _ => {
            let answer = operations[at].answer.clone();
            let both_written = matches!(answer, Answer::Written { .. })
                && matches!(operations[other].answer, Answer::Written { .. });
            if both_written {
                operations[at].answer = operations[other].answer.clone();
                operations[other].answer = answer;
            }
        }
    }
    for operation in operations {
        if operation.answer == Answer::Unknown {
            operation.ended_ns = None;
        } else {
            operation
                .ended_ns
                .get_or_insert(operation.invoked_ns + STEP_NS);
        }
    }
}

/// As from a service that tells no versions: far more orders are then possible.
fn hide_versions(operation: &mut RegisterOperation) {
    match &mut operation.answer {
        Answer::Written { version } => *version = None,
        Answer::Read(Some(seen)) => seen.version = None,
        Answer::Read(None) | Answer::Conflict | Answer::Failed | Answer::Unknown => {}
    }
}

fn calls_of(operations: &[RegisterOperation]) -> Vec<Call<RegisterOp>> {
    calls(&operations.iter().collect::<Vec<_>>()).0
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_stretched_sequential_run_is_linearizable(
        plans in prop::collection::vec(plan(), 1..120),
    ) {
        let operations = run(&plans);
        let verdict = check(&Input::new(&operations, Versions::OfTheHistory));
        // All answers may be lost or failed; then there is nothing to check.
        prop_assert!(verdict.class() <= Class::Unknown, "{}", verdict);
        let calls = calls_of(&operations);
        if !calls.is_empty() {
            prop_assert_eq!(verdict.class(), Class::Pass, "{}", verdict);
        }
    }

}

proptest! {
    // Short histories are cheap, and a search that was wrong in one rare shape took 1,133 of them
    // to be found.
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn the_search_agrees_with_brute_force_on_broken_histories(
        plans in prop::collection::vec(plan(), 2..8),
        mutations in prop::collection::vec((0..3u8, any::<Index>(), any::<Index>()), 0..3),
        hides_versions in any::<bool>(),
    ) {
        let mut operations = run(&plans);
        if hides_versions {
            operations.iter_mut().for_each(hide_versions);
        }
        for (kind, at, other) in mutations {
            let (at, other) = (at.index(plans.len()), other.index(plans.len()));
            mutate(&mut operations, kind, at, other);
        }
        let calls = calls_of(&operations);
        let model = Register { versions: Versions::OfTheHistory };
        let found = search(&model, &calls, MAX_CONFIGURATIONS);
        let is_linearizable = matches!(found, Search::Linearizable { .. });
        prop_assert_eq!(is_linearizable, brute_force(&calls), "{:?}", operations);
        if let Search::Linearizable { order, .. } = found {
            let mut state = model.initial();
            for call in order {
                state = model.step(&state, &calls[call].op).expect("the witness is a legal run");
            }
        }
    }
}

/// A generator without a seed of its own, so that the long history is the same in every run.
fn long_plan(n: usize) -> Vec<Plan> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    (0..n)
        .map(|_| Plan {
            kind: u8::try_from(draw(6)).unwrap(),
            value: u8::try_from(draw(200)).unwrap(),
            expects_current: draw(2) == 0,
            begins_before: draw(N_PROCESSES / 2 * STEP_NS),
            ends_after: 1 + draw(N_PROCESSES / 2 * STEP_NS),
            lost: u8::try_from(draw(100)).unwrap(),
            version_step: 1 + draw(3),
        })
        .collect()
}

/// 200 calls per key, eight at a time, one in ten lost: some hundred configurations, not 2^20.
#[test]
fn a_trial_sized_key_takes_few_configurations() {
    const FEW: u64 = 2_000;
    let operations = run(&long_plan(200));
    let n_unknown = operations
        .iter()
        .filter(|op| op.answer == Answer::Unknown)
        .count();
    assert!(n_unknown >= 15, "{n_unknown} lost answers");
    let model = Register {
        versions: Versions::OfTheHistory,
    };
    match search(&model, &calls_of(&operations), FEW) {
        Search::Linearizable { order, .. } => assert!(order.len() >= 200 - n_unknown),
        other => panic!("{other:?}"),
    }
}

/// The expensive answer is "no": every configuration up to the broken read is explored.
#[test]
fn a_stale_read_at_the_end_of_a_trial_sized_key_is_found_within_the_budget() {
    const BOUND: u64 = 20_000;
    let mut operations = run(&long_plan(200));
    let last_ns = 400 * STEP_NS;
    operations.push(RegisterOperation {
        process: 99,
        request: None,
        node: None,
        key: "default/a".to_owned(),
        action: Action::Get,
        answer: Answer::Read(Some(Seen {
            value: "1".to_owned(),
            version: Some(1),
        })),
        invoked_ns: last_ns,
        ended_ns: Some(last_ns + 1),
        log_index: None,
    });
    let model = Register {
        versions: Versions::OfTheHistory,
    };
    match search(&model, &calls_of(&operations), BOUND) {
        Search::NotLinearizable { stuck, .. } => assert_eq!(stuck.len(), 1),
        other => panic!("{other:?}"),
    }
}
