//! One ordered queue of calls per agent session, so that (epoch, seq) only grows at the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use nihilo_entity::table::{Refusal, RefusalKind, RowState};
use nihilo_failpoint::{Bug, IS_ON, Point, hit, hit_if, planted};
use nihilo_machine::state::Session;
use nihilo_types::id::{Epoch, InstanceId, SessionId, ShardId};
use nihilo_types::instance::{InstanceReport, InstanceSpec, InstanceState};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::node::Shared;
use crate::ports::{AgentEvent, CallError, CallFence, CallRefusal, Listed};

/// Calls that may wait for one agent; beyond, a start is refused as busy.
pub const QUEUE: usize = 256;
/// Pause before an unanswered `List` is sent again.
const LIST_RETRY: Duration = Duration::from_millis(50);
const EVENTS_RETRY: Duration = Duration::from_millis(50);
/// After a list that another node passed on.
const LIST_AFTER_RELAY: Duration = Duration::from_secs(1);
/// An agent whose events do not come is listed so often: by way of another node it may be reached.
const LIST_WITHOUT_EVENTS: Duration = Duration::from_millis(500);

/// A call that waits to leave. It gets its number only then: numbers in the order of leaving are
/// what makes an answered `List` void the calls before it, and no others.
#[derive(Debug)]
pub(crate) enum AgentCall {
    Start {
        owned: Owned,
        spec: Box<InstanceSpec>,
    },
    Stop {
        owned: Owned,
        instance: InstanceId,
        reason: &'static str,
    },
    Reopen {
        owned: Owned,
        instance: InstanceId,
    },
    Freeze {
        owned: Owned,
        instance: InstanceId,
    },
    Thaw {
        owned: Owned,
        instance: InstanceId,
    },
    /// Look at what there is to list.
    Wake,
}

/// The ownership under which a call was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owned {
    pub(crate) shard: ShardId,
    pub(crate) epoch: Epoch,
}

/// Links by session; a session that ended has none.
#[derive(Debug, Default)]
pub(crate) struct AgentQueues(Mutex<BTreeMap<SessionId, Link>>);

/// What goes to one agent session, and what comes from it.
#[derive(Debug)]
struct Link {
    calls: mpsc::Sender<AgentCall>,
    /// Shards to list, as they are owned when the call leaves. A level: any number of wishes is one
    /// call, and a full queue cannot lose one.
    to_list: Arc<Mutex<BTreeSet<ShardId>>>,
    events: JoinHandle<()>,
    /// A look at all shards is due: one at a time.
    will_look: bool,
}

impl AgentQueues {
    /// `false` when the session is unknown or its queue is full.
    pub(crate) fn enqueue(&self, session: SessionId, call: AgentCall) -> bool {
        let links = self.0.lock();
        links
            .get(&session)
            .is_some_and(|link| link.calls.try_send(call).is_ok())
    }

    /// Lists these shards after the call that is under way, whatever waits behind it.
    pub(crate) fn list(&self, session: SessionId, shards: impl IntoIterator<Item = ShardId>) {
        let links = self.0.lock();
        if let Some(link) = links.get(&session) {
            link.to_list.lock().extend(shards);
            // A full queue is awake.
            drop(link.calls.try_send(AgentCall::Wake));
        }
    }

    /// Notes whether a look is due; returns whether that is news, `false` for a session that has
    /// ended.
    fn set_will_look(&self, session: SessionId, will_look: bool) -> bool {
        let mut links = self.0.lock();
        let link = links.get_mut(&session);
        link.is_some_and(|link| std::mem::replace(&mut link.will_look, will_look) != will_look)
    }

    pub(crate) fn sessions(&self) -> BTreeSet<SessionId> {
        self.0.lock().keys().copied().collect()
    }

    fn contains(&self, session: SessionId) -> bool {
        self.0.lock().contains_key(&session)
    }

    /// The node may be back under a new session, its old streams alive: they must not go on
    /// speaking for the old one.
    pub(crate) fn remove(&self, session: SessionId) {
        if let Some(link) = self.0.lock().remove(&session) {
            link.events.abort();
        }
    }

    /// Starts the tasks of a session that was just applied.
    pub(crate) fn add(&self, shared: &Arc<Shared>, session: Arc<Session>) {
        let (calls, receiver) = mpsc::channel(QUEUE);
        let to_list = Arc::<Mutex<BTreeSet<ShardId>>>::default();
        let mut links = self.0.lock();
        shared.spawn(
            "agent-calls",
            run_calls(shared.clone(), session.clone(), receiver, to_list.clone()),
        );
        let events = shared.spawn("agent-events", run_events(shared.clone(), session.clone()));
        let link = Link {
            calls,
            to_list,
            events,
            will_look: false,
        };
        links.insert(session.id, link);
    }
}

