//! `PutSecret`, `DeleteSecret`: sealed values, that no replica opens.

use std::sync::Arc;

use nihilo_types::secret::SealedSecret;

use super::write::{carry_identity, check_expectation, check_immutable};
use super::{Context, Result, event_kind};
use crate::command::{DeleteSecret, PutSecret};
use crate::reply::{Change, Outcome, Rejection};
use crate::rows::{self, tag};
use crate::state::{EventKind, ObjectChange, State};

/// Secrets of a cluster, at most.
const MAX_SECRETS: usize = 100_000;

impl State {
    pub(crate) fn put_secret(&mut self, put: &PutSecret, context: &mut Context) -> Result {
        let mut wanted = put.secret.clone();
        wanted.check().map_err(Rejection::Invalid)?;
        let key = wanted.metadata.key();
        let stored = self.secrets.get(&key).cloned();
        let have = stored.as_ref().map(|stored| stored.metadata.version());
        check_expectation(&key, have, put.expect)?;
        self.check_sealed_by(&wanted)?;
        let change = match &stored {
            None if self.secrets.len() >= MAX_SECRETS => {
                let text = format!("at most {MAX_SECRETS} secrets");
                return Err(Rejection::LimitReached(text));
            }
            None => Change::Created,
            Some(stored) => match changed(stored, &wanted)? {
                false => return Ok(outcome(stored, Change::Unchanged)),
                true => Change::Updated,
            },
        };
        let meta = &mut wanted.metadata;
        let known = stored.as_ref().map(|stored| &stored.metadata);
        carry_identity(meta, known, &put.uid, context);
        meta.generation = 0;
        meta.owner_references.clear();
        meta.set_version(context.index);
        let object = Arc::new(wanted);
        context.row(rows::put(rows::object_key(tag::SECRET, &key), &object));
        context.event(ObjectChange::Secret {
            object: object.clone(),
            change: event_kind(stored.is_some()),
        });
        self.secrets.insert(key, object.clone());
        Ok(outcome(&object, change))
    }

    /// One key for all: a node that came with another one must not split them.
    fn check_sealed_by(&self, wanted: &SealedSecret) -> Result<()> {
        match self.secrets_key_id() {
            Some(id) if id != wanted.sealed_by => Err(Rejection::Invalid(format!(
                "the cluster's secrets are sealed by key {id}, the node that was asked holds key \
                 {}: give it the file that `secrets-key-file` names on the other nodes, and \
                 restart it",
                wanted.sealed_by
            ))),
            _ => Ok(()),
        }
    }

    pub(crate) fn delete_secret(&mut self, delete: &DeleteSecret, context: &mut Context) -> Result {
        let key = &delete.key;
        let Some(stored) = self.secrets.get(key).cloned() else {
            return Err(Rejection::NotFound(key.clone()));
        };
        check_expectation(key, Some(stored.metadata.version()), delete.expect)?;
        self.secrets.remove(key);
        context.row(rows::delete(rows::object_key(tag::SECRET, key)));
        context.event(ObjectChange::Secret {
            object: stored.clone(),
            change: EventKind::Deleted,
        });
        Ok(outcome(&stored, Change::Deleted))
    }
}

/// Who proposes takes over what is sealed already, so that equal values are equal texts.
fn changed(stored: &SealedSecret, wanted: &SealedSecret) -> Result<bool> {
    if stored.secret_type != wanted.secret_type {
        return Err(Rejection::Invalid("field is immutable: type".into()));
    }
    let is_same_data = stored.sealed == wanted.sealed;
    check_immutable(stored.immutable, is_same_data && wanted.immutable)?;
    let is_same = is_same_data
        && stored.immutable == wanted.immutable
        && stored.metadata.labels == wanted.metadata.labels
        && stored.metadata.annotations == wanted.metadata.annotations;
    Ok(!is_same)
}

fn outcome(object: &SealedSecret, change: Change) -> Outcome {
    Outcome::Secret {
        secret: Box::new(object.outline()),
        change,
    }
}
