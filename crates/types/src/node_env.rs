//! The configuration of one node out of `NIHILO_…` variables, as a container is given it.
//!
//! Every node of such a cluster listens on the same ports, because each has an address of its own;
//! a cluster that needs other ports per member, or names that are not hosts, uses `node.yaml`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use crate::node_config::{
    BundleSettings, ConfigError, DockerSettings, Member, NodeConfig, OnNodeExit, ProcessSettings,
    Profile,
};

/// Variables that begin with this are ours; one that is not known is refused, like a key of the
/// file.
pub const PREFIX: &str = "NIHILO_";
/// Set where a node is configured by its environment.
pub const MEMBERS: &str = "NIHILO_MEMBERS";
/// The log's filter, read where the log is made.
pub const LOG: &str = "NIHILO_LOG";
/// Set for a program that takes the place of another one of the same node.
pub const RESTARTED: &str = "NIHILO_RESTARTED";
/// Read by the command line, the log filter and the command ledgers, of no meaning here.
const OF_OTHERS: [&str; 5] = [
    LOG,
    RESTARTED,
    "NIHILO_SERVER",
    "NIHILO_NAMESPACE",
    "NIHILO_COMMAND_LEDGER",
];

/// Variables, and the keys of `node.yaml` that they stand for; a key below another one has a dot.
///
/// `NIHILO_MEMBERS` and `NIHILO_NODE_NAME` decide `node-id` too.
pub const VARIABLES: [(&str, &str); 27] = [
    ("NIHILO_NODE_NAME", "name"),
    ("NIHILO_DATA_DIR", "data-dir"),
    (MEMBERS, "members"),
    ("NIHILO_CLUSTER", "cluster"),
    ("NIHILO_LISTEN", "listen"),
    ("NIHILO_ADVERTISE", "advertise"),
    ("NIHILO_GATEWAY_PORT", "gateway-port"),
    ("NIHILO_ADMIN_PORT", "admin-port"),
    ("NIHILO_PEER_PORT", "peer-port"),
    ("NIHILO_DOMAIN", "domain"),
    ("NIHILO_EXTERNAL_PORT", "external-port"),
    ("NIHILO_PROFILE", "profile"),
    ("NIHILO_FAILOVER_FAST_PATH", "failover-fast-path"),
    ("NIHILO_AUTOSCALER", "autoscaler"),
    ("NIHILO_CAPACITY", "capacity"),
    ("NIHILO_ON_NODE_EXIT", "on-node-exit"),
    ("NIHILO_INSTANCE_PORTS", "instance-ports"),
    ("NIHILO_DOCKER_SOCKET", "docker.socket"),
    ("NIHILO_DOCKER_NETWORK", "docker.network"),
    ("NIHILO_DOCKER_SHARE_IMAGES", "docker.share-images"),
    ("NIHILO_ISOLATION", "process.isolation"),
    ("NIHILO_READABLE", "process.readable"),
    ("NIHILO_WRITABLE", "process.writable"),
    ("NIHILO_MAX_PROCESSES", "process.max-processes"),
    ("NIHILO_BUNDLES_MAX_BYTES", "bundles.max-bytes"),
    ("NIHILO_SECRETS_KEY_FILE", "secrets-key-file"),
    ("NIHILO_SHUTDOWN_GRACE", "shutdown-grace"),
];
/// The first of them say who a node is: beside a file they are the file's.
const N_IDENTITY: usize = 4;

/// The variables of this process; what is no text is none of ours.
pub fn of_process() -> BTreeMap<String, String> {
    texts(std::env::vars_os())
}

fn texts(variables: impl Iterator<Item = (OsString, OsString)>) -> BTreeMap<String, String> {
    let text = |(name, value): (OsString, OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    variables.filter_map(text).collect()
}

/// The variable for a key of `node.yaml`, where one is set that counts: beside a file, those that say who
/// the node is do not.
pub fn variable_for(
    key: &str,
    variables: &BTreeMap<String, String>,
    is_beside_file: bool,
) -> Option<&'static str> {
    if key == "log" {
        return is_set(LOG, variables).then_some(LOG);
    }
    let first = if is_beside_file { N_IDENTITY } else { 0 };
    let known = VARIABLES[first..].iter();
    let mut known = known.filter(|(_, of)| *of == key).map(|(name, _)| *name);
    known.find(|name| is_set(name, variables))
}

