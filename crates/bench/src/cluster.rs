//! A cluster of the binary under test on this machine, by `nihilo dev`, that ends with its value.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::TryStreamExt;
use nihilo_client::Client;
use nihilo_types::condition::types;
use nihilo_types::config_map::{CONFIG_AUTOSCALER, SYSTEM_NAMESPACE};
use nihilo_types::node_config::{BootDelay, DriverKind, NodeConfig, Profile};
use nihilo_types::service::{Service, ServiceSpec};
use nihilo_types::template::{Container, EnvVar, RevisionSpec, RevisionTemplate, TemplateMeta};
use nihilo_wire::cluster::{NodeStatus, StatusResponse};
use tempfile::TempDir;
use tokio::time::Instant;

/// One call to the admin API, retries included.
const CALL_LIMIT: Duration = Duration::from_secs(20);
const READY_LIMIT: Duration = Duration::from_secs(60);
/// A window and a grace of 6 s each, and room for a slow machine.
const ZERO_LIMIT: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Services that are written, or waited for, at once.
const N_AT_ONCE: usize = 16;
pub(crate) const NAMESPACE: &str = "default";

/// What a cluster is started as.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) nihilo: PathBuf,
    /// Where its data directory is made; on a real disk.
    pub(crate) below: PathBuf,
    pub(crate) n_nodes: usize,
    pub(crate) port_offset: u16,
    pub(crate) profile: Profile,
    pub(crate) failover_fast_path: bool,
    /// Cluster settings of the autoscaler on top of what `nihilo dev` chooses.
    pub(crate) autoscaler: BTreeMap<String, String>,
    /// What runs instances, when not the process driver.
    pub(crate) driver: Option<(DriverKind, BootDelay)>,
    /// Instances that a node takes at most, when not the default.
    pub(crate) capacity: Option<u32>,
    /// Seconds that a node takes to stop at most, when not the default.
    pub(crate) shutdown_grace: Option<u32>,
}

#[derive(Debug)]
pub(crate) struct Cluster {
    plan: Plan,
    dir: TempDir,
    pub(crate) configs: Vec<NodeConfig>,
    pub(crate) client: Client,
}

impl Cluster {
    /// Starts it and waits until it serves.
    ///
    /// # Errors
    /// `nihilo dev` failed: its words are on stderr.
    pub(crate) async fn start(plan: Plan) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&plan.below).with_context(|| plan.below.display().to_string())?;
        let dir = tempfile::Builder::new()
            .prefix("cluster-")
            .tempdir_in(&plan.below)?;
        let client = Client::connect_lazy(vec!["127.0.0.1:1".into()])?;
        let mut cluster = Self {
            plan,
            dir,
            configs: Vec::new(),
            client,
        };
        cluster.start_missing()?;
        if cluster.adapt_configs()? {
            cluster.dev(&["--stop"])?;
            cluster.start_missing()?;
        }
        let servers = cluster.configs.iter().map(NodeConfig::admin_address);
        cluster.client = Client::connect_lazy(servers.collect())?.with_timeout(CALL_LIMIT);
        cluster.set_autoscaler().await?;
        Ok(cluster)
    }

    /// The cluster was founded with what `nihilo dev` chooses.
    async fn set_autoscaler(&self) -> anyhow::Result<()> {
        if self.plan.autoscaler.is_empty() {
            return Ok(());
        }
        let stored = self.client.config_map(SYSTEM_NAMESPACE, CONFIG_AUTOSCALER);
        let mut settings = stored.await?.object;
        settings.data.extend(self.plan.autoscaler.clone());
        self.client.apply_config_map(&settings, "").await?;
        Ok(())
    }

    /// Starts the nodes that do not run and waits until all serve again.
    pub(crate) fn start_missing(&self) -> anyhow::Result<()> {
        let (nodes, offset) = (
            self.plan.n_nodes.to_string(),
            self.plan.port_offset.to_string(),
        );
        self.dev(&["--nodes", &nodes, "--port-offset", &offset, "--detach"])
    }

    fn dev(&self, args: &[&str]) -> anyhow::Result<()> {
        let status = Command::new(&self.plan.nihilo)
            .arg("dev")
            .args(args)
            .arg("--data-dir")
            .arg(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status();
        let nihilo = self.plan.nihilo.display();
        let status = status.with_context(|| format!("start `{nihilo}`"))?;
        if !status.success() {
            bail!("`{nihilo} dev {}` failed", args.join(" "));
        }
        Ok(())
    }

    /// Reads the configurations that `nihilo dev` wrote and makes them what was asked for;
    /// returns whether that changed them.
    fn adapt_configs(&mut self) -> anyhow::Result<bool> {
        let mut changed = false;
        for number in 1..=self.plan.n_nodes {
            let file = self.dir.path().join(format!("node{number}/node.yaml"));
            let shown = file.display().to_string();
            let text = std::fs::read_to_string(&file).with_context(|| shown.clone())?;
            let written = NodeConfig::parse(&text, &shown)?;
            let mut config = written.clone();
            config.profile = self.plan.profile;
            config.failover_fast_path = self.plan.failover_fast_path;
            if let Some((kind, boot)) = &self.plan.driver {
                config.driver = *kind;
                config.fake_boot = Some(*boot);
            }
            config.capacity = self.plan.capacity.unwrap_or(config.capacity);
            config.shutdown_grace = self.plan.shutdown_grace.unwrap_or(config.shutdown_grace);
            if config != written {
                std::fs::write(&file, config.to_yaml()).with_context(|| shown.clone())?;
                changed = true;
            }
            self.configs.push(config);
        }
        Ok(changed)
    }

    pub(crate) fn gateway(&self, index: usize) -> anyhow::Result<SocketAddr> {
        let address = self.configs[index].gateway_address();
        address.parse().with_context(|| address.clone())
    }

    pub(crate) fn gateways(&self) -> anyhow::Result<Vec<SocketAddr>> {
        (0..self.configs.len())
            .map(|index| self.gateway(index))
            .collect()
    }

    pub(crate) async fn status(&self) -> anyhow::Result<StatusResponse> {
        Ok(self.client.cluster_status().await?)
    }

    /// The node that leads now, with its process.
    pub(crate) async fn leader(&self) -> anyhow::Result<NodeStatus> {
        let status = self.status().await?;
        let leader = status.nodes.into_iter().find(|n| n.id == status.leader);
        leader.context("the cluster has no leader")
    }

    /// Process id of each node, by its own file.
    pub(crate) fn pids(&self) -> anyhow::Result<Vec<i32>> {
        let pid_of = |config: &NodeConfig| {
            let file = config.data_dir.join("nihilo.pid");
            let text = std::fs::read_to_string(&file);
            let text = text.with_context(|| file.display().to_string())?;
            text.trim().parse().with_context(|| text.clone())
        };
        self.configs.iter().map(pid_of).collect()
    }

    /// Creates or replaces services and waits until all are ready.
    pub(crate) async fn deploy(&self, services: &[Service]) -> anyhow::Result<()> {
        deploy(&self.client, services).await
    }

    /// Waits until a service has at least so many ready instances, as all nodes tell.
    pub(crate) async fn until_ready(&self, service: &str, n: usize) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            let answer = self.client.instances(None, service).await?;
            let ready = answer.items.iter().filter(|i| i.state == "Ready");
            let n_ready = ready.count();
            if n_ready >= n && answer.unreachable.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("only {n_ready} of {n} instances of {service} became ready");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until no instance is left, as all nodes tell.
    pub(crate) async fn until_at_zero(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + ZERO_LIMIT;
        loop {
            let answer = self.client.instances(None, "").await?;
            let at_zero = ["Exited", "Destroyed", "Frozen"];
            let is_left = |state: &str| !at_zero.iter().any(|of| of.eq_ignore_ascii_case(state));
            let n_left = answer.items.iter().filter(|i| is_left(&i.state)).count();
            // Not to be seen is not the same as not there.
            if n_left == 0 && answer.unreachable.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "{n_left} instances are left after {} s",
                    ZERO_LIMIT.as_secs()
                );
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.dev(&["--stop"]) {
            eprintln!("{error:#}");
        }
    }
}

