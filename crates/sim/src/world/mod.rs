//! A cluster in one thread: virtual time, one seed, no network, no disk.
//!
//! The decisions are the shipped ones (`machine::State::apply`, `entity`'s actors, keeper and roll,
//! `scale`, the agent's floors); what is here re-enacts the shells around them, event by event. Each
//! file says which shell it mirrors.

mod actors;
mod agent;
mod calls;
mod counters;
mod event;
mod exchange;
mod faults;
mod follow;
mod gateway;
mod leave;
mod net;
mod node;
mod observe;
mod plan;
mod plant;
mod raft;
mod random;
mod requests;
mod rest;
mod run;
mod session;
mod settle;
mod shards;
mod trace;
mod workload;

use std::collections::BTreeSet;

use nihilo_entity::Settings;
use nihilo_scale::config::ScaleConfig;

use crate::invariants::{Invariants, Verdict};
use calls::PendingCalls;
use counters::Counters;
use event::Agenda;
use net::Net;
use plan::Plan;
use raft::{Proposals, Raft};
use settle::Phase;
use trace::Trace;
use workload::Workload;

pub use counters::Totals;
pub(crate) use event::Address;
pub(crate) use node::Node;
pub use plant::Plant;
pub use random::Random;
pub(crate) use requests::{Outcome, Request};
pub use run::{Run, run};
pub use trace::Detail;

/// Everything there is, at one moment.
#[derive(Debug)]
pub(crate) struct World {
    plan: Plan,
    plant: Option<Plant>,
    settings: Settings,
    random: Random,
    now_us: u64,
    agenda: Agenda,
    nodes: Vec<Node>,
    raft: Raft,
    net: Net,
    proposals: Proposals,
    calls: PendingCalls,
    next_call_id: u64,
    requests: Vec<Request>,
    open_requests: BTreeSet<usize>,
    workload: Workload,
    phase: Phase,
    checks: Invariants,
    counters: Counters,
    trace: Trace,
    violation: Option<Violation>,
}

/// What was broken, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub at_us: u64,
    pub invariant: &'static str,
    pub evidence: String,
}

impl World {
    pub(crate) fn new(seed: u64, plant: Option<Plant>, detail: Detail) -> Self {
        let mut random = Random::new(seed);
        let plan = Plan::draw(seed, &mut random);
        let settings = draw_settings(&mut random);
        Self {
            nodes: (0..plan.n_nodes).map(Node::new).collect(),
            plan,
            plant,
            settings,
            random,
            now_us: 0,
            agenda: Agenda::default(),
            raft: Raft::default(),
            net: Net::default(),
            proposals: Proposals::new(),
            calls: PendingCalls::new(),
            next_call_id: 0,
            requests: Vec::new(),
            open_requests: BTreeSet::new(),
            workload: Workload::default(),
            phase: Phase::Chaos,
            checks: Invariants::default(),
            counters: Counters::default(),
            trace: Trace::new(detail),
            violation: None,
        }
    }

    /// The first violation ends the run.
    pub(crate) fn judge(&mut self, invariant: &'static str, verdict: Verdict) {
        if let Err(evidence) = verdict
            && self.violation.is_none()
        {
            self.violation = Some(Violation {
                at_us: self.now_us,
                invariant,
                evidence,
            });
        }
    }
}

/// Short windows: a revision falls to zero within seconds, and more happens per simulated hour.
fn draw_settings(random: &mut Random) -> Settings {
    Settings {
        scale: ScaleConfig {
            stable_window_ms: 1_000 * random.between(6, 12),
            grace_ms: 1_000 * random.between(1, 5),
            ..ScaleConfig::default()
        },
        ..Settings::default()
    }
}
