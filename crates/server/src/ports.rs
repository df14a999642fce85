//! Control's ports over this node's own parts, and over peers: local calls stay local.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use nihilo_control::Control;
use nihilo_control::ports::{
    AgentEvent, Agents, BoxFuture, CallError, CallFence, CallRefusal, Demand, Handovers, KeepAlive,
    KeepAliveAnswer, LeaderLink, LeaderView, Leadership, LinkError, Listed, LocalAgent,
    LocalGateway, OwnerError, Owners, ProposeError, ProposeOutcome, Proposer, RevisionStat,
    StatReport, StateSource,
};
use nihilo_gateway::{DemandSignal, Gateway, LocalInstances, ScaleUp};
use nihilo_host::Net;
use nihilo_machine::command::RequestKey;
use nihilo_machine::state::{ObjectEvent, Session};
use nihilo_machine::{Command, Reply, State};
use nihilo_raft::{Outcome, RaftNode};
use nihilo_runtime::ports::Admission;
use nihilo_runtime::{Agent, AgentError};
use nihilo_types::endpoint::EndpointTable;
use nihilo_types::id::{Epoch, InstanceId, LogIndex, NodeId, SessionId, ShardId};
use nihilo_types::instance::{InstanceReport, InstanceSpec};
use nihilo_types::route_table::RouteTable;
use nihilo_wire::internal as pb;
use nihilo_wire::internal::relay_request::Call;
use nihilo_wire::internal::relay_response::Answer;
use tokio::sync::watch;
use tokio_stream::wrappers::BroadcastStream;

use crate::peer::convert;
use crate::peer::owner_ledger::OwnerLedger;
use crate::peer::owner_service::follow;
use crate::peer::relay::{Relays, direct_or_relayed};
use crate::peer::remote::{Remote, accepted, reports};

/// Between two dials that must both be refused.
const DIAL_PAUSE: Duration = Duration::from_millis(5);
const DIAL_LIMIT: Duration = Duration::from_millis(100);

/// The log, as control sees it.
#[derive(Debug, Clone)]
pub struct RaftPort(pub RaftNode);

impl Proposer for RaftPort {
    fn propose(
        &self,
        command: Command,
        request: RequestKey,
        limit: Duration,
    ) -> BoxFuture<'_, Result<Reply, ProposeError>> {
        async move {
            self.0
                .propose(command, request, limit)
                .await
                .map_err(|error| ProposeError {
                    outcome: match error.outcome() {
                        Outcome::Rejected | Outcome::NotApplied => ProposeOutcome::NotApplied,
                        Outcome::MaybeApplied => ProposeOutcome::MaybeApplied,
                    },
                    text: error.to_string(),
                })
        }
        .boxed()
    }
}

impl StateSource for RaftPort {
    fn read(&self, look: &mut dyn FnMut(&State)) {
        self.0.state().read(|state| look(state));
    }

    fn applied(&self) -> watch::Receiver<LogIndex> {
        self.0.applied()
    }

    fn changes_since(&self, index: LogIndex) -> Option<Vec<ObjectEvent>> {
        self.0.changes_since(index).ok()
    }
}

impl LeaderView for RaftPort {
    fn now(&self) -> Leadership {
        let status = self.0.status();
        Leadership {
            leader: status.leader.map(NodeId),
            term: status.term,
            leads_with_quorum: self.0.leads_with_quorum(),
        }
    }
}

/// Keep-alives to whichever member leads. What consensus wants to know of this node rides along.
#[derive(Debug)]
pub struct LeaderPort {
    pub net: Net,
    pub remote: Remote,
    pub raft: RaftNode,
}

