//! `RecordScale`: desired scales, written after acting.

use std::sync::Arc;

use nihilo_types::id::ObjectKey;
use nihilo_types::shard::shard_of;

use super::{Context, Result};
use crate::command::{RecordScale, ScaleUpdate};
use crate::reply::Outcome;
use crate::rows::{self, tag};
use crate::state::{ObjectChange, State};

impl State {
    /// Each update stands or falls by itself; the refused ones are named in the reply.
    pub(crate) fn record_scale(&mut self, record: &RecordScale, context: &mut Context) -> Result {
        let refused: Vec<ObjectKey> = record
            .scales
            .iter()
            .filter(|update| !self.record_one_scale(update, context))
            .map(|update| update.revision.clone())
            .collect();
        Ok(Outcome::Scales { refused })
    }

    fn record_one_scale(&mut self, update: &ScaleUpdate, context: &mut Context) -> bool {
        let Some(revision) = self.revision(&update.revision) else {
            return false;
        };
        let same_life = revision.metadata.uid == *update.uid;
        let in_shard = shard_of(&revision.root()) == update.fence.shard;
        if !same_life || !in_shard || self.check_fence(update.fence).is_err() {
            return false;
        }
        let stored = self.scale(&update.revision);
        let mut next = update.record.clone();
        next.initialized |= stored.initialized;
        next.active_since_ms = match stored.active == next.active {
            true => stored.active_since_ms,
            false => context.log_ms,
        };
        if *stored == next {
            return true;
        }
        let next = Arc::new(next);
        context.row(rows::put(
            rows::object_key(tag::SCALE, &update.revision),
            &next,
        ));
        context.event(ObjectChange::Scale {
            revision: update.revision.clone(),
        });
        self.scales.insert(update.revision.clone(), next);
        true
    }
}
