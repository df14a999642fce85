//! Forgets what is kept of revisions and hosts to which no route leads any more. Lines are not its
//! business: they go by themselves once nobody stands in them.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use nihilo_types::endpoint::EndpointTable;
use nihilo_types::id::{LogIndex, ObjectKey};
use nihilo_types::route_table::RouteTable;
use tokio::time::Instant;

use crate::proxy::Plane;

/// A look at the whole route table is not for every change of it: there are many when services are
/// made in numbers.
pub(crate) const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// The last sweep: when, and by which route table.
pub(crate) type Swept = (Instant, LogIndex);

impl Plane {
    /// Does nothing most of the time it is called.
    pub(crate) fn forget_unrouted(&self) {
        let table = self.routes.load_full();
        {
            let mut swept = self.swept.lock();
            let (at, index) = *swept;
            if table.index == index || at.elapsed() < SWEEP_EVERY {
                return;
            }
            *swept = (Instant::now(), table.index);
        }
        let routed = routed(&table);
        forget_endpoints(&mut self.endpoints.lock(), &routed);
        self.router.forget_hosts_beyond(&table);
        self.around.metrics.forget_revisions_beyond(&routed);
    }
}

fn routed(table: &RouteTable) -> HashSet<&ObjectKey> {
    let entries = table.hosts.values();
    let targets = entries.flat_map(|entry| {
        let split = entry.split.iter().map(|share| &share.target);
        split.chain(entry.tags.values())
    });
    targets.map(|target| &target.revision).collect()
}

/// What still runs, or fails to start, is kept: a route may be about to lead to it. For one that is
/// routed even an empty table is, for its version.
fn forget_endpoints(tables: &mut HashMap<ObjectKey, EndpointTable>, routed: &HashSet<&ObjectKey>) {
    tables.retain(|revision, table| {
        let is_silent = table.instances.is_empty() && table.last_failure.is_empty();
        !is_silent || routed.contains(revision)
    });
}

#[cfg(test)]
mod tests {
    use nihilo_types::autoscaler::DataPath;
    use nihilo_types::id::Epoch;

    use super::*;

    fn silent(name: &str) -> (ObjectKey, EndpointTable) {
        let revision = ObjectKey::new("default", name);
        let table = EndpointTable {
            revision: revision.clone(),
            revision_uid: "u".into(),
            epoch: Epoch(1),
            seq: 1,
            data_path: DataPath::Proxy,
            instances: Vec::new(),
            last_failure: String::new(),
        };
        (revision, table)
    }

    #[test]
    fn only_what_says_nothing_and_is_not_routed_is_forgotten() {
        let (routed, table) = silent("routed");
        let (failing, mut failed) = silent("failing");
        failed.last_failure = "it broke".into();
        let mut tables = HashMap::from([
            (routed.clone(), table),
            (failing.clone(), failed),
            silent("deleted"),
        ]);
        forget_endpoints(&mut tables, &HashSet::from([&routed]));
        let mut left: Vec<_> = tables.into_keys().collect();
        left.sort();
        assert_eq!(left, [failing, routed]);
    }
}
