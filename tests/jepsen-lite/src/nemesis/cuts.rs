//! Links that are cut: which ones, how, and for how long.

use std::fmt;
use std::time::Duration;

use crate::backend::{Manner, N_NODES, NodeIndex};
use crate::clock::pause;
use crate::nemesis::target::follower;
use crate::seed::Random;
use crate::trial::Trial;

const CUT_MIN_MS: u64 = 300;
const CUT_MAX_MS: u64 = 12_000;
/// A link that comes and goes.
const FLAP_MIN_MS: u64 = 200;
const FLAP_MAX_MS: u64 = 2_000;
const N_FLAPS: usize = 6;
/// Between one link and the next of a swizzle.
const SWIZZLE_MAX: Duration = Duration::from_millis(700);

/// From a node to another.
pub(crate) type Link = (NodeIndex, NodeIndex);

/// Which links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// N7: no other node is reached, and none reaches it; clients do.
    IsolateLeader,
    /// N8.
    IsolateFollower,
    /// N11: the leader and one follower do not reach each other, the third node reaches both.
    CutFollower,
    /// N11: the followers do not reach each other, the leader reaches both.
    PartFollowers,
    /// N10: the leader hears nobody.
    DeafLeader,
    /// N10: nobody hears the leader.
    MuteLeader,
}

impl Cut {
    pub const ALL: [Cut; 6] = [
        Cut::IsolateLeader,
        Cut::IsolateFollower,
        Cut::CutFollower,
        Cut::PartFollowers,
        Cut::DeafLeader,
        Cut::MuteLeader,
    ];

    /// Who is cut off, and the links that are cut for it.
    pub(crate) fn links(self, leader: NodeIndex, random: &mut Random) -> (NodeIndex, Vec<Link>) {
        let node = match self {
            Cut::IsolateFollower | Cut::CutFollower | Cut::PartFollowers => {
                follower(leader, random)
            }
            Cut::IsolateLeader | Cut::DeafLeader | Cut::MuteLeader => leader,
        };
        let others = (0..N_NODES).filter(|other| *other != node);
        let links = others.flat_map(|other| match self {
            Cut::CutFollower if other != leader => vec![],
            Cut::PartFollowers if other == leader => vec![],
            Cut::DeafLeader => vec![(other, node)],
            Cut::MuteLeader => vec![(node, other)],
            _ => vec![(node, other), (other, node)],
        });
        (node, links.collect())
    }
}

/// Cuts, waits, and mends.
///
/// # Errors
/// The harness could not do it, or the cluster did not become whole again.
pub(super) async fn strike(
    cut: Cut,
    manner: Manner,
    trial: &mut Trial,
    random: &mut Random,
) -> anyhow::Result<()> {
    let leader = trial.cluster.leader().await?;
    let (node, links) = cut.links(leader, random);
    let held = held(random);
    let ms = held.as_millis();
    trial.say(&format!("{cut}: node{} cut off for {ms} ms", node + 1));
    trial.cut_off(&[node], &cut.to_string());
    for link in links {
        trial.cut(link, manner)?;
    }
    pause(held).await;
    trial.mend().await
}

/// How long a cut lasts.
pub(crate) fn held(random: &mut Random) -> Duration {
    Duration::from_millis(random.between(CUT_MIN_MS, CUT_MAX_MS))
}

/// N12: a node's links come and go.
///
/// # Errors
/// As [`strike`].
pub(super) async fn flap(trial: &mut Trial, random: &mut Random) -> anyhow::Result<()> {
    let leader = trial.cluster.leader().await?;
    let cut = match random.chance(50) {
        true => Cut::IsolateLeader,
        false => Cut::IsolateFollower,
    };
    let (node, links) = cut.links(leader, random);
    trial.say(&format!("flap: node{}, {N_FLAPS} times", node + 1));
    trial.cut_off(&[node], "flapping links");
    for _ in 0..N_FLAPS {
        for link in &links {
            trial.cut(*link, Manner::Silent)?;
        }
        let down = random.between(FLAP_MIN_MS, FLAP_MAX_MS);
        pause(Duration::from_millis(down)).await;
        for link in &links {
            trial.join(*link, Manner::Silent)?;
        }
        let up = random.between(FLAP_MIN_MS, FLAP_MAX_MS);
        pause(Duration::from_millis(up)).await;
    }
    trial.mend().await
}

/// N12: all links go one by one, and come back one by one in another order.
///
/// # Errors
/// As [`strike`].
pub(super) async fn swizzle(trial: &mut Trial, random: &mut Random) -> anyhow::Result<()> {
    let nodes: Vec<_> = (0..N_NODES).collect();
    let pairs = nodes
        .iter()
        .flat_map(|from| nodes.iter().map(|to| (*from, *to)));
    let mut links: Vec<Link> = pairs.filter(|(from, to)| from != to).collect();
    trial.say("swizzle");
    trial.cut_off(&nodes, "swizzled links");
    random.shuffle(&mut links);
    for link in &links {
        trial.cut(*link, Manner::Silent)?;
        pause(random.within(SWIZZLE_MAX)).await;
    }
    random.shuffle(&mut links);
    for link in &links {
        trial.join(*link, Manner::Silent)?;
        pause(random.within(SWIZZLE_MAX)).await;
    }
    trial.mend().await
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cut::IsolateLeader => "isolate-leader",
            Cut::IsolateFollower => "isolate-follower",
            Cut::CutFollower => "cut-follower",
            Cut::PartFollowers => "part-followers",
            Cut::DeafLeader => "deaf-leader",
            Cut::MuteLeader => "mute-leader",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_are_those_of_their_names() {
        let mut random = Random::from_seed(5);
        let mut links = |cut: Cut| cut.links(0, &mut random);
        let (both, from, to) = (
            [(0, 1), (1, 0), (0, 2), (2, 0)],
            [(0, 1), (0, 2)],
            [(1, 0), (2, 0)],
        );
        assert_eq!(links(Cut::IsolateLeader), (0, both.to_vec()));
        assert_eq!(links(Cut::MuteLeader), (0, from.to_vec()));
        assert_eq!(links(Cut::DeafLeader), (0, to.to_vec()));
        let (node, cut) = links(Cut::CutFollower);
        assert_eq!(cut, [(node, 0), (0, node)]);
        let (node, cut) = links(Cut::PartFollowers);
        assert!(cut.len() == 2 && cut.iter().all(|(from, to)| from * to == 2));
        assert!(node != 0);
        let (node, cut) = links(Cut::IsolateFollower);
        assert!(node != 0 && cut.len() == 4);
    }
}
