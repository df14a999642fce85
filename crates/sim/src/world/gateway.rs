//! A node's gateway: lines, places, demand. Mirrors `gateway/line.rs`, and the dispatch of
//! `gateway/proxy.rs`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use nihilo_scale::integrator::Integrator;
use nihilo_types::endpoint::{Endpoint, EndpointTable};
use nihilo_types::id::{InstanceId, ObjectKey, SessionId, ShardId};
use nihilo_types::route_table::RevisionTarget;

use super::World;
use super::event::{Address, Event};
use super::plan::MS;
use super::plant::Plant;
use super::requests::{Outcome, Place};

const MAX_WAITING: usize = 10_000;
const DEMAND_PERIOD_US: u64 = 250 * MS;

/// Why a home node did not admit a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Busy,
    Draining,
    Gone,
}

/// `gateway::line::Trouble`: what an instance that cannot take a request showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    Busy,
    Gone,
    Unreached,
}

/// What a request for another node's instance comes back with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MeshAnswer {
    Ok,
    /// A place is held under this number.
    Reserved(u64),
    Refused(Refusal),
    /// The dial failed: nothing was sent.
    Unsent,
    /// The instance took it and ended without an answer.
    InstanceEnded,
    /// The connection ended without an answer.
    Lost,
}

/// A request on its way to another node's instance.
#[derive(Debug, Clone)]
pub(crate) struct Mesh {
    pub(crate) request: usize,
    pub(crate) attempt: u32,
    pub(crate) instance: InstanceId,
    pub(crate) from: Address,
    pub(crate) wants: MeshWants,
}

/// A request with a body asks for its place first: what was streamed cannot be taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MeshWants {
    Answer,
    Place,
    AnswerAt(u64),
}

/// `control::ports::Demand`.
#[derive(Debug, Clone)]
pub(crate) struct Demand {
    pub(crate) gateway: SessionId,
    pub(crate) revision: ObjectKey,
    pub(crate) shard: ShardId,
    pub(crate) n_waiting: u64,
    pub(crate) in_flight: u64,
    pub(crate) oldest_age_ms: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Gateway {
    pub(crate) is_open: bool,
    pub(crate) lines: BTreeMap<ObjectKey, Line>,
    /// The newest that owners said about each revision.
    pub(crate) endpoints: BTreeMap<ObjectKey, EndpointTable>,
    /// Owners whose tables are followed; `true` = the stream stands.
    pub(crate) followed: BTreeMap<SessionId, bool>,
    pub(crate) stat_seq: u64,
    /// When sessions were taken for ended here.
    pub(crate) ended: BTreeMap<SessionId, u64>,
}

/// One revision's traffic at this gateway.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) target: Arc<RevisionTarget>,
    pub(crate) integrator: Integrator,
    version: (u64, u64),
    pub(crate) places: Vec<Seat>,
    pub(crate) waiters: VecDeque<usize>,
    next_edge: usize,
    pub(crate) reported_zero: bool,
    demand_was_raised: bool,
}

/// One instance as this gateway sees it.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) endpoint: Endpoint,
    pub(crate) in_flight: u32,
    /// Until when, and why, it gets nothing.
    pub(crate) left_alone: Option<(u64, Trouble)>,
}

impl Seat {
    fn is_left_alone(&self, now_us: u64) -> bool {
        self.left_alone.is_some_and(|(until, _)| now_us < until)
    }
}

impl Line {
    fn new(target: Arc<RevisionTarget>) -> Self {
        Self {
            target,
            integrator: Integrator::default(),
            version: (0, 0),
            places: Vec::new(),
            waiters: VecDeque::new(),
            next_edge: 1,
            reported_zero: false,
            demand_was_raised: false,
        }
    }

    /// Least in flight among those with a free place.
    fn pick(&mut self, now_us: u64) -> Option<Endpoint> {
        let free = |seat: &&mut Seat| {
            let limit = seat.endpoint.container_concurrency;
            (limit == 0 || seat.in_flight < limit) && !seat.is_left_alone(now_us)
        };
        let seat = self
            .places
            .iter_mut()
            .filter(free)
            .min_by_key(|s| s.in_flight)?;
        seat.in_flight += 1;
        Some(seat.endpoint.clone())
    }

    /// Requests to wake, as many as there are free places.
    fn woken_for_free_places(&mut self) -> Vec<usize> {
        let free: usize = self
            .places
            .iter()
            .map(|seat| match seat.endpoint.container_concurrency {
                0 => usize::MAX / 1024,
                limit => limit.saturating_sub(seat.in_flight) as usize,
            })
            .sum();
        let n = free.min(self.waiters.len());
        self.waiters.drain(..n).collect()
    }

    /// Whether any instance takes requests, if only when it is their turn.
    fn has_service(&self, now_us: u64) -> bool {
        self.places.iter().any(|seat| match seat.left_alone {
            Some((until, Trouble::Gone | Trouble::Unreached)) => until <= now_us,
            Some((_, Trouble::Busy)) | None => true,
        })
    }

