//! The faults by name: what they do to a whole trial, and how they are undone.

use std::fmt;
use std::time::Duration;

use crate::backend::{LocalCluster, N_NODES, NodeIndex};
use crate::clock::pause;
use crate::seed::Random;
use crate::trial::Trial;

/// How long a fault lasts before it is undone.
const HOLD_MIN_MS: u64 = 1_000;
const HOLD_MAX_MS: u64 = 6_000;
const PAUSE_MIN_MS: u64 = 300;
const PAUSE_MAX_MS: u64 = 8_000;
/// Between the nodes of a rolling restart.
const ROLL_PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nemesis {
    /// No fault: whatever is found then is not about faults.
    None,
    /// N1.
    KillLeader,
    /// N2.
    KillFollower,
    KillOwner,
    /// N39: the node that runs most instances.
    KillHost,
    /// N3.
    KillAll,
    /// N4: SIGTERM, one node after the other.
    RollingRestart,
    /// N5.
    PauseLeader,
    /// N6.
    PauseFollower,
}

impl Nemesis {
    pub const ALL: [Nemesis; 9] = [
        Nemesis::None,
        Nemesis::KillLeader,
        Nemesis::KillFollower,
        Nemesis::KillOwner,
        Nemesis::KillHost,
        Nemesis::KillAll,
        Nemesis::RollingRestart,
        Nemesis::PauseLeader,
        Nemesis::PauseFollower,
    ];

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|nemesis| nemesis.to_string() == text)
    }

    /// Hurts the cluster once and heals it. `focus` is the service under most load.
    ///
    /// # Errors
    /// The harness could not do it, or the cluster did not become whole again.
    pub async fn strike(
        self,
        trial: &mut Trial,
        focus: &str,
        random: &mut Random,
    ) -> anyhow::Result<()> {
        match self {
            Nemesis::None => pause(hold(random)).await,
            Nemesis::KillAll => kill_all(trial, random).await?,
            Nemesis::RollingRestart => roll(trial).await?,
            Nemesis::PauseLeader | Nemesis::PauseFollower => {
                let leader = trial.cluster.leader().await?;
                let node = match self {
                    Nemesis::PauseLeader => leader,
                    _ => follower(leader, random),
                };
                let length = Duration::from_millis(random.between(PAUSE_MIN_MS, PAUSE_MAX_MS));
                trial.say(&format!(
                    "pause node{} for {} ms",
                    node + 1,
                    length.as_millis()
                ));
                trial.pause(node)?;
                pause(length).await;
                trial.resume(node).await?;
            }
            Nemesis::KillLeader
            | Nemesis::KillFollower
            | Nemesis::KillOwner
            | Nemesis::KillHost => {
                let node = self.victim(trial, focus, random).await?;
                trial.say(&format!("kill -9 node{}", node + 1));
                trial.kill(node).await?;
                pause(hold(random)).await;
                let took = trial.heal(&[node]).await?;
                trial.say(&format!(
                    "whole again {:.1} s after its start",
                    took.as_secs_f64()
                ));
            }
        }
        Ok(())
    }

    async fn victim(
        self,
        trial: &Trial,
        focus: &str,
        random: &mut Random,
    ) -> anyhow::Result<NodeIndex> {
        let leader = trial.cluster.leader().await?;
        Ok(match self {
            Nemesis::KillLeader => leader,
            Nemesis::KillOwner => LocalCluster::preferred_owner(focus),
            Nemesis::KillHost => trial.host_of(focus).await?.unwrap_or(leader),
            _ => follower(leader, random),
        })
    }
}

fn hold(random: &mut Random) -> Duration {
    Duration::from_millis(random.between(HOLD_MIN_MS, HOLD_MAX_MS))
}

fn follower(leader: NodeIndex, random: &mut Random) -> NodeIndex {
    let others: Vec<_> = (0..N_NODES).filter(|node| *node != leader).collect();
    random.pick(&others).copied().unwrap_or(leader)
}

async fn kill_all(trial: &mut Trial, random: &mut Random) -> anyhow::Result<()> {
    trial.say("kill -9 of all nodes");
    for node in 0..N_NODES {
        trial.kill(node).await?;
    }
    let mut order: Vec<_> = (0..N_NODES).collect();
    for last in (1..order.len()).rev() {
        let with = random.between(0, last as u64 + 1);
        order.swap(last, usize::try_from(with)?);
    }
    let took = trial.heal(&order).await?;
    trial.say(&format!(
        "whole again {:.1} s after the start",
        took.as_secs_f64()
    ));
    Ok(())
}

async fn roll(trial: &mut Trial) -> anyhow::Result<()> {
    for node in 0..N_NODES {
        trial.say(&format!("restart of node{}", node + 1));
        trial.terminate(node).await?;
        trial.heal(&[node]).await?;
        pause(ROLL_PAUSE).await;
    }
    Ok(())
}

impl fmt::Display for Nemesis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Nemesis::None => "none",
            Nemesis::KillLeader => "kill-leader",
            Nemesis::KillFollower => "kill-follower",
            Nemesis::KillOwner => "kill-owner",
            Nemesis::KillHost => "kill-host",
            Nemesis::KillAll => "kill-all",
            Nemesis::RollingRestart => "rolling-restart",
            Nemesis::PauseLeader => "pause-leader",
            Nemesis::PauseFollower => "pause-follower",
        })
    }
}
