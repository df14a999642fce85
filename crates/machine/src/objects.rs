//! Objects as the state holds them: each as the compressed bytes of its row.
//!
//! An object of strings and maps takes four to five times the room of its row, and of 100,000
//! services hardly any is looked at. So it is opened when somebody asks for it; the newest ones
//! that were opened or written stay open beside. What is asked of all objects at once is kept
//! unpacked, as their [`Stored::Facts`]; what is looked for at every turn is found by an index.

use std::collections::btree_map::{Entry, Keys};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use nihilo_types::condition::types;
use nihilo_types::configuration::Configuration;
use nihilo_types::id::{ObjectKey, ShardId};
use nihilo_types::revision::Revision;
use nihilo_types::route::Route;
use nihilo_types::service::Service;
use nihilo_types::shard::shard_of;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::packed::Packed;
use crate::rows::{self, tag};
use crate::state::RowChange;

/// Open objects of one kind that are kept, at most; each takes a few KiB. A prime: addresses are
/// multiples of something.
const N_OPEN: usize = 509;

/// A kind of object that there may be very many of.
pub(crate) trait Stored: Serialize + DeserializeOwned {
    /// First part of its rows' keys.
    const TAG: &'static str;
    /// What is asked of all objects at once.
    type Facts: fmt::Debug + Clone + Copy;

    fn facts(&self) -> Self::Facts;

    /// Whether it waits until all gateways serve it.
    fn awaits_gateways(_facts: &Self::Facts) -> bool {
        false
    }
}

/// What can be told of a Service without opening it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceFacts {
    /// Its actor has seen its newest generation, and found it Ready.
    pub is_settled: bool,
}

/// What can be told of a Revision without opening it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RevisionFacts {
    /// Its actor has seen it.
    pub is_observed: bool,
    /// It names a minimum of instances.
    pub has_minimum: bool,
}

/// What can be told of a Route without opening it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteFacts {
    /// Its traffic goes to some revision.
    pub is_assigned: bool,
    pub is_ready: bool,
    /// Index of its newest assignment; 0 = none.
    pub assigned_at: u64,
}

impl Stored for Service {
    const TAG: &'static str = tag::SERVICE;
    type Facts = ServiceFacts;

    fn facts(&self) -> ServiceFacts {
        let is_seen = self.status.observed_generation == self.metadata.generation;
        ServiceFacts {
            is_settled: is_seen && self.status.conditions.is_true(types::READY),
        }
    }
}

impl Stored for Configuration {
    const TAG: &'static str = tag::CONFIGURATION;
    type Facts = ();

    fn facts(&self) {}
}

impl Stored for Revision {
    const TAG: &'static str = tag::REVISION;
    type Facts = RevisionFacts;

    fn facts(&self) -> RevisionFacts {
        let is_minimum = |key: &String| key.ends_with("/min-scale") || key.ends_with("/minScale");
        RevisionFacts {
            is_observed: self.status.observed_generation > 0,
            has_minimum: self.metadata.annotations.keys().any(is_minimum),
        }
    }
}

impl Stored for Route {
    const TAG: &'static str = tag::ROUTE;
    type Facts = RouteFacts;

    fn facts(&self) -> RouteFacts {
        RouteFacts {
            is_assigned: !self.status.traffic.is_empty(),
            is_ready: self.status.conditions.is_true(types::READY),
            assigned_at: self.status.assigned_at,
        }
    }

    fn awaits_gateways(facts: &RouteFacts) -> bool {
        facts.assigned_at > 0 && !facts.is_ready
    }
}

/// One object, packed.
#[derive(Debug, Clone)]
pub(crate) struct Kept<T: Stored> {
    facts: T::Facts,
    packed: Packed,
}

