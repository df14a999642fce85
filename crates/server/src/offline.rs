//! Work on the files of a node that does not run.

use std::path::Path;

use nihilo_cli::{BackupHead, Done, Offline, Place, Remains};
use nihilo_raft::{Identity, anew, backup};
use nihilo_types::node_config::DockerSettings;

use crate::secrets_key::SecretsKey;
use crate::wiring;

/// Does it.
///
/// # Errors
/// A process uses the directory, something in it is damaged, or it is not what the task needs.
pub fn run(task: Offline) -> anyhow::Result<Done> {
    match task {
        Offline::Create {
            data_dir,
            cluster_id,
            node_id,
            secrets_key,
        } => {
            let identity = Identity {
                cluster_id,
                node_id,
            };
            create(&data_dir, &identity)?;
            if let Some((file, key)) = secrets_key {
                SecretsKey::new(file).keep(&key)?;
            }
            Ok(Done::Nothing)
        }
        Offline::Prove { file } => {
            let head = backup::Backup::read(&file)?.head;
            Ok(Done::Backup(BackupHead {
                cluster_id: head.cluster_id,
                cluster_version: head.cluster_version,
                index: head.index,
                digest: format!("{:016x}", head.digest),
                wall_ms: head.wall_ms,
            }))
        }
        Offline::Restore {
            file,
            data_dir,
            place,
        } => restore(&file, &data_dir, place),
        Offline::Inspect { data_dir } => inspect(&data_dir).map(Done::Remains),
        Offline::Recover { data_dir, place } => recover(&data_dir, place),
        Offline::Sweep { data_dir, docker } => sweep(&data_dir, &docker).map(|()| Done::Nothing),
    }
}

fn create(dir: &Path, identity: &Identity) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.block_on(nihilo_raft::create(dir, identity))?;
    Ok(())
}

/// The old name, and something that no other cluster of that name has.
fn new_cluster_id(old: &str) -> String {
    let name = old.split('+').next().unwrap_or(old);
    format!("{name}+{:08x}", rand::random::<u32>())
}

fn sweep(dir: &Path, docker: &DockerSettings) -> anyhow::Result<()> {
    let agent = wiring::agent_dir(dir);
    // No node has been here yet.
    if !agent.is_dir() {
        return Ok(());
    }
    nihilo_raft::check_unused(dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(wiring::end_everything(docker, &agent))?;
    Ok(())
}

fn place_of(place: Place) -> anew::Place {
    anew::Place {
        name: place.name,
        peer_address: place.peer,
        admin_address: place.admin,
    }
}

fn restore(file: &Path, dir: &Path, place: Place) -> anyhow::Result<Done> {
    let backup = backup::Backup::read(file)?;
    let cluster = backup.cluster().cloned();
    let cluster = cluster.ok_or_else(|| anyhow::anyhow!("the backup holds no founded cluster"))?;
    let cluster_id = new_cluster_id(&backup.head.cluster_id);
    let identity = anew::restore(dir, backup, &cluster_id, place_of(place))?;
    Ok(Done::Node {
        node_id: identity.node_id,
        cluster_id,
        cluster: cluster.name,
        domain: cluster.domain,
        external_port: cluster.external_port,
        index: identity.node_id,
    })
}

fn inspect(dir: &Path) -> anyhow::Result<Remains> {
    let remains = anew::inspect(dir)?;
    Ok(Remains {
        node_id: remains.identity.node_id,
        cluster_id: remains.identity.cluster_id,
        cluster: remains.cluster.name,
        last_index: remains.last_index,
        wall_ms: remains.wall_ms,
        n_undecided: remains.n_undecided,
        others: remains.others.into_iter().collect(),
    })
}

fn recover(dir: &Path, place: Place) -> anyhow::Result<Done> {
    let remains = anew::inspect(dir)?;
    let cluster_id = new_cluster_id(&remains.identity.cluster_id);
    let index = anew::recover(dir, &cluster_id, place_of(place))?;
    Ok(Done::Node {
        node_id: remains.identity.node_id,
        cluster_id,
        cluster: remains.cluster.name,
        domain: remains.cluster.domain,
        external_port: remains.cluster.external_port,
        index,
    })
}
