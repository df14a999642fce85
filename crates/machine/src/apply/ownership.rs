//! `Reassign`, and the rules that every move of a shard obeys.

use nihilo_types::id::{Epoch, ShardId};
use nihilo_types::shard::N_SHARDS;

use super::{Context, Result};
use crate::command::{Move, Reassign};
use crate::reply::{Outcome, Rejection};
use crate::rows::{self, tag};
use crate::state::{ShardOwner, State};

impl State {
    pub(crate) fn reassign(&mut self, reassign: &Reassign, context: &mut Context) -> Result {
        self.check_moves(&reassign.moves)?;
        self.make_moves(&reassign.moves, context);
        if !reassign.moves.is_empty() {
            context.ownership_changed();
        }
        Ok(Outcome::Done)
    }

    /// Every move starts from the current epoch and ends at an open control session.
    pub(super) fn check_moves(&self, moves: &[Move]) -> Result<()> {
        let valid = moves.len() <= usize::from(N_SHARDS)
            && moves.iter().all(|step| {
                step.shard.0 < N_SHARDS
                    && self.owner(step.shard).epoch == step.from_epoch
                    && self
                        .session(step.to)
                        .is_some_and(|session| session.opened.roles.control)
            });
        if valid {
            Ok(())
        } else {
            Err(Rejection::StaleMove)
        }
    }

    pub(super) fn make_moves(&mut self, moves: &[Move], context: &mut Context) {
        for step in moves {
            let owner = ShardOwner {
                session: step.to,
                epoch: Epoch(context.index.0),
            };
            self.set_owner(step.shard, owner, context);
        }
    }

    pub(super) fn set_owner(&mut self, shard: ShardId, owner: ShardOwner, context: &mut Context) {
        context.row(rows::put(
            rows::key(tag::OWNER, &[&shard.to_string()]),
            &owner,
        ));
        self.owners.insert(shard, owner);
    }
}
