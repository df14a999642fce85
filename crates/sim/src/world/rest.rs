//! Whether the world is at rest: every node up to date, desired = counted = running, nothing held
//! that nobody holds.

use std::collections::{BTreeMap, BTreeSet};

use nihilo_entity::rows::is_counted;
use nihilo_machine::{State, route_table};
use nihilo_types::id::{InstanceId, LogIndex, ObjectKey};
use nihilo_types::instance::InstanceState;
use nihilo_types::revision::RoutingState;

use super::World;
use super::node::Node;
use crate::invariants::desired::bounds_of;

impl World {
    /// Why the world is not at rest; `None` = it is.
    pub(crate) fn unrest(&self) -> Option<String> {
        let Some(leader) = self.raft.leader else {
            return Some("nobody leads".into());
        };
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
        for node in &self.nodes {
            if node.replica.applied != committed {
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
            .or_else(|| self.different_states(state))
    }

    /// The whole state, row by row: asked last, for it is dear.
    fn different_states(&self, state: &State) -> Option<String> {
        let expected = state.digest();
        let differs = |node: &&Node| node.replica.state.digest() != expected;
        let node = self.nodes.iter().find(differs)?;
        Some(format!("{} holds another state", node.name()))
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
                let stands = open.map(|open| {
                    let keeper = &open.keeper;
                    let complete = keeper.table.complete;
                    (open.epoch, keeper.active, complete, keeper.waiting.clone())
                });
                return Some(format!(
                    "shard {shard} has no working owner: {owner:?}, (epoch, active, complete, \
                     waits for) = {stands:?}"
                ));
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

    /// Desired = counted = running, and as few as the bounds allow, but for one that is kept frozen.
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
                bounds_of(&revision).min
            } else {
                0
            };
            let here = running.remove(&key).unwrap_or_default();
            let recorded = state.scale(&key);
            let desired = u32::try_from(recorded.desired).ok();
            let n_frozen = self.n_frozen(&key);
            let may_freeze = least == 0 && revision.idles_frozen();
            if n_frozen > u64::from(may_freeze) {
                return Some(format!("{key} keeps {n_frozen} frozen: {here:?}"));
            }
            if (here.len() as u64).saturating_sub(n_frozen) != u64::from(least)
                || desired != Some(least)
            {
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

    fn n_frozen(&self, revision: &ObjectKey) -> u64 {
        let instances = self
            .nodes
            .iter()
            .flat_map(|node| node.agent.instances.values());
        let frozen = instances.filter(|instance| {
            let report = &instance.report;
            report.state == InstanceState::Frozen && report.revision == *revision
        });
        frozen.count() as u64
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

    /// Every gateway knows all instances that are ready. It may know one that is gone: the first
    /// request for it is refused by its home node, and it is forgotten.
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
                if !known.is_superset(&expected) {
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
