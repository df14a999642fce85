//! `RecordRevision`, and how revisions are stored and removed.

use std::sync::Arc;

use nihilo_types::condition::types;
use nihilo_types::id::ObjectKey;
use nihilo_types::revision::Revision;
use nihilo_types::shard::shard_of;

use super::service::assert_all;
use super::{Context, Result, check_shard};
use crate::bundles::BundleKey;
use crate::command::RecordRevision;
use crate::reply::{Outcome, Rejection};
use crate::rows::{self, tag};
use crate::state::{EventKind, ObjectChange, State};

/// What the Revision's `Ready` depends on; `Active` is only shown.
pub(super) const REVISION_DEPENDENTS: [&str; 2] =
    [types::RESOURCES_AVAILABLE, types::CONTAINER_HEALTHY];

impl State {
    pub(crate) fn record_revision(
        &mut self,
        record: &RecordRevision,
        context: &mut Context,
    ) -> Result {
        self.check_fence(record.fence)?;
        let key = &record.key;
        let Some(stored) = self.revisions.get(key) else {
            return Err(Rejection::NotFound(key.clone()));
        };
        check_shard(record.fence, shard_of(&stored.root()))?;
        let have = stored.metadata.version();
        if have != record.version {
            return Err(Rejection::Conflict {
                key: key.clone(),
                have,
            });
        }
        let mut revision = stored.as_ref().clone();
        let conditions = &mut revision.status.conditions;
        assert_all(conditions, &record.assertions, &context.now);
        let ready = conditions.roll_up(&REVISION_DEPENDENTS);
        conditions.set(&ready, &context.now);
        revision.status.observed_generation = revision.metadata.generation;
        self.store_revision(key, revision, EventKind::Modified, context);
        Ok(Outcome::Done)
    }

    pub(super) fn store_revision(
        &mut self,
        key: &ObjectKey,
        mut revision: Revision,
        change: EventKind,
        context: &mut Context,
    ) {
        revision.metadata.set_version(context.index);
        if change == EventKind::Added
            && let Some(pin) = BundleKey::of_revision(&revision)
        {
            self.bundles.pin(pin, &key.name);
        }
        let object = Arc::new(revision);
        context.row(self.revisions.put(key, object.clone()));
        context.event(ObjectChange::Revision { object, change });
    }

    pub(super) fn remove_revision(&mut self, key: &ObjectKey, context: &mut Context) {
        if self.scales.remove(key).is_some() {
            context.row(rows::delete(rows::object_key(tag::SCALE, key)));
        }
        if let Some(object) = self.revisions.remove(key) {
            if let Some(pin) = BundleKey::of_revision(&object) {
                self.bundles.unpin(&pin, &key.name);
            }
            context.row(rows::delete(rows::object_key(tag::REVISION, key)));
            context.event(ObjectChange::Revision {
                object,
                change: EventKind::Deleted,
            });
        }
    }
}
