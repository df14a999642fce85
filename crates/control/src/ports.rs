//! What control needs from others. The consumer owns the trait; `server` plugs them together.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::BoxStream;
use nihilo_entity::autoscaler::Handover;
use nihilo_machine::command::RequestKey;
use nihilo_machine::state::{ObjectEvent, Session};
use nihilo_machine::{Command, Reply, State};
use nihilo_types::endpoint::EndpointTable;
use nihilo_types::id::{Epoch, InstanceId, LogIndex, NodeId, ObjectKey, SessionId, ShardId};
use nihilo_types::instance::{InstanceReport, InstanceSpec};
use tokio::sync::watch;

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Writes to the log, from any node.
pub trait Proposer: Send + Sync + 'static {
    fn propose(
        &self,
        command: Command,
        request: RequestKey,
        limit: Duration,
    ) -> BoxFuture<'_, Result<Reply, ProposeError>>;
}

/// Why a proposal has no reply.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text}")]
pub struct ProposeError {
    pub outcome: ProposeOutcome,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProposeOutcome {
    NotApplied,
    /// It may or may not be in the log: only repeat it under the same fence or request id.
    MaybeApplied,
}

/// The replicated state as this node has applied it.
pub trait StateSource: Send + Sync + 'static {
    /// Calls `look` under a short read lock; it must not block.
    fn read(&self, look: &mut dyn FnMut(&State));
    fn applied(&self) -> watch::Receiver<LogIndex>;
    /// Events after `index`, in order; `None` when that is too long ago.
    fn changes_since(&self, index: LogIndex) -> Option<Vec<ObjectEvent>>;
}

/// Reads a value out of the state.
pub fn read<T>(state: &dyn StateSource, look: impl FnOnce(&State) -> T) -> T {
    let mut look = Some(look);
    let mut value = None;
    state.read(&mut |state| value = look.take().map(|look| look(state)));
    value.expect("StateSource::read calls its closure")
}

/// What this node knows of leadership.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leadership {
    pub leader: Option<NodeId>,
    pub term: u64,
    /// This node leads, and a quorum answered it within the election timeout.
    pub leads_with_quorum: bool,
}

pub trait LeaderView: Send + Sync + 'static {
    fn now(&self) -> Leadership;
}

/// Keep-alives to the leader's node.
pub trait LeaderLink: Send + Sync + 'static {
    fn keep_alive(
        &self,
        leader: NodeId,
        message: KeepAlive,
    ) -> BoxFuture<'_, Result<KeepAliveAnswer, LinkError>>;
    /// Whether the node's peer port refuses connections, twice in a row: nobody is there.
    fn is_refused(&self, peer_address: Arc<str>) -> BoxFuture<'_, bool>;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepAlive {
    pub node: NodeId,
    pub session: SessionId,
    pub applied: LogIndex,
    pub table: LogIndex,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepAliveAnswer {
    pub leader_applied: LogIndex,
    pub min_table: LogIndex,
    pub held_back_by: Vec<String>,
    pub session_open: bool,
}

/// A call that did not reach the other node, or was not answered.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct LinkError(pub String);

/// The fence of one call to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallFence {
    pub shard: ShardId,
    pub epoch: Epoch,
    pub seq: u64,
}

/// Windows of autoscalers whose shards moved by the entry `epoch`.
#[derive(Debug, Clone)]
pub struct Handovers {
    pub epoch: Epoch,
    pub handovers: Vec<(ShardId, Handover)>,
}

/// What an agent runs of the shards that were asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    pub reports: Vec<InstanceReport>,
    /// It came by way of another node: the agent itself does not answer this one.
    pub is_relayed: bool,
}

