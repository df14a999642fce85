//! `nihilo.serving.v1.ObserveService`: logs, instances and reasons, gathered from all nodes.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{Stream, StreamExt};
use nihilo_machine::state::Session;
use nihilo_raft::RaftNode;
use nihilo_runtime::Agent;
use nihilo_types::instance::{InstanceReport, InstanceState};
use nihilo_types::shard::shard_of;
use nihilo_wire::internal::{self, agent_client::AgentClient, owner_client::OwnerClient};
use nihilo_wire::serving as pb;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::lines::Gathering;
use super::{error, names};
use crate::peer::channels::Channels;
use crate::peer::convert;

const ASK_LIMIT: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub struct ObserveApi {
    pub raft: RaftNode,
    pub channels: Channels,
    /// This node's agent, asked without fences: showing is not ordering.
    pub agent: Agent,
    pub node: u64,
}

type Lines = Pin<Box<dyn Stream<Item = Result<pb::LogLine, Status>> + Send>>;

impl ObserveApi {
    fn sessions(&self) -> Vec<Arc<Session>> {
        self.raft
            .state()
            .read(|state| state.sessions().cloned().collect())
    }

    async fn instances_of(&self, session: &Session) -> Option<Vec<InstanceReport>> {
        reports_of(session, self.node, &self.agent, &self.channels).await
    }
}

/// What one node runs; `None` when it does not answer. `me` is this node's id, `agent` its agent.
pub(super) async fn reports_of(
    session: &Session,
    me: u64,
    agent: &Agent,
    channels: &Channels,
) -> Option<Vec<InstanceReport>> {
    if session.opened.node.0 == me {
        let own = agent.instances().into_iter();
        return Some(own.map(|(report, _)| report).collect());
    }
    let channel = channels.to(&session.opened.peer_address).ok()?;
    let mut client = AgentClient::new(channel);
    let call = client.snapshot(internal::SnapshotRequest {});
    let answer = tokio::time::timeout(ASK_LIMIT, call).await.ok()?.ok()?;
    let reports = answer.into_inner().reports;
    let reports = reports
        .iter()
        .filter_map(|bytes| convert::json_from(bytes).ok());
    Some(reports.collect())
}

#[tonic::async_trait]
impl pb::observe_service_server::ObserveService for ObserveApi {
    type StreamLogsStream = Lines;

    async fn stream_logs(
        &self,
        request: Request<pb::LogsRequest>,
    ) -> Result<Response<Lines>, Status> {
        let request = request.into_inner();
        let ask = internal::LogsRequest {
            namespace: request.namespace,
            service: request.service,
            revision: request.revision,
            instance: request.instance,
            follow: request.follow,
            previous: request.previous,
        };
        let gathering = Gathering {
            raft: self.raft.clone(),
            channels: self.channels.clone(),
            ask,
        };
        let lines = ReceiverStream::new(gathering.begin());
        Ok(Response::new(lines.boxed()))
    }

    async fn list_instances(
        &self,
        request: Request<pb::ListInstancesRequest>,
    ) -> Result<Response<pb::ListInstancesResponse>, Status> {
        let request = request.into_inner();
        let namespace = names::parse_parent(&request.parent)?;
        let of_service: Option<BTreeSet<_>> = (!request.service.is_empty()).then(|| {
            let key = nihilo_types::id::ObjectKey::new(
                namespace.unwrap_or(nihilo_types::meta::DEFAULT_NAMESPACE),
                request.service.as_str(),
            );
            self.raft
                .state()
                .read(|state| state.revision_keys_of(&key).collect())
        });
        let sessions = self.sessions();
        let answers = join_all(sessions.iter().map(|session| self.instances_of(session))).await;
        let mut response = pb::ListInstancesResponse::default();
        for (session, answer) in sessions.iter().zip(answers) {
            let Some(reports) = answer else {
                response.unreachable.push(session.opened.name.clone());
                continue;
            };
            let wanted = |report: &InstanceReport| {
                namespace.is_none_or(|namespace| *namespace == *report.revision.namespace)
                    && of_service
                        .as_ref()
                        .is_none_or(|of| of.contains(&report.revision))
            };
            let shown = reports.into_iter().filter(wanted);
            response
                .items
                .extend(shown.map(|report| instance(&session.opened.name, report)));
        }
        Ok(Response::new(response))
    }

    async fn explain(
        &self,
        request: Request<pb::GetRequest>,
    ) -> Result<Response<pb::ExplainResponse>, Status> {
        let name = request.into_inner().name;
        let key = names::parse(&name, "revisions")?;
        let owner = self.raft.state().read(|state| {
            let revision = state.revision(&key)?;
            state
                .session(state.owner(shard_of(&revision.root())).session)
                .cloned()
        });
        let missing = || error::not_found("decision about revision", &key.name);
        let owner = owner.ok_or_else(missing)?;
        let channel = self.channels.to(&owner.opened.peer_address);
        let channel = channel.map_err(|e| error::unavailable("NO_OWNER", e.to_string()))?;
        let ask = internal::ExplainRequest {
            namespace: key.namespace.to_string(),
            revision: key.name.to_string(),
        };
        let answer = OwnerClient::new(channel).explain(ask).await?.into_inner();
        if !answer.found {
            return Err(missing());
        }
        Ok(Response::new(pb::ExplainResponse {
            report: answer.report,
        }))
    }
}

/// One that was ready and is not any more boots, as far as owners go; people are told.
pub(super) fn state_for_people(report: &InstanceReport) -> String {
    match report.state {
        InstanceState::Booting if report.ready_after_ms > 0 => "NotReady".into(),
        state => format!("{state:?}"),
    }
}

fn instance(node: &str, report: InstanceReport) -> pb::Instance {
    pb::Instance {
        id: report.id.to_string(),
        namespace: report.revision.namespace.to_string(),
        revision: report.revision.name.to_string(),
        node: node.to_owned(),
        state: state_for_people(&report),
        address: report
            .address
            .map(|address| address.to_string())
            .unwrap_or_default(),
        pid: report.pid.unwrap_or(0),
        in_flight: report.in_flight,
        age_ms: report.age_ms,
        exit: report
            .exit
            .map(|exit| format!("{exit:?}"))
            .unwrap_or_default(),
        isolation: report
            .isolation
            .map(|level| level.to_string())
            .unwrap_or_default(),
    }
}
