//! Planned moves: what an autoscaler has seen goes from the old owner to the new one
//! (04-autoscaler §8). Lost ones cost a window in panic, nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use nihilo_entity::autoscaler::Handover;
use nihilo_entity::{EntityKey, Event};
use nihilo_machine::state::ShardOwner;
use nihilo_types::id::{LogIndex, ShardId};
use tokio::sync::mpsc;
use tracing::debug;

use crate::node::Shared;
use crate::ports::{Handovers, read};

/// Handovers that may wait; beyond, they are dropped.
pub const QUEUE: usize = 4096;
/// In one message, at most.
pub const MAX_PER_MESSAGE: usize = 64;

/// Sends what comes from closed shards to their new owners.
pub(crate) async fn run(shared: Arc<Shared>, mut queue: mpsc::Receiver<(ShardId, Handover)>) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, MAX_PER_MESSAGE).await > 0 {
        let mut by_owner: BTreeMap<ShardOwner, Vec<(ShardId, Handover)>> = BTreeMap::new();
        for (shard, handover) in batch.drain(..) {
            let owner = read(shared.ports.state.as_ref(), |state| state.owner(shard));
            by_owner.entry(owner).or_default().push((shard, handover));
        }
        for (owner, handovers) in by_owner {
            let session = read(shared.ports.state.as_ref(), |state| {
                state.session(owner.session).cloned()
            });
            let Some(session) = session else { continue };
            let message = Handovers {
                epoch: owner.epoch,
                handovers,
            };
            let call_shared = shared.clone();
            shared.spawn("handover", async move {
                let call = call_shared.ports.owners.hand_over(session, message);
                if let Err(error) = call.await {
                    debug!(%error, "windows not handed over");
                }
            });
        }
    }
}

impl Shared {
    /// Gives the windows to the autoscalers once the move has been acted on here.
    pub(crate) async fn take_handovers(self: Arc<Self>, message: Handovers) {
        if !self.acted_on(LogIndex(message.epoch.0)).await {
            return;
        }
        for (shard, handover) in message.handovers {
            if self.epoch_of(shard) == Some(message.epoch) {
                let key = EntityKey::Autoscaler(handover.revision.clone());
                self.tell(
                    shard,
                    message.epoch,
                    key,
                    Event::Windows(Box::new(handover)),
                );
            }
        }
    }
}
