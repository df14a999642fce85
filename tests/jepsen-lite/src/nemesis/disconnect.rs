//! Containers that are taken out of their network: nobody reaches them, clients neither, and they
//! come back with whatever address is free.

use std::fmt;
use std::time::Duration;

use crate::backend::{N_NODES, NodeIndex};
use crate::clock::pause;
use crate::nemesis::target::follower;
use crate::seed::Random;
use crate::trial::Trial;

const HOLD_MIN_MS: u64 = 1_000;
const HOLD_MAX_MS: u64 = 12_000;

/// Who is taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disconnect {
    Leader,
    Follower,
    All,
}

impl Disconnect {
    pub const ALL: [Disconnect; 3] = [Disconnect::Leader, Disconnect::Follower, Disconnect::All];

    fn nodes(self, leader: NodeIndex, random: &mut Random) -> Vec<NodeIndex> {
        match self {
            Disconnect::Leader => vec![leader],
            Disconnect::Follower => vec![follower(leader, random)],
            Disconnect::All => {
                let mut all: Vec<_> = (0..N_NODES).collect();
                random.shuffle(&mut all);
                all
            }
        }
    }

    /// # Errors
    /// The nodes are in no containers, or the cluster did not become whole again.
    pub(super) async fn strike(self, trial: &mut Trial, random: &mut Random) -> anyhow::Result<()> {
        let leader = trial.cluster.leader().await?;
        let mut nodes = self.nodes(leader, random);
        let ms = random.between(HOLD_MIN_MS, HOLD_MAX_MS);
        trial.say(&format!("{self} for {ms} ms, node{} leads", leader + 1));
        trial.cut_off(&nodes, &self.to_string());
        for node in &nodes {
            trial.cluster.nodes[*node].container()?.disconnect()?;
        }
        pause(Duration::from_millis(ms)).await;
        // Not in the order in which they went, so that addresses change hands.
        random.shuffle(&mut nodes);
        for node in &nodes {
            trial.cluster.nodes[*node].container()?.connect()?;
        }
        trial.unhurt(nodes[0], "connect").await
    }
}

impl fmt::Display for Disconnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Disconnect::Leader => "disconnect-leader",
            Disconnect::Follower => "disconnect-follower",
            Disconnect::All => "disconnect-all",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_named_is_taken_out() {
        let mut random = Random::from_seed(9);
        for leader in 0..N_NODES {
            assert_eq!(Disconnect::Leader.nodes(leader, &mut random), [leader]);
            let follower = Disconnect::Follower.nodes(leader, &mut random);
            assert!(follower.len() == 1 && follower[0] != leader);
            let mut all = Disconnect::All.nodes(leader, &mut random);
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2]);
        }
    }
}
