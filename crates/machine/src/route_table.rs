//! Derives the gateways' [`RouteTable`] from the state; the same on every node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nihilo_types::id::{LogIndex, ObjectKey};
use nihilo_types::meta::keys;
use nihilo_types::probe_paths::ProbePaths;
use nihilo_types::revision::Revision;
use nihilo_types::route::Route;
use nihilo_types::route_table::{HostEntry, Hosts, RevisionTarget, RouteTable, Share, Visibility};
use nihilo_types::shard::shard_of;
use nihilo_types::validate::MAX_QUEUE_DEPTH;

use crate::state::{ObjectChange, State, host_label};

/// What of the state's changes shows in the table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    routes: BTreeSet<ObjectKey>,
    /// Own domains: hosts.
    domains: BTreeSet<Arc<str>>,
}

impl Changed {
    pub fn of<'a>(changes: impl IntoIterator<Item = &'a ObjectChange>) -> Self {
        let mut changed = Self::default();
        for change in changes {
            match change {
                ObjectChange::Route { .. } => {
                    changed.routes.insert(change.key());
                }
                // A claim that changes hands changes the mappings as well.
                ObjectChange::DomainMapping { .. } => {
                    changed.domains.insert(change.key().name);
                }
                ObjectChange::Service { .. }
                | ObjectChange::Configuration { .. }
                | ObjectChange::Revision { .. }
                | ObjectChange::ConfigMap { .. }
                | ObjectChange::Secret { .. }
                | ObjectChange::DomainClaim { .. }
                | ObjectChange::Scale { .. } => {}
            }
        }
        changed
    }

    pub fn is_empty(&self) -> bool {
        self.routes.is_empty() && self.domains.is_empty()
    }
}

/// Builds the whole table as of `index`.
pub fn build(state: &State, index: LogIndex) -> RouteTable {
    let mut table = RouteTable {
        index,
        domain: state.domain().into(),
        hosts: Hosts::default(),
    };
    for key in state.assigned_routes() {
        if let Some(route) = state.route(key) {
            add_route(&mut table, state, &route);
        }
    }
    for (host, _) in state.domains.claims() {
        renew_domain(&mut table.hosts, state, host);
    }
    table
}

/// Returns `table` moved on to `index`, with the hosts of the changed routes and domains made anew.
/// Routes that are gone leave the table; what they kept from others goes to those.
pub fn update(table: &RouteTable, state: &State, changed: &Changed, index: LogIndex) -> RouteTable {
    if *table.domain != *state.domain() {
        // Every host has another name.
        return build(state, index);
    }
    let mut next = table.clone();
    next.index = index;
    let mut freed = Vec::new();
    for route in &changed.routes {
        take_out(&mut next.hosts, state, route, &mut freed);
    }
    for route in changed.routes.iter().filter_map(|key| state.route(key)) {
        add_route(&mut next, state, &route);
    }
    for label in freed {
        add_host(&mut next, state, &label);
    }
    let of_routes = changed.routes.iter().flat_map(|route| {
        let keys = state.domains.keys_of_route(route);
        keys.map(|key| key.name)
    });
    let domains: BTreeSet<_> = of_routes.chain(changed.domains.iter().cloned()).collect();
    for host in &domains {
        renew_domain(&mut next.hosts, state, host);
    }
    next
}

/// Makes an own domain's entry anew; the routes' hosts are in place already.
fn renew_domain(hosts: &mut Hosts, state: &State, host: &Arc<str>) {
    // Refused when it is written; here it would take a Route's host whatever is stored.
    if state.is_host_of_routes(host) {
        return;
    }
    hosts.remove(host);
    if let Some(entry) = domain_entry(hosts, state, host) {
        hosts.insert(host.clone(), Arc::new(entry));
    }
}

/// That of its Route's own host without the tags, as long as there is one.
fn domain_entry(hosts: &Hosts, state: &State, host: &str) -> Option<HostEntry> {
    let route = state.domains.holder(host)?.route();
    let own = hosts.get(&state.host_of(&route, None))?;
    // A host that reads the same may be another route's, by a tag.
    (own.route == route).then(|| HostEntry {
        tags: BTreeMap::new(),
        ..own.as_ref().clone()
    })
}

/// Takes all hosts of a route out, without a look at the others: its own host names its tags, as they
/// were when it was put in. Adds the first labels of those hosts to `freed`.
fn take_out(hosts: &mut Hosts, state: &State, route: &ObjectKey, freed: &mut Vec<ObjectKey>) {
    let own = hosts.get(&state.host_of(route, None)).cloned();
    // A host that reads the same may be another route's, by a tag.
    let Some(own) = own.filter(|entry| entry.route == *route) else {
        return;
    };
    let tags = own.tags.keys().map(|tag| Some(&**tag));
    for tag in tags.chain([None]) {
        let host = state.host_of(route, tag);
        if hosts.get(&host).is_some_and(|entry| entry.route == *route) {
            hosts.remove(&host);
            freed.push(route.sibling(host_label(&route.name, tag)));
        }
    }
}

fn add_route(table: &mut RouteTable, state: &State, route: &Route) {
    let key = route.metadata.key();
    add_host(table, state, &key);
    for tag in tags_of(route) {
        let label = host_label(&key.name, Some(tag));
        add_host(table, state, &key.sibling(label));
    }
}

