//! What nodes say of themselves beside their keep-alives: which cluster version they know, and what
//! their state came to at certain entries. Replicas that disagree are found here (02-store §14).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Weak;
use std::time::Duration;

use nihilo_machine::command::CLUSTER_VERSION;
use nihilo_store::StateDigest;
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::error;

use crate::node::{Inner, RaftNode};

/// Digests of one node that are remembered: replicas are at most so many of them apart, or too far
/// apart to be compared.
const MAX_DIGESTS: usize = 8;
/// A node that has said nothing for so long is not counted on.
const FORGET_AFTER: Duration = Duration::from_secs(10);
const JUDGE_EVERY: Duration = Duration::from_millis(500);
/// A disagreement without a majority is told again after this.
const REPEAT_SPLIT: Duration = Duration::from_secs(60);

/// The newest word of every node that spoke to this one.
#[derive(Debug, Default)]
pub struct PeerBoard(Mutex<Heard>);

#[derive(Debug, Default)]
struct Heard {
    nodes: BTreeMap<u64, Word>,
    /// Nodes whose state is not the majority's, and after which entry.
    diverged: BTreeMap<u64, u64>,
}

#[derive(Debug)]
struct Word {
    at: Instant,
    version: u32,
    digests: VecDeque<StateDigest>,
}

/// What the replicas' digests at one entry come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Too few have said anything, or all that have agree.
    Agreed,
    /// These are alone with what they have.
    Diverged(Vec<u64>),
    /// No majority of the replicas has the same.
    Split,
}

impl PeerBoard {
    /// Takes one node's word; returns the entry at which it is known to have diverged, if it is.
    pub fn hear(&self, node: u64, version: u32, digest: Option<StateDigest>) -> Option<u64> {
        let mut heard = self.0.lock();
        let word = heard.nodes.entry(node).or_insert_with(|| Word {
            at: Instant::now(),
            version,
            digests: VecDeque::new(),
        });
        (word.at, word.version) = (Instant::now(), version);
        let digests = &mut word.digests;
        if let Some(digest) = digest.filter(|digest| !digests.contains(digest)) {
            digests.push_back(digest);
            if digests.len() > MAX_DIGESTS {
                digests.pop_front();
            }
        }
        heard.diverged.get(&node).copied()
    }

    /// The newest version that each node knows, of those that were heard lately.
    pub fn versions(&self) -> BTreeMap<u64, u32> {
        let heard = self.0.lock();
        let lately = heard
            .nodes
            .iter()
            .filter(|(_, word)| word.at.elapsed() < FORGET_AFTER);
        lately.map(|(id, word)| (*id, word.version)).collect()
    }

    fn digests_at(&self, at: u64) -> BTreeMap<u64, u64> {
        let heard = self.0.lock();
        let said = |word: &Word| {
            let found = word.digests.iter().find(|digest| digest.at == at);
            found.map(|found| found.digest)
        };
        heard
            .nodes
            .iter()
            .filter_map(|(id, word)| Some((*id, said(word)?)))
            .collect()
    }

    /// Whether one of them was not known to have diverged.
    fn condemn(&self, nodes: &[u64], at: u64) -> bool {
        let mut heard = self.0.lock();
        let n_known = heard.diverged.len();
        for node in nodes {
            heard.diverged.entry(*node).or_insert(at);
        }
        heard.diverged.len() > n_known
    }
}

/// Compares what `n_replicas` replicas said of one entry.
pub(crate) fn verdict(said: &BTreeMap<u64, u64>, n_replicas: usize) -> Verdict {
    let mut groups: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for (node, digest) in said {
        groups.entry(*digest).or_default().push(*node);
    }
    if groups.len() <= 1 {
        return Verdict::Agreed;
    }
    let majority = groups
        .iter()
        .find(|(_, nodes)| nodes.len() * 2 > n_replicas);
    let Some((right, _)) = majority.map(|(digest, nodes)| (*digest, nodes)) else {
        // More may be said yet; once everybody has spoken, nobody knows what is right.
        return match said.len() >= n_replicas {
            true => Verdict::Split,
            false => Verdict::Agreed,
        };
    };
    let others = said.iter().filter(|(_, digest)| **digest != right);
    Verdict::Diverged(others.map(|(node, _)| *node).collect())
}

/// Judges for the life of the node, while it leads.
pub(crate) async fn judge(node: Weak<Inner>) {
    let mut told: Option<Instant> = None;
    loop {
        tokio::time::sleep(JUDGE_EVERY).await;
        let Some(inner) = node.upgrade() else { return };
        let raft = RaftNode(inner);
        let me = raft.identity().node_id;
        raft.board().hear(me, CLUSTER_VERSION, None);
        let own = raft.state().digests();
        for digest in &own {
            raft.board().hear(me, CLUSTER_VERSION, Some(*digest));
        }
        if !raft.leads_with_quorum() {
            continue;
        }
        let n_replicas = raft.membership_nodes().len();
        for at in own.iter().map(|digest| digest.at) {
            match verdict(&raft.board().digests_at(at), n_replicas) {
                Verdict::Agreed => {}
                Verdict::Diverged(nodes) => {
                    // Their digests are compared again as long as they are remembered.
                    if raft.board().condemn(&nodes, at) {
                        error!(at, ?nodes, "diverged: replicas differ from the majority");
                    }
                    if nodes.contains(&me) {
                        raft.diverged_at(at);
                    }
                }
                // Who is right cannot be told: no more is written on top of it.
                Verdict::Split => {
                    if told.is_none_or(|at| at.elapsed() >= REPEAT_SPLIT) {
                        told = Some(Instant::now());
                        error!(
                            at,
                            "diverged: no majority of the replicas agrees; writes stop"
                        );
                    }
                    raft.stop_writes(at);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(digests: &[(u64, u64)]) -> BTreeMap<u64, u64> {
        digests.iter().copied().collect()
    }

    #[test]
    fn the_majority_of_the_replicas_is_right() {
        let agreed = said(&[(1, 7), (2, 7), (3, 7)]);
        assert_eq!(verdict(&agreed, 3), Verdict::Agreed);
        let odd = said(&[(1, 7), (2, 8), (3, 7)]);
        assert_eq!(verdict(&odd, 3), Verdict::Diverged(vec![2]));
        let waiting = said(&[(1, 7), (2, 8)]);
        assert_eq!(verdict(&waiting, 3), Verdict::Agreed);
        assert_eq!(verdict(&waiting, 2), Verdict::Split);
        let all_differ = said(&[(1, 7), (2, 8), (3, 9)]);
        assert_eq!(verdict(&all_differ, 3), Verdict::Split);
        assert_eq!(verdict(&BTreeMap::new(), 3), Verdict::Agreed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_condemned_node_is_told_with_its_next_word() {
        let board = PeerBoard::default();
        let digest = |at, digest| Some(StateDigest { at, digest });
        assert_eq!(board.hear(1, 2, digest(10, 7)), None);
        assert_eq!(board.hear(2, 2, digest(10, 8)), None);
        assert_eq!(board.digests_at(10), said(&[(1, 7), (2, 8)]));
        assert!(board.condemn(&[2], 10));
        assert!(!board.condemn(&[2], 20), "told once");
        assert_eq!(board.hear(2, 2, None), Some(10));
        assert_eq!(board.hear(1, 2, None), None);
        assert_eq!(board.versions(), [(1, 2), (2, 2)].into());
        tokio::time::advance(FORGET_AFTER).await;
        assert!(board.versions().is_empty());
    }
}
