//! The Route actor: resolves the wanted traffic to revisions, assigns it in one entry, and is
//! Ready once every live gateway serves a table that holds it.

use nihilo_machine::Command;
use nihilo_machine::command::{AssignTraffic, Fence, RecordRoute};
use nihilo_types::condition::{Assertion, ConditionStatus, types};
use nihilo_types::id::ObjectKey;
use nihilo_types::revision::Revision;
use nihilo_types::route::{Route, TrafficTarget};

use crate::effect::{Effect, Outputs};
use crate::event::Event;
use crate::reconcile::Proposing;
use crate::table::View;

#[derive(Debug)]
pub struct RouteActor {
    key: ObjectKey,
    proposing: Proposing,
}

impl RouteActor {
    pub fn load(key: &ObjectKey) -> Self {
        Self {
            key: key.clone(),
            proposing: Proposing::default(),
        }
    }

    pub fn turn(&mut self, view: View<'_>, event: &Event) -> Outputs {
        let mut outputs = Outputs::default();
        if !self.proposing.may_go_on(event, &mut outputs) {
            return outputs;
        }
        if let Some(command) = self.decide(view) {
            self.proposing.begin();
            outputs.effect(Effect::Propose(Box::new(command)));
        }
        outputs
    }

    pub fn may_passivate(&self, view: View<'_>) -> bool {
        let ready = view
            .state
            .route(&self.key)
            .is_none_or(|route| route.status.conditions.is_true(types::READY));
        ready && !self.proposing.is_under_way()
    }

    fn decide(&self, view: View<'_>) -> Option<Command> {
        let route = view.state.route(&self.key)?;
        let fence = Fence {
            shard: view.table.shard,
            epoch: view.table.epoch,
        };
        let (key, version) = (self.key.clone(), route.metadata.version());
        match resolve(view, route) {
            Ok(traffic) if !same_traffic(&traffic, &route.status.traffic) => {
                let assertions = vec![
                    Assertion::truth(types::ALL_TRAFFIC_ASSIGNED),
                    ingress_waits(),
                    no_certificate(),
                ];
                let assign = AssignTraffic {
                    fence,
                    key,
                    version,
                    traffic,
                    assertions,
                };
                Some(Command::AssignTraffic(assign))
            }
            Ok(_) => {
                let ingress = match view.table.acknowledged.0 >= route.status.assigned_at {
                    true => Assertion::truth(types::INGRESS_READY),
                    // A new owner has heard of no gateway yet: what was ready stays ready.
                    false if route.status.conditions.is_true(types::INGRESS_READY) => {
                        Assertion::truth(types::INGRESS_READY)
                    }
                    false => ingress_waits(),
                };
                let all = Assertion::truth(types::ALL_TRAFFIC_ASSIGNED);
                self.record(route, fence, vec![all, ingress, no_certificate()])
            }
            // The previous table goes on being served.
            Err(problem) => self.record(route, fence, vec![problem]),
        }
    }

    fn record(&self, route: &Route, fence: Fence, assertions: Vec<Assertion>) -> Option<Command> {
        let observed = route.status.observed_generation == route.metadata.generation;
        if observed && route.status.conditions.holds(&assertions) {
            return None;
        }
        Some(Command::RecordRoute(RecordRoute {
            fence,
            key: self.key.clone(),
            version: route.metadata.version(),
            assertions,
        }))
    }
}

fn ingress_waits() -> Assertion {
    let text = "Ingress has not yet been reconciled.";
    Assertion::unknown(types::INGRESS_READY, "IngressNotConfigured", text)
}

fn no_certificate() -> Assertion {
    let text = "external-domain-tls is not enabled";
    let kind = types::CERTIFICATE_PROVISIONED;
    Assertion::new(kind, ConditionStatus::True, "TLSNotEnabled", text)
}

/// URLs are output only, so they do not count.
fn same_traffic(wanted: &[TrafficTarget], have: &[TrafficTarget]) -> bool {
    wanted.len() == have.len()
        && wanted.iter().zip(have).all(|(a, b)| {
            (&a.tag, &a.revision_name, a.latest_revision, a.share())
                == (&b.tag, &b.revision_name, b.latest_revision, b.share())
        })
}

