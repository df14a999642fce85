//! Files and ports of a local cluster: `DIR/node{i}/node.yaml`, written once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nihilo_types::isolation::Isolation;
use nihilo_types::node_config::{
    BundleSettings, DockerSettings, DriverKind, GatewaySettings, LOG, Member, NodeConfig,
    OnNodeExit, ProcessSettings, Profile,
};

use crate::command::node;
use crate::failure::{Failure, Result, exit};

const CONFIG: &str = "node.yaml";
const CLUSTER: &str = "dev";
/// Ports of node 1; node `i` has the gateway `i − 1` and the others `100 (i − 1)` above.
const GATEWAY: u16 = 8080;
const ADMIN: u16 = 7070;
const PEER: u16 = 7071;
const PEER_STEP: u16 = 100;
/// First port for instances of node 1, and how many a node may use.
const INSTANCES: u16 = 20_000;
const INSTANCES_STEP: u16 = 1_000;
/// The highest offset that keeps every port of five nodes below 65536.
const MAX_OFFSET: u16 = 40_000;
/// Shorter than Knative's 30 s (its minimum is this), so that scaling to zero can be watched.
const TO_ZERO_GRACE: &str = "6s";

pub(crate) fn node_dir(dir: &Path, node: u32) -> PathBuf {
    dir.join(format!("node{node}"))
}

pub(crate) fn config_file(node_dir: &Path) -> PathBuf {
    node_dir.join(CONFIG)
}

/// Configurations of the nodes that `dir` holds, in the order of their names.
pub(crate) fn existing(dir: &Path) -> Vec<Result<NodeConfig>> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut files: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(is_node_dir))
        .map(|path| config_file(&path))
        .filter(|file| file.is_file())
        .collect();
    files.sort();
    files.iter().map(|file| node::read(file)).collect()
}

fn is_node_dir(name: &std::ffi::OsStr) -> bool {
    let number = name.to_str().and_then(|name| name.strip_prefix("node"));
    number.is_some_and(|number| number.parse::<u32>().is_ok())
}

/// Reads the configurations of a cluster of `nodes` nodes in `dir`, writing those that are absent.
/// `offset` is added to all ports.
///
/// # Errors
/// The directory holds another cluster than asked for, or cannot be read or written.
pub(crate) fn prepare(dir: &Path, nodes: u32, offset: Option<u16>) -> Result<Vec<NodeConfig>> {
    let dir = std::path::absolute(dir).map_err(|error| Failure::io(dir.display(), &error))?;
    let stored: Vec<_> = existing(&dir).into_iter().collect::<Result<_>>()?;
    let offset = agreed_offset(&dir, &stored, nodes, offset)?;
    (1..=nodes)
        .map(|number| {
            let config = config(&dir, number, nodes, offset);
            let file = config_file(&config.data_dir);
            if !file.exists() {
                write(&file, &config)?;
                return Ok(config);
            }
            // What a person has changed in it stays.
            node::read(&file)
        })
        .collect()
}

fn agreed_offset(
    dir: &Path,
    stored: &[NodeConfig],
    nodes: u32,
    offset: Option<u16>,
) -> Result<u16> {
    let wanted = offset.unwrap_or(0);
    if wanted > MAX_OFFSET {
        return Err(Failure::usage(format!(
            "port offset {wanted} is above {MAX_OFFSET}"
        )));
    }
    let Some(first) = stored.first() else {
        return Ok(wanted);
    };
    let other = |what: String| {
        Failure::new(
            exit::CONFLICT,
            format!("{} holds a cluster {what}", dir.display()),
        )
        .hint("use another --data-dir, or remove this one")
    };
    let n_members = first.members.len();
    if u32::try_from(n_members) != Ok(nodes) {
        return Err(
            other(format!("of {n_members} nodes, not {nodes}")).hint(format!(
                "nihilo dev --nodes {n_members} --data-dir {}",
                dir.display()
            )),
        );
    }
    let first_gateway = first.external_port.unwrap_or(first.gateway_port);
    let stored_offset = first_gateway.saturating_sub(GATEWAY);
    match offset {
        Some(offset) if offset != stored_offset => Err(other(format!(
            "with port offset {stored_offset}, not {offset}"
        ))),
        _ => Ok(stored_offset),
    }
}