impl<T: Stored> Kept<T> {
    /// Reads a row, and keeps it as this build writes it.
    pub(crate) fn read(row: &[u8]) -> Result<(Self, T), serde_json::Error> {
        let object: T = serde_json::from_slice(row)?;
        let kept = Self::new(&object, &rows::encode(&object));
        Ok((kept, object))
    }

    fn new(object: &T, row: &[u8]) -> Self {
        Self {
            facts: object.facts(),
            packed: Packed::new(row),
        }
    }

    fn open(&self) -> Arc<T> {
        let row = self.packed.unpack();
        Arc::new(serde_json::from_slice(&row).expect("bytes that `rows::encode` wrote"))
    }
}

/// All objects of one kind, by key. A clone shares them.
#[derive(Debug, Clone)]
pub(crate) struct Objects<T: Stored> {
    by_key: BTreeMap<ObjectKey, Kept<T>>,
    /// Shard to the objects in it that wait until all gateways serve them.
    awaited: BTreeMap<ShardId, BTreeSet<ObjectKey>>,
    open: Arc<Open<T>>,
}

impl<T: Stored> Default for Objects<T> {
    fn default() -> Self {
        Self {
            by_key: BTreeMap::new(),
            awaited: BTreeMap::new(),
            open: Arc::default(),
        }
    }
}

impl<T: Stored> FromIterator<(ObjectKey, Kept<T>)> for Objects<T> {
    /// Takes no more room than needed when the keys come in order.
    fn from_iter<I: IntoIterator<Item = (ObjectKey, Kept<T>)>>(objects: I) -> Self {
        let mut filled = Self {
            by_key: objects.into_iter().collect(),
            ..Self::default()
        };
        for (key, kept) in &filled.by_key {
            note_awaited::<T>(&mut filled.awaited, key, Some(&kept.facts));
        }
        filled
    }
}

/// `facts` = of the object that is there now, if there is one.
fn note_awaited<T: Stored>(
    awaited: &mut BTreeMap<ShardId, BTreeSet<ObjectKey>>,
    key: &ObjectKey,
    facts: Option<&T::Facts>,
) {
    if facts.is_some_and(T::awaits_gateways) {
        awaited
            .entry(shard_of(key))
            .or_default()
            .insert(key.clone());
    } else if !awaited.is_empty()
        && let Entry::Occupied(mut of_shard) = awaited.entry(shard_of(key))
    {
        of_shard.get_mut().remove(key);
        if of_shard.get().is_empty() {
            of_shard.remove();
        }
    }
}

impl<T: Stored> Objects<T> {
    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(crate) fn contains_key(&self, key: &ObjectKey) -> bool {
        self.by_key.contains_key(key)
    }

