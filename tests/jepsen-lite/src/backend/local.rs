//! Three nodes on this machine, started by this program and ended by it: processes of its own, or
//! containers.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use nihilo_client::Client;
use nihilo_machine::ownership::preferred_node;
use nihilo_types::id::{NodeId, ObjectKey};
use nihilo_types::node_config::{Member, NodeConfig, OnNodeExit, Profile};
use nihilo_types::shard::{N_SHARDS, shard_of};
use nihilo_wire::cluster::StatusResponse;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::compose::Compose;
use super::{Disk, Ended, LocalNode, N_NODES, Network, NodeIndex, WallClock};
use crate::clock;
use crate::judge::node_name;
use crate::probe::Slot;
use crate::proxy::{Proxy, Shape};
use crate::seed::Random;

/// A debug build on a busy machine needs a few seconds, and its log replay too.
const WHOLE_LIMIT: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// An election under load on a machine that other work shares.
const LEADER_LIMIT: Duration = Duration::from_secs(30);
const ASK_LIMIT: Duration = Duration::from_secs(2);
/// The shortest that Knative allows.
pub(super) const TO_ZERO_GRACE: &str = "6s";
/// Instances of one node: more than any workload wants, fewer than a runaway would start.
pub(super) const CAPACITY: u32 = 30;
/// Long enough for every request of a workload.
pub(super) const SHUTDOWN_GRACE: u32 = 15;

/// Where the nodes live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Loopback,
    /// Each on an address of its own, with links that can be cut.
    Network,
    /// The same, with a proxy on every link.
    Proxied,
    /// On loopback, each with its state on a disk of its own.
    Disks,
    /// The shipped compose file's, each in a container that can be frozen and disconnected.
    Containers,
    /// On loopback, each with a time of day of its own.
    Clocks,
}

/// What a trial wants of every node.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub profile: Profile,
    pub on_node_exit: OnNodeExit,
    pub failover_fast_path: bool,
}

impl Settings {
    pub(super) fn write(self, config: &mut NodeConfig) {
        config.profile = self.profile;
        config.on_node_exit = Some(self.on_node_exit);
        config.failover_fast_path = self.failover_fast_path;
    }
}

#[derive(Debug)]
pub struct LocalCluster {
    pub nodes: Vec<LocalNode>,
    /// Lives of processes that are over.
    pub ended: Vec<Ended>,
    /// Removed with its containers when this goes.
    _compose: Option<Compose>,
    /// Names and directories of nodes that were removed and whose places others have, or nobody.
    pub retired: Vec<(String, PathBuf)>,
    pub(super) dir: PathBuf,
    pub(super) binary: PathBuf,
    pub(super) settings: Settings,
    /// What every node finds in its environment.
    pub(super) variables: Vec<(String, String)>,
    pub(super) n_joined: u64,
    /// Removed after the processes in it, as the disks are.
    pub(super) network: Option<Network>,
    /// By node; empty where the nodes share the machine's.
    disks: Vec<Disk>,
    /// By node; empty where the nodes have the machine's.
    wall_clocks: Vec<WallClock>,
    /// By the node that dials and the one that is reached.
    proxies: BTreeMap<(NodeIndex, NodeIndex), Proxy>,
    /// Its ports stay reserved as long as the cluster lives.
    pub(super) slot: Slot,
}

