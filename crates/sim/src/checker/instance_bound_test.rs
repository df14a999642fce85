//! C9 on replays that hold the bound, and planted bugs that break it.

use super::*;
use crate::checker::verdict::Class;
use crate::history::startstop::StartStopEvent;

const SECOND: u64 = 1_000_000_000;

/// `node instance event at pid`, times in tenths of a second.
fn records(lines: &[&str]) -> Vec<NodeRecords> {
    let mut nodes: BTreeMap<String, Vec<StartStopRecord>> = BTreeMap::new();
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [node, instance, event, at] = words[..] else {
            panic!("four words: {line}");
        };
        nodes
            .entry(node.to_owned())
            .or_default()
            .push(StartStopRecord {
                boottime_ns: tenths(at.parse().unwrap()),
                instance: instance.to_owned(),
                epoch: 71,
                event: match event {
                    "spawn" => StartStopEvent::Spawn,
                    "spawned" => StartStopEvent::Spawned,
                    _ => StartStopEvent::Exit,
                },
                pid: None,
            });
    }
    nodes
        .into_iter()
        .map(|(node, records)| NodeRecords { node, records })
        .collect()
}

fn tenths(at: u64) -> u64 {
    at * SECOND / 10
}

fn capped(max_scale: u32, lines: &[&str]) -> Input {
    Input {
        nodes: records(lines),
        max_scale: BTreeMap::from([("hello-00001".to_owned(), max_scale)]),
        ..Input::default()
    }
}

fn down(node: &str, at: u64, heard_again: Option<u64>, adopts: bool) -> DeclaredDown {
    DeclaredDown {
        node: node.to_owned(),
        at_ns: tenths(at),
        heard_again_ns: heard_again.map(tenths),
        adopts,
    }
}

#[track_caller]
fn assert_class(input: &Input, want: Class) -> String {
    let verdict = check(input);
    assert_eq!(verdict.class(), want, "{verdict}");
    verdict.to_string()
}

/// One instance on n1, which is killed at 1.0 s; its replacement on n2 starts at `start`.
fn replaced_at(start: u64) -> Input {
    let spawn = format!("n2 hello-00001-2a-1 spawn {start}");
    capped(1, &["n1 hello-00001-1z-1 spawn 2", &spawn])
}

#[test]
fn one_after_the_other_is_within_the_bound() {
    let input = capped(
        1,
        &[
            "n1 hello-00001-1z-1 spawn 10",
            "n1 hello-00001-1z-1 spawned 11",
            "n1 hello-00001-1z-1 exit 20",
            "n2 hello-00001-1z-2 spawn 20",
            "n2 hello-00001-1z-2 exit 30",
            "n2 hello-00002-1z-3 spawn 22",
        ],
    );
    assert_class(&input, Class::Pass);
}

#[test]
fn planted_cap_checked_before_the_start_and_not_at_it() {
    let input = capped(
        1,
        &[
            "n1 hello-00001-1z-1 spawn 10",
            "n2 hello-00001-1z-2 spawn 11",
            "n1 hello-00001-1z-1 exit 20",
        ],
    );
    let text = assert_class(&input, Class::Violation);
    assert!(
        text.contains("`hello-00001` at 1.100000000 s: 2 run, 1 allowed"),
        "{text}"
    );
    assert!(text.contains("`hello-00001-1z-1` on node `n1`"), "{text}");
}

#[test]
fn a_stated_surge_is_allowed() {
    let mut input = capped(
        1,
        &[
            "n1 hello-00001-1z-1 spawn 10",
            "n2 hello-00001-1z-2 spawn 11",
        ],
    );
    input.surge = 1;
    assert_class(&input, Class::Pass);
}

#[test]
fn planted_start_in_doubt_is_forgotten() {
    // The agent died between `spawn` and whatever came next: it may run.
    let input = capped(
        1,
        &[
            "n1 hello-00001-1z-1 spawn 10",
            "n2 hello-00001-1z-2 spawn 50",
        ],
    );
    assert_class(&input, Class::Violation);
}

#[test]
fn what_the_process_table_showed_gone_does_not_count() {
    let mut input = capped(
        1,
        &[
            "n1 hello-00001-1z-1 spawn 10",
            "n2 hello-00001-1z-2 spawn 50",
        ],
    );
    input.seen_empty = vec![SeenEmpty {
        node: "n1".to_owned(),
        at_ns: tenths(40),
    }];
    assert_class(&input, Class::Pass);
    input.seen_empty[0].at_ns = tenths(60);
    assert_class(&input, Class::Violation);
    input.seen_empty[0].node = "n3".to_owned();
    assert_class(&input, Class::Violation);
}

