//! Host → entry → tag or split → revision, on one immutable table.

use std::collections::HashMap;
use std::sync::Arc;

use nihilo_types::id::LogIndex;
use nihilo_types::route_table::{HostEntry, RevisionTarget, RouteTable, Visibility};
use parking_lot::Mutex;

use crate::rescue::Cause;
use crate::rules::host::table_key;

/// The fractional part of the golden ratio: successive multiples spread evenly, so that shares
/// are exact over any run of requests.
const GOLDEN: f64 = 0.618_033_988_749_894_9;

/// Chooses revisions; keeps only the position of each host's split.
#[derive(Debug, Default)]
pub struct Router(Mutex<HashMap<Arc<str>, (LogIndex, f64)>>);

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    pub target: Arc<RevisionTarget>,
    /// By its host, or by its header.
    pub tag: Option<Arc<str>>,
    /// Version of the host's entry.
    pub index: LogIndex,
}

impl Router {
    /// # Errors
    /// No such host for who asks, or nothing behind it.
    pub fn route(
        &self,
        table: &RouteTable,
        host: &str,
        tag: Option<&str>,
        is_private: bool,
    ) -> Result<Chosen, Cause> {
        let key = table_key(host);
        // A Route's names inside of the cluster before anybody's own domain that reads the same.
        let entry = is_private.then(|| find_private(table, &key)).flatten();
        let entry = entry.or_else(|| find(table, &key));
        let (name, entry) = entry.ok_or(Cause::UnknownHost)?;
        if entry.visibility == Visibility::ClusterLocal && !is_private {
            return Err(Cause::UnknownHost);
        }
        let by_header = tag.and_then(|tag| entry.tags.get_key_value(tag));
        let (target, tag) = match (by_header, entry.split.as_slice()) {
            (Some((tag, target)), _) => (Some(target.clone()), Some(tag.clone())),
            (None, [only]) => (Some(only.target.clone()), entry.tag.clone()),
            (None, _) => (pick(entry, self.next(name, entry)), entry.tag.clone()),
        };
        Ok(Chosen {
            target: target.ok_or(Cause::NoBackend)?,
            tag,
            index: entry.index,
        })
    }

    /// Keeps positions of the table's hosts alone.
    pub fn forget_hosts_beyond(&self, table: &RouteTable) {
        let mut positions = self.0.lock();
        positions.retain(|host, _| table.hosts.contains_key(host));
    }

    fn next(&self, host: &Arc<str>, entry: &HostEntry) -> f64 {
        let mut positions = self.0.lock();
        let position = positions.entry(host.clone()).or_insert((entry.index, 0.5));
        if position.0 != entry.index {
            *position = (entry.index, 0.5);
        }
        position.1 = (position.1 + GOLDEN).fract();
        position.1
    }
}

/// The host itself, else the longest wildcard that holds it.
fn find<'a>(table: &'a RouteTable, host: &str) -> Option<(&'a Arc<str>, &'a Arc<HostEntry>)> {
    if host.starts_with('*') {
        return None;
    }
    if let Some(exact) = table.hosts.get_key_value(host) {
        return Some(exact);
    }
    let mut rest = host;
    while let Some((_, parent)) = rest.split_once('.') {
        let wild = table.hosts.get_key_value(format!("*.{parent}").as_str());
        if wild.is_some() {
            return wild;
        }
        rest = parent;
    }
    None
}

/// `name.namespace`, alone or with what Kubernetes' DNS adds to it.
fn find_private<'a>(
    table: &'a RouteTable,
    host: &str,
) -> Option<(&'a Arc<str>, &'a Arc<HostEntry>)> {
    let host = host.strip_suffix(".cluster.local").unwrap_or(host);
    let host = host.strip_suffix(".svc").unwrap_or(host);
    let is_pair = host.matches('.').count() == 1;
    let full = is_pair.then(|| format!("{host}.{}", table.domain))?;
    table.hosts.get_key_value(full.as_str())
}

fn pick(entry: &HostEntry, position: f64) -> Option<Arc<RevisionTarget>> {
    let mut upto = 0;
    for share in &entry.split {
        upto += share.percent;
        if position * 100.0 < f64::from(upto) {
            return Some(share.target.clone());
        }
    }
    entry.split.last().map(|share| share.target.clone())
}

#[cfg(test)]
mod tests {
    use nihilo_types::id::ObjectKey;
    use nihilo_types::route_table::{Hosts, Share};

    use super::*;
    use crate::testkit::target;

    const HOST: &str = "s.default.localhost";

    fn table(split: &[(u32, &str)], tags: &[(&str, &str)]) -> RouteTable {
        let share = |(percent, name): &(u32, &str)| Share {
            percent: *percent,
            target: Arc::new(target(name)),
        };
        let entry = HostEntry {
            route: ObjectKey::new("default", "s"),
            index: LogIndex(1),
            tag: None,
            visibility: Visibility::Public,
            split: split.iter().map(share).collect(),
            tags: tags
                .iter()
                .map(|(tag, name)| ((*tag).into(), Arc::new(target(name))))
                .collect(),
        };
        let mut hosts = Hosts::default();
        hosts.insert(HOST.into(), Arc::new(entry));
        RouteTable {
            index: LogIndex(1),
            domain: "localhost".into(),
            hosts,
        }
    }