impl LocalCluster {
    /// Starts three nodes with their state below `dir` and waits until they serve.
    ///
    /// # Errors
    /// They do not come up.
    pub async fn start(
        dir: &Path,
        binary: PathBuf,
        settings: Settings,
        place: Place,
        variables: &[(String, String)],
    ) -> anyhow::Result<Self> {
        let slot = Slot::take()?;
        let network = match place {
            Place::Loopback | Place::Disks | Place::Clocks | Place::Containers => None,
            Place::Network | Place::Proxied => Some(Network::create()?),
        };
        std::fs::create_dir_all(dir)?;
        let disks = (0..N_NODES).filter(|_| place == Place::Disks).map(|node| {
            let name = node_name(node);
            Disk::create(dir.join(format!("{name}.img")), &dir.join(name))
        });
        let disks = disks.collect::<Result<_, _>>()?;
        let wall_clocks = wall_clocks(dir, place)?;
        let hosts = (0..N_NODES).map(|node| match &network {
            None => Ipv4Addr::LOCALHOST,
            Some(network) => network.address(node),
        });
        let hosts: Vec<_> = hosts.collect();
        let proxies = match &network {
            Some(network) if place == Place::Proxied => proxies(network, &slot).await?,
            _ => BTreeMap::new(),
        };
        let configs = (0..N_NODES).map(|node| config(dir, &slot, &hosts, node));
        let mut configs = configs.collect::<Result<Vec<_>, _>>()?;
        for config in &mut configs {
            settings.write(config);
        }
        let compose = match place {
            Place::Containers => Some(Compose::create(dir, &binary, &configs, variables)?),
            _ => None,
        };
        let nodes = (0..).zip(configs).map(|(node, config)| match &compose {
            Some(compose) => Ok(LocalNode::contained(config, compose.container(node))),
            None => {
                let namespace = network.as_ref().map(|network| network.namespace(node));
                let clock = wall_clocks.get(node).map(WallClock::variables);
                let variables = [variables, &clock.unwrap_or_default()].concat();
                LocalNode::prepare(config, namespace, variables)
            }
        });
        let mut cluster = Self {
            nodes: nodes.collect::<Result<_, _>>()?,
            ended: Vec::new(),
            retired: Vec::new(),
            dir: dir.to_owned(),
            binary,
            _compose: compose,
            settings,
            variables: variables.to_vec(),
            n_joined: 0,
            network,
            disks,
            wall_clocks,
            proxies,
            slot,
        };
        for node in 0..N_NODES {
            cluster.start_node(node)?;
        }
        let whole = cluster.until_whole(WHOLE_LIMIT).await;
        if whole.is_err() {
            // They say why, if anybody does.
            drop(cluster.save_output());
        }
        whole.map(|()| cluster)
    }

    /// Writes what containers have said to where processes write it by themselves.
    ///
    /// # Errors
    /// Docker does not tell.
    pub fn save_output(&self) -> anyhow::Result<()> {
        self.nodes.iter().try_for_each(LocalNode::save_output)
    }

    /// The disk that a node's state is on.
    ///
    /// # Errors
    /// The nodes share the machine's.
    pub fn disk(&mut self, node: NodeIndex) -> anyhow::Result<&mut Disk> {
        let disk = self.disks.get_mut(node);
        disk.context("the nodes have no disks of their own")
    }

    /// The time of day that a node has.
    ///
    /// # Errors
    /// The nodes have the machine's.
    pub fn wall_clock(&self, node: NodeIndex) -> anyhow::Result<&WallClock> {
        let clock = self.wall_clocks.get(node);
        clock.context("the nodes have no time of day of their own")
    }

    /// Gives the links that are hit a shape, from the dialling node to the one that is reached.
    ///
    /// # Errors
    /// There are no proxies.
    pub fn shape(
        &self,
        shape: Shape,
        is_hit: impl Fn(NodeIndex, NodeIndex) -> bool,
    ) -> anyhow::Result<()> {
        anyhow::ensure!(!self.proxies.is_empty(), "the links have no proxies");
        for ((from, to), proxy) in &self.proxies {
            if is_hit(*from, *to) {
                proxy.shape(shape);
            }
        }
        Ok(())
    }

    /// The network whose links can be cut.
    ///
    /// # Errors
    /// The nodes are on loopback.
    pub fn network(&self) -> anyhow::Result<&Network> {
        self.network
            .as_ref()
            .context("on loopback there are no links to cut")
    }

