//! A node that goes in good order. Mirrors `Node::stop` of `server/wiring.rs`: traffic and instances
//! first, then the session, then leadership, then the process.

use nihilo_machine::Command;
use nihilo_machine::command::{CloseSession, RequestKey};
use nihilo_machine::ownership::moves_away_from;
use nihilo_types::id::SessionId;

use super::World;
use super::event::Event;
use super::plan::{MS, SECOND};
use super::plant::Plant;
use super::session::Origin;

const LOOK_EVERY_US: u64 = 20 * MS;
/// What the node gives its clients and instances: two thirds of `shutdown-grace`.
const GRACE_US: (u64, u64) = (2 * SECOND, 10 * SECOND);
const CLOSE_LIMIT_US: u64 = 2 * SECOND;
/// A leader that hands over is followed at once.
const HANDOVER_US: u64 = 10 * MS;

/// How far a leaving node has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// Clients and instances are let go until then.
    Draining { until_us: u64 },
    /// The end of its session is being written.
    Closing,
}

impl World {
    pub(crate) fn begin_to_leave(&mut self, n: usize) {
        let node = &self.nodes[n];
        if !node.up || node.leaving.is_some() || !self.is_majority_without(n) {
            return;
        }
        let until_us = self.now_us + self.random.between(GRACE_US.0, GRACE_US.1);
        self.nodes[n].leaving = Some(Leaving::Draining { until_us });
        self.nodes[n].gateway.is_open = false;
        if self.plant == Some(Plant::LeavesFirst) {
            self.close_session(n);
        }
        let running = self.nodes[n].agent.running();
        for id in running {
            if let Some(instance) = self.nodes[n].agent.instances.get_mut(&id) {
                instance.leave();
            }
            self.look_soon(n, &id);
        }
        self.at_node(n, LOOK_EVERY_US, Event::LeaveLook);
    }

    fn is_majority_without(&self, n: usize) -> bool {
        let others = self.nodes.iter().enumerate().filter(|(at, _)| *at != n);
        let n_stay = others.filter(|(_, node)| node.up).count();
        n_stay * 2 > self.nodes.len()
    }

    pub(crate) fn look_whether_to_leave(&mut self, n: usize) {
        let Some(Leaving::Draining { until_us }) = self.nodes[n].leaving else {
            return;
        };
        let address = self.address(n);
        let has_clients = self
            .open_requests
            .iter()
            .any(|request| self.requests[*request].gateway == address);
        let is_done = !has_clients && self.nodes[n].agent.running().is_empty();
        if !is_done && self.now_us < until_us {
            return self.at_node(n, LOOK_EVERY_US, Event::LeaveLook);
        }
        self.kill_instances(n);
        self.nodes[n].leaving = Some(Leaving::Closing);
        match self.nodes[n].control.session {
            SessionId(0) => self.left(n),
            _ => self.close_session(n),
        }
    }

    fn close_session(&mut self, n: usize) {
        let node = &self.nodes[n];
        let session = node.control.session;
        let moves = moves_away_from(&node.replica.state, session);
        let command = Command::CloseSession(CloseSession {
            session,
            moves,
            returns: false,
        });
        let key = RequestKey::default();
        self.propose(n, command, key, CLOSE_LIMIT_US, Origin::Leave);
    }

    /// The session's end is written, or was given up: leadership goes, and the process with it.
    pub(crate) fn left(&mut self, n: usize) {
        if self.nodes[n].leaving != Some(Leaving::Closing) {
            return;
        }
        let leads = self.raft.leader == Some(n);
        self.crash_node(n);
        if leads {
            self.depose_leader(HANDOVER_US);
        }
        let after = self.random.skewed(40 * MS, 5 * SECOND);
        self.in_world(after, Event::Restart { node: n });
    }
}

#[cfg(test)]
mod tests {
    use super::super::Detail;
    use super::*;

    #[test]
    fn where_no_node_is_up_none_leaves() {
        let mut world = World::new(1, None, Detail::Recent);
        world.nodes.iter_mut().for_each(|node| node.up = false);
        world.begin_to_leave(0);
        assert_eq!(world.nodes[0].leaving, None);
    }
}
