//! The connection-refused fast path: a leader whose host says that nothing listens at its peer port any
//! more has died, and its followers need not wait for its lease to end (02-store §11). Off by default.
//!
//! Votes, terms and log checks are those of an ordinary campaign: a wrong guess costs a change of
//! leadership, never a write. Reads ask a quorum, so that no lease has to hold for them.

use std::io::ErrorKind;
use std::sync::Weak;
use std::time::Duration;

use futures_util::future::join_all;
use nihilo_host::Net;
use nihilo_store::convert;
use nihilo_store::type_config::Vote;
use nihilo_wire::internal as pb;
use openraft::raft::TransferLeaderRequest;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::node::{Inner, RaftNode};
use crate::status::{RaftStatus, Role};

/// Between two dials; two in a row have to be refused.
const NEXT_LOOK: Duration = Duration::from_millis(5);
/// Dials, at most: a process that dies closes its sockets one after the other, and the one it listens at
/// may be among the last.
const MAX_LOOKS: usize = 12;
/// Of a dial, and of another voter's answer: later the timers are as fast.
const PATIENCE: Duration = Duration::from_millis(100);
/// Between two campaigns of this kind, and between two connections to a leader that ends them.
const PAUSE: Duration = Duration::from_secs(2);

/// Keeps an idle connection to the leader, and acts on its end.
pub(crate) async fn follow(node: Weak<Inner>) {
    let mut told = None;
    loop {
        let Some(status) = node.upgrade().map(|inner| RaftNode(inner).status_watch()) else {
            return;
        };
        if !watch_leader(&node, status, &mut told).await {
            return;
        }
    }
}

/// Until there may be another leader, or the pause after this one's connection has passed; `false` once
/// this node has ended. `told` is the leader of whom the log says that it is watched.
async fn watch_leader(
    node: &Weak<Inner>,
    mut status: tokio::sync::watch::Receiver<RaftStatus>,
    told: &mut Option<u64>,
) -> bool {
    let now = status.borrow_and_update().clone();
    let leader = now.leader.filter(|_| now.role == Role::Follower);
    let found = leader.and_then(|id| {
        let node = RaftNode(node.upgrade()?);
        Some((node.net(), node.peer_address(id)?))
    });
    let Some((net, address)) = found else {
        return status.changed().await.is_ok();
    };
    let begun = Instant::now();
    let watched = connection_ends(&net, &address, || {
        if *told != leader {
            info!(
                "watching the peer port of node {}, which leads",
                leader.unwrap_or(0)
            );
            *told = leader;
        }
    });
    tokio::select! {
        changed = status.changed() => return changed.is_ok(),
        () = watched => {}
    }
    let Some(inner) = node.upgrade() else {
        return false;
    };
    let campaigned = campaign_if_gone(&RaftNode(inner)).await;
    // One that the leader ended for its long silence is replaced at once.
    let since = if campaigned { Instant::now() } else { begun };
    tokio::select! {
        changed = status.changed() => changed.is_ok(),
        () = tokio::time::sleep_until(since + PAUSE) => true,
    }
}

/// Also when there never was one: both are reasons to look closer.
async fn connection_ends(net: &Net, address: &str, begun: impl FnOnce()) {
    if let Ok(Ok(mut idle)) = timeout(PATIENCE, net.dial(address)).await {
        begun();
        // Nothing is ever said on it: whatever this returns is its end.
        drop(idle.read(&mut [0]).await);
    }
}

/// Returns whether this node has campaigned.
async fn campaign_if_gone(node: &RaftNode) -> bool {
    let status = node.status();
    let Some(leader) = status.leader.filter(|_| status.role == Role::Follower) else {
        return false;
    };
    let vote = node.vote();
    if !is_refused(node, leader).await {
        return false;
    }
    let me = node.identity().node_id;
    let others = status.voters.iter().copied();
    let others: Vec<u64> = others.filter(|id| *id != me && *id != leader).collect();
    let words = join_all(others.iter().map(|id| ask(node, *id, &vote))).await;
    let words: Vec<Word> = words.into_iter().flatten().collect();
    let mine = Word {
        node: me,
        last_log: status.last_log,
    };
    let candidate = candidate(status.voters.len(), mine, &words);
    if candidate.is_none() {
        info!(
            leader,
            "refuses connections, but not to enough of the others"
        );
    }
    let is_mine = candidate == Some(me);
    if is_mine {
        campaign(node, leader, vote).await;
    }
    is_mine
}

