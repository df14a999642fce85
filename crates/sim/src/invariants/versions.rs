//! An object's version only grows, and an added object is new (P2).

use std::collections::BTreeMap;

use nihilo_machine::state::{EventKind, ObjectChange, ObjectEvent};
use nihilo_types::id::{Kind, LogIndex, ObjectKey};
use nihilo_types::meta::ObjectMeta;

use super::Verdict;

#[derive(Debug, Default)]
pub(crate) struct Versions(BTreeMap<(Kind, ObjectKey), LogIndex>);

impl Versions {
    pub(crate) fn observe(&mut self, event: &ObjectEvent) -> Verdict {
        let Some((kind, meta, change)) = parts(&event.object) else {
            return Ok(());
        };
        let place = (kind, meta.key());
        let (version, known) = (meta.version(), self.0.get(&place).copied());
        match change {
            EventKind::Deleted => drop(self.0.remove(&place)),
            EventKind::Added | EventKind::Modified => drop(self.0.insert(place.clone(), version)),
        }
        let grows = known.is_none_or(|known| version >= known) && version <= event.index;
        let fits = (change == EventKind::Added) == known.is_none();
        if grows && fits {
            return Ok(());
        }
        Err(format!(
            "{kind} {}: {change:?} at {version} (entry {}) after {known:?}",
            place.1, event.index
        ))
    }
}

fn parts(change: &ObjectChange) -> Option<(Kind, &ObjectMeta, EventKind)> {
    match change {
        ObjectChange::Service { object, change } => {
            Some((Kind::Service, &object.metadata, *change))
        }
        ObjectChange::Configuration { object, change } => {
            Some((Kind::Configuration, &object.metadata, *change))
        }
        ObjectChange::Revision { object, change } => {
            Some((Kind::Revision, &object.metadata, *change))
        }
        ObjectChange::Route { object, change } => Some((Kind::Route, &object.metadata, *change)),
        ObjectChange::ConfigMap { object, change } => {
            Some((Kind::ConfigMap, &object.metadata, *change))
        }
        ObjectChange::DomainMapping { object, change } => {
            Some((Kind::DomainMapping, &object.metadata, *change))
        }
        ObjectChange::DomainClaim { object, change } => {
            Some((Kind::ClusterDomainClaim, &object.metadata, *change))
        }
        ObjectChange::Secret { object, change } => Some((Kind::Secret, &object.metadata, *change)),
        ObjectChange::Scale { .. } => None,
    }
}
