//! Which objects belong to which Service: sorted names, in little room for the many that have one.

use std::collections::BTreeMap;
use std::sync::Arc;

use nihilo_types::id::ObjectKey;

/// A Service to the names of its revisions, which stand in its namespace.
#[derive(Debug, Clone, Default)]
pub(crate) struct Siblings(BTreeMap<ObjectKey, Vec<Arc<str>>>);

impl Siblings {
    pub(crate) fn keys_of(&self, service: &ObjectKey) -> impl Iterator<Item = ObjectKey> {
        let found = self.0.get_key_value(service).into_iter();
        found.flat_map(|(root, names)| names.iter().map(move |name| root.sibling(name.clone())))
    }

    pub(crate) fn n_of(&self, service: &ObjectKey) -> usize {
        self.0.get(service).map_or(0, Vec::len)
    }

    pub(crate) fn insert(&mut self, service: &ObjectKey, name: &Arc<str>) {
        let names = self.0.entry(service.clone()).or_default();
        if let Err(at) = names.binary_search(name) {
            // By one, not by four: most have one, and new ones are rare.
            names.reserve_exact(1);
            names.insert(at, name.clone());
        }
    }

    pub(crate) fn remove(&mut self, service: &ObjectKey, name: &Arc<str>) {
        let Some(names) = self.0.get_mut(service) else {
            return;
        };
        if let Ok(at) = names.binary_search(name) {
            names.remove(at);
        }
        if names.is_empty() {
            self.0.remove(service);
        }
    }

    /// Forgets a Service; returns the keys of what belonged to it.
    pub(crate) fn remove_all(&mut self, service: &ObjectKey) -> Vec<ObjectKey> {
        let names = self.0.remove(service).unwrap_or_default();
        let keys = names.into_iter().map(|name| service.sibling(name));
        keys.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_stand_once() {
        let service = ObjectKey::new("default", "a");
        let mut siblings = Siblings::default();
        for name in ["a-2", "a-1", "a-2", "a-3"] {
            siblings.insert(&service, &name.into());
        }
        siblings.remove(&service, &"a-3".into());
        let wanted = ["a-1", "a-2"].map(|name| service.sibling(name));
        assert_eq!(siblings.keys_of(&service).collect::<Vec<_>>(), wanted);
        assert_eq!(siblings.n_of(&service), 2);
        assert_eq!(siblings.remove_all(&service), wanted);
        assert_eq!(siblings.n_of(&service), 0);
    }
}