    pub(crate) fn keys(&self) -> Keys<'_, ObjectKey, Kept<T>> {
        self.by_key.keys()
    }

    pub(crate) fn get(&self, key: &ObjectKey) -> Option<Arc<T>> {
        let kept = self.by_key.get(key)?;
        Some(self.open.find(kept))
    }

    /// The same key as the map has it: a copy of it takes no room.
    pub(crate) fn own_key(&self, key: &ObjectKey) -> Option<&ObjectKey> {
        self.by_key.get_key_value(key).map(|(key, _)| key)
    }

    pub(crate) fn facts(&self, key: &ObjectKey) -> Option<T::Facts> {
        self.by_key.get(key).map(|kept| kept.facts)
    }

    pub(crate) fn all_facts(&self) -> impl Iterator<Item = (&ObjectKey, T::Facts)> {
        self.by_key.iter().map(|(key, kept)| (key, kept.facts))
    }

    /// Those of a shard that wait until all gateways serve them, by key.
    pub(crate) fn awaited_in(
        &self,
        shard: ShardId,
    ) -> impl Iterator<Item = (&ObjectKey, T::Facts)> {
        let keys = self.awaited.get(&shard).into_iter().flatten();
        keys.filter_map(|key| Some((key, self.facts(key)?)))
    }

    /// Every object, opened one after the other: none stays open for it.
    pub(crate) fn values(&self) -> impl Iterator<Item = Arc<T>> {
        self.values_of(|_| true)
    }

    /// The same of the objects with the wanted keys; the others are not opened.
    pub(crate) fn values_of(
        &self,
        is_wanted: impl Fn(&ObjectKey) -> bool,
    ) -> impl Iterator<Item = Arc<T>> {
        let wanted = self.by_key.iter().filter(move |(key, _)| is_wanted(key));
        wanted.map(|(_, kept)| kept.open())
    }

    /// Stores an object under its key; returns its row.
    pub(crate) fn put(&mut self, key: &ObjectKey, object: Arc<T>) -> RowChange {
        let row = rows::encode(object.as_ref());
        let kept = Kept::new(object.as_ref(), &row);
        self.open.keep(&kept.packed, object);
        note_awaited::<T>(&mut self.awaited, key, Some(&kept.facts));
        self.by_key.insert(key.clone(), kept);
        RowChange {
            key: rows::object_key(T::TAG, key),
            value: Some(row),
        }
    }

    pub(crate) fn remove(&mut self, key: &ObjectKey) -> Option<Arc<T>> {
        let kept = self.by_key.remove(key)?;
        note_awaited::<T>(&mut self.awaited, key, None);
        Some(self.open.find(&kept))
    }

    pub(crate) fn visit_rows(&self, visit: &mut dyn FnMut(RowChange)) {
        for (key, kept) in &self.by_key {
            visit(RowChange {
                key: rows::object_key(T::TAG, key),
                value: Some(kept.packed.unpack()),
            });
        }
    }
}

/// Objects that stay open, each found by the address of its packed bytes: those of a place are
/// pushed out by the next one. What is in it changes no answer.
struct Open<T>(Mutex<Vec<Place<T>>>);

type Place<T> = Option<(Packed, Arc<T>)>;

impl<T> Default for Open<T> {
    fn default() -> Self {
        Self(Mutex::new(Vec::new()))
    }
}

impl<T> fmt::Debug for Open<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Open").finish_non_exhaustive()
    }
}

impl<T: Stored> Open<T> {
    fn find(&self, kept: &Kept<T>) -> Arc<T> {
        let at = kept.packed.place(N_OPEN);
        {
            let places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Its own reference keeps the address from being given to other bytes.
            if let Some(Some((packed, object))) = places.get(at)
                && packed.is(&kept.packed)
            {
                return object.clone();
            }
        }
        let object = kept.open();
        self.keep(&kept.packed, object.clone());
        object
    }

    fn keep(&self, packed: &Packed, object: Arc<T>) {
        let at = packed.place(N_OPEN);
        let pushed_out = {
            let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if places.is_empty() {
                places.resize_with(N_OPEN, || None);
            }
            places[at].replace((packed.clone(), object))
        };
        drop(pushed_out);
    }
}

/// Makes equal keys one: theirs is the larger part of a key's room.
///
/// Keys that come in the order of the known ones cost a step each.
pub(crate) struct SharedKeys<'a, V> {
    known: &'a BTreeMap<ObjectKey, V>,
    at: std::iter::Peekable<Keys<'a, ObjectKey, V>>,
}

impl<'a, T: Stored> SharedKeys<'a, Kept<T>> {
    pub(crate) fn of(objects: &'a Objects<T>) -> Self {
        Self {
            known: &objects.by_key,
            at: objects.keys().peekable(),
        }
    }