async fn run_calls(
    shared: Arc<Shared>,
    session: Arc<Session>,
    mut calls: mpsc::Receiver<AgentCall>,
    to_list: Arc<Mutex<BTreeSet<ShardId>>>,
) {
    while let Some(call) = calls.recv().await {
        match call {
            AgentCall::Start { owned, spec } => start(&shared, &session, owned, *spec).await,
            AgentCall::Stop {
                owned,
                instance,
                reason,
            } => {
                let fence = shared.fence(owned);
                let stopped = shared
                    .ports
                    .agents
                    .stop(session.clone(), fence, instance, reason);
                check(&shared, &session, fence, stopped.await);
            }
            AgentCall::Reopen { owned, instance } => {
                let fence = shared.fence(owned);
                let reopened = shared.ports.agents.reopen(session.clone(), fence, instance);
                check(&shared, &session, fence, reopened.await);
            }
            AgentCall::Freeze { owned, instance } => {
                let fence = shared.fence(owned);
                let frozen = shared.ports.agents.freeze(session.clone(), fence, instance);
                check(&shared, &session, fence, frozen.await);
            }
            AgentCall::Thaw { owned, instance } => {
                let fence = shared.fence(owned);
                let thawed = shared.ports.agents.thaw(session.clone(), fence, instance);
                check(&shared, &session, fence, thawed.await);
            }
            AgentCall::Wake => {}
        }
        list(&shared, &session, &to_list).await;
    }
}

async fn start(shared: &Shared, session: &Arc<Session>, owned: Owned, spec: InstanceSpec) {
    let id = spec.id.clone();
    let fence = shared.fence(owned);
    let is_wanted = shared.with_keeper(owned.shard, owned.epoch, |keeper| {
        keeper.leaving(&id, fence.seq)
    });
    if is_wanted != Some(true) && !planted(Bug::RowAfterStart) {
        return;
    }
    hit_aside(Point::CallLeaves).await;
    let answer = shared
        .ports
        .agents
        .start(session.clone(), fence, spec)
        .await;
    let now = shared.now_ms();
    match answer {
        Ok(report) => take_report(shared, session, report),
        Err(CallError::Refused { kind, text }) => {
            debug!(instance = %id, node = %session.opened.name, text, "start refused");
            let refusal = Refusal {
                kind: refusal_kind(kind),
                text,
            };
            shared.with_keeper(fence.shard, fence.epoch, |keeper| {
                keeper.set(&id, RowState::Refused(refusal), now)
            });
            shared.wake_shard_revisions(fence.shard, fence.epoch);
        }
        // Counted until a later `List` does not show it.
        Err(CallError::Unanswered(text)) => {
            warn!(instance = %id, node = %session.opened.name, text, "start without an answer");
            relist(shared, session.id, fence.shard);
        }
    }
}

/// As [`hit`], where only this task may be held up: the turns that it has just woken would wait for
/// its thread.
async fn hit_aside(point: Point) {
    if !IS_ON {
        return;
    }
    let passed = tokio::task::spawn_blocking(move || hit(point)).await;
    if let Err(error) = passed
        && let Ok(panic) = error.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}

fn refusal_kind(kind: CallRefusal) -> RefusalKind {
    match kind {
        CallRefusal::NoCapacity => RefusalKind::NoCapacity,
        CallRefusal::Busy => RefusalKind::Busy,
        CallRefusal::Stale | CallRefusal::NotReady => RefusalKind::NotReady,
        CallRefusal::TooLate | CallRefusal::Failed => RefusalKind::Failed,
    }
}

/// All but starts are levels: what failed shows up in the next list and is decided again.
fn check(shared: &Shared, session: &Session, fence: CallFence, result: Result<(), CallError>) {
    match result {
        Ok(()) => {}
        Err(CallError::Refused {
            kind: CallRefusal::TooLate,
            ..
        }) => {
            shared.wake_shard_revisions(fence.shard, fence.epoch);
        }
        Err(error) => {
            debug!(node = %session.opened.name, %error, "agent call failed");
            relist(shared, session.id, fence.shard);
        }
    }
}

pub(crate) fn relist(shared: &Shared, session: SessionId, shard: ShardId) {
    shared.agents.list(session, [shard]);
}