    /// # Errors
    /// No process, or it runs already.
    pub fn start_node(&mut self, node: NodeIndex) -> anyhow::Result<()> {
        self.nodes[node].start(&self.binary)
    }

    /// Returns when the last of its children was gone, if they are.
    ///
    /// # Errors
    /// It does not run, or cannot be killed.
    pub async fn kill(&mut self, node: NodeIndex) -> anyhow::Result<Option<u64>> {
        let (ended, childless_ns) = self.nodes[node].kill().await?;
        self.ended.push(ended);
        Ok(childless_ns)
    }

    /// # Errors
    /// It does not run, or does not end within its grace.
    pub async fn terminate(&mut self, node: NodeIndex) -> anyhow::Result<()> {
        let ended = self.nodes[node].terminate().await?;
        self.ended.push(ended);
        Ok(())
    }

    /// `host:port` of every gateway, by node.
    pub fn gateways(&self) -> Vec<String> {
        let addresses = self.nodes.iter().map(|node| node.config.gateway_address());
        addresses.collect()
    }

    /// A client of the admin API on `nodes` only.
    ///
    /// # Errors
    /// No node is named.
    pub fn client(&self, nodes: &[NodeIndex]) -> anyhow::Result<Client> {
        let servers = nodes
            .iter()
            .map(|node| self.nodes[*node].config.admin_address());
        Ok(Client::connect_lazy(servers.collect())?)
    }

    pub fn running(&self) -> Vec<NodeIndex> {
        (0..self.nodes.len())
            .filter(|node| self.nodes[*node].is_running())
            .collect()
    }

    /// Everybody but `node`.
    pub fn others(&self, node: NodeIndex) -> Vec<NodeIndex> {
        (0..self.nodes.len())
            .filter(|other| *other != node)
            .collect()
    }

    /// The owner of a service's shard in a whole cluster at rest.
    pub fn owner_of(&self, service: &str) -> Option<NodeIndex> {
        let shard = shard_of(&ObjectKey::new("default", service));
        let owner = preferred_node(shard, self.ids().map(NodeId))?;
        self.place_of(owner.0)
    }

    /// Ids of the nodes, by place.
    fn ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.nodes.iter().map(|node| node.config.node_id)
    }

    fn place_of(&self, id: u64) -> Option<NodeIndex> {
        self.ids().position(|of| of == id)
    }

    /// As [`Self::owner_of`], among the founders.
    pub fn preferred_owner(service: &str) -> NodeIndex {
        let shard = shard_of(&ObjectKey::new("default", service));
        let ids = (1..=N_NODES as u64).map(NodeId);
        let owner = preferred_node(shard, ids).map_or(1, |node| node.0);
        usize::try_from(owner - 1).unwrap_or(0)
    }

    /// A service name beginning with `prefix` whose shard prefers `owner`.
    pub fn name_owned_by(prefix: &str, owner: NodeIndex) -> String {
        let mut names = (0..).map(|n: u32| format!("{prefix}{n}"));
        names
            .find(|name| Self::preferred_owner(name) == owner)
            .unwrap_or_else(|| prefix.to_owned())
    }

    /// Who leads; waits for an election that is under way.
    ///
    /// # Errors
    /// No running node answers, or nobody leads within a limit.
    pub async fn leader(&self) -> anyhow::Result<NodeIndex> {
        let client = self.client(&self.running())?.with_timeout(ASK_LIMIT);
        let leader = clock::until(LEADER_LIMIT, LOOK_EVERY, || async {
            let status = client.cluster_status().await;
            let status = status.map_err(|error| error.to_string())?;
            let place = self.place_of(status.leader);
            place.ok_or_else(|| "nobody leads".to_owned())
        });
        leader.await.map_err(anyhow::Error::msg)
    }

    /// Waits until all nodes run, have joined, own the shards they prefer, and accept clients.
    ///
    /// # Errors
    /// What is missing after `limit`, or a node that ended by itself.
    pub async fn until_whole(&mut self, limit: Duration) -> anyhow::Result<()> {
        let all: Vec<_> = (0..self.nodes.len()).collect();
        let client = self.client(&all)?.with_timeout(ASK_LIMIT);
        let gateways = self.gateways();
        let shards = preferred_shards(self.ids());
        let whole = clock::until(limit, LOOK_EVERY, || {
            self.note_crashes();
            let crashed = self.ended.iter().any(|ended| !ended.wanted);
            let (client, gateways, shards) = (&client, &gateways, &shards);
            async move {
                if crashed {
                    return Ok(false);
                }
                let status = client.cluster_status().await;
                let status = status.map_err(|error| error.to_string())?;
                missing(&status, shards).map_or(Ok(()), Err)?;
                for gateway in gateways {
                    let answered = tokio::time::timeout(ASK_LIMIT, answers(gateway)).await;
                    let answers = matches!(answered, Ok(Ok(())));
                    if !answers {
                        return Err(format!("the gateway {gateway} is closed"));
                    }
                }
                Ok(true)
            }
        });
        let whole = whole.await.map_err(anyhow::Error::msg)?;
        anyhow::ensure!(whole, "a node ended by itself: {:?}", self.ended);
        Ok(())
    }

    /// Books the ends of processes that nobody ended.
    pub fn note_crashes(&mut self) {
        let crashes = self.nodes.iter_mut().filter_map(LocalNode::crashed);
        self.ended.extend(crashes);
    }
}