/// A voter that sees the leader gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Word {
    node: u64,
    /// Index of its newest entry.
    last_log: u64,
}

/// Who is to campaign: of those that agree the one with the longest log, the highest id among equals;
/// `None` while they are no majority of all voters.
fn candidate(n_voters: usize, mine: Word, others: &[Word]) -> Option<u64> {
    let agreeing = others.iter().chain([&mine]);
    let is_majority = (others.len() + 1) * 2 > n_voters;
    let best = agreeing.max_by_key(|word| (word.last_log, word.node))?;
    is_majority.then_some(best.node)
}

async fn ask(node: &RaftNode, id: u64, vote: &Vote) -> Option<Word> {
    let mut client = node.peer_client(id)?;
    let request = pb::LeaderGoneRequest {
        identity: Some(node.identity_to(id)),
        leader: Some(convert::vote_to(vote)),
    };
    let answer = timeout(PATIENCE, client.leader_gone(request)).await;
    let answer = answer.ok()?.ok()?.into_inner();
    answer.agrees.then_some(Word {
        node: id,
        last_log: answer.last_log,
    })
}

async fn campaign(node: &RaftNode, leader: u64, vote: Vote) {
    warn!(
        leader,
        "its peer port refuses connections: campaigning without waiting for its lease"
    );
    let me = node.identity().node_id;
    let request = TransferLeaderRequest::new(vote, me, None);
    match node.raft().handle_transfer_leader(request).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => info!(%error, "the campaign was not begun"),
        Err(error) => info!(%error, "raft has stopped"),
    }
}

/// Whether this node, too, follows that leader and is refused by it.
pub(crate) async fn sees_it_gone(node: &RaftNode, leader: &Vote) -> bool {
    let is_mine = node.vote() == *leader && node.status().role == Role::Follower;
    is_mine && is_refused(node, leader.leader_id().node_id).await
}

async fn is_refused(node: &RaftNode, id: u64) -> bool {
    let Some(address) = node.peer_address(id) else {
        return false;
    };
    let net = node.net();
    let mut was_refused = false;
    for _ in 0..MAX_LOOKS {
        let is_refused = refuses(&net, &address).await;
        if was_refused && is_refused {
            return true;
        }
        was_refused = is_refused;
        sleep(NEXT_LOOK).await;
    }
    false
}

async fn refuses(net: &Net, address: &str) -> bool {
    let dialled = timeout(PATIENCE, net.dial(address)).await;
    matches!(dialled, Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(node: u64, last_log: u64) -> Word {
        Word { node, last_log }
    }

    #[test]
    fn the_longest_log_of_a_majority_campaigns() {
        let table = [
            ("alone of three", 3, word(2, 9), vec![], None),
            ("both others", 3, word(2, 9), vec![word(3, 8)], Some(2)),
            (
                "the other's is longer",
                3,
                word(2, 8),
                vec![word(3, 9)],
                Some(3),
            ),
            (
                "equal: the higher id",
                3,
                word(2, 9),
                vec![word(3, 9)],
                Some(3),
            ),
            ("two of five", 5, word(2, 9), vec![word(3, 9)], None),
            (
                "three of five",
                5,
                word(5, 9),
                vec![word(3, 9), word(4, 7)],
                Some(5),
            ),
            ("two voters in all", 2, word(2, 9), vec![], None),
        ];
        for (what, n_voters, mine, others, wanted) in table {
            assert_eq!(candidate(n_voters, mine, &others), wanted, "{what}");
        }
    }
}
