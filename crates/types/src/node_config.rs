//! The configuration of one node: `node.yaml`, strict, kebab-case.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::isolation::Isolation;

/// Instances of one node, at most: one port each out of a block of so many.
const MAX_PROCESSES: u32 = 1_000;
/// Simulated instances cost a socket and a task each.
const MAX_FAKES: u32 = 10_000;
/// What a node says unless it is told otherwise.
pub const LOG: &str = "info,openraft=warn";
/// Name of the key's file in a data directory.
const SECRETS_KEY: &str = "secrets.key";
const MAX_FAKE_BOOT_MS: u32 = 60_000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct NodeConfig {
    /// Name of this node, unique in the cluster.
    pub name: String,
    /// Id of this node, one of `members`; never reused.
    pub node_id: u64,
    /// Everything this node keeps; one process at a time.
    pub data_dir: PathBuf,
    /// Address the listeners bind to. Default 127.0.0.1.
    #[serde(default = "loopback")]
    pub listen: String,
    /// Host or address that other nodes reach this one by. Default: `listen`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub advertise: String,
    #[serde(default = "gateway_port")]
    pub gateway_port: u16,
    #[serde(default = "admin_port")]
    pub admin_port: u16,
    #[serde(default = "peer_port")]
    pub peer_port: u16,
    /// The founding members, the same list on every one of them; of a node that joined later, who
    /// was a member then.
    pub members: Vec<Member>,
    /// This node was let in by a token: `members` are those that it found, and it founds nothing.
    /// Its data directory was made when it joined, and it does not start on another one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub joined: bool,
    /// Name of the cluster; also decides its id at founding. Default `nihilo`.
    #[serde(default = "cluster_name")]
    pub cluster: String,
    /// Domain of the routes' hosts. Default `localhost`.
    #[serde(default = "loopback_domain")]
    pub domain: String,
    /// Port shown in URLs. Default: the gateway port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_port: Option<u16>,
    /// Raft timing: `auto`, `calm`, `balanced` or `fast`. Default `auto`.
    #[serde(default)]
    pub profile: Profile,
    /// Followers campaign as soon as the leader's peer port refuses connections to all of them, instead of
    /// waiting for its lease to end. Default off.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failover_fast_path: bool,
    /// Cluster settings of the autoscaler, keys as in Knative's `config-autoscaler`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub autoscaler: BTreeMap<String, String>,
    /// Instances this node runs at most. Default 100.
    #[serde(default = "capacity")]
    pub capacity: u32,
    /// What runs instances: `process` or `fake`. Default `process`, which leaves container images
    /// to the engine that `docker` names.
    #[serde(default)]
    pub driver: DriverKind,
    /// Range that simulated boot times are drawn from; only with `driver: fake`. Default 20 to 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fake_boot: Option<BootDelay>,
    /// What becomes of instances when this node's process dies: `kill` = they die with it, `adopt` =
    /// they go on, and the next process of this node takes them over; only with `driver: process`.
    /// Default `adopt`; `kill` where the process is a container's first or its child.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_node_exit: Option<OnNodeExit>,
    /// First port given to instances; a node uses up to 1,000 from there. Default 20000.
    #[serde(default = "instance_ports")]
    pub instance_ports: u16,
    /// The engine that runs container images; asked when a service names one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub docker: DockerSettings,
    /// How programs of the process driver are confined.
    #[serde(default, skip_serializing_if = "is_default")]
    pub process: ProcessSettings,
    /// What this node keeps of the cluster's bundles.
    #[serde(default, skip_serializing_if = "is_default")]
    pub bundles: BundleSettings,
    /// The key that the cluster's Secrets are sealed by, the same file on every node, for its owner
    /// alone (0600). The founder makes it; `nihilo cluster join` brings it. Default: `secrets.key` in
    /// the data directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets_key_file: Option<PathBuf>,
    /// Seconds for a clean stop: drain, stop instances, hand over. Default 30.
    #[serde(default = "shutdown_grace")]
    pub shutdown_grace: u32,
    /// What this node says in its log: levels and targets, as `info,openraft=warn`. `NIHILO_LOG` goes
    /// before it. Default: [`LOG`].
    #[serde(default = "log", skip_serializing_if = "is_usual_log")]
    pub log: String,
    /// Further listeners of the gateway, whom it believes, and its log.
    #[serde(default, skip_serializing_if = "is_default")]
    pub gateway: GatewaySettings,
}

