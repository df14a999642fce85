//! What an autoscaler wants lies within [min-scale, max-scale] (08 §5).

use std::collections::BTreeMap;

use nihilo_entity::{Effect, Event};
use nihilo_machine::State;
use nihilo_machine::state::{EventKind, ObjectChange};
use nihilo_types::id::ObjectKey;
use nihilo_types::revision::{Revision, RoutingState};

use super::Verdict;

/// Bounds of every revision there ever was, by uid.
#[derive(Debug, Default)]
pub(crate) struct Desired {
    bounds: BTreeMap<String, Bounds>,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Bounds {
    pub(crate) min: u32,
    /// 0 = none.
    pub(crate) max: u32,
}

impl Desired {
    pub(crate) fn observe(&mut self, change: &ObjectChange) {
        if let ObjectChange::Revision { object, change } = change
            && *change == EventKind::Added
        {
            self.bounds
                .insert(object.metadata.uid.clone(), bounds_of(object));
        }
    }

    pub(crate) fn bounds(&self, uid: &str) -> Bounds {
        self.bounds.get(uid).copied().unwrap_or_default()
    }

    /// Judges `Desired` on its way to the Revision actor.
    pub(crate) fn effect(&self, state: &State, effect: &Effect) -> Verdict {
        let Effect::Tell(to, Event::Desired { n, .. }) = effect else {
            return Ok(());
        };
        let key: &ObjectKey = to.object();
        let Some(revision) = state.revision(key) else {
            return Ok(());
        };
        let bounds = bounds_of(&revision);
        let reachable = revision.routing_state() == RoutingState::Active;
        let low = if reachable { bounds.min } else { 0 };
        let fits = *n >= low && (bounds.max == 0 || *n <= bounds.max);
        match fits {
            true => Ok(()),
            false => Err(format!("{key} wants {n}, bounds {bounds:?}")),
        }
    }
}

/// Read from the annotations as a user writes them, not through the code that is judged.
pub(crate) fn bounds_of(revision: &Revision) -> Bounds {
    let number = |name: &str| {
        let key = format!("autoscaling.knative.dev/{name}");
        let text = revision.metadata.annotation(&key);
        text.and_then(|text| text.parse().ok()).unwrap_or(0)
    };
    Bounds {
        min: number("min-scale"),
        max: number("max-scale"),
    }
}
