//! One exchange of a gateway with an instance, on this node or over the mesh, and how it ends.
//! Mirrors the sending half of `gateway/proxy.rs`, and `gateway/upstream.rs`.

use std::collections::{BTreeMap, BTreeSet};

use nihilo_types::endpoint::Endpoint;
use nihilo_types::id::{InstanceId, NodeId, ObjectKey};

use super::World;
use super::event::{Address, Event};
use super::gateway::{Mesh, MeshAnswer, MeshWants, Refusal, Seat, Trouble};
use super::plan::{MS, SECOND};
use super::plant::Plant;
use super::requests::{Outcome, Place};
use crate::invariants::Verdict;

const BUSY_PAUSE_US: u64 = 5 * MS;
const UNREACHED_PAUSE_US: u64 = 250 * MS;
const GONE_PAUSE_US: u64 = 250 * MS;
const MAX_ATTEMPTS: u32 = 3;
const UNSENT_LIMIT_US: u64 = 60 * SECOND;
/// `gateway/reservations.rs`: a place that is not used is free again after this.
pub(crate) const PLACE_TTL_US: u64 = SECOND;
/// A mesh dial that nobody answers.
const MESH_CONNECT_US: u64 = SECOND;

impl World {
    pub(crate) fn send_request(&mut self, n: usize, request: usize, endpoint: Endpoint) {
        let exchange = &mut self.requests[request];
        exchange.attempt += 1;
        exchange.sent_us = self.now_us;
        exchange.is_reserving = false;
        exchange.place = Place::Exchange(endpoint.clone());
        let attempt = exchange.attempt;
        if endpoint.node == self.nodes[n].id {
            let from = self.address(n);
            let admitted = self.run_request(n, request, (attempt, from), &endpoint.id, None);
            if let Err(refusal) = admitted {
                self.refused(n, request, refusal);
            }
            return;
        }
        let Some(home) = self.node_of(endpoint.node) else {
            return;
        };
        let answered = |answer| Event::MeshAnswered {
            request,
            attempt,
            answer,
        };
        let is_lost = self.nodes[n].gateway.ended.contains_key(&endpoint.session);
        if is_lost {
            return self.at_node(n, 0, answered(MeshAnswer::Unsent));
        }
        let linked = self.net.is_linked(n, home);
        if !self.nodes[home].up && linked {
            return self.at_node(n, MS, answered(MeshAnswer::Unsent));
        }
        if !linked && self.random.chance(500) {
            return self.at_node(n, MESH_CONNECT_US, answered(MeshAnswer::Unsent));
        }
        let exchange = &mut self.requests[request];
        exchange.is_reserving = exchange.has_body;
        let wants = match exchange.has_body {
            true => MeshWants::Place,
            false => MeshWants::Answer,
        };
        self.send_mesh(n, home, request, wants);
    }

    /// What is lost here hangs, until the deadline or until the node is declared down.
    fn send_mesh(&mut self, n: usize, home: usize, request: usize, wants: MeshWants) {
        let exchange = &self.requests[request];
        let Place::Exchange(endpoint) = &exchange.place else {
            return;
        };
        let mesh = Mesh {
            request,
            attempt: exchange.attempt,
            instance: endpoint.id.clone(),
            from: self.address(n),
            wants,
        };
        let to = self.address(home);
        self.send(n, to, Event::Mesh(mesh));
    }

    pub(crate) fn node_of(&self, id: NodeId) -> Option<usize> {
        let index = usize::try_from(id.0 % 100).ok()?.checked_sub(1)?;
        (index < self.nodes.len()).then_some(index)
    }

    /// At the home node (`Plane::serve_mesh`).
    pub(crate) fn mesh_arrives(&mut self, n: usize, mesh: Mesh) {
        let (request, attempt, from) = (mesh.request, mesh.attempt, mesh.from);
        let answer = match mesh.wants {
            MeshWants::Place => self.hold_place(n, &mesh).map(Some),
            MeshWants::Answer => self
                .run_request(n, request, (attempt, from), &mesh.instance, None)
                .map(|()| None),
            MeshWants::AnswerAt(place) => self
                .run_request(n, request, (attempt, from), &mesh.instance, Some(place))
                .map(|()| None),
        };
        match answer {
            Ok(Some(place)) => {
                self.answer_gateway(n, from, request, attempt, MeshAnswer::Reserved(place));
            }
            Ok(None) => {}
            Err(refusal) => {
                self.answer_gateway(n, from, request, attempt, MeshAnswer::Refused(refusal));
            }
        }
    }

