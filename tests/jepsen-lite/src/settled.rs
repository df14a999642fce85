//! What a trial looks at when its cluster has come to rest: that it stays there, and that nothing
//! on the host is without a home.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nihilo_sim::checker::convergence::{self, HOLDS_NS, MAX_GAP_NS, Sample};
use nihilo_sim::checker::orphans::{self, Found, PROCESS};
use tokio::time::Instant;

use crate::clock::{self, boottime_ns};
use crate::proc_scan;
use crate::trial::Trial;
use crate::workload::services::NAMESPACE;

const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The fixpoint must have begun by then, and hold for three seconds more.
const WITHIN: Duration = Duration::from_secs(30);
/// What begins and ends while the host is scanned is nobody's orphan: a scan is repeated.
const SCAN_LIMIT: Duration = Duration::from_secs(5);

impl Trial {
    /// Watches the cluster, from which all load has gone, until it has been at rest for long
    /// enough, or for a limit: the checker judges.
    ///
    /// # Errors
    /// No client.
    pub async fn until_settled(&mut self) -> anyhow::Result<()> {
        let healed_ns = boottime_ns();
        let deadline = Instant::now() + WITHIN + Duration::from_nanos(2 * HOLDS_NS);
        let client = self.admin()?;
        let mut samples: Vec<Sample> = Vec::new();
        let mut still_since = healed_ns;
        while Instant::now() < deadline {
            let Ok(sample) = self.sample(&client).await else {
                continue;
            };
            let before_ns = samples.last().map_or(sample.at_ns, |before| before.at_ns);
            // On a busy machine a look may come late: the time at rest begins anew then.
            if !is_at_rest(&sample) || sample.at_ns - before_ns > MAX_GAP_NS {
                still_since = sample.at_ns;
            }
            let is_over = sample.at_ns - still_since > HOLDS_NS + HOLDS_NS / 3;
            samples.push(sample);
            if is_over {
                break;
            }
            clock::pause(LOOK_EVERY).await;
        }
        self.evidences.settled.push(convergence::Input {
            healed_ns,
            within_ns: u64::try_from(WITHIN.as_nanos()).unwrap_or(u64::MAX),
            samples,
        });
        Ok(())
    }

    /// Without load every revision of a trial wants nothing.
    async fn sample(&self, client: &nihilo_client::Client) -> anyhow::Result<Sample> {
        let at_ns = boottime_ns();
        let ledger = self.ledger.clone();
        let scan = tokio::task::spawn_blocking(move || proc_scan::instances(&ledger));
        let status = client.cluster_status().await?;
        let mut running: BTreeMap<String, u32> = BTreeMap::new();
        let mut desired: BTreeMap<String, u32> = BTreeMap::new();
        for process in scan.await? {
            let revision = revision_of(&process.instance);
            desired.entry(revision.clone()).or_insert(0);
            *running.entry(revision).or_insert(0) += 1;
        }
        let newest = status.nodes.iter().map(|node| node.table).max();
        let names = self.cluster.running();
        let names: BTreeSet<_> = names
            .into_iter()
            .map(|node| self.cluster.nodes[node].name().to_owned())
            .collect();
        Ok(Sample {
            at_ns,
            desired,
            running,
            store_table_version: newest.unwrap_or(0),
            gateway_table_version: status
                .nodes
                .iter()
                .filter(|node| node.session != 0)
                .map(|node| (node.name.clone(), node.table))
                .collect(),
            leaked_sessions: status
                .nodes
                .iter()
                .filter(|node| node.session != 0 && !names.contains(&node.name))
                .map(|node| node.name.clone())
                .collect(),
        })
    }

    /// Compares the host's processes with what the agents list, once both say the same twice.
    ///
    /// # Errors
    /// No client.
    pub async fn look_for_orphans(&mut self) -> anyhow::Result<()> {
        let client = self.admin()?;
        let deadline = Instant::now() + SCAN_LIMIT;
        let healed_ns = boottime_ns();
        loop {
            let input = self.scan_host(&client, healed_ns).await?;
            let is_clean = !matches!(
                orphans::check(&input),
                nihilo_sim::checker::Verdict::Violation(_)
            );
            if is_clean || Instant::now() >= deadline {
                self.evidences.host_scans.push(input);
                return Ok(());
            }
            clock::pause(LOOK_EVERY).await;
        }
    }

    async fn scan_host(
        &self,
        client: &nihilo_client::Client,
        healed_ns: u64,
    ) -> anyhow::Result<orphans::Input> {
        let found = proc_scan::instances(&self.ledger);
        let told = client.instances(Some(NAMESPACE), "").await?;
        let revisions = client.revisions(None, "").await?.items;
        let revisions: BTreeSet<_> = revisions.into_iter().map(|r| r.metadata.name).collect();
        let scanned_ns = boottime_ns();
        let nodes = self.cluster.running().into_iter();
        let mut listed: BTreeMap<String, BTreeSet<String>> = nodes
            .map(|node| (self.cluster.nodes[node].name().to_owned(), BTreeSet::new()))
            .collect();
        let mut stored = BTreeSet::new();
        for item in told.items {
            let runs = !matches!(
                item.state.as_str(),
                "Preparing" | "Starting" | "Exited" | "Destroyed"
            );
            if runs {
                listed.entry(item.node).or_default().insert(item.id.clone());
            }
            if revisions.contains(&item.revision) {
                stored.insert(item.id);
            }
        }
        Ok(orphans::Input {
            healed_ns,
            scanned_ns,
            // Instances of a killed node die with it: nothing has to be swept.
            swept_after_ns: 0,
            found: found
                .into_iter()
                .map(|process| Found {
                    kind: PROCESS.to_owned(),
                    id: process.pid.to_string(),
                    instance: process.instance,
                })
                .collect(),
            listed,
            stored,
        })
    }
}

fn is_at_rest(sample: &Sample) -> bool {
    let tables = sample.gateway_table_version.values();
    let is_same = tables
        .into_iter()
        .all(|version| *version == sample.store_table_version);
    sample.running == sample.desired && is_same && sample.leaked_sessions.is_empty()
}

/// `{revision}-{epoch}-{counter}`.
fn revision_of(instance: &str) -> String {
    let mut parts = instance.rsplitn(3, '-');
    parts.nth(2).unwrap_or(instance).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_names_its_revision() {
        assert_eq!(revision_of("of1-0-00001-2w-d4"), "of1-0-00001");
    }
}