/// How a node reaches the Docker engine of its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DockerSettings {
    /// The engine's Unix socket. Whoever may use it is root on the host. Default
    /// `/var/run/docker.sock`.
    #[serde(default = "docker_socket")]
    pub socket: PathBuf,
    /// Network of the engine that instances are attached to, which this node reaches. Default: the
    /// first one that the node's own container is attached to, or the engine's `bridge`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// An image of this node's engine that a service names, that other nodes lack and that no registry has
    /// given, goes into the cluster's bundles before the service is written (decision 0107). Default true.
    #[serde(default = "share_images")]
    pub share_images: bool,
}

impl Default for DockerSettings {
    fn default() -> Self {
        Self {
            socket: docker_socket(),
            network: None,
            share_images: share_images(),
        }
    }
}

/// How much of the disk bundles may take: those that come, those that are here, and what is unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct BundleSettings {
    /// Bytes, at least 16 MiB; one bundle has 2 GiB at most. Default 20 GiB.
    pub max_bytes: u64,
}

/// Less holds no program worth keeping.
const MIN_BUNDLE_BYTES: u64 = 16 * 1024 * 1024;
const BUNDLE_BYTES: u64 = 20 * 1024 * 1024 * 1024;

impl Default for BundleSettings {
    fn default() -> Self {
        Self {
            max_bytes: BUNDLE_BYTES,
        }
    }
}

/// What a gateway does beside answering on `gateway-port`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct GatewaySettings {
    /// `address:port` that also serves hosts of this cluster only. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_listen: Option<String>,
    /// `address:port` for TLS; needs `certificates`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_listen: Option<String>,
    /// Directory of `NAME.crt` and `NAME.key`, read again when it changes; the pair called
    /// `default` is for clients that name no host of the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificates: Option<PathBuf>,
    /// Address ranges whose `Forwarded` and `X-Forwarded-*` are kept. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trusted_proxies: Vec<String>,
    /// Address ranges that must begin each connection with a PROXY header. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proxy_protocol_from: Vec<String>,
    /// `off`, `stdout` or `file`: `access.log` in the data directory. Default `file`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub access_log: AccessLogTo,
    /// Parts of user agents that tell a prober, for services whose `nihilo.dev/probe-paths` is `*`; at
    /// most 64. Default: `kube-probe/`, `GoogleHC/`, `ELB-HealthChecker/`, `Consul Health Check`,
    /// `Uptime-Kuma/`, `UptimeRobot/`, `Blackbox`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe_user_agents: Option<Vec<String>>,
}

const PROBERS: [&str; 7] = [
    "kube-probe/",
    "GoogleHC/",
    "ELB-HealthChecker/",
    "Consul Health Check",
    "Uptime-Kuma/",
    "UptimeRobot/",
    "Blackbox",
];
const MAX_PROBERS: usize = 64;

impl GatewaySettings {
    pub fn probe_user_agents(&self) -> Vec<String> {
        let known = || PROBERS.map(str::to_owned).to_vec();
        self.probe_user_agents.clone().unwrap_or_else(known)
    }

