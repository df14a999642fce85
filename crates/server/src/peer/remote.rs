//! Control's ports over gRPC, for peers that are another node.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use nihilo_control::ports::{
    AgentEvent, CallError, CallFence, Demand, Handovers, KeepAlive, KeepAliveAnswer, LinkError,
    OwnerError, StatReport,
};
use nihilo_machine::command::CLUSTER_VERSION;
use nihilo_machine::state::Session;
use nihilo_raft::StateDigest;
use nihilo_types::endpoint::EndpointTable;
use nihilo_types::id::SessionId;
use nihilo_types::instance::{InstanceReport, InstanceSpec};
use nihilo_wire::internal as pb;
use pb::agent_client::AgentClient;
use pb::liveness_client::LivenessClient;
use pb::owner_client::OwnerClient;
use pb::relay_request::Call;
use pb::relay_response::Answer;
use tonic::transport::Channel;
use tonic::{Response, Status};

use super::channels::Channels;
use super::convert;

/// Bound of one call to an agent or owner.
const CALL_LIMIT: Duration = Duration::from_secs(1);

/// Calls to other nodes' peer ports.
#[derive(Debug, Clone)]
pub struct Remote {
    pub channels: Channels,
    pub cluster_id: Arc<str>,
}

impl Remote {
    fn channel(&self, address: &str) -> Result<Channel, LinkError> {
        self.channels
            .to(address)
            .map_err(|error| LinkError(format!("{address}: {error}")))
    }

    /// Says that this node lives, what it knows, and what its state came to last; hears the
    /// leader's answer, and after which entry this node's state is known to differ.
    pub async fn keep_alive(
        &self,
        address: &str,
        message: KeepAlive,
        digest: Option<StateDigest>,
    ) -> Result<(KeepAliveAnswer, Option<u64>), LinkError> {
        let mut client = LivenessClient::new(self.channel(address)?);
        let request = pb::KeepAliveRequest {
            version: CLUSTER_VERSION,
            digest_at: digest.map_or(0, |digest| digest.at),
            digest: digest.map_or(0, |digest| digest.digest),
            ..convert::keep_alive_to(&message, &self.cluster_id)
        };
        let response = bounded(client.keep_alive(request)).await?;
        let diverged_at = Some(response.diverged_at).filter(|at| *at != 0);
        Ok((convert::answer_from(response), diverged_at))
    }

    pub async fn start(
        &self,
        to: &Session,
        fence: CallFence,
        spec: InstanceSpec,
    ) -> Result<InstanceReport, CallError> {
        let mut client = AgentClient::new(self.agent(to)?);
        let request = pb::StartRequest {
            fence: Some(convert::fence_to(fence)),
            spec: convert::json_to(&spec),
            min_index: 0,
            session: to.id.0,
        };
        let response = bounded(client.start(request)).await.map_err(unanswered)?;
        if let Some(refusal) = response.refusal {
            return Err(convert::refusal_error(refusal));
        }
        convert::json_from(&response.report).map_err(|status| unanswered(link_error(&status)))
    }

    /// Has the node at `via` pass a call on to the agent of session `to`.
    pub async fn relay(&self, via: &str, to: SessionId, call: Call) -> Result<Answer, CallError> {
        let mut client = AgentClient::new(self.channel(via).map_err(unanswered)?);
        let request = pb::RelayRequest {
            session: to.0,
            call: Some(call),
        };
        let response = bounded(client.relay(request)).await.map_err(unanswered)?;
        let answer = response.answer;
        answer.ok_or_else(|| CallError::Unanswered(format!("{via}: an empty answer")))
    }

    /// Calls the agent, for this node or somebody who does not reach it, and brings its answer as it is.
    pub async fn pass_on(&self, to: &Session, call: Call) -> Result<Answer, CallError> {
        let mut client = AgentClient::new(self.agent(to)?);
        let answer = match call {
            Call::List(request) => bounded(client.list(request)).await.map(Answer::Listed),
            Call::Stop(request) => bounded(client.stop(request)).await.map(Answer::Ordered),
            Call::Reopen(request) => bounded(client.reopen(request)).await.map(Answer::Ordered),
            Call::Freeze(request) => bounded(client.freeze(request)).await.map(Answer::Ordered),
            Call::Thaw(request) => bounded(client.thaw(request)).await.map(Answer::Ordered),
        };
        answer.map_err(unanswered)
    }

