//! `PutService`, `DeleteService`, `RecordService`: a Service and its children as one transaction.

use std::collections::btree_map::Entry;
use std::sync::Arc;

use nihilo_types::condition::{Assertion, Conditions, types};
use nihilo_types::configuration::{Configuration, ConfigurationStatus};
use nihilo_types::id::ObjectKey;
use nihilo_types::meta::{API_VERSION, ObjectMeta, OwnerReference, keys};
use nihilo_types::names::child_revision;
use nihilo_types::revision::{Revision, RevisionStatus, RoutingState};
use nihilo_types::route::{Route, RouteSpec, RouteStatus};
use nihilo_types::service::{Service, ServiceStatus};
use nihilo_types::shard::shard_of;
use nihilo_types::template::{RevisionSpec, RevisionTemplate};
use nihilo_types::{defaults, validate};

use super::write::{check_expectation, next_meta, same_for_the_user, stamp_user};
use super::{Context, MAX_REVISIONS_PER_SERVICE, MAX_SERVICES, Result, check_shard, event_kind};
use crate::command::{DeleteService, PutService, RecordService, Uids};
use crate::reply::{Change, Outcome, Rejection};
use crate::rows::{self, tag};
use crate::state::{EventKind, ObjectChange, State};

/// What the Service's `Ready` depends on.
pub(super) const SERVICE_DEPENDENTS: [&str; 2] = [types::CONFIGURATIONS_READY, types::ROUTES_READY];

impl State {
    pub(crate) fn put_service(&mut self, put: &PutService, context: &mut Context) -> Result {
        let mut wanted = put.service.clone();
        defaults::service(&mut wanted);
        let key = wanted.metadata.key();
        let stored = self.services.get(&key);
        let have = stored.as_ref().map(|stored| stored.metadata.version());
        check_expectation(&key, have, put.expect)?;
        validate::service(&wanted).map_err(|invalid| Rejection::Invalid(invalid.to_string()))?;
        if let Some(stored) = &stored {
            validate::update(stored, &wanted)
                .map_err(|invalid| Rejection::Invalid(invalid.to_string()))?;
        } else if self.services.len() >= MAX_SERVICES {
            return Err(Rejection::LimitReached(format!(
                "at most {MAX_SERVICES} services"
            )));
        }
        if stored
            .as_deref()
            .is_some_and(|stored| says_the_same(stored, &wanted))
        {
            let service = Box::new(stored.as_deref().cloned().unwrap_or_default());
            return Ok(Outcome::Service {
                service,
                change: Change::Unchanged,
            });
        }
        if stored
            .as_deref()
            .is_none_or(|stored| stored.spec.template != wanted.spec.template)
        {
            let pinned = self.pinned(&key, &wanted.spec.template.spec)?;
            self.check_new_revision(&key, &wanted, &pinned)?;
        }

        let service = next_service(stored.as_deref(), &wanted, put, context);
        let change = if stored.is_some() {
            Change::Updated
        } else {
            Change::Created
        };
        let configuration = self.next_configuration(&key, &service, &put.uids, context);
        self.put_route(&key, &service, &put.uids, context);
        let template_changed =
            stored.is_none_or(|stored| stored.spec.template != service.spec.template);
        let revision = match template_changed {
            true => self.make_revision(&service, &configuration, &put.uids, context),
            false => configuration.status.latest_created_revision_name.clone(),
        };
        self.store_configuration(&key, configuration, &revision, context);
        let service = self.store_service(&key, service, &revision, context);
        self.refresh_domains_of(&key, context);
        Ok(Outcome::Service {
            service: Box::new(service),
            change,
        })
    }