    fn check(&self) -> Result<(), String> {
        if self.tls_listen.is_some() != self.certificates.is_some() {
            return Err("gateway: `tls-listen` and `certificates` go together".into());
        }
        let probers = self.probe_user_agents.as_deref().unwrap_or_default();
        if probers.len() > MAX_PROBERS || probers.iter().any(String::is_empty) {
            return Err(format!(
                "gateway: probe-user-agents, must be at most `{MAX_PROBERS}`, and none empty"
            ));
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccessLogTo {
    Off,
    Stdout,
    #[default]
    File,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Member {
    pub id: u64,
    pub name: String,
    /// `host:port` of its peer listener.
    pub peer: String,
    /// `host:port` of its admin listener.
    pub admin: String,
}

/// Raft timing profile (02-store §2.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    #[default]
    Auto,
    Calm,
    Balanced,
    Fast,
}

/// What runs instances (06-runtime §1.3).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DriverKind {
    /// Programs of this host.
    #[default]
    Process,
    /// Simulated instances inside the node's process, for tests and benchmarks.
    Fake,
}

/// What becomes of instances when their node's process dies, other than by being told to stop
/// (06-runtime §1.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnNodeExit {
    Adopt,
    Kill,
}

/// Bounds of a simulated boot, in milliseconds; equal ones make it fixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BootDelay {
    pub min_ms: u32,
    /// At most 60,000, the longest boot that owners wait for.
    pub max_ms: u32,
}

impl Default for BootDelay {
    fn default() -> Self {
        let (min_ms, max_ms) = (20, 20);
        Self { min_ms, max_ms }
    }
}

/// How the process driver confines programs. What a service asks for itself goes before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct ProcessSettings {
    /// How far programs are kept from everything that is not theirs: `none`, `landlock` or `full`
    /// (docs/limits.md). A host that offers less gives less, and says so. Default `landlock`.
    pub isolation: Isolation,
    /// Absolute paths that isolated programs may read and execute beside the system's.
    pub readable: Vec<PathBuf>,
    /// Absolute paths that they may change too.
    pub writable: Vec<PathBuf>,
    /// Control groups keep limits where this host has them; without them, memory and processes are
    /// looked at twice a second, and cpu is not limited. Default true.
    pub cgroups: bool,
    /// Processes and threads of one instance at most, 16 to 1,000,000. Default 1024.
    pub max_processes: u32,
    /// As whom programs run; only a node that runs as root can have this. Default: as the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_as: Option<RunAsSetting>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RunAsSetting {
    pub user: u32,
    /// Default: the user's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<u32>,
}

/// Fewer are not enough for a shell and what it starts, more are nobody's bound.
const PROCESSES: std::ops::RangeInclusive<u32> = 16..=1_000_000;

impl Default for ProcessSettings {
    fn default() -> Self {
        Self {
            isolation: Isolation::Landlock,
            readable: Vec::new(),
            writable: Vec::new(),
            cgroups: true,
            max_processes: 1_024,
            run_as: None,
        }
    }
}

impl ProcessSettings {
    /// A launcher is told them a line each.
    fn check_paths(&self) -> Result<(), String> {
        let named = [("readable", &self.readable), ("writable", &self.writable)];
        for (key, paths) in named {
            let is_good = |path: &PathBuf| {
                let text = path.to_str().unwrap_or_default();
                path.is_absolute() && !text.contains('\n')
            };
            if let Some(bad) = paths.iter().find(|path| !is_good(path)) {
                return Err(format!(
                    "process: {key} = `{}`, must be an absolute path",
                    bad.display()
                ));
            }
        }
        Ok(())
    }
}

/// A configuration that cannot be used, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

impl NodeConfig {
    /// Reads and checks a configuration; `file` is named in errors.
    ///
    /// # Errors
    /// The first thing that is wrong, with file and line where there is one.
    pub fn parse(text: &str, file: &str) -> Result<Self, ConfigError> {
        let config: Self = serde_saphyr::from_str(text)
            .map_err(|error| ConfigError(format!("{file}: {error}")))?;
        config
            .check()
            .map_err(|why| ConfigError(format!("{file}: {why}")))?;
        Ok(config)
    }