    /// `Reservations::hold`.
    fn hold_place(&mut self, n: usize, mesh: &Mesh) -> Result<u64, Refusal> {
        let place = (mesh.request as u64) << 16 | u64::from(mesh.attempt);
        let instance = self.nodes[n].agent.instances.get_mut(&mesh.instance);
        let instance = instance.ok_or(Refusal::Gone)?;
        instance.admit(true)?;
        instance.held.insert(place, self.now_us);
        if self.plant != Some(Plant::ReservationLeaks) {
            let instance = mesh.instance.clone();
            self.at_node(n, PLACE_TTL_US, Event::PlaceExpires { instance, place });
        }
        Ok(place)
    }

    pub(crate) fn place_expires(&mut self, n: usize, id: &InstanceId, place: u64) {
        let instance = self.nodes[n].agent.instances.get_mut(id);
        if instance.is_some_and(|instance| instance.held.remove(&place).is_some()) {
            self.look_soon(n, id);
        }
    }

    /// Admits a request at an instance of this node, and begins it.
    fn run_request(
        &mut self,
        n: usize,
        request: usize,
        (attempt, from): (u32, Address),
        id: &InstanceId,
        place: Option<u64>,
    ) -> Result<(), Refusal> {
        let now_us = self.now_us;
        let minds_limit = self.plant != Some(Plant::LimitIgnored);
        let instance = self.nodes[n].agent.instances.get_mut(id);
        let instance = instance.ok_or(Refusal::Gone)?;
        let is_held = place.is_some_and(|place| instance.held.remove(&place).is_some());
        if !is_held {
            instance.admit(minds_limit)?;
        }
        let verdict = crate::invariants::drain::admitted(id, instance.has_term);
        instance.running.insert(request, (attempt, from));
        let within = crate::invariants::limit::holds(id, instance.running.len(), instance.limit());
        let reached = crate::invariants::frozen::reached(id, instance.report.state);
        let hangs = instance.hangs(now_us);
        self.judge("drain", verdict);
        self.judge("instance limit", within);
        self.judge("frozen", reached);
        let exchange = &mut self.requests[request];
        exchange.n_executions += 1;
        let verdict = crate::invariants::ledger::executed(request, exchange);
        let duration = exchange.duration_us;
        self.judge("request ledger", verdict);
        if !hangs {
            let event = Event::RequestDone {
                request,
                attempt,
                instance: id.clone(),
            };
            self.at_node(n, duration, event);
        }
        Ok(())
    }

    /// The instance has answered.
    pub(crate) fn request_done(&mut self, n: usize, request: usize, attempt: u32, id: &InstanceId) {
        if let Some(from) = self.release(n, request, attempt, id) {
            self.requests[request].n_finished += 1;
            self.answer_gateway(n, from, request, attempt, MeshAnswer::Ok);
        }
    }

    /// Frees the place at the instance; `None` if it was freed before.
    fn release(
        &mut self,
        n: usize,
        request: usize,
        attempt: u32,
        id: &InstanceId,
    ) -> Option<Address> {
        let leaks = self.plant == Some(Plant::PlaceLeaks);
        let instance = self.nodes[n].agent.instances.get_mut(id)?;
        let (running, from) = *instance.running.get(&request)?;
        if running != attempt {
            return None;
        }
        if !leaks || !request.is_multiple_of(3) {
            instance.running.remove(&request);
        }
        if !instance.wants() && instance.n_taken() == 0 {
            self.look_soon(n, id);
        }
        Some(from)
    }

    /// An instance ended with these requests in it.
    pub(crate) fn requests_cut(&mut self, n: usize, cut: &BTreeMap<usize, (u32, Address)>) {
        for (request, (attempt, from)) in cut {
            self.answer_gateway(n, *from, *request, *attempt, MeshAnswer::InstanceEnded);
        }
    }

    fn answer_gateway(
        &mut self,
        n: usize,
        from: Address,
        request: usize,
        attempt: u32,
        answer: MeshAnswer,
    ) {
        let event = Event::MeshAnswered {
            request,
            attempt,
            answer,
        };
        self.send(n, from, event);
    }

    /// At the gateway that sent it.
    pub(crate) fn mesh_answered(
        &mut self,
        n: usize,
        request: usize,
        attempt: u32,
        answer: MeshAnswer,
    ) {
        let exchange = &self.requests[request];
        let current = exchange.attempt == attempt && exchange.gateway == self.address(n);
        if !current || !matches!(exchange.place, Place::Exchange(_)) {
            return;
        }
        match answer {
            MeshAnswer::Ok => {
                let request = self.addressee(n, request);
                self.end_request(request, Outcome::Ok);
            }
            MeshAnswer::Reserved(place) => {
                self.requests[request].is_reserving = false;
                if let Some(home) = self.home_of_exchange(request) {
                    self.send_mesh(n, home, request, MeshWants::AnswerAt(place));
                }
            }
            MeshAnswer::Lost if self.requests[request].is_reserving => self.unsent(n, request),
            MeshAnswer::InstanceEnded => self.exchange_lost(n, request, Trouble::Gone),
            MeshAnswer::Refused(refusal) => self.refused(n, request, refusal),
            MeshAnswer::Unsent => self.unsent(n, request),
            MeshAnswer::Lost => self.exchange_lost(n, request, Trouble::Unreached),
        }
    }

