//! Three etcd members on loopback with etcd's defaults, and the one call of its API that is
//! needed, written down by hand.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tempfile::TempDir;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use crate::Common;
use crate::proc::Running;

const N_MEMBERS: usize = 3;
const READY_LIMIT: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// etcd's own counts of what it has synced: its log, and its database.
const FSYNCS: [&str; 2] = [
    "etcd_disk_wal_fsync_duration_seconds_count",
    "etcd_disk_backend_commit_duration_seconds_count",
];
const IS_LEADER: &str = "etcd_server_is_leader";

/// Ends with its value.
#[derive(Debug)]
pub(super) struct Etcd {
    members: Vec<(SocketAddr, Running)>,
    _dir: TempDir,
}

impl Etcd {
    pub(super) fn start(program: &Path, common: &Common) -> anyhow::Result<Self> {
        let below = common.work_dir()?;
        std::fs::create_dir_all(&below)?;
        let dir = tempfile::Builder::new().prefix("etcd-").tempdir_in(below)?;
        let addresses = free_addresses(2 * N_MEMBERS)?;
        let (clients, peers) = addresses.split_at(N_MEMBERS);
        let cluster = (1..).zip(peers).map(|(n, at)| format!("m{n}=http://{at}"));
        let cluster = cluster.collect::<Vec<_>>().join(",");
        let member = |n: usize| {
            let (client, peer) = (
                format!("http://{}", clients[n]),
                format!("http://{}", peers[n]),
            );
            let mut command = Command::new(program);
            command
                .args(["--name", &format!("m{}", n + 1)])
                .arg("--data-dir")
                .arg(dir.path().join(n.to_string()))
                .args(["--listen-client-urls", &client])
                .args(["--advertise-client-urls", &client])
                .args(["--listen-peer-urls", &peer])
                .args(["--initial-advertise-peer-urls", &peer])
                .args(["--initial-cluster", &cluster])
                .args(["--logger", "zap", "--log-level", "error"]);
            Ok((clients[n], Running::spawn(&mut command)?))
        };
        let members = (0..N_MEMBERS).map(member).collect::<anyhow::Result<_>>()?;
        Ok(Self { members, _dir: dir })
    }

    /// Client address of the leader, once there is one.
    pub(super) async fn leader(&self) -> anyhow::Result<String> {
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            for (address, _) in &self.members {
                // A member that does not answer yet does not lead yet.
                let leads = metric(*address, IS_LEADER).unwrap_or(0);
                if leads == 1 {
                    return Ok(address.to_string());
                }
            }
            if Instant::now() > deadline {
                bail!("etcd has no leader after {} s", READY_LIMIT.as_secs());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Of all members.
    pub(super) fn n_fsyncs(&self) -> anyhow::Result<u64> {
        let mut n = 0;
        for (address, _) in &self.members {
            for name in FSYNCS {
                n += metric(*address, name)?;
            }
        }
        Ok(n)
    }
}

fn free_addresses(n: usize) -> anyhow::Result<Vec<SocketAddr>> {
    let listeners: Vec<_> = (0..n)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<Result<_, _>>()?;
    let addresses = listeners.iter().map(|listener| Ok(listener.local_addr()?));
    addresses.collect()
}

/// A counter of a member, by the Prometheus text that it serves.
fn metric(address: SocketAddr, name: &str) -> anyhow::Result<u64> {
    let mut stream = TcpStream::connect(address)?;
    // HTTP/1.0: the answer comes in one piece and ends with the connection.
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    value_in(&text, name).with_context(|| format!("etcd has no `{name}`"))
}

fn value_in(metrics: &str, name: &str) -> Option<u64> {
    let mut lines = metrics.lines().filter_map(|line| line.split_once(' '));
    let (_, value) = lines.find(|(key, _)| *key == name)?;
    // Counters may be written as floats.
    value.trim().parse::<f64>().ok().map(|value| value as u64)
}

/// `etcdserverpb.PutRequest`, as far as it is used.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
}

/// `etcdserverpb.PutResponse`; nothing in it is needed.
#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

/// Client of `etcdserverpb.KV`.
#[derive(Debug)]
pub(super) struct Kv(Grpc<Channel>);

impl Kv {
    pub(super) fn new(channel: Channel) -> Self {
        Self(Grpc::new(channel))
    }

    pub(super) async fn put(&mut self, request: PutRequest) -> Result<(), Status> {
        let not_ready = |error: tonic::transport::Error| Status::unavailable(error.to_string());
        self.0.ready().await.map_err(not_ready)?;
        let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
        let codec = ProstCodec::<PutRequest, PutResponse>::default();
        self.0.unary(Request::new(request), path, codec).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_their_whole_name() {
        let text = "# TYPE a counter\na_total 1\na 2.1e+03\nb 7\n";
        assert_eq!(
            (value_in(text, "a"), value_in(text, "b")),
            (Some(2_100), Some(7))
        );
        assert_eq!(value_in(text, "c"), None);
    }
}
