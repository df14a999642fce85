//! `PutDomainClaim`, `DeleteDomainClaim`: which namespace a host is for. Where the cluster claims
//! by itself, a host goes to the mapping that has waited longest.

use std::collections::BTreeMap;
use std::sync::Arc;

use nihilo_types::domain::{ClusterDomainClaim, DomainMapping};
use nihilo_types::id::ObjectKey;
use nihilo_types::validate;

use super::write::{check_expectation, next_meta, same_for_the_user};
use super::{Context, Result, event_kind};
use crate::command::{DeleteDomainClaim, PutDomainClaim};
use crate::reply::{Change, Outcome, Rejection};
use crate::rows::{self, tag};
use crate::state::{EventKind, ObjectChange, State};

/// ClusterDomainClaims, at most.
const MAX_DOMAIN_CLAIMS: usize = 20_000;

impl State {
    pub(crate) fn put_domain_claim(
        &mut self,
        put: &PutDomainClaim,
        context: &mut Context,
    ) -> Result {
        let mut wanted = put.claim.clone();
        wanted.default_fields();
        // Somebody asks for it: it stays when a mapping goes.
        wanted.metadata.owner_references.clear();
        let key = wanted.metadata.key();
        let stored = self.domains.claim(&key.name).cloned();
        let have = stored.as_ref().map(|stored| stored.metadata.version());
        check_expectation(&key, have, put.expect)?;
        validate::domain_claim(&wanted)
            .map_err(|invalid| Rejection::Invalid(invalid.to_string()))?;
        let change = match &stored {
            Some(stored) => {
                check_immutable(stored, &wanted)?;
                if says_the_same(stored, &wanted) {
                    return Ok(outcome(stored, Change::Unchanged));
                }
                Change::Updated
            }
            None if self.domains.claims().count() >= MAX_DOMAIN_CLAIMS => {
                let text = format!("at most {MAX_DOMAIN_CLAIMS} domain claims");
                return Err(Rejection::LimitReached(text));
            }
            None => Change::Created,
        };
        let known = stored.as_ref().map(|stored| &stored.metadata);
        next_meta(&mut wanted.metadata, known, false, &put.uid, context);
        let object = self.store_domain_claim(wanted, context);
        self.settle_claims(|host| *host == *key.name, context);
        Ok(outcome(&object, change))
    }

    pub(crate) fn delete_domain_claim(
        &mut self,
        delete: &DeleteDomainClaim,
        context: &mut Context,
    ) -> Result {
        let host = delete.host.as_str();
        let key = ObjectKey::new("", host);
        let stored = self.domains.claim(host).cloned();
        let stored = stored.ok_or_else(|| Rejection::NotFound(key.clone()))?;
        check_expectation(&key, Some(stored.metadata.version()), delete.expect)?;
        self.remove_domain_claim(host, context);
        Ok(outcome(&stored, Change::Deleted))
    }

    /// Claims the host of a mapping that nobody has claimed, where the cluster does that by itself.
    pub(super) fn claim_for(&mut self, mapping: &DomainMapping, context: &mut Context) {
        let is_free = self.domains.claim(&mapping.metadata.name).is_none();
        if is_free && self.settings.network.autocreate_domain_claims {
            let mut claim = ClusterDomainClaim::made_for(mapping);
            // Ids are drawn by proposers, and nobody has proposed this one: it has none.
            next_meta(&mut claim.metadata, None, false, "", context);
            self.store_domain_claim(claim, context);
        }
    }

    /// The claim that was made for a mapping goes with it.
    pub(super) fn release_claim_of(&mut self, mapping: &DomainMapping, context: &mut Context) {
        let host = &mapping.metadata.name;
        let claim = self.domains.claim(host);
        if claim.is_some_and(|claim| claim.is_made_for(mapping)) {
            self.remove_domain_claim(host, context);
        }
    }

    /// Gives hosts without a claim to the oldest mapping of each, where the cluster does that by
    /// itself; then says anew whose they are.
    pub(super) fn settle_claims(&mut self, is_meant: impl Fn(&str) -> bool, context: &mut Context) {
        let mut oldest: BTreeMap<String, Arc<DomainMapping>> = BTreeMap::new();
        let mut keys = Vec::new();
        let meant = |key: &ObjectKey| is_meant(&key.name);
        for (key, mapping) in self.domains.mappings().filter(|(key, _)| meant(key)) {
            keys.push(key.clone());
            let first = oldest
                .entry(mapping.metadata.name.clone())
                .or_insert_with(|| mapping.clone());
            if mapping.status.made_at < first.status.made_at {
                *first = mapping.clone();
            }
        }
        for mapping in oldest.values() {
            self.claim_for(mapping, context);
        }
        for key in keys {
            self.refresh_domain(&key, context);
        }
    }

    fn remove_domain_claim(&mut self, host: &str, context: &mut Context) {
        let Some(object) = self.domains.remove_claim(host) else {
            return;
        };
        context.row(rows::delete(rows::key(tag::DOMAIN_CLAIM, &[host])));
        context.event(ObjectChange::DomainClaim {
            object,
            change: EventKind::Deleted,
        });
        self.settle_claims(|other| other == host, context);
    }

    fn store_domain_claim(
        &mut self,
        mut claim: ClusterDomainClaim,
        context: &mut Context,
    ) -> Arc<ClusterDomainClaim> {
        claim.metadata.set_version(context.index);
        let object = Arc::new(claim);
        let host = &object.metadata.name;
        let change = event_kind(self.domains.claim(host).is_some());
        context.row(rows::put(rows::key(tag::DOMAIN_CLAIM, &[host]), &object));
        context.event(ObjectChange::DomainClaim {
            object: object.clone(),
            change,
        });
        self.domains.put_claim(object.clone());
        object
    }
}

/// A host changes hands by its claim's end, not by an edit.
fn check_immutable(stored: &ClusterDomainClaim, wanted: &ClusterDomainClaim) -> Result<()> {
    let (old, new) = (&stored.spec.namespace, &wanted.spec.namespace);
    if old == new {
        return Ok(());
    }
    Err(Rejection::Invalid(format!(
        "Immutable fields changed (-old +new): spec.namespace\n-{old:?}\n+{new:?}"
    )))
}

fn says_the_same(stored: &ClusterDomainClaim, wanted: &ClusterDomainClaim) -> bool {
    stored.metadata.owner_references == wanted.metadata.owner_references
        && same_for_the_user(&stored.metadata, &wanted.metadata)
}

fn outcome(object: &Arc<ClusterDomainClaim>, change: Change) -> Outcome {
    Outcome::DomainClaim {
        claim: Box::new(object.as_ref().clone()),
        change,
    }
}
