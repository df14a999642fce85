//! Host → entry → tag or split → revision, on one immutable table.

use std::collections::HashMap;
use std::sync::Arc;

use nihilo_types::id::LogIndex;
use nihilo_types::route_table::{HostEntry, RevisionTarget, RouteTable};
use parking_lot::Mutex;

/// The fractional part of the golden ratio: successive multiples spread evenly, so that shares
/// are exact over any run of requests.
const GOLDEN: f64 = 0.618_033_988_749_894_9;

/// Chooses revisions; keeps only the position of each host's split.
#[derive(Debug, Default)]
pub struct Router(Mutex<HashMap<Arc<str>, (LogIndex, f64)>>);

impl Router {
    /// `None` = no such host.
    pub fn route(
        &self,
        table: &RouteTable,
        host: &str,
        tag: Option<&str>,
    ) -> Option<Arc<RevisionTarget>> {
        let host = normalise(host);
        let (name, entry) = table.hosts.get_key_value(host.as_str())?;
        if let Some(target) = tag.and_then(|tag| entry.tags.get(tag)) {
            return Some(target.clone());
        }
        match entry.split.as_slice() {
            [only] => Some(only.target.clone()),
            _ => pick(entry, self.next(name, entry)),
        }
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

/// Lower case, without port and one trailing dot.
fn normalise(host: &str) -> String {
    let host = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use nihilo_types::id::{ObjectKey, ShardId};
    use nihilo_types::route_table::Share;

    use super::*;

    fn target(name: &str) -> Arc<RevisionTarget> {
        Arc::new(RevisionTarget {
            revision: ObjectKey::new("default", name),
            uid: name.into(),
            service: "s".into(),
            configuration: "s".into(),
            shard: ShardId(0),
            container_concurrency: 0,
            timeout_ms: 1000,
            response_start_timeout_ms: 0,
            idle_timeout_ms: 0,
            h2c: false,
        })
    }

    fn table(split: &[(u32, &str)], tags: &[(&str, &str)]) -> RouteTable {
        let share = |(percent, name): &(u32, &str)| Share {
            percent: *percent,
            target: target(name),
        };
        let entry = HostEntry {
            route: ObjectKey::new("default", "s"),
            index: LogIndex(1),
            tag: None,
            split: split.iter().map(share).collect(),
            tags: tags
                .iter()
                .map(|(tag, name)| ((*tag).into(), target(name)))
                .collect(),
        };
        let hosts = BTreeMap::from([("s.default.localhost".into(), Arc::new(entry))]);
        RouteTable {
            index: LogIndex(1),
            hosts,
        }
    }

    #[test]
    fn shares_are_exact_to_half_a_percent() {
        let (router, table) = (
            Router::default(),
            table(&[(90, "a"), (10, "b"), (0, "c")], &[]),
        );
        let mut counts: HashMap<String, u32> = HashMap::new();
        for _ in 0..10_000 {
            let target = router.route(&table, "s.default.localhost", None).unwrap();
            *counts.entry(target.revision.name.to_string()).or_default() += 1;
        }
        assert!(
            counts["a"].abs_diff(9_000) <= 50 && counts["b"].abs_diff(1_000) <= 50,
            "{counts:?}"
        );
        assert!(!counts.contains_key("c"));
    }

    #[test]
    fn hosts_are_normalised_and_unknown_ones_are_not_found() {
        let (router, table) = (Router::default(), table(&[(100, "a")], &[]));
        for host in [
            "S.default.LOCALHOST:8080",
            "s.default.localhost.",
            "s.default.localhost",
        ] {
            assert!(router.route(&table, host, None).is_some(), "{host}");
        }
        assert!(router.route(&table, "x.default.localhost", None).is_none());
    }

    #[test]
    fn a_tag_selects_and_an_unknown_one_does_not() {
        let (router, table) = (Router::default(), table(&[(100, "a")], &[("old", "b")]));
        let name = |tag| {
            let target = router.route(&table, "s.default.localhost", tag).unwrap();
            target.revision.name.to_string()
        };
        assert_eq!(
            [name(Some("old")), name(Some("new")), name(None)],
            ["b", "a", "a"]
        );
    }
}
