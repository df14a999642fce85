//! One seed from its first event to its verdict.

use super::counters::Totals;
use super::event::{Event, Scheduled};
use super::plan::MS;
use super::plant::Plant;
use super::settle::Phase;
use super::trace::Detail;
use super::{Violation, World};

/// A run that does not end is a bug of the world.
const MAX_EVENTS: u64 = 20_000_000;

/// What became of a seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub seed: u64,
    pub violation: Option<Violation>,
    /// Rolling hash over everything that happened: equal for equal seed and code.
    pub trace_hash: u64,
    /// The last lines of the trace, if they were kept.
    pub lines: Vec<String>,
    pub simulated_us: u64,
    pub totals: Totals,
}

/// Runs one seed to its end, or to the first violation.
pub fn run(seed: u64, plant: Option<Plant>, detail: Detail) -> Run {
    let mut world = World::new(seed, plant, detail);
    world.begin();
    let mut n_events = 0;
    while world.violation.is_none() && world.phase != Phase::Over {
        let Some(next) = world.agenda.next() else {
            break;
        };
        n_events += 1;
        if n_events > MAX_EVENTS {
            world.judge("the run ends", Err(format!("{n_events} events")));
        }
        world.step(next);
    }
    let n_entries = world.raft.log.len() as u64;
    Run {
        seed,
        trace_hash: world.trace.hash() ^ world.trace.n_events(),
        lines: world.trace.lines().cloned().collect(),
        simulated_us: world.now_us,
        totals: world.counters.totals(n_events, n_entries),
        violation: world.violation,
    }
}

impl World {
    fn begin(&mut self) {
        for n in 0..self.nodes.len() {
            self.start_node(n);
        }
        self.in_world(20 * MS, Event::RaftTick);
        self.in_world(500 * MS, Event::Inspect);
        let first_fault = self.plan.fault_pause_us + 2_000 * MS;
        self.in_world(first_fault, Event::NextFault);
        self.begin_workload();
    }

    fn step(&mut self, next: Scheduled) {
        self.now_us = next.at_us;
        let Some((n, life)) = next.to else {
            return self.in_the_world(next.event);
        };
        let node = &self.nodes[n];
        if !node.up || node.life != life {
            return;
        }
        if node.paused_until_us > self.now_us {
            let at = node.paused_until_us;
            self.agenda.add(at, next.to, next.event);
            return;
        }
        self.at(n, next.event);
    }

    fn in_the_world(&mut self, event: Event) {
        match event {
            Event::RaftTick => self.raft_tick(),
            Event::Elect { term } => self.elect(term),
            Event::Commit { proposal, term } => self.commit(proposal, term),
            Event::NextFault => self.next_fault(),
            Event::EndFault(fault) if !self.is_settling() => self.end_fault(fault),
            Event::Restart { node } => self.start_node(node),
            Event::QuickRestart { node } => self.quick_restart(node),
            Event::NextArrivals { service } => self.next_arrivals(service),
            Event::NextWrite => self.next_write(),
            Event::RetryWrite { number } => self.retry_write(number),
            Event::Inspect => self.inspect(),
            _ => {}
        }
    }

    fn at(&mut self, n: usize, event: Event) {
        match event {
            Event::TryPropose { proposal } => self.try_propose(n, proposal),
            Event::LeaderTake { proposal } => self.leader_take(n, proposal),
            Event::Answered { proposal, reply } => self.answered(n, proposal, &reply),
            Event::ProposalDeadline { proposal } => self.proposal_deadline(n, proposal),
            Event::Apply { upto } => self.apply(n, upto),
            Event::Advance => self.advance(n),
            Event::SessionChanged => self.sync_ownership(n),
            Event::Sweep => self.sweep(n),
            Event::LeaveLook => self.look_whether_to_leave(n),
            Event::KeepAliveDue { round } => self.keep_alive_due(n, round),
            Event::KeepAlive {
                from,
                round,
                session,
                table,
            } => self.take_keep_alive(n, from, round, session, table),
            Event::KeepAliveAnswered { round, answer } => {
                self.keep_alive_answered(n, round, answer);
            }
            Event::KeepAliveTimeout { round } => self.keep_alive_timeout(n, round),
            Event::Roll => self.look_at_roll(n),
            Event::ReconcileGrace { gained } => self.reconcile_grace(n, &gained),
            Event::Turn { shard, epoch, key } => self.turns(n, shard, epoch, &key),
            Event::Timer {
                shard,
                epoch,
                key,
                name,
                id,
            } => self.fire(n, (shard, epoch), key, name, id),
            Event::Idle {
                shard,
                epoch,
                key,
                activity,
            } => self.idle(n, shard, epoch, &key, activity),
            Event::Order {
                shard,
                epoch,
                key,
                what,
            } => self.carry_out(n, (shard, epoch), key, what),
            Event::Proposed {
                shard,
                epoch,
                key,
                outcome,
            } => {
                let event = nihilo_entity::Event::Proposed { outcome };
                self.tell(n, shard, epoch, key, event);
            }
            Event::WriteScales => self.write_scales(n),
            Event::Reload { shard, epoch, key } => self.reload(n, shard, epoch, &key),
            other => self.at_data_plane(n, other),
        }
    }

    fn at_data_plane(&mut self, n: usize, event: Event) {
        match event {
            Event::CallArrives(call) => self.call_arrives(n, *call),
            Event::CallAnswered { call, answer } => self.call_answered(n, call, answer),
            Event::CallTimeout { call } => {
                self.call_answered(n, call, super::calls::CallAnswer::Unanswered);
            }
            Event::ListAgain { session } => self.list_again(n, session),
            Event::SubscribeAgent { session } => self.subscribe_agent(n, session),
            Event::AgentSubscribed { session, from } => self.agent_subscribed(n, session, from),
            // What happened before the subscription is in the list.
            Event::AgentConnected { session } => self.agent_connected(n, session),
            Event::AgentReport { session, report } => self.agent_report(n, session, report),
            Event::AgentStreamBroke { session } => self.agent_stream_broke(n, session),
            Event::Instance { id, step } => self.instance_step(n, &id, step),
            Event::SubscribeOwner { session } => self.subscribe_owner(n, session),
            Event::OwnerSubscribed { session, from } => self.owner_subscribed(n, session, from),
            Event::Endpoints { session, table } => self.endpoints_arrive(n, session, *table),
            Event::OwnerStreamBroke { session } => self.owner_stream_broke(n, session),
            Event::DemandTick => self.demand_tick(n),
            Event::Demand(demand) => self.take_demand(n, &demand),
            Event::Report => self.report(n),
            Event::Statistics(report) => self.take_stats(n, report),
            Event::Arrives { request } => self.request_arrives(n, request),
            Event::Woken { request } => self.woken(n, request),
            Event::Mesh(mesh) => self.mesh_arrives(n, mesh),
            Event::MeshAnswered {
                request,
                attempt,
                answer,
            } => self.mesh_answered(n, request, attempt, answer),
            Event::PlaceExpires { instance, place } => self.place_expires(n, &instance, place),
            Event::Abort {
                request,
                attempt,
                instance,
            } => self.abort(n, request, attempt, &instance),
            Event::RequestDone {
                request,
                attempt,
                instance,
            } => self.request_done(n, request, attempt, &instance),
            Event::RequestDeadline { request } => self.request_deadline(n, request),
            Event::PauseOver { revision } => self.pause_over(n, &revision),
            _ => {}
        }
    }
}
