//! Between gateways and owners: endpoint streams, demand, statistics. Mirrors
//! `control/{follow,demand,stats,endpoints}.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;

use nihilo_entity::table::{Heard, StatRow};
use nihilo_entity::{EntityKey, Event as ActorEvent};
use nihilo_machine::state::Session;
use nihilo_types::endpoint::EndpointTable;
use nihilo_types::id::{ObjectKey, SessionId, ShardId};

use super::World;
use super::event::{Address, Event};
use super::gateway::Demand;
use super::plan::{MS, SECOND};

const RETRY_US: u64 = 50 * MS;
const REPORT_PERIOD_US: u64 = SECOND;
/// Permille of reports that the fault `lost_stats` swallows.
const LOST_STATS: u64 = 150;

/// `control::ports::StatReport`.
#[derive(Debug, Clone)]
pub(crate) struct StatReport {
    gateway: SessionId,
    seq: u64,
    stats: Vec<(ObjectKey, ShardId, StatRow)>,
}

impl World {
    // Endpoint streams.

    /// `Follower::sync`: one subscription per open control session.
    pub(crate) fn follow_owners(&mut self, n: usize, open: &BTreeMap<SessionId, Arc<Session>>) {
        let followed = &mut self.nodes[n].gateway.followed;
        followed.retain(|session, _| open.contains_key(session));
        let new: Vec<_> = open
            .iter()
            .filter(|(id, s)| s.opened.roles.control && !followed.contains_key(id))
            .map(|(id, _)| *id)
            .collect();
        for session in new {
            self.nodes[n].gateway.followed.insert(session, false);
            self.at_node(n, 0, Event::SubscribeOwner { session });
        }
    }

    pub(crate) fn subscribe_owner(&mut self, n: usize, session: SessionId) {
        if self.nodes[n].gateway.followed.get(&session) != Some(&false) {
            return;
        }
        let opened = self.nodes[n].replica.state.session(session);
        let owner = opened.and_then(|session| self.node_of(session.opened.node));
        let Some(owner) = owner else { return };
        let (from, to) = (self.address(n), self.address(owner));
        let subscribe = Event::OwnerSubscribed { session, from };
        let reached = self.nodes[owner].up
            && self.net.is_linked(n, owner)
            && self.send_in_order(n, to, subscribe);
        if reached {
            self.nodes[n].gateway.followed.insert(session, true);
        } else {
            self.at_node(n, RETRY_US, Event::SubscribeOwner { session });
        }
    }

    /// At the owner: the present tables, then every change.
    pub(crate) fn owner_subscribed(&mut self, n: usize, session: SessionId, from: Address) {
        let control = &mut self.nodes[n].control;
        control.followers.insert((from, session));
        let present: Vec<_> = control.board.values().map(|(_, t)| t.clone()).collect();
        for table in present {
            self.push_endpoints(n, (from, session), table);
        }
    }

    pub(crate) fn push_to_followers(&mut self, n: usize, table: &EndpointTable) {
        let followers: Vec<_> = self.nodes[n].control.followers.iter().copied().collect();
        for follower in followers {
            self.push_endpoints(n, follower, table.clone());
        }
    }

    fn push_endpoints(&mut self, n: usize, follower: (Address, SessionId), table: EndpointTable) {
        let (to, session) = follower;
        let event = Event::Endpoints {
            session,
            table: Box::new(table),
        };
        if !self.send_in_order(n, to, event) {
            self.owner_stream_breaks(n, follower);
        }
    }

    pub(crate) fn owner_stream_breaks(&mut self, n: usize, follower: (Address, SessionId)) {
        let (to, session) = follower;
        self.nodes[n].control.followers.remove(&follower);
        let after = self.random.skewed(MS, SECOND);
        self.agenda.add(
            self.now_us + after,
            Some(to),
            Event::OwnerStreamBroke { session },
        );
    }

    pub(crate) fn owner_stream_broke(&mut self, n: usize, session: SessionId) {
        if let Some(stands) = self.nodes[n].gateway.followed.get_mut(&session) {
            *stands = false;
            self.at_node(n, RETRY_US, Event::SubscribeOwner { session });
        }
    }

    /// A subscription that was ended brings nothing any more.
    pub(crate) fn endpoints_arrive(&mut self, n: usize, session: SessionId, table: EndpointTable) {
        if self.nodes[n].gateway.followed.contains_key(&session) {
            self.update_endpoints(n, table);
        }
    }

    // Demand.