impl LeaderLink for LeaderPort {
    fn keep_alive(
        &self,
        leader: NodeId,
        message: KeepAlive,
    ) -> BoxFuture<'_, Result<KeepAliveAnswer, LinkError>> {
        async move {
            let address = self.raft.peer_address(leader.0);
            let address = address.ok_or_else(|| LinkError(format!("no member {leader}")))?;
            let digest = self.raft.state().digests().last().copied();
            let (answer, diverged_at) = self.remote.keep_alive(&address, message, digest).await?;
            if let Some(at) = diverged_at {
                self.raft.diverged_at(at);
            }
            Ok(answer)
        }
        .boxed()
    }

    fn is_refused(&self, peer_address: Arc<str>) -> BoxFuture<'_, bool> {
        async move {
            let refused = || async {
                let dial = self.net.dial(&peer_address);
                let dialled = tokio::time::timeout(DIAL_LIMIT, dial).await;
                matches!(dialled, Ok(Err(error))
                    if error.kind() == std::io::ErrorKind::ConnectionRefused)
            };
            if !refused().await {
                return false;
            }
            tokio::time::sleep(DIAL_PAUSE).await;
            refused().await
        }
        .boxed()
    }
}

/// Agents of all nodes.
#[derive(Debug)]
pub struct AgentsPort {
    pub node: NodeId,
    pub local: Agent,
    pub relays: Relays,
    pub ledger: OwnerLedger,
}

impl AgentsPort {
    fn is_local(&self, to: &Session) -> bool {
        to.opened.node == self.node
    }

    fn list_here(&self, fences: &[CallFence]) -> Result<Listed, CallError> {
        let seq = fences.iter().map(|fence| fence.seq).max().unwrap_or(0);
        let shards = fences.iter().map(|fence| (fence.shard, fence.epoch));
        let reports = self.local.list(&shards.collect::<Vec<_>>(), seq);
        Ok(Listed {
            reports: reports.map_err(refusal)?,
            is_relayed: false,
        })
    }

    /// An order for an instance: obeyed `here` where that is this node's, else sent by both ways.
    fn order<'a>(
        &'a self,
        to: Arc<Session>,
        fence: CallFence,
        call: Call,
        here: impl FnOnce(&Agent) -> Result<(), AgentError> + Send + 'a,
    ) -> BoxFuture<'a, Result<(), CallError>> {
        self.ledger.note(fence.shard, fence.epoch);
        async move {
            if self.is_local(&to) {
                return here(&self.local).map_err(refusal);
            }
            let relayed = async { ordered(self.relays.send(&to, call.clone()).await?) };
            let direct = async { ordered(self.relays.remote.pass_on(&to, call.clone()).await?) };
            direct_or_relayed(direct, relayed).await.map(|_| ())
        }
        .boxed()
    }
}

fn ordered(answer: Answer) -> Result<(), CallError> {
    match answer {
        Answer::Ordered(answer) => accepted(answer),
        Answer::Listed(_) => Err(CallError::Unanswered("the answer to a list".into())),
    }
}

fn listed(answer: Answer) -> Result<Vec<InstanceReport>, CallError> {
    match answer {
        Answer::Listed(answer) => reports(answer),
        Answer::Ordered(_) => Err(CallError::Unanswered("the answer to an order".into())),
    }
}

fn refusal(error: AgentError) -> CallError {
    let kind = match error {
        AgentError::StaleEpoch { .. } | AgentError::StaleSeq => CallRefusal::Stale,
        AgentError::NotReady => CallRefusal::NotReady,
        AgentError::NoCapacity { .. } => CallRefusal::NoCapacity,
        AgentError::TooLate | AgentError::Unknown => CallRefusal::TooLate,
    };
    CallError::Refused {
        kind,
        text: error.to_string(),
    }
}

