//! The entities as actors: loads them from state and keeper, runs their turns, takes their effects.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nihilo_entity::keeper::Keeper;
use nihilo_entity::reconcile::AnyActor;
use nihilo_entity::table::{InstanceRow, Refusal, RefusalKind, RowState};
use nihilo_entity::{Effect, EntityKey, Outputs, View};
use nihilo_types::id::{Epoch, ObjectKey, SessionId, ShardId};
use nihilo_types::instance::InstanceSpec;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tracing::warn;

use crate::agents::{AgentCall, AgentQueues};
use crate::effects::{Order, What};
use crate::endpoints::EndpointBoard;
use crate::ports::{CallFence, StateSource, read};

/// What turns need, and where their effects go.
pub(crate) struct Entities {
    pub(crate) state: Arc<dyn StateSource>,
    pub(crate) settings: Arc<nihilo_entity::Settings>,
    pub(crate) agents: Arc<AgentQueues>,
    pub(crate) board: Arc<EndpointBoard>,
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) explanations: Arc<Mutex<BTreeMap<ObjectKey, Box<str>>>>,
    /// Numbers every call to an agent; grows for the life of the process.
    pub(crate) seq: Arc<AtomicU64>,
}

impl std::fmt::Debug for Entities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entities").finish_non_exhaustive()
    }
}

impl Entities {
    pub(crate) fn load(&self, key: &EntityKey, keeper: &Keeper, now_ms: u64) -> AnyActor {
        read(self.state.as_ref(), |state| {
            let view = View {
                state,
                table: &keeper.table,
                settings: &self.settings,
            };
            AnyActor::load(key, view, now_ms)
        })
    }

    pub(crate) fn turn(
        &self,
        actor: &mut AnyActor,
        keeper: &Keeper,
        event: &nihilo_entity::Event,
        now_ms: u64,
    ) -> Outputs {
        read(self.state.as_ref(), |state| {
            let view = View {
                state,
                table: &keeper.table,
                settings: &self.settings,
            };
            actor.turn(view, event, now_ms)
        })
    }

    pub(crate) fn may_passivate(&self, actor: &AnyActor, keeper: &Keeper) -> bool {
        read(self.state.as_ref(), |state| {
            let view = View {
                state,
                table: &keeper.table,
                settings: &self.settings,
            };
            actor.may_passivate(view)
        })
    }

    /// Rows first, hand-over second, both under the shard's lock (03-actors §5.2).
    pub(crate) fn execute(
        &self,
        shard: ShardId,
        epoch: Epoch,
        key: &EntityKey,
        keeper: &mut Keeper,
        effect: Effect,
        now_ms: u64,
    ) {
        match effect {
            Effect::Start { session, spec } => {
                self.start(shard, epoch, keeper, session, spec, now_ms)
            }
            Effect::Stop {
                session,
                instance,
                reason,
            } => {
                let fence = self.fence(shard, epoch);
                let reason = reason.as_str();
                self.agents.enqueue(
                    session,
                    AgentCall::Stop {
                        fence,
                        instance,
                        reason,
                    },
                );
            }
            Effect::Reopen { session, instance } => {
                let fence = self.fence(shard, epoch);
                self.agents
                    .enqueue(session, AgentCall::Reopen { fence, instance });
            }
            Effect::PushEndpoints(mut table) => {
                keeper.table.endpoint_seq += 1;
                table.epoch = epoch;
                table.seq = keeper.table.endpoint_seq;
                self.board.publish(shard, *table);
            }
            Effect::Explain { revision, report } => {
                self.explanations.lock().insert(revision, report);
            }
            other @ (Effect::Propose(_) | Effect::RecordScale(_) | Effect::Tell(..)) => {
                let Some(what) = What::of(other) else { return };
                let order = Order {
                    shard,
                    epoch,
                    key: key.clone(),
                    what,
                };
                if self.orders.try_send(order).is_err() {
                    warn!(%key, "effect queue full, the order is dropped and decided again");
                }
            }
        }
    }

    fn start(
        &self,
        shard: ShardId,
        epoch: Epoch,
        keeper: &mut Keeper,
        session: SessionId,
        spec: Box<InstanceSpec>,
        now_ms: u64,
    ) {
        let node = read(self.state.as_ref(), |state| {
            state.session(session).map(|session| session.opened.node)
        });
        let fence = self.fence(shard, epoch);
        let id = spec.id.clone();
        let row = InstanceRow {
            revision: spec.revision.clone(),
            session,
            node: node.unwrap_or_default(),
            state: RowState::Requested,
            since_ms: now_ms,
        };
        keeper.requested(&id, row, fence.seq);
        if !self
            .agents
            .enqueue(session, AgentCall::Start { fence, spec })
        {
            let text = "the node left, or its call queue is full".to_owned();
            let refusal = Refusal {
                kind: RefusalKind::Busy,
                text,
            };
            keeper.set(&id, RowState::Refused(refusal), now_ms);
        }
    }

    fn fence(&self, shard: ShardId, epoch: Epoch) -> CallFence {
        let seq = self.seq.fetch_add(1, Ordering::Relaxed) + 1;
        CallFence { shard, epoch, seq }
    }
}
