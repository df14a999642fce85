//! One row per moment: when, what happens, and what follows from it.

use nihilo_types::probe::ProbeKind::{self, Liveness, Readiness, Startup};

use super::*;

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Every second, from the start on; ready at once, failed at the second time.
const EACH_SECOND: Rhythm = Rhythm {
    initial_delay: seconds(0),
    period: Some(seconds(1)),
    is_aggressive: false,
    n_successes: 1,
    n_failures: 2,
};

/// As without a readiness probe in the template.
const LISTENING: Rhythm = Rhythm {
    period: None,
    is_aggressive: true,
    n_failures: 1,
    ..EACH_SECOND
};

fn only(readiness: Rhythm) -> Rhythms {
    Rhythms {
        startup: None,
        liveness: None,
        readiness,
    }
}

/// A moment of an instance's life, in milliseconds.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// These are asked, and nothing else is due.
    Asks(&'static [Ask]),
    Passes(ProbeKind, Option<Turn>),
    Fails(ProbeKind, Option<Turn>),
    IsReadyAtLast(Option<Turn>),
    Interrupted,
    /// When the next is due.
    Waits(Option<u64>),
}

use Moment::{Asks, Fails, Interrupted, IsReadyAtLast, Passes, Waits};

fn play(schedule: &mut Schedule, moments: &[(u64, Moment)]) {
    for (at_ms, moment) in moments {
        let now = Duration::from_millis(*at_ms);
        match *moment {
            Asks(wanted) => {
                let asked: Vec<_> = std::iter::from_fn(|| schedule.due(now)).collect();
                assert_eq!(asked, wanted, "asked at {at_ms} ms");
            }
            Passes(kind, turn) => {
                assert_eq!(schedule.answered(kind, true, now), turn, "at {at_ms} ms");
            }
            Fails(kind, turn) => {
                assert_eq!(schedule.answered(kind, false, now), turn, "at {at_ms} ms");
            }
            IsReadyAtLast(turn) => {
                assert_eq!(schedule.passed_until_ready(now), turn, "at {at_ms} ms");
            }
            Interrupted => schedule.interrupted(now),
            Waits(at_ms) => {
                let wanted = at_ms.map(Duration::from_millis);
                assert_eq!(schedule.next_at(), wanted, "waits, at {now:?}");
            }
        }
    }
}

fn check(rhythms: Rhythms, moments: &[(u64, Moment)]) {
    play(&mut Schedule::new(rhythms), moments);
}

const READY: Option<Turn> = Some(Turn::Ready);
const NOT_READY: Option<Turn> = Some(Turn::NotReady);
const ONCE: &[Ask] = &[Ask::Once(Readiness)];
const UNTIL_READY: &[Ask] = &[Ask::UntilReady { n_successes: 1 }];
const BOTH: &[Ask] = &[Ask::Once(Liveness), Ask::UntilReady { n_successes: 1 }];

#[test]
fn without_a_probe_it_is_asked_until_it_listens_and_never_again() {
    check(
        only(LISTENING),
        &[
            (0, Asks(UNTIL_READY)),
            (0, Waits(None)),
            (40, IsReadyAtLast(READY)),
            (40, Waits(None)),
            (3_600_000, Asks(&[])),
        ],
    );
}

#[test]
fn without_a_period_it_is_asked_by_one_once_it_was_ready() {
    let aggressive = Rhythm {
        is_aggressive: true,
        n_successes: 3,
        ..EACH_SECOND
    };
    check(
        only(aggressive),
        &[
            (0, Asks(&[Ask::UntilReady { n_successes: 3 }])),
            (1_700, IsReadyAtLast(READY)),
            (1_700, Asks(ONCE)),
            (1_800, Fails(Readiness, None)),
            (1_800, Waits(Some(2_700))),
            (2_700, Asks(ONCE)),
            (2_700, Fails(Readiness, NOT_READY)),
            // By its period too: what was ready is not asked without a pause again.
            (2_700, Asks(&[])),
            (3_700, Asks(ONCE)),
            (3_700, Passes(Readiness, None)),
            (4_700, Asks(ONCE)),
            (4_700, Passes(Readiness, None)),
            (5_700, Asks(ONCE)),
            (5_700, Passes(Readiness, READY)),
        ],
    );
}