/// One for each node, where they have clocks of their own.
fn wall_clocks(dir: &Path, place: Place) -> anyhow::Result<Vec<WallClock>> {
    let nodes = (0..N_NODES).filter(|_| place == Place::Clocks);
    nodes
        .map(|node| WallClock::create(dir.join(node_name(node)).with_extension("time")))
        .collect()
}

/// Puts a proxy before every node's peer port, one for each node that dials it.
async fn proxies(
    network: &Network,
    slot: &Slot,
) -> anyhow::Result<BTreeMap<(NodeIndex, NodeIndex), Proxy>> {
    let mut proxies = BTreeMap::new();
    let mut random = Random::from_seed(slot.peer(0).into());
    for from in 0..N_NODES {
        for to in (0..N_NODES).filter(|to| *to != from) {
            let target = SocketAddrV4::new(network.address(to), slot.peer(u16::try_from(to)?));
            let own = network.own_address().into();
            let proxy = Proxy::start(own, target.into(), random.fork()).await?;
            network.divert(from, target, proxy.address)?;
            proxies.insert((from, to), proxy);
        }
    }
    Ok(proxies)
}

fn config(
    dir: &Path,
    slot: &Slot,
    hosts: &[Ipv4Addr],
    node: NodeIndex,
) -> anyhow::Result<NodeConfig> {
    let number = u16::try_from(node)?;
    let member = |(number, host): (u16, &Ipv4Addr)| Member {
        id: u64::from(number) + 1,
        name: format!("node{}", number + 1),
        peer: format!("{host}:{}", slot.peer(number)),
        admin: format!("{host}:{}", slot.admin(number)),
    };
    let members = (0..).zip(hosts).map(member).collect();
    let name = format!("node{}", number + 1);
    // Whatever is not said here is the default of a new node.
    let yaml = serde_json::json!({
        "name": name,
        "node-id": number + 1,
        "data-dir": dir.join(&name),
        "listen": hosts[node].to_string(),
        "gateway-port": slot.gateway(number),
        "admin-port": slot.admin(number),
        "peer-port": slot.peer(number),
        "external-port": slot.gateway(0),
        "instance-ports": slot.instances(number),
        "cluster": "trial",
        "capacity": CAPACITY,
        "shutdown-grace": SHUTDOWN_GRACE,
        "autoscaler": {
            "scale-to-zero-grace-period": TO_ZERO_GRACE,
            "allow-zero-initial-scale": "true",
        },
        "members": Vec::<Member>::from_iter(Vec::clone(&members)),
    });
    Ok(NodeConfig::parse(&yaml.to_string(), &name)?)
}