impl Agents for AgentsPort {
    fn start(
        &self,
        to: Arc<Session>,
        fence: CallFence,
        spec: InstanceSpec,
    ) -> BoxFuture<'_, Result<InstanceReport, CallError>> {
        self.ledger.note(fence.shard, fence.epoch);
        async move {
            match self.is_local(&to) {
                true => self
                    .local
                    .start(fence.shard, fence.epoch, fence.seq, spec)
                    .map_err(refusal),
                false => self.relays.remote.start(&to, fence, spec).await,
            }
        }
        .boxed()
    }

    fn stop(
        &self,
        to: Arc<Session>,
        fence: CallFence,
        instance: InstanceId,
        reason: &'static str,
    ) -> BoxFuture<'_, Result<(), CallError>> {
        let call = Call::Stop(pb::StopRequest {
            fence: Some(convert::fence_to(fence)),
            instance: instance.to_string(),
            reason: reason.to_owned(),
            deadline_ms: 0,
        });
        let (shard, epoch, seq) = (fence.shard, fence.epoch, fence.seq);
        self.order(to, fence, call, move |agent| {
            agent.stop(shard, epoch, seq, &instance, reason)
        })
    }

    fn reopen(
        &self,
        to: Arc<Session>,
        fence: CallFence,
        instance: InstanceId,
    ) -> BoxFuture<'_, Result<(), CallError>> {
        let call = Call::Reopen(pb::ReopenRequest {
            fence: Some(convert::fence_to(fence)),
            instance: instance.to_string(),
        });
        let (shard, epoch, seq) = (fence.shard, fence.epoch, fence.seq);
        self.order(to, fence, call, move |agent| {
            agent.reopen(shard, epoch, seq, &instance)
        })
    }

    fn freeze(
        &self,
        to: Arc<Session>,
        fence: CallFence,
        instance: InstanceId,
    ) -> BoxFuture<'_, Result<(), CallError>> {
        let call = Call::Freeze(pb::FreezeRequest {
            fence: Some(convert::fence_to(fence)),
            instance: instance.to_string(),
        });
        let (shard, epoch, seq) = (fence.shard, fence.epoch, fence.seq);
        self.order(to, fence, call, move |agent| {
            agent.freeze(shard, epoch, seq, &instance)
        })
    }

    fn thaw(
        &self,
        to: Arc<Session>,
        fence: CallFence,
        instance: InstanceId,
    ) -> BoxFuture<'_, Result<(), CallError>> {
        let call = Call::Thaw(pb::ThawRequest {
            fence: Some(convert::fence_to(fence)),
            instance: instance.to_string(),
        });
        let (shard, epoch, seq) = (fence.shard, fence.epoch, fence.seq);
        self.order(to, fence, call, move |agent| {
            agent.reopen(shard, epoch, seq, &instance)
        })
    }

    fn list(
        &self,
        to: Arc<Session>,
        fences: Vec<CallFence>,
    ) -> BoxFuture<'_, Result<Listed, CallError>> {
        for fence in &fences {
            self.ledger.note(fence.shard, fence.epoch);
        }
        async move {
            if self.is_local(&to) {
                return self.list_here(&fences);
            }
            let shards = fences.into_iter().map(convert::fence_to).collect();
            let call = Call::List(pb::ListRequest { shards });
            let relayed = async { listed(self.relays.send(&to, call.clone()).await?) };
            let direct = async { listed(self.relays.remote.pass_on(&to, call.clone()).await?) };
            let (reports, is_relayed) = direct_or_relayed(direct, relayed).await?;
            Ok(Listed {
                reports,
                is_relayed,
            })
        }
        .boxed()
    }

    fn events(
        &self,
        to: Arc<Session>,
    ) -> BoxFuture<'_, Result<BoxStream<'static, AgentEvent>, LinkError>> {
        async move {
            match self.is_local(&to) {
                true => Ok(local_events(&self.local)),
                false => self.relays.remote.events(&to).await,
            }
        }
        .boxed()
    }
}

/// Events of this node's agent; a reader that lagged is told so.
pub fn local_events(agent: &Agent) -> BoxStream<'static, AgentEvent> {
    BroadcastStream::new(agent.subscribe())
        .map(|event| match event {
            Ok(report) => AgentEvent::Report(Box::new(report)),
            Err(_) => AgentEvent::Lagged,
        })
        .boxed()
}

/// Owners of shards on all nodes; this node's own control is known once it runs.
#[derive(Debug)]
pub struct OwnersPort {
    pub node: NodeId,
    pub local: Arc<OnceLock<Control>>,
    pub remote: Remote,
}

