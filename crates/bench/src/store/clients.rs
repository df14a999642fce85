//! Clients that write or read one after the other over gRPC, the same for both stores: each with
//! a connection of its own to the leader, and one call under way.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use nihilo_machine::Command;
use nihilo_machine::command::{OpenSession, Roles};
use nihilo_types::id::NodeId;
use nihilo_wire::codec;
use nihilo_wire::internal as pb;
use nihilo_wire::internal::raft_client::RaftClient;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

use crate::etcd::kv::Kv;
use crate::lease::node::CLUSTER;

/// etcd's value; ours is a command whose name fills up to about the same.
pub(super) const VALUE_BYTES: usize = 256;
const MAX_LATENCY_US: u64 = 60_000_000;
/// A call that waits longer has failed, and the measurement with it.
const CALL_LIMIT: Duration = Duration::from_secs(20);

/// What a client does again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Durable ones, each in place of the client's last.
    Write,
    /// Linearizable ones of the client's own key. Ours is the leader's word that the state it has is
    /// new enough: the value would come from that node's memory.
    Read,
}

/// The leader that is called.
#[derive(Debug, Clone)]
pub(super) enum Target {
    Ours { address: String, leader: u64 },
    Etcd(String),
}

/// What came of one measurement.
#[derive(Debug)]
pub(super) struct Done {
    elapsed: Duration,
    latencies: Histogram<u64>,
    /// Of all nodes, the warm-up included.
    pub(super) n_fsyncs: u64,
    pub(super) n_with_warm_up: u64,
}

impl Done {
    pub(super) fn n_acked(&self) -> u64 {
        self.latencies.len()
    }

    pub(super) fn rate(&self) -> f64 {
        self.n_acked() as f64 / self.elapsed.as_secs_f64()
    }

    pub(super) fn latency_ms(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64 / 1e3
    }

    pub(super) fn acks_per_fsync(&self) -> f64 {
        self.n_with_warm_up as f64 / self.n_fsyncs.max(1) as f64
    }
}

/// One connection.
enum Client {
    Ours(Box<RaftClient<Channel>>, pb::Identity),
    Etcd(Kv),
}

/// Calls with `n_clients` for `lasts`. A client that is to read writes its key once before.
///
/// # Errors
/// The first call that failed.
pub(super) async fn call(
    target: &Target,
    work: Work,
    n_clients: usize,
    lasts: Duration,
) -> anyhow::Result<Done> {
    let mut clients = Vec::new();
    for id in (0..).take(n_clients) {
        let mut client = Client::connect(target).await?;
        if work == Work::Read {
            client.write(id, 0).await?;
        }
        clients.push(client);
    }
    let started = Instant::now();
    let end = started + lasts;
    let mut tasks = JoinSet::new();
    for (id, client) in (0..).zip(clients) {
        tasks.spawn(call_until(client, work, id, end));
    }
    let mut latencies = Histogram::new_with_max(MAX_LATENCY_US, 3)?;
    while let Some(task) = tasks.join_next().await {
        latencies.add(task.context("a client panicked")??)?;
    }
    Ok(Done {
        elapsed: started.elapsed(),
        latencies,
        n_fsyncs: 0,
        n_with_warm_up: 0,
    })
}

async fn call_until(
    mut client: Client,
    work: Work,
    id: u64,
    end: Instant,
) -> anyhow::Result<Histogram<u64>> {
    let mut latencies = Histogram::new_with_max(MAX_LATENCY_US, 3)?;
    let mut n = 0;
    while Instant::now() < end {
        let started = Instant::now();
        let once = async {
            match work {
                Work::Write => client.write(id, n).await,
                Work::Read => client.read(id).await,
            }
        };
        tokio::time::timeout(CALL_LIMIT, once)
            .await
            .context("a call was not answered")??;
        n += 1;
        let us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        latencies.saturating_record(us);
    }
    Ok(latencies)
}

impl Client {
    async fn connect(target: &Target) -> anyhow::Result<Self> {
        let (Target::Ours { address, .. } | Target::Etcd(address)) = target;
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true);
        let channel = endpoint
            .connect()
            .await
            .with_context(|| format!("connect to {address}"))?;
        Ok(match target {
            Target::Ours { leader, .. } => {
                let identity = pb::Identity {
                    cluster_id: CLUSTER.into(),
                    from_node: 0,
                    target_node: *leader,
                    ..pb::Identity::default()
                };
                Client::Ours(Box::new(RaftClient::new(channel)), identity)
            }
            Target::Etcd(_) => Client::Etcd(Kv::new(channel)),
        })
    }

    async fn write(&mut self, id: u64, n: u64) -> anyhow::Result<()> {
        match self {
            Client::Ours(client, identity) => {
                let request = pb::ProposeRequest {
                    identity: Some(identity.clone()),
                    command: codec::encode_command(&command(id, n)),
                    ..pb::ProposeRequest::default()
                };
                let answer = client.propose(request).await?.into_inner();
                let reply = codec::decode_reply(&answer.reply)?;
                if let Err(rejection) = reply.result {
                    bail!("refused: {rejection}");
                }
            }
            Client::Etcd(kv) => {
                let mut value = format!("{n:016}").into_bytes();
                value.resize(VALUE_BYTES, b'v');
                kv.put(id.to_be_bytes().to_vec(), value).await?;
            }
        }
        Ok(())
    }

    async fn read(&mut self, id: u64) -> anyhow::Result<()> {
        match self {
            Client::Ours(client, identity) => {
                let identity = Some(identity.clone());
                client.read_index(pb::ReadIndexRequest { identity }).await?;
            }
            Client::Etcd(kv) => {
                let found = kv.range(&id.to_be_bytes(), &[]).await?;
                if found.values.is_empty() {
                    bail!("what client {id} wrote is not there");
                }
            }
        }
        Ok(())
    }
}

/// Replaces the client's last one, as a `put` of the same key does.
fn command(client: u64, n: u64) -> Command {
    Command::OpenSession(OpenSession {
        node: NodeId(1_000 + client),
        name: "replaced".into(),
        boot_id: format!("{n:016}"),
        roles: Roles {
            control: false,
            gateway: false,
            agent: false,
        },
        peer_address: String::new(),
        gateway_address: String::new(),
        admin_address: String::new(),
        pid: 1,
        capacity: 1,
        t_self_ms: 900,
        kills_instances_on_exit: true,
        store_id: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_command_is_at_least_as_long_as_etcds_value() {
        let length = codec::encode_command(&command(255, 1_000_000)).len();
        assert!(
            (VALUE_BYTES..VALUE_BYTES + 32).contains(&length),
            "{length}"
        );
    }
}