#[test]
fn readiness_goes_and_comes_by_answers_in_a_row() {
    let careful = Rhythm {
        n_successes: 2,
        ..EACH_SECOND
    };
    check(
        only(careful),
        &[
            (0, Asks(ONCE)),
            (1, Passes(Readiness, None)),
            (1_000, Asks(ONCE)),
            // One failure between two passes: not in a row.
            (1_001, Fails(Readiness, None)),
            (2_000, Asks(ONCE)),
            (2_001, Passes(Readiness, None)),
            (3_000, Asks(ONCE)),
            (3_001, Passes(Readiness, READY)),
            (4_000, Asks(ONCE)),
            (4_001, Fails(Readiness, None)),
            (5_000, Asks(ONCE)),
            (5_001, Passes(Readiness, None)),
            (6_000, Asks(ONCE)),
            (6_001, Fails(Readiness, None)),
            (7_000, Asks(ONCE)),
            (7_001, Fails(Readiness, NOT_READY)),
            // It is not said twice.
            (8_000, Asks(ONCE)),
            (8_001, Fails(Readiness, None)),
            (9_000, Asks(ONCE)),
            (9_001, Passes(Readiness, None)),
            (10_000, Asks(ONCE)),
            (10_001, Passes(Readiness, READY)),
        ],
    );
}

#[test]
fn a_failing_probe_before_it_was_ready_leaves_it_not_ready() {
    check(
        only(EACH_SECOND),
        &[
            (0, Asks(ONCE)),
            (0, Fails(Readiness, None)),
            (1_000, Asks(ONCE)),
            (1_000, Fails(Readiness, None)),
            (2_000, Asks(ONCE)),
            (2_000, Passes(Readiness, READY)),
        ],
    );
}

#[test]
fn a_period_is_kept_whatever_the_answers_take() {
    check(
        only(EACH_SECOND),
        &[
            (0, Asks(ONCE)),
            // One question at a time.
            (900, Asks(&[])),
            (950, Passes(Readiness, READY)),
            (950, Waits(Some(1_000))),
            (1_003, Asks(ONCE)),
            (1_900, Passes(Readiness, None)),
            (1_900, Waits(Some(2_000))),
            (2_000, Asks(ONCE)),
            // Longer than a period: at once, and what was missed is not made up for.
            (4_500, Passes(Readiness, None)),
            (4_500, Asks(ONCE)),
            (4_600, Passes(Readiness, None)),
            (4_600, Waits(Some(5_500))),
        ],
    );
}

#[test]
fn an_initial_delay_is_waited_for() {
    let later = Rhythm {
        initial_delay: seconds(5),
        ..EACH_SECOND
    };
    let rhythms = Rhythms {
        liveness: Some(later),
        ..only(EACH_SECOND)
    };
    check(
        rhythms,
        &[
            (0, Asks(ONCE)),
            (0, Passes(Readiness, READY)),
            (4_000, Asks(ONCE)),
            (4_000, Passes(Readiness, None)),
            (5_000, Asks(&[Ask::Once(Liveness), Ask::Once(Readiness)])),
        ],
    );
}

#[test]
fn liveness_ends_it_by_failures_in_a_row_ready_or_not() {
    let rhythms = Rhythms {
        liveness: Some(EACH_SECOND),
        ..only(LISTENING)
    };
    check(
        rhythms,
        &[
            (0, Asks(BOTH)),
            (5, Fails(Liveness, None)),
            (1_000, Asks(&[Ask::Once(Liveness)])),
            (1_005, Passes(Liveness, None)),
            (2_000, Asks(&[Ask::Once(Liveness)])),
            (2_005, Fails(Liveness, None)),
            (2_500, IsReadyAtLast(READY)),
            (3_000, Asks(&[Ask::Once(Liveness)])),
            (3_005, Fails(Liveness, Some(Turn::Restart(Liveness)))),
        ],
    );
}

