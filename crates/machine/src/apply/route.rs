//! `AssignTraffic`, `RecordRoute`: what the gateways serve, and when it counts as ready.

use std::collections::BTreeSet;
use std::sync::Arc;

use nihilo_types::condition::{Assertion, types};
use nihilo_types::id::ObjectKey;
use nihilo_types::meta::keys;
use nihilo_types::revision::RoutingState;
use nihilo_types::route::{Route, TrafficTarget};
use nihilo_types::shard::shard_of;

use super::service::assert_all;
use super::{Context, Result, check_shard};
use crate::command::{AdvanceRollout, AssignTraffic, Fence, RecordRoute};
use crate::reply::{Outcome, Rejection};
use crate::rollout;
use crate::state::{EventKind, ObjectChange, State};

/// What the Route's `Ready` depends on.
pub(super) const ROUTE_DEPENDENTS: [&str; 3] = [
    types::ALL_TRAFFIC_ASSIGNED,
    types::INGRESS_READY,
    types::CERTIFICATE_PROVISIONED,
];

impl State {
    pub(crate) fn assign_traffic(
        &mut self,
        assign: &AssignTraffic,
        context: &mut Context,
    ) -> Result {
        let mut route = self.fenced_route(assign.fence, &assign.key, assign.version.0)?;
        self.check_assignment(&assign.key, &assign.traffic)?;
        route.status.traffic = assign.traffic.clone();
        for target in &mut route.status.traffic {
            if !target.tag.is_empty() {
                target.url = self.url_of(&self.host_of(&assign.key, Some(&target.tag)));
            }
        }
        route.status.rollouts.clone_from(&assign.rollouts);
        for rollout in &mut route.status.rollouts {
            if rollout.step_size == 0 {
                rollout.start_ns = log_ns(context);
            }
        }
        route.status.assigned_at = context.index.0;
        self.finish_route(&assign.key, route, &assign.assertions, context);
        self.mark_routing_states(&assign.key, context);
        Ok(Outcome::Done)
    }

    /// Plans the steps of rollouts that every gateway serves, or takes the steps that are due.
    pub(crate) fn advance_rollout(
        &mut self,
        advance: &AdvanceRollout,
        context: &mut Context,
    ) -> Result {
        let mut route = self.fenced_route(advance.fence, &advance.key, advance.version.0)?;
        let now_ns = log_ns(context);
        let mut moved = false;
        for at in &mut route.status.rollouts {
            match advance.plan_for_s {
                Some(duration_s) => rollout::acknowledged(at, now_ns, duration_s),
                None => moved |= rollout::step(at, now_ns),
            }
        }
        if moved {
            route.status.traffic = rollout::expand(&route.status.traffic, &route.status.rollouts);
            self.check_assignment(&advance.key, &route.status.traffic)?;
            route.status.rollouts.retain(|at| !rollout::is_over(at));
            route.status.assigned_at = context.index.0;
        }
        if moved || advance.plan_for_s.is_some() {
            self.store_route(&advance.key, route, EventKind::Modified, context);
            self.mark_routing_states(&advance.key, context);
        }
        Ok(Outcome::Done)
    }

    pub(crate) fn record_route(&mut self, record: &RecordRoute, context: &mut Context) -> Result {
        let route = self.fenced_route(record.fence, &record.key, record.version.0)?;
        self.finish_route(&record.key, route, &record.assertions, context);
        Ok(Outcome::Done)
    }

    fn fenced_route(&self, fence: Fence, key: &ObjectKey, version: u64) -> Result<Route> {
        self.check_fence(fence)?;
        check_shard(fence, shard_of(key))?;
        let stored = self
            .routes
            .get(key)
            .ok_or_else(|| Rejection::NotFound(key.clone()))?;
        let have = stored.metadata.version();
        if have.0 != version {
            return Err(Rejection::Conflict {
                key: key.clone(),
                have,
            });
        }
        Ok(stored.as_ref().clone())
    }

    /// An assignment names existing revisions of this Service and sums to 100.
    fn check_assignment(&self, key: &ObjectKey, traffic: &[TrafficTarget]) -> Result<()> {
        let sum: u64 = traffic.iter().map(|target| u64::from(target.share())).sum();
        if sum != 100 {
            return Err(Rejection::Invalid(format!(
                "Traffic targets sum to {sum}, want 100"
            )));
        }
        for target in traffic {
            let revision = key.sibling(target.revision_name.as_str());
            if self
                .revisions
                .get(&revision)
                .is_none_or(|revision| revision.root() != *key)
            {
                return Err(Rejection::NotFound(revision));
            }
        }
        Ok(())
    }

    fn finish_route(
        &mut self,
        key: &ObjectKey,
        mut route: Route,
        assertions: &[Assertion],
        context: &mut Context,
    ) {
        let conditions = &mut route.status.conditions;
        assert_all(conditions, assertions, &context.now);
        let ready = conditions.roll_up(&ROUTE_DEPENDENTS);
        conditions.set(&ready, &context.now);
        route.status.observed_generation = route.metadata.generation;
        self.store_route(key, route, EventKind::Modified, context);
    }

    pub(super) fn store_route(
        &mut self,
        key: &ObjectKey,
        mut route: Route,
        change: EventKind,
        context: &mut Context,
    ) {
        route.metadata.set_version(context.index);
        let object = Arc::new(route);
        context.row(self.routes.put(key, object.clone()));
        context.event(ObjectChange::Route { object, change });
    }

    /// Marks the Service's revisions active or reserve by what its Route now refers to: in spec or
    /// status traffic, or the latest created one while an entry follows the latest.
    fn mark_routing_states(&mut self, key: &ObjectKey, context: &mut Context) {
        let active = self.referenced_revisions(key);
        let revisions: Vec<_> = self.revisions_of(key).collect();
        for revision in revisions {
            let state = match active.contains(&revision.metadata.name) {
                true => RoutingState::Active,
                false => RoutingState::Reserve,
            };
            if revision.routing_state() == state {
                continue;
            }
            let mut next = revision.as_ref().clone();
            next.metadata
                .labels
                .insert(keys::ROUTING_STATE.into(), state.as_str().into());
            next.metadata
                .annotations
                .insert(keys::ROUTING_STATE_MODIFIED.into(), context.now.clone());
            let revision_key = revision.metadata.key();
            self.store_revision(&revision_key, next, EventKind::Modified, context);
        }
    }

    fn referenced_revisions(&self, key: &ObjectKey) -> BTreeSet<String> {
        let Some(route) = self.routes.get(key) else {
            return BTreeSet::new();
        };
        let mut names: BTreeSet<String> = route
            .spec
            .traffic
            .iter()
            .chain(&route.status.traffic)
            .map(|target| target.revision_name.clone())
            .collect();
        if route.spec.traffic.iter().any(TrafficTarget::is_latest) {
            let configuration = self.configurations.get(key);
            names.extend(configuration.map(|c| c.status.latest_created_revision_name.clone()));
        }
        names
    }
}

fn log_ns(context: &Context) -> u64 {
    context.log_ms.saturating_mul(1_000_000)
}
