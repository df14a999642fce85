//! What is written: a real command that changes durable state, of a size like most of ours.

use std::time::{Duration, Instant};

use nihilo_machine::command::{OpenSession, RequestKey, Roles};
use nihilo_machine::{Command, Reply};
use nihilo_raft::{ProposeError, RaftNode};
use nihilo_types::id::NodeId;
use serde::{Deserialize, Serialize};

use super::histogram::Counts;

/// One proposal, its unseen retries included.
const PROPOSE_LIMIT: Duration = Duration::from_secs(5);
/// A writer that was turned away does not spin.
pub(crate) const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(10);
/// Ids of writers as nodes, apart from those of the group.
const FIRST_WRITER: u64 = 1_000;
const WRITERS_PER_NODE: u64 = 10_000;

/// What became of the writes of one process.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Writes {
    pub(crate) n_acked: u64,
    /// The state machine said no; none is expected.
    pub(crate) n_rejected: u64,
    pub(crate) n_no_leader: u64,
    pub(crate) n_overloaded: u64,
    /// Sent, and no answer: it may have been applied.
    pub(crate) n_unanswered: u64,
    /// The disk failed, or is full.
    pub(crate) n_stopped: u64,
    /// From the call to the acknowledgment.
    pub(crate) latency: Counts,
}

impl Writes {
    pub(crate) fn count(&mut self, took: Duration, result: Result<Reply, ProposeError>) {
        match result {
            Ok(reply) if reply.result.is_ok() => {
                self.n_acked += 1;
                self.latency.add(took);
            }
            Ok(_)
            | Err(
                ProposeError::TooLarge { .. }
                | ProposeError::TooNew { .. }
                | ProposeError::Split { .. }
                | ProposeError::Refused(_),
            ) => self.n_rejected += 1,
            Err(ProposeError::NoLeader) => self.n_no_leader += 1,
            Err(ProposeError::Overloaded) => self.n_overloaded += 1,
            Err(ProposeError::Unanswered(_)) => self.n_unanswered += 1,
            Err(ProposeError::Stopped | ProposeError::DiskLow(_)) => self.n_stopped += 1,
        }
    }

    pub(crate) fn n_failed(&self) -> u64 {
        let not_applied = self.n_no_leader + self.n_overloaded + self.n_stopped;
        self.n_rejected + self.n_unanswered + not_applied
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.n_acked += other.n_acked;
        self.n_rejected += other.n_rejected;
        self.n_no_leader += other.n_no_leader;
        self.n_overloaded += other.n_overloaded;
        self.n_unanswered += other.n_unanswered;
        self.n_stopped += other.n_stopped;
        self.latency.merge(&other.latency);
    }
}

/// The `n`th write of one writer: a session that takes the place of the writer's last one, so that
/// the state changes with every write and yet does not grow.
pub(crate) fn command(member: u64, writer: u64, n: u64) -> Command {
    let node = FIRST_WRITER + member * WRITERS_PER_NODE + writer;
    Command::OpenSession(OpenSession {
        node: NodeId(node),
        name: format!("writer-{node}"),
        boot_id: format!("{node}-{n}"),
        roles: Roles {
            control: false,
            gateway: false,
            agent: false,
        },
        peer_address: "127.0.0.1:7071".into(),
        gateway_address: "127.0.0.1:8080".into(),
        admin_address: "127.0.0.1:7070".into(),
        pid: 1,
        capacity: 100,
        t_self_ms: 900,
        kills_instances_on_exit: true,
        store_id: String::new(),
    })
}

pub(crate) async fn propose(
    node: &RaftNode,
    command: Command,
) -> (Duration, Result<Reply, ProposeError>) {
    let started = Instant::now();
    let result = node
        .propose(command, RequestKey::default(), PROPOSE_LIMIT)
        .await;
    (started.elapsed(), result)
}

#[cfg(test)]
mod tests {
    use nihilo_wire::codec::encode_command;

    use super::*;

    #[test]
    fn each_write_is_another_one_of_some_hundred_bytes() {
        let (one, two) = (command(1, 0, 1), command(1, 0, 2));
        assert_ne!(one, two);
        assert!((200..500).contains(&encode_command(&one).len()));
    }

    #[test]
    fn every_end_of_a_write_is_counted_once() {
        let mut writes = Writes::default();
        let took = Duration::from_millis(1);
        writes.count(took, Err(ProposeError::NoLeader));
        writes.count(took, Err(ProposeError::Unanswered("lost".into())));
        let mut both = writes.clone();
        both.merge(&writes);
        assert_eq!((both.n_failed(), both.n_acked), (4, 0));
        assert_eq!((both.n_no_leader, both.n_unanswered), (2, 2));
    }
}
