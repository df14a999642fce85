//! Nodes that join a cluster which runs, by a token, and that leave it for good.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use nihilo_types::node_config::NodeConfig;
use tokio::process::Command;

use super::local::{CAPACITY, SHUTDOWN_GRACE};
use super::{GUEST, LocalCluster, LocalNode, N_NODES, NodeIndex};
use crate::judge::node_name;

/// How long a token is good: it is used at once.
const TOKEN_TTL_MS: u64 = 60_000;
/// A command of the CLI, on a machine that other work shares.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

impl LocalCluster {
    /// Lets a new node in at `place`, under a new id, and starts it. There it follows a node that was
    /// removed, or it is the [`GUEST`].
    ///
    /// # Errors
    /// The cluster does not let it in, or no process.
    pub async fn join(&mut self, place: NodeIndex, is_voter: bool) -> anyhow::Result<()> {
        let running = self.running();
        let (token, _) = self
            .client(&running)?
            .create_token(is_voter, TOKEN_TTL_MS)
            .await?;
        let admins = self.admins(&running);
        self.n_joined += 1;
        let dir = format!("{}-join{}", node_name(place), self.n_joined);
        let dir = self.dir.join(dir);
        self.ask_to_join(&format!("{token}@{admins}"), place, &dir)
            .await?;
        let config = joined_config(&dir, self)?;
        let network = self.network.as_ref();
        let namespace = network.map(|network| network.namespace(place));
        let node = LocalNode::prepare(config, namespace, self.variables.clone())?;
        match self.nodes.get_mut(place) {
            Some(former) => {
                let former = std::mem::replace(former, node);
                self.retire(former);
            }
            None => self.nodes.push(node),
        }
        self.start_node(place)
    }

    /// Uses the token up, as an operator does on the new node's host.
    async fn ask_to_join(&self, token: &str, place: NodeIndex, dir: &Path) -> anyhow::Result<()> {
        let number = u16::try_from(place)?;
        let slot = &self.slot;
        let host = match &self.network {
            None => Ipv4Addr::LOCALHOST,
            Some(network) => network.address(place),
        };
        let (name, host) = (node_name(place), host.to_string());
        let dir = dir.to_str().context("a directory with a name of UTF-8")?;
        let numbers = [
            ("--gateway-port", u32::from(slot.gateway(number))),
            ("--admin-port", u32::from(slot.admin(number))),
            ("--peer-port", u32::from(slot.peer(number))),
            ("--instance-ports", u32::from(slot.instances(number))),
            ("--capacity", CAPACITY),
        ];
        let mut args = vec!["cluster", "join", token, "--no-start", "--name", &name];
        args.extend(["--listen", &host, "--data-dir", dir]);
        let numbers = numbers.map(|(flag, number)| (flag, number.to_string()));
        for (flag, number) in &numbers {
            args.extend([*flag, number]);
        }
        self.cli(&args).await.map(drop)
    }

    /// Runs a command of the binary's CLI; returns what it says.
    ///
    /// # Errors
    /// It fails, with its own words, or takes too long.
    pub async fn cli(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.binary);
        let output = command.args(args).kill_on_drop(true).output();
        let output = tokio::time::timeout(COMMAND_LIMIT, output).await;
        let shown = args.iter().take(2).copied().collect::<Vec<_>>().join(" ");
        let output = output.with_context(|| format!("`{shown}` does not end"))??;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`{shown}`: {}", said.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Admin addresses of `nodes`, as the CLI takes them.
    pub fn admins(&self, nodes: &[NodeIndex]) -> String {
        let admins = nodes
            .iter()
            .map(|node| self.nodes[*node].config.admin_address());
        admins.collect::<Vec<_>>().join(",")
    }

    /// `host:port` of the gateway that a [`GUEST`] has.
    pub fn guest_gateway(&self) -> String {
        let host = match &self.network {
            None => Ipv4Addr::LOCALHOST,
            Some(network) => network.address(GUEST),
        };
        let number = u16::try_from(GUEST).unwrap_or(u16::MAX);
        format!("{host}:{}", self.slot.gateway(number))
    }

    /// Waits until a node ends by itself, as it shall once it was removed.
    ///
    /// # Errors
    /// It is still there.
    pub async fn expelled(&mut self, node: NodeIndex) -> anyhow::Result<String> {
        let ended = self.nodes[node].expelled().await?;
        let how = ended.how.clone();
        self.ended.push(ended);
        Ok(how)
    }

    /// Forgets a guest that was removed and has ended.
    pub fn dismiss_guest(&mut self) {
        for guest in self.nodes.split_off(N_NODES) {
            self.retire(guest);
        }
    }

    fn retire(&mut self, node: LocalNode) {
        let dir = node.config.data_dir.clone();
        self.retired.push((node.name().to_owned(), dir));
    }
}

/// What the cluster has said of the node, with what a trial wants.
fn joined_config(dir: &Path, cluster: &LocalCluster) -> anyhow::Result<NodeConfig> {
    let file: PathBuf = dir.join("node.yaml");
    let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let mut config = NodeConfig::parse(&text, "node.yaml")?;
    cluster.settings.write(&mut config);
    config.shutdown_grace = SHUTDOWN_GRACE;
    Ok(config)
}
