//! Own domains as the state holds them, with what is derived of them: few beside the Services.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nihilo_types::domain::{ClusterDomainClaim, DomainMapping};
use nihilo_types::id::{ObjectKey, ShardId};
use nihilo_types::shard::shard_of;

use crate::siblings::Siblings;

#[derive(Debug, Clone, Default)]
pub(crate) struct Domains {
    mappings: BTreeMap<ObjectKey, Arc<DomainMapping>>,
    /// Host to its claim.
    claims: BTreeMap<Arc<str>, Arc<ClusterDomainClaim>>,
    /// Route to the mappings that refer to it; derived.
    of_routes: Siblings,
    /// Shard of the Route to the mappings that gateways are to serve and do not all; derived.
    awaited: BTreeMap<ShardId, BTreeSet<ObjectKey>>,
}

impl Domains {
    pub(crate) fn len(&self) -> usize {
        self.mappings.len()
    }

    pub(crate) fn mapping(&self, key: &ObjectKey) -> Option<&Arc<DomainMapping>> {
        self.mappings.get(key)
    }

    /// By key.
    pub(crate) fn mappings(&self) -> impl Iterator<Item = (&ObjectKey, &Arc<DomainMapping>)> {
        self.mappings.iter()
    }

    /// The mapping that has the host: of the namespace that claims it.
    pub(crate) fn holder(&self, host: &str) -> Option<&Arc<DomainMapping>> {
        let claim = self.claim(host)?;
        let key = ObjectKey::new(claim.spec.namespace.as_str(), host);
        self.mapping(&key)
    }

    pub(crate) fn keys_of_route(&self, route: &ObjectKey) -> impl Iterator<Item = ObjectKey> {
        self.of_routes.keys_of(route)
    }

    pub(crate) fn awaited_in(&self, shard: ShardId) -> impl Iterator<Item = &Arc<DomainMapping>> {
        let keys = self.awaited.get(&shard).into_iter().flatten();
        keys.filter_map(move |key| self.mapping(key))
    }

    pub(crate) fn put_mapping(&mut self, key: &ObjectKey, mapping: Arc<DomainMapping>) {
        self.remove_mapping(key);
        let route = mapping.route();
        self.of_routes.insert(&route, &key.name);
        if mapping.awaits_gateways() {
            let awaited = self.awaited.entry(shard_of(&route)).or_default();
            awaited.insert(key.clone());
        }
        self.mappings.insert(key.clone(), mapping);
    }

    pub(crate) fn remove_mapping(&mut self, key: &ObjectKey) -> Option<Arc<DomainMapping>> {
        let mapping = self.mappings.remove(key)?;
        let route = mapping.route();
        self.of_routes.remove(&route, &key.name);
        if let Some(awaited) = self.awaited.get_mut(&shard_of(&route)) {
            awaited.remove(key);
        }
        Some(mapping)
    }

    pub(crate) fn claim(&self, host: &str) -> Option<&Arc<ClusterDomainClaim>> {
        self.claims.get(host)
    }

    /// By host.
    pub(crate) fn claims(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<ClusterDomainClaim>)> {
        self.claims.iter()
    }

    pub(crate) fn put_claim(&mut self, claim: Arc<ClusterDomainClaim>) {
        self.claims
            .insert(claim.metadata.name.as_str().into(), claim);
    }

    pub(crate) fn remove_claim(&mut self, host: &str) -> Option<Arc<ClusterDomainClaim>> {
        self.claims.remove(host)
    }
}

#[cfg(test)]
mod tests {
    use nihilo_types::condition::{Assertion, types};

    use super::*;

    fn mapping(route: &str, assigned_at: u64) -> DomainMapping {
        let mut mapping = DomainMapping::default();
        mapping.metadata.name = "a.example".into();
        mapping.metadata.namespace = "default".into();
        mapping.spec.reference.name = route.into();
        mapping.status.assigned_at = assigned_at;
        mapping
    }

    #[test]
    fn what_is_derived_is_that_of_the_newest_mapping() {
        let mut domains = Domains::default();
        let key = mapping("one", 0).metadata.key();
        let (one, two) = (key.sibling("one"), key.sibling("two"));
        let n_awaited = |domains: &Domains, route: &ObjectKey| {
            let all = domains.awaited_in(shard_of(route));
            all.filter(|mapping| mapping.route() == *route).count()
        };
        domains.put_mapping(&key, Arc::new(mapping("one", 7)));
        assert_eq!(domains.keys_of_route(&one).count(), 1);
        assert_eq!(n_awaited(&domains, &one), 1);
        domains.put_mapping(&key, Arc::new(mapping("two", 8)));
        assert_eq!(domains.keys_of_route(&one).count(), 0);
        assert_eq!(domains.keys_of_route(&two).count(), 1);
        assert_eq!(
            (n_awaited(&domains, &one), n_awaited(&domains, &two)),
            (0, 1)
        );
        let mut served = mapping("two", 8);
        let ready = Assertion::truth(types::INGRESS_READY);
        served.status.conditions.set(&ready, "");
        domains.put_mapping(&key, Arc::new(served));
        assert_eq!(n_awaited(&domains, &two), 0);
        assert!(domains.remove_mapping(&key).is_some());
        assert_eq!((domains.len(), domains.keys_of_route(&two).count()), (0, 0));
    }

    #[test]
    fn a_host_belongs_to_the_namespace_of_its_claim() {
        let mut domains = Domains::default();
        let one = mapping("one", 0);
        domains.put_mapping(&one.metadata.key(), Arc::new(one.clone()));
        assert_eq!(domains.holder("a.example"), None);
        for (namespace, is_its) in [("other", false), ("default", true)] {
            let claim = ClusterDomainClaim::new("a.example", namespace);
            domains.put_claim(Arc::new(claim));
            let holder = domains.holder("a.example").map(Arc::as_ref);
            assert_eq!(holder, is_its.then_some(&one), "{namespace}");
        }
    }
}