    pub async fn events(&self, to: &Session) -> Result<BoxStream<'static, AgentEvent>, LinkError> {
        let mut client = AgentClient::new(self.channel(&to.opened.peer_address)?);
        let stream = bounded(client.events(pb::EventsRequest {})).await?;
        let events = until_broken(stream).map(|event| {
            if event.lagged {
                return AgentEvent::Lagged;
            }
            // A report that does not decode is a lost one.
            convert::json_from(&event.report).map_or(AgentEvent::Lagged, AgentEvent::Report)
        });
        Ok(events.boxed())
    }

    pub async fn demand(&self, to: &Session, demand: Demand) -> Result<(), OwnerError> {
        let mut client = OwnerClient::new(self.channel(&to.opened.peer_address)?);
        let response = bounded(client.demand(convert::demand_to(demand))).await?;
        if response.moved {
            Err(OwnerError::Moved)
        } else {
            Ok(())
        }
    }

    pub async fn report(&self, to: &Session, report: StatReport) -> Result<(), OwnerError> {
        let mut client = OwnerClient::new(self.channel(&to.opened.peer_address)?);
        bounded(client.report(convert::report_to(report))).await?;
        Ok(())
    }

    pub async fn hand_over(&self, to: &Session, message: Handovers) -> Result<(), OwnerError> {
        let mut client = OwnerClient::new(self.channel(&to.opened.peer_address)?);
        bounded(client.hand_over(convert::handovers_to(&message))).await?;
        Ok(())
    }

    pub async fn endpoints(
        &self,
        to: &Session,
    ) -> Result<BoxStream<'static, EndpointTable>, LinkError> {
        let mut client = OwnerClient::new(self.channel(&to.opened.peer_address)?);
        let request = pb::EndpointsRequest { session: 0 };
        let stream = bounded(client.endpoints(request)).await?;
        let tables = until_broken(stream)
            .filter_map(|update| std::future::ready(convert::json_from(&update.table).ok()));
        Ok(tables.boxed())
    }

    fn agent(&self, to: &Session) -> Result<Channel, CallError> {
        self.channel(&to.opened.peer_address).map_err(unanswered)
    }
}

/// What the stream says until its first error: then the reader starts over.
fn until_broken<T: Send + 'static>(
    stream: tonic::Streaming<T>,
) -> impl Stream<Item = T> + Send + 'static {
    stream
        .take_while(|item| std::future::ready(item.is_ok()))
        .filter_map(|item| std::future::ready(item.ok()))
}

async fn bounded<T>(
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, LinkError> {
    match tokio::time::timeout(CALL_LIMIT, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(link_error(&status)),
        Err(_) => Err(LinkError(format!("no answer in {CALL_LIMIT:?}"))),
    }
}

fn link_error(status: &Status) -> LinkError {
    LinkError(format!("{:?}: {}", status.code(), status.message()))
}

fn unanswered(error: LinkError) -> CallError {
    CallError::Unanswered(error.0)
}

pub(crate) fn accepted(answer: pb::AgentResponse) -> Result<(), CallError> {
    match answer.refusal {
        Some(refusal) => Err(convert::refusal_error(refusal)),
        None => Ok(()),
    }
}

pub(crate) fn reports(answer: pb::ListResponse) -> Result<Vec<InstanceReport>, CallError> {
    if let Some(refusal) = answer.refusal {
        return Err(convert::refusal_error(refusal));
    }
    let report = |bytes: &bytes::Bytes| convert::json_from(bytes);
    let reports: Result<_, Status> = answer.reports.iter().map(report).collect();
    reports.map_err(|status| unanswered(link_error(&status)))
}
