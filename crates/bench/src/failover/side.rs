//! What is killed: our cluster or etcd's, by the same few steps.

use std::path::Path;

use anyhow::{Context, bail};
use nihilo_types::node_config::NodeConfig;
use tokio::time::Instant;

use super::node::Node;
use crate::cluster::Cluster;
use crate::etcd::Etcd;
use crate::etcd::kv::Kv;
use crate::{Common, proc};

#[derive(Debug)]
pub(super) enum Side {
    Ours(Box<Cluster>),
    Etcd(Etcd),
}

impl Side {
    pub(super) async fn etcd(program: &Path, common: &Common) -> anyhow::Result<Self> {
        let etcd = Etcd::start(program, common)?;
        etcd.leader().await?;
        Ok(Side::Etcd(etcd))
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Side::Ours(_) => "nihilo",
            Side::Etcd(_) => "etcd",
        }
    }

    pub(super) fn nodes(&self) -> anyhow::Result<Vec<Node>> {
        match self {
            Side::Ours(cluster) => {
                let addresses = cluster.configs.iter().map(NodeConfig::admin_address);
                addresses.map(|address| Node::ours(&address)).collect()
            }
            Side::Etcd(etcd) => etcd.addresses().map(|at| Node::etcd(&at)).collect(),
        }
    }

    /// Term of consensus: it grows by one with every try to elect.
    pub(super) async fn term(&self) -> anyhow::Result<u64> {
        match self {
            Side::Ours(cluster) => Ok(cluster.status().await?.term),
            Side::Etcd(etcd) => {
                let leader = etcd.leader().await?;
                let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{leader}"))?;
                let mut kv = Kv::new(endpoint.connect().await?);
                Ok(kv.range(b"term", &[]).await?.term)
            }
        }
    }

    /// Kill -9 of the leader; returns when the signal was sent.
    pub(super) async fn kill_leader(&mut self) -> anyhow::Result<Instant> {
        match self {
            Side::Ours(cluster) => {
                let leader = cluster.leader().await?;
                if !cluster.pids()?.contains(&leader.pid.cast_signed()) {
                    bail!("{} is no node of this cluster", leader.name);
                }
                let killed_at = Instant::now();
                proc::kill(leader.pid)?;
                Ok(killed_at)
            }
            Side::Etcd(etcd) => etcd.kill_leader().await,
        }
    }

    /// Starts what was killed and waits until it takes part again.
    pub(super) async fn start_missing(&mut self) -> anyhow::Result<()> {
        match self {
            Side::Ours(cluster) => cluster.start_missing(),
            Side::Etcd(etcd) => etcd.start_missing().await,
        }
        .with_context(|| format!("restart of {}", self.name()))
    }
}
