//! Traffic of one service, switched between two revisions that both keep their instances.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::bail;
use nihilo_types::condition::types;
use nihilo_types::route::TrafficTarget;
use nihilo_types::service::Service;

use super::WEB;
use crate::cluster::{Cluster, NAMESPACE, host_of};
use crate::http::{Connection, get};

pub(super) const REVISIONS: [&str; 2] = ["web-a", "web-b"];
const READY_LIMIT: Duration = Duration::from_secs(20);
/// Part of what is measured, so much smaller than that.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Of load between two switches.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Switch {
    /// From the call to the first look that sees the Service Ready.
    pub(super) to_ready: Duration,
    /// Gateways that answered a request made after that from the old revision.
    pub(super) n_stale: usize,
}

/// All traffic to the first revision.
pub(super) async fn begin(cluster: &Cluster) -> anyhow::Result<()> {
    switch(cluster, REVISIONS[0]).await.map(drop)
}

pub(super) async fn run(
    cluster: &Cluster,
    gateways: &[SocketAddr],
    n: usize,
) -> anyhow::Result<Vec<Switch>> {
    let mut switches = Vec::new();
    for to in REVISIONS.iter().cycle().skip(1).take(n) {
        let to_ready = switch(cluster, to).await?;
        let n_stale = tokio::task::block_in_place(|| stale(gateways, to))?;
        switches.push(Switch { to_ready, n_stale });
        tokio::time::sleep(PAUSE).await;
    }
    Ok(switches)
}

async fn switch(cluster: &Cluster, to: &str) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let client = &cluster.client;
    client.set_traffic(NAMESPACE, WEB, &traffic(to)).await?;
    while !is_switched(&client.service(NAMESPACE, WEB).await?.object, to) {
        if started.elapsed() > READY_LIMIT {
            bail!("the switch to {to} is not Ready after {READY_LIMIT:?}");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(started.elapsed())
}

/// A tag keeps a revision without traffic as warm as the other.
fn traffic(to: &str) -> Vec<TrafficTarget> {
    let target = |name: &str| TrafficTarget {
        tag: name.into(),
        revision_name: name.into(),
        percent: Some(if name == to { 100 } else { 0 }),
        ..TrafficTarget::default()
    };
    REVISIONS.map(target).into()
}

fn is_switched(service: &Service, to: &str) -> bool {
    let status = &service.status;
    let serves = |target: &TrafficTarget| target.revision_name == to && target.percent == Some(100);
    status.observed_generation == service.metadata.generation
        && status.conditions.is_true(types::READY)
        && status.traffic.iter().any(serves)
}

fn stale(gateways: &[SocketAddr], to: &str) -> anyhow::Result<usize> {
    let mut n_stale = 0;
    for gateway in gateways {
        let answer = Connection::open(*gateway)?.exchange(&get(&host_of(WEB)))?;
        if answer.status != 200 {
            bail!("{WEB} answered {}", answer.status);
        }
        n_stale += usize::from(answer.header("nihilo-revision") != to);
    }
    Ok(n_stale)
}
