//! Executes an actor's proposal and tells it the outcome.

use std::sync::Arc;
use std::time::Duration;

use nihilo_actors::SendError;
use nihilo_entity::event::ProposalOutcome;
use nihilo_entity::{EntityKey, Event};
use nihilo_failpoint::{Point, hit};
use nihilo_machine::Command;
use nihilo_machine::command::RequestKey;
use nihilo_types::id::{Epoch, ShardId};
use tracing::debug;

use crate::node::Shared;
use crate::ports::ProposeOutcome;

/// Proposals of this node's actors under way at once (03-actors §5.1).
pub const MAX_IN_FLIGHT: usize = 256;
const LIMIT: Duration = Duration::from_secs(5);

/// Proposes `command` for the actor `key`; its fence makes a late or doubled one harmless.
pub(crate) async fn propose(
    shared: Arc<Shared>,
    shard: ShardId,
    epoch: Epoch,
    key: EntityKey,
    command: Command,
) {
    let _permit = shared.proposal_slots.acquire().await;
    hit(Point::CommandProposed);
    let outcome = match shared
        .ports
        .proposer
        .propose(command, RequestKey::default(), LIMIT)
        .await
    {
        Ok(reply) => {
            shared.wait_applied(reply.index).await;
            match reply.result {
                Ok(_) => ProposalOutcome::Applied(reply.index),
                Err(rejection) => {
                    debug!(%key, %rejection, "proposal rejected");
                    ProposalOutcome::Rejected
                }
            }
        }
        Err(error) if error.outcome == ProposeOutcome::NotApplied => {
            debug!(%key, %error, "proposal not applied");
            ProposalOutcome::NotApplied
        }
        Err(error) => {
            debug!(%key, %error, "proposal of unknown outcome, reloading the actor");
            shared.system.reload(shard, epoch, &key);
            return;
        }
    };
    let answered = shared
        .system
        .send(shard, epoch, &key, Event::Proposed { outcome });
    if answered == Err(SendError::Overloaded) {
        // It waits for this answer before it proposes again: let it forget that it asked.
        shared.system.reload(shard, epoch, &key);
    }
}
