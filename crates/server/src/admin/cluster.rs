//! `nihilo.cluster.v1.ClusterService`: who is there, and how it is.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use nihilo_control::Control;
use nihilo_machine::member::Duty;
use nihilo_raft::{RaftNode, Role};
use nihilo_runtime::Agent;
use nihilo_types::id::{NodeId, SessionId};
use nihilo_types::instance::InstanceReport;
use nihilo_types::node_config::Member;
use nihilo_wire::cluster as pb;
use pb::cluster_service_client::ClusterServiceClient;
use prost::Message;
use tonic::{Request, Response, Status};

use super::observe::reports_of;
use super::{backup, drain, error, members};
use crate::peer::channels::Channels;
use crate::restart::{ANSWER_LIMIT, Requests};
use crate::secrets_key::SecretsKey;

/// A member that does not answer within this is shown as unreachable.
const ASK_LIMIT: Duration = Duration::from_millis(500);
/// A digest reads the whole state; below the client's limit of one attempt.
const DIGEST_LIMIT: Duration = Duration::from_secs(5);
/// A leader that was silent for longer may have published a newer route table.
const MAX_SILENCE_MS: u64 = 1_000;
/// Role of a node whose store has failed: it answers, and takes no part.
const STORE_FAILED: &str = "store-failed";
const TRANSFER_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub struct ClusterApi {
    pub raft: RaftNode,
    pub control: Control,
    pub agent: Agent,
    /// Those of the configuration: a cluster whose state does not name its founders yet has no
    /// other list.
    pub configured: Vec<Member>,
    pub me: pb::NodeStatus,
    /// When this process began to serve.
    pub started: Instant,
    pub channels: Channels,
    pub secrets_key: SecretsKey,
    pub(crate) restarts: Requests,
}

impl ClusterApi {
    fn local(&self) -> pb::NodeStatus {
        let status = self.raft.status();
        let failure = self.raft.failure().borrow().clone();
        let instances = self.agent.instances();
        let running = instances
            .iter()
            .filter(|(report, _)| report.state.is_counted())
            .count();
        let session = *self.control.session().borrow();
        let role = match failure {
            Some(_) => STORE_FAILED,
            None => status.role.as_str(),
        };
        pb::NodeStatus {
            role: role.into(),
            term: status.term,
            applied: self.raft.applied().borrow().0,
            session: session.0,
            n_shards: u32::try_from(self.control.n_owned_shards()).unwrap_or(u32::MAX),
            n_instances: u32::try_from(running).unwrap_or(u32::MAX),
            table: self.control.table_acknowledged().0,
            store: failure.map_or_else(|| "ok".into(), |cause| cause.to_string()),
            roles: vec!["control".into(), "gateway".into(), "agent".into()],
            started_ms_ago: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            table_stale: is_stale(&self.raft, &self.control),
            limits: self.agent.limits(),
            capacity: self.agent.capacity(),
            isolation: self.agent.isolation(),
            ..self.me.clone()
        }
    }

    async fn ask(&self, member: &Member) -> pb::NodeStatus {
        if member.id == self.me.id {
            return self.local();
        }
        let unreachable = || pb::NodeStatus {
            id: member.id,
            name: member.name.clone(),
            role: Role::Stopped.as_str().into(),
            admin: member.admin.clone(),
            peer: member.peer.clone(),
            ..pb::NodeStatus::default()
        };
        let Ok(channel) = self.channels.to(&member.admin) else {
            return unreachable();
        };
        let mut client = ClusterServiceClient::new(channel);
        let call = client.status(pb::StatusRequest { local: true });
        match tokio::time::timeout(ASK_LIMIT, call).await {
            Ok(Ok(answer)) => answer
                .into_inner()
                .nodes
                .into_iter()
                .next()
                .unwrap_or_else(unreachable),
            Ok(Err(_)) | Err(_) => unreachable(),
        }
    }