    pub(crate) fn share(&mut self, key: ObjectKey) -> ObjectKey {
        while self.at.next_if(|known| **known < key).is_some() {}
        if let Some(known) = self.at.peek()
            && **known == key
        {
            return (*known).clone();
        }
        // Out of order, or not known at all.
        match self.known.get_key_value(&key) {
            Some((known, _)) => known.clone(),
            None => key,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, generation: u64) -> Arc<Service> {
        let mut service = Service::default();
        service.metadata.name = name.into();
        service.metadata.namespace = "default".into();
        service.metadata.generation = generation;
        Arc::new(service)
    }

    fn filled(n: usize) -> Objects<Service> {
        let mut objects = Objects::default();
        for n in 0..n {
            let object = service(&format!("s-{n}"), n as u64);
            objects.put(&object.metadata.key(), object);
        }
        objects
    }

    #[test]
    fn more_objects_than_stay_open_read_as_written() {
        let objects = filled(3 * N_OPEN);
        for n in (0..3 * N_OPEN).chain(0..3 * N_OPEN) {
            let wanted = service(&format!("s-{n}"), n as u64);
            assert_eq!(objects.get(&wanted.metadata.key()), Some(wanted));
        }
        assert_eq!(objects.values().count(), 3 * N_OPEN);
    }

    #[test]
    fn a_clone_keeps_what_it_had() {
        let mut objects = filled(2);
        let before = objects.clone();
        let (first, next) = (service("s-0", 0), service("s-0", 7));
        let key = first.metadata.key();
        objects.put(&key, next.clone());
        assert_eq!(before.get(&key), Some(first));
        assert_eq!(objects.get(&key), Some(next.clone()));
        assert_eq!(objects.remove(&key), Some(next));
        assert!(objects.get(&key).is_none() && before.contains_key(&key));
    }

    #[test]
    fn facts_are_those_of_the_newest_object() {
        let mut objects = filled(1);
        let mut object = service("s-0", 3).as_ref().clone();
        let key = object.metadata.key();
        assert_eq!(
            objects.facts(&key).map(|facts| facts.is_settled),
            Some(false)
        );
        object.status.observed_generation = 3;
        let ready = nihilo_types::condition::Assertion::truth(types::READY);
        object.status.conditions.set(&ready, "");
        objects.put(&key, Arc::new(object));
        assert_eq!(
            objects.facts(&key).map(|facts| facts.is_settled),
            Some(true)
        );
    }

    #[test]
    fn routes_are_awaited_from_their_assignment_until_they_are_ready() {
        let key = ObjectKey::new("default", "r");
        let mut route = Route::default();
        let mut routes = Objects::default();
        let awaited = |routes: &Objects<Route>| {
            let keys = routes
                .awaited_in(shard_of(&key))
                .map(|(key, _)| key.clone());
            keys.collect::<Vec<_>>()
        };
        routes.put(&key, Arc::new(route.clone()));
        assert!(awaited(&routes).is_empty());
        route.status.assigned_at = 7;
        routes.put(&key, Arc::new(route.clone()));
        assert_eq!(awaited(&routes), std::slice::from_ref(&key));
        // As after a restart.
        let again: Objects<Route> = routes.by_key.clone().into_iter().collect();
        assert_eq!(again.awaited, routes.awaited);
        let ready = nihilo_types::condition::Assertion::truth(types::READY);
        route.status.conditions.set(&ready, "");
        routes.put(&key, Arc::new(route.clone()));
        assert!(routes.awaited.is_empty());
        route.status.conditions = Default::default();
        routes.put(&key, Arc::new(route));
        assert_eq!(awaited(&routes), std::slice::from_ref(&key));
        routes.remove(&key);
        assert!(routes.awaited.is_empty());
    }

    #[test]
    fn keys_are_shared_in_and_out_of_order() {
        let objects = filled(9);
        let mut shared = SharedKeys::of(&objects);
        for name in ["s-1", "s-4", "s-2", "s-8"] {
            let key = shared.share(ObjectKey::new("default", name));
            let (known, _) = objects.by_key.get_key_value(&key).unwrap();
            assert!(Arc::ptr_eq(&known.name, &key.name), "{name}");
        }
        let other = ObjectKey::new("default", "other");
        assert_eq!(shared.share(other.clone()), other);
    }
}
