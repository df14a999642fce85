//! C8 for the shared checker, out of the agents' command ledgers and the owners' own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
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

/// Of a node's directory: what its owners booked.
pub(crate) const OWNED: &str = "owned.jsonl";
/// Of a node's directory: the orders that its agent took or refused.
pub(crate) const COMMANDS: &str = "agent/commands.jsonl";

/// Judges the orders since `since_ns`; `None` when the nodes of this trial wrote no ledgers. A node
/// may stand in `nodes` more than once, with what was saved of it.
pub(super) fn check(nodes: &[(String, PathBuf)], since_ns: u64) -> Option<Verdict> {
    let wrote = |(_, dir): &(String, PathBuf)| dir.join(OWNED).is_file();
    if !nodes.iter().any(wrote) {
        return None;
    }
    Some(match commands(nodes, since_ns) {
        Ok(found) => judge(found),
        Err(error) => Verdict::harness_fault(format!("{error:#}")),
    })
}

/// What the ledgers say.
#[derive(Debug, Default)]
struct Found {
    commands: Vec<AgentCommand>,
    /// Accepted orders under an epoch that no owner has booked.
    n_unsent: usize,
}

fn judge(found: Found) -> Verdict {
    let verdict = single_owner::check(&Input {
        commands: found.commands,
        assignments: Vec::new(),
    });
    match (verdict, found.n_unsent) {
        (Verdict::Pass { .. }, n @ 1..) => {
            Verdict::unknown(format!("{n} accepted orders of which no owner knows"))
        }
        (verdict, _) => verdict,
    }
}

fn commands(nodes: &[(String, PathBuf)], since_ns: u64) -> anyhow::Result<Found> {
    let mut owners: BTreeMap<(u16, u64), BTreeSet<&str>> = BTreeMap::new();
    for (node, dir) in nodes {
        each_line(&dir.join(OWNED), |owned: Owned| {
            let of = owners.entry((owned.shard, owned.epoch)).or_default();
            of.insert(node);
        })?;
    }
    let mut found = Found::default();
    for (node, dir) in nodes {
        each_line(&dir.join(COMMANDS), |command: Command| {
            if command.boottime_ns < since_ns {
                return;
            }
            let senders = owners.get(&(command.shard, command.epoch));
            found.n_unsent += usize::from(command.accepted && senders.is_none());
            // Two that gave orders under one epoch are two owners: one command of each.
            for owner in senders.into_iter().flatten() {
                found.commands.push(AgentCommand {
                    at_ns: command.boottime_ns,
                    agent: node.clone(),
                    owned: format!("shard {}", command.shard),
                    epoch: command.epoch,
                    owner: (*owner).to_owned(),
                    accepted: command.accepted,
                });
            }
        })?;
    }
    // The ledgers of one name, of a node and of the one that took its place, are one agent's.
    found.commands.sort_by_key(|command| command.at_ns);
    Ok(found)
}

/// Line by line: a soak's ledgers are long, and only the newest part of them is judged.
fn each_line<T: for<'a> Deserialize<'a>>(
    path: &Path,
    mut visit: impl FnMut(T),
) -> anyhow::Result<()> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    for line in BufReader::new(file).lines() {
        let line = line.with_context(|| path.display().to_string())?;
        visit(serde_json::from_str(&line).with_context(|| line.clone())?);
    }
    Ok(())
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
        assert!(check(&nodes, 0).is_none());
        let owned = "{\"shard\":3,\"epoch\":7}\n";
        std::fs::write(nodes[0].1.join(OWNED), owned).unwrap();
        let line = "{\"boottime_ns\":5,\"shard\":3,\"epoch\":7,\"seq\":1,\"accepted\":true}\n";
        std::fs::write(nodes[1].1.join(COMMANDS), line).unwrap();
        assert_eq!(check(&nodes, 0).unwrap().class(), Class::Pass);
        std::fs::write(nodes[1].1.join(OWNED), owned).unwrap();
        assert_eq!(check(&nodes, 0).unwrap().class(), Class::Violation);
        let later = check(&nodes, 6).unwrap().class();
        assert_ne!(later, Class::Violation, "it was judged before");
    }

    #[test]
    fn an_accepted_order_that_nobody_gave_is_not_green() {
        let dir = tempfile::tempdir().unwrap();
        let nodes = [("node1".to_owned(), dir.path().to_owned())];
        std::fs::create_dir_all(dir.path().join("agent")).unwrap();
        let owned = "{\"shard\":3,\"epoch\":7}\n";
        std::fs::write(dir.path().join(OWNED), owned).unwrap();
        let line = |epoch| {
            let rest = "\"seq\":1,\"accepted\":true}\n";
            format!("{{\"boottime_ns\":5,\"shard\":3,\"epoch\":{epoch},{rest}")
        };
        std::fs::write(dir.path().join(COMMANDS), line(7) + &line(9)).unwrap();
        assert_eq!(check(&nodes, 0).unwrap().class(), Class::Unknown);
    }

    #[test]
    fn a_node_that_took_anothers_name_goes_on_where_that_one_ended() {
        let dir = tempfile::tempdir().unwrap();
        let of = |life: &str| ("node2".to_owned(), dir.path().join(life));
        let nodes = [of("node2-join1"), of("node2")];
        let order = |at_ns, epoch| {
            let rest = "\"seq\":1,\"accepted\":true}\n";
            format!("{{\"boottime_ns\":{at_ns},\"shard\":3,\"epoch\":{epoch},{rest}")
        };
        let owned = "{\"shard\":3,\"epoch\":5}\n{\"shard\":3,\"epoch\":9}\n";
        let book = |new: u64, old: u64| {
            for ((_, life), (at_ns, epoch)) in nodes.iter().zip([(20, new), (10, old)]) {
                std::fs::create_dir_all(life.join("agent")).unwrap();
                std::fs::write(life.join(OWNED), owned).unwrap();
                std::fs::write(life.join(COMMANDS), order(at_ns, epoch)).unwrap();
            }
            check(&nodes, 0).unwrap().class()
        };
        assert_eq!(book(9, 5), Class::Pass);
        assert_eq!(book(5, 9), Class::Violation);
    }
}