    fn home_of_exchange(&self, request: usize) -> Option<usize> {
        match &self.requests[request].place {
            Place::Exchange(endpoint) => self.node_of(endpoint.node),
            _ => None,
        }
    }

    /// Whom an answer goes to: the one who asked, but for the planted bug.
    fn addressee(&self, n: usize, request: usize) -> usize {
        if self.plant != Some(Plant::WrongWaiter) || !request.is_multiple_of(5) {
            return request;
        }
        let address = self.address(n);
        let is_other = |other: &usize| {
            let exchange = &self.requests[*other];
            *other != request
                && exchange.gateway == address
                && matches!(exchange.place, Place::Exchange(_))
        };
        let other = self.open_requests.iter().copied().find(is_other);
        other.unwrap_or(request)
    }

    fn refused(&mut self, n: usize, request: usize, refusal: Refusal) {
        self.counters.n_refused += 1;
        let exchange = &self.requests[request];
        let is_away = self.home_of_exchange(request) != Some(n);
        if is_away && exchange.has_body && !exchange.is_reserving {
            // Its place was given up meanwhile, and its body is on the way.
            return self.end_request(request, Outcome::BadGateway);
        }
        let trouble = match refusal {
            Refusal::Busy => Trouble::Busy,
            Refusal::Draining | Refusal::Gone => Trouble::Gone,
        };
        if self.avoid(n, request, trouble) {
            self.take_place(n, request, false);
        }
    }

    pub(crate) fn unsent(&mut self, n: usize, request: usize) {
        let now_us = self.now_us;
        if !self.avoid(n, request, Trouble::Unreached) {
            return;
        }
        let since = *self.requests[request].unsent_since_us.get_or_insert(now_us);
        if now_us >= since + UNSENT_LIMIT_US {
            return self.end_request(request, Outcome::BadGateway);
        }
        self.take_place(n, request, false);
    }

    /// Sent, and no answer will come.
    pub(crate) fn exchange_lost(&mut self, n: usize, request: usize, trouble: Trouble) {
        let retries_posts = self.plant == Some(Plant::PostRetried);
        let exchange = &mut self.requests[request];
        exchange.n_lost += 1;
        let may_repeat = !exchange.is_post || retries_posts;
        if !may_repeat || exchange.n_lost >= MAX_ATTEMPTS {
            return self.end_request(request, Outcome::BadGateway);
        }
        if self.avoid(n, request, trouble) {
            self.take_place(n, request, false);
        }
    }

    /// Gives the place back; others first for a while (`Line::avoid`). `false` = it had none.
    fn avoid(&mut self, n: usize, request: usize, trouble: Trouble) -> bool {
        let Some((key, endpoint)) = self.leave_place(n, request) else {
            return false;
        };
        let pause_us = match trouble {
            Trouble::Busy => BUSY_PAUSE_US,
            Trouble::Gone => GONE_PAUSE_US,
            Trouble::Unreached => UNREACHED_PAUSE_US,
        };
        let until_us = self.now_us + pause_us;
        if let Some(line) = self.nodes[n].gateway.lines.get_mut(&key) {
            for seat in &mut line.places {
                let is_concerned = match trouble {
                    Trouble::Unreached => seat.endpoint.session == endpoint.session,
                    Trouble::Busy | Trouble::Gone => seat.endpoint.id == endpoint.id,
                };
                if is_concerned {
                    seat.left_alone = Some((until_us, trouble));
                }
            }
        }
        self.at_node(n, pause_us, Event::PauseOver { revision: key });
        true
    }

    /// `Taken::drop`: the place is free again, and the next one is woken.
    fn leave_place(&mut self, n: usize, request: usize) -> Option<(ObjectKey, Endpoint)> {
        let place = std::mem::replace(&mut self.requests[request].place, Place::Between);
        let Place::Exchange(endpoint) = place else {
            self.requests[request].place = place;
            return None;
        };
        let key = self.requests[request].revision()?;
        let mut freed = false;
        if let Some(line) = self.own_line(n, request, &key) {
            let same = |seat: &&mut Seat| seat.endpoint.id == endpoint.id;
            if let Some(seat) = line.places.iter_mut().find(same) {
                seat.in_flight = seat.in_flight.saturating_sub(1);
                freed = true;
            }
        }
        if freed {
            self.wake_one(n, &key);
        }
        Some((key, endpoint))
    }

