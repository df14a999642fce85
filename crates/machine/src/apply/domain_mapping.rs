//! `PutDomainMapping`, `DeleteDomainMapping`, `RecordDomainMapping`: own host names of Routes.
//!
//! Whose the host is and whether there is what it refers to follow from the state: each entry that
//! changes one of them says so in the mapping's conditions. Whether gateways serve the host is for
//! the Route's actor to record.

use std::sync::Arc;

use nihilo_types::condition::{Assertion, ConditionStatus, types};
use nihilo_types::domain::{DomainMapping, DomainMappingStatus};
use nihilo_types::id::ObjectKey;
use nihilo_types::shard::shard_of;
use nihilo_types::validate;

use super::service::assert_all;
use super::write::{check_expectation, next_meta, same_for_the_user, stamp_user};
use super::{Context, Result, check_shard, event_kind};
use crate::command::{DeleteDomainMapping, PutDomainMapping, RecordDomainMapping};
use crate::reply::{Change, Outcome, Rejection};
use crate::rows::{self, tag};
use crate::state::{EventKind, ObjectChange, State};

/// DomainMappings of a cluster, at most.
const MAX_DOMAIN_MAPPINGS: usize = 10_000;

/// What the mapping's `Ready` depends on.
const DEPENDENTS: [&str; 4] = [
    types::DOMAIN_CLAIMED,
    types::REFERENCE_RESOLVED,
    types::INGRESS_READY,
    types::CERTIFICATE_PROVISIONED,
];

impl State {
    pub(crate) fn put_domain_mapping(
        &mut self,
        put: &PutDomainMapping,
        context: &mut Context,
    ) -> Result {
        let mut wanted = put.domain_mapping.clone();
        wanted.default_fields();
        let key = wanted.metadata.key();
        let stored = self.domains.mapping(&key).cloned();
        let have = stored.as_ref().map(|stored| stored.metadata.version());
        check_expectation(&key, have, put.expect)?;
        self.check_domain_mapping(&wanted)?;
        let change = match &stored {
            Some(stored) if says_the_same(stored, &wanted) => {
                return Ok(outcome(stored, Change::Unchanged));
            }
            Some(_) => Change::Updated,
            None if self.domains.len() >= MAX_DOMAIN_MAPPINGS => {
                let text = format!("at most {MAX_DOMAIN_MAPPINGS} domain mappings");
                return Err(Rejection::LimitReached(text));
            }
            None => Change::Created,
        };
        let next = next_mapping(stored.as_deref(), wanted, put, context);
        self.claim_for(&next, context);
        let next = self.judged(next, context);
        let object = self.store_domain_mapping(next, event_kind(stored.is_some()), context);
        Ok(outcome(&object, change))
    }

