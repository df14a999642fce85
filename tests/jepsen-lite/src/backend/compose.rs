//! The cluster of `cluster/docker-compose.yml` as a project of its own: containers, network,
//! volumes and image under a name that no other run has.
//!
//! ```text
//! cluster/docker-compose.yml     what is shipped, unchanged
//! DIR/trial.yml (JSON)           what a trial adds: settings, where state and ledgers lie
//! DIR/nodeN                      volume of node N, as a directory that checkers read
//! ```

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use nihilo_types::node_config::NodeConfig;
use serde_json::{Map, Value, json};

use super::N_NODES;
use super::container::{Container, docker, output};
use super::local::TO_ZERO_GRACE;
use crate::instance_ledger;
use crate::judge::node_name;

/// An image to run instead of one made of the binary under test.
const IMAGE_ENV: &str = "NIHILO_TEST_IMAGE";
const SHIPPED: &str = "cluster/docker-compose.yml";

/// Removed with everything it has when dropped.
#[derive(Debug)]
pub(super) struct Compose {
    /// The way to call compose: the plugin, or the program of its first version.
    program: &'static [&'static str],
    project: String,
    image: Image,
    added: PathBuf,
    /// Where each node is published, as the shipped file asks for it.
    ports: Vec<(String, String)>,
    ids: Vec<String>,
}

#[derive(Debug)]
enum Image {
    Made(String),
    Named(String),
}

impl Compose {
    /// Makes the image and the project, and starts nothing. `configs` say how the nodes are
    /// reached from here.
    ///
    /// # Errors
    /// No root, no Docker engine, no compose, or what they say.
    pub(super) fn create(
        dir: &Path,
        binary: &Path,
        configs: &[NodeConfig],
        variables: &[(String, String)],
    ) -> anyhow::Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "the nodes' records are theirs alone, inside their volumes: reading them needs root"
        );
        let program = program()?;
        let project = format!("nihilo-jepsen-{}", std::process::id());
        let ledger = instance_ledger::below(dir);
        ensure!(dir.is_absolute(), "{} is not absolute", dir.display());
        open_to_all(&ledger)?;
        for node in 0..N_NODES {
            open_to_all(&dir.join(node_name(node)))?;
        }
        let added = dir.join("trial.yml");
        let text = addition(dir, &ledger, configs, variables).to_string();
        std::fs::write(&added, text)?;
        let mut compose = Self {
            program,
            image: Image::of(&project, binary)?,
            project,
            added,
            ports: (1..).zip(configs).flat_map(published).collect(),
            ids: Vec::new(),
        };
        compose.compose(&["up", "--no-start", "--no-build"])?;
        for node in 0..N_NODES {
            compose.ids.push(compose.id(&node_name(node))?);
        }
        Ok(compose)
    }

    pub(super) fn container(&self, node: usize) -> Container {
        let network = format!("{}_default", self.project);
        Container::new(self.ids[node].clone(), node_name(node), network)
    }

    fn compose(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(self.program[0]);
        command
            .args(&self.program[1..])
            .args(["--project-name", &self.project, "--file"])
            .arg(root().join(SHIPPED))
            .arg("--file")
            .arg(&self.added)
            .args(args)
            .env("NIHILO_IMAGE", self.image.name())
            .envs(self.ports.iter().cloned());
        output(&mut command)
    }

    /// Stopped ones have to be asked for, and not every version of compose can be.
    fn id(&self, service: &str) -> anyhow::Result<String> {
        let label = |key: &str, value: &str| format!("label=com.docker.compose.{key}={value}");
        let (project, service) = (label("project", &self.project), label("service", service));
        let ps = ["ps", "--all", "--quiet", "--no-trunc", "--filter"];
        let id = docker(&[&ps[..], &[&project, "--filter", &service]].concat())?;
        ensure!(
            !id.is_empty(),
            "compose has made no container for {service}"
        );
        Ok(id)
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        for node in 0..self.ids.len() {
            self.container(node).remove();
        }
        let down = self.compose(&["down", "--volumes", "--timeout", "1"]);
        if let Err(error) = down {
            eprintln!("left behind of {}: {error:#}", self.project);
        }
        if let Image::Made(tag) = &self.image {
            drop(docker(&["image", "rm", tag]));
        }
    }
}

impl Image {
    fn of(project: &str, binary: &Path) -> anyhow::Result<Self> {
        if let Ok(name) = std::env::var(IMAGE_ENV) {
            return Ok(Self::Named(name));
        }
        let tag = format!("nihilo:{project}");
        let mut make = Command::new("cargo");
        make.args(["xtask", "image", "--tag", &tag, "--binary"]);
        output(make.arg(binary).current_dir(root()))?;
        Ok(Self::Made(tag))
    }

    fn name(&self) -> &str {
        let (Self::Made(name) | Self::Named(name)) = self;
        name
    }
}

/// A directory in which nodes and instances write as users of their own. Docker gives an empty volume
/// the owner and mode that the image says.
fn open_to_all(dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o777))
}

