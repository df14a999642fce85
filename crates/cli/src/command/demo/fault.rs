//! Killing the leader and bringing it back. Only ever a node of the given data directory, only
//! if it runs this very binary.

use std::time::Duration;

use nihilo_wire::cluster::{NodeStatus, StatusResponse};
use tokio::time::Instant;

use super::stage::Stage;
use crate::command::node;
use crate::dev::process::{self, Running};
use crate::dev::spawn::{Lifetime, Node, failure_of};
use crate::dev::{layout, ready};
use crate::failure::{Failure, Result, exit};

const LEADER_LIMIT: Duration = Duration::from_secs(15);
const BACK_LIMIT: Duration = Duration::from_secs(20);
/// A round of asking; a killed node must not hold up the answer of a living one.
const ASK_LIMIT: Duration = Duration::from_millis(500);
/// Precision of the time to the next leader.
const ASK_EVERY: Duration = Duration::from_millis(10);
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Killed {
    pub name: String,
    pub successor: String,
    /// From the signal until a survivor knew the next leader.
    pub leaderless: Duration,
}

/// Kills the leader of now and waits until another one leads.
pub(crate) async fn kill_leader(stage: &mut Stage) -> Result<Killed> {
    let status = stage.client.cluster_status().await?;
    let leader = status.nodes.iter().find(|node| node.id == status.leader);
    let leader = leader.ok_or_else(|| stage.failed("there is no leader to kill"))?;
    let victim = local_process(stage, leader)?;
    let config = node::read(&layout::config_file(&layout_dir(stage, leader)))?;
    stage.killed = Some(config);
    let killed_at = Instant::now();
    tokio::task::spawn_blocking(move || victim.kill())
        .await
        .map_err(|error| stage.failed(error.to_string()))??;
    let next = next_leader(stage, status.leader, killed_at + LEADER_LIMIT).await?;
    Ok(Killed {
        name: leader.name.clone(),
        successor: next.leader_name,
        leaderless: killed_at.elapsed(),
    })
}

fn layout_dir(stage: &Stage, node: &NodeStatus) -> std::path::PathBuf {
    stage.dir.join(&node.name)
}

/// The process to kill, if it is beyond doubt that it is a node of the local cluster.
pub(crate) fn local_process(stage: &Stage, node: &NodeStatus) -> Result<Running> {
    let refuse = |why: String| {
        Failure::new(
            exit::CONFLICT,
            format!("{} will not be killed: {why}", node.name),
        )
        .hint("nihilo dev --nodes 3 --detach, and the same --data-dir for the demo")
    };
    let running = process::running(&layout_dir(stage, node))
        .ok_or_else(|| refuse(format!("{} has no node of that name", stage.dir.display())))?;
    if u32::try_from(running.pid) != Ok(node.pid) {
        return Err(refuse("the cluster that answers is another one".into()));
    }
    if !running.is_this_binary() {
        return Err(refuse("it runs another binary than this one".into()));
    }
    Ok(running)
}

async fn next_leader(stage: &Stage, old: u64, deadline: Instant) -> Result<StatusResponse> {
    let client = stage.client.with_timeout(ASK_LIMIT);
    while Instant::now() < deadline {
        // No answer, or a node that has not noticed yet: ask again.
        if let Ok(status) = client.cluster_status().await
            && status.leader != 0
            && status.leader != old
        {
            return Ok(status);
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
    Err(stage.failed(format!("no new leader within {} s", LEADER_LIMIT.as_secs())))
}

/// Starts the killed node again and waits until it has joined; returns how long that took.
pub(crate) async fn restart(stage: &mut Stage) -> Result<Duration> {
    let config = stage
        .killed
        .clone()
        .ok_or_else(|| stage.failed("no node was killed"))?;
    let started = Instant::now();
    let mut node = Node::spawn(&config, Lifetime::Own)?;
    let client = stage.client.with_timeout(ASK_LIMIT);
    let mut absent = Some("no answer".to_owned());
    while started.elapsed() < BACK_LIMIT {
        if let Some(how) = node.ended() {
            return Err(failure_of(
                &config,
                &format!("ended after its restart: {how}"),
            ));
        }
        if let Ok(status) = client.cluster_status().await {
            absent = ready::missing(Some(&status), config.members.len());
        }
        if absent.is_none() {
            stage.killed = None;
            return Ok(started.elapsed());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let what = format!(
        "is not back after {} s: {}",
        BACK_LIMIT.as_secs(),
        absent.unwrap_or_default()
    );
    Err(failure_of(&config, &what))
}
