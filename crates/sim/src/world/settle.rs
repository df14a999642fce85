//! The second phase: faults end, and the world must come to rest, serve cold, and rest again.

use std::collections::{BTreeMap, BTreeSet};

use nihilo_entity::rows::is_counted;
use nihilo_machine::{State, route_table};
use nihilo_types::id::{InstanceId, LogIndex, ObjectKey};
use nihilo_types::instance::InstanceState;
use nihilo_types::revision::RoutingState;

use super::World;
use super::event::Event;
use super::plan::{Faults, MS, SECOND};
use super::requests::Outcome;
use crate::invariants::Verdict;
use crate::invariants::desired::bounds_of;
use crate::invariants::digest;

const LOOK_EVERY_US: u64 = 500 * MS;
/// A boot that never ends is given up after 60 s, a revision that failed often waits as long again,
/// the windows and the way to zero take some more.
const SETTLE_LIMIT_US: u64 = 240 * SECOND;
const COLD_REQUESTS_PER_SERVICE: usize = 2;
/// A cold request may meet a revision that waits after failures in a row, a minute at most.
const MAX_COLD_TRIES: u32 = 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Chaos,
    /// Faults are over; what was begun must come to an end.
    Settling {
        until_us: u64,
    },
    /// Cold requests, all of which must be answered.
    Serving {
        until_us: u64,
        first_request: usize,
        n_tries: u32,
    },
    Over,
}

impl World {
    pub(crate) fn is_settling(&self) -> bool {
        self.phase != Phase::Chaos
    }

    pub(crate) fn inspect(&mut self) {
        let verdict = self.places_are_one();
        self.judge("one place", verdict);
        match self.phase {
            Phase::Chaos if self.now_us >= self.plan.chaos_us => self.heal(),
            Phase::Chaos | Phase::Over => {}
            Phase::Settling { until_us } => match self.unrest() {
                None => self.serve_cold(1),
                Some(why) => {
                    self.deploy_failed_again();
                    self.must_end_by(until_us, &why);
                }
            },
            Phase::Serving {
                until_us,
                first_request,
                n_tries,
            } => match self.unrest() {
                None => self.finish(first_request, n_tries),
                Some(why) => self.must_end_by(until_us, &why),
            },
        }
        if self.phase != Phase::Over {
            self.in_world(LOOK_EVERY_US, Event::Inspect);
        }
    }

    fn must_end_by(&mut self, until_us: u64, why: &str) {
        if self.now_us >= until_us {
            self.judge("convergence", Err(why.to_owned()));
        }
    }

    fn heal(&mut self) {
        self.trace
            .add(self.now_us, &[11], || "faults are over".into());
        self.plan.faults = Faults::NONE;
        self.net = super::net::Net::default();
        self.workload.is_over = true;
        for n in 0..self.nodes.len() {
            self.nodes[n].extra_lag_us = 0;
            self.start_node(n);
            for instance in self.nodes[n].agent.instances.values_mut() {
                instance.cure();
            }
        }
        self.phase = Phase::Settling {
            until_us: self.now_us + SETTLE_LIMIT_US,
        };
    }

    /// A revision that failed for good in the chaos stays failed: its admin deploys once more.
    fn deploy_failed_again(&mut self) {
        let Some(n) = self.newest_state() else { return };
        for service in 0..self.plan.n_services {
            let name = self.workload.services[service].as_str();
            let key = ObjectKey::new("default", name);
            let stored = self.nodes[n].replica.state.service(&key);
            let failed = stored.is_some_and(|stored| {
                let says = stored.status.conditions.get("ConfigurationsReady");
                says.is_some_and(|condition| condition.reason == "RevisionFailed")
            });
            if failed && self.workload.redeployed.insert(service) {
                self.put_service(service, true);
            }
        }
    }

    fn serve_cold(&mut self, n_tries: u32) {
        self.trace
            .add(self.now_us, &[12], || "at rest; cold requests".into());
        let first_request = self.requests.len();
        let Some(n) = self.newest_state() else { return };
        for service in 0..self.plan.n_services {
            let name = self.workload.services[service].as_str();
            let key = ObjectKey::new("default", name);
            if self.nodes[n].replica.state.service(&key).is_none() {
                continue;
            }
            for _ in 0..COLD_REQUESTS_PER_SERVICE {
                let after = self.random.below(100 * MS);
                self.send_client_request(service, after);
            }
        }
        self.phase = Phase::Serving {
            until_us: self.now_us + SETTLE_LIMIT_US,
            first_request,
            n_tries,
        };
    }

    fn finish(&mut self, first_request: usize, n_tries: u32) {
        let failed: Vec<_> = self.requests[first_request..]
            .iter()
            .enumerate()
            .filter(|(_, request)| request.outcome != Some(Outcome::Ok))
            .map(|(i, request)| (first_request + i, request.outcome))
            .collect();
        if !failed.is_empty() && n_tries < MAX_COLD_TRIES {
            return self.serve_cold(n_tries + 1);
        }
        let verdict = match failed.is_empty() {
            true => Ok(()),
            false => Err(format!("after the heal: {failed:?}")),
        };
        self.judge("cold requests", verdict);
        self.phase = Phase::Over;
    }

    /// Each waiting request stands in exactly one line, once.
    fn places_are_one(&self) -> Verdict {
        let mut n_standing: BTreeMap<usize, u32> = BTreeMap::new();
        for node in &self.nodes {
            for line in node.gateway.lines.values() {
                for request in &line.waiters {
                    *n_standing.entry(*request).or_insert(0) += 1;
                }
            }
        }
        for request in &self.open_requests {
            let waits = self.requests[*request].place == super::requests::Place::Waiting;
            let n = n_standing.remove(request).unwrap_or(0);
            if n != u32::from(waits) {
                return Err(format!(
                    "request {request} stands {n} times in lines, waits: {waits}"
                ));
            }
        }
        match n_standing.keys().next() {
            None => Ok(()),
            Some(request) => Err(format!(
                "request {request} has ended and still stands in a line"
            )),
        }
    }