/// Creates or replaces services and waits until all are ready.
///
/// # Errors
/// One is refused, or not ready in time.
pub(crate) async fn deploy(client: &Client, services: &[Service]) -> anyhow::Result<()> {
    let some_at_once = || futures_util::stream::iter(services.iter().map(Ok));
    some_at_once()
        .try_for_each_concurrent(N_AT_ONCE, |service| async move {
            client.apply_service(service).await?;
            anyhow::Ok(())
        })
        .await?;
    // One by one: a list of many thousands is larger than a message may be.
    some_at_once()
        .try_for_each_concurrent(N_AT_ONCE, |service| until_deployed(client, service))
        .await
}

async fn until_deployed(client: &Client, service: &Service) -> anyhow::Result<()> {
    let name = &service.metadata.name;
    let deadline = Instant::now() + READY_LIMIT;
    loop {
        let stored = client.service(NAMESPACE, name).await?.object;
        if stored.status.conditions.is_true(types::READY) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("`{name}` did not become ready");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The image of a program of this machine.
pub(crate) fn program(path: &Path) -> String {
    format!("file://{}", path.display())
}

/// A service of `image`, scaled to zero as soon as the settings allow.
pub(crate) fn service(name: &str, image: &str, env: &[(&str, String)]) -> Service {
    let env = env.iter().map(|(name, value)| EnvVar {
        name: (*name).into(),
        value: value.clone(),
        ..EnvVar::default()
    });
    let container = Container {
        image: image.to_owned(),
        env: env.collect(),
        ..Container::default()
    };
    let mut service = Service {
        api_version: nihilo_types::meta::API_VERSION.into(),
        kind: "Service".into(),
        spec: ServiceSpec {
            template: RevisionTemplate {
                metadata: TemplateMeta::default(),
                spec: RevisionSpec {
                    containers: vec![container],
                    ..RevisionSpec::default()
                },
            },
            ..ServiceSpec::default()
        },
        ..Service::default()
    };
    service.metadata.name = name.into();
    service.metadata.namespace = NAMESPACE.into();
    with_scale(service, "window", "6s")
}

/// Adds an autoscaling annotation to a service's template.
pub(crate) fn with_scale(mut service: Service, key: &str, value: &str) -> Service {
    let key = format!("{}{key}", nihilo_types::meta::keys::AUTOSCALING_PREFIX);
    let annotations = &mut service.spec.template.metadata.annotations;
    annotations.insert(key, value.into());
    service
}

/// Host that the gateways know a service by.
pub(crate) fn host_of(service: &str) -> String {
    format!("{service}.{NAMESPACE}.localhost")
}