    async fn digest_of(&self, member: &Member) -> Option<pb::NodeDigest> {
        if member.id == self.me.id {
            return self.digest().await;
        }
        let mut client = ClusterServiceClient::new(self.channels.to(&member.admin).ok()?);
        let call = client.digests(pb::DigestsRequest { local: true });
        let answer = tokio::time::timeout(DIGEST_LIMIT, call).await.ok()?.ok()?;
        answer.into_inner().nodes.into_iter().next()
    }

    async fn digest(&self) -> Option<pb::NodeDigest> {
        let state = self.raft.state();
        let digest = tokio::task::spawn_blocking(move || state.digest());
        let (applied, digest) = digest.await.ok()?;
        Some(pb::NodeDigest {
            node: self.me.name.clone(),
            applied: applied.0,
            digest: format!("{digest:016x}"),
        })
    }

    /// Who belongs to the cluster now, by what this node has applied.
    fn members(&self) -> Vec<Member> {
        let (recorded, gone) = self.raft.state().read(|state| {
            let (gone, present): (Vec<_>, Vec<_>) =
                state.members().partition(|member| member.is_removed());
            let present = present.into_iter().map(|member| Member {
                id: member.id.0,
                name: member.name.clone(),
                peer: member.peer_address.clone(),
                admin: member.admin_address.clone(),
            });
            let gone: Vec<_> = gone.into_iter().map(|member| member.id.0).collect();
            (present.collect::<Vec<_>>(), gone)
        });
        if recorded.is_empty() {
            let configured = self.configured.iter();
            let present = configured.filter(|member| !gone.contains(&member.id));
            return present.cloned().collect();
        }
        recorded
    }

    async fn nodes(&self, local: bool) -> Vec<pb::NodeStatus> {
        if local {
            return vec![self.local()];
        }
        let mut nodes = join_all(self.members().iter().map(|member| self.ask(member))).await;
        self.raft.state().read(|state| {
            for node in &mut nodes {
                node.duty = drain::duty_word(state.duty_of(NodeId(node.id)), node).into();
            }
        });
        nodes
    }

    /// What each node with a session runs, of those that answer.
    async fn reports(&self) -> BTreeMap<NodeId, Vec<InstanceReport>> {
        let sessions: Vec<_> = self
            .raft
            .state()
            .read(|state| state.sessions().cloned().collect());
        let asked = sessions.iter().map(async |session| {
            let reports = reports_of(session, self.me.id, &self.agent, &self.channels).await?;
            Some((session.opened.node, reports))
        });
        join_all(asked).await.into_iter().flatten().collect()
    }
}

/// Whether the cluster may be on another route table than this node by now.
pub(crate) fn is_stale(raft: &RaftNode, control: &Control) -> bool {
    // A leader needs no contact with itself, but with a majority.
    let in_touch = raft.leads_with_quorum()
        || matches!(control.leader_contact_age_ms(), Some(age) if age <= MAX_SILENCE_MS);
    *control.session().borrow() == SessionId(0) || !in_touch
}

#[tonic::async_trait]
impl pb::cluster_service_server::ClusterService for ClusterApi {
    async fn status(
        &self,
        request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        let nodes = self.nodes(request.into_inner().local).await;
        // By what the members say of themselves: this node may be cut off, or out of it.
        let leading = nodes
            .iter()
            .filter(|node| node.role == Role::Leader.as_str())
            .max_by_key(|node| node.term);
        let raft = self.raft.status();
        let term = leading.map_or(0, |node| node.term).max(raft.term);
        let leader = leading
            .filter(|node| node.term == term)
            .map_or(raft.leader.unwrap_or(0), |node| node.id);
        let leader_answers = leading.is_some_and(|node| node.term == term);
        let names: BTreeMap<u64, String> = nodes
            .iter()
            .map(|node| (node.id, node.name.clone()))
            .collect();
        let absent = [Role::Stopped.as_str(), STORE_FAILED];
        let taking_part = nodes
            .iter()
            .filter(|node| raft.voters.contains(&node.id))
            .filter(|node| !absent.contains(&node.role.as_str()))
            .count();
        let (cluster, n_services, n_unowned) = self.raft.state().read(|state| {
            let unowned = state
                .owners()
                .filter(|(_, owner)| state.session(owner.session).is_none())
                .count();
            (state.cluster().cloned(), state.n_services(), unowned)
        });
        Ok(Response::new(pb::StatusResponse {
            cluster_id: self.raft.identity().cluster_id.clone(),
            cluster: cluster.map(|cluster| cluster.name).unwrap_or_default(),
            term,
            leader,
            leader_name: names.get(&leader).cloned().unwrap_or_default(),
            nodes,
            n_services: u32::try_from(n_services).unwrap_or(u32::MAX),
            n_unowned_shards: u32::try_from(n_unowned).unwrap_or(u32::MAX),
            quorum: leader_answers && taking_part * 2 > raft.voters.len(),
            version: env!("CARGO_PKG_VERSION").into(),
        }))
    }