fn config(dir: &Path, number: u32, nodes: u32, offset: u16) -> NodeConfig {
    // At most five nodes: the conversion cannot fail.
    let above = |number: u32| u16::try_from(number - 1).unwrap_or(0);
    let peers = |number: u32| PEER_STEP * above(number) + offset;
    let member = |number: u32| Member {
        id: u64::from(number),
        name: format!("node{number}"),
        peer: format!("127.0.0.1:{}", PEER + peers(number)),
        admin: format!("127.0.0.1:{}", ADMIN + peers(number)),
    };
    let to_zero = (
        "scale-to-zero-grace-period".to_owned(),
        TO_ZERO_GRACE.to_owned(),
    );
    NodeConfig {
        name: format!("node{number}"),
        node_id: u64::from(number),
        data_dir: node_dir(dir, number),
        listen: "127.0.0.1".into(),
        advertise: String::new(),
        gateway_port: GATEWAY + above(number) + offset,
        admin_port: ADMIN + peers(number),
        peer_port: PEER + peers(number),
        members: (1..=nodes).map(member).collect(),
        joined: false,
        cluster: CLUSTER.into(),
        domain: "localhost".into(),
        // Every node must name the same URL, whichever writes it down.
        external_port: Some(GATEWAY + offset),
        profile: Profile::Auto,
        failover_fast_path: false,
        autoscaler: BTreeMap::from([to_zero]),
        capacity: 100,
        driver: DriverKind::Process,
        fake_boot: None,
        // What is tried out leaves nothing behind.
        on_node_exit: Some(OnNodeExit::Kill),
        instance_ports: instance_ports(above(number), offset),
        docker: DockerSettings::default(),
        // A developer's programs lie beside what they need.
        process: ProcessSettings {
            isolation: Isolation::None,
            ..ProcessSettings::default()
        },
        bundles: BundleSettings::default(),
        // Of the whole cluster, like the directory.
        secrets_key_file: Some(dir.join("secrets.key")),
        shutdown_grace: 30,
        log: LOG.into(),
        gateway: GatewaySettings::default(),
    }
}

/// Blocks of [`INSTANCES_STEP`] ports, away from the other ports of this and other offsets.
fn instance_ports(above: u16, offset: u16) -> u16 {
    INSTANCES + INSTANCES_STEP * above + offset
}

fn write(file: &Path, config: &NodeConfig) -> Result<()> {
    let doing = |error| Failure::io(format!("cannot write {}", file.display()), &error);
    std::fs::create_dir_all(&config.data_dir).map_err(doing)?;
    std::fs::write(file, config.to_yaml()).map_err(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_the_fixed_ones_plus_the_offset() {
        let dir = tempfile::tempdir().unwrap();
        let configs = prepare(dir.path(), 3, Some(10)).unwrap();
        let ports: Vec<_> = configs
            .iter()
            .map(|c| (c.gateway_port, c.admin_port, c.peer_port))
            .collect();
        assert_eq!(
            ports,
            [(8090, 7080, 7081), (8091, 7180, 7181), (8092, 7280, 7281)]
        );
        assert_eq!(configs[2].members[1].peer, "127.0.0.1:7181");
        assert_eq!(configs[2].external_port, Some(8090));
        assert_eq!(configs[0].autoscaler["scale-to-zero-grace-period"], "6s");
    }

    #[test]
    fn the_highest_offset_keeps_all_ports_in_range() {
        let last = config(Path::new("/x"), 5, 5, MAX_OFFSET);
        assert_eq!(last.instance_ports, 64_000);
        assert!(last.instance_ports.checked_add(INSTANCES_STEP).is_some());
    }

    #[test]
    fn a_second_start_reads_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = prepare(dir.path(), 3, Some(10)).unwrap();
        first[1].capacity = 7;
        write(&config_file(&first[1].data_dir), &first[1]).unwrap();
        assert_eq!(prepare(dir.path(), 3, None).unwrap(), first);
    }

    #[test]
    fn another_cluster_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path(), 3, None).unwrap();
        let fewer = prepare(dir.path(), 1, None).unwrap_err();
        assert!(fewer.to_string().contains("of 3 nodes, not 1"), "{fewer}");
        let moved = prepare(dir.path(), 3, Some(5)).unwrap_err();
        assert!(
            moved.to_string().contains("port offset 0, not 5"),
            "{moved}"
        );
        assert_eq!((fewer.code, moved.code), (4, 4));
    }

    #[test]
    fn a_broken_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = config_file(&prepare(dir.path(), 1, None).unwrap()[0].data_dir);
        std::fs::write(&file, "name: [").unwrap();
        let failure = prepare(dir.path(), 1, None).unwrap_err();
        assert!(failure.to_string().contains("node.yaml"), "{failure}");
        assert_eq!(failure.code, 2);
    }
}