    fn name(router: &Router, table: &RouteTable, host: &str, tag: Option<&str>) -> String {
        let chosen = router.route(table, host, tag, false).unwrap();
        chosen.target.revision.name.to_string()
    }

    #[test]
    fn shares_are_exact_to_half_a_percent() {
        let (router, table) = (
            Router::default(),
            table(&[(90, "a"), (10, "b"), (0, "c")], &[]),
        );
        let mut counts: HashMap<String, u32> = HashMap::new();
        for _ in 0..10_000 {
            let name = name(&router, &table, "s.default.localhost", None);
            *counts.entry(name).or_default() += 1;
        }
        assert!(
            counts["a"].abs_diff(9_000) <= 50 && counts["b"].abs_diff(1_000) <= 50,
            "{counts:?}"
        );
        assert!(!counts.contains_key("c"));
    }

    #[test]
    fn the_position_of_a_host_that_has_gone_goes_with_it() {
        let (router, table) = (Router::default(), table(&[(50, "a"), (50, "b")], &[]));
        name(&router, &table, "s.default.localhost", None);
        router.forget_hosts_beyond(&table);
        assert_eq!(router.0.lock().len(), 1);
        router.forget_hosts_beyond(&RouteTable::default());
        assert_eq!(router.0.lock().len(), 0);
    }

    #[test]
    fn hosts_are_normalised_and_unknown_ones_are_not_found() {
        let (router, table) = (Router::default(), table(&[(100, "a")], &[]));
        for host in [
            "S.default.LOCALHOST:8080",
            "s.default.localhost.",
            "s.default.localhost",
        ] {
            assert_eq!(name(&router, &table, host, None), "a", "{host}");
        }
        let unknown = router.route(&table, "x.default.localhost", None, false);
        assert_eq!(unknown, Err(Cause::UnknownHost));
    }

    #[test]
    fn a_tag_selects_and_an_unknown_one_does_not() {
        let (router, table) = (Router::default(), table(&[(100, "a")], &[("old", "b")]));
        let name = |tag| name(&router, &table, "s.default.localhost", tag);
        assert_eq!(
            [name(Some("old")), name(Some("new")), name(None)],
            ["b", "a", "a"]
        );
    }

    #[test]
    fn the_exact_host_wins_and_then_the_longest_wildcard() {
        let (router, mut table) = (Router::default(), table(&[(100, "a")], &[]));
        let entry = |name: &str| {
            let entry = self::table(&[(100, name)], &[]);
            entry.hosts[HOST].clone()
        };
        table.hosts.insert("*.b.c".into(), entry("short"));
        table.hosts.insert("*.a.b.c".into(), entry("long"));
        table.hosts.insert("x.b.c".into(), entry("exact"));
        let name = |host| name(&router, &table, host, None);
        assert_eq!(name("x.b.c"), "exact");
        assert_eq!(name("y.b.c"), "short");
        assert_eq!(name("y.a.b.c"), "long");
        assert_eq!(name("z.y.b.c"), "short");
        for host in ["b.c", "*.b.c", "c"] {
            assert!(router.route(&table, host, None, false).is_err(), "{host}");
        }
    }

    #[test]
    fn an_own_domain_that_reads_like_a_private_name_is_the_route_s_inside() {
        let (router, mut table) = (Router::default(), table(&[(100, "a")], &[]));
        let other = self::table(&[(100, "other")], &[]).hosts[HOST].clone();
        for host in ["s.default", "s.default.svc", "x.default"] {
            table.hosts.insert(host.into(), other.clone());
        }
        let name = |host, is_private| {
            let chosen = router.route(&table, host, None, is_private).unwrap();
            chosen.target.revision.name.to_string()
        };
        for host in ["s.default", "s.default.svc"] {
            assert_eq!([name(host, true), name(host, false)], ["a", "other"]);
        }
        assert_eq!(name("x.default", true), "other");
    }

    #[test]
    fn private_hosts_are_unknown_outside_and_empty_ones_have_no_backend() {
        let router = Router::default();
        let mut table = table(&[(100, "a")], &[]);
        let entry = HostEntry {
            visibility: Visibility::ClusterLocal,
            ..(*table.hosts[HOST]).clone()
        };
        table.hosts.insert(HOST.into(), Arc::new(entry.clone()));
        assert_eq!(
            router.route(&table, HOST, None, false),
            Err(Cause::UnknownHost)
        );
        for host in [
            HOST,
            "s.default",
            "s.default.svc",
            "s.default.svc.cluster.local",
        ] {
            assert!(router.route(&table, host, None, true).is_ok(), "{host}");
        }
        assert!(router.route(&table, "x.default.svc", None, true).is_err());
        let empty = HostEntry {
            split: Vec::new(),
            ..entry
        };
        table.hosts.insert(HOST.into(), Arc::new(empty));
        assert_eq!(
            router.route(&table, HOST, None, true),
            Err(Cause::NoBackend)
        );
    }
}
