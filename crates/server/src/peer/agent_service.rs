//! What owners on other nodes order this node's agent to do, and its logs.

use std::pin::Pin;

use futures_util::{Stream, StreamExt};
use nihilo_control::ports::AgentEvent;
use nihilo_runtime::{Agent, AgentError};
use nihilo_types::id::{InstanceId, SessionId};
use nihilo_types::instance::InstanceSpec;
use nihilo_wire::internal as pb;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::agent_logs::{Asked, Records};
use super::convert;
use super::relay::Relays;
use crate::ports::local_events;

#[derive(Debug)]
pub struct AgentService {
    pub agent: Agent,
    pub node_name: String,
    /// This node's open session; 0 = none.
    pub session: watch::Receiver<SessionId>,
    pub relays: Relays,
}

type Events = Pin<Box<dyn Stream<Item = Result<pb::InstanceEvent, Status>> + Send>>;

fn refusal(error: &AgentError) -> pb::AgentRefusal {
    use pb::agent_refusal::Kind;
    let (kind, floor) = match error {
        AgentError::StaleEpoch { floor } => (Kind::StaleEpoch, floor.0),
        AgentError::StaleSeq => (Kind::StaleSeq, 0),
        AgentError::NotReady => (Kind::NotReady, 0),
        AgentError::NoCapacity { .. } => (Kind::NoCapacity, 0),
        AgentError::TooLate => (Kind::TooLate, 0),
        AgentError::Unknown => (Kind::UnknownInstance, 0),
    };
    pb::AgentRefusal {
        kind: kind.into(),
        floor,
        retry_after_ms: 0,
        text: error.to_string(),
    }
}

fn answered(result: Result<(), AgentError>) -> Response<pb::AgentResponse> {
    Response::new(pb::AgentResponse {
        refusal: result.err().as_ref().map(refusal),
    })
}

#[tonic::async_trait]
impl pb::agent_server::Agent for AgentService {
    async fn start(
        &self,
        request: Request<pb::StartRequest>,
    ) -> Result<Response<pb::StartResponse>, Status> {
        let request = request.into_inner();
        let fence = convert::fence_from(request.fence)?;
        let spec: InstanceSpec = convert::json_from(&request.spec)?;
        // A call may be late, and meet the next life of the node it was for: by then its owner
        // counts it no more.
        let is_for_us = request.session == self.session.borrow().0;
        let started = match is_for_us {
            true => self.agent.start(fence.shard, fence.epoch, fence.seq, spec),
            false => Err(AgentError::NotReady),
        };
        let response = match started {
            Ok(report) => pb::StartResponse {
                report: convert::json_to(&report),
                refusal: None,
            },
            Err(error) => pb::StartResponse {
                report: bytes::Bytes::new(),
                refusal: Some(refusal(&error)),
            },
        };
        Ok(Response::new(response))
    }

    async fn stop(
        &self,
        request: Request<pb::StopRequest>,
    ) -> Result<Response<pb::AgentResponse>, Status> {
        let request = request.into_inner();
        let fence = convert::fence_from(request.fence)?;
        let id = InstanceId::from(request.instance.as_str());
        let result = self
            .agent
            .stop(fence.shard, fence.epoch, fence.seq, &id, &request.reason);
        Ok(answered(result))
    }

    async fn reopen(
        &self,
        request: Request<pb::ReopenRequest>,
    ) -> Result<Response<pb::AgentResponse>, Status> {
        let request = request.into_inner();
        let fence = convert::fence_from(request.fence)?;
        let id = InstanceId::from(request.instance.as_str());
        Ok(answered(self.agent.reopen(
            fence.shard,
            fence.epoch,
            fence.seq,
            &id,
        )))
    }

    async fn freeze(
        &self,
        request: Request<pb::FreezeRequest>,
    ) -> Result<Response<pb::AgentResponse>, Status> {
        let request = request.into_inner();
        let fence = convert::fence_from(request.fence)?;
        let id = InstanceId::from(request.instance.as_str());
        Ok(answered(self.agent.freeze(
            fence.shard,
            fence.epoch,
            fence.seq,
            &id,
        )))
    }

    async fn thaw(
        &self,
        request: Request<pb::ThawRequest>,
    ) -> Result<Response<pb::AgentResponse>, Status> {
        let request = request.into_inner();
        let fence = convert::fence_from(request.fence)?;
        let id = InstanceId::from(request.instance.as_str());
        Ok(answered(self.agent.reopen(
            fence.shard,
            fence.epoch,
            fence.seq,
            &id,
        )))
    }

    async fn list(
        &self,
        request: Request<pb::ListRequest>,
    ) -> Result<Response<pb::ListResponse>, Status> {
        let fences = request.into_inner().shards.into_iter();
        let fences: Vec<_> = fences
            .map(|fence| convert::fence_from(Some(fence)))
            .collect::<Result<_, _>>()?;
        let seq = fences.iter().map(|fence| fence.seq).max().unwrap_or(0);
        let shards: Vec<_> = fences
            .iter()
            .map(|fence| (fence.shard, fence.epoch))
            .collect();
        let response = match self.agent.list(&shards, seq) {
            Ok(reports) => pb::ListResponse {
                reports: reports.iter().map(convert::json_to).collect(),
                refusal: None,
            },
            Err(error) => pb::ListResponse {
                reports: Vec::new(),
                refusal: Some(refusal(&error)),
            },
        };
        Ok(Response::new(response))
    }

    async fn relay(
        &self,
        request: Request<pb::RelayRequest>,
    ) -> Result<Response<pb::RelayResponse>, Status> {
        let pb::RelayRequest { session, call } = request.into_inner();
        let call = call.ok_or_else(|| Status::invalid_argument("no call to pass on"))?;
        let to = self.relays.session(SessionId(session));
        let to = to.ok_or_else(|| Status::not_found(format!("session {session} is not open")))?;
        let answer = self.relays.remote.pass_on(&to, call).await;
        let answer = answer.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(pb::RelayResponse {
            answer: Some(answer),
        }))
    }

    async fn snapshot(
        &self,
        _request: Request<pb::SnapshotRequest>,
    ) -> Result<Response<pb::ListResponse>, Status> {
        let instances = self.agent.instances();
        let reports = instances
            .iter()
            .map(|(report, _)| convert::json_to(report))
            .collect();
        Ok(Response::new(pb::ListResponse {
            reports,
            refusal: None,
        }))
    }

    type EventsStream = Events;

    async fn events(
        &self,
        _request: Request<pb::EventsRequest>,
    ) -> Result<Response<Events>, Status> {
        let events = local_events(&self.agent).map(|event| {
            Ok(match event {
                AgentEvent::Report(report) => pb::InstanceEvent {
                    seq: 0,
                    report: convert::json_to(report.as_ref()),
                    lagged: false,
                },
                AgentEvent::Lagged => pb::InstanceEvent {
                    lagged: true,
                    ..pb::InstanceEvent::default()
                },
            })
        });
        Ok(Response::new(events.boxed()))
    }

    type LogsStream = Records;

    async fn logs(&self, request: Request<pb::LogsRequest>) -> Result<Response<Records>, Status> {
        let asked = Asked {
            node: self.node_name.clone(),
            agent: self.agent.clone(),
            state: self.relays.raft.state(),
            request: request.into_inner(),
        };
        Ok(Response::new(asked.answer()))
    }
}