#[test]
fn startup_holds_the_others_off_and_their_delays_run_meanwhile() {
    let later = Rhythm {
        initial_delay: seconds(5),
        ..EACH_SECOND
    };
    let rhythms = Rhythms {
        startup: Some(Rhythm {
            n_failures: 4,
            ..EACH_SECOND
        }),
        liveness: Some(later),
        readiness: LISTENING,
    };
    let startup: &[Ask] = &[Ask::Once(Startup)];
    check(
        rhythms,
        &[
            (0, Asks(startup)),
            (1, Fails(Startup, None)),
            (1_000, Asks(startup)),
            (1_001, Fails(Startup, None)),
            (2_000, Asks(startup)),
            (2_001, Passes(Startup, None)),
            (2_001, Asks(UNTIL_READY)),
            (2_001, Waits(Some(5_000))),
            (2_002, IsReadyAtLast(READY)),
            (5_000, Asks(&[Ask::Once(Liveness)])),
            (5_001, Passes(Liveness, None)),
        ],
    );
    check(
        rhythms,
        &[
            (0, Asks(startup)),
            (0, Fails(Startup, None)),
            (1_000, Asks(startup)),
            (1_000, Fails(Startup, None)),
            (2_000, Asks(startup)),
            (2_000, Fails(Startup, None)),
            (3_000, Asks(startup)),
            (3_000, Fails(Startup, Some(Turn::Restart(Startup)))),
        ],
    );
}

#[test]
fn what_was_dropped_is_asked_again_and_counts_as_before() {
    let rhythms = Rhythms {
        liveness: Some(EACH_SECOND),
        ..only(LISTENING)
    };
    check(
        rhythms,
        &[
            (0, Asks(BOTH)),
            (1, IsReadyAtLast(READY)),
            (2, Passes(Liveness, None)),
            (1_000, Asks(&[Ask::Once(Liveness)])),
            // A drain that was called off a minute later.
            (61_000, Interrupted),
            (61_000, Asks(&[Ask::Once(Liveness)])),
            (61_001, Fails(Liveness, None)),
            (62_000, Asks(&[Ask::Once(Liveness)])),
            (62_001, Fails(Liveness, Some(Turn::Restart(Liveness)))),
        ],
    );
}

#[test]
fn one_that_was_ready_before_is_ready_by_one_good_answer() {
    let careful = Rhythm {
        initial_delay: seconds(30),
        n_successes: 3,
        ..EACH_SECOND
    };
    let rhythms = Rhythms {
        startup: Some(EACH_SECOND),
        liveness: Some(careful),
        readiness: careful,
    };
    play(
        &mut Schedule::resumed(rhythms),
        &[
            (0, Asks(&[Ask::Once(Liveness), Ask::Once(Readiness)])),
            (1, Passes(Readiness, READY)),
            (1_000, Asks(ONCE)),
            (1_001, Fails(Readiness, None)),
            (2_000, Asks(ONCE)),
            (2_001, Fails(Readiness, NOT_READY)),
            // From then on as any other.
            (3_000, Asks(ONCE)),
            (3_001, Passes(Readiness, None)),
        ],
    );
}

#[test]
fn one_that_was_thawed_is_asked_without_a_pause_until_one_good_answer_and_then_as_any_other() {
    let careful = Rhythm {
        initial_delay: seconds(30),
        n_successes: 3,
        ..EACH_SECOND
    };
    let rhythms = Rhythms {
        startup: Some(EACH_SECOND),
        liveness: Some(careful),
        readiness: careful,
    };
    play(
        &mut Schedule::woken(rhythms),
        &[
            (0, Asks(BOTH)),
            (4, IsReadyAtLast(READY)),
            (1_000, Asks(ONCE)),
            (1_001, Fails(Readiness, None)),
            (2_000, Asks(ONCE)),
            (2_001, Fails(Readiness, NOT_READY)),
            (3_000, Asks(ONCE)),
            (3_001, Passes(Readiness, None)),
        ],
    );
    let probed = Rhythms {
        liveness: None,
        ..only(EACH_SECOND)
    };
    let mut schedule = Schedule::woken(probed);
    play(&mut schedule, &[(0, Asks(UNTIL_READY)), (0, Waits(None))]);
    play(
        &mut Schedule::woken(only(LISTENING)),
        &[
            (0, Asks(UNTIL_READY)),
            (1, IsReadyAtLast(READY)),
            (1, Waits(None)),
        ],
    );
}