    /// The name that the template's revision will have must be new, or name a revision of ours
    /// with the same spec: a generated one may meet another's own name.
    fn check_new_revision(
        &self,
        key: &ObjectKey,
        wanted: &Service,
        pinned: &RevisionSpec,
    ) -> Result<()> {
        let configuration = self.configurations.get(key);
        let generation = configuration.map_or(1, |stored| {
            let modified = stored.spec != wanted.spec.configuration_spec();
            stored.metadata.generation + u64::from(modified)
        });
        let name = revision_name(&key.name, generation, &wanted.spec.template);
        let taken = self.revisions.get(&key.sibling(name.as_str()));
        if taken
            .as_ref()
            .is_some_and(|taken| taken.root() != *key || taken.spec != *pinned)
        {
            return Err(Rejection::RevisionNameTaken(name));
        }
        let n_revisions = self.n_revisions_of(key);
        if taken.is_none() && n_revisions >= MAX_REVISIONS_PER_SERVICE {
            let text = format!("at most {MAX_REVISIONS_PER_SERVICE} revisions of a service");
            return Err(Rejection::LimitReached(text));
        }
        Ok(())
    }

    fn next_configuration(
        &self,
        key: &ObjectKey,
        service: &Service,
        uids: &Uids,
        context: &Context,
    ) -> Configuration {
        let spec = service.spec.configuration_spec();
        let mut configuration = match self.configurations.get(key) {
            Some(stored) => {
                let mut next = stored.as_ref().clone();
                next.metadata.generation += u64::from(next.spec != spec);
                next
            }
            None => Configuration {
                api_version: API_VERSION.into(),
                kind: "Configuration".into(),
                metadata: child_meta(service, &uids.configuration, context),
                status: ConfigurationStatus::default(),
                ..Configuration::default()
            },
        };
        configuration.spec = spec;
        inherit(&mut configuration.metadata, service);
        configuration
    }

    fn put_route(
        &mut self,
        key: &ObjectKey,
        service: &Service,
        uids: &Uids,
        context: &mut Context,
    ) {
        let spec = RouteSpec {
            traffic: service.spec.traffic.clone(),
        };
        let stored = self.routes.get(key);
        let existed = stored.is_some();
        let mut route = match stored {
            Some(stored) => {
                let mut next = stored.as_ref().clone();
                next.metadata.generation += u64::from(next.spec != spec);
                next
            }
            None => Route {
                api_version: API_VERSION.into(),
                kind: "Route".into(),
                metadata: child_meta(service, &uids.route, context),
                status: RouteStatus::default(),
                ..Route::default()
            },
        };
        route.spec = spec;
        inherit(&mut route.metadata, service);
        route.status.url = self.url_of(&self.host_of(key, None));
        route.status.address.url =
            format!("http://{}.{}.svc.cluster.local", key.name, key.namespace);
        self.store_route(key, route, event_kind(existed), context);
    }

    /// Creates the template's revision, or finds the own-named one; returns its name.
    fn make_revision(
        &mut self,
        service: &Service,
        configuration: &Configuration,
        uids: &Uids,
        context: &mut Context,
    ) -> String {
        let generation = configuration.metadata.generation;
        let name = revision_name(
            &configuration.metadata.name,
            generation,
            &configuration.spec.template,
        );
        let root = service.metadata.key();
        let key = root.sibling(name.as_str());
        let (mut revision, existed) = match self.revisions.get(&key) {
            Some(stored) => (stored.as_ref().clone(), true),
            None => {
                let mut made = new_revision(service, configuration, &name, uids, context);
                // Nothing has changed since it was checked.
                if let Ok(pinned) = self.pinned(&root, &made.spec) {
                    made.spec = pinned;
                }
                (made, false)
            }
        };
        let labels = &mut revision.metadata.labels;
        labels.insert(
            keys::CONFIGURATION_GENERATION.into(),
            generation.to_string(),
        );
        self.revisions_of.insert(&root, &key.name);
        self.store_revision(&key, revision, event_kind(existed), context);
        name
    }

    fn store_configuration(
        &mut self,
        key: &ObjectKey,
        mut configuration: Configuration,
        latest_created: &str,
        context: &mut Context,
    ) {
        let existed = self.configurations.contains_key(key);
        configuration.status.latest_created_revision_name = latest_created.into();
        configuration.metadata.set_version(context.index);
        let object = Arc::new(configuration);
        context.row(self.configurations.put(key, object.clone()));
        let change = event_kind(existed);
        context.event(ObjectChange::Configuration { object, change });
    }

