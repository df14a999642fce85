//! The trial's faults, under their own names, done to etcd.

use anyhow::bail;
use rustix::process::Signal;

use super::cluster::Cluster;
use crate::backend::{Manner, N_NODES, NodeIndex};
use crate::clock::pause;
use crate::judge::node_name;
use crate::nemesis::cuts::{self, Cut};
use crate::nemesis::faults::{self, Nemesis};
use crate::nemesis::target::follower;
use crate::record::Recorder;
use crate::seed::Random;

/// Those that need nothing of Nihilo.
pub(super) fn is_possible(nemesis: Nemesis) -> bool {
    matches!(
        nemesis,
        Nemesis::None
            | Nemesis::KillLeader
            | Nemesis::KillFollower
            | Nemesis::KillAll
            | Nemesis::PauseLeader
            | Nemesis::PauseFollower
            | Nemesis::Cut(..)
    )
}

/// Hurts the cluster once and heals it.
///
/// # Errors
/// The harness could not do it, or the cluster did not become whole again.
pub(super) async fn strike(
    nemesis: Nemesis,
    cluster: &mut Cluster,
    recorder: &Recorder,
    random: &mut Random,
) -> anyhow::Result<()> {
    let leader = cluster.leader().await?;
    match nemesis {
        Nemesis::None => pause(faults::hold(random)).await,
        Nemesis::KillLeader => kill(&[leader], cluster, recorder, random).await?,
        Nemesis::KillFollower => {
            let node = follower(leader, random);
            kill(&[node], cluster, recorder, random).await?;
        }
        Nemesis::KillAll => {
            let mut all: Vec<_> = (0..N_NODES).collect();
            random.shuffle(&mut all);
            kill(&all, cluster, recorder, random).await?;
        }
        Nemesis::PauseLeader => stop(leader, cluster, recorder, random).await?,
        Nemesis::PauseFollower => {
            let node = follower(leader, random);
            stop(node, cluster, recorder, random).await?;
        }
        Nemesis::Cut(cut, manner) => {
            isolate(cut, manner, leader, (cluster, recorder), random).await?;
        }
        other => bail!("`{other}` is not for etcd"),
    }
    cluster.until_whole().await
}

async fn kill(
    nodes: &[NodeIndex],
    cluster: &mut Cluster,
    recorder: &Recorder,
    random: &mut Random,
) -> anyhow::Result<()> {
    for node in nodes {
        tell(recorder, "kill -9", *node);
        cluster.kill(*node).await?;
    }
    if nodes.len() < N_NODES {
        pause(faults::hold(random)).await;
    }
    for node in nodes {
        cluster.start_node(*node)?;
    }
    Ok(())
}

async fn stop(
    node: NodeIndex,
    cluster: &Cluster,
    recorder: &Recorder,
    random: &mut Random,
) -> anyhow::Result<()> {
    let held = faults::stopped_for(random);
    tell(
        recorder,
        &format!("pause for {} ms", held.as_millis()),
        node,
    );
    cluster.signal(node, Signal::STOP)?;
    pause(held).await;
    cluster.signal(node, Signal::CONT)
}

async fn isolate(
    cut: Cut,
    manner: Manner,
    leader: NodeIndex,
    (cluster, recorder): (&Cluster, &Recorder),
    random: &mut Random,
) -> anyhow::Result<()> {
    let (node, links) = cut.links(leader, random);
    let held = cuts::held(random);
    tell(
        recorder,
        &format!("{cut} for {} ms", held.as_millis()),
        node,
    );
    let network = cluster.network()?;
    for (from, to) in links {
        tokio::task::block_in_place(|| network.cut(from, to, manner))?;
    }
    pause(held).await;
    tokio::task::block_in_place(|| network.mend())
}

fn tell(recorder: &Recorder, what: &str, node: NodeIndex) {
    recorder.fault(what, Some(node));
    eprintln!("{what}: {}", node_name(node));
}