/// Owner to agent, local or remote. All but starts reach an agent that only another node reaches.
pub trait Agents: Send + Sync + 'static {
    fn start(
        &self,
        to: Arc<Session>,
        fence: CallFence,
        spec: InstanceSpec,
    ) -> BoxFuture<'_, Result<InstanceReport, CallError>>;
    fn stop(
        &self,
        to: Arc<Session>,
        fence: CallFence,
        instance: InstanceId,
        reason: &'static str,
    ) -> BoxFuture<'_, Result<(), CallError>>;
    fn reopen(
        &self,
        to: Arc<Session>,
        fence: CallFence,
        instance: InstanceId,
    ) -> BoxFuture<'_, Result<(), CallError>>;
    fn freeze(
        &self,
        to: Arc<Session>,
        fence: CallFence,
        instance: InstanceId,
    ) -> BoxFuture<'_, Result<(), CallError>>;
    fn thaw(
        &self,
        to: Arc<Session>,
        fence: CallFence,
        instance: InstanceId,
    ) -> BoxFuture<'_, Result<(), CallError>>;
    fn list(
        &self,
        to: Arc<Session>,
        fences: Vec<CallFence>,
    ) -> BoxFuture<'_, Result<Listed, CallError>>;
    /// Instance events of that node from now on; ends when the link does.
    fn events(
        &self,
        to: Arc<Session>,
    ) -> BoxFuture<'_, Result<BoxStream<'static, AgentEvent>, LinkError>>;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentEvent {
    Report(Box<InstanceReport>),
    /// Events were lost: list again.
    Lagged,
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    #[error("refused: {text}")]
    Refused { kind: CallRefusal, text: String },
    /// No answer: it may have taken effect.
    #[error("no answer: {0}")]
    Unanswered(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallRefusal {
    /// A newer owner exists.
    Stale,
    NotReady,
    NoCapacity,
    Busy,
    /// The instance is past re-opening or freezing, or unknown.
    TooLate,
    Failed,
}

/// Gateway to owner, local or remote.
pub trait Owners: Send + Sync + 'static {
    fn demand(&self, to: Arc<Session>, demand: Demand) -> BoxFuture<'_, Result<(), OwnerError>>;
    fn report(&self, to: Arc<Session>, report: StatReport)
    -> BoxFuture<'_, Result<(), OwnerError>>;
    /// What a former owner has seen of revisions that moved to that node.
    fn hand_over(
        &self,
        to: Arc<Session>,
        handovers: Handovers,
    ) -> BoxFuture<'_, Result<(), OwnerError>>;
    /// Endpoint tables of everything that node owns: the present ones, then changes.
    fn endpoints(
        &self,
        to: Arc<Session>,
    ) -> BoxFuture<'_, Result<BoxStream<'static, EndpointTable>, LinkError>>;
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum OwnerError {
    #[error("the shard moved")]
    Moved,
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// Requests of a gateway that wait with nothing to serve them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    /// The gateway's session; filled in by control.
    pub gateway: SessionId,
    pub revision: ObjectKey,
    pub uid: Arc<str>,
    pub shard: ShardId,
    pub n_waiting: u64,
    pub in_flight: u64,
    pub oldest_age_ms: u64,
}

/// One gateway's second, for one owner node; also sent when empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatReport {
    pub gateway: SessionId,
    pub seq: u64,
    pub stats: Vec<RevisionStat>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevisionStat {
    pub revision: ObjectKey,
    pub uid: Arc<str>,
    pub shard: ShardId,
    pub area_us: u64,
    pub used_us: u64,
    pub n_started: u64,
    pub in_flight: u64,
    pub queued: u64,
    pub oldest_ms: u64,
}

/// This node's gateway.
pub trait LocalGateway: Send + Sync + 'static {
    fn update_endpoints(&self, table: EndpointTable);
    /// The node was declared down: its session's endpoints end, its streams are reset.
    fn session_down(&self, session: SessionId);
    /// The node closed its session by itself: its endpoints end, its streams run to their end.
    fn session_left(&self, session: SessionId);
    /// The owner of some revisions changed: raise open demand again.
    fn resend_demand(&self);
    /// From now on, what nothing serves is refused in exactly these shards: nobody can be asked to
    /// start anything there.
    fn refuse_cold(&self, shards: &BTreeSet<ShardId>);
    fn take_report(&self) -> Vec<RevisionStat>;
    /// Swaps the route table in; the swap is the acknowledgment.
    fn swap_routes(&self, table: Arc<nihilo_types::route_table::RouteTable>);
    /// Opens the client listeners; idempotent.
    fn open_listeners(&self);
}

/// This node's agent.
pub trait LocalAgent: Send + Sync + 'static {
    /// Floors from the applied owner table.
    fn set_floors(&self, floors: &[(ShardId, Epoch)]);
    /// Takes effects only while the node's session is open and applied.
    fn set_accepting(&self, accepting: bool);
}
