//! Hosts in parts that tables share, so that a table with one host changed costs one part.

use std::collections::BTreeMap;
use std::ops::Index;
use std::sync::Arc;

use super::HostEntry;

/// Parts of a table. At 100,000 hosts a change copies 400 of them; with more parts the pointers to
/// the parts would cost as much.
const N_PARTS: usize = 256;

type Part = BTreeMap<Arc<str>, Arc<HostEntry>>;

/// Host → entry. Key: lower-case host without port and trailing dot. A clone copies [`N_PARTS`]
/// pointers; what is changed in it afterwards is not seen by the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hosts {
    parts: Vec<Arc<Part>>,
}

impl Default for Hosts {
    fn default() -> Self {
        let parts = vec![Arc::default(); N_PARTS];
        Self { parts }
    }
}

impl Hosts {
    pub fn get(&self, host: &str) -> Option<&Arc<HostEntry>> {
        self.part(host).get(host)
    }

    pub fn get_key_value(&self, host: &str) -> Option<(&Arc<str>, &Arc<HostEntry>)> {
        self.part(host).get_key_value(host)
    }

    pub fn contains_key(&self, host: &str) -> bool {
        self.part(host).contains_key(host)
    }

    pub fn insert(&mut self, host: Arc<str>, entry: Arc<HostEntry>) -> Option<Arc<HostEntry>> {
        let at = part_of(&host);
        let part = self.parts.get_mut(at)?;
        Arc::make_mut(part).insert(host, entry)
    }

    pub fn remove(&mut self, host: &str) -> Option<Arc<HostEntry>> {
        let part = self.parts.get_mut(part_of(host))?;
        // Nothing is copied for a host that is not there.
        part.contains_key(host)
            .then(|| Arc::make_mut(part).remove(host))?
    }

    /// All of them, in an order that is the same for equal tables and means nothing.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<HostEntry>)> {
        self.parts.iter().flat_map(|part| part.iter())
    }

    pub fn keys(&self) -> impl Iterator<Item = &Arc<str>> {
        self.iter().map(|(host, _)| host)
    }

    pub fn values(&self) -> impl Iterator<Item = &Arc<HostEntry>> {
        self.iter().map(|(_, entry)| entry)
    }

    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.parts.iter().all(|part| part.is_empty())
    }

    fn part(&self, host: &str) -> &Part {
        self.parts
            .get(part_of(host))
            .expect("there are as many parts as the hash can name")
    }
}

impl Index<&str> for Hosts {
    type Output = Arc<HostEntry>;

    fn index(&self, host: &str) -> &Arc<HostEntry> {
        self.get(host).expect("no such host")
    }
}

fn part_of(host: &str) -> usize {
    let hash = xxhash_rust::xxh3::xxh3_64(host.as_bytes());
    // The remainder is below 256.
    usize::try_from(hash % N_PARTS as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{LogIndex, ObjectKey};
    use crate::route_table::Visibility;

    fn entry(name: &str) -> Arc<HostEntry> {
        Arc::new(HostEntry {
            route: ObjectKey::new("default", name),
            index: LogIndex(1),
            tag: None,
            visibility: Visibility::Public,
            split: Vec::new(),
            tags: BTreeMap::new(),
        })
    }

    #[test]
    fn a_changed_clone_shares_all_parts_but_those_of_the_changed_hosts() {
        let mut hosts = Hosts::default();
        for n in 0..1_000 {
            hosts.insert(format!("s{n}").into(), entry("old"));
        }
        let mut next = hosts.clone();
        next.insert("s7".into(), entry("new"));
        assert_eq!(next.remove("none"), None);
        let pairs = || hosts.parts.iter().zip(&next.parts);
        let n_own = pairs().filter(|(old, new)| !Arc::ptr_eq(old, new)).count();
        assert_eq!(n_own, 1);
        assert_eq!(&*hosts["s7"].route.name, "old");
        assert_eq!(&*next["s7"].route.name, "new");
        assert_ne!(hosts, next);
        next.insert("s7".into(), entry("old"));
        assert_eq!(hosts, next);
    }

    #[test]
    fn what_is_put_in_is_found_until_it_is_taken_out() {
        let mut hosts = Hosts::default();
        assert!(hosts.is_empty() && hosts.get("a").is_none());
        assert!(hosts.insert("a".into(), entry("one")).is_none());
        assert!(hosts.insert("a".into(), entry("two")).is_some());
        hosts.insert("b".into(), entry("one"));
        assert_eq!((hosts.len(), hosts.keys().count()), (2, 2));
        assert_eq!(hosts.get_key_value("a").map(|(host, _)| &**host), Some("a"));
        assert!(hosts.remove("a").is_some() && !hosts.contains_key("a"));
        assert_eq!(hosts.values().count(), 1);
    }
}