    /// Resets the stream: the home node gives the place back.
    pub(crate) fn abort_exchange(&mut self, n: usize, request: usize) {
        let exchange = &self.requests[request];
        let Place::Exchange(endpoint) = &exchange.place else {
            return;
        };
        let (attempt, instance) = (exchange.attempt, endpoint.id.clone());
        let Some(home) = self.node_of(endpoint.node) else {
            return;
        };
        let to = self.address(home);
        let event = Event::Abort {
            request,
            attempt,
            instance: instance.clone(),
        };
        if home == n {
            self.release(n, request, attempt, &instance);
        } else {
            self.reset_stream(n, to, event);
        }
    }

    /// A reset that a cut link holds up arrives when the connection is found dead, at the latest.
    fn reset_stream(&mut self, from: usize, to: Address, event: Event) {
        let dead_peer_us = 20 * SECOND;
        let delay = match self.net.is_cut(from, to.0) {
            true => dead_peer_us,
            false => self.delay(from, to.0),
        };
        self.agenda.add(self.now_us + delay, Some(to), event);
    }

    pub(crate) fn abort(&mut self, n: usize, request: usize, attempt: u32, id: &InstanceId) {
        self.release(n, request, attempt, id);
    }

    pub(crate) fn request_deadline(&mut self, n: usize, request: usize) {
        match self.requests[request].place {
            Place::Exchange(_) => self.abort_exchange(n, request),
            Place::Woken => {}
            Place::Waiting => {
                if let Some(key) = self.requests[request].revision()
                    && let Some(line) = self.own_line(n, request, &key)
                {
                    line.waiters.retain(|waiter| *waiter != request);
                }
            }
            Place::Done => return,
            Place::Between | Place::Orphaned => {}
        }
        self.end_request(request, Outcome::Timeout);
    }

    /// The one end of every request.
    pub(crate) fn end_request(&mut self, request: usize, outcome: Outcome) {
        let verdict = self.is_not_cut_at_work(request, outcome);
        self.judge("request ledger", verdict);
        let (n, life) = self.requests[request].gateway;
        let lives = self.nodes[n].up && self.nodes[n].life == life;
        if lives {
            self.leave_place(n, request);
            let now_us = self.now_us;
            if let Some(key) = self.requests[request].revision()
                && let Some(line) = self.own_line(n, request, &key)
            {
                line.integrator.ended(now_us);
            }
        }
        let exchange = &mut self.requests[request];
        exchange.place = Place::Done;
        let verdict = crate::invariants::ledger::ended(request, exchange, outcome);
        exchange.outcome = Some(outcome);
        self.open_requests.remove(&request);
        self.counters.count(outcome);
        let numbers = [9, request as u64, outcome as u64];
        self.trace.add(self.now_us, &numbers, || {
            format!("request {request}: {outcome:?}")
        });
        self.judge("request ledger", verdict);
    }

    /// A gateway gives no request up that a live instance is at work on, unless its node was
    /// declared down: a node that leaves in good order answers what it has begun (P8, P12).
    fn is_not_cut_at_work(&self, request: usize, outcome: Outcome) -> Verdict {
        let exchange = &self.requests[request];
        let (Outcome::BadGateway, Place::Exchange(endpoint)) = (outcome, &exchange.place) else {
            return Ok(());
        };
        let home = self.node_of(endpoint.node).map(|home| &self.nodes[home]);
        let instance = home.and_then(|home| home.agent.instances.get(&endpoint.id));
        let attempt = instance.and_then(|instance| instance.running.get(&request));
        let is_at_work = attempt.is_some_and(|(attempt, _)| *attempt == exchange.attempt);
        if !is_at_work || self.checks.sessions.was_declared_down(endpoint.session) {
            return Ok(());
        }
        let id = &endpoint.id;
        Err(format!(
            "request {request} is given up while {id} is at work on it"
        ))
    }

    /// The node is gone: its clients see a reset, requests it executed are lost to others.
    pub(crate) fn end_requests_at(&mut self, n: usize) {
        let own: BTreeSet<usize> = self
            .open_requests
            .iter()
            .copied()
            .filter(|request| self.requests[*request].gateway.0 == n)
            .collect();
        let mut lost = Vec::new();
        for instance in self.nodes[n].agent.instances.values_mut() {
            lost.extend(std::mem::take(&mut instance.running));
        }
        for request in &own {
            if !matches!(self.requests[*request].place, Place::Done) {
                self.abort_exchange(n, *request);
                self.end_request(*request, Outcome::Reset);
            }
        }
        for (request, (attempt, from)) in lost {
            if from.0 != n && self.net.is_linked(n, from.0) {
                self.answer_gateway(n, from, request, attempt, MeshAnswer::Lost);
            }
        }
    }
}
