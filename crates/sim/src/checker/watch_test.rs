//! C7 on streams that tell everything, and on planted bugs.

use super::*;
use crate::checker::verdict::Class;

fn change(text: &str) -> Change {
    let (index, rest) = text.split_once(':').expect("an index");
    let (key, value) = rest.split_once('=').unwrap_or((rest, "v"));
    Change {
        index: index.parse().expect("a number"),
        key: key.to_owned(),
        value: (value != "-").then(|| value.to_owned()),
    }
}

/// Changes `index:key`, progress marks `+index`.
fn items(text: &str) -> Vec<Item> {
    text.split_whitespace()
        .map(|word| match word.strip_prefix('+') {
            Some(index) => Item::Progress(index.parse().expect("a number")),
            None => Item::Event(change(word)),
        })
        .collect()
}

fn segment(from: u64, text: &str, end: End) -> Segment {
    Segment {
        node: "n1".to_owned(),
        from,
        items: items(text),
        end,
    }
}

fn verdict_of(prefix: &str, segments: Vec<Segment>) -> Verdict {
    let log = "11:a 12:b 13:a 13:c 14:b 15:a=-";
    check(&Input {
        log: log.split_whitespace().map(change).collect(),
        streams: vec![Stream {
            watcher: "w1".to_owned(),
            prefix: prefix.to_owned(),
            segments,
        }],
    })
}

fn verdict(segments: Vec<Segment>) -> Verdict {
    verdict_of("", segments)
}

fn one(from: u64, text: &str) -> Verdict {
    verdict(vec![segment(from, text, End::Broken)])
}

#[track_caller]
fn assert_found(verdict: &Verdict, want: &str) {
    assert_eq!(verdict.class(), Class::Violation, "{verdict}");
    assert!(verdict.to_string().contains(want), "{verdict}");
}

#[test]
fn streams_that_tell_everything_pass() {
    let all = "11:a 12:b 13:a 13:c 14:b 15:a=-";
    let cases = [
        ("from the start", vec![segment(11, all, End::Broken)]),
        (
            "with progress",
            vec![segment(
                11,
                "+9 11:a +11 12:b +12 +12 13:c 13:a +13 14:b +14",
                End::Broken,
            )],
        ),
        (
            "resumed elsewhere",
            vec![
                segment(11, "11:a 12:b", End::Broken),
                segment(13, "", End::Broken),
                segment(13, "13:a 13:c +13", End::Broken),
                segment(14, "14:b 15:a=-", End::Broken),
            ],
        ),
        (
            "cut inside an index and resumed at it",
            vec![
                segment(11, "11:a 12:b 13:a", End::Broken),
                segment(13, "13:a 13:c", End::Broken),
            ],
        ),
        (
            "compacted at 12, listed at 14",
            vec![
                segment(2, "", End::Compacted { current: 12 }),
                segment(15, "15:a=-", End::Broken),
            ],
        ),
        (
            "lagging, and resumed after the last",
            vec![
                segment(11, "11:a 12:b", End::Lagging { last: 12 }),
                segment(13, "13:a 13:c", End::Broken),
            ],
        ),
        (
            "from the future",
            vec![segment(15, "+12 +14 15:a=- +20", End::Broken)],
        ),
    ];
    for (name, segments) in cases {
        let verdict = verdict(segments);
        assert_eq!(verdict.class(), Class::Pass, "{name}: {verdict}");
    }
    let filtered = vec![segment(11, "11:a 13:a +14 15:a=-", End::Broken)];
    let verdict = verdict_of("a", filtered);
    assert_eq!(verdict.class(), Class::Pass, "{verdict}");
}

#[test]
fn planted_watch_resumes_at_plus_one() {
    let verdict = verdict(vec![
        segment(11, "11:a 12:b", End::Broken),
        segment(14, "14:b 15:a=-", End::Broken),
    ]);
    assert_found(
        &verdict,
        "resumed from 14 although delivered up to 12 only: 2 changes",
    );
}

#[test]
fn planted_watch_skips_an_event() {
    assert_found(
        &one(11, "11:a 13:a 13:c"),
        "missing: is followed by a later change",
    );
    assert_found(&one(11, "12:b"), "11: `a` v");
}

#[test]
fn planted_delete_is_missing() {
    assert_found(&one(14, "14:b +15"), "15: `a` removed");
}

#[test]
fn planted_watch_duplicates_on_leader_change() {
    assert_found(&one(11, "11:a 12:b 12:b"), "delivered twice");
    assert_found(&one(11, "11:a 12:b 11:a"), "again, or out of order");
    assert_found(&one(11, "11:a +11 11:a"), "again, or out of order");
}

#[test]
fn planted_events_out_of_order() {
    assert_found(&one(11, "12:b 11:a"), "again, or out of order");
}

#[test]
fn planted_index_delivered_in_parts() {
    assert_found(&one(13, "13:a 14:b"), "only a part of its index");
    assert_found(&one(13, "13:a +13"), "only a part of its index");
    let resumed = verdict(vec![
        segment(13, "13:a", End::Broken),
        segment(14, "14:b", End::Broken),
    ]);
    assert_found(&resumed, "resumed from 14 although delivered up to 12 only");
}

#[test]
fn planted_progress_ahead_of_the_events() {
    assert_found(
        &one(11, "11:a +12 12:b"),
        "missing: is passed by a progress mark",
    );
    assert_found(&one(11, "11:a 12:b +11"), "it goes back");
}

#[test]
fn planted_filter_leaks_and_inventions() {
    let leak = verdict_of("a", vec![segment(11, "11:a 12:b", End::Broken)]);
    assert_found(&leak, "was not asked for");
    assert_found(&one(11, "11:a=other"), "is not in the log");
    assert_found(&one(12, "11:a 12:b"), "older than the 12 asked for");
}

#[test]
fn planted_lagging_names_more_than_it_delivered() {
    let verdict = verdict(vec![segment(11, "11:a", End::Lagging { last: 12 })]);
    assert_found(&verdict, "missing: ends `Lagging` with `last`");
}

#[test]
fn planted_compacted_answers_a_watch_that_is_not() {
    let verdict = verdict(vec![segment(15, "", End::Compacted { current: 12 })]);
    assert_found(&verdict, "answers a watch from 15, which is newer");
}

#[test]
fn a_log_that_ends_too_early_is_the_harness_and_silence_is_unknown() {
    assert_eq!(one(11, "99:a").class(), Class::HarnessFault);
    assert_eq!(verdict(Vec::new()).class(), Class::Unknown);
    let swapped = Input {
        log: vec![change("2:a"), change("1:a")],
        streams: Vec::new(),
    };
    assert_eq!(check(&swapped).class(), Class::HarnessFault);
}
