//! Derives the gateways' [`RouteTable`] from the state; the same on every node.

use std::collections::BTreeMap;
use std::sync::Arc;

use nihilo_types::id::{LogIndex, ObjectKey};
use nihilo_types::revision::Revision;
use nihilo_types::route::Route;
use nihilo_types::route_table::{HostEntry, RevisionTarget, RouteTable, Share};
use nihilo_types::shard::shard_of;

use crate::state::State;

/// Builds the whole table as of `index`.
pub fn build(state: &State, index: LogIndex) -> RouteTable {
    let mut table = RouteTable {
        index,
        hosts: BTreeMap::new(),
    };
    for route in state.routes() {
        add_route(&mut table, state, route);
    }
    table
}

/// Returns `table` moved on to `index`, with the hosts of the changed routes made anew. Routes
/// that are gone leave the table.
pub fn update(
    table: &RouteTable,
    state: &State,
    changed: &[ObjectKey],
    index: LogIndex,
) -> RouteTable {
    let mut next = table.clone();
    next.index = index;
    next.hosts
        .retain(|_, entry| !changed.contains(&entry.route));
    for route in changed.iter().filter_map(|key| state.route(key)) {
        add_route(&mut next, state, route);
    }
    next
}

fn add_route(table: &mut RouteTable, state: &State, route: &Route) {
    if route.status.traffic.is_empty() {
        return;
    }
    let key = route.metadata.key();
    let index = LogIndex(route.status.assigned_at);
    let targets = targets_of(state, route);
    let target = |name: &str| targets.get(name).cloned();
    let mut split = Vec::new();
    let mut tags = BTreeMap::new();
    for entry in &route.status.traffic {
        let Some(target) = target(&entry.revision_name) else {
            continue;
        };
        if entry.share() > 0 {
            split.push(Share {
                percent: entry.share(),
                target: target.clone(),
            });
        }
        if !entry.tag.is_empty() {
            tags.insert(Arc::from(entry.tag.as_str()), target);
        }
    }
    for (tag, target) in &tags {
        let host = state.host_of(&key, Some(tag));
        let entry = HostEntry {
            route: key.clone(),
            index,
            tag: Some(tag.clone()),
            split: vec![Share {
                percent: 100,
                target: target.clone(),
            }],
            tags: BTreeMap::new(),
        };
        table.hosts.insert(host.into(), Arc::new(entry));
    }
    let main = HostEntry {
        route: key.clone(),
        index,
        tag: None,
        split,
        tags,
    };
    table
        .hosts
        .insert(state.host_of(&key, None).into(), Arc::new(main));
}

/// One shared target per revision that the route's assignment names.
fn targets_of<'a>(state: &State, route: &'a Route) -> BTreeMap<&'a str, Arc<RevisionTarget>> {
    let key = route.metadata.key();
    route
        .status
        .traffic
        .iter()
        .filter_map(|entry| {
            let revision = state.revision(&key.sibling(entry.revision_name.as_str()))?;
            Some((
                entry.revision_name.as_str(),
                Arc::new(target(&key, revision)),
            ))
        })
        .collect()
}

fn target(root: &ObjectKey, revision: &Revision) -> RevisionTarget {
    let spec = &revision.spec;
    let total_ms = u64::from(spec.timeout()) * 1000;
    let ms = |seconds: Option<u32>| u64::from(seconds.unwrap_or(0)) * 1000;
    RevisionTarget {
        revision: revision.metadata.key(),
        uid: revision.metadata.uid.as_str().into(),
        service: root.name.clone(),
        configuration: root.name.clone(),
        shard: shard_of(root),
        container_concurrency: spec.concurrency_limit(),
        timeout_ms: total_ms,
        response_start_timeout_ms: ms(spec.response_start_timeout_seconds).min(total_ms),
        idle_timeout_ms: ms(spec.idle_timeout_seconds).min(total_ms),
        h2c: spec
            .container()
            .is_some_and(|container| container.ports.iter().any(|port| port.name == "h2c")),
    }
}