fn is_set(name: &str, variables: &BTreeMap<String, String>) -> bool {
    variables.get(name).is_some_and(|value| !value.is_empty())
}

/// Reads and checks a configuration.
///
/// `NIHILO_MEMBERS` (`1=node1,2=node2,3=node3`: id and host, the host being the name too),
/// `NIHILO_NODE_NAME` and `NIHILO_DATA_DIR` must be there; the others are the keys of `node.yaml`
/// in capitals, with the same defaults. `NIHILO_AUTOSCALER` is a list of `key=value`.
///
/// # Errors
/// The first variable that is missing, unknown or malformed.
pub fn read(variables: &BTreeMap<String, String>) -> Result<NodeConfig, ConfigError> {
    let mut variables = Variables::new(variables);
    let (name, data_dir) = (
        variables.needed("NODE_NAME")?,
        variables.needed("DATA_DIR")?,
    );
    let hosts: Vec<(u64, String)> = variables.pairs("MEMBERS")?.unwrap_or_default();
    let ids = hosts.iter().map(|(id, host)| (host.as_str(), *id));
    let node_id = ids.collect::<BTreeMap<_, _>>().get(name.as_str()).copied();
    let node_id = node_id.ok_or_else(|| {
        ConfigError(format!(
            "NIHILO_NODE_NAME = `{name}` is not one of NIHILO_MEMBERS"
        ))
    })?;
    let mut unset = NodeConfig::of_one(name.clone(), node_id, data_dir.into());
    // Every host of such a cluster has its member's name.
    unset.advertise = name;
    unset.cluster = variables.or("CLUSTER", unset.cluster)?;
    let mut config = settings(&mut variables, unset)?;
    let (peer_port, admin_port) = (config.peer_port, config.admin_port);
    let member = |(id, host): (u64, String)| Member {
        id,
        peer: format!("{host}:{peer_port}"),
        admin: format!("{host}:{admin_port}"),
        name: host,
    };
    config.members = hosts.into_iter().map(member).collect();
    variables.all_known()?;
    checked(config)
}

/// A configuration out of a file, with the variables that are set in place of its keys. Who the node is
/// and who its members are stays the file's, and what is not known is somebody else's.
///
/// # Errors
/// The first variable that is malformed, or makes no configuration together with the file.
pub fn over(
    file: NodeConfig,
    variables: &BTreeMap<String, String>,
) -> Result<NodeConfig, ConfigError> {
    checked(settings(&mut Variables::new(variables), file)?)
}

fn checked(config: NodeConfig) -> Result<NodeConfig, ConfigError> {
    let checked = config.check();
    checked.map_err(|why| ConfigError(format!("environment: {why}")))?;
    Ok(config)
}

/// Everything that says how a node is, not who: what is set, else what `unset` has.
fn settings(variables: &mut Variables<'_>, unset: NodeConfig) -> Result<NodeConfig, ConfigError> {
    let autoscaler = variables.pairs("AUTOSCALER")?;
    Ok(NodeConfig {
        listen: variables.or("LISTEN", unset.listen)?,
        advertise: variables.or("ADVERTISE", unset.advertise)?,
        gateway_port: variables.or("GATEWAY_PORT", unset.gateway_port)?,
        admin_port: variables.or("ADMIN_PORT", unset.admin_port)?,
        peer_port: variables.or("PEER_PORT", unset.peer_port)?,
        domain: variables.or("DOMAIN", unset.domain)?,
        external_port: variables.parsed("EXTERNAL_PORT")?.or(unset.external_port),
        profile: variables.or("PROFILE", unset.profile)?,
        failover_fast_path: variables.or("FAILOVER_FAST_PATH", unset.failover_fast_path)?,
        autoscaler: autoscaler.map_or(unset.autoscaler, |pairs| pairs.into_iter().collect()),
        capacity: variables.or("CAPACITY", unset.capacity)?,
        on_node_exit: variables.parsed("ON_NODE_EXIT")?.or(unset.on_node_exit),
        instance_ports: variables.or("INSTANCE_PORTS", unset.instance_ports)?,
        docker: DockerSettings {
            socket: variables.or("DOCKER_SOCKET", unset.docker.socket)?,
            network: variables.parsed("DOCKER_NETWORK")?.or(unset.docker.network),
            share_images: variables.or("DOCKER_SHARE_IMAGES", unset.docker.share_images)?,
        },
        process: ProcessSettings {
            isolation: variables.or("ISOLATION", unset.process.isolation)?,
            readable: variables
                .paths("READABLE")?
                .unwrap_or(unset.process.readable),
            writable: variables
                .paths("WRITABLE")?
                .unwrap_or(unset.process.writable),
            max_processes: variables.or("MAX_PROCESSES", unset.process.max_processes)?,
            ..unset.process
        },
        bundles: BundleSettings {
            max_bytes: variables.or("BUNDLES_MAX_BYTES", unset.bundles.max_bytes)?,
        },
        secrets_key_file: variables
            .parsed("SECRETS_KEY_FILE")?
            .or(unset.secrets_key_file),
        shutdown_grace: variables.or("SHUTDOWN_GRACE", unset.shutdown_grace)?,
        // Drivers and confinement beyond that are for tests, which write files; so are, of the
        // gateway, lists and listeners.
        ..unset
    })
}