/// # Errors
/// What is missing.
fn program() -> anyhow::Result<&'static [&'static str]> {
    docker(&["version", "--format", "{{.Server.Version}}"])
        .context("containers need a Docker engine, and none answers")?;
    let ways: [&[&str]; 2] = [&["docker", "compose"], &["docker-compose"]];
    for way in ways {
        if output(Command::new(way[0]).args(&way[1..]).arg("version")).is_ok() {
            return Ok(way);
        }
    }
    bail!("neither `docker compose` nor `docker-compose` works")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The variables by which the shipped file publishes a node.
fn published((number, config): (usize, &NodeConfig)) -> [(String, String); 2] {
    let port = |of: &str, port: u16| (format!("NIHILO_{of}{number}_PORT"), port.to_string());
    [
        port("GATEWAY", config.gateway_port),
        port("ADMIN", config.admin_port),
    ]
}

/// What a trial adds to the shipped file. Paths are the same inside and outside, so that a mark
/// that names one is the same too.
fn addition(
    dir: &Path,
    ledger: &Path,
    configs: &[NodeConfig],
    variables: &[(String, String)],
) -> Value {
    let (mut services, mut volumes) = (Map::new(), Map::new());
    for (number, config) in (1..).zip(configs) {
        let autoscaler =
            format!("scale-to-zero-grace-period={TO_ZERO_GRACE},allow-zero-initial-scale=true");
        let mut environment = Map::from_iter([
            ("NIHILO_AUTOSCALER".to_owned(), json!(autoscaler)),
            (
                "NIHILO_CAPACITY".to_owned(),
                json!(config.capacity.to_string()),
            ),
            (
                "NIHILO_SHUTDOWN_GRACE".to_owned(),
                json!(config.shutdown_grace.to_string()),
            ),
            ("NIHILO_PROFILE".to_owned(), json!(config.profile)),
            (
                "NIHILO_FAILOVER_FAST_PATH".to_owned(),
                json!(config.failover_fast_path.to_string()),
            ),
        ]);
        environment.extend(variables.iter().map(|(k, v)| (k.clone(), json!(v))));
        let ledger = format!("{0}:{0}", ledger.display());
        let service = json!({"environment": environment, "volumes": [ledger]});
        services.insert(config.name.clone(), service);
        let device = dir.join(&config.name);
        let options = json!({"type": "none", "o": "bind", "device": device});
        volumes.insert(format!("data{number}"), json!({"driver_opts": options}));
    }
    json!({"services": services, "volumes": volumes})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configs() -> Vec<NodeConfig> {
        let config = |id: u64| {
            let mut config = NodeConfig::of_one(format!("node{id}"), id, "/unused".into());
            config.gateway_port = 100 + u16::try_from(id).unwrap();
            config.admin_port = 200 + u16::try_from(id).unwrap();
            config
        };
        (1..=3).map(config).collect()
    }

    #[test]
    fn every_port_variable_is_one_that_the_shipped_file_reads() {
        let shipped = std::fs::read_to_string(root().join(SHIPPED)).unwrap();
        let configs = configs();
        let ports: Vec<_> = (1..).zip(&configs).flat_map(published).collect();
        assert_eq!(ports.len(), 2 * N_NODES);
        for (name, _) in &ports {
            assert!(shipped.contains(&format!("${{{name}:-")), "{name}");
        }
        assert!(ports.contains(&("NIHILO_ADMIN2_PORT".into(), "202".into())));
    }

    #[test]
    fn an_addition_names_services_and_volumes_of_the_shipped_file_only() {
        let shipped = std::fs::read_to_string(root().join(SHIPPED)).unwrap();
        let switch = [("NIHILO_COMMAND_LEDGER".to_owned(), "1".to_owned())];
        let added = addition(
            Path::new("/t/nodes"),
            Path::new("/t/instances"),
            &configs(),
            &switch,
        );
        for (kind, n_spaces) in [("services", 2), ("volumes", 2)] {
            let names = added[kind].as_object().unwrap().keys();
            let names: Vec<_> = names.collect();
            assert_eq!(names.len(), N_NODES);
            for name in names {
                let line = format!("\n{}{name}:", " ".repeat(n_spaces));
                assert!(shipped.contains(&line), "{name}");
            }
        }
        let device = &added["volumes"]["data3"]["driver_opts"]["device"];
        assert_eq!(device, "/t/nodes/node3");
        let node = &added["services"]["node1"];
        assert_eq!(node["volumes"], json!(["/t/instances:/t/instances"]));
    }

    #[test]
    fn what_a_trial_sets_is_understood_by_a_node() {
        let switch = [("NIHILO_COMMAND_LEDGER".to_owned(), "1".to_owned())];
        let (dir, ledger) = (Path::new("/t"), Path::new("/i"));
        let added = addition(dir, ledger, &configs(), &switch);
        let set = added["services"]["node2"]["environment"].as_object();
        let set = set.unwrap().iter();
        let mut variables: std::collections::BTreeMap<_, _> = set
            .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
            .collect();
        for (name, value) in [
            ("NIHILO_NODE_NAME", "node2"),
            ("NIHILO_MEMBERS", "1=node1,2=node2,3=node3"),
            ("NIHILO_DATA_DIR", "/data"),
        ] {
            variables.insert(name.into(), value.into());
        }
        let config = nihilo_types::node_env::read(&variables).unwrap();
        assert_eq!(
            config
                .autoscaler
                .get("allow-zero-initial-scale")
                .map(String::as_str),
            Some("true")
        );
    }
}
