//! `nihilo cluster …`: status and leadership here, the rest in its own files.

use clap::Subcommand;
use nihilo_types::time;
use nihilo_wire::cluster as pb;
use serde::Serialize;

use super::backup::{BackupArgs, RestoreArgs};
use super::digests;
use super::join::JoinArgs;
use super::members::{self, RemoveArgs, TokenCommand};
use super::recover::RecoverArgs;
use crate::context::Context;
use crate::failure::{Failure, Result, exit};
use crate::output::{self, OutputArgs};

const HEAD: [&str; 8] = [
    "NODE",
    "ROLE",
    "TERM",
    "APPLIED",
    "LAG",
    "INSTANCES",
    "ADDR",
    "AGE",
];

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Nodes, their roles and how far each has come.
    Status {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// What each node's state comes to; fails when replicas differ at one index.
    Digests {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Hand leadership over, to NODE or to any follower that is up to date.
    TransferLeader { node: Option<String> },
    /// Everybody who is or was a member, and what consensus makes of each.
    Members {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Permissions for other nodes to join.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Join a cluster as a new node, and run it.
    Join(JoinArgs),
    /// Make a learner a voter, as soon as it has caught up.
    Promote { node: String },
    /// Take a node out for good, drained if it lives; its id is never used again.
    Remove(RemoveArgs),
    /// Write the whole state to FILE while the cluster serves.
    Backup(BackupArgs),
    /// Make the first node of a new cluster out of a backup.
    Restore(RestoreArgs),
    /// Make a one-voter cluster of this node, when the majority is lost for good.
    Recover(RecoverArgs),
    /// Let every node use what this build brings; older builds cannot take part any more.
    FinalizeVersion,
}

#[derive(Debug, Serialize)]
struct Status {
    cluster: String,
    cluster_id: String,
    version: String,
    quorum: bool,
    term: u64,
    leader: String,
    services: u32,
    unowned_shards: u32,
    nodes: Vec<Node>,
}

#[derive(Debug, Serialize)]
struct Node {
    id: u64,
    name: String,
    role: String,
    term: u64,
    applied: u64,
    gateway: String,
    admin: String,
    peer: String,
    pid: u32,
    roles: Vec<String>,
    table: Table,
    store: String,
    session: u64,
    shards: u32,
    instances: u32,
    age_ms: u64,
    /// What keeps instances within their limits there.
    limits: String,
    /// How far programs are isolated there, and why not further.
    isolation: String,
    /// Empty where it is given all work.
    duty: String,
}

/// The route table that a node's gateway serves.
#[derive(Debug, Serialize)]
struct Table {
    acknowledged: u64,
    stale: bool,
}

pub(crate) async fn run(context: &Context, command: ClusterCommand) -> Result<()> {
    match command {
        ClusterCommand::Status { output } => status(context, output).await,
        ClusterCommand::Digests { output } => digests::run(context, output).await,
        ClusterCommand::TransferLeader { node } => transfer(context, node.as_deref()).await,
        ClusterCommand::Members { output } => members::list(context, output).await,
        ClusterCommand::Token(command) => members::token(context, command).await,
        ClusterCommand::Promote { node } => members::promote(context, &node).await,
        ClusterCommand::Remove(args) => members::remove(context, &args).await,
        ClusterCommand::FinalizeVersion => members::finalize_version(context).await,
        ClusterCommand::Join(_)
        | ClusterCommand::Backup(_)
        | ClusterCommand::Restore(_)
        | ClusterCommand::Recover(_) => unreachable!("dispatched before"),
    }
}

async fn status(context: &Context, output: OutputArgs) -> Result<()> {
    let answer = context.client.cluster_status().await?;
    if !answer.quorum {
        output::note("warning: no quorum; this is what one node knows of itself");
    }
    let status = Status::from(answer);
    for node in status.nodes.iter().filter(|node| node.has_failed()) {
        output::note(&failed_store(node));
    }
    output::one(output.output, &status, names, |status| {
        output::table(
            &HEAD,
            &status
                .nodes
                .iter()
                .map(|node| row(status, node))
                .collect::<Vec<_>>(),
        )
    })
}

async fn transfer(context: &Context, node: Option<&str>) -> Result<()> {
    let nodes = context.client.cluster_status().await?.nodes;
    let to = match node {
        None => 0,
        Some(name) => nodes
            .iter()
            .find(|node| node.name == name)
            .map(|node| node.id)
            .ok_or_else(|| {
                let names: Vec<_> = nodes.iter().map(|node| node.name.as_str()).collect();
                Failure::new(exit::NOT_FOUND, format!("no node `{name}`"))
                    .because(format!("nodes: {}", names.join(", ")))
            })?,
    };
    let leader = context.client.transfer_leader(to).await?;
    let name = nodes
        .iter()
        .find(|node| node.id == leader)
        .map(|node| node.name.as_str());
    output::data(&format!("leader is {}", name.unwrap_or("another node")));
    Ok(())
}

impl From<pb::StatusResponse> for Status {
    fn from(answer: pb::StatusResponse) -> Self {
        Self {
            cluster: answer.cluster,
            cluster_id: answer.cluster_id,
            version: answer.version,
            quorum: answer.quorum,
            term: answer.term,
            leader: answer.leader_name,
            services: answer.n_services,
            unowned_shards: answer.n_unowned_shards,
            nodes: answer.nodes.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<pb::NodeStatus> for Node {
    fn from(node: pb::NodeStatus) -> Self {
        Self {
            id: node.id,
            name: node.name,
            role: node.role,
            term: node.term,
            applied: node.applied,
            gateway: node.gateway,
            admin: node.admin,
            peer: node.peer,
            pid: node.pid,
            roles: node.roles,
            table: Table {
                acknowledged: node.table,
                stale: node.table_stale,
            },
            store: node.store,
            session: node.session,
            shards: node.n_shards,
            instances: node.n_instances,
            age_ms: node.started_ms_ago,
            limits: node.limits,
            isolation: node.isolation,
            duty: node.duty,
        }
    }
}

impl Node {
    /// A node that does not answer says nothing of its store.
    fn has_failed(&self) -> bool {
        !self.store.is_empty() && self.store != "ok"
    }
}

fn failed_store(node: &Node) -> String {
    format!(
        "warning: the store of {name} has failed: {cause}\n  it votes and acknowledges no more, its \
         traffic goes on\n  hint: remove the cause, then stop {name} (process {pid}) and start it \
         again",
        name = node.name,
        cause = node.store,
        pid = node.pid
    )
}

fn names(status: &Status) -> String {
    let names: Vec<_> = status
        .nodes
        .iter()
        .map(|node| format!("node/{}", node.name))
        .collect();
    names.join("\n")
}

/// LAG is what a node has yet to apply of what the leader has.
fn row(status: &Status, node: &Node) -> Vec<String> {
    let leader = status.nodes.iter().find(|node| node.role == "leader");
    let is_leader = node.role == "leader";
    let known = node.role != "unreachable";
    let shown = |value: String| if known { value } else { "-".into() };
    let lag = match leader {
        Some(leader) if known && !is_leader => {
            leader.applied.saturating_sub(node.applied).to_string()
        }
        _ => "-".into(),
    };
    vec![
        node.name.clone(),
        if is_leader {
            "LEADER".into()
        } else {
            node.role.clone()
        },
        shown(node.term.to_string()),
        shown(node.applied.to_string()),
        lag,
        shown(node.instances.to_string()),
        node.peer.clone(),
        shown(time::age(node.age_ms)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64, role: &str, applied: u64) -> pb::NodeStatus {
        pb::NodeStatus {
            id,
            name: format!("node{id}"),
            role: role.into(),
            term: 4,
            applied,
            gateway: format!("127.0.0.1:{}", 8079 + id),
            admin: format!("127.0.0.1:{}", 6970 + 100 * id),
            peer: format!("127.0.0.1:{}", 6971 + 100 * id),
            pid: 100,
            n_instances: 2,
            started_ms_ago: 5_000,
            ..Default::default()
        }
    }

    fn status() -> Status {
        let nodes = vec![
            node(1, "follower", 1201),
            node(2, "leader", 1204),
            node(3, "unreachable", 0),
        ];
        Status::from(pb::StatusResponse {
            nodes,
            quorum: true,
            ..Default::default()
        })
    }

    #[test]
    fn the_table_marks_the_leader_and_what_is_not_known() {
        let status = status();
        let rows: Vec<_> = status.nodes.iter().map(|node| row(&status, node)).collect();
        let want = "\
NODE   ROLE         TERM  APPLIED  LAG  INSTANCES  ADDR            AGE
node1  follower     4     1201     3    2          127.0.0.1:7071  5s
node2  LEADER       4     1204     -    2          127.0.0.1:7171  5s
node3  unreachable  -     -        -    -          127.0.0.1:7271  -";
        assert_eq!(output::table(&HEAD, &rows), want);
    }

    #[test]
    fn a_failed_store_is_told_with_its_cause_and_the_next_step() {
        let failed = pb::NodeStatus {
            store: "no space left on device".into(),
            ..node(2, "store-failed", 7)
        };
        let text = failed_store(&failed.clone().into());
        assert!(
            text.contains("node2 has failed: no space left on device"),
            "{text}"
        );
        assert!(text.contains("stop node2 (process 100)"), "{text}");
        assert!(Node::from(failed).has_failed());
        assert!(!Node::from(node(3, "unreachable", 0)).has_failed());
    }

    #[test]
    fn json_keeps_the_promised_keys() {
        let json = serde_json::to_value(status()).unwrap();
        for key in [
            "name", "role", "term", "applied", "gateway", "admin", "pid", "table", "store",
        ] {
            assert!(json["nodes"][1].get(key).is_some(), "{key}");
        }
        assert_eq!(json["nodes"][1]["role"], "leader");
        assert_eq!(json["nodes"][1]["gateway"], "127.0.0.1:8081");
    }
}
