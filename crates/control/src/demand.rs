//! Demand: from this node's gateway to the owning actor, wherever that is.

use std::sync::Arc;

use nihilo_entity::{EntityKey, Event};
use nihilo_failpoint::{Point, hit};
use nihilo_types::id::SessionId;
use tokio::sync::mpsc;
use tracing::debug;

use crate::node::Shared;
use crate::ports::{Demand, read};

/// Signals that may wait to be sent; beyond, the newest is dropped: the gateway repeats it every
/// 250 ms while nothing is ready.
pub const QUEUE: usize = 1024;

/// Sends each signal to the present owner of its shard. With no owner the gateway's repetition
/// tries again.
pub(crate) async fn run(shared: Arc<Shared>, mut signals: mpsc::Receiver<Demand>) {
    while let Some(mut demand) = signals.recv().await {
        demand.gateway = shared.session();
        let owner = read(shared.ports.state.as_ref(), |state| {
            state.session(state.owner(demand.shard).session).cloned()
        });
        let Some(owner) = owner else { continue };
        if owner.opened.node == shared.config.node {
            shared.take_demand(&demand);
            continue;
        }
        let call_shared = shared.clone();
        shared.spawn("demand", async move {
            let revision = demand.revision.clone();
            if let Err(error) = call_shared.ports.owners.demand(owner, demand).await {
                debug!(%revision, %error, "demand not delivered");
            }
        });
    }
}

impl Shared {
    /// Gives demand to the Autoscaler; `false` when this node does not own the shard.
    pub(crate) fn take_demand(&self, demand: &Demand) -> bool {
        let Some(epoch) = self.epoch_of(demand.shard) else {
            return false;
        };
        hit(Point::DemandReceived);
        let gateway = match demand.gateway {
            SessionId(0) => self.session(),
            known => known,
        };
        let event = Event::Demand {
            gateway,
            n_waiting: demand.n_waiting,
            in_flight: demand.in_flight,
            oldest_age_ms: demand.oldest_age_ms,
        };
        let key = EntityKey::Autoscaler(demand.revision.clone());
        self.tell(demand.shard, epoch, key, event);
        true
    }
}