    /// To the present owner of the shard; with no owner the repetition tries again.
    pub(crate) fn forward_demand(&mut self, n: usize, mut demand: Demand) {
        let node = &self.nodes[n];
        demand.gateway = node.control.session;
        let state = &node.replica.state;
        let owner = state.session(state.owner(demand.shard).session);
        let owner = owner.and_then(|session| self.node_of(session.opened.node));
        let Some(owner) = owner else { return };
        let to = self.address(owner);
        if owner != n && self.doubles() {
            self.send(n, to, Event::Demand(demand.clone()));
        }
        self.send(n, to, Event::Demand(demand));
    }

    /// At the owner; ignored where the shard is not owned.
    pub(crate) fn take_demand(&mut self, n: usize, demand: &Demand) {
        let Some(epoch) = self.epoch_of(n, demand.shard) else {
            return;
        };
        let gateway = match demand.gateway {
            SessionId(0) => self.nodes[n].control.session,
            known => known,
        };
        let event = ActorEvent::Demand {
            gateway,
            n_waiting: demand.n_waiting,
            in_flight: demand.in_flight,
            oldest_age_ms: demand.oldest_age_ms,
        };
        let at = self.gateway_of(demand.gateway);
        if let Some(at) = at {
            let now_us = self.now_us;
            self.checks.demand.heard(&demand.revision, at, now_us);
        }
        let key = EntityKey::Autoscaler(demand.revision.clone());
        self.tell(n, demand.shard, epoch, key, event);
    }

    /// The node whose session this is, while it has it.
    fn gateway_of(&self, session: SessionId) -> Option<usize> {
        let has = |n: &usize| self.nodes[*n].control.session == session;
        (0..self.nodes.len()).find(has)
    }

    // Statistics.

    pub(crate) fn report(&mut self, n: usize) {
        self.at_node(n, REPORT_PERIOD_US, Event::Report);
        let gateway = self.nodes[n].control.session;
        if gateway == SessionId(0) {
            return;
        }
        self.nodes[n].gateway.stat_seq += 1;
        let seq = self.nodes[n].gateway.stat_seq;
        let stats = self.take_stat_rows(n, seq);
        let state = &self.nodes[n].replica.state;
        let owner_of = |shard: ShardId| state.owner(shard).session;
        let mut reports = Vec::new();
        for session in state.sessions().filter(|s| s.opened.roles.control) {
            let mine = stats
                .iter()
                .filter(|(_, shard, _)| owner_of(*shard) == session.id);
            let report = StatReport {
                gateway,
                seq,
                stats: mine.cloned().collect(),
            };
            reports.push((session.opened.node, report));
        }
        for (node, report) in reports {
            let Some(owner) = self.node_of(node) else {
                continue;
            };
            let loses = self.plan.faults.lost_stats && owner != n;
            if loses && self.random.chance(LOST_STATS) {
                continue;
            }
            let to = self.address(owner);
            self.send(n, to, Event::Statistics(report));
        }
    }

    /// `Line::report` of every line.
    fn take_stat_rows(&mut self, n: usize, seq: u64) -> Vec<(ObjectKey, ShardId, StatRow)> {
        let now_us = self.now_us;
        let mut rows = Vec::new();
        for (key, line) in &mut self.nodes[n].gateway.lines {
            let report = line.integrator.report(now_us);
            let is_zero = report.in_flight == 0 && report.area_us == 0 && report.n_started == 0;
            if is_zero && line.reported_zero {
                continue;
            }
            line.reported_zero = is_zero;
            let oldest = line.waiters.front();
            let oldest = oldest.map_or(now_us, |request| self.requests[*request].arrived_us);
            let row = StatRow {
                seq,
                area_us: report.area_us,
                used_us: report.used_us,
                n_started: report.n_started,
                in_flight: report.in_flight,
                queued: line.waiters.len() as u64,
                oldest_ms: (now_us - oldest) / MS,
            };
            rows.push((key.clone(), line.target.shard, row));
        }
        rows
    }

    /// At the owner (`Shared::take_stats`).
    pub(crate) fn take_stats(&mut self, n: usize, report: StatReport) {
        let heard = Heard {
            seq: report.seq,
            at_ms: self.node_ms(n),
        };
        for open in self.nodes[n].control.shards.values_mut() {
            let newest = open.keeper.table.heard.entry(report.gateway);
            let newest = newest.or_insert(heard);
            if newest.seq <= heard.seq {
                *newest = heard;
            }
        }
        for (revision, shard, row) in report.stats {
            let Some(epoch) = self.epoch_of(n, shard) else {
                continue;
            };
            if let Some(open) = self.open_shard(n, shard, epoch) {
                open.keeper.reported_load(&revision, report.gateway, row);
            }
            self.mark_dirty(n, shard, epoch, &EntityKey::Autoscaler(revision));
        }
    }
}
