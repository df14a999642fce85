//! The faults by name: what they do to a whole trial, and how they are undone.

use std::fmt;
use std::time::Duration;

use crate::backend::{LocalCluster, N_NODES, NodeIndex, Place};
use crate::clock::pause;
use crate::seed::Random;
use crate::trial::Trial;

/// How long a fault lasts before it is undone.
const HOLD_MIN_MS: u64 = 1_000;
const HOLD_MAX_MS: u64 = 6_000;
const PAUSE_MIN_MS: u64 = 300;
const PAUSE_MAX_MS: u64 = 8_000;
const CUT_MIN_MS: u64 = 300;
const CUT_MAX_MS: u64 = 12_000;
/// Between the nodes of a rolling restart.
const ROLL_PAUSE: Duration = Duration::from_millis(500);

/// From a node to another.
type Link = (NodeIndex, NodeIndex);

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
    /// N7: no other node is reached, and none reaches it; clients do.
    IsolateLeader,
    IsolateFollower,
    /// The leader and one follower do not reach each other, the third node reaches both.
    CutFollower,
    /// The leader hears nobody.
    DeafLeader,
    /// Nobody hears the leader.
    MuteLeader,
}

impl Nemesis {
    pub const ALL: [Nemesis; 14] = [
        Nemesis::None,
        Nemesis::KillLeader,
        Nemesis::KillFollower,
        Nemesis::KillOwner,
        Nemesis::KillHost,
        Nemesis::KillAll,
        Nemesis::RollingRestart,
        Nemesis::PauseLeader,
        Nemesis::PauseFollower,
        Nemesis::IsolateLeader,
        Nemesis::IsolateFollower,
        Nemesis::CutFollower,
        Nemesis::DeafLeader,
        Nemesis::MuteLeader,
    ];

    /// Where the nodes have to live for it.
    pub fn place(self) -> Place {
        match self {
            Nemesis::IsolateLeader
            | Nemesis::IsolateFollower
            | Nemesis::CutFollower
            | Nemesis::DeafLeader
            | Nemesis::MuteLeader => Place::Network,
            _ => Place::Loopback,
        }
    }

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
                trial.pause(node).await?;
                pause(length).await;
                trial.resume(node).await?;
            }
            Nemesis::IsolateLeader
            | Nemesis::IsolateFollower
            | Nemesis::CutFollower
            | Nemesis::DeafLeader
            | Nemesis::MuteLeader => {
                let leader = trial.cluster.leader().await?;
                let (node, links) = self.cuts(leader, random);
                let length = Duration::from_millis(random.between(CUT_MIN_MS, CUT_MAX_MS));
                let ms = length.as_millis();
                trial.say(&format!("{self}: node{} cut off for {ms} ms", node + 1));
                trial.cut(node, &links).await?;
                pause(length).await;
                trial.mend(node).await?;
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

    /// Who is cut off, and the links, each from one node to another, that are cut for it.
    fn cuts(self, leader: NodeIndex, random: &mut Random) -> (NodeIndex, Vec<Link>) {
        let node = match self {
            Nemesis::IsolateFollower | Nemesis::CutFollower => follower(leader, random),
            _ => leader,
        };
        let others = (0..N_NODES).filter(|other| *other != node);
        let links = others.flat_map(|other| match self {
            Nemesis::CutFollower if other != leader => vec![],
            Nemesis::DeafLeader => vec![(other, node)],
            Nemesis::MuteLeader => vec![(node, other)],
            _ => vec![(node, other), (other, node)],
        });
        (node, links.collect())
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
            Nemesis::IsolateLeader => "isolate-leader",
            Nemesis::IsolateFollower => "isolate-follower",
            Nemesis::CutFollower => "cut-follower",
            Nemesis::DeafLeader => "deaf-leader",
            Nemesis::MuteLeader => "mute-leader",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for nemesis in Nemesis::ALL {
            assert_eq!(Nemesis::parse(&nemesis.to_string()), Some(nemesis));
        }
    }

    #[test]
    fn cuts_are_those_of_their_names() {
        let mut random = Random::from_seed(5);
        let mut cuts = |nemesis: Nemesis| nemesis.cuts(0, &mut random);
        let (both, from, to) = (
            [(0, 1), (1, 0), (0, 2), (2, 0)],
            [(0, 1), (0, 2)],
            [(1, 0), (2, 0)],
        );
        assert_eq!(cuts(Nemesis::IsolateLeader), (0, both.to_vec()));
        assert_eq!(cuts(Nemesis::MuteLeader), (0, from.to_vec()));
        assert_eq!(cuts(Nemesis::DeafLeader), (0, to.to_vec()));
        let (node, links) = cuts(Nemesis::CutFollower);
        assert_eq!(links, [(node, 0), (0, node)]);
        let (node, links) = cuts(Nemesis::IsolateFollower);
        assert!(node != 0 && links.len() == 4);
    }
}