    // Rest.

    /// Why the world is not at rest; `None` = it is.
    fn unrest(&self) -> Option<String> {
        let leader = self.raft.leader?;
        let committed = self.raft.log.len() as u64;
        let state = &self.nodes[leader].replica.state;
        if let Some(request) = self.open_requests.first() {
            let exchange = &self.requests[*request];
            return Some(format!(
                "request {request} at node {} is open: {:?}",
                exchange.gateway.0 + 1,
                exchange.place
            ));
        }
        if self.checks.sessions.len() != self.nodes.len() {
            return Some(format!("{} sessions are open", self.checks.sessions.len()));
        }
        let expected = digest::of_state(state);
        for node in &self.nodes {
            if node.replica.applied != committed
                || digest::of_state(&node.replica.state) != expected
            {
                return Some(format!("{} is behind entry {committed}", node.name()));
            }
            if !self.checks.sessions.is_open(node.control.session) {
                return Some(format!("{} has no session", node.name()));
            }
            let built = route_table::build(state, LogIndex(committed));
            if node.control.table.hosts != built.hosts {
                return Some(format!("{} serves another route table", node.name()));
            }
        }
        self.unowned(state)
            .or_else(|| self.unready(state))
            .or_else(|| self.wrong_instances(state))
            .or_else(|| self.wrong_endpoints(state))
            .or_else(|| self.leaks())
    }

    fn unowned(&self, state: &State) -> Option<String> {
        for (shard, owner) in state.owners() {
            let home = state.session(owner.session).map(|s| s.opened.node);
            let open = home
                .and_then(|node| self.node_of(node))
                .and_then(|n| self.nodes[n].control.shards.get(&shard));
            let works = open.is_some_and(|open| {
                open.epoch == owner.epoch && open.keeper.active && open.keeper.table.complete
            });
            if !works {
                return Some(format!("shard {shard} has no working owner ({owner:?})"));
            }
        }
        None
    }

    fn unready(&self, state: &State) -> Option<String> {
        let unready = state
            .services()
            .find(|service| !service.status.conditions.is_true("Ready"))?;
        let text = format!("{:?}", unready.status.conditions);
        Some(format!("{} is not Ready: {text}", unready.metadata.key()))
    }

    /// Desired = counted = running, and as few as the bounds allow.
    fn wrong_instances(&self, state: &State) -> Option<String> {
        let mut running: BTreeMap<ObjectKey, Vec<String>> = BTreeMap::new();
        for (id, instance) in self.checks.instances.all() {
            let text = format!("{id} on node {}", instance.node + 1);
            running
                .entry(instance.revision.clone())
                .or_default()
                .push(text);
        }
        for revision in state.revisions() {
            let key = revision.metadata.key();
            let reachable = revision.routing_state() == RoutingState::Active;
            let least = if reachable {
                bounds_of(revision).min
            } else {
                0
            };
            let here = running.remove(&key).unwrap_or_default();
            let recorded = state.scale(&key);
            let desired = u32::try_from(recorded.desired).ok();
            if here.len() as u64 != u64::from(least) || desired != Some(least) {
                return Some(format!(
                    "{key} wants {least}: record {recorded:?}, running {here:?}"
                ));
            }
            let counted = self.counted(&key);
            if counted != here.len() {
                return Some(format!(
                    "{key}: its owner counts {counted}, running {here:?}"
                ));
            }
        }
        let orphan = running.into_iter().next()?;
        Some(format!("instances of a revision that is gone: {orphan:?}"))
    }

    fn counted(&self, revision: &ObjectKey) -> usize {
        let tables = self
            .nodes
            .iter()
            .flat_map(|node| node.control.shards.values())
            .map(|open| &open.keeper.table);
        tables
            .map(|table| {
                table
                    .of(revision)
                    .filter(|(_, row)| is_counted(row))
                    .count()
            })
            .sum()
    }

    /// Every gateway knows exactly the instances that are ready.
    fn wrong_endpoints(&self, state: &State) -> Option<String> {
        let mut ready: BTreeMap<ObjectKey, BTreeSet<InstanceId>> = BTreeMap::new();
        for node in &self.nodes {
            for (id, instance) in &node.agent.instances {
                if instance.report.state == InstanceState::Ready {
                    let key = instance.report.revision.clone();
                    ready.entry(key).or_default().insert(id.clone());
                }
            }
        }
        for revision in state.revisions() {
            let key = revision.metadata.key();
            let expected = ready.remove(&key).unwrap_or_default();
            for node in &self.nodes {
                let known: BTreeSet<_> = node
                    .gateway
                    .endpoints
                    .get(&key)
                    .map(|table| table.instances.iter().map(|e| e.id.clone()).collect())
                    .unwrap_or_default();
                if known != expected {
                    let name = node.name();
                    return Some(format!(
                        "{name} knows {known:?} of {key}, ready {expected:?}"
                    ));
                }
            }
        }
        None
    }

    /// Places that nobody holds and that are not free.
    fn leaks(&self) -> Option<String> {
        for node in &self.nodes {
            for (key, line) in &node.gateway.lines {
                if line.n_held() > 0 || line.integrator.in_flight() > 0 {
                    return Some(format!("{} holds places of {key}", node.name()));
                }
            }
            for (id, instance) in &node.agent.instances {
                if !instance.running.is_empty() {
                    return Some(format!("{id} holds places: {:?}", instance.running));
                }
            }
        }
        None
    }
}
