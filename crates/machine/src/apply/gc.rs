//! `CollectRevisions`: revisions that nobody needs go, a bounded number in one entry.

use nihilo_types::id::ObjectKey;
use nihilo_types::revision::RoutingState;
use nihilo_types::shard::shard_of;

use super::{Context, Result, check_shard};
use crate::command::CollectRevisions;
use crate::reply::{Outcome, Rejection};
use crate::state::State;

/// Revisions that one entry removes, at most.
const MAX_COLLECTED: usize = 100;

impl State {
    /// What has come into use since it was decided stays.
    pub(crate) fn collect_revisions(
        &mut self,
        collect: &CollectRevisions,
        context: &mut Context,
    ) -> Result {
        self.check_fence(collect.fence)?;
        check_shard(collect.fence, shard_of(&collect.key))?;
        if collect.revisions.len() > MAX_COLLECTED {
            let text = format!("at most {MAX_COLLECTED} revisions in one entry");
            return Err(Rejection::Invalid(text));
        }
        for name in &collect.revisions {
            let key = collect.key.sibling(name.as_str());
            if self.may_go(&collect.key, &key) {
                self.remove_revision(&key, context);
                self.revisions_of.remove(&collect.key, &key.name);
            }
        }
        Ok(Outcome::Done)
    }

    fn may_go(&self, service: &ObjectKey, key: &ObjectKey) -> bool {
        let Some(revision) = self.revisions.get(key) else {
            return false;
        };
        let configuration = self.configurations.get(service);
        let is_latest = configuration.is_some_and(|configuration| {
            let (name, status) = (&revision.metadata.name, &configuration.status);
            status.latest_created_revision_name == *name
                || status.latest_ready_revision_name == *name
        });
        revision.root() == *service
            && revision.routing_state() == RoutingState::Reserve
            && !is_latest
    }
}