    /// Waiting with nothing to serve them.
    pub(crate) fn is_starved(&self, now_us: u64) -> bool {
        !self.waiters.is_empty() && !self.has_service(now_us)
    }

    pub(crate) fn n_held(&self) -> u32 {
        self.places.iter().map(|seat| seat.in_flight).sum()
    }
}

impl World {
    /// `Plane::line`.
    fn line_of(&mut self, n: usize, target: &Arc<RevisionTarget>) {
        let gateway = &mut self.nodes[n].gateway;
        let key = &target.revision;
        if gateway
            .lines
            .get(key)
            .is_some_and(|line| line.target.uid == target.uid)
        {
            return;
        }
        // None yet, or the revision was deleted and made anew: other instances, another line.
        let old = gateway.lines.insert(key.clone(), Line::new(target.clone()));
        let known = gateway.endpoints.get(key).cloned();
        for request in old.into_iter().flat_map(|line| line.waiters) {
            // They keep their place in the old line, which nobody feeds any more.
            self.requests[request].place = Place::Orphaned;
        }
        if let Some(table) = known.filter(|table| table.revision_uid == target.uid) {
            self.update_line(n, table);
        }
    }

    /// A client's request comes in (`Plane::dispatch`).
    pub(crate) fn request_arrives(&mut self, n: usize, request: usize) {
        if !self.nodes[n].gateway.is_open {
            return self.end_request(request, Outcome::NotAccepted);
        }
        let host = self.requests[request].host.clone();
        let position = self.random.below(100);
        let table = &self.nodes[n].control.table;
        let target = table.hosts.get(host.as_str()).and_then(|entry| {
            let mut upto = 0;
            let share = entry.split.iter().find(|share| {
                upto += u64::from(share.percent);
                position < upto
            });
            share.map(|share| share.target.clone())
        });
        let Some(target) = target else {
            return self.end_request(request, Outcome::UnknownHost);
        };
        self.line_of(n, &target);
        let deadline_us = target.timeout_ms * MS;
        let now_us = self.now_us;
        if let Some(line) = self.nodes[n].gateway.lines.get_mut(&target.revision) {
            line.integrator.started(now_us);
        }
        let exchange = &mut self.requests[request];
        exchange.target = Some(target);
        self.at_node(n, deadline_us, Event::RequestDeadline { request });
        self.take_place(n, request, true);
    }

    /// `Line::take`: a place at an instance, or one in the line.
    pub(crate) fn take_place(&mut self, n: usize, request: usize, first_try: bool) {
        let now_us = self.now_us;
        let Some(key) = self.requests[request].revision() else {
            return;
        };
        let loses = self.plant == Some(Plant::WaiterLost) && !first_try;
        let Some(line) = self.own_line(n, request, &key) else {
            self.requests[request].place = Place::Orphaned;
            return;
        };
        if let Some(endpoint) = line.pick(now_us) {
            return self.send_request(n, request, endpoint);
        }
        if first_try && line.waiters.len() >= MAX_WAITING {
            return self.end_request(request, Outcome::QueueFull);
        }
        match first_try {
            true => line.waiters.push_back(request),
            // Who was woken in vain goes back to the head.
            false if !loses => line.waiters.push_front(request),
            false => {}
        }
        self.requests[request].place = Place::Waiting;
        self.raise_demand(n, &key, false);
    }

    /// The line that the request was counted in, unless it was replaced.
    pub(crate) fn own_line(
        &mut self,
        n: usize,
        request: usize,
        key: &ObjectKey,
    ) -> Option<&mut Line> {
        let uid = self.requests[request].target.as_ref()?.uid.clone();
        let line = self.nodes[n].gateway.lines.get_mut(key)?;
        (line.target.uid == uid).then_some(line)
    }

    fn wake(&mut self, n: usize, requests: Vec<usize>) {
        for request in requests {
            self.requests[request].place = Place::Woken;
            let delay = self.random.between(1, 50);
            self.at_node(n, delay, Event::Woken { request });
        }
    }

    pub(crate) fn woken(&mut self, n: usize, request: usize) {
        if self.requests[request].place == Place::Woken {
            self.take_place(n, request, false);
        } else if let Some(key) = self.requests[request].revision() {
            // Woken, but gone before it could use the place: the wake-up is passed on.
            self.wake_one(n, &key);
        }
    }

    pub(crate) fn wake_one(&mut self, n: usize, key: &ObjectKey) {
        let line = self.nodes[n].gateway.lines.get_mut(key);
        if let Some(request) = line.and_then(|line| line.waiters.pop_front()) {
            self.wake(n, vec![request]);
        }
    }