impl Owners for OwnersPort {
    fn demand(&self, to: Arc<Session>, demand: Demand) -> BoxFuture<'_, Result<(), OwnerError>> {
        async move { self.remote.demand(&to, demand).await }.boxed()
    }

    fn report(
        &self,
        to: Arc<Session>,
        report: StatReport,
    ) -> BoxFuture<'_, Result<(), OwnerError>> {
        async move { self.remote.report(&to, report).await }.boxed()
    }

    fn hand_over(
        &self,
        to: Arc<Session>,
        handovers: Handovers,
    ) -> BoxFuture<'_, Result<(), OwnerError>> {
        async move {
            if to.opened.node != self.node {
                return self.remote.hand_over(&to, handovers).await;
            }
            if let Some(control) = self.local.get() {
                control.hand_over_from_peer(handovers);
            }
            Ok(())
        }
        .boxed()
    }

    fn endpoints(
        &self,
        to: Arc<Session>,
    ) -> BoxFuture<'_, Result<BoxStream<'static, EndpointTable>, LinkError>> {
        async move {
            if to.opened.node != self.node {
                return self.remote.endpoints(&to).await;
            }
            let local = self.local.get().map(|control| follow(control).boxed());
            Ok(local.unwrap_or_else(|| stream::empty().boxed()))
        }
        .boxed()
    }
}

/// The gateway's way to the owners, through control once it runs.
#[derive(Debug)]
pub struct ScaleUpPort(pub Arc<OnceLock<Control>>);

impl ScaleUp for ScaleUpPort {
    fn demand(&self, signal: DemandSignal) {
        let Some(control) = self.0.get() else { return };
        control.demand(Demand {
            gateway: SessionId(0),
            revision: signal.revision,
            uid: signal.uid,
            shard: signal.shard,
            n_waiting: signal.n_waiting,
            in_flight: signal.in_flight,
            oldest_age_ms: signal.oldest_age_ms,
        });
    }
}

/// This node's gateway, as control sees it.
#[derive(Debug)]
pub struct GatewayPort(pub Gateway);

impl LocalGateway for GatewayPort {
    fn update_endpoints(&self, table: EndpointTable) {
        self.0.update_endpoints(table);
    }

    fn session_down(&self, session: SessionId) {
        self.0.session_down(session);
    }

    fn session_left(&self, session: SessionId) {
        self.0.session_left(session);
    }

    fn resend_demand(&self) {
        self.0.resend_demand();
    }

    fn refuse_cold(&self, shards: &BTreeSet<ShardId>) {
        self.0.refuse_cold(shards.clone());
    }

    fn take_report(&self) -> Vec<RevisionStat> {
        let stat = |stat: nihilo_gateway::RevisionStat| RevisionStat {
            revision: stat.revision,
            uid: stat.uid,
            shard: stat.shard,
            area_us: stat.area_us,
            used_us: stat.used_us,
            n_started: stat.n_started,
            in_flight: stat.in_flight,
            queued: stat.queued,
            oldest_ms: stat.oldest_ms,
        };
        self.0.take_report().into_iter().map(stat).collect()
    }

    fn swap_routes(&self, table: Arc<RouteTable>) {
        self.0.swap_routes(table);
    }

    fn open_listeners(&self) {
        self.0.open_listeners();
    }
}

/// This node's agent, as control sees it.
#[derive(Debug)]
pub struct AgentPort(pub Agent);

impl LocalAgent for AgentPort {
    fn set_floors(&self, floors: &[(ShardId, Epoch)]) {
        self.0.set_floors(floors);
    }

    fn set_accepting(&self, accepting: bool) {
        self.0.set_accepting(accepting);
    }
}

/// The gateway's limiter, as the agent sees it.
#[derive(Debug)]
pub struct AdmissionPort(pub LocalInstances);

impl Admission for AdmissionPort {
    fn open(&self, spec: &InstanceSpec, address: SocketAddr) {
        self.0
            .open(&spec.id, address, spec.container_concurrency, spec.h2c);
    }

    fn hold(&self, spec: &InstanceSpec, address: SocketAddr) {
        self.0
            .hold(&spec.id, address, spec.container_concurrency, spec.h2c);
    }

    fn close(&self, id: &InstanceId) {
        self.0.close(id);
    }

    fn reopen(&self, id: &InstanceId) {
        self.0.reopen(id);
    }

    fn forget(&self, id: &InstanceId) {
        self.0.forget(id);
    }

    fn in_flight(&self, id: &InstanceId) -> u32 {
        self.0.in_flight(id)
    }

    fn drained(&self, id: &InstanceId) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(self.0.drained(id))
    }
}
