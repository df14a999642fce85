//! Demand: from this node's gateway to the owning actor, wherever that is. Where it finds nobody for
//! long enough, and no leader names another owner, the gateway is told to refuse (05-gateway §13).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use nihilo_entity::liveness::t_dead_ms;
use nihilo_entity::{EntityKey, Event};
use nihilo_failpoint::{Point, hit};
use nihilo_types::id::{SessionId, ShardId};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tracing::{debug, info, warn};

use crate::node::Shared;
use crate::ports::{Demand, read};
use crate::reach::{Reach, Signal};

/// Signals that may wait to be sent, and answers to them that may wait to be read; beyond, the newest
/// is dropped: the gateway repeats it every 250 ms while nothing is ready.
pub const QUEUE: usize = 1024;
/// How often it is looked whether to hold or to refuse, while an owner is not reached.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Sends each signal to the present owner of its shard. With no owner the gateway's repetition
/// tries again.
pub(crate) async fn run(shared: Arc<Shared>, mut signals: mpsc::Receiver<Demand>) {
    let (outcomes, mut outcome_queue) = mpsc::channel(QUEUE);
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reach = Reach::default();
    let mut refused = BTreeSet::new();
    let mut number = 0;
    loop {
        // What has become of earlier signals first. A look is due only while something is not heard.
        tokio::select! {
            biased;
            Some((signal, is_taken)) = outcome_queue.recv() => reach.note(signal, is_taken),
            demand = signals.recv() => {
                let Some(demand) = demand else { return };
                number += 1;
                let signal = Signal {
                    shard: demand.shard,
                    number,
                    sent_ms: shared.now_ms(),
                };
                shared.clone().send_demand(demand, signal, &outcomes);
                continue;
            }
            _ = look.tick(), if reach.is_any_unheard() => {}
        }
        shared.refuse_unheard(&mut reach, &mut refused);
    }
}

/// A word that does not fit is as good as none: the signal is repeated.
fn note(outcomes: &mpsc::Sender<(Signal, bool)>, signal: Signal, is_taken: bool) {
    if outcomes.try_send((signal, is_taken)).is_err() {
        debug!(?signal, "too many outcomes of demand");
    }
}

impl Shared {
    fn send_demand(
        self: Arc<Self>,
        mut demand: Demand,
        signal: Signal,
        outcomes: &mpsc::Sender<(Signal, bool)>,
    ) {
        demand.gateway = self.session();
        let owner = read(self.ports.state.as_ref(), |state| {
            state.session(state.owner(demand.shard).session).cloned()
        });
        let owner = match owner {
            Some(owner) if owner.opened.node != self.config.node => owner,
            here => {
                let is_taken = here.is_some() && self.take_demand(&demand);
                note(outcomes, signal, is_taken);
                return;
            }
        };
        let (shared, outcomes) = (self.clone(), outcomes.clone());
        self.spawn("demand", async move {
            let revision = demand.revision.clone();
            let sent = shared.ports.owners.demand(owner, demand).await;
            if let Err(error) = &sent {
                debug!(%revision, %error, "demand not delivered");
            }
            note(&outcomes, signal, sent.is_ok());
        });
    }

    /// Tells the gateway where requests are refused, when that has changed.
    fn refuse_unheard(&self, reach: &mut Reach, refused: &mut BTreeSet<ShardId>) {
        let session = &self.config.session;
        let t_dead_ms = t_dead_ms(session.t_self_ms, self.config.election_timeout_max_ms);
        let leader_at_ms = *self.leader_contact.borrow();
        let now = reach.refused(leader_at_ms, t_dead_ms, self.now_ms());
        if now == *refused {
            return;
        }
        match now.is_empty() {
            true => info!("requests wait for their owners again"),
            false => warn!(
                n_shards = now.len(),
                "owners cannot be reached, and no leader names others: their cold requests are refused"
            ),
        }
        self.ports.gateway.refuse_cold(&now);
        *refused = now;
    }

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
