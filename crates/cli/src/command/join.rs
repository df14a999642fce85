//! `nihilo cluster join TOKEN@HOST:PORT`: a new node, let in by a token.

use std::path::{Path, PathBuf};

use clap::Args;
use nihilo_client::Client;
use nihilo_types::isolation::Isolation;
use nihilo_types::join_token::{self, JoinToken};
use nihilo_types::node_config::{Member, NodeConfig, OnNodeExit, Profile};
use nihilo_types::sealing::SealingKey;
use nihilo_wire::cluster as pb;

use super::{node, runtime};
use crate::args::Global;
use crate::failure::{Failure, Result, exit};
use crate::{Hooks, Offline, output};

pub(crate) const CONFIG: &str = "node.yaml";

#[derive(Debug, Args)]
pub(crate) struct JoinArgs {
    /// From `nihilo cluster token create`, with one or more admin addresses of the cluster.
    #[arg(value_name = "TOKEN@HOST:PORT[,HOST:PORT…]")]
    token: String,
    #[command(flatten)]
    node: NodeArgs,
    /// Write the data directory and its node.yaml, and do not run the node.
    #[arg(long)]
    no_start: bool,
}

/// A node that has no configuration yet.
#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    /// Name of this node, unique in the cluster.
    #[arg(long)]
    pub(crate) name: String,
    /// Everything this node keeps; must be empty or absent.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Address the listeners bind to.
    #[arg(long, default_value = "127.0.0.1")]
    listen: String,
    /// Host or address that other nodes reach this one by; default: --listen.
    #[arg(long, default_value = "")]
    advertise: String,
    #[arg(long, default_value_t = 8080)]
    gateway_port: u16,
    #[arg(long, default_value_t = 7070)]
    admin_port: u16,
    #[arg(long, default_value_t = 7071)]
    peer_port: u16,
    /// First port given to instances.
    #[arg(long, default_value_t = 20_000)]
    instance_ports: u16,
    /// Instances this node runs at most.
    #[arg(long, default_value_t = 100)]
    capacity: u32,
    /// What becomes of its instances when its process dies: `kill` or `adopt`. Default: as
    /// `nihilo node start` decides.
    #[arg(long, value_name = "WHAT")]
    on_node_exit: Option<OnNodeExit>,
    /// How far its programs are kept from everything that is not theirs: `none`, `landlock` or
    /// `full`.
    #[arg(long, value_name = "LEVEL", default_value_t = Isolation::Landlock)]
    isolation: Isolation,
}

pub(crate) fn run(global: &Global, args: JoinArgs, hooks: Hooks) -> Result<()> {
    let (token, servers) = parse(&args.token)?;
    let mut config = args.node.config();
    check_empty(&config.data_dir)?;
    check_own(&config)?;
    let file = config.data_dir.join(CONFIG);
    let joined = runtime()?.block_on(async {
        let client = Client::connect_lazy(servers)?.with_timeout(global.request_timeout);
        let (peer, admin) = (config.peer_address(), config.admin_address());
        client.join(&token, &config.name, &peer, &admin).await
    })?;
    let cluster_id = joined.cluster_id.clone();
    let secrets_key = secrets_key(&token, &joined);
    complete(&mut config, joined)?;
    if secrets_key.is_none() {
        output::note(&format!(
            "warning: the server has no secrets key to give; instances that need Secrets do not \
             start here until `{}` is there, copied from a node that has it",
            config.secrets_key_file().display()
        ));
    }
    let create = Offline::Create {
        data_dir: config.data_dir.clone(),
        cluster_id,
        node_id: config.node_id,
        secrets_key: secrets_key.map(|key| (config.secrets_key_file(), key)),
    };
    (hooks.offline)(create).map_err(|error| orphan(&config, &format!("{error:#}")))?;
    std::fs::write(&file, config.to_yaml()).map_err(|error| orphan(&config, &error.to_string()))?;
    output::note(&format!(
        "{} is node {} of cluster `{}`; run it with: nihilo node start --config {}",
        config.name,
        config.node_id,
        config.cluster,
        file.display()
    ));
    if args.no_start {
        return Ok(());
    }
    node::start(config, hooks)
}

/// The key of the cluster's Secrets, which the server has sealed for this newcomer.
fn secrets_key(token: &JoinToken, joined: &pb::JoinNodeResponse) -> Option<SealingKey> {
    let (cluster_id, node_id) = (&joined.cluster_id, joined.node_id);
    let under = SealingKey::of_join_token(&token.secret, cluster_id, node_id);
    let place = [join_token::KEY_PLACE];
    SealingKey::from_sealed(&under, &place, &joined.secrets_key).ok()
}