    /// Checks a defaulted mapping. It never stands in the way of a Route, not even of one that is yet
    /// to come.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn check_domain_mapping(&self, wanted: &DomainMapping) -> Result<()> {
        let invalid = |invalid: validate::Invalid| Rejection::Invalid(invalid.to_string());
        validate::domain_mapping(wanted).map_err(invalid)?;
        let name = &wanted.metadata.name;
        if self.is_host_of_routes(name) {
            return Err(Rejection::Invalid(format!(
                "invalid name {name:?}: must not be a host of the cluster's routes, \
                 \"NAME.NAMESPACE.{}\": metadata.name",
                self.domain()
            )));
        }
        Ok(())
    }

    pub(crate) fn delete_domain_mapping(
        &mut self,
        delete: &DeleteDomainMapping,
        context: &mut Context,
    ) -> Result {
        let key = &delete.key;
        let stored = self.domains.mapping(key).cloned();
        let stored = stored.ok_or_else(|| Rejection::NotFound(key.clone()))?;
        check_expectation(key, Some(stored.metadata.version()), delete.expect)?;
        self.domains.remove_mapping(key);
        context.row(rows::delete(rows::object_key(tag::DOMAIN_MAPPING, key)));
        context.event(ObjectChange::DomainMapping {
            object: stored.clone(),
            change: EventKind::Deleted,
        });
        self.release_claim_of(&stored, context);
        Ok(outcome(&stored, Change::Deleted))
    }

    pub(crate) fn record_domain_mapping(
        &mut self,
        record: &RecordDomainMapping,
        context: &mut Context,
    ) -> Result {
        self.check_fence(record.fence)?;
        let key = &record.key;
        let stored = self.domains.mapping(key).cloned();
        let stored = stored.ok_or_else(|| Rejection::NotFound(key.clone()))?;
        check_shard(record.fence, shard_of(&stored.route()))?;
        let have = stored.metadata.version();
        if have != record.version {
            let key = key.clone();
            return Err(Rejection::Conflict { key, have });
        }
        let mut next = stored.as_ref().clone();
        conclude(&mut next, &record.assertions, context);
        self.store_domain_mapping(next, EventKind::Modified, context);
        Ok(Outcome::Done)
    }

    /// Says anew of all mappings to a Route what the state says of them: it came, or went.
    pub(super) fn refresh_domains_of(&mut self, route: &ObjectKey, context: &mut Context) {
        let keys: Vec<_> = self.domains.keys_of_route(route).collect();
        for key in keys {
            self.refresh_domain(&key, context);
        }
    }

    pub(super) fn refresh_domain(&mut self, key: &ObjectKey, context: &mut Context) {
        let Some(stored) = self.domains.mapping(key).cloned() else {
            return;
        };
        let next = self.judged(stored.as_ref().clone(), context);
        if next != *stored {
            self.store_domain_mapping(next, EventKind::Modified, context);
        }
    }

    /// The mapping with what follows from the state. A host that begins to be served, or that
    /// begins to mean something else, waits for the gateways anew.
    fn judged(&self, mut mapping: DomainMapping, context: &Context) -> DomainMapping {
        let (claimed, resolved) = (self.claimed(&mapping), self.resolved(&mapping));
        let is_served = [&claimed, &resolved]
            .iter()
            .all(|assertion| assertion.status == ConditionStatus::True);
        let url = self.url_of(&mapping.metadata.name);
        let status = &mut mapping.status;
        status.address.url.clone_from(&url);
        status.url = url;
        let mut assertions = vec![claimed, resolved, Assertion::no_certificate()];
        if !is_served {
            status.assigned_at = 0;
        }
        if status.assigned_at == 0 {
            assertions.push(Assertion::ingress_waits());
        }
        if is_served && status.assigned_at == 0 {
            status.assigned_at = context.index.0;
        }
        conclude(&mut mapping, &assertions, context);
        mapping
    }

    fn claimed(&self, mapping: &DomainMapping) -> Assertion {
        let host = &mapping.metadata.name;
        let text = match self.domains.claim(host) {
            Some(claim) if claim.spec.namespace == mapping.metadata.namespace => {
                return Assertion::truth(types::DOMAIN_CLAIMED);
            }
            Some(_) => "The domain name is already in use by another DomainMapping".to_owned(),
            None => format!("no ClusterDomainClaim found for domain {host:?}"),
        };
        Assertion::falsity(types::DOMAIN_CLAIMED, "DomainAlreadyClaimed", text)
    }

    fn resolved(&self, mapping: &DomainMapping) -> Assertion {
        let route = mapping.route();
        if self.routes.contains_key(&route) {
            return Assertion::truth(types::REFERENCE_RESOLVED);
        }
        let plural = format!("{}s", mapping.spec.reference.kind.to_lowercase());
        let text = format!(
            "failed to get object {route}: {plural}.serving.knative.dev {:?} not found",
            route.name
        );
        Assertion::falsity(types::REFERENCE_RESOLVED, "ResolveFailed", text)
    }

    fn store_domain_mapping(
        &mut self,
        mut mapping: DomainMapping,
        change: EventKind,
        context: &mut Context,
    ) -> Arc<DomainMapping> {
        mapping.metadata.set_version(context.index);
        let (key, object) = (mapping.metadata.key(), Arc::new(mapping));
        let row_key = rows::object_key(tag::DOMAIN_MAPPING, &key);
        context.row(rows::put(row_key, &object));
        context.event(ObjectChange::DomainMapping {
            object: object.clone(),
            change,
        });
        self.domains.put_mapping(&key, object.clone());
        object
    }
}

/// Whether an update would change nothing a user can set.
fn says_the_same(stored: &DomainMapping, wanted: &DomainMapping) -> bool {
    stored.spec == wanted.spec && same_for_the_user(&stored.metadata, &wanted.metadata)
}

/// The wanted mapping with the stored one's counters moved on.
fn next_mapping(
    stored: Option<&DomainMapping>,
    mut next: DomainMapping,
    put: &PutDomainMapping,
    context: &Context,
) -> DomainMapping {
    let modified = stored.is_none_or(|stored| stored.spec != next.spec);
    let known = stored.map(|stored| &stored.metadata);
    stamp_user(&mut next.metadata, known, &put.user, modified);
    next_meta(&mut next.metadata, known, modified, &put.uid, context);
    next.metadata.owner_references.clear();
    next.status = stored.map_or_else(DomainMappingStatus::default, |stored| stored.status.clone());
    if stored.is_none() {
        next.status.made_at = context.index.0;
    }
    if modified {
        next.status.assigned_at = 0;
    }
    next
}

/// What is asserted, and what `Ready` says then.
fn conclude(mapping: &mut DomainMapping, assertions: &[Assertion], context: &Context) {
    let status = &mut mapping.status;
    assert_all(&mut status.conditions, assertions, &context.now);
    let ready = status.conditions.roll_up(&DEPENDENTS);
    status.conditions.set(&ready, &context.now);
    status.observed_generation = mapping.metadata.generation;
}

fn outcome(object: &Arc<DomainMapping>, change: Change) -> Outcome {
    Outcome::DomainMapping {
        domain_mapping: Box::new(object.as_ref().clone()),
        change,
    }
}
