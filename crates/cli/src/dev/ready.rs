//! Waiting until a local cluster serves: a leader, a quorum, every node's session open.

use std::time::Duration;

use nihilo_client::Client;
use nihilo_types::node_config::NodeConfig;
use nihilo_wire::cluster::StatusResponse;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::spawn::{Node, failure_of};
use crate::failure::{Failure, Result, exit};
use crate::output;

/// A debug build on a busy machine needs a few seconds.
const READY_LIMIT: Duration = Duration::from_secs(60);
const ASK_EVERY: Duration = Duration::from_millis(100);
const ASK_LIMIT: Duration = Duration::from_secs(2);
const SAY_EVERY: Duration = Duration::from_secs(1);

/// Waits until all of `configs` serve; says once a second what is missing.
///
/// # Errors
/// One of `nodes` ended, or the limit passed; with the last output of the node to blame.
pub(crate) async fn wait(configs: &[NodeConfig], nodes: &mut [Node]) -> Result<()> {
    let servers = configs.iter().map(NodeConfig::admin_address).collect();
    let client = Client::connect_lazy(servers)?.with_timeout(ASK_LIMIT);
    let started = Instant::now();
    let mut said = started;
    loop {
        for node in nodes.iter_mut() {
            if let Some(how) = node.ended() {
                return Err(failure_of(&node.config, &format!("ended: {how}")));
            }
        }
        let status = client.cluster_status().await.ok();
        let missing = match missing(status.as_ref(), configs.len()) {
            None => closed_gateway(configs).await,
            missing => missing,
        };
        match (&missing, status) {
            (None, Some(status)) => {
                output::data(&ready_line(started.elapsed(), &status));
                return Ok(());
            }
            (Some(missing), _) if started.elapsed() >= READY_LIMIT => {
                return Err(too_late(configs, nodes, missing));
            }
            _ => {}
        }
        if said.elapsed() >= SAY_EVERY {
            said = Instant::now();
            let missing = missing.unwrap_or_default();
            output::note(&format!(
                "{:5.1}s waiting: {missing}",
                started.elapsed().as_secs_f64()
            ));
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

fn ready_line(elapsed: Duration, status: &StatusResponse) -> String {
    let nodes = match status.nodes.len() {
        1 => "1 node".into(),
        n => format!("{n} nodes"),
    };
    format!(
        "{:5.1}s cluster `{}` ready: {nodes}, leader {} (term {})",
        elapsed.as_secs_f64(),
        status.cluster,
        status.leader_name,
        status.term
    )
}

/// What keeps the cluster from serving, if anything.
pub(crate) fn missing(status: Option<&StatusResponse>, n_nodes: usize) -> Option<String> {
    let Some(status) = status else {
        return Some("no node answers".into());
    };
    if status.leader == 0 {
        return Some("no leader".into());
    }
    if !status.quorum {
        return Some("no quorum".into());
    }
    let absent: Vec<_> = status
        .nodes
        .iter()
        .filter(|node| node.session == 0 || node.role == "unreachable")
        .map(|node| node.name.as_str())
        .collect();
    if !absent.is_empty() {
        return Some(format!("{} not joined yet", absent.join(", ")));
    }
    let n_known = status.nodes.len();
    (n_known < n_nodes).then(|| format!("{n_known} of {n_nodes} nodes"))
}

async fn closed_gateway(configs: &[NodeConfig]) -> Option<String> {
    for config in configs {
        if TcpStream::connect(config.gateway_address()).await.is_err() {
            return Some(format!("the gateway of {} is closed", config.name));
        }
    }
    None
}

/// Blames the first node that is named in what is missing, else the first that was started.
fn too_late(configs: &[NodeConfig], nodes: &[Node], missing: &str) -> Failure {
    let blamed = configs
        .iter()
        .find(|config| missing.contains(&config.name))
        .or_else(|| nodes.first().map(|node| &node.config));
    let what = format!("is not ready after {} s: {missing}", READY_LIMIT.as_secs());
    match blamed {
        Some(config) => failure_of(config, &what),
        None => Failure::new(exit::UNREACHABLE, format!("the cluster {what}")),
    }
}

#[cfg(test)]
mod tests {
    use nihilo_wire::cluster::NodeStatus;

    use super::*;

    fn node(name: &str, session: u64) -> NodeStatus {
        NodeStatus {
            name: name.into(),
            role: "follower".into(),
            session,
            ..Default::default()
        }
    }

    #[test]
    fn it_serves_when_every_node_has_joined_under_a_leader() {
        assert_eq!(missing(None, 3).unwrap(), "no node answers");
        let mut status = StatusResponse::default();
        assert_eq!(missing(Some(&status), 3).unwrap(), "no leader");
        status.leader = 1;
        assert_eq!(missing(Some(&status), 3).unwrap(), "no quorum");
        status.quorum = true;
        status.nodes = vec![node("node1", 1), node("node2", 0)];
        assert_eq!(missing(Some(&status), 3).unwrap(), "node2 not joined yet");
        status.nodes[1].session = 2;
        assert_eq!(missing(Some(&status), 3).unwrap(), "2 of 3 nodes");
        status.nodes.push(node("node3", 3));
        assert_eq!(missing(Some(&status), 3), None);
        status.nodes[0].role = "unreachable".into();
        assert_eq!(missing(Some(&status), 3).unwrap(), "node1 not joined yet");
    }

    #[test]
    fn the_ready_line_names_the_leader() {
        let status = StatusResponse {
            cluster: "dev".into(),
            leader_name: "node2".into(),
            term: 1,
            nodes: vec![NodeStatus::default(); 3],
            ..Default::default()
        };
        let line = ready_line(Duration::from_millis(1_240), &status);
        assert_eq!(
            line,
            "  1.2s cluster `dev` ready: 3 nodes, leader node2 (term 1)"
        );
    }
}
