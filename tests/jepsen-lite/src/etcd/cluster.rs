//! Three etcd members, each a process with a directory of its own, started and ended by this
//! program.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::client::{Member, Reads};
use crate::backend::{N_NODES, Network, NodeIndex, Place};
use crate::clock;
use crate::judge::node_name;
use crate::probe::Slot;

/// Start, log replay and an election, on a machine that other work shares.
const WHOLE_LIMIT: Duration = Duration::from_secs(60);
const LEADER_LIMIT: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);
const ASK_LIMIT: Duration = Duration::from_secs(1);
/// A killed process is gone by then, unless the kernel is stuck.
const KILL_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Cluster {
    processes: Vec<Process>,
    /// `host:port` of clients, by node.
    addresses: Vec<String>,
    /// Removed after the processes in it.
    network: Option<Network>,
    /// Its ports stay reserved as long as the cluster lives.
    _slot: Slot,
}

#[derive(Debug)]
struct Process {
    node: NodeIndex,
    /// Program and arguments.
    line: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

/// What etcd says of itself, e.g. `3.4.23`.
///
/// # Errors
/// There is no `etcd`.
pub(super) fn version() -> anyhow::Result<String> {
    let output = std::process::Command::new("etcd").arg("--version").output();
    let output = output.context("`etcd`: apt-get install etcd-server")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("etcd Version: "));
    Ok(version
        .context("`etcd --version` names none")?
        .trim()
        .to_owned())
}

impl Cluster {
    /// Starts three members with their state below `dir` and waits until they serve.
    ///
    /// # Errors
    /// They do not come up.
    pub(super) async fn start(dir: &Path, place: Place) -> anyhow::Result<Self> {
        let slot = Slot::take()?;
        let network = match place {
            Place::Network => Some(Network::create()?),
            _ => None,
        };
        std::fs::create_dir_all(dir)?;
        let host = |node| match &network {
            None => Ipv4Addr::LOCALHOST,
            Some(network) => network.address(node),
        };
        let at = |port: fn(&Slot, u16) -> u16| {
            let address = |(number, node)| format!("{}:{}", host(node), port(&slot, number));
            (0..).zip(0..N_NODES).map(address).collect::<Vec<_>>()
        };
        let (addresses, peers) = (at(Slot::admin), at(Slot::peer));
        let process = |node: NodeIndex| {
            let namespace = network.as_ref().map(|network| network.namespace(node));
            Process {
                node,
                line: line(dir, node, namespace, &addresses, &peers),
                log: dir.join(format!("{}.log", node_name(node))),
                child: None,
            }
        };
        let mut cluster = Self {
            processes: (0..N_NODES).map(process).collect(),
            addresses,
            network,
            _slot: slot,
        };
        for node in 0..N_NODES {
            cluster.start_node(node)?;
        }
        cluster.until_whole().await?;
        Ok(cluster)
    }

    pub(super) fn start_node(&mut self, node: NodeIndex) -> anyhow::Result<()> {
        self.processes[node].start()
    }

    /// kill -9; returns when the process is gone.
    pub(super) async fn kill(&mut self, node: NodeIndex) -> anyhow::Result<()> {
        self.signal(node, Signal::KILL)?;
        let process = &mut self.processes[node];
        let mut child = process.child.take().context("no process")?;
        let gone = tokio::time::timeout(KILL_LIMIT, child.wait()).await;
        gone.with_context(|| format!("{} does not end", node_name(node)))??;
        Ok(())
    }

    pub(super) fn signal(&self, node: NodeIndex, signal: Signal) -> anyhow::Result<()> {
        let id = self.processes[node].child.as_ref().and_then(Child::id);
        // A child is not reaped before it is given up, so its pid is still its own.
        let pid = id.and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let pid = pid.with_context(|| format!("{} does not run", node_name(node)))?;
        Ok(kill_process(pid, signal)?)
    }

    /// The network whose links can be cut.
    pub(super) fn network(&self) -> anyhow::Result<&Network> {
        let network = self.network.as_ref();
        network.context("on loopback there are no links to cut")
    }

    /// A client of one member, whose calls end after `limit`.
    pub(super) fn member(&self, node: NodeIndex, limit: Duration) -> anyhow::Result<Member> {
        Member::connect_lazy(&self.addresses[node], limit)
    }