    fn store_service(
        &mut self,
        key: &ObjectKey,
        mut service: Service,
        latest_created: &str,
        context: &mut Context,
    ) -> Service {
        let existed = self.services.contains_key(key);
        service.status.latest_created_revision_name = latest_created.into();
        if let Some(route) = self.routes.get(key) {
            service.status.url = route.status.url.clone();
            service.status.address = route.status.address.clone();
            service.status.traffic = route.status.traffic.clone();
        }
        service.metadata.set_version(context.index);
        let object = Arc::new(service);
        context.row(self.services.put(key, object.clone()));
        let change = event_kind(existed);
        context.event(ObjectChange::Service {
            object: object.clone(),
            change,
        });
        self.services_in
            .entry(shard_of(key))
            .or_default()
            .insert(key.clone());
        object.as_ref().clone()
    }

    pub(crate) fn delete_service(
        &mut self,
        delete: &DeleteService,
        context: &mut Context,
    ) -> Result {
        let key = &delete.key;
        let Some(stored) = self.services.get(key) else {
            return Err(Rejection::NotFound(key.clone()));
        };
        check_expectation(key, Some(stored.metadata.version()), delete.expect)?;
        for revision in self.revisions_of.remove_all(key) {
            self.remove_revision(&revision, context);
        }
        if let Some(object) = self.routes.remove(key) {
            context.row(rows::delete(rows::object_key(tag::ROUTE, key)));
            context.event(ObjectChange::Route {
                object,
                change: EventKind::Deleted,
            });
        }
        if let Some(object) = self.configurations.remove(key) {
            context.row(rows::delete(rows::object_key(tag::CONFIGURATION, key)));
            context.event(ObjectChange::Configuration {
                object,
                change: EventKind::Deleted,
            });
        }
        if let Entry::Occupied(mut members) = self.services_in.entry(shard_of(key)) {
            members.get_mut().remove(key);
            if members.get().is_empty() {
                members.remove();
            }
        }
        self.services.remove(key);
        context.row(rows::delete(rows::object_key(tag::SERVICE, key)));
        let object = stored.clone();
        context.event(ObjectChange::Service {
            object,
            change: EventKind::Deleted,
        });
        self.refresh_domains_of(key, context);
        let service = Box::new(stored.as_ref().clone());
        Ok(Outcome::Service {
            service,
            change: Change::Deleted,
        })
    }

    pub(crate) fn record_service(
        &mut self,
        record: &RecordService,
        context: &mut Context,
    ) -> Result {
        self.check_fence(record.fence)?;
        check_shard(record.fence, shard_of(&record.key))?;
        let key = &record.key;
        let not_found = || Rejection::NotFound(key.clone());
        let mut service = self
            .services
            .get(key)
            .ok_or_else(not_found)?
            .as_ref()
            .clone();
        let mut configuration = self
            .configurations
            .get(key)
            .ok_or_else(not_found)?
            .as_ref()
            .clone();
        for (have, decided_on) in [
            (service.metadata.version(), record.service_version),
            (
                configuration.metadata.version(),
                record.configuration_version,
            ),
        ] {
            if have != decided_on {
                return Err(Rejection::Conflict {
                    key: key.clone(),
                    have,
                });
            }
        }
        let created = configuration.status.latest_created_revision_name.clone();
        configuration.status.latest_ready_revision_name = record.latest_ready.clone();
        configuration.status.observed_generation = configuration.metadata.generation;
        assert_all(
            &mut configuration.status.conditions,
            &record.configuration,
            &context.now,
        );
        service.status.latest_ready_revision_name = record.latest_ready.clone();
        service.status.observed_generation = service.metadata.generation;
        assert_all(
            &mut service.status.conditions,
            &record.service,
            &context.now,
        );
        let ready = service.status.conditions.roll_up(&SERVICE_DEPENDENTS);
        service.status.conditions.set(&ready, &context.now);
        self.store_configuration(key, configuration, &created, context);
        self.store_service(key, service, &created, context);
        Ok(Outcome::Done)
    }
}

