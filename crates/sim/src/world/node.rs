//! One node: its replica, its control part, its agent, its gateway; and its lives.

use nihilo_machine::State;
use nihilo_machine::state::ObjectEvent;
use nihilo_types::id::NodeId;

use super::World;
use super::agent::Agent;
use super::event::Event;
use super::gateway::Gateway;
use super::leave::Leaving;
use super::plan::{MS, SECOND};
use super::session::Control;

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) life: u32,
    pub(crate) up: bool,
    /// Stopped until then, as by SIGSTOP; what is meant for it waits.
    pub(crate) paused_until_us: u64,
    /// Zero of this process's monotonic clock.
    pub(crate) started_us: u64,
    pub(crate) replica: Replica,
    pub(crate) control: Control,
    pub(crate) agent: Agent,
    pub(crate) gateway: Gateway,
    /// Whom this node takes for the leader, and when it last heard of it.
    pub(crate) leader: LeaderSeen,
    /// It goes in good order.
    pub(crate) leaving: Option<Leaving>,
    /// A replica that falls behind takes this long per step.
    pub(crate) extra_lag_us: u64,
}

/// This node's copy of the state.
#[derive(Debug, Default)]
pub(crate) struct Replica {
    pub(crate) state: State,
    pub(crate) applied: u64,
    /// Hash of all rows written so far.
    pub(crate) rows_hash: u64,
    /// Changes since control looked last; `None` = too many to tell.
    pub(crate) changes: Option<Vec<ObjectEvent>>,
    pub(crate) advance_is_due: bool,
    /// Answers that wait until this node has applied them: (index, proposal).
    pub(crate) held_answers: Vec<(u64, u64)>,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LeaderSeen {
    pub(crate) leader: Option<usize>,
    pub(crate) at_us: u64,
}

impl Node {
    pub(crate) fn new(index: usize) -> Self {
        Self {
            id: NodeId(index as u64 + 1),
            life: 0,
            up: false,
            paused_until_us: 0,
            started_us: 0,
            replica: Replica::default(),
            control: Control::default(),
            agent: Agent::default(),
            gateway: Gateway::default(),
            leader: LeaderSeen::default(),
            leaving: None,
            extra_lag_us: 0,
        }
    }

    pub(crate) fn name(&self) -> String {
        format!("node-{}", self.id)
    }

    /// The process's own clock, as control's `now_ms`.
    pub(crate) fn now_ms(&self, now_us: u64) -> u64 {
        now_us.saturating_sub(self.started_us) / MS
    }

    pub(crate) fn runs(&self, now_us: u64) -> bool {
        self.up && self.paused_until_us <= now_us
    }
}

impl World {
    pub(crate) fn start_node(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        if node.up {
            return;
        }
        node.life += 1;
        node.up = true;
        node.paused_until_us = 0;
        node.started_us = self.now_us;
        node.control = Control::default();
        node.agent = Agent::default();
        node.gateway = Gateway::default();
        node.leader = LeaderSeen::default();
        node.leaving = None;
        let life = u64::from(node.life);
        self.trace.add(self.now_us, &[1, n as u64, life], || {
            format!("node {} starts, life {life}", n + 1)
        });
        self.load_replica(n);
        self.begin_control(n);
        // Spread, so that the nodes' periods do not run in step.
        let offset = self.random.below(100 * MS);
        for (after, event) in [
            (offset, Event::KeepAliveDue { round: 0 }),
            (offset % (20 * MS), Event::Roll),
            (offset, Event::Sweep),
            (offset, Event::DemandTick),
            (offset, Event::WriteScales),
            (SECOND + offset, Event::Report),
        ] {
            self.at_node(n, after, event);
        }
    }

    /// The process is gone, with its soft state, its connections and its instances.
    pub(crate) fn crash_node(&mut self, n: usize) {
        if !self.nodes[n].up {
            return;
        }
        self.trace.add(self.now_us, &[2, n as u64], || {
            format!("node {} dies", n + 1)
        });
        self.end_requests_at(n);
        self.end_streams_at(n);
        let gone: Vec<_> = self.nodes[n].agent.running();
        for id in gone {
            self.checks.instances.gone(&id);
        }
        let node = &mut self.nodes[n];
        node.up = false;
        node.leaving = None;
        node.life += 1;
        node.control = Control::default();
        node.agent = Agent::default();
        node.gateway = Gateway::default();
        node.replica.held_answers.clear();
        node.replica.advance_is_due = false;
        self.fail_calls_to(n);
    }

    fn end_streams_at(&mut self, n: usize) {
        for (to, session) in self.nodes[n].agent.subscribers.clone() {
            self.agent_stream_breaks(n, session, to);
        }
        for follower in self.nodes[n].control.followers.clone() {
            self.owner_stream_breaks(n, follower);
        }
    }
}
