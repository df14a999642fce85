//! `nihilo health`: one node's state as an exit code, for images that have no shell and no curl.

use std::time::Duration;

use nihilo_client::Client;
use nihilo_wire::cluster::{NodeStatus, StatusResponse};

use crate::args::Global;
use crate::failure::{Failure, Result, exit};
use crate::http::HttpClient;
use crate::output;

/// All of a check: less than the 2 s that health checks of containers are usually given.
const LIMIT: Duration = Duration::from_millis(1_500);

/// What the gateway answers to itself on its public port, whatever the host (05-gateway §5).
const GATEWAY_PATH: &str = "/.well-known/nihilo/gateway";

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct HealthArgs {
    /// It answers, its store works, it has a role in the cluster. This is the default.
    #[arg(long, conflicts_with = "ready")]
    live: bool,
    /// Live, joined, in touch with the leader, and the leader with a majority.
    #[arg(long)]
    ready: bool,
    /// Its gateway wants traffic, which needs no majority: for whatever sends clients to one of
    /// several nodes.
    #[arg(long, conflicts_with_all = ["live", "ready"])]
    gateway: bool,
    /// The gateway's own address, for --gateway.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "HOST:PORT")]
    gateway_address: String,
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
    let limit = global.request_timeout.min(LIMIT);
    if args.gateway {
        return check_gateway(args.gateway_address, limit).await;
    }
    let servers = match global.server.as_slice() {
        [] => vec![format!("127.0.0.1:{}", args.admin_port)],
        named => named.to_vec(),
    };
    for server in servers {
        let client = Client::connect_lazy(vec![server])?.with_timeout(limit);
        check(&client, args.ready).await?;
    }
    Ok(())
}

async fn check_gateway(address: String, limit: Duration) -> Result<()> {
    let client = HttpClient::new([address.clone()], limit);
    let answer = client.get(&address, GATEWAY_PATH).await;
    let answer = answer.map_err(|why| Failure::new(exit::OTHER, why))?;
    let said = String::from_utf8_lossy(&answer.body);
    let (status, said) = (answer.status.as_u16(), said.trim());
    if status != 200 {
        let why = format!("gateway {address} wants no traffic: {status} {said}");
        return Err(Failure::new(exit::OTHER, why));
    }
    output::data(&format!("gateway {address} is {said}"));
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

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

    /// A gateway of one answer; returns its address.
    async fn gateway(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            let n = stream.read(&mut head).await.unwrap();
            assert!(head[..n].starts_with(format!("GET {GATEWAY_PATH} ").as_bytes()));
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        address
    }

    #[tokio::test]
    async fn a_gateway_that_drains_is_exit_1_and_says_so() {
        let limit = Duration::from_secs(5);
        let open = gateway("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n").await;
        assert_eq!(check_gateway(open, limit).await, Ok(()));
        let draining = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 9\r\n\r\ndraining\n";
        let refused = check_gateway(gateway(draining).await, limit).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.code, 1);
        assert!(refused.to_string().contains("503 draining"), "{refused}");
    }

    #[tokio::test]
    async fn no_gateway_at_all_is_exit_1() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let free = listener.local_addr().unwrap().to_string();
        drop(listener);
        let failure = check_gateway(free, Duration::from_secs(5)).await;
        assert_eq!(failure.unwrap_err().code, 1);
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