    /// # Panics
    /// Never: every field renders.
    pub fn to_yaml(&self) -> String {
        serde_saphyr::to_string(self).expect("a configuration renders as YAML")
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        let Some(me) = self.members.iter().find(|member| member.id == self.node_id) else {
            return Err(format!(
                "node-id = `{}` is not one of `members`",
                self.node_id
            ));
        };
        if me.name != self.name {
            return Err(format!(
                "name = `{}`, but member {} is `{}`",
                self.name, me.id, me.name
            ));
        }
        if self.node_id == 0 || self.members.iter().any(|member| member.id == 0) {
            return Err("node ids start at 1".into());
        }
        if self.listen.parse::<std::net::IpAddr>().is_err() {
            return Err(format!("listen = `{}`, must be an IP address", self.listen));
        }
        let ports = [self.gateway_port, self.admin_port, self.peer_port];
        if ports[0] == ports[1] || ports[1] == ports[2] || ports[0] == ports[2] {
            return Err(format!(
                "gateway-port, admin-port and peer-port = `{}`, `{}`, `{}`, must differ",
                ports[0], ports[1], ports[2]
            ));
        }
        let mut ids: Vec<_> = self.members.iter().map(|member| member.id).collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.len() != self.members.len() {
            return Err("two members have the same id".into());
        }
        let max_capacity = match self.driver {
            DriverKind::Process => MAX_PROCESSES,
            DriverKind::Fake => MAX_FAKES,
        };
        if self.capacity == 0 || self.capacity > max_capacity {
            return Err(format!(
                "capacity = `{}`, must be in [`1`, `{max_capacity}`]",
                self.capacity
            ));
        }
        self.gateway.check()?;
        if self.driver == DriverKind::Fake && self.on_node_exit == Some(OnNodeExit::Adopt) {
            return Err("on-node-exit = `adopt` needs `driver: process`".into());
        }
        let processes = self.process.max_processes;
        if !PROCESSES.contains(&processes) {
            return Err(format!(
                "process: max-processes = `{processes}`, must be in [`{}`, `{}`]",
                PROCESSES.start(),
                PROCESSES.end()
            ));
        }
        self.process.check_paths()?;
        let max_bytes = self.bundles.max_bytes;
        if max_bytes < MIN_BUNDLE_BYTES {
            return Err(format!(
                "bundles: max-bytes = `{max_bytes}`, must be at least `{MIN_BUNDLE_BYTES}`"
            ));
        }
        self.check_fake_boot()
    }

    fn check_fake_boot(&self) -> Result<(), String> {
        let Some(boot) = self.fake_boot else {
            return Ok(());
        };
        if self.driver != DriverKind::Fake {
            return Err("fake-boot needs `driver: fake`".into());
        }
        if boot.min_ms > boot.max_ms || boot.max_ms > MAX_FAKE_BOOT_MS {
            return Err(format!(
                "fake-boot = `{}` to `{}`, must rise and be in [`0`, `{MAX_FAKE_BOOT_MS}`]",
                boot.min_ms, boot.max_ms
            ));
        }
        Ok(())
    }

    /// Every default, and no members yet.
    pub fn of_one(name: String, node_id: u64, data_dir: PathBuf) -> Self {
        Self {
            name,
            node_id,
            data_dir,
            listen: loopback(),
            advertise: String::new(),
            gateway_port: gateway_port(),
            admin_port: admin_port(),
            peer_port: peer_port(),
            members: Vec::new(),
            joined: false,
            cluster: cluster_name(),
            domain: loopback_domain(),
            external_port: None,
            profile: Profile::default(),
            failover_fast_path: false,
            autoscaler: BTreeMap::new(),
            capacity: capacity(),
            driver: DriverKind::default(),
            fake_boot: None,
            on_node_exit: None,
            instance_ports: instance_ports(),
            docker: DockerSettings::default(),
            process: ProcessSettings::default(),
            bundles: BundleSettings::default(),
            secrets_key_file: None,
            shutdown_grace: shutdown_grace(),
            log: log(),
            gateway: GatewaySettings::default(),
        }
    }

    /// Host that others reach this node by.
    pub fn host(&self) -> &str {
        if self.advertise.is_empty() {
            &self.listen
        } else {
            &self.advertise
        }
    }

    pub fn secrets_key_file(&self) -> PathBuf {
        let named = self.secrets_key_file.clone();
        named.unwrap_or_else(|| self.data_dir.join(SECRETS_KEY))
    }

    pub fn peer_address(&self) -> String {
        format!("{}:{}", self.host(), self.peer_port)
    }

    pub fn admin_address(&self) -> String {
        format!("{}:{}", self.host(), self.admin_port)
    }