/// What is set, less what has been read. An empty value counts as not set, as compose files write
/// it.
struct Variables<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Variables<'a> {
    fn new(all: &'a BTreeMap<String, String>) -> Self {
        let ours = all.iter().filter_map(|(key, value)| {
            let key = key.as_str();
            let name = key.strip_prefix(PREFIX)?;
            (!OF_OTHERS.contains(&key) && !value.is_empty()).then_some((name, value.as_str()))
        });
        Self(ours.collect())
    }

    fn parsed<T: FromStr<Err: std::fmt::Display>>(
        &mut self,
        name: &str,
    ) -> Result<Option<T>, ConfigError> {
        let Some(text) = self.0.remove(name) else {
            return Ok(None);
        };
        let parsed = text.parse().map(Some);
        parsed.map_err(|why| ConfigError(format!("{PREFIX}{name} = `{text}`: {why}")))
    }

    fn or<T: FromStr<Err: std::fmt::Display>>(
        &mut self,
        name: &str,
        default: T,
    ) -> Result<T, ConfigError> {
        Ok(self.parsed(name)?.unwrap_or(default))
    }

    fn needed(&mut self, name: &str) -> Result<String, ConfigError> {
        let found = self.parsed(name)?;
        found.ok_or_else(|| ConfigError(format!("{PREFIX}{name} is not set")))
    }

    /// A list of `key=value`, separated by commas.
    fn pairs<K: FromStr>(&mut self, name: &str) -> Result<Option<Vec<(K, String)>>, ConfigError> {
        let Some(text) = self.0.remove(name) else {
            return Ok(None);
        };
        let pair = |item: &str| {
            let (key, value) = item.split_once('=')?;
            let value = value.trim();
            (!value.is_empty()).then_some((key.trim().parse().ok()?, value.to_owned()))
        };
        let pairs = text
            .split(',')
            .map(|item| pair(item).ok_or_else(|| ConfigError(format!("{PREFIX}{name}: `{item}`"))));
        pairs.collect::<Result<_, _>>().map(Some)
    }

    /// A list separated by colons, as `PATH` is.
    fn paths(&mut self, name: &str) -> Result<Option<Vec<PathBuf>>, ConfigError> {
        let text: Option<String> = self.parsed(name)?;
        let paths = |text: String| {
            let each = text.split(':').filter(|path| !path.is_empty());
            each.map(PathBuf::from).collect()
        };
        Ok(text.map(paths))
    }

    fn all_known(&self) -> Result<(), ConfigError> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(ConfigError(format!("{PREFIX}{name} is not known"))),
        }
    }
}

impl FromStr for Profile {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "calm" => Ok(Self::Calm),
            "balanced" => Ok(Self::Balanced),
            "fast" => Ok(Self::Fast),
            _ => Err("must be auto, calm, balanced or fast"),
        }
    }
}