    /// `Gateway::update_endpoints`.
    pub(crate) fn update_endpoints(&mut self, n: usize, table: EndpointTable) {
        let gateway = &mut self.nodes[n].gateway;
        let version = |table: &EndpointTable| (table.epoch, table.seq);
        let is_old = gateway
            .endpoints
            .get(&table.revision)
            .is_some_and(|old| version(old) >= version(&table));
        if is_old && self.plant != Some(Plant::StaleEndpoints) {
            return;
        }
        let address = self.address(n);
        let verdict = self.checks.endpoints.taken(address, &table);
        self.judge("endpoint order", verdict);
        let gateway = &mut self.nodes[n].gateway;
        gateway
            .endpoints
            .insert(table.revision.clone(), table.clone());
        let of_line = gateway.lines.get(&table.revision);
        if of_line.is_some_and(|line| line.target.uid == table.revision_uid) {
            self.update_line(n, table);
        }
    }

    /// `Line::update`.
    fn update_line(&mut self, n: usize, table: EndpointTable) {
        let takes_all = self.plant == Some(Plant::StaleEndpoints);
        let drops = self.plant == Some(Plant::ResizeDrops);
        let Some(line) = self.nodes[n].gateway.lines.get_mut(&table.revision) else {
            return;
        };
        let version = (table.epoch.0, table.seq);
        if version <= line.version && !takes_all {
            return;
        }
        line.version = version;
        let old = std::mem::take(&mut line.places);
        for endpoint in table.instances {
            let same = old.iter().find(|seat| seat.endpoint.id == endpoint.id);
            line.places.push(Seat {
                in_flight: same.map_or(0, |seat| seat.in_flight),
                endpoint,
                left_alone: None,
            });
        }
        let woken = line.woken_for_free_places();
        if drops {
            line.waiters.clear();
        }
        self.wake(n, woken);
    }

    /// `Gateway::session_down`: its endpoints end, its streams are reset.
    pub(crate) fn gateway_session_down(&mut self, n: usize, session: SessionId) {
        self.gateway_session_left(n, session);
        let now_us = self.now_us;
        self.nodes[n].gateway.ended.insert(session, now_us);
        if self.plant == Some(Plant::StreamsHang) {
            return;
        }
        let own = self.nodes[n].id;
        let address = self.address(n);
        let hit: Vec<_> = self
            .open_requests
            .iter()
            .copied()
            .filter(|request| {
                let exchange = &self.requests[*request];
                exchange.gateway == address
                    && matches!(&exchange.place, Place::Exchange(endpoint)
                        if endpoint.session == session && endpoint.node != own)
            })
            .collect();
        for request in hit {
            self.abort_exchange(n, request);
            match self.requests[request].is_reserving {
                true => self.unsent(n, request),
                false => self.exchange_lost(n, request, Trouble::Unreached),
            }
        }
    }

    /// `Gateway::session_left`: nothing new goes there, what is under way is answered.
    pub(crate) fn gateway_session_left(&mut self, n: usize, session: SessionId) {
        let gateway = &mut self.nodes[n].gateway;
        for table in gateway.endpoints.values_mut() {
            table
                .instances
                .retain(|endpoint| endpoint.session != session);
        }
        for line in gateway.lines.values_mut() {
            line.places.retain(|seat| seat.endpoint.session != session);
        }
    }

    // Demand (`Line::raise_demand`, `repeat_demand`).

    fn raise_demand(&mut self, n: usize, key: &ObjectKey, repeat: bool) {
        let once = self.plant == Some(Plant::DemandOnce);
        let now_us = self.now_us;
        let Some(line) = self.nodes[n].gateway.lines.get_mut(key) else {
            return;
        };
        let n_waiting = line.waiters.len();
        let is_edge = n_waiting >= line.next_edge || (n_waiting == 1 && !line.has_service(now_us));
        if n_waiting == 0 || !(is_edge || repeat) || (once && line.demand_was_raised) {
            return;
        }
        line.next_edge = (n_waiting * 2).max(2);
        line.demand_was_raised = true;
        let oldest = line
            .waiters
            .front()
            .map_or(now_us, |request| self.requests[*request].arrived_us);
        let demand = Demand {
            gateway: SessionId(0),
            revision: line.target.revision.clone(),
            shard: line.target.shard,
            n_waiting: n_waiting as u64,
            in_flight: line.integrator.in_flight(),
            oldest_age_ms: (now_us - oldest) / MS,
        };
        self.forward_demand(n, demand);
    }

    pub(crate) fn resend_demand(&mut self, n: usize) {
        let keys: Vec<_> = self.nodes[n].gateway.lines.keys().cloned().collect();
        for key in keys {
            self.raise_demand(n, &key, true);
        }
    }

    pub(crate) fn demand_tick(&mut self, n: usize) {
        self.at_node(n, DEMAND_PERIOD_US, Event::DemandTick);
        let now_us = self.now_us;
        let starved = self.nodes[n].gateway.lines.iter();
        let starved: Vec<_> = starved
            .filter(|(_, line)| line.is_starved(now_us))
            .map(|(key, _)| key.clone())
            .collect();
        for key in starved {
            self.raise_demand(n, &key, true);
        }
    }

    pub(crate) fn pause_over(&mut self, n: usize, key: &ObjectKey) {
        let line = self.nodes[n].gateway.lines.get_mut(key);
        let woken = line.map(Line::woken_for_free_places).unwrap_or_default();
        self.wake(n, woken);
    }
}
