//! A node's configuration as a list: each key, what it comes to, and where that comes from. Also what has
//! changed between two of them, and what of that a running node follows.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::{Value, json};

use crate::node_config::{ConfigError, NodeConfig};
use crate::node_env;

/// What a node that is told to read its configuration again follows while it runs.
pub const LIVE: [&str; 7] = [
    "bundles.max-bytes",
    "docker.share-images",
    "gateway.probe-user-agents",
    "gateway.proxy-protocol-from",
    "gateway.trusted-proxies",
    "log",
    "shutdown-grace",
];

/// Who decided a value, the strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    Flag,
    Environment,
    File,
    Default,
}

/// One key of a configuration.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Setting {
    /// As in `node.yaml`; a key below another one has a dot.
    pub key: &'static str,
    /// `null` = there is none, or it is decided when the node starts.
    pub value: Value,
    pub source: Source,
    /// The flag, variable or file; empty for defaults.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub from: String,
}

/// What a configuration was made of.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// The file and the keys that it has; `None` = the environment is all.
    pub file: Option<(String, BTreeSet<String>)>,
    pub variables: BTreeMap<String, String>,
    /// Keys that flags decided, and those flags.
    pub flags: BTreeMap<&'static str, &'static str>,
}

/// Keys that a file has, a key below another one with a dot. The file is one that
/// [`NodeConfig::parse`] takes.
///
/// # Errors
/// It is no mapping.
pub fn keys_of(text: &str, file: &str) -> Result<BTreeSet<String>, ConfigError> {
    let parsed: BTreeMap<String, Value> =
        serde_saphyr::from_str(text).map_err(|error| ConfigError(format!("{file}: {error}")))?;
    let known: BTreeSet<_> = names().into_iter().collect();
    let keys = parsed.iter().flat_map(|(key, value)| match value {
        // The autoscaler's own keys are its value.
        Value::Object(below) if !known.contains(key.as_str()) => {
            below.keys().map(|name| format!("{key}.{name}")).collect()
        }
        _ => vec![key.clone()],
    });
    Ok(keys.collect())
}

/// Every key in the order of `node.yaml`, with what it comes to. No file is read that a value names.
pub fn settings(config: &NodeConfig, given: &Given) -> Vec<Setting> {
    let is_beside_file = given.file.is_some();
    let setting = |(key, value): (&'static str, Value)| {
        let variable = || {
            // The member of that name has the id.
            let key = if key == "node-id" { "name" } else { key };
            node_env::variable_for(key, &given.variables, is_beside_file)
        };
        let file = || given.file.as_ref().filter(|(_, keys)| keys.contains(key));
        let (source, from) = if let Some(flag) = given.flags.get(key) {
            (Source::Flag, (*flag).to_owned())
        } else if let Some(name) = variable() {
            (Source::Environment, name.to_owned())
        } else if let Some((name, _)) = file() {
            (Source::File, name.clone())
        } else {
            (Source::Default, String::new())
        };
        let value = match (key, source) {
            ("log", Source::Environment) => json!(given.variables.get(node_env::LOG)),
            _ => value,
        };
        Setting {
            key,
            value,
            source,
            from,
        }
    };
    values(config).into_iter().map(setting).collect()
}

/// Keys that two configurations do not have in common, in the order of `node.yaml`.
pub fn changed(before: &NodeConfig, after: &NodeConfig) -> Vec<&'static str> {
    let pairs = values(before).into_iter().zip(values(after));
    let differing = pairs.filter(|((_, before), (_, after))| before != after);
    differing.map(|((key, _), _)| key).collect()
}

fn names() -> Vec<&'static str> {
    let any = NodeConfig::of_one(String::new(), 0, std::path::PathBuf::new());
    values(&any).into_iter().map(|(key, _)| key).collect()
}

