//! What is installed on a box fits the binary: the unit, the example of a configuration, and what the
//! unit calls.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;
use std::process::Command;

use common::{NIHILO, run, text};
use nihilo_types::node_config::{DockerSettings, GatewaySettings, NodeConfig, ProcessSettings};
use serde::de::DeserializeOwned;

const UNIT: &str = include_str!("../../../packaging/nihilo.service");
const EXAMPLE: &str = include_str!("../../../packaging/node.yaml");
const COMPOSE: &str = include_str!("../../../cluster/docker-compose.yml");
const KEEPALIVED: &str = include_str!("../../../packaging/keepalived/keepalived.conf");
/// Given to a node beyond its own grace before it is killed.
const SPARE_SECONDS: u32 = 15;
/// Exit code of the command line where it was called wrongly.
const USAGE: i32 = 2;

/// Values of a unit's setting, in their order.
fn settings<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    let lines = unit.lines().filter_map(|line| line.split_once('='));
    lines
        .filter(|(name, _)| *name == key)
        .map(|(_, value)| value)
        .collect()
}

/// The example with every setting that it shows at its default written out.
fn uncommented() -> String {
    let uncomment = |line: &str| match line.strip_prefix('#') {
        // People's lines begin with one space, keys with none, and keys below keys with two.
        Some(rest) if !rest.starts_with(' ') || rest.starts_with("  ") => rest.to_owned(),
        _ => line.to_owned(),
    };
    EXAMPLE.lines().map(|line| uncomment(line) + "\n").collect()
}

/// The keys that `T` has, as its own refusal of another one lists them.
fn keys<T: DeserializeOwned>() -> BTreeSet<String> {
    let refused = serde_json::from_str::<T>("{\"no such key\": 1}");
    let text = refused.err().unwrap().to_string();
    let listed = text.split_once("expected").unwrap().1;
    let names = listed.split('`').skip(1).step_by(2);
    names.map(str::to_owned).collect()
}

#[test]
fn the_example_is_the_defaults() {
    let as_is = NodeConfig::parse(EXAMPLE, "node.yaml").unwrap();
    let written_out = NodeConfig::parse(&uncommented(), "uncommented").unwrap();
    assert_eq!(as_is, written_out);

    let data_dir = as_is.data_dir.clone();
    let mut defaults = NodeConfig::of_one(as_is.name.clone(), as_is.node_id, data_dir);
    defaults.listen = as_is.listen.clone();
    defaults.advertise = as_is.advertise.clone();
    defaults.members = as_is.members.clone();
    assert_eq!(as_is, defaults);
}

#[test]
fn the_example_shows_every_key() {
    let all = [
        keys::<NodeConfig>(),
        keys::<DockerSettings>(),
        keys::<GatewaySettings>(),
        keys::<ProcessSettings>(),
    ];
    assert!(all.iter().all(|keys| keys.len() > 1), "{all:?}");
    for key in all.iter().flatten() {
        assert!(EXAMPLE.contains(&format!("{key}:")), "`{key}` is not shown");
    }
}

#[test]
fn who_stops_a_node_waits_for_its_grace_and_then_some() {
    let grace = NodeConfig::parse(EXAMPLE, "node.yaml")
        .unwrap()
        .shutdown_grace;
    let wanted = (grace + SPARE_SECONDS).to_string();
    assert_eq!(settings(UNIT, "TimeoutStopSec"), [wanted.as_str()]);
    let compose = format!("stop_grace_period: {wanted}s");
    assert!(COMPOSE.contains(&compose), "{compose}");
}

#[test]
fn the_unit_keeps_to_where_the_example_puts_things() {
    let config = NodeConfig::parse(EXAMPLE, "node.yaml").unwrap();
    let state = format!("/var/lib/{}", settings(UNIT, "StateDirectory")[0]);
    assert_eq!(config.data_dir.to_str(), Some(state.as_str()));
    let condition = settings(UNIT, "ConditionPathExists")[0];
    for command in [settings(UNIT, "ExecStart"), settings(UNIT, "ExecStopPost")] {
        assert!(command[0].ends_with(&format!("--config {condition}")));
    }
    // What a node makes of it: server/tests/reload.rs.
    assert_eq!(settings(UNIT, "ExecReload"), ["/bin/kill -HUP $MAINPID"]);
}

#[test]
fn the_binary_knows_what_the_unit_calls() {
    let called = [settings(UNIT, "ExecStart"), settings(UNIT, "ExecStopPost")].concat();
    let scripts = KEEPALIVED.lines().filter_map(|line| {
        let command = line.trim().strip_prefix("script \"")?;
        command.strip_suffix('"')
    });
    let called: Vec<_> = called.into_iter().chain(scripts).collect();
    assert_eq!(called.len(), 3, "{called:?}");
    for command in called {
        let words: Vec<_> = command.split(' ').collect();
        assert_eq!(words[0], "/usr/bin/nihilo");
        let known = run(&[&words[1..], &["--help"]].concat());
        assert!(known.status.success(), "{command}: {}", text(&known));
    }
    // A flag that is not known is told, so that the above can fail.
    let unknown = run(&["node", "start", "--confg", "x", "--help"]);
    assert_eq!(unknown.status.code(), Some(USAGE), "{}", text(&unknown));
}

#[test]
fn systemd_understands_the_unit() {
    let dir = tempfile::tempdir().unwrap();
    let unit = dir.path().join("nihilo.service");
    std::fs::write(&unit, UNIT.replace("/usr/bin/nihilo", NIHILO)).unwrap();
    let verified = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(&unit)
        .output();
    let Ok(verified) = verified else {
        return eprintln!("skipped: no systemd-analyze on this machine");
    };
    let shown = text(&verified);
    // Of version 254; the unit says so.
    let complaints = shown
        .lines()
        .filter(|line| !line.contains("DelegateSubgroup"));
    let ours: Vec<_> = complaints.filter(|line| line.contains("nihilo")).collect();
    assert!(ours.is_empty() && verified.status.success(), "{shown}");
}
