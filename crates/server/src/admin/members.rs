//! Who belongs to the cluster: tokens, joining, promoting, removing (02-store, membership).
//!
//! What is asked here is written down in the state; the leader's consensus follows it by itself.

use std::collections::BTreeSet;
use std::time::Duration;

use nihilo_machine::command::{
    AddNode, CLUSTER_VERSION, CreateToken, PromoteNode, RemoveNode, RequestKey, RevokeToken,
    SetClusterVersion, SetDuty,
};
use nihilo_machine::member::{Duty, Member, Standing};
use nihilo_machine::{Command, Outcome, State};
use nihilo_raft::{RaftNode, Role};
use nihilo_types::id::NodeId;
use nihilo_types::join_token::{self, ID_BYTES};
use nihilo_types::sealing::SealingKey;
use nihilo_types::secret_value::SecretValue;
use nihilo_wire::cluster as pb;
use prost::Message;
use tonic::Status;
use tracing::warn;

use super::error;
use crate::secrets_key::SecretsKey;

/// Bound of a write, forwarding and waiting for a leader included.
const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// How long the other voters may take to answer before one is taken out.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
const READ_LIMIT: Duration = Duration::from_secs(5);
const DEFAULT_TTL_MS: u64 = 3_600_000;
/// A permission that is open for longer than a week is forgotten by everybody but its finder.
const MAX_TTL_MS: u64 = 7 * 24 * 3_600_000;
const NONCE_BYTES: usize = 16;
/// Of a SHA-256, hexadecimal.
const HASH_DIGITS: usize = 64;
const MAX_NAME_BYTES: usize = 63;
const MAX_ADDRESS_BYTES: usize = 255;

/// Proposes a command under the caller's own request id, or under a drawn one.
async fn propose(
    raft: &RaftNode,
    command: Command,
    request_id: &str,
    method: &str,
    asked: &[u8],
) -> Result<(u64, Outcome), Status> {
    let id = match request_id {
        "" => uuid::Uuid::now_v7().to_string(),
        given => given.to_owned(),
    };
    let once = RequestKey::new(&id, method, asked);
    let reply = raft
        .propose(command, once, WRITE_LIMIT)
        .await
        .map_err(|failure| error::not_proposed(&failure))?;
    let outcome = reply.result.map_err(|why| error::rejected(&why))?;
    Ok((reply.index.0, outcome))
}

pub(super) async fn up_to_date(raft: &RaftNode) -> Result<(), Status> {
    let read = raft.read_index(READ_LIMIT).await;
    read.map(drop)
        .map_err(|failure| error::unavailable("NO_QUORUM", failure.to_string()))
}

/// Changes of voters are decided where it is known who answers.
fn lead(raft: &RaftNode) -> Result<(), Status> {
    let status = raft.status();
    if status.role == Role::Leader {
        return Ok(());
    }
    let leader = status.leader.unwrap_or(0);
    let text = format!("this node does not lead; ask node {leader}");
    Err(error::unavailable("NO_LEADER", text))
}

pub async fn list(raft: &RaftNode) -> Result<pb::ListMembersResponse, Status> {
    up_to_date(raft).await?;
    let status = raft.status();
    let (members, cluster_version) = raft.state().read(|state| {
        let members: Vec<_> = state.members().cloned().collect();
        (members, state.cluster_version())
    });
    let shown = |member: &std::sync::Arc<Member>| shown(member, &status.voters, &status.learners);
    Ok(pb::ListMembersResponse {
        members: members.iter().map(shown).collect(),
        cluster_version,
        known_version: CLUSTER_VERSION,
    })
}

fn shown(member: &Member, voters: &BTreeSet<u64>, learners: &BTreeSet<u64>) -> pb::Member {
    let (is_voter, is_learner) = (
        voters.contains(&member.id.0),
        learners.contains(&member.id.0),
    );
    let (wanted, removed_at) = match member.standing {
        Standing::Learner => ("learner", 0),
        Standing::Voter => ("voter", 0),
        Standing::Removed { at } => ("removed", at.0),
    };
    let standing = match (is_voter, is_learner) {
        _ if removed_at != 0 && (is_voter || is_learner) => "leaving",
        _ if removed_at != 0 => "removed",
        (true, _) => "voter",
        (false, true) => "learner",
        (false, false) => "joining",
    };
    pb::Member {
        id: member.id.0,
        name: member.name.clone(),
        peer: member.peer_address.clone(),
        admin: member.admin_address.clone(),
        wanted: wanted.into(),
        standing: standing.into(),
        removed_at,
        founder: member.is_founder,
    }
}

