//! C8 for the shared checker, out of the agents' command ledgers and the owners' own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Context;
use nihilo_sim::checker::Verdict;
use nihilo_sim::checker::single_owner::{self, AgentCommand, Input};
use serde::Deserialize;

pub(super) use nihilo_sim::checker::single_owner::NAME;

#[derive(Debug, Deserialize)]
struct Command {
    boottime_ns: u64,
    shard: u16,
    epoch: u64,
    accepted: bool,
}

#[derive(Debug, Deserialize)]
struct Owned {
    shard: u16,
    epoch: u64,
}

/// `None` when the nodes of this trial wrote no ledgers.
pub(super) fn check(nodes: &[(String, PathBuf)]) -> Option<Verdict> {
    let wrote = |(_, dir): &(String, PathBuf)| dir.join("owned.jsonl").is_file();
    if !nodes.iter().any(wrote) {
        return None;
    }
    Some(match commands(nodes) {
        Ok(commands) => single_owner::check(&Input {
            commands,
            assignments: Vec::new(),
        }),
        Err(error) => Verdict::harness_fault(format!("{error:#}")),
    })
}

fn commands(nodes: &[(String, PathBuf)]) -> anyhow::Result<Vec<AgentCommand>> {
    let mut owners: BTreeMap<(u16, u64), BTreeSet<&str>> = BTreeMap::new();
    for (node, dir) in nodes {
        for owned in lines::<Owned>(&dir.join("owned.jsonl"))? {
            let of = owners.entry((owned.shard, owned.epoch)).or_default();
            of.insert(node);
        }
    }
    let mut commands = Vec::new();
    for (node, dir) in nodes {
        for command in lines::<Command>(&dir.join("agent").join("commands.jsonl"))? {
            let senders = owners.get(&(command.shard, command.epoch));
            // Two that gave orders under one epoch are two owners: one command of each.
            for owner in senders.into_iter().flatten() {
                commands.push(AgentCommand {
                    at_ns: command.boottime_ns,
                    agent: node.clone(),
                    owned: format!("shard {}", command.shard),
                    epoch: command.epoch,
                    owner: (*owner).to_owned(),
                    accepted: command.accepted,
                });
            }
        }
    }
    Ok(commands)
}

fn lines<T: for<'a> Deserialize<'a>>(path: &Path) -> anyhow::Result<Vec<T>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    let read = |line: &str| serde_json::from_str(line).with_context(|| line.to_owned());
    text.lines().map(read).collect()
}

#[cfg(test)]
mod tests {
    use nihilo_sim::checker::verdict::Class;

    use super::*;

    #[test]
    fn two_nodes_that_give_orders_under_one_epoch_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let of = |name: &str| (name.to_owned(), dir.path().join(name));
        let nodes = [of("node1"), of("node2")];
        for (_, node) in &nodes {
            std::fs::create_dir_all(node.join("agent")).unwrap();
        }
        assert!(check(&nodes).is_none());
        let owned = "{\"shard\":3,\"epoch\":7}\n";
        std::fs::write(nodes[0].1.join("owned.jsonl"), owned).unwrap();
        let line = "{\"boottime_ns\":5,\"shard\":3,\"epoch\":7,\"seq\":1,\"accepted\":true}\n";
        std::fs::write(nodes[1].1.join("agent/commands.jsonl"), line).unwrap();
        assert_eq!(check(&nodes).unwrap().class(), Class::Pass);
        std::fs::write(nodes[1].1.join("owned.jsonl"), owned).unwrap();
        assert_eq!(check(&nodes).unwrap().class(), Class::Violation);
    }
}