/// Asks until answered, or until the session has ended; what is wished for meanwhile is asked too.
async fn list(shared: &Arc<Shared>, session: &Arc<Session>, to_list: &Mutex<BTreeSet<ShardId>>) {
    let mut shards = BTreeSet::new();
    loop {
        shards.append(&mut to_list.lock());
        let epochs = shared.epochs_of(&shards);
        if epochs.is_empty() || !shared.agents.contains(session.id) {
            return;
        }
        let seq = shared.next_seq();
        let fences = epochs.iter().map(|(shard, epoch)| CallFence {
            shard: *shard,
            epoch: *epoch,
            seq,
        });
        match shared
            .ports
            .agents
            .list(session.clone(), fences.collect())
            .await
        {
            Ok(listed) => {
                if listed.is_relayed {
                    look_again(shared, session.id);
                }
                return take_list(shared, session, &epochs, seq, listed);
            }
            Err(error) => {
                debug!(node = %session.opened.name, %error, "list not answered");
                tokio::time::sleep(LIST_RETRY).await;
            }
        }
    }
}

/// The way may be free again, and nothing else would show it.
fn look_again(shared: &Arc<Shared>, session: SessionId) {
    if !shared.agents.set_will_look(session, true) {
        return;
    }
    let looking = shared.clone();
    shared.spawn("look-again", async move {
        tokio::time::sleep(LIST_AFTER_RELAY).await;
        looking.agents.set_will_look(session, false);
        relist_all(&looking, session);
    });
}

fn take_list(
    shared: &Shared,
    session: &Session,
    epochs: &BTreeMap<ShardId, Epoch>,
    seq: u64,
    listed: Listed,
) {
    hit(Point::ListAnswered);
    let now = shared.now_ms();
    let mut by_shard: BTreeMap<ShardId, Vec<InstanceReport>> = BTreeMap::new();
    for report in listed.reports {
        by_shard.entry(report.shard).or_default().push(report);
    }
    for (shard, epoch) in epochs {
        let reports = by_shard.remove(shard).unwrap_or_default();
        let from = (session.id, session.opened.node);
        let touched = shared
            .with_keeper(*shard, *epoch, |keeper| {
                let is_open = shared.agents.contains(session.id);
                is_open.then(|| {
                    keeper.reached(session.id, listed.is_relayed);
                    keeper.listed(from, seq, reports, now)
                })
            })
            .flatten()
            .unwrap_or_default();
        shared.wake_revisions(*shard, *epoch, &touched);
        shared.finish_reconciling(*shard, *epoch, false);
    }
}

fn take_report(shared: &Shared, session: &Session, report: InstanceReport) {
    let (shard, now) = (report.shard, shared.now_ms());
    let Some(epoch) = shared.epoch_of(shard) else {
        return;
    };
    let boots = report.state == InstanceState::Booting;
    let from = (session.id, session.opened.node);
    let revision = shared.with_keeper(shard, epoch, |keeper| {
        let is_open = shared.agents.contains(session.id);
        is_open.then(|| keeper.reported(from, report, now))
    });
    if let Some(revision) = revision.flatten() {
        hit_if(Point::InstanceBooting, || boots);
        shared.wake_revisions(shard, epoch, &BTreeSet::from([revision]));
    }
}

/// Follows the node's instance events; ends only by being aborted.
async fn run_events(shared: Arc<Shared>, session: Arc<Session>) {
    let mut listed_at: Option<Instant> = None;
    loop {
        match shared.ports.agents.events(session.clone()).await {
            Ok(mut events) => {
                // What happened before the subscription is in the list.
                relist_all(&shared, session.id);
                while let Some(event) = events.next().await {
                    match event {
                        AgentEvent::Report(report) => take_report(&shared, &session, *report),
                        AgentEvent::Lagged => relist_all(&shared, session.id),
                    }
                }
            }
            Err(error) => {
                debug!(node = %session.opened.name, %error, "no event stream");
                if listed_at.is_none_or(|at| at.elapsed() >= LIST_WITHOUT_EVENTS) {
                    listed_at = Some(Instant::now());
                    relist_all(&shared, session.id);
                }
            }
        }
        tokio::time::sleep(EVENTS_RETRY).await;
    }
}

pub(crate) fn relist_all(shared: &Shared, session: SessionId) {
    shared.agents.list(session, shared.owned_shards());
}

impl Shared {
    /// The fence of a call that leaves now.
    fn fence(&self, owned: Owned) -> CallFence {
        CallFence {
            shard: owned.shard,
            epoch: owned.epoch,
            seq: self.next_seq(),
        }
    }
}