fn parse(text: &str) -> Result<(JoinToken, Vec<String>)> {
    let (token, servers) = text.split_once('@').ok_or_else(|| {
        Failure::usage("the token is not followed by `@HOST:PORT`")
            .hint("nihilo cluster token create prints the whole command")
    })?;
    let token = token
        .parse()
        .map_err(|error| Failure::usage(format!("{error}")))?;
    Ok((token, servers.split(',').map(str::to_owned).collect()))
}

/// Nothing is joined with what another node has left behind.
pub(crate) fn check_empty(dir: &Path) -> Result<()> {
    let shown = dir.display();
    std::fs::create_dir_all(dir).map_err(|error| Failure::io(shown.to_string(), &error))?;
    let entries = std::fs::read_dir(dir).map_err(|error| Failure::io(shown.to_string(), &error))?;
    if entries.count() == 0 {
        return Ok(());
    }
    Err(Failure::new(
        exit::CONFLICT,
        format!("data directory {shown} is not empty"),
    )
    .because("a node joins with an empty one: what another id has left must not come along")
    .hint("use another --data-dir, or wipe this one"))
}

impl NodeArgs {
    /// With everything but what only a cluster can say.
    pub(crate) fn config(&self) -> NodeConfig {
        let dir = std::path::absolute(&self.data_dir).unwrap_or_else(|_| self.data_dir.clone());
        let mut config = NodeConfig::of_one(self.name.clone(), 0, dir);
        config.joined = true;
        config.listen = self.listen.clone();
        config.advertise = self.advertise.clone();
        config.gateway_port = self.gateway_port;
        config.admin_port = self.admin_port;
        config.peer_port = self.peer_port;
        config.instance_ports = self.instance_ports;
        config.capacity = self.capacity;
        config.on_node_exit = self.on_node_exit;
        config.process.isolation = self.isolation;
        config.profile = Profile::Auto;
        config
    }
}

/// What is wrong with the arguments themselves is told before the token is used up.
pub(crate) fn check_own(config: &NodeConfig) -> Result<()> {
    let mut alone = config.clone();
    alone.node_id = 1;
    alone.members = vec![me(&alone)];
    NodeConfig::parse(&alone.to_yaml(), CONFIG)
        .map(drop)
        .map_err(|error| Failure::usage(error.0))
}

fn me(config: &NodeConfig) -> Member {
    Member {
        id: config.node_id,
        name: config.name.clone(),
        peer: config.peer_address(),
        admin: config.admin_address(),
    }
}

/// Fills in what the cluster has said.
fn complete(config: &mut NodeConfig, joined: pb::JoinNodeResponse) -> Result<()> {
    config.node_id = joined.node_id;
    config.cluster = joined.cluster;
    config.domain = joined.domain;
    config.external_port = u16::try_from(joined.external_port).ok();
    let others = joined
        .members
        .into_iter()
        .filter(|member| member.id != joined.node_id);
    let others = others.map(|member| Member {
        id: member.id,
        name: member.name,
        peer: member.peer,
        admin: member.admin,
    });
    config.members = others.chain([me(config)]).collect();
    NodeConfig::parse(&config.to_yaml(), CONFIG)
        .map(drop)
        .map_err(|error| orphan(config, &error.0))
}

/// The cluster has an id for a node that cannot be: the way out is to remove it.
fn orphan(config: &NodeConfig, why: &str) -> Failure {
    let text = format!(
        "{} was let in as node {}, but: {why}",
        config.name, config.node_id
    );
    Failure::new(exit::OTHER, text).hint(format!(
        "nihilo cluster remove {}, then join again with a new token",
        config.node_id
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_needs_a_place() {
        let token = JoinToken::new([1; 5], [2; 32], "dev").to_string();
        let (parsed, servers) = parse(&format!("{token}@a:7070,b:7070")).unwrap();
        assert_eq!((parsed.to_string(), servers.len()), (token.clone(), 2));
        assert_eq!(parse(&token).unwrap_err().code, 2);
        assert_eq!(parse("v1.x@a:1").unwrap_err().code, 2);
    }

    #[test]
    fn only_an_empty_directory_joins() {
        let dir = tempfile::tempdir().unwrap();
        check_empty(&dir.path().join("new")).unwrap();
        std::fs::write(dir.path().join("x"), "").unwrap();
        assert_eq!(check_empty(dir.path()).unwrap_err().code, 4);
    }
}
