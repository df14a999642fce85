//! The compose file is the same cluster as `nihilo dev --nodes 3`: ports, names, settings.

use std::collections::BTreeMap;

use nihilo_types::node_config::NodeConfig;
use nihilo_types::node_env;
use serde::Deserialize;

use super::layout;

const FILE: &str = include_str!("../../../../cluster/docker-compose.yml");
/// Given to a node beyond its own grace before its container is killed.
const SPARE_SECONDS: u32 = 15;

#[derive(Debug, Deserialize)]
struct Compose {
    services: BTreeMap<String, Service>,
}

#[derive(Debug, Deserialize)]
struct Service {
    hostname: String,
    environment: BTreeMap<String, String>,
    ports: Vec<String>,
    volumes: Vec<String>,
    stop_grace_period: String,
}

/// Text with `${NAME:-default}` as it is where no variable is set.
fn with_defaults(text: &str) -> String {
    let Some((before, rest)) = text.split_once("${") else {
        return text.to_owned();
    };
    let (variable, after) = rest.split_once('}').unwrap();
    let (_, default) = variable.split_once(":-").unwrap();
    format!("{before}{default}{}", with_defaults(after))
}

/// What a node and the cluster are, without where they listen.
fn identity(config: &NodeConfig) -> impl PartialEq + std::fmt::Debug + use<> {
    let members = config.members.iter();
    let members: Vec<_> = members
        .map(|member| (member.id, member.name.clone()))
        .collect();
    let settings = (config.profile, config.autoscaler.clone(), config.capacity);
    (
        (config.node_id, config.name.clone(), members),
        (config.domain.clone(), config.external_port),
        (settings, config.shutdown_grace),
    )
}

#[test]
fn compose_and_dev_make_the_same_cluster() {
    let compose: Compose = serde_saphyr::from_str(FILE).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let dev = layout::prepare(dir.path(), 3, None).unwrap();
    assert_eq!(compose.services.len(), dev.len());
    for config in dev {
        let service = &compose.services[&config.name];
        assert_eq!(service.hostname, config.name);
        let variables = service.environment.iter();
        let variables = variables.map(|(key, value)| (key.clone(), with_defaults(value)));
        let inside = node_env::read(&variables.collect()).unwrap();
        assert_eq!(identity(&inside), identity(&config));

        let published = |host: u16, inside: u16| format!("127.0.0.1:{host}:{inside}");
        let ports: Vec<_> = service
            .ports
            .iter()
            .map(|port| with_defaults(port))
            .collect();
        let wanted = [
            published(config.gateway_port, inside.gateway_port),
            published(config.admin_port, inside.admin_port),
        ];
        assert_eq!(ports, wanted);

        let data = format!("data{}:{}", config.node_id, inside.data_dir.display());
        assert_eq!(service.volumes, [data, "keys:/keys".into()]);
        let key = inside.secrets_key_file();
        assert_eq!(key, std::path::Path::new("/keys/secrets.key"));
        let grace = inside.shutdown_grace + SPARE_SECONDS;
        assert_eq!(service.stop_grace_period, format!("{grace}s"));
    }
}
