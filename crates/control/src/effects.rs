//! Executes what cannot be done under the shard's lock: proposals, messages between actors.

use std::sync::Arc;

use nihilo_entity::{Effect, EntityKey, Event};
use nihilo_machine::Command;
use nihilo_machine::command::ScaleUpdate;
use nihilo_types::id::{Epoch, ShardId};
use tokio::sync::mpsc;

use crate::node::Shared;
use crate::proposals;

/// Orders that may wait for the executor; beyond, the actor is reloaded and decides again.
pub const QUEUE: usize = 4096;

/// One effect on its way out, with the epoch it was decided under.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) shard: ShardId,
    pub(crate) epoch: Epoch,
    pub(crate) key: EntityKey,
    pub(crate) what: What,
}

#[derive(Debug)]
pub(crate) enum What {
    Propose(Box<Command>),
    RecordScale(ScaleUpdate),
    Tell(EntityKey, Event),
}

impl What {
    /// `None` for effects that the adapter executes itself.
    pub(crate) fn of(effect: Effect) -> Option<Self> {
        match effect {
            Effect::Propose(command) => Some(What::Propose(command)),
            Effect::RecordScale(update) => Some(What::RecordScale(update)),
            Effect::Tell(key, event) => Some(What::Tell(key, event)),
            Effect::Start { .. }
            | Effect::Stop { .. }
            | Effect::Reopen { .. }
            | Effect::Freeze { .. }
            | Effect::Thaw { .. }
            | Effect::PushEndpoints(_)
            | Effect::Explain { .. } => None,
        }
    }
}

/// Never waits for an order's result; drops those whose epoch has passed.
pub(crate) async fn run(
    shared: Arc<Shared>,
    mut orders: mpsc::Receiver<Order>,
    scales: mpsc::Sender<ScaleUpdate>,
) {
    while let Some(order) = orders.recv().await {
        if shared.epoch_of(order.shard) != Some(order.epoch) {
            continue;
        }
        match order.what {
            What::Propose(command) => {
                let (shard, epoch, key) = (order.shard, order.epoch, order.key);
                let proposal = proposals::propose(shared.clone(), shard, epoch, key, *command);
                shared.spawn("proposal", proposal);
            }
            // A hint for the next owner: a dropped one comes again with the next change.
            What::RecordScale(update) => drop(scales.try_send(update)),
            What::Tell(key, event) => shared.tell(order.shard, order.epoch, key, event),
        }
    }
}