/// Resolves every entry to a revision, adding up equal ones; the first that cannot be resolved
/// decides, failures before not-yets.
fn resolve(view: View<'_>, route: &Route) -> Result<Vec<TrafficTarget>, Assertion> {
    let key = route.metadata.key();
    let resolved: Vec<_> = route
        .spec
        .traffic
        .iter()
        .map(|target| resolve_one(view, &key, target))
        .collect();
    let mut problems: Vec<_> = resolved.iter().filter_map(|r| r.as_ref().err()).collect();
    problems.sort_by_key(|problem| problem.status != ConditionStatus::False);
    if let Some(problem) = problems.first() {
        return Err((*problem).clone());
    }
    let mut merged: Vec<TrafficTarget> = Vec::new();
    for target in resolved.into_iter().flatten() {
        let same = |have: &&mut TrafficTarget| {
            (&have.tag, &have.revision_name, have.latest_revision)
                == (&target.tag, &target.revision_name, target.latest_revision)
        };
        match merged.iter_mut().find(same) {
            Some(have) => have.percent = Some(have.share() + target.share()),
            None => merged.push(target),
        }
    }
    Ok(merged)
}

fn resolve_one(
    view: View<'_>,
    key: &ObjectKey,
    target: &TrafficTarget,
) -> Result<TrafficTarget, Assertion> {
    let kind = types::ALL_TRAFFIC_ASSIGNED;
    let name = match target.is_latest() {
        true => latest(view, key)?,
        false => target.revision_name.clone(),
    };
    let Some(revision) = view.state.revision(&key.sibling(name.as_str())) else {
        let text = format!("Revision {name:?} referenced in traffic not found.");
        return Err(Assertion::falsity(kind, "RevisionMissing", text));
    };
    if revision.root() != *key {
        let text = format!(
            "Revision {name:?} does not belong to Service {:?}.",
            key.name
        );
        return Err(Assertion::falsity(kind, "RevisionNotOwned", text));
    }
    if !target.is_latest() && !is_ready(revision) {
        return Err(not_ready(revision));
    }
    Ok(TrafficTarget {
        tag: target.tag.clone(),
        revision_name: name,
        latest_revision: Some(target.is_latest()),
        percent: Some(target.share()),
        ..TrafficTarget::default()
    })
}

fn latest(view: View<'_>, key: &ObjectKey) -> Result<String, Assertion> {
    let kind = types::ALL_TRAFFIC_ASSIGNED;
    let Some(configuration) = view.state.configuration(key) else {
        let text = format!(
            "Configuration {:?} referenced in traffic not found.",
            key.name
        );
        return Err(Assertion::falsity(kind, "ConfigurationMissing", text));
    };
    let ready = &configuration.status.latest_ready_revision_name;
    if !ready.is_empty() {
        return Ok(ready.clone());
    }
    if configuration.status.conditions.is_false(types::READY) {
        let text = format!(
            "Configuration {:?} does not have any ready Revision.",
            key.name
        );
        return Err(Assertion::falsity(kind, "RevisionMissing", text));
    }
    let text = format!(
        "Configuration {:?} is waiting for a Revision to become ready.",
        key.name
    );
    Err(Assertion::unknown(kind, "RevisionMissing", text))
}

fn is_ready(revision: &Revision) -> bool {
    revision.status.conditions.is_true(types::READY)
}

fn not_ready(revision: &Revision) -> Assertion {
    let (kind, name) = (types::ALL_TRAFFIC_ASSIGNED, &revision.metadata.name);
    if revision.status.conditions.is_false(types::READY) {
        let text = format!("Revision {name:?} failed to become ready.");
        return Assertion::falsity(kind, "RevisionMissing", text);
    }
    Assertion::unknown(
        kind,
        "RevisionMissing",
        format!("Revision {name:?} is not yet ready."),
    )
}
