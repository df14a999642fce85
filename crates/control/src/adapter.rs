//! The entities as actors: loads them from state and keeper, runs their turns, takes their effects.

use std::sync::Arc;

use nihilo_actors::NoRoom;
use nihilo_entity::autoscaler::Handover;
use nihilo_entity::keeper::Keeper;
use nihilo_entity::reconcile::AnyActor;
use nihilo_entity::table::{InstanceRow, Refusal, RefusalKind, RowState};
use nihilo_entity::{Effect, EntityKey, Outputs, View};
use nihilo_failpoint::{Bug, Point, hit, hit_if, planted};
use nihilo_types::id::{Epoch, SessionId, ShardId};
use nihilo_types::instance::InstanceSpec;
use tokio::sync::mpsc;

use crate::agents::{AgentCall, AgentQueues, Owned};
use crate::effects::{Order, What};
use crate::endpoints::EndpointBoard;
use crate::explanations::Explanations;
use crate::ports::{StateSource, read};

/// What turns need, and where their effects go.
pub(crate) struct Entities {
    pub(crate) state: Arc<dyn StateSource>,
    pub(crate) agents: Arc<AgentQueues>,
    pub(crate) board: Arc<EndpointBoard>,
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) explanations: Arc<Explanations>,
    pub(crate) handovers: mpsc::Sender<(ShardId, Handover)>,
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
                settings: state.settings(),
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
        hit_if(Point::TurnInDoubt, || is_in_doubt(actor, keeper));
        read(self.state.as_ref(), |state| {
            let view = View {
                state,
                table: &keeper.table,
                settings: state.settings(),
            };
            actor.turn(view, event, now_ms)
        })
    }

    pub(crate) fn may_passivate(&self, actor: &AnyActor, keeper: &Keeper) -> bool {
        read(self.state.as_ref(), |state| {
            let view = View {
                state,
                table: &keeper.table,
                settings: state.settings(),
            };
            actor.may_passivate(view)
        })
    }

    /// The shard moves away: what this owner has seen goes on to the next one, if there is room.
    pub(crate) fn closed(&self, shard: ShardId, actor: &AnyActor, now_ms: u64) {
        if let AnyActor::Autoscaler(autoscaler) = actor
            && let Some(handover) = autoscaler.hand_over(now_ms)
        {
            drop(self.handovers.try_send((shard, handover)));
        }
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
    ) -> Result<(), NoRoom> {
        let owned = Owned { shard, epoch };
        match effect {
            Effect::Start { session, spec } => {
                hit(Point::StartDecided);
                self.start(owned, keeper, session, spec, now_ms);
            }
            Effect::Stop {
                session,
                instance,
                reason,
            } => {
                let reason = reason.as_str();
                let call = AgentCall::Stop {
                    owned,
                    instance,
                    reason,
                };
                return self.call(session, call);
            }
            Effect::Reopen { session, instance } => {
                return self.call(session, AgentCall::Reopen { owned, instance });
            }
            Effect::Freeze { session, instance } => {
                return self.call(session, AgentCall::Freeze { owned, instance });
            }
            Effect::Thaw { session, instance } => {
                return self.call(session, AgentCall::Thaw { owned, instance });
            }
            Effect::PushEndpoints(mut table) => {
                keeper.table.endpoint_seq += 1;
                table.epoch = epoch;
                table.seq = keeper.table.endpoint_seq;
                hit(Point::EndpointsPublished);
                self.board.publish(shard, *table);
            }
            Effect::Explain { revision, record } => {
                self.explanations.push(shard, revision, *record);
            }
            other @ (Effect::Propose(_) | Effect::RecordScale(_) | Effect::Tell(..)) => {
                if let Some(what) = What::of(other) {
                    let order = Order {
                        shard,
                        epoch,
                        key: key.clone(),
                        what,
                    };
                    self.orders.try_send(order).map_err(|_| NoRoom)?;
                }
            }
        }
        Ok(())
    }

    /// A full queue, or a session that has just ended, is looked at again.
    fn call(&self, session: SessionId, call: AgentCall) -> Result<(), NoRoom> {
        let taken = self.agents.enqueue(session, call);
        taken.then_some(()).ok_or(NoRoom)
    }

    fn start(
        &self,
        owned: Owned,
        keeper: &mut Keeper,
        session: SessionId,
        spec: Box<InstanceSpec>,
        now_ms: u64,
    ) {
        let node = read(self.state.as_ref(), |state| {
            state.session(session).map(|session| session.opened.node)
        });
        let id = spec.id.clone();
        let row = InstanceRow {
            revision: spec.revision.clone(),
            session,
            node: node.unwrap_or_default(),
            state: RowState::Requested,
            since_ms: now_ms,
        };
        keeper.requested(&id, row);
        if planted(Bug::RowAfterStart) {
            keeper.table.instances.remove(&id);
        }
        if !self
            .agents
            .enqueue(session, AgentCall::Start { owned, spec })
        {
            let text = "the node left, or its call queue is full".to_owned();
            let refusal = Refusal {
                kind: RefusalKind::Busy,
                text,
            };
            keeper.set(&id, RowState::Refused(refusal), now_ms);
        }
    }
}

/// Whether a Revision actor has a turn while a start is without an answer.
fn is_in_doubt(actor: &AnyActor, keeper: &Keeper) -> bool {
    let mut rows = keeper.table.instances.values();
    matches!(actor, AnyActor::Revision(_)) && rows.any(|row| row.state == RowState::Requested)
}