    async fn list_nodes(
        &self,
        _request: Request<pb::ListNodesRequest>,
    ) -> Result<Response<pb::ListNodesResponse>, Status> {
        Ok(Response::new(pb::ListNodesResponse {
            nodes: self.nodes(false).await,
        }))
    }

    async fn digests(
        &self,
        request: Request<pb::DigestsRequest>,
    ) -> Result<Response<pb::DigestsResponse>, Status> {
        let nodes = match request.into_inner().local {
            true => self.digest().await.into_iter().collect(),
            false => {
                let members = self.members();
                let asked = members.iter().map(|member| self.digest_of(member));
                join_all(asked).await.into_iter().flatten().collect()
            }
        };
        Ok(Response::new(pb::DigestsResponse { nodes }))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderResponse>, Status> {
        let to = Some(request.into_inner().to_node).filter(|to| *to != 0);
        if self.raft.status().role != Role::Leader {
            let leader = self.raft.status().leader.unwrap_or(0);
            let text = format!("this node does not lead; ask node {leader}");
            return Err(error::unavailable("NO_LEADER", text));
        }
        let moved = self.raft.transfer_leader(to, TRANSFER_LIMIT).await;
        let leader =
            moved.map_err(|failure| error::unavailable("STORE_FAILED", failure.to_string()))?;
        Ok(Response::new(pb::TransferLeaderResponse {
            leader: leader.unwrap_or(0),
        }))
    }

    async fn list_members(
        &self,
        _request: Request<pb::ListMembersRequest>,
    ) -> Result<Response<pb::ListMembersResponse>, Status> {
        members::list(&self.raft).await.map(Response::new)
    }

    async fn create_token(
        &self,
        request: Request<pb::CreateTokenRequest>,
    ) -> Result<Response<pb::CreateTokenResponse>, Status> {
        let answer = members::create_token(&self.raft, request.into_inner());
        answer.await.map(Response::new)
    }

    async fn list_tokens(
        &self,
        _request: Request<pb::ListTokensRequest>,
    ) -> Result<Response<pb::ListTokensResponse>, Status> {
        members::list_tokens(&self.raft).await.map(Response::new)
    }

    async fn revoke_token(
        &self,
        request: Request<pb::RevokeTokenRequest>,
    ) -> Result<Response<pb::RevokeTokenResponse>, Status> {
        let answer = members::revoke_token(&self.raft, request.into_inner());
        answer.await.map(Response::new)
    }

    async fn greet(
        &self,
        request: Request<pb::GreetRequest>,
    ) -> Result<Response<pb::GreetResponse>, Status> {
        let answer = members::greet(&self.raft, request.into_inner());
        answer.await.map(Response::new)
    }

    async fn join_node(
        &self,
        request: Request<pb::JoinNodeRequest>,
    ) -> Result<Response<pb::JoinNodeResponse>, Status> {
        let answer = members::join(&self.raft, &self.secrets_key, request.into_inner());
        answer.await.map(Response::new)
    }

    async fn promote_node(
        &self,
        request: Request<pb::PromoteNodeRequest>,
    ) -> Result<Response<pb::PromoteNodeResponse>, Status> {
        let answer = members::promote(&self.raft, request.into_inner());
        answer.await.map(Response::new)
    }

    async fn remove_node(
        &self,
        request: Request<pb::RemoveNodeRequest>,
    ) -> Result<Response<pb::RemoveNodeResponse>, Status> {
        let answer = members::remove(&self.raft, request.into_inner());
        answer.await.map(Response::new)
    }

    async fn cordon_node(
        &self,
        request: Request<pb::CordonNodeRequest>,
    ) -> Result<Response<pb::CordonNodeResponse>, Status> {
        let request = request.into_inner();
        let asked = (request.request_id.as_str(), &*request.encode_to_vec());
        let index = members::set_duty(&self.raft, request.node, Duty::Cordoned, asked).await?;
        Ok(Response::new(pb::CordonNodeResponse { index }))
    }

    async fn drain_node(
        &self,
        request: Request<pb::DrainNodeRequest>,
    ) -> Result<Response<pb::DrainNodeResponse>, Status> {
        let request = request.into_inner();
        let asked = (request.request_id.as_str(), &*request.encode_to_vec());
        let index = members::set_duty(&self.raft, request.node, Duty::Drained, asked).await?;
        Ok(Response::new(pb::DrainNodeResponse { index }))
    }

    async fn uncordon_node(
        &self,
        request: Request<pb::UncordonNodeRequest>,
    ) -> Result<Response<pb::UncordonNodeResponse>, Status> {
        let request = request.into_inner();
        let asked = (request.request_id.as_str(), &*request.encode_to_vec());
        let index = members::set_duty(&self.raft, request.node, Duty::Full, asked).await?;
        Ok(Response::new(pb::UncordonNodeResponse { index }))
    }

    async fn restart_node(
        &self,
        request: Request<pb::RestartNodeRequest>,
    ) -> Result<Response<pb::RestartNodeResponse>, Status> {
        let node = request.into_inner().node;
        if node == self.me.id {
            let asked = self.restarts.ask().await;
            let refused = |why| error::precondition("NOT_RESTARTED", why);
            return asked.map_err(refused).map(|answers_within| {
                let limit_ms = u64::try_from(answers_within.as_millis()).unwrap_or(u64::MAX);
                Response::new(pb::RestartNodeResponse {
                    answers_within_ms: limit_ms,
                })
            });
        }
        let member = self.members().into_iter().find(|member| member.id == node);
        let member = member.ok_or_else(|| error::not_found("node", &node.to_string()))?;
        let away = |why: String| error::unavailable("NODE_UNREACHABLE", why);
        let channel = self.channels.to(&member.admin);
        let channel = channel.map_err(|why| away(why.to_string()))?;
        let mut client = ClusterServiceClient::new(channel);
        let call = client.restart_node(pb::RestartNodeRequest { node });
        match tokio::time::timeout(ANSWER_LIMIT, call).await {
            Ok(answered) => answered,
            Err(_) => Err(away(format!("{} does not answer", member.name))),
        }
    }

    async fn describe_node(
        &self,
        request: Request<pb::DescribeNodeRequest>,
    ) -> Result<Response<pb::DescribeNodeResponse>, Status> {
        let node = request.into_inner().node;
        members::up_to_date(&self.raft).await?;
        let (nodes, reports) = tokio::join!(self.nodes(false), self.reports());
        let described = drain::describe(NodeId(node), &nodes, &reports);
        let missing = || error::not_found("node", &node.to_string());
        described.map(Response::new).ok_or_else(missing)
    }

    type BackupStream = backup::Chunks;

    async fn backup(
        &self,
        _request: Request<pb::BackupRequest>,
    ) -> Result<Response<backup::Chunks>, Status> {
        backup::serve(&self.raft).await.map(Response::new)
    }

    async fn finalize_version(
        &self,
        request: Request<pb::FinalizeVersionRequest>,
    ) -> Result<Response<pb::FinalizeVersionResponse>, Status> {
        let answer = members::finalize(&self.raft, request.into_inner());
        answer.await.map(Response::new)
    }
}