/// That a connection is accepted says nothing where a proxy publishes the port: it accepts for a
/// gateway that is not there yet.
async fn answers(gateway: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(gateway).await?;
    let request = b"GET / HTTP/1.1\r\nHost: nobody\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await?;
    stream.read_u8().await.map(drop)
}

/// How many shards each node has when all have what they prefer.
fn preferred_shards(ids: impl Iterator<Item = u64>) -> BTreeMap<u64, u32> {
    let ids: Vec<_> = ids.map(NodeId).collect();
    let mut counts = BTreeMap::new();
    for shard in 0..N_SHARDS {
        let ids = ids.iter().copied();
        if let Some(node) = preferred_node(nihilo_types::id::ShardId(shard), ids) {
            *counts.entry(node.0).or_insert(0) += 1;
        }
    }
    counts
}

fn missing(status: &StatusResponse, shards: &BTreeMap<u64, u32>) -> Option<String> {
    if status.leader == 0 || !status.quorum {
        return Some("no leader with a quorum".into());
    }
    for node in &status.nodes {
        if node.session == 0 {
            return Some(format!("{} has not joined", node.name));
        }
        if node.table_stale {
            return Some(format!("{} serves a stale table", node.name));
        }
        let wanted = shards.get(&node.id).copied().unwrap_or(0);
        if node.n_shards != wanted {
            let (name, n) = (&node.name, node.n_shards);
            return Some(format!("{name} owns {n} shards instead of {wanted}"));
        }
    }
    let is_unknown = |id: &&u64| !status.nodes.iter().any(|node| node.id == **id);
    if let Some(id) = shards.keys().find(is_unknown) {
        return Some(format!("member {id} is unknown"));
    }
    let n_nodes = status.nodes.len();
    (n_nodes != N_NODES).then(|| format!("{n_nodes} members are known"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_can_be_made_the_owner_of_a_service() {
        for node in 0..N_NODES {
            let name = LocalCluster::name_owned_by("focus-", node);
            assert_eq!(LocalCluster::preferred_owner(&name), node);
        }
        assert_eq!(
            preferred_shards(1..=3).values().sum::<u32>(),
            u32::from(N_SHARDS)
        );
    }

    #[test]
    fn a_node_that_owns_nothing_yet_is_missed() {
        let node = |id| nihilo_wire::cluster::NodeStatus {
            id,
            name: format!("node{id}"),
            session: 1,
            n_shards: preferred_shards(1..=3)[&id],
            ..Default::default()
        };
        let mut status = StatusResponse {
            leader: 1,
            quorum: true,
            nodes: (1..=3).map(node).collect(),
            ..Default::default()
        };
        let shards = preferred_shards(1..=3);
        assert_eq!(missing(&status, &shards), None);
        status.nodes[1].n_shards = 0;
        assert!(missing(&status, &shards).unwrap().contains("node2 owns 0"));
        status.leader = 0;
        assert!(missing(&status, &shards).unwrap().contains("leader"));
    }

    #[test]
    fn a_cluster_with_a_guest_is_not_whole_and_one_with_a_new_id_is() {
        let shards = preferred_shards([1, 217, 3].into_iter());
        let node = |id| nihilo_wire::cluster::NodeStatus {
            id,
            session: id,
            n_shards: shards.get(&id).copied().unwrap_or(0),
            ..Default::default()
        };
        let status = |ids: &[u64]| StatusResponse {
            leader: 217,
            quorum: true,
            nodes: ids.iter().map(|id| node(*id)).collect(),
            ..Default::default()
        };
        assert_eq!(missing(&status(&[1, 217, 3]), &shards), None);
        let guest = missing(&status(&[1, 217, 3, 250]), &shards);
        assert!(guest.unwrap().contains("4 members"));
        assert!(missing(&status(&[1, 2, 3]), &shards).is_some());
    }
}
