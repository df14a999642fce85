//! The Service actor: rolls the children's conditions up, and moves `latestReady` forward.

use nihilo_machine::Command;
use nihilo_machine::command::{CollectRevisions, Fence, RecordService};
use nihilo_types::condition::{Assertion, ConditionStatus, types};
use nihilo_types::configuration::Configuration;
use nihilo_types::id::ObjectKey;
use nihilo_types::revision::Revision;
use nihilo_types::service::Service;

use crate::effect::{Effect, Outputs};
use crate::event::Event;
use crate::gc;
use crate::reconcile::Proposing;
use crate::table::View;

/// Without a change, revisions are looked at so often.
const GC_PERIOD_MS: u64 = 3_600_000;
const GC: &str = "gc";

#[derive(Debug)]
pub struct ServiceActor {
    key: ObjectKey,
    proposing: Proposing,
}

impl ServiceActor {
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
        if let Some(record) = self.decide(view) {
            self.proposing.begin();
            outputs.effect(Effect::Propose(Box::new(Command::RecordService(record))));
        } else if let Some(collect) = self.collect(view) {
            self.proposing.begin();
            outputs.effect(Effect::Propose(Box::new(collect)));
        } else if self.has_surplus(view) {
            outputs.timer(GC, GC_PERIOD_MS);
        }
        outputs
    }

    /// A timer wakes the actor again: one that has something to collect may sleep meanwhile.
    pub fn may_passivate(&self) -> bool {
        !self.proposing.is_under_way()
    }

    fn collect(&self, view: View<'_>) -> Option<Command> {
        let configuration = view.state.configuration(&self.key)?;
        let revisions = gc::stale(view, &configuration);
        (!revisions.is_empty()).then(|| {
            Command::CollectRevisions(CollectRevisions {
                fence: Fence {
                    shard: view.table.shard,
                    epoch: view.table.epoch,
                },
                key: self.key.clone(),
                revisions,
            })
        })
    }

    /// More revisions than are kept in any case: some may go when they are old enough.
    fn has_surplus(&self, view: View<'_>) -> bool {
        let n = view.state.n_revisions_of(&self.key);
        n > view.settings.gc.min_non_active + 1
    }

    /// The roll-up that the state should hold; `None` when it does.
    fn decide(&self, view: View<'_>) -> Option<RecordService> {
        let service = view.state.service(&self.key)?;
        let configuration = view.state.configuration(&self.key)?;
        let latest_ready = latest_ready(view, &configuration);
        let configuration_says = configuration_ready(view, &configuration, &latest_ready);
        let route_says = routes_ready(view, &service, &latest_ready);
        let service_says = vec![
            renamed(&configuration_says, types::CONFIGURATIONS_READY),
            route_says,
        ];
        let stands = service.status.observed_generation == service.metadata.generation
            && configuration.status.observed_generation == configuration.metadata.generation
            && configuration.status.latest_ready_revision_name == latest_ready
            && configuration
                .status
                .conditions
                .holds(std::slice::from_ref(&configuration_says))
            && service.status.conditions.holds(&service_says)
            && is_current_copy(view, &service);
        if stands {
            return None;
        }
        Some(RecordService {
            fence: Fence {
                shard: view.table.shard,
                epoch: view.table.epoch,
            },
            key: self.key.clone(),
            service_version: service.metadata.version(),
            configuration_version: configuration.metadata.version(),
            latest_ready,
            configuration: vec![configuration_says],
            service: service_says,
        })
    }
}

/// Whether the Service already shows its Route's traffic.
fn is_current_copy(view: View<'_>, service: &Service) -> bool {
    let route = view.state.route(&service.metadata.key());
    route.is_none_or(|route| route.status.traffic == service.status.traffic)
}

fn renamed(assertion: &Assertion, kind: &str) -> Assertion {
    Assertion {
        kind: kind.into(),
        ..assertion.clone()
    }
}

/// The newest Ready revision that is not older than the present one; the current template's own
/// name ranks first (01-objects §4).
fn latest_ready(view: View<'_>, configuration: &Configuration) -> String {
    let key = configuration.metadata.key();
    let is_ready = |revision: &Revision| revision.status.conditions.is_true(types::READY);
    let named = |name: &str| view.state.revision(&key.sibling(name));
    let own = configuration.spec.template.metadata.name.as_str();
    if !own.is_empty() && named(own).is_some_and(|revision| is_ready(&revision)) {
        return own.into();
    }
    let present = &configuration.status.latest_ready_revision_name;
    let floor = named(present).map_or(0, |revision| revision.configuration_generation());
    view.state
        .revisions_of(&key)
        .filter(|revision| is_ready(revision) && revision.configuration_generation() >= floor)
        .max_by_key(|revision| revision.configuration_generation())
        .map_or_else(
            || {
                if floor > 0 {
                    present.clone()
                } else {
                    String::new()
                }
            },
            |revision| revision.metadata.name.clone(),
        )
}

fn configuration_ready(
    view: View<'_>,
    configuration: &Configuration,
    latest_ready: &str,
) -> Assertion {
    let created = &configuration.status.latest_created_revision_name;
    if created == latest_ready {
        return Assertion::truth(types::READY);
    }
    let key = configuration.metadata.key().sibling(created.as_str());
    let Some(revision) = view.state.revision(&key) else {
        let text = format!("Revision {created:?} was deleted.");
        return Assertion::falsity(types::READY, "RevisionDeleted", text);
    };
    match revision.status.conditions.get(types::READY) {
        Some(ready) if ready.status == ConditionStatus::False => {
            let text = format!(
                "Revision {created:?} failed with message: {}.",
                ready.message
            );
            Assertion::falsity(types::READY, "RevisionFailed", text)
        }
        _ => Assertion::unknown(types::READY, "", ""),
    }
}

fn routes_ready(view: View<'_>, service: &Service, latest_ready: &str) -> Assertion {
    let kind = types::ROUTES_READY;
    let Some(route) = view.state.route(&service.metadata.key()) else {
        return Assertion::unknown(kind, "", "");
    };
    if route.status.observed_generation != route.metadata.generation {
        let text = "The Route is still working to reflect the latest desired specification.";
        return Assertion::unknown(kind, "OutOfDate", text);
    }
    let ready = route.status.conditions.get(types::READY);
    let follows_latest = route.spec.traffic.iter().any(|target| target.is_latest());
    let serves_latest = route
        .status
        .traffic
        .iter()
        .any(|target| target.revision_name == latest_ready);
    match ready {
        Some(ready) if ready.status == ConditionStatus::True => {
            if follows_latest && !serves_latest {
                let text = "Traffic is not yet migrated to the latest revision.";
                return Assertion::unknown(kind, "TrafficNotMigrated", text);
            }
            Assertion::truth(kind)
        }
        Some(ready) => Assertion::new(kind, ready.status, &ready.reason, ready.message.clone()),
        None => Assertion::unknown(kind, "", ""),
    }
}