impl FromStr for OnNodeExit {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "adopt" => Ok(Self::Adopt),
            "kill" => Ok(Self::Kill),
            _ => Err("must be adopt or kill"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: [(&str, &str); 3] = [
        ("NIHILO_NODE_NAME", "node2"),
        ("NIHILO_MEMBERS", "1=node1, 2=node2,3=node3"),
        ("NIHILO_DATA_DIR", "/data"),
    ];

    fn with(more: &[(&str, &str)]) -> Result<NodeConfig, String> {
        let all = GIVEN.iter().chain(more);
        let all = all.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        read(&all.collect()).map_err(|error| error.0)
    }

    #[test]
    fn three_variables_make_a_node_that_is_reached_by_its_name() {
        let config = with(&[]).unwrap();
        assert_eq!((config.node_id, config.name.as_str()), (2, "node2"));
        assert_eq!(config.peer_address(), "node2:7071");
        let members: Vec<_> = config
            .members
            .iter()
            .map(|m| (m.id, m.peer.as_str()))
            .collect();
        assert_eq!(
            members,
            [(1, "node1:7071"), (2, "node2:7071"), (3, "node3:7071")]
        );
        assert!(!config.is_founder());
        let file = NodeConfig::parse(&config.to_yaml(), "node.yaml").unwrap();
        assert_eq!(file, config);
    }

    #[test]
    fn every_other_key_of_the_file_has_its_variable() {
        let config = with(&[
            ("NIHILO_LISTEN", "0.0.0.0"),
            ("NIHILO_ADVERTISE", "10.0.0.2"),
            ("NIHILO_GATEWAY_PORT", "80"),
            ("NIHILO_ADMIN_PORT", "1"),
            ("NIHILO_PEER_PORT", "2"),
            ("NIHILO_CLUSTER", "prod"),
            ("NIHILO_DOMAIN", "example.com"),
            ("NIHILO_EXTERNAL_PORT", "443"),
            ("NIHILO_PROFILE", "fast"),
            ("NIHILO_AUTOSCALER", "stable-window=6s,initial-scale=0"),
            ("NIHILO_CAPACITY", "7"),
            ("NIHILO_ON_NODE_EXIT", "adopt"),
            ("NIHILO_INSTANCE_PORTS", "30000"),
            ("NIHILO_ISOLATION", "full"),
            ("NIHILO_READABLE", "/srv/a:/srv/b"),
            ("NIHILO_WRITABLE", "/srv/c"),
            ("NIHILO_SECRETS_KEY_FILE", "/keys/secrets.key"),
            ("NIHILO_SHUTDOWN_GRACE", "5"),
        ]);
        let text = "name: node2\nnode-id: 2\ndata-dir: /data\nlisten: 0.0.0.0\nadvertise: \
                    10.0.0.2\ngateway-port: 80\nadmin-port: 1\npeer-port: 2\nmembers:\n- {id: 1, \
                    name: node1, peer: 'node1:2', admin: 'node1:1'}\n- {id: 2, name: node2, peer: \
                    'node2:2', admin: 'node2:1'}\n- {id: 3, name: node3, peer: 'node3:2', admin: \
                    'node3:1'}\ncluster: prod\ndomain: example.com\nexternal-port: 443\nprofile: \
                    fast\nautoscaler: {stable-window: 6s, initial-scale: '0'}\ncapacity: \
                    7\non-node-exit: adopt\ninstance-ports: 30000\nprocess: {isolation: full, \
                    readable: [/srv/a, /srv/b], writable: [/srv/c]}\nsecrets-key-file: \
                    /keys/secrets.key\nshutdown-grace: 5\n";
        assert_eq!(
            config,
            NodeConfig::parse(text, "node.yaml").map_err(|e| e.0)
        );
    }

    #[test]
    fn variables_go_before_a_file_which_says_who_the_node_is() {
        let file = NodeConfig {
            capacity: 5,
            external_port: Some(443),
            shutdown_grace: 7,
            ..with(&[]).unwrap()
        };
        let over_file = |name: &str, value: &str| {
            let set = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            over(file.clone(), &set).map_err(|error| error.0)
        };
        let changed = over_file("NIHILO_CAPACITY", "9").unwrap();
        let want = NodeConfig {
            capacity: 9,
            ..file.clone()
        };
        assert_eq!(changed, want);
        for (name, value) in [
            ("NIHILO_NODE_NAME", "other"),
            ("NIHILO_MEMBERS", "1=x"),
            ("NIHILO_DATA_DIR", "/x"),
            ("NIHILO_CLUSTER", "other"),
            ("NIHILO_TEST_IMAGE", "x"),
            ("NIHILO_CAPACITY", ""),
        ] {
            assert_eq!(over_file(name, value).as_ref(), Ok(&file), "{name}");
        }
        let refused = over_file("NIHILO_CAPACITY", "many").unwrap_err();
        assert!(refused.contains("NIHILO_CAPACITY = `many`"), "{refused}");
    }

    #[test]
    fn each_variable_is_listed_with_the_key_that_it_sets() {
        let samples = [
            ("NIHILO_FAILOVER_FAST_PATH", "true"),
            ("NIHILO_PROFILE", "fast"),
            ("NIHILO_ON_NODE_EXIT", "kill"),
            ("NIHILO_AUTOSCALER", "stable-window=6s"),
            ("NIHILO_LISTEN", "0.0.0.0"),
            ("NIHILO_BUNDLES_MAX_BYTES", "30000000"),
            ("NIHILO_DOCKER_SHARE_IMAGES", "false"),
            ("NIHILO_ISOLATION", "full"),
            ("NIHILO_READABLE", "/srv"),
            ("NIHILO_WRITABLE", "/srv"),
        ];
        let file = NodeConfig {
            external_port: Some(443),
            ..with(&[]).unwrap()
        };
        for (name, key) in &VARIABLES[N_IDENTITY..] {
            let sample = samples.iter().find(|(of, _)| of == name);
            let value = sample.map_or("777", |(_, value)| value);
            let set = BTreeMap::from([((*name).to_owned(), value.to_owned())]);
            let changed = crate::node_view::changed(&file, &over(file.clone(), &set).unwrap());
            assert_eq!(changed, [*key], "{name}");
            assert_eq!(variable_for(key, &set, true), Some(*name));
        }
        let who = BTreeMap::from([("NIHILO_DATA_DIR".to_owned(), "/x".to_owned())]);
        assert_eq!(
            variable_for("data-dir", &who, false),
            Some("NIHILO_DATA_DIR")
        );
        assert_eq!(variable_for("data-dir", &who, true), None);
    }

    #[test]
    fn variables_that_are_no_text_are_skipped() {
        use std::os::unix::ffi::OsStringExt;
        let odd = || OsString::from_vec(vec![0xff]);
        let all = [
            ("A".into(), odd()),
            (odd(), "b".into()),
            ("C".into(), "c".into()),
        ];
        let want = BTreeMap::from([("C".to_owned(), "c".to_owned())]);
        assert_eq!(texts(all.into_iter()), want);
    }

    #[test]
    fn mistakes_name_the_variable() {
        let cases = [
            ("NIHILO_MEMBRES", "x", "NIHILO_MEMBRES is not known"),
            ("NIHILO_ADMIN_PORT", "70700", "NIHILO_ADMIN_PORT = `70700`"),
            ("NIHILO_PROFILE", "quick", "must be auto, calm"),
            ("NIHILO_ON_NODE_EXIT", "stay", "must be adopt or kill"),
            ("NIHILO_ISOLATION", "most", "must be none, landlock or full"),
            ("NIHILO_WRITABLE", "here", "must be an absolute path"),
            ("NIHILO_MEMBERS", "1=node1,node2", "NIHILO_MEMBERS: `node2`"),
            ("NIHILO_MEMBERS", "1=node2,1=node3", "same id"),
            (
                "NIHILO_NODE_NAME",
                "node4",
                "`node4` is not one of NIHILO_MEMBERS",
            ),
            ("NIHILO_DATA_DIR", "", "NIHILO_DATA_DIR is not set"),
            ("NIHILO_CAPACITY", "0", "capacity = `0`"),
        ];
        for (variable, value, want) in cases {
            let error = with(&[(variable, value)]).unwrap_err();
            assert!(error.contains(want), "{variable}={value}: {error}");
        }
    }

    #[test]
    fn what_others_read_and_what_is_empty_does_not_matter() {
        let more = [
            ("NIHILO_LOG", "debug"),
            ("NIHILO_SERVER", "a:1"),
            ("NIHILO_COMMAND_LEDGER", "1"),
            ("NIHILO_EXTERNAL_PORT", ""),
            ("PATH", "/bin"),
        ];
        assert_eq!(with(&more), with(&[]));
    }
}
