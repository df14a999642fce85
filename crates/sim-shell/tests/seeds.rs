//! What the gate runs: seeds that failed once, others, a planted bug, and seeds twice. One process a
//! seed; the tests only start them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

const PROGRAM: &str = env!("CARGO_BIN_EXE_nihilo-sim-shell");

/// Runs the program and returns what it printed; it must succeed.
fn pass(arguments: &[&str]) -> String {
    let output = Command::new(PROGRAM).args(arguments).output().unwrap();
    let text = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    let text = text.concat();
    assert!(output.status.success(), "{arguments:?}\n{text}");
    println!("{text}");
    text
}

#[test]
fn seeds_that_failed_once_pass() {
    let seeds = include_str!("../regressions.txt");
    let seeds = seeds.lines().filter(|line| !line.starts_with('#'));
    for seed in seeds.filter_map(|line| line.split_whitespace().next()) {
        pass(&["run", "--seed", seed]);
    }
}

#[test]
fn seeds_pass() {
    pass(&["many", "--seeds", "0..5"]);
    pass(&["many", "--seeds", "10..14"]);
}

#[test]
fn an_acknowledgment_before_the_sync_is_found() {
    pass(&["plants", "--seeds", "0..1", "--only", "ack-before-sync"]);
}

#[test]
#[ignore = "two of the bugs are found by no seed that the gate has time for (docs/reliability.md): runs in `cargo xtask test --long`"]
fn the_planted_bugs_are_found() {
    pass(&["plants", "--seeds", "0..40"]);
}

#[test]
fn a_seed_takes_the_same_way_twice() {
    pass(&["meta", "--seeds", "0..3"]);
}