    fn members(&self) -> anyhow::Result<Vec<Member>> {
        let members = (0..N_NODES).map(|node| self.member(node, ASK_LIMIT));
        members.collect()
    }

    /// Who leads; waits for an election that is under way.
    pub(super) async fn leader(&self) -> anyhow::Result<NodeIndex> {
        let members = self.members()?;
        let leader = clock::until(LEADER_LIMIT, LOOK_EVERY, || async {
            for (node, member) in members.iter().enumerate() {
                if let Ok(Some(true)) = member.leads().await {
                    return Ok(node);
                }
            }
            Err("nobody leads".to_owned())
        });
        leader.await.map_err(anyhow::Error::msg)
    }

    /// Waits until all members answer reads that need a quorum.
    pub(super) async fn until_whole(&mut self) -> anyhow::Result<()> {
        let members = self.members()?;
        let whole = clock::until(WHOLE_LIMIT, LOOK_EVERY, || async {
            for (node, member) in members.iter().enumerate() {
                let answer = member.get("whole", Reads::Linearizable).await;
                answer.map_err(|status| format!("{}: {status}", node_name(node)))?;
            }
            Ok(())
        });
        whole.await.map_err(anyhow::Error::msg)?;
        self.no_crash()
    }

    /// A member that ended by itself is not what is tried here.
    fn no_crash(&mut self) -> anyhow::Result<()> {
        for process in &mut self.processes {
            let ended = process.child.as_mut().map(Child::try_wait).transpose()?;
            let name = node_name(process.node);
            ensure!(!matches!(ended, Some(Some(_))), "{name} ended by itself");
        }
        Ok(())
    }
}

impl Process {
    /// Only from the thread that lives as long as the program: the member ends with it.
    fn start(&mut self) -> anyhow::Result<()> {
        let name = node_name(self.node);
        ensure!(self.child.is_none(), "{name} runs already");
        let log = File::options().create(true).append(true).open(&self.log)?;
        let (program, arguments) = self.line.split_first().context("no command")?;
        let child = Command::new(program)
            .args(arguments)
            // A variable that begins with `ETCD_` is an option, and a proxy is no peer.
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn();
        self.child = Some(child.with_context(|| program.clone())?);
        Ok(())
    }
}

/// The process is etcd's in the end, whoever starts it: all keep their pid.
fn line(
    dir: &Path,
    node: NodeIndex,
    namespace: Option<String>,
    clients: &[String],
    peers: &[String],
) -> Vec<String> {
    let mut line: Vec<String> = Vec::new();
    if let Some(namespace) = namespace {
        line.extend(["ip", "netns", "exec"].map(str::to_owned));
        line.push(namespace);
    }
    // Nothing is left behind, however this program ends.
    line.extend(["setpriv", "--pdeathsig", "KILL", "etcd"].map(str::to_owned));
    let (client, peer) = (
        format!("http://{}", clients[node]),
        format!("http://{}", peers[node]),
    );
    let members = peers.iter().enumerate();
    let members = members.map(|(node, peer)| format!("{}=http://{peer}", node_name(node)));
    let members = members.collect::<Vec<_>>().join(",");
    let name = node_name(node);
    let data = dir.join(&name).display().to_string();
    let options = [
        ("--name", name.as_str()),
        ("--data-dir", &data),
        ("--listen-client-urls", &client),
        ("--advertise-client-urls", &client),
        ("--listen-peer-urls", &peer),
        ("--initial-advertise-peer-urls", &peer),
        ("--initial-cluster", &members),
        ("--logger", "zap"),
        ("--log-level", "warn"),
    ];
    line.extend(
        options
            .iter()
            .flat_map(|(name, value)| [*name, *value])
            .map(str::to_owned),
    );
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_member_knows_all_and_listens_where_it_lives() {
        let clients = ["h:1", "h:2", "h:3"].map(str::to_owned);
        let peers = ["h:4", "h:5", "h:6"].map(str::to_owned);
        let place = Some("space".to_owned());
        let line = line(Path::new("/d"), 1, place, &clients, &peers).join(" ");
        assert!(line.starts_with("ip netns exec space setpriv"), "{line}");
        assert!(
            line.contains("--data-dir /d/node2 --listen-client-urls http://h:2 "),
            "{line}"
        );
        assert!(
            line.contains("node1=http://h:4,node2=http://h:5,node3=http://h:6"),
            "{line}"
        );
    }
}
