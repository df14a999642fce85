//! `nihilo health`: one node's state as an exit code, for images that have no shell and no curl.

use std::time::Duration;

use nihilo_client::Client;
use nihilo_wire::cluster::{NodeStatus, StatusResponse};

use crate::args::Global;
use crate::failure::{Failure, Result, exit};
use crate::output;

/// All of a check: less than the 2 s that health checks of containers are usually given.
const LIMIT: Duration = Duration::from_millis(1_500);

#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct HealthArgs {
    /// It answers, its store works, it has a role in the cluster. This is the default.
    #[arg(long, conflicts_with = "ready")]
    live: bool,
    /// Live, joined, in touch with the leader, and the leader with a majority.
    #[arg(long)]
    ready: bool,
    /// Admin port of the node on this machine, unless --server names another.
    #[arg(
        long,
        env = "NIHILO_ADMIN_PORT",
        default_value_t = 7070,
        value_name = "PORT"
    )]
    admin_port: u16,
}

/// # Errors
/// Exit 1: the first node that is not well, and why.
pub(crate) async fn run(global: &Global, args: HealthArgs) -> Result<()> {
    let servers = match global.server.as_slice() {
        [] => vec![format!("127.0.0.1:{}", args.admin_port)],
        named => named.to_vec(),
    };
    let limit = global.request_timeout.min(LIMIT);
    for server in servers {
        let client = Client::connect_lazy(vec![server])?.with_timeout(limit);
        check(&client, args.ready).await?;
    }
    Ok(())
}

async fn check(client: &Client, ready: bool) -> Result<()> {
    // Any other code than 0 and 1 means nothing to those who run health checks.
    let unwell = |why: String| Failure::new(exit::OTHER, why);
    let silent = |error: nihilo_client::Error| unwell(error.message);
    let own = client.local_status().await.map_err(silent)?;
    let node = own.nodes.first();
    let node = node.ok_or_else(|| unwell("the node says nothing of itself".into()))?;
    if let Some(why) = not_live(node) {
        return Err(unwell(format!("{} is not live: {why}", node.name)));
    }
    if ready {
        let all = client.cluster_status().await.map_err(silent)?;
        if let Some(why) = not_ready(node, &all) {
            return Err(unwell(format!("{} is not ready: {why}", node.name)));
        }
    }
    let what = if ready { "ready" } else { "live" };
    output::data(&format!(
        "{} is {what}: {}, term {}",
        node.name, node.role, node.term
    ));
    Ok(())
}

/// A node that has a majority against it is live: restarting it helps nobody.
fn not_live(node: &NodeStatus) -> Option<String> {
    if node.store != "ok" {
        return Some(format!("its store failed: {}", node.store));
    }
    (node.role.is_empty() || node.role == "unreachable").then(|| "it has no role".into())
}

fn not_ready(node: &NodeStatus, all: &StatusResponse) -> Option<String> {
    if node.session == 0 {
        return Some("it has not joined".into());
    }
    if node.table_stale {
        return Some("it is out of touch with the leader".into());
    }
    (!all.quorum).then(|| "no quorum is seen from it".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeStatus {
        NodeStatus {
            role: "follower".into(),
            store: "ok".into(),
            session: 4,
            ..NodeStatus::default()
        }
    }

    fn cluster(quorum: bool) -> StatusResponse {
        StatusResponse {
            quorum,
            ..StatusResponse::default()
        }
    }

    #[test]
    fn a_node_without_quorum_is_live_and_not_ready() {
        assert_eq!(not_live(&node()), None);
        assert_eq!(not_ready(&node(), &cluster(true)), None);
        let why = not_ready(&node(), &cluster(false));
        assert_eq!(why.as_deref(), Some("no quorum is seen from it"));
    }

    #[test]
    fn a_failed_store_or_no_role_is_not_live() {
        let failed = NodeStatus {
            store: "disk full".into(),
            ..node()
        };
        assert!(not_live(&failed).unwrap().contains("disk full"));
        for role in ["", "unreachable"] {
            let stopped = NodeStatus {
                role: role.into(),
                ..node()
            };
            assert_eq!(not_live(&stopped).as_deref(), Some("it has no role"));
        }
    }

    #[test]
    fn ready_needs_a_session_and_a_leader_that_answers() {
        let joining = NodeStatus {
            session: 0,
            ..node()
        };
        let why = not_ready(&joining, &cluster(true));
        assert_eq!(why.as_deref(), Some("it has not joined"));
        let cut = NodeStatus {
            table_stale: true,
            ..node()
        };
        let why = not_ready(&cut, &cluster(true));
        assert_eq!(why.as_deref(), Some("it is out of touch with the leader"));
    }

    #[tokio::test]
    async fn nobody_listening_is_exit_1() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let client = Client::connect_lazy(vec![address]).unwrap();
        let client = client.with_timeout(Duration::from_millis(300));
        assert_eq!(check(&client, false).await.unwrap_err().code, 1);
    }
}