pub async fn create_token(
    raft: &RaftNode,
    request: pb::CreateTokenRequest,
) -> Result<pb::CreateTokenResponse, Status> {
    let ttl_ms = match request.ttl_ms {
        0 => DEFAULT_TTL_MS,
        given if given <= MAX_TTL_MS => given,
        given => {
            let text = format!("ttl of {given} ms, at most {MAX_TTL_MS} are possible");
            return Err(error::invalid("INVALID_FIELD", text));
        }
    };
    let is_hash =
        |text: &str| text.len() == HASH_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if request.id.len() != ID_BYTES * 2 || !is_hash(&request.secret_hash) {
        let text = "a token has an id of 10 hexadecimal digits and a SHA-256 of its secret";
        return Err(error::invalid("INVALID_FIELD", text));
    }
    let asked = request.encode_to_vec();
    let command = Command::CreateToken(CreateToken {
        id: request.id,
        secret_hash: request.secret_hash,
        voter: request.voter,
        ttl_ms,
    });
    propose(raft, command, &request.request_id, "create-token", &asked).await?;
    Ok(pb::CreateTokenResponse {
        cluster_id: raft.identity().cluster_id.clone(),
        ttl_ms,
    })
}

pub async fn list_tokens(raft: &RaftNode) -> Result<pb::ListTokensResponse, Status> {
    up_to_date(raft).await?;
    let tokens = raft.state().read(|state| {
        let now = state.clock().log_ms;
        let shown = state.tokens().map(|token| pb::Token {
            id: token.id.clone(),
            voter: token.voter,
            expires_in_ms: token.expires_log_ms.saturating_sub(now),
        });
        shown.collect()
    });
    Ok(pb::ListTokensResponse { tokens })
}

pub async fn revoke_token(
    raft: &RaftNode,
    request: pb::RevokeTokenRequest,
) -> Result<pb::RevokeTokenResponse, Status> {
    let asked = request.encode_to_vec();
    let command = Command::RevokeToken(RevokeToken { id: request.id });
    propose(raft, command, &request.request_id, "revoke-token", &asked).await?;
    Ok(pb::RevokeTokenResponse {})
}

/// Proves to a newcomer that this node's cluster made its token.
pub async fn greet(
    raft: &RaftNode,
    request: pb::GreetRequest,
) -> Result<pb::GreetResponse, Status> {
    if request.nonce.len() != NONCE_BYTES {
        let text = format!("a nonce has {NONCE_BYTES} bytes");
        return Err(error::invalid("INVALID_FIELD", text));
    }
    up_to_date(raft).await?;
    let token = raft
        .state()
        .read(|state| state.token(&request.token_id).cloned());
    let token = token.ok_or_else(|| error::not_found("join token", &request.token_id))?;
    let cluster_id = raft.identity().cluster_id.clone();
    let proof = join_token::proof(&token.secret_hash, &request.nonce, &cluster_id);
    Ok(pb::GreetResponse {
        cluster_id,
        proof: proof.to_vec().into(),
    })
}

pub async fn join(
    raft: &RaftNode,
    secrets_key: &SecretsKey,
    request: pb::JoinNodeRequest,
) -> Result<pb::JoinNodeResponse, Status> {
    check_newcomer(&request)?;
    let asked = request.encode_to_vec();
    let token_secret = SecretValue::new(request.secret.as_bytes());
    let command = Command::AddNode(AddNode {
        token: request.token_id,
        secret_hash: join_token::secret_hash(&request.secret),
        name: request.name,
        peer_address: request.peer,
        admin_address: request.admin,
    });
    let (index, outcome) = propose(raft, command, &request.request_id, "join", &asked).await?;
    let Outcome::Node(NodeId(node_id)) = outcome else {
        return Err(Status::internal(format!("unexpected answer {outcome:?}")));
    };
    let mut applied = raft.applied();
    let reached = applied.wait_for(|at| at.0 >= index);
    // What is told then may lack the caller, who knows who it is.
    drop(tokio::time::timeout(WRITE_LIMIT, reached).await);
    let (cluster, members) = raft.state().read(|state| {
        let present = state.members().filter(|member| !member.is_removed());
        let none = BTreeSet::new();
        let members = present.map(|member| shown(member, &none, &none));
        (state.cluster().cloned(), members.collect())
    });
    let cluster = cluster.ok_or_else(|| error::unavailable("NO_QUORUM", "not founded yet"))?;
    Ok(pb::JoinNodeResponse {
        node_id,
        cluster_id: raft.identity().cluster_id.clone(),
        cluster: cluster.name,
        domain: cluster.domain,
        external_port: cluster.external_port.into(),
        members,
        secrets_key: sealed_key(raft, secrets_key, &token_secret, node_id),
    })
}

/// The key of the cluster's Secrets for a newcomer; empty where this node has none, or one that is
/// not the cluster's: the newcomer is let in without it, and says so.
fn sealed_key(raft: &RaftNode, key: &SecretsKey, token_secret: &SecretValue, node: u64) -> String {
    let of_cluster = raft
        .state()
        .read(|state| state.secrets_key_id().map(str::to_owned));
    let key = match key.get() {
        Ok(key) if of_cluster.is_none_or(|id| id == key.id()) => key,
        Ok(_) => return String::new(),
        Err(error) => {
            warn!(%error, "a newcomer is given no secrets key");
            return String::new();
        }
    };
    let secret = std::str::from_utf8(token_secret.expose()).unwrap_or_default();
    let under = SealingKey::of_join_token(secret, &raft.identity().cluster_id, node);
    key.sealed_under(&under, rand::random(), &[join_token::KEY_PLACE])
}

