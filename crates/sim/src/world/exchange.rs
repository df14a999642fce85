//! One exchange of a gateway with an instance, on this node or over the mesh, and how it ends.
//! Mirrors the sending half of `gateway/proxy.rs`, and `gateway/upstream.rs`.

use std::collections::{BTreeMap, BTreeSet};

use nihilo_types::endpoint::Endpoint;
use nihilo_types::id::{InstanceId, NodeId, ObjectKey};

use super::World;
use super::event::{Address, Event};
use super::gateway::{Mesh, MeshAnswer, Refusal, Seat};
use super::plan::{MS, SECOND};
use super::plant::Plant;
use super::requests::{Outcome, Place};

const BUSY_PAUSE_US: u64 = 5 * MS;
const UNREACHED_PAUSE_US: u64 = 250 * MS;
const MAX_ATTEMPTS: u32 = 3;
const MAX_UNSENT: u32 = 10;
/// A mesh dial that nobody answers.
const MESH_CONNECT_US: u64 = SECOND;

impl World {
    pub(crate) fn send_request(&mut self, n: usize, request: usize, endpoint: Endpoint) {
        let exchange = &mut self.requests[request];
        exchange.attempt += 1;
        exchange.sent_us = self.now_us;
        exchange.place = Place::Exchange(endpoint.clone());
        let attempt = exchange.attempt;
        if endpoint.node == self.nodes[n].id {
            let from = self.address(n);
            let admitted = self.run_request(n, request, attempt, &endpoint.id, from);
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
        let linked = self.net.is_linked(n, home);
        if !self.nodes[home].up && linked {
            return self.at_node(n, MS, answered(MeshAnswer::Unsent));
        }
        if !linked && self.random.chance(500) {
            return self.at_node(n, MESH_CONNECT_US, answered(MeshAnswer::Unsent));
        }
        let mesh = Mesh {
            request,
            attempt,
            instance: endpoint.id,
            from: self.address(n),
        };
        let to = self.address(home);
        // What is lost here hangs, until the deadline or until the node is declared down.
        self.send(n, to, Event::Mesh(mesh));
    }

    pub(crate) fn node_of(&self, id: NodeId) -> Option<usize> {
        let index = usize::try_from(id.0 % 100).ok()?.checked_sub(1)?;
        (index < self.nodes.len()).then_some(index)
    }

    /// At the home node (`Plane::serve_mesh`).
    pub(crate) fn mesh_arrives(&mut self, n: usize, mesh: Mesh) {
        let admitted = self.run_request(n, mesh.request, mesh.attempt, &mesh.instance, mesh.from);
        if let Err(refusal) = admitted {
            let answer = Event::MeshAnswered {
                request: mesh.request,
                attempt: mesh.attempt,
                answer: MeshAnswer::Refused(refusal),
            };
            self.send(n, mesh.from, answer);
        }
    }

    /// Admits a request at an instance of this node, and begins it.
    fn run_request(
        &mut self,
        n: usize,
        request: usize,
        attempt: u32,
        id: &InstanceId,
        from: Address,
    ) -> Result<(), Refusal> {
        let now_us = self.now_us;
        let instance = self.nodes[n].agent.instances.get_mut(id);
        let instance = instance.ok_or(Refusal::Gone)?;
        instance.admit()?;
        let verdict = crate::invariants::drain::admitted(id, instance.has_term);
        instance.running.insert(request, (attempt, from));
        let hangs = instance.hangs(now_us);
        self.judge("drain", verdict);
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
        if !instance.wants() && instance.running.is_empty() {
            self.look_soon(n, id);
        }
        Some(from)
    }

    /// An instance ended with these requests in it.
    pub(crate) fn requests_cut(&mut self, n: usize, cut: &BTreeMap<usize, (u32, Address)>) {
        for (request, (attempt, from)) in cut {
            let answer = match from.0 == n {
                true => MeshAnswer::Lost,
                false => MeshAnswer::BadGateway,
            };
            self.answer_gateway(n, *from, *request, *attempt, answer);
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
            MeshAnswer::Ok => self.end_request(request, Outcome::Ok),
            MeshAnswer::BadGateway => self.end_request(request, Outcome::BadGateway),
            MeshAnswer::Refused(refusal) => self.refused(n, request, refusal),
            MeshAnswer::Unsent => self.unsent(n, request),
            MeshAnswer::Lost => self.exchange_lost(n, request),
        }
    }

    /// `Line::avoid` with what the refusal says, then back to the line.
    fn refused(&mut self, n: usize, request: usize, refusal: Refusal) {
        self.counters.n_refused += 1;
        let Some((key, endpoint)) = self.leave_place(n, request) else {
            return;
        };
        let now_us = self.now_us;
        if let Some(line) = self.nodes[n].gateway.lines.get_mut(&key) {
            match refusal {
                Refusal::Busy => {
                    let same = |seat: &&mut Seat| seat.endpoint.id == endpoint.id;
                    if let Some(seat) = line.places.iter_mut().find(same) {
                        seat.cool_until_us = now_us + BUSY_PAUSE_US;
                    }
                    let revision = key.clone();
                    self.at_node(n, BUSY_PAUSE_US, Event::PauseOver { revision });
                }
                Refusal::Draining | Refusal::Gone => {
                    line.places.retain(|seat| seat.endpoint.id != endpoint.id);
                }
            }
        }
        self.take_place(n, request, false);
    }

    fn unsent(&mut self, n: usize, request: usize) {
        let Some((key, endpoint)) = self.leave_place(n, request) else {
            return;
        };
        let until = self.now_us + UNREACHED_PAUSE_US;
        if let Some(line) = self.nodes[n].gateway.lines.get_mut(&key) {
            for seat in &mut line.places {
                if seat.endpoint.session == endpoint.session {
                    seat.cool_until_us = until;
                }
            }
        }
        self.at_node(n, UNREACHED_PAUSE_US, Event::PauseOver { revision: key });
        let exchange = &mut self.requests[request];
        exchange.n_unsent += 1;
        if exchange.n_unsent >= MAX_UNSENT {
            return self.end_request(request, Outcome::BadGateway);
        }
        self.take_place(n, request, false);
    }

    /// Sent, and no answer will come.
    pub(crate) fn exchange_lost(&mut self, n: usize, request: usize) {
        let retries_posts = self.plant == Some(Plant::PostRetried);
        let exchange = &mut self.requests[request];
        exchange.n_lost += 1;
        let may_repeat = !exchange.is_post || retries_posts;
        if !may_repeat || exchange.n_lost >= MAX_ATTEMPTS {
            return self.end_request(request, Outcome::BadGateway);
        }
        if self.leave_place(n, request).is_some() {
            self.take_place(n, request, false);
        }
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
