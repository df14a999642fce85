//! The ownership protocol, every interleaving of it (03-actors §12.1): two nodes, each an owner
//! and an agent that share a crash, one shard, one revision, cap 1, one cut link, restart with
//! `adopt` and with `kill`, a reload within an epoch, a network that loses, repeats and reorders.
//!
//! It is written from the rules, not from the code: what it shows is that the rules hold together,
//! and that each of them is needed.

mod model;
mod node;

use std::time::Instant;

use model::{Cut, Ownership, Plant};
use stateright::{Checker, HasDiscoveries, Model};

/// States of one exploration, at most.
const MAX_STATES: usize = 200_000;
/// Until a planted hole is found, at most.
const MAX_STATES_FOR_A_HOLE: usize = 1_500_000;

fn explore(model: Ownership) {
    let name = format!("{model:?}");
    let started = Instant::now();
    let checker = model
        .checker()
        .threads(2)
        .target_state_count(MAX_STATES)
        .spawn_bfs()
        .join();
    let took = started.elapsed();
    eprintln!(
        "{name}: {} states in {took:?}",
        checker.unique_state_count()
    );
    for property in [
        "cap",
        "one owner per epoch",
        "floors never fall",
        "one session per node",
        "waits end",
    ] {
        checker.assert_no_discovery(property);
    }
}

const LINKS: [Cut; 4] = [
    Cut::None,
    Cut::BetweenNodes,
    Cut::FromLeader(0),
    Cut::FromLeader(1),
];

#[test]
fn the_rules_hold_when_instances_outlive_their_node() {
    LINKS
        .into_iter()
        .for_each(|link| explore(Ownership::new(true, link)));
}

#[test]
fn the_rules_hold_when_owner_and_instance_are_lost_together() {
    explore(Ownership {
        is_warm: true,
        ..Ownership::new(true, Cut::None)
    });
}

#[test]
fn the_rules_hold_when_instances_die_with_their_node() {
    LINKS
        .into_iter()
        .for_each(|link| explore(Ownership::new(false, link)));
}

/// What the exploration must reach, or it proves nothing.
#[test]
fn takeovers_adoption_and_the_relay_are_reached() {
    for (link, property) in [
        (Cut::None, "takeover"),
        (Cut::None, "second takeover"),
        (Cut::None, "adopted within the grace"),
        (Cut::BetweenNodes, "list by relay"),
    ] {
        discovers(Ownership::new(true, link), property);
    }
}

fn discovers(model: Ownership, property: &'static str) {
    let name = format!("{property} in {model:?}");
    let checker = model
        .checker()
        .threads(2)
        .target_state_count(MAX_STATES_FOR_A_HOLE)
        .finish_when(HasDiscoveries::AnyOf([property].into_iter().collect()))
        .spawn_bfs()
        .join();
    let n = checker.unique_state_count();
    assert!(
        checker.discovery(property).is_some(),
        "{name}: not found in {n} states"
    );
    eprintln!("{name}: found after {n} states");
}

fn finds(plant: Plant, property: &'static str) {
    let model = Ownership {
        plant: Some(plant),
        ..Ownership::new(true, Cut::None)
    };
    discovers(model, property);
}

/// Found by this model: an order that a dead life of the node never took was taken by the next.
#[test]
fn an_agent_that_takes_calls_for_an_earlier_life_is_found() {
    let model = Ownership {
        plant: Some(Plant::AnyLife),
        ..Ownership::new(false, Cut::None)
    };
    discovers(model, "cap");
}

#[test]
fn an_agent_that_takes_any_epoch_is_found() {
    finds(Plant::NoEpochCheck, "cap");
}

#[test]
fn a_floor_that_is_forgotten_on_restart_is_found() {
    finds(Plant::FloorForgotten, "floors never fall");
}

#[test]
fn an_adoption_that_forgets_is_found() {
    finds(Plant::AdoptionForgets, "cap");
}

#[test]
fn stranded_instances_that_are_not_counted_are_found() {
    finds(Plant::StrandedNotCounted, "cap");
}

#[test]
fn a_keeper_that_does_not_wait_is_found() {
    finds(Plant::KeeperDoesNotWait, "cap");
}

#[test]
fn a_reload_that_forgets_starts_in_doubt_is_found() {
    finds(Plant::ReloadForgetsStarts, "cap");
}

#[test]
fn an_old_session_that_stays_open_is_found() {
    finds(Plant::OldSessionStaysOpen, "one session per node");
}

#[test]
fn an_agent_that_joins_without_being_listed_is_found() {
    finds(Plant::NoListAfterJoin, "cap");
}

#[test]
fn a_start_that_overtakes_its_list_is_found() {
    finds(Plant::NoSeqCheck, "cap");
}

/// The owner and what it had counted are gone together; the next one lists who is left.
#[test]
fn a_new_owner_that_forgets_who_was_lost_is_found() {
    let model = Ownership {
        is_warm: true,
        plant: Some(Plant::NewOwnerForgetsTheLost),
        ..Ownership::new(true, Cut::None)
    };
    discovers(model, "cap");
}
