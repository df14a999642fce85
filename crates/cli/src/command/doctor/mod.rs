//! `nihilo doctor`: what this machine lacks to be a node, and how to mend it.
//!
//! One file per subject: what is read of the machine, and a pure judgement of it. It changes nothing,
//! and talks to nobody but the engine's socket and the peers that it is told of.

mod cgroups;
mod clock;
mod disk;
mod docker;
mod finding;
mod isolation;
mod joins;
mod kernel;
mod ports;
mod resources;

use std::path::{Path, PathBuf};

use clap::Args;
use nihilo_types::node_config::NodeConfig;

use self::finding::{Finding, State};
use super::node;
use crate::failure::{Failure, Result, exit};
use crate::output::{self, OutputArgs};

/// Where the package's unit looks for a configuration, and keeps what the node keeps.
const CONFIG: &str = "/etc/nihilo/node.yaml";
const DATA_DIR: &str = "/var/lib/nihilo";
/// Looked at where no configuration says otherwise.
const TLS_PORT: u16 = 8443;

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Configuration of the node that this machine is, or will be. Default: /etc/nihilo/node.yaml,
    /// and every key's default where there is none.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What the node keeps. Default: what the configuration says, else /var/lib/nihilo.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Admin addresses of nodes whose clocks are compared with this one. Default: the other members
    /// of the configuration.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    peer: Vec<String>,
    #[command(flatten)]
    output: OutputArgs,
}

/// # Errors
/// Exit 1: something is missing that a node cannot do without. Usage: the configuration is none.
pub(crate) fn run(args: &DoctorArgs) -> Result<()> {
    let findings = Machine::of(args)?.examine();
    output::list(
        args.output.output,
        &findings,
        |finding| format!("{} {}", finding.state.word(), finding.check),
        finding::report,
    )?;
    let n_failed = findings
        .iter()
        .filter(|finding| finding.state == State::Fail)
        .count();
    match n_failed {
        0 => Ok(()),
        n => Err(Failure::new(
            exit::OTHER,
            format!("{n} of {} checks failed", findings.len()),
        )),
    }
}

/// What is examined.
struct Machine {
    config: NodeConfig,
    /// Addresses that the node will listen on, with the key that chooses each.
    listens: Vec<(&'static str, String)>,
    peers: Vec<String>,
}

impl Machine {
    fn of(args: &DoctorArgs) -> Result<Self> {
        let file = args.config.clone().or_else(installed);
        let mut config = match &file {
            Some(file) => node::read(file)?,
            None => unconfigured(),
        };
        if let Some(dir) = &args.data_dir {
            config.data_dir.clone_from(dir);
        }
        let mut listens = listens(&config);
        if file.is_none() {
            listens.push(("tls-listen", format!("{}:{TLS_PORT}", config.listen)));
        }
        let peers = match args.peer.as_slice() {
            [] => others(&config),
            named => named.to_vec(),
        };
        Ok(Self {
            config,
            listens,
            peers,
        })
    }

    fn examine(&self) -> Vec<Finding> {
        let config = &self.config;
        let pid = ports::running(&config.data_dir);
        let mut all = vec![
            kernel::examine(),
            isolation::examine(config.process.isolation),
            cgroups::examine(),
            joins::examine(),
        ];
        all.extend(disk::examine(&config.data_dir));
        let listens = self.listens.iter();
        all.extend(listens.map(|(key, address)| ports::examine(key, address, pid)));
        all.push(ports::examine_instances(config.instance_ports));
        all.extend(resources::examine());
        all.push(clock::examine());
        all.extend(self.peers.iter().map(|peer| clock::examine_peer(peer)));
        all.push(docker::examine(&config.docker.socket));
        all
    }
}

fn installed() -> Option<PathBuf> {
    let file = Path::new(CONFIG);
    file.is_file().then(|| file.into())
}

/// What the package's example makes of a node, before anybody has changed it.
fn unconfigured() -> NodeConfig {
    let mut config = NodeConfig::of_one("node1".into(), 1, DATA_DIR.into());
    config.listen = "0.0.0.0".into();
    config
}

fn listens(config: &NodeConfig) -> Vec<(&'static str, String)> {
    let at = |port: u16| format!("{}:{port}", config.listen);
    let mut all = vec![
        ("gateway-port", at(config.gateway_port)),
        ("admin-port", at(config.admin_port)),
        ("peer-port", at(config.peer_port)),
    ];
    let gateway = &config.gateway;
    let further = [
        ("private-listen", &gateway.private_listen),
        ("tls-listen", &gateway.tls_listen),
    ];
    all.extend(
        further
            .into_iter()
            .filter_map(|(key, at)| Some((key, at.clone()?))),
    );
    all
}

fn others(config: &NodeConfig) -> Vec<String> {
    let others = config.members.iter().filter(|m| m.id != config.node_id);
    others.map(|member| member.admin.clone()).collect()
}

#[cfg(test)]
mod tests {
    use nihilo_types::node_config::Member;

    use super::*;

    #[test]
    fn what_the_configuration_names_is_examined() {
        let mut config = unconfigured();
        config.admin_port = 1;
        config.gateway.tls_listen = Some("10.0.0.1:443".into());
        let found = listens(&config);
        let wanted = [
            ("gateway-port", "0.0.0.0:8080"),
            ("admin-port", "0.0.0.0:1"),
            ("peer-port", "0.0.0.0:7071"),
            ("tls-listen", "10.0.0.1:443"),
        ];
        assert_eq!(found, wanted.map(|(key, at)| (key, at.to_owned())));
    }

    #[test]
    fn peers_are_the_other_members() {
        let mut config = unconfigured();
        config.members = [1, 2, 3]
            .map(|id| Member {
                id,
                name: format!("node{id}"),
                peer: format!("p{id}:7071"),
                admin: format!("a{id}:7070"),
            })
            .into();
        assert_eq!(others(&config), ["a2:7070", "a3:7070"]);
    }
}