/// Puts in whoever holds the host with this first label; nobody may.
fn add_host(table: &mut RouteTable, state: &State, label: &ObjectKey) {
    let Some((route, tag)) = holder(state, label) else {
        return;
    };
    let Some(key) = state.routes.own_key(&route.metadata.key()) else {
        return;
    };
    let host = state.host_of(key, tag);
    let entry = host_entry(state, key, &route, tag);
    if tag.is_some() && entry.split.is_empty() {
        return;
    }
    table.hosts.insert(host.into(), Arc::new(entry));
}

/// The one route that a host belongs to, by the state alone: a tag's host may read like another
/// route's own, or another tag's. A route's own name wins, then the longest route name.
fn holder<'a>(state: &State, label: &'a ObjectKey) -> Option<(Arc<Route>, Option<&'a str>)> {
    let assigned = |name: &str| {
        let key = label.sibling(name);
        let facts = state.route_facts(&key)?;
        facts.is_assigned.then(|| state.route(&key)).flatten()
    };
    if let Some(route) = assigned(&label.name) {
        return Some((route, None));
    }
    label.name.match_indices('-').find_map(|(at, _)| {
        let (tag, name) = (&label.name[..at], &label.name[at + 1..]);
        let route = assigned(name)?;
        let is_its = tags_of(&route).any(|own| own == tag);
        is_its.then_some((route, Some(tag)))
    })
}

fn tags_of(route: &Route) -> impl Iterator<Item = &str> {
    let tags = route.status.traffic.iter().map(|entry| entry.tag.as_str());
    tags.filter(|tag| !tag.is_empty())
}

fn host_entry(state: &State, key: &ObjectKey, route: &Route, tag: Option<&str>) -> HostEntry {
    let targets = targets_of(state, key, route);
    let mut split = Vec::new();
    let mut tags = BTreeMap::new();
    for entry in &route.status.traffic {
        let Some(target) = targets.get(entry.revision_name.as_str()) else {
            continue;
        };
        if entry.share() > 0 {
            split.push(Share {
                percent: entry.share(),
                target: target.clone(),
            });
        }
        if !entry.tag.is_empty() {
            tags.insert(Arc::from(entry.tag.as_str()), target.clone());
        }
    }
    if let Some(tag) = tag {
        let whole = |target: Arc<RevisionTarget>| Share {
            percent: 100,
            target,
        };
        split = tags.remove(tag).map(whole).into_iter().collect();
        tags.clear();
    }
    HostEntry {
        route: key.clone(),
        index: LogIndex(route.status.assigned_at),
        tag: tag.map(Arc::from),
        visibility: visibility(route),
        split,
        tags,
    }
}

/// One shared target per revision that the route's assignment names.
fn targets_of<'a>(
    state: &State,
    key: &ObjectKey,
    route: &'a Route,
) -> BTreeMap<&'a str, Arc<RevisionTarget>> {
    route
        .status
        .traffic
        .iter()
        .filter_map(|entry| {
            let revision = key.sibling(entry.revision_name.as_str());
            let revision = state.revisions.own_key(&revision)?;
            let target = target(key, revision, state.revision(revision)?.as_ref());
            Some((entry.revision_name.as_str(), Arc::new(target)))
        })
        .collect()
}

fn visibility(route: &Route) -> Visibility {
    match route.metadata.labels.get(keys::VISIBILITY) {
        Some(label) if label == keys::CLUSTER_LOCAL => Visibility::ClusterLocal,
        _ => Visibility::Public,
    }
}

/// Requests that may wait per gateway (05-gateway §13): what ten rounds of all instances serve,
/// where a hundred stands for what has no limit.
fn queue_depth(revision: &Revision, max_scale: u32) -> u32 {
    const LEAST: u32 = 100;
    let annotation = revision.metadata.annotations.get(keys::QUEUE_DEPTH);
    if let Some(depth) = annotation.and_then(|depth| depth.parse::<u32>().ok()) {
        return depth.clamp(1, MAX_QUEUE_DEPTH);
    }
    let or_hundred = |n: u32| if n == 0 { 100 } else { n };
    let all = or_hundred(revision.spec.concurrency_limit()).saturating_mul(or_hundred(max_scale));
    all.saturating_mul(10).clamp(LEAST, MAX_QUEUE_DEPTH)
}

fn max_scale(revision: &Revision) -> u32 {
    let key = format!("{}max-scale", keys::AUTOSCALING_PREFIX);
    let annotation = revision.metadata.annotations.get(&key);
    annotation.and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn probe_paths(revision: &Revision) -> ProbePaths {
    let annotation = revision.metadata.annotations.get(keys::PROBE_PATHS);
    let paths = annotation.and_then(|paths| ProbePaths::parse(paths));
    paths.unwrap_or_default()
}

fn target(root: &ObjectKey, key: &ObjectKey, revision: &Revision) -> RevisionTarget {
    let spec = &revision.spec;
    let total_ms = u64::from(spec.timeout()) * 1000;
    let ms = |seconds: Option<u32>| u64::from(seconds.unwrap_or(0)) * 1000;
    RevisionTarget {
        revision: key.clone(),
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
        queue_depth: queue_depth(revision, max_scale(revision)),
        max_scale: max_scale(revision),
        probe_paths: probe_paths(revision),
    }
}