fn values(config: &NodeConfig) -> Vec<(&'static str, Value)> {
    let gateway = &config.gateway;
    vec![
        ("name", json!(config.name)),
        ("node-id", json!(config.node_id)),
        ("data-dir", json!(config.data_dir)),
        ("listen", json!(config.listen)),
        ("advertise", json!(config.host())),
        ("gateway-port", json!(config.gateway_port)),
        ("admin-port", json!(config.admin_port)),
        ("peer-port", json!(config.peer_port)),
        ("members", json!(config.members)),
        ("joined", json!(config.joined)),
        ("cluster", json!(config.cluster)),
        ("domain", json!(config.domain)),
        (
            "external-port",
            json!(config.external_port.unwrap_or(config.gateway_port)),
        ),
        ("autoscaler", json!(config.autoscaler)),
        ("profile", json!(config.profile)),
        ("failover-fast-path", json!(config.failover_fast_path)),
        ("capacity", json!(config.capacity)),
        ("instance-ports", json!(config.instance_ports)),
        ("on-node-exit", json!(config.on_node_exit)),
        ("driver", json!(config.driver)),
        ("fake-boot", json!(config.fake_boot)),
        ("process.isolation", json!(config.process.isolation)),
        ("process.readable", json!(config.process.readable)),
        ("process.writable", json!(config.process.writable)),
        ("process.cgroups", json!(config.process.cgroups)),
        ("process.max-processes", json!(config.process.max_processes)),
        ("process.run-as", json!(config.process.run_as)),
        ("docker.socket", json!(config.docker.socket)),
        ("docker.network", json!(config.docker.network)),
        ("docker.share-images", json!(config.docker.share_images)),
        ("bundles.max-bytes", json!(config.bundles.max_bytes)),
        ("secrets-key-file", json!(config.secrets_key_file())),
        ("shutdown-grace", json!(config.shutdown_grace)),
        ("log", json!(config.log)),
        ("gateway.private-listen", json!(gateway.private_listen)),
        ("gateway.tls-listen", json!(gateway.tls_listen)),
        ("gateway.certificates", json!(gateway.certificates)),
        ("gateway.trusted-proxies", json!(gateway.trusted_proxies)),
        (
            "gateway.proxy-protocol-from",
            json!(gateway.proxy_protocol_from),
        ),
        ("gateway.access-log", json!(gateway.access_log)),
        (
            "gateway.probe-user-agents",
            json!(gateway.probe_user_agents()),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;

    use super::*;
    use crate::node_config::{BundleSettings, DockerSettings, GatewaySettings, ProcessSettings};

    const TEXT: &str = "name: node1\nnode-id: 1\ndata-dir: /tmp/x\ncapacity: 7\nprocess: {cgroups: \
                        false}\nautoscaler: {stable-window: 60s}\nfake-boot: {min-ms: 1, max-ms: 2}\n\
                        driver: fake\nmembers:\n  - {id: 1, name: node1, peer: '127.0.0.1:7071', \
                        admin: '127.0.0.1:7070'}\n";

    /// The keys that `T` has, as its own refusal of another one lists them.
    fn keys<T: DeserializeOwned>(above: &str) -> Vec<String> {
        let refused = serde_json::from_str::<T>("{\"no such key\": 1}");
        let text = refused.err().unwrap().to_string();
        let listed = text.split_once("expected").unwrap().1;
        let names = listed.split('`').skip(1).step_by(2);
        names.map(|name| format!("{above}{name}")).collect()
    }

    #[test]
    fn every_key_is_shown_once() {
        let groups = ["docker", "process", "bundles", "gateway"];
        let of_all = keys::<NodeConfig>("").into_iter();
        let mut wanted: Vec<_> = of_all
            .filter(|key| !groups.contains(&key.as_str()))
            .collect();
        wanted.extend(keys::<DockerSettings>("docker."));
        wanted.extend(keys::<ProcessSettings>("process."));
        wanted.extend(keys::<BundleSettings>("bundles."));
        wanted.extend(keys::<GatewaySettings>("gateway."));
        wanted.sort();
        let mut shown = names();
        shown.sort_unstable();
        assert_eq!(shown, wanted);
        assert!(LIVE.iter().all(|key| shown.contains(key)));
    }

    #[test]
    fn flags_go_before_variables_and_those_before_the_file_and_its_defaults() {
        let mut config = NodeConfig::parse(TEXT, "node.yaml").unwrap();
        config.capacity = 9;
        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let given = Given {
            file: Some(("node.yaml".into(), keys_of(TEXT, "node.yaml").unwrap())),
            variables: BTreeMap::from([
                set("NIHILO_CAPACITY", "9"),
                set("NIHILO_LOG", "debug"),
                set("NIHILO_ON_NODE_EXIT", "kill"),
                // Beside a file it says nothing.
                set("NIHILO_DATA_DIR", "/elsewhere"),
            ]),
            flags: BTreeMap::from([("on-node-exit", "--on-node-exit")]),
        };
        let all = settings(&config, &given);
        for (key, value, source, from) in [
            ("capacity", json!(9), Source::Environment, "NIHILO_CAPACITY"),
            ("log", json!("debug"), Source::Environment, "NIHILO_LOG"),
            ("on-node-exit", json!(null), Source::Flag, "--on-node-exit"),
            ("data-dir", json!("/tmp/x"), Source::File, "node.yaml"),
            ("node-id", json!(1), Source::File, "node.yaml"),
            ("process.cgroups", json!(false), Source::File, "node.yaml"),
            ("process.max-processes", json!(1024), Source::Default, ""),
            ("external-port", json!(8080), Source::Default, ""),
            (
                "fake-boot",
                json!({"min-ms": 1, "max-ms": 2}),
                Source::File,
                "node.yaml",
            ),
            (
                "autoscaler",
                json!({"stable-window": "60s"}),
                Source::File,
                "node.yaml",
            ),
        ] {
            let found = all.iter().find(|setting| setting.key == key).unwrap();
            let want = Setting {
                key,
                value,
                source,
                from: from.into(),
            };
            assert_eq!(*found, want);
        }
    }

    #[test]
    fn what_has_changed_is_named_by_its_key() {
        let before = NodeConfig::parse(TEXT, "node.yaml").unwrap();
        let mut after = before.clone();
        assert!(changed(&before, &after).is_empty());
        after.gateway.trusted_proxies = vec!["10.0.0.0/8".into()];
        after.admin_port = 7;
        after.log = "debug".into();
        let want = ["admin-port", "log", "gateway.trusted-proxies"];
        assert_eq!(changed(&before, &after), want);
    }
}
