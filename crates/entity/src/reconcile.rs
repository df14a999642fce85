//! The actors as one type, and who looks at what.

use std::collections::BTreeSet;

use nihilo_machine::State;
use nihilo_machine::state::ObjectChange;
use nihilo_types::id::{LogIndex, ObjectKey, ShardId};

use crate::autoscaler::AutoscalerActor;
use crate::effect::Outputs;
use crate::event::{Event, ProposalOutcome};
use crate::key::EntityKey;
use crate::revision::RevisionActor;
use crate::route::RouteActor;
use crate::service::ServiceActor;
use crate::table::View;

/// A proposal that may have been refused by a passing trouble is tried again after this.
const RETRY_MS: u64 = 100;
const RETRY: &str = "retry";

/// One proposal at a time: the next decision is made on a state that shows the last one.
#[derive(Debug, Default)]
pub(crate) struct Proposing(bool);

impl Proposing {
    pub(crate) fn begin(&mut self) {
        self.0 = true;
    }

    pub(crate) fn is_under_way(&self) -> bool {
        self.0
    }

    /// Takes the event in; `false` while an answer is waited for, or a pause is due.
    pub(crate) fn may_go_on(&mut self, event: &Event, outputs: &mut Outputs) -> bool {
        if let Event::Proposed { outcome } = event {
            self.0 = false;
            if *outcome == ProposalOutcome::NotApplied {
                outputs.timer(RETRY, RETRY_MS);
                return false;
            }
        }
        !self.0
    }
}

#[derive(Debug)]
pub enum AnyActor {
    Service(ServiceActor),
    Route(RouteActor),
    Revision(Box<RevisionActor>),
    Autoscaler(Box<AutoscalerActor>),
}

impl AnyActor {
    pub fn load(key: &EntityKey, view: View<'_>, now_ms: u64) -> Self {
        match key {
            EntityKey::Service(key) => AnyActor::Service(ServiceActor::load(key)),
            EntityKey::Route(key) => AnyActor::Route(RouteActor::load(key)),
            EntityKey::Revision(key) => {
                AnyActor::Revision(Box::new(RevisionActor::load(key, view)))
            }
            EntityKey::Autoscaler(key) => {
                AnyActor::Autoscaler(Box::new(AutoscalerActor::load(key, view, now_ms)))
            }
        }
    }

    pub fn turn(&mut self, view: View<'_>, event: &Event, now_ms: u64) -> Outputs {
        match self {
            AnyActor::Service(actor) => actor.turn(view, event),
            AnyActor::Route(actor) => actor.turn(view, event),
            AnyActor::Revision(actor) => actor.turn(view, event, now_ms),
            AnyActor::Autoscaler(actor) => actor.turn(view, event, now_ms),
        }
    }

    pub fn may_passivate(&self, view: View<'_>) -> bool {
        match self {
            AnyActor::Service(actor) => actor.may_passivate(),
            AnyActor::Route(actor) => actor.may_passivate(view),
            AnyActor::Revision(actor) => actor.may_passivate(view),
            AnyActor::Autoscaler(actor) => actor.may_passivate(view),
        }
    }
}

/// The actors that must look again after a change.
pub fn interested(change: &ObjectChange) -> Vec<EntityKey> {
    match change {
        ObjectChange::Service { object, .. } => {
            vec![EntityKey::Service(object.metadata.key())]
        }
        ObjectChange::Configuration { object, .. } => {
            let key = object.metadata.key();
            vec![EntityKey::Service(key.clone()), EntityKey::Route(key)]
        }
        ObjectChange::Route { object, .. } => {
            let key = object.metadata.key();
            vec![EntityKey::Route(key.clone()), EntityKey::Service(key)]
        }
        ObjectChange::Revision { object, .. } => {
            let (key, root) = (object.metadata.key(), object.root());
            vec![
                EntityKey::Autoscaler(key.clone()),
                EntityKey::Revision(key),
                EntityKey::Service(root.clone()),
                EntityKey::Route(root),
            ]
        }
        ObjectChange::DomainMapping { object, .. } => vec![EntityKey::Route(object.route())],
        ObjectChange::Scale { .. }
        | ObjectChange::ConfigMap { .. }
        | ObjectChange::Secret { .. }
        | ObjectChange::DomainClaim { .. } => Vec::new(),
    }
}

/// The Routes of a shard that may become Ready, or have an own domain that may, now that every live
/// gateway serves a table at or above `table`.
pub fn waiting_for_gateways(state: &State, shard: ShardId, table: LogIndex) -> Vec<EntityKey> {
    let unready = state.routes_awaited_in(shard);
    let unready = unready.filter(|(_, route)| route.assigned_at <= table.0);
    let of_domains = state.domain_mappings_awaited_in(shard);
    let routes = unready
        .map(|(key, _)| key.clone())
        .chain(of_domains.map(|mapping| mapping.route()));
    routes.map(EntityKey::Route).collect()
}

/// The actors that a newly opened shard wakes: those with work, and no others.
pub fn hot_entities(view: View<'_>) -> Vec<EntityKey> {
    let mut hot = BTreeSet::new();
    for row in view.table.instances.values() {
        wake_revision(&mut hot, &row.revision);
    }
    let awaited = view.state.domain_mappings_awaited_in(view.table.shard);
    hot.extend(awaited.map(|mapping| EntityKey::Route(mapping.route())));
    for key in view.state.services_in(view.table.shard) {
        let facts = view.state.service_facts(key);
        if facts.is_some_and(|service| !service.is_settled) {
            hot.insert(EntityKey::Service(key.clone()));
            hot.insert(EntityKey::Route(key.clone()));
        }
        for key in view.state.revision_keys_of(key) {
            let Some(revision) = view.state.revision_facts(&key) else {
                continue;
            };
            let scale = view.state.scale(&key);
            let has_minimum = view.settings.scale.min_scale > 0 || revision.has_minimum;
            let settled = revision.is_observed && scale.initialized;
            if scale.desired > 0 || has_minimum || !settled {
                wake_revision(&mut hot, &key);
            }
        }
    }
    hot.into_iter().collect()
}

fn wake_revision(hot: &mut BTreeSet<EntityKey>, key: &ObjectKey) {
    hot.insert(EntityKey::Autoscaler(key.clone()));
    hot.insert(EntityKey::Revision(key.clone()));
}