fn check_newcomer(request: &pb::JoinNodeRequest) -> Result<(), Status> {
    let is_name = |name: &str| {
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
        !name.is_empty() && name.len() <= MAX_NAME_BYTES && name.bytes().all(is_word)
    };
    if !is_name(&request.name) {
        let text = format!(
            "name = `{}`, must be 1 to {MAX_NAME_BYTES} letters, digits, `-` and `.`",
            request.name
        );
        return Err(error::invalid("INVALID_FIELD", text));
    }
    for (what, address) in [("peer", &request.peer), ("admin", &request.admin)] {
        if !is_reachable(address) {
            let text = format!(
                "{what} = `{address}`, must be HOST:PORT by which other nodes reach this one; see \
                 `--advertise`"
            );
            return Err(error::invalid("INVALID_FIELD", text));
        }
    }
    if request.request_id.is_empty() {
        let text = "joining needs a `request_id`: repeated without one, it would make two nodes";
        return Err(error::invalid("MALFORMED", text));
    }
    Ok(())
}

/// `HOST:PORT` that other nodes may dial.
fn is_reachable(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else {
        return false;
    };
    let host = host.trim_matches(['[', ']']);
    let ip = host.parse::<std::net::IpAddr>();
    // Nobody reaches "any address" from elsewhere.
    let is_host = !host.is_empty() && !ip.is_ok_and(|ip| ip.is_unspecified());
    let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
    address.len() <= MAX_ADDRESS_BYTES && is_host && is_port
}

pub async fn promote(
    raft: &RaftNode,
    request: pb::PromoteNodeRequest,
) -> Result<pb::PromoteNodeResponse, Status> {
    let asked = request.encode_to_vec();
    let node = NodeId(request.node);
    let command = Command::PromoteNode(PromoteNode { node });
    let (index, _) = propose(raft, command, &request.request_id, "promote", &asked).await?;
    Ok(pb::PromoteNodeResponse { index })
}

pub async fn remove(
    raft: &RaftNode,
    request: pb::RemoveNodeRequest,
) -> Result<pb::RemoveNodeResponse, Status> {
    lead(raft)?;
    up_to_date(raft).await?;
    let removable = |state: &State| state.removable(NodeId(request.node)).map(drop);
    let removable = raft.state().read(removable);
    removable.map_err(|why| error::rejected(&why))?;
    if let Some(why) = raft.refuses_removal(request.node, ANSWER_LIMIT).await {
        return Err(error::precondition("NO_QUORUM_WITHOUT", why));
    }
    if request.only_check {
        return Ok(pb::RemoveNodeResponse { index: 0 });
    }
    let asked = request.encode_to_vec();
    let node = NodeId(request.node);
    let command = Command::RemoveNode(RemoveNode { node });
    let (index, _) = propose(raft, command, &request.request_id, "remove", &asked).await?;
    Ok(pb::RemoveNodeResponse { index })
}

/// Sets what work a node is given; returns the entry's index.
pub async fn set_duty(
    raft: &RaftNode,
    node: u64,
    duty: Duty,
    (request_id, asked): (&str, &[u8]),
) -> Result<u64, Status> {
    let node = NodeId(node);
    let command = Command::SetDuty(SetDuty { node, duty });
    let (index, _) = propose(raft, command, request_id, "set-duty", asked).await?;
    Ok(index)
}

/// Raises the version by one where every member says that it knows the next one.
pub async fn finalize(
    raft: &RaftNode,
    request: pb::FinalizeVersionRequest,
) -> Result<pb::FinalizeVersionResponse, Status> {
    lead(raft)?;
    up_to_date(raft).await?;
    let cluster_version = raft.state().read(|state| state.cluster_version());
    if cluster_version >= CLUSTER_VERSION {
        return Ok(pb::FinalizeVersionResponse { cluster_version });
    }
    let version = cluster_version + 1;
    let behind = raft.members_below(version);
    if !behind.is_empty() {
        let text = format!(
            "nodes {behind:?} have not said that they know cluster version {version}: they run an \
             older build, or do not answer; start this build on them, or remove them"
        );
        return Err(error::precondition("VERSION_SKEW", text));
    }
    let asked = request.encode_to_vec();
    let command = Command::SetClusterVersion(SetClusterVersion { version });
    propose(raft, command, &request.request_id, "finalize", &asked).await?;
    Ok(pb::FinalizeVersionResponse {
        cluster_version: version,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_that_others_can_dial() {
        for good in ["10.0.0.1:7071", "node-1.example:7071", "[fd00::1]:7071"] {
            assert!(is_reachable(good), "{good}");
        }
        for bad in [
            "0.0.0.0:7071",
            "[::]:7071",
            "node:0",
            "node:x",
            ":7071",
            "node",
        ] {
            assert!(!is_reachable(bad), "{bad}");
        }
    }
}