#[test]
fn a_killing_node_is_replaced_once_it_is_declared_down() {
    let mut input = replaced_at(10);
    input.declared_down = vec![down("n1", 10, None, false)];
    let text = assert_class(&input, Class::Pass);
    assert!(
        text.contains("up to 1 above the cap across a declared partition"),
        "{text}"
    );
}

#[test]
fn planted_refused_dial_uncounts_instances_before_the_declaration() {
    let mut input = replaced_at(9);
    input.declared_down = vec![down("n1", 10, None, false)];
    assert_class(&input, Class::Violation);
}

#[test]
fn an_adopting_node_is_replaced_after_the_grace() {
    let mut input = replaced_at(40);
    input.declared_down = vec![down("n1", 10, None, true)];
    assert_class(&input, Class::Pass);
}

#[test]
fn planted_restart_grace_ignored() {
    let mut input = replaced_at(39);
    input.declared_down = vec![down("n1", 10, None, true)];
    assert_class(&input, Class::Violation);
}

#[test]
fn planted_no_list_after_a_node_is_back_within_the_grace() {
    let mut input = replaced_at(41);
    input.declared_down = vec![down("n1", 10, Some(30), true)];
    assert_class(&input, Class::Violation);
}

#[test]
fn surplus_is_trimmed_within_h_of_the_heal() {
    let mut input = replaced_at(40);
    input.declared_down = vec![down("n1", 10, Some(100), true)];
    let late = assert_class(&input, Class::Violation);
    assert!(late.contains("at 15.000000000 s: 2 run"), "{late}");
    let start = input.nodes[0].records[0].clone();
    input.nodes[0].records.push(StartStopRecord {
        event: StartStopEvent::Exit,
        boottime_ns: tenths(149),
        ..start
    });
    assert_class(&input, Class::Pass);
}

#[test]
fn planted_start_after_the_node_was_heard_again() {
    let mut input = replaced_at(120);
    input.declared_down = vec![down("n1", 10, Some(100), true)];
    let text = assert_class(&input, Class::Violation);
    assert!(text.contains("heard again"), "{text}");
}

#[test]
fn planted_cap_exceeded_on_a_cut_off_node_by_itself() {
    let mut input = capped(
        1,
        &[
            "n1 hello-00001-1z-1 spawn 2",
            "n1 hello-00001-1z-2 spawn 30",
        ],
    );
    input.declared_down = vec![down("n1", 10, None, false)];
    let text = assert_class(&input, Class::Violation);
    assert!(text.contains("on node `n1` alone"), "{text}");
}

#[test]
fn planted_adoption_forgets_an_instance() {
    let mut input = capped(
        1,
        &[
            "n1 hello-00001-1z-1 spawn 10",
            "n1 hello-00001-1z-1 exit 20",
        ],
    );
    let sample = |at, instance: &str| ProcessSample {
        at_ns: tenths(at),
        instance: instance.to_owned(),
        pid: 4711,
    };
    input.samples = vec![
        sample(15, "hello-00001-1z-1"),
        sample(21, "hello-00001-1z-1"),
    ];
    assert_class(&input, Class::Pass);
    input.samples.push(sample(30, "hello-00001-1z-1"));
    input.samples.push(sample(31, "hello-00001-1z-1"));
    let text = assert_class(&input, Class::Violation);
    assert!(
        text.contains("1 found") && text.contains("outside every interval"),
        "{text}"
    );
    input.samples = vec![sample(15, "hello-00001-1z-9")];
    let text = assert_class(&input, Class::Violation);
    assert!(text.contains("in no start/stop record"), "{text}");
}

#[test]
fn planted_reload_resets_the_id_counter() {
    let input = capped(
        5,
        &[
            "n1 hello-00001-1z-1 spawn 10",
            "n1 hello-00001-1z-1 exit 20",
            "n2 hello-00001-1z-1 spawn 30",
        ],
    );
    let text = assert_class(&input, Class::Violation);
    assert!(text.contains("a second time under one id"), "{text}");
}

#[test]
fn a_log_without_its_head_is_a_harness_fault_and_no_log_is_unknown() {
    assert_class(
        &capped(1, &["n1 hello-00001-1z-1 exit 20"]),
        Class::HarnessFault,
    );
    assert_class(
        &capped(1, &["n1 hello-00001-1z-1 spawned 20"]),
        Class::HarnessFault,
    );
    assert_class(&capped(1, &[]), Class::Unknown);
}

#[test]
fn an_excess_that_spans_many_moments_is_one_violation() {
    let input = capped(
        1,
        &[
            "n1 hello-00001-1z-1 spawn 10",
            "n2 hello-00001-1z-2 spawn 11",
            "n3 hello-00001-1z-3 spawn 12",
        ],
    );
    let text = assert_class(&input, Class::Violation);
    assert!(text.contains("1 found"), "{text}");
}
