//! Three etcd members on loopback with etcd's defaults.

pub(crate) mod kv;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tempfile::TempDir;

use crate::Common;
use crate::proc::{self, Running};

const N_MEMBERS: usize = 3;
const READY_LIMIT: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// What etcd elects by unless told otherwise.
pub(crate) const TIMING: &str = "heartbeat 100 ms, election 1000 ms";
/// etcd's own counts of what it has synced: its log, and its database.
const FSYNCS: [&str; 2] = [
    "etcd_disk_wal_fsync_duration_seconds_count",
    "etcd_disk_backend_commit_duration_seconds_count",
];
const IS_LEADER: &str = "etcd_server_is_leader";
const HAS_LEADER: &str = "etcd_server_has_leader";

/// Ends with its value.
#[derive(Debug)]
pub(crate) struct Etcd {
    members: Vec<Member>,
    _dir: TempDir,
}

#[derive(Debug)]
struct Member {
    address: SocketAddr,
    /// Starts it, again too.
    command: Command,
    process: Running,
}

impl Etcd {
    pub(crate) fn start(program: &Path, common: &Common) -> anyhow::Result<Self> {
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
            Ok(Member {
                address: clients[n],
                process: Running::spawn(&mut command)?,
                command,
            })
        };
        let members = (0..N_MEMBERS).map(member).collect::<anyhow::Result<_>>()?;
        Ok(Self { members, _dir: dir })
    }

    /// Client address of each member.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = String> + use<'_> {
        self.members.iter().map(|member| member.address.to_string())
    }

    /// Client address of the leader, once there is one.
    pub(crate) async fn leader(&self) -> anyhow::Result<String> {
        let leader = self.leading().await?;
        Ok(self.members[leader].address.to_string())
    }

    async fn leading(&self) -> anyhow::Result<usize> {
        let leads = |member: &Member| member.says(IS_LEADER);
        until(|| self.members.iter().position(leads))
            .await
            .context("etcd has no leader")
    }

    /// Kills the leader; returns when the signal was sent.
    ///
    /// # Errors
    /// There is none.
    pub(crate) async fn kill_leader(&mut self) -> anyhow::Result<tokio::time::Instant> {
        let leader = self.leading().await?;
        let pid = self.members[leader].process.pid();
        let killed_at = tokio::time::Instant::now();
        proc::kill(pid.cast_unsigned())?;
        Ok(killed_at)
    }

    /// Starts the members that do not run, on the data that they left, and waits until all know a
    /// leader.
    pub(crate) async fn start_missing(&mut self) -> anyhow::Result<()> {
        for member in &mut self.members {
            if member.process.has_ended() {
                member.process = Running::spawn(&mut member.command)?;
            }
        }
        let all_follow = || {
            let mut members = self.members.iter();
            members.all(|member| member.says(HAS_LEADER)).then_some(())
        };
        until(all_follow)
            .await
            .context("an etcd member is not back")
    }

    /// Of all members.
    pub(crate) fn n_fsyncs(&self) -> anyhow::Result<u64> {
        let mut n = 0;
        for member in &self.members {
            for name in FSYNCS {
                n += metric(member.address, name)?;
            }
        }
        Ok(n)
    }
}

impl Member {
    /// One that does not answer says nothing.
    fn says(&self, gauge: &str) -> bool {
        metric(self.address, gauge).is_ok_and(|value| value == 1)
    }
}

/// Looks until there is something.
async fn until<T>(mut look: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
    let deadline = Instant::now() + READY_LIMIT;
    loop {
        if let Some(seen) = look() {
            return Ok(seen);
        }
        if Instant::now() > deadline {
            bail!("not within {} s", READY_LIMIT.as_secs());
        }
        tokio::time::sleep(LOOK_EVERY).await;
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
