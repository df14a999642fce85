//! Who should own which shard: policy, computed by the proposer; the log only records the result.

use nihilo_types::id::{NodeId, SessionId, ShardId};

use crate::command::Move;
use crate::member::Duty;
use crate::state::State;

/// Shards moved by one `Reassign` towards a newly joined node, at most (03-actors §3).
pub const MAX_MOVES_TO_A_JOINER: usize = 16;

/// Returns the open control session that a shard prefers, leaving `without` out.
///
/// Rendezvous hashing: a session that leaves moves only its own shards, and so does a node that is
/// drained. Where nobody else is there, a drained one owns.
pub fn preferred_owner(
    state: &State,
    shard: ShardId,
    without: Option<SessionId>,
) -> Option<SessionId> {
    state
        .sessions()
        .filter(|session| session.opened.roles.control && Some(session.id) != without)
        .max_by_key(|session| {
            let node = session.opened.node;
            (!is_drained(state, node), weight(shard, node.0), session.id)
        })
        .map(|session| session.id)
}

fn is_drained(state: &State, node: NodeId) -> bool {
    state.duty_of(node) == Duty::Drained
}

/// The node that a shard prefers among `nodes`; `None` when there is none.
pub fn preferred_node(shard: ShardId, nodes: impl Iterator<Item = NodeId>) -> Option<NodeId> {
    nodes.max_by_key(|node| weight(shard, node.0))
}

/// Moves that re-home everything `leaving` owns; empty when nobody else can own.
pub fn moves_away_from(state: &State, leaving: SessionId) -> Vec<Move> {
    state
        .owners()
        .filter(|(_, owner)| owner.session == leaving)
        .filter_map(|(shard, owner)| {
            let to = preferred_owner(state, shard, Some(leaving))?;
            Some(Move {
                shard,
                from_epoch: owner.epoch,
                to,
            })
        })
        .collect()
}

/// The next moves towards the preferred placement: all shards that are unowned or a drained node's,
/// and at most [`MAX_MOVES_TO_A_JOINER`] others that have a live owner which is not the preferred one.
pub fn next_moves(state: &State) -> Vec<Move> {
    let mut moves = Vec::new();
    let mut n_rebalanced = 0;
    for (shard, owner) in state.owners() {
        let Some(to) = preferred_owner(state, shard, None) else {
            return Vec::new();
        };
        if to == owner.session {
            continue;
        }
        let lives = state.session(owner.session);
        if lives.is_some_and(|session| !is_drained(state, session.opened.node)) {
            n_rebalanced += 1;
            if n_rebalanced > MAX_MOVES_TO_A_JOINER {
                continue;
            }
        }
        moves.push(Move {
            shard,
            from_epoch: owner.epoch,
            to,
        });
    }
    moves
}

fn weight(shard: ShardId, node: u64) -> u64 {
    let mut bytes = [0; 10];
    bytes[..2].copy_from_slice(&shard.0.to_be_bytes());
    bytes[2..].copy_from_slice(&node.to_be_bytes());
    xxhash_rust::xxh3::xxh3_64(&bytes)
}