/// The template's own name, or the one generated for this generation.
fn revision_name(configuration: &str, generation: u64, template: &RevisionTemplate) -> String {
    match template.metadata.name.as_str() {
        "" => child_revision(configuration, generation),
        own => own.to_owned(),
    }
}

pub(super) fn assert_all(conditions: &mut Conditions, assertions: &[Assertion], now: &str) {
    for assertion in assertions {
        conditions.set(assertion, now);
    }
}

/// Whether an update would change nothing a user can set.
fn says_the_same(stored: &Service, wanted: &Service) -> bool {
    stored.spec == wanted.spec && same_for_the_user(&stored.metadata, &wanted.metadata)
}

/// The stored Service with the wanted spec, labels and annotations, its counters moved on.
fn next_service(
    stored: Option<&Service>,
    wanted: &Service,
    put: &PutService,
    context: &Context,
) -> Service {
    let mut service = wanted.clone();
    let modified = stored.is_none_or(|stored| stored.spec != wanted.spec);
    let known = stored.map(|stored| &stored.metadata);
    stamp_user(&mut service.metadata, known, &put.user, modified);
    let uid = &put.uids.service;
    next_meta(&mut service.metadata, known, modified, uid, context);
    match stored {
        Some(stored) => service.status = stored.status.clone(),
        None => {
            service.status = ServiceStatus::default();
            for kind in [
                types::READY,
                types::CONFIGURATIONS_READY,
                types::ROUTES_READY,
            ] {
                service
                    .status
                    .conditions
                    .set(&Assertion::unknown(kind, "", ""), &context.now);
            }
        }
    }
    service
}

fn child_meta(service: &Service, uid: &str, context: &Context) -> ObjectMeta {
    ObjectMeta {
        name: service.metadata.name.clone(),
        namespace: service.metadata.namespace.clone(),
        uid: uid.into(),
        generation: 1,
        creation_timestamp: context.now.clone(),
        owner_references: vec![owner("Service", &service.metadata)],
        ..ObjectMeta::default()
    }
}

/// Resets a child's labels and annotations to the Service's, plus the system's.
fn inherit(child: &mut ObjectMeta, service: &Service) {
    child.labels = service.metadata.labels.clone();
    child
        .labels
        .insert(keys::SERVICE.into(), service.metadata.name.clone());
    child
        .labels
        .insert(keys::SERVICE_UID.into(), service.metadata.uid.clone());
    child.annotations = service.metadata.annotations.clone();
}

fn owner(kind: &str, meta: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: API_VERSION.into(),
        kind: kind.into(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        controller: true,
        block_owner_deletion: true,
    }
}

fn new_revision(
    service: &Service,
    configuration: &Configuration,
    name: &str,
    uids: &Uids,
    context: &Context,
) -> Revision {
    let template = &configuration.spec.template;
    let mut labels = template.metadata.labels.clone();
    for (key, value) in [
        (keys::SERVICE, service.metadata.name.as_str()),
        (keys::SERVICE_UID, &service.metadata.uid),
        (keys::CONFIGURATION, &configuration.metadata.name),
        (keys::CONFIGURATION_UID, &configuration.metadata.uid),
        (keys::ROUTING_STATE, RoutingState::Pending.as_str()),
    ] {
        labels.insert(key.into(), value.into());
    }
    let mut conditions = Conditions::default();
    for kind in [
        types::RESOURCES_AVAILABLE,
        types::CONTAINER_HEALTHY,
        types::READY,
    ] {
        conditions.set(&Assertion::unknown(kind, "Deploying", ""), &context.now);
    }
    Revision {
        api_version: API_VERSION.into(),
        kind: "Revision".into(),
        metadata: ObjectMeta {
            name: name.into(),
            namespace: service.metadata.namespace.clone(),
            uid: uids.revision.clone(),
            generation: 1,
            creation_timestamp: context.now.clone(),
            labels,
            annotations: template.metadata.annotations.clone(),
            owner_references: vec![owner("Configuration", &configuration.metadata)],
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: RevisionStatus {
            conditions,
            ..RevisionStatus::default()
        },
    }
}
