//! The Route actor: resolves the wanted traffic to revisions, assigns it in one entry, and is
//! Ready once every live gateway serves a table that holds it. Its own domains likewise.

use nihilo_machine::Command;
use nihilo_machine::command::{AdvanceRollout, AssignTraffic, Fence, RecordRoute};
use nihilo_machine::rollout::{self, Goal};
use nihilo_types::condition::{Assertion, ConditionStatus, types};
use nihilo_types::id::ObjectKey;
use nihilo_types::meta::keys;
use nihilo_types::revision::Revision;
use nihilo_types::rollout::{RevisionShare, Rollout};
use nihilo_types::route::{Route, TrafficTarget};
use nihilo_types::time::parse_go_duration_ms;

use crate::domain;
use crate::effect::{Effect, Outputs};
use crate::event::Event;
use crate::reconcile::Proposing;
use crate::table::View;

const NS_PER_MS: u64 = 1_000_000;
/// The next step of a rollout.
const ROLLOUT: &str = "rollout";

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
        let is_due = *event == Event::Timer { name: ROLLOUT };
        if !self.proposing.may_go_on(event, &mut outputs) {
            return outputs;
        }
        let command = self
            .decide(view)
            .or_else(|| self.advance(view, is_due))
            .or_else(|| domain::served(view, &self.key));
        if let Some(command) = command {
            self.proposing.begin();
            outputs.effect(Effect::Propose(Box::new(command)));
        } else if let Some(wait_ms) = self.next_step_in_ms(view) {
            outputs.timer(ROLLOUT, wait_ms);
        }
        outputs
    }

    pub fn may_passivate(&self, view: View<'_>) -> bool {
        let settled = view.state.route(&self.key).is_none_or(|route| {
            route.status.conditions.is_true(types::READY) && route.status.rollouts.is_empty()
        });
        settled && !domain::is_waiting(view, &self.key) && !self.proposing.is_under_way()
    }

    /// Moves rollouts on that every live gateway serves: plans their steps first, then takes
    /// them. The state machine looks at the clock.
    fn advance(&self, view: View<'_>, is_due: bool) -> Option<Command> {
        let route = view.state.route(&self.key)?;
        if !is_served(view, &route) {
            return None;
        }
        let unplanned = route.status.rollouts.iter().any(|at| at.step_size == 0);
        let has_step = is_due && !route.status.rollouts.is_empty();
        if !unplanned && !has_step {
            return None;
        }
        Some(Command::AdvanceRollout(AdvanceRollout {
            fence: Fence {
                shard: view.table.shard,
                epoch: view.table.epoch,
            },
            key: self.key.clone(),
            version: route.metadata.version(),
            plan_for_s: unplanned.then(|| rollout_duration_s(view, &route)),
        }))
    }

    /// From the last entry's time: late by what has passed since, never early.
    fn next_step_in_ms(&self, view: View<'_>) -> Option<u64> {
        let route = view.state.route(&self.key)?;
        let planned = route.status.rollouts.iter().filter(|at| at.step_size > 0);
        let next_ms = planned
            .map(|at| at.next_step_ns.div_ceil(NS_PER_MS))
            .min()?;
        let now_ms = view.state.clock().log_ms;
        Some(next_ms.saturating_sub(now_ms).max(1))
    }

    fn decide(&self, view: View<'_>) -> Option<Command> {
        let route = view.state.route(&self.key)?;
        let fence = Fence {
            shard: view.table.shard,
            epoch: view.table.epoch,
        };
        let (key, version) = (self.key.clone(), route.metadata.version());
        match resolve(view, &route).map(|traffic| roll_out(view, &route, traffic)) {
            Ok((traffic, rollouts)) if !is_assigned(&route, &traffic, &rollouts) => {
                let assertions = vec![
                    Assertion::truth(types::ALL_TRAFFIC_ASSIGNED),
                    Assertion::ingress_waits(),
                    Assertion::no_certificate(),
                ];
                let assign = AssignTraffic {
                    fence,
                    key,
                    version,
                    traffic,
                    rollouts,
                    assertions,
                };
                Some(Command::AssignTraffic(assign))
            }
            Ok(_) => {
                let ingress = match is_served(view, &route) {
                    true if !route.status.rollouts.is_empty() => rolling(),
                    true => Assertion::truth(types::INGRESS_READY),
                    // A new owner has heard of no gateway yet: what was ready stays ready.
                    false if route.status.conditions.is_true(types::INGRESS_READY) => {
                        Assertion::truth(types::INGRESS_READY)
                    }
                    false => Assertion::ingress_waits(),
                };
                let all = Assertion::truth(types::ALL_TRAFFIC_ASSIGNED);
                self.record(
                    &route,
                    fence,
                    vec![all, ingress, Assertion::no_certificate()],
                )
            }
            // The previous table goes on being served.
            Err(problem) => self.record(&route, fence, vec![problem]),
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

/// Every live gateway serves the assignment.
fn is_served(view: View<'_>, route: &Route) -> bool {
    view.table.acknowledged.0 >= route.status.assigned_at
}

fn rolling() -> Assertion {
    let text = "A gradual rollout of the latest revision(s) is in progress.";
    Assertion::unknown(types::INGRESS_READY, "RolloutInProgress", text)
}

/// The route's own wish, else the cluster's; in seconds, 0 = at once.
fn rollout_duration_s(view: View<'_>, route: &Route) -> u64 {
    let own = [keys::ROLLOUT_DURATION, keys::ROLLOUT_DURATION_OLD];
    let own = own.iter().find_map(|key| route.metadata.annotation(key));
    own.and_then(parse_go_duration_ms)
        .map_or(view.settings.network.rollout_duration_s, |ms| ms / 1_000)
}

/// The shares that targets have while a newer revision takes over by steps.
fn roll_out(
    view: View<'_>,
    route: &Route,
    traffic: Vec<TrafficTarget>,
) -> (Vec<TrafficTarget>, Vec<Rollout>) {
    if rollout_duration_s(view, route) == 0 {
        return (traffic, Vec::new());
    }
    let ramp_to = route.metadata.annotation(keys::RAMP);
    let now_ns = view.state.clock().log_ms.saturating_mul(NS_PER_MS);
    let mut rollouts = Vec::new();
    for target in &traffic {
        let ramp = !target.is_latest() && target.tag.is_empty();
        let ramp = ramp && ramp_to == Some(target.revision_name.as_str());
        if !ramp && !target.is_latest() {
            continue;
        }
        let goal = Goal {
            tag: &target.tag,
            ramp,
            percent: target.share(),
            revision: &target.revision_name,
        };
        rollouts.extend(rollout::toward(&goal, &had(view, route, &goal), now_ns));
    }
    (rollout::expand(&traffic, &rollouts), rollouts)
}

/// What a target had before: its rollout, or the revisions that are assigned to it, as far as
/// they still exist.
fn had(view: View<'_>, route: &Route, goal: &Goal<'_>) -> Rollout {
    let is_same = |at: &&Rollout| at.tag == goal.tag && at.ramp == goal.ramp;
    if let Some(running) = route.status.rollouts.iter().find(is_same) {
        return running.clone();
    }
    let exists = |name: &str| {
        let key = route.metadata.key().sibling(name);
        view.state.revision_facts(&key).is_some()
    };
    let before = route.status.traffic.iter().filter(|target| {
        let kind = goal.ramp || target.is_latest();
        kind && target.tag == goal.tag && target.share() > 0 && exists(&target.revision_name)
    });
    let revisions: Vec<_> = before
        .map(|target| RevisionShare {
            revision: target.revision_name.clone(),
            percent: target.share(),
        })
        .collect();
    Rollout {
        percent: revisions.iter().map(|share| share.percent).sum(),
        revisions,
        ..Rollout::default()
    }
}

fn is_assigned(route: &Route, traffic: &[TrafficTarget], rollouts: &[Rollout]) -> bool {
    let shape = |rollouts: &[Rollout]| {
        let one = |at: &Rollout| (at.tag.clone(), at.ramp, at.revisions.clone());
        rollouts.iter().map(one).collect::<Vec<_>>()
    };
    same_traffic(traffic, &route.status.traffic) && shape(rollouts) == shape(&route.status.rollouts)
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
    if !target.is_latest() && !is_ready(&revision) {
        return Err(not_ready(&revision));
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