    pub fn gateway_address(&self) -> String {
        format!("{}:{}", self.host(), self.gateway_port)
    }

    /// The lowest of the founding members founds the cluster.
    pub fn is_founder(&self) -> bool {
        !self.joined && self.members.iter().map(|member| member.id).min() == Some(self.node_id)
    }
}

fn loopback() -> String {
    "127.0.0.1".into()
}
fn loopback_domain() -> String {
    "localhost".into()
}
fn cluster_name() -> String {
    "nihilo".into()
}
fn gateway_port() -> u16 {
    8080
}
fn admin_port() -> u16 {
    7070
}
fn peer_port() -> u16 {
    7071
}
fn capacity() -> u32 {
    100
}
fn instance_ports() -> u16 {
    20_000
}
fn docker_socket() -> PathBuf {
    "/var/run/docker.sock".into()
}
fn share_images() -> bool {
    true
}
fn shutdown_grace() -> u32 {
    30
}
fn log() -> String {
    LOG.into()
}
fn is_usual_log(text: &str) -> bool {
    text == LOG
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "name: node1\nnode-id: 1\ndata-dir: /tmp/x\nmembers:\n  - {id: 1, name: \
                        node1, peer: '127.0.0.1:7071', admin: '127.0.0.1:7070'}\n";

    #[test]
    fn defaults_fill_in_and_round_trip() {
        let config = NodeConfig::parse(TEXT, "node.yaml").unwrap();
        assert_eq!((config.gateway_port, config.capacity), (8080, 100));
        assert_eq!(
            NodeConfig::parse(&config.to_yaml(), "again").unwrap(),
            config
        );
    }

    #[test]
    fn mistakes_name_the_file_and_the_key() {
        let unknown = NodeConfig::parse(&format!("{TEXT}gatewayport: 1\n"), "node.yaml");
        let text = unknown.unwrap_err().0;
        assert!(
            text.contains("node.yaml") && text.contains("gatewayport"),
            "{text}"
        );
        let boot = format!("{TEXT}fake-boot: {{min-ms: 1, max-ms: 5}}\n");
        let process = NodeConfig::parse(&boot, "node.yaml").unwrap_err().0;
        assert!(
            process.contains("fake-boot needs `driver: fake`"),
            "{process}"
        );
        let fake = NodeConfig::parse(&format!("{boot}driver: fake\n"), "node.yaml").unwrap();
        assert_eq!(fake.driver, DriverKind::Fake);
        let adopt = format!("{TEXT}driver: fake\non-node-exit: adopt\n");
        let adopt = NodeConfig::parse(&adopt, "node.yaml").unwrap_err().0;
        assert!(adopt.contains("needs `driver: process`"), "{adopt}");
        let bomb = format!("{TEXT}process: {{max-processes: 4}}\n");
        let bomb = NodeConfig::parse(&bomb, "node.yaml").unwrap_err().0;
        assert!(bomb.contains("max-processes = `4`"), "{bomb}");
        let level = format!("{TEXT}process: {{isolation: most}}\n");
        let level = NodeConfig::parse(&level, "node.yaml").unwrap_err().0;
        assert!(level.contains("landlock"), "{level}");
        let path = format!("{TEXT}process: {{writable: [srv/app]}}\n");
        let path = NodeConfig::parse(&path, "node.yaml").unwrap_err().0;
        assert!(path.contains("writable = `srv/app`"), "{path}");
        let tls = format!("{TEXT}gateway: {{tls-listen: '0.0.0.0:8443'}}\n");
        let tls = NodeConfig::parse(&tls, "node.yaml").unwrap_err().0;
        assert!(tls.contains("`certificates`"), "{tls}");
        let agents = format!("{TEXT}gateway: {{probe-user-agents: ['']}}\n");
        let agents = NodeConfig::parse(&agents, "node.yaml").unwrap_err().0;
        assert!(agents.contains("probe-user-agents"), "{agents}");
        let foreign = NodeConfig::parse(&TEXT.replace("node-id: 1", "node-id: 4"), "node.yaml");
        assert!(foreign.unwrap_err().0.contains("node-id = `4`"));
    }
}
