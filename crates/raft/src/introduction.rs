//! Whether an empty store may take part under its node's id.
//!
//! A node that lost its store also lost votes and entries that it had acknowledged. Under its old id
//! it could vote twice in a term, or stand for an entry that it no longer has: two quorums. So a
//! store that holds nothing a quorum could count on is silent in consensus until others have said
//! that nobody has known the id with another store (02-store §6): a leader, out of what every quorum
//! has applied; or a majority of the members whose stores are as young, since what one quorum has
//! committed any majority would hold.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use nihilo_types::id::NodeId;
use nihilo_wire::internal as pb;
use pb::introduce_response::Verdict;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::node::RaftNode;

/// The members are asked again after this.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Bound of one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// A wait is said again after so many rounds.
const ROUNDS_PER_NOTICE: u32 = 50;

/// The id of this node belongs to a store that this one is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "store-replaced: node {node} had another data directory, and what it acknowledged is gone with \
     it; it must not take part under this id again: remove node {node} from the cluster, and join \
     with an empty directory under a new id"
)]
pub struct StoreReplaced {
    pub node: u64,
}

/// This node's own store, as far as taking part goes.
#[derive(Debug)]
pub(crate) struct Introduction {
    pub(crate) store_id: Arc<str>,
    /// Whether it may vote, and take entries.
    accepted: watch::Sender<bool>,
}

impl Introduction {
    pub(crate) fn new(store_id: Arc<str>, is_young: bool) -> Self {
        Self {
            store_id,
            accepted: watch::Sender::new(!is_young),
        }
    }

    pub(crate) fn is_accepted(&self) -> bool {
        *self.accepted.borrow()
    }
}

/// What a round of answers means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judgement {
    Accepted,
    Replaced,
    AskAgain,
}

/// Judges the answers of the other members; `None` = no answer.
fn judge(answers: &[Option<Verdict>]) -> Judgement {
    let n_of = |verdict| answers.iter().filter(|a| **a == Some(verdict)).count();
    let n_members = answers.len() + 1;
    let most_are_young = n_of(Verdict::Young) + 1 > n_members / 2;
    // A member with a log may yet lead, and know better than those without one.
    let is_first_life = most_are_young && n_of(Verdict::Unsure) == 0;
    if n_of(Verdict::Replaced) > 0 {
        Judgement::Replaced
    } else if n_of(Verdict::Welcome) > 0 || is_first_life {
        Judgement::Accepted
    } else {
        Judgement::AskAgain
    }
}

impl RaftNode {
    /// Waits until this node may take part; at once unless its store is young. Peers must be able
    /// to ask it meanwhile.
    ///
    /// # Errors
    /// The id belongs to another store: this process must end.
    pub async fn introduce(&self) -> Result<(), StoreReplaced> {
        let mut round = 0;
        while !self.introduction().is_accepted() {
            match judge(&self.ask_members().await) {
                Judgement::Accepted => {
                    self.introduction().accepted.send_replace(true);
                }
                Judgement::Replaced => {
                    let node = self.identity().node_id;
                    return Err(StoreReplaced { node });
                }
                Judgement::AskAgain => {
                    if round % ROUNDS_PER_NOTICE == 0 {
                        info!("this store is empty: waiting for members that know this node's id");
                    }
                    round += 1;
                    tokio::time::sleep(ASK_EVERY).await;
                }
            }
        }
        Ok(())
    }

    async fn ask_members(&self) -> Vec<Option<Verdict>> {
        let me = self.identity().node_id;
        let others = self.members().keys().filter(|id| **id != me);
        join_all(others.map(|id| self.ask_member(*id))).await
    }

    async fn ask_member(&self, member: u64) -> Option<Verdict> {
        let mut client = self.peer_client(member)?;
        let request = pb::IntroduceRequest {
            identity: Some(self.identity_to(member)),
            store_id: self.introduction().store_id.to_string(),
        };
        let answer = tokio::time::timeout(ANSWER_LIMIT, client.introduce(request)).await;
        Some(answer.ok()?.ok()?.into_inner().verdict())
    }

    /// What this node says of another one's store.
    pub(crate) async fn verdict_on(&self, node: u64, store_id: &str) -> Verdict {
        if self.belongs_to_another(node, store_id) {
            warn!(
                node,
                "a node with an empty store asks under an id that has another one"
            );
            return Verdict::Replaced;
        }
        if self.status().last_log == 0 {
            return Verdict::Young;
        }
        match self.leader_read_index().await {
            // Its own state may be older than the index; it is a leader's, so it catches up.
            Ok(index) if self.reaches(index).await => {
                if self.belongs_to_another(node, store_id) {
                    Verdict::Replaced
                } else {
                    Verdict::Welcome
                }
            }
            Ok(_) | Err(_) => Verdict::Unsure,
        }
    }

    fn belongs_to_another(&self, node: u64, store_id: &str) -> bool {
        let state = self.state();
        state.read(|state| {
            state
                .store_of(NodeId(node))
                .is_some_and(|id| id != store_id)
        })
    }

    async fn reaches(&self, index: u64) -> bool {
        let mut applied = self.applied();
        let reached = applied.wait_for(|at| at.0 >= index);
        matches!(tokio::time::timeout(ANSWER_LIMIT, reached).await, Ok(Ok(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_leader_or_a_majority_of_young_members_lets_a_store_in() {
        use Judgement::{Accepted, AskAgain, Replaced};
        use Verdict::{Unsure, Welcome, Young};
        let table: [(&[Option<Verdict>], Judgement); 12] = [
            (&[], Accepted),
            (&[None], AskAgain),
            (&[Some(Young)], Accepted),
            (&[None, None], AskAgain),
            (&[Some(Young), None], Accepted),
            (&[Some(Young), Some(Young)], Accepted),
            (&[Some(Young), Some(Unsure)], AskAgain),
            (&[Some(Unsure), Some(Unsure)], AskAgain),
            (&[Some(Welcome), Some(Unsure)], Accepted),
            (&[Some(Welcome), Some(Verdict::Replaced)], Replaced),
            (&[Some(Young), None, None, None], AskAgain),
            (&[Some(Young), Some(Young), None, None], Accepted),
        ];
        for (answers, expected) in table {
            assert_eq!(judge(answers), expected, "{answers:?}");
        }
    }
}
