//! The second phase: faults end, and the world must come to rest, serve cold, and rest again.

use std::collections::BTreeMap;

use nihilo_types::id::ObjectKey;

use super::World;
use super::event::Event;
use super::exchange::PLACE_TTL_US;
use super::plan::{Faults, MS, SECOND};
use super::requests::Outcome;
use crate::invariants::Verdict;

const LOOK_EVERY_US: u64 = 500 * MS;
/// A boot that never ends is given up after 60 s, a revision that failed often waits as long again,
/// the windows and the way to zero take some more.
const SETTLE_LIMIT_US: u64 = 240 * SECOND;
const COLD_REQUESTS_PER_SERVICE: usize = 2;
/// A cold request may meet a revision that waits after failures in a row, a minute at most.
const MAX_COLD_TRIES: u32 = 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Chaos,
    /// Faults are over; what was begun must come to an end.
    Settling {
        until_us: u64,
    },
    /// Cold requests, all of which must be answered.
    Serving {
        until_us: u64,
        first_request: usize,
        n_tries: u32,
    },
    Over,
}

impl World {
    pub(crate) fn is_settling(&self) -> bool {
        self.phase != Phase::Chaos
    }

    pub(crate) fn inspect(&mut self) {
        let verdict = self.places_are_one();
        self.judge("one place", verdict);
        let verdict = self.nothing_hangs();
        self.judge("nothing hangs", verdict);
        let verdict = self.places_expire();
        self.judge("places expire", verdict);
        if matches!(self.phase, Phase::Serving { .. }) {
            let verdict = self.demand_is_repeated();
            self.judge("demand is repeated", verdict);
        }
        match self.phase {
            Phase::Chaos if self.now_us >= self.plan.chaos_us => self.heal(),
            Phase::Chaos | Phase::Over => {}
            Phase::Settling { until_us } => match self.unrest() {
                None => self.serve_cold(1),
                Some(why) => {
                    self.deploy_failed_again();
                    self.must_end_by(until_us, &why);
                }
            },
            Phase::Serving {
                until_us,
                first_request,
                n_tries,
            } => match self.unrest() {
                None => self.finish(first_request, n_tries),
                Some(why) => self.must_end_by(until_us, &why),
            },
        }
        if self.phase != Phase::Over {
            self.in_world(LOOK_EVERY_US, Event::Inspect);
        }
    }

    fn must_end_by(&mut self, until_us: u64, why: &str) {
        if self.now_us >= until_us {
            self.judge("convergence", Err(why.to_owned()));
        }
    }

    fn heal(&mut self) {
        self.trace
            .add(self.now_us, &[11], || "faults are over".into());
        self.plan.faults = Faults::NONE;
        self.net = super::net::Net::default();
        self.workload.is_over = true;
        for n in 0..self.nodes.len() {
            self.nodes[n].extra_lag_us = 0;
            self.start_node(n);
            for instance in self.nodes[n].agent.instances.values_mut() {
                instance.cure();
            }
        }
        self.phase = Phase::Settling {
            until_us: self.now_us + SETTLE_LIMIT_US,
        };
    }

    /// A revision that failed for good in the chaos stays failed: its admin deploys once more.
    fn deploy_failed_again(&mut self) {
        let Some(n) = self.newest_state() else { return };
        for service in 0..self.plan.n_services {
            let name = self.workload.services[service].as_str();
            let key = ObjectKey::new("default", name);
            let stored = self.nodes[n].replica.state.service(&key);
            let failed = stored.is_some_and(|stored| {
                let says = stored.status.conditions.get("ConfigurationsReady");
                says.is_some_and(|condition| condition.reason == "RevisionFailed")
            });
            if failed && self.workload.redeployed.insert(service) {
                self.put_service(service, true);
            }
        }
    }

    fn serve_cold(&mut self, n_tries: u32) {
        self.trace
            .add(self.now_us, &[12], || "at rest; cold requests".into());
        let first_request = self.requests.len();
        let Some(n) = self.newest_state() else { return };
        for service in 0..self.plan.n_services {
            let name = self.workload.services[service].as_str();
            let key = ObjectKey::new("default", name);
            if self.nodes[n].replica.state.service(&key).is_none() {
                continue;
            }
            for _ in 0..COLD_REQUESTS_PER_SERVICE {
                let after = self.random.below(100 * MS);
                self.send_client_request(service, after);
            }
        }
        self.phase = Phase::Serving {
            until_us: self.now_us + SETTLE_LIMIT_US,
            first_request,
            n_tries,
        };
    }

    fn finish(&mut self, first_request: usize, n_tries: u32) {
        let failed: Vec<_> = self.requests[first_request..]
            .iter()
            .enumerate()
            .filter(|(_, request)| request.outcome != Some(Outcome::Ok))
            .map(|(i, request)| (first_request + i, request.outcome))
            .collect();
        if !failed.is_empty() && n_tries < MAX_COLD_TRIES {
            return self.serve_cold(n_tries + 1);
        }
        let verdict = match failed.is_empty() {
            true => Ok(()),
            false => Err(format!("after the heal: {failed:?}")),
        };
        self.judge("cold requests", verdict);
        self.phase = Phase::Over;
    }

    /// No exchange outlives the end of its instance's session: its node may be gone for good (P8).
    fn nothing_hangs(&self) -> Verdict {
        for request in &self.open_requests {
            let exchange = &self.requests[*request];
            let super::requests::Place::Exchange(endpoint) = &exchange.place else {
                continue;
            };
            let home = &self.nodes[exchange.gateway.0];
            let ended = home.gateway.ended.get(&endpoint.session);
            let outlives = ended.is_some_and(|at| exchange.sent_us < *at);
            if outlives && endpoint.node != home.id && home.life == exchange.gateway.1 {
                let session = endpoint.session;
                return Err(format!(
                    "request {request} waits on ended session {session}"
                ));
            }
        }
        Ok(())
    }

    /// A place that nobody uses is free again in time: an instance that drains waits for it.
    fn places_expire(&self) -> Verdict {
        // A node that is paused looks at nothing.
        for node in self.nodes.iter().filter(|node| node.runs(self.now_us)) {
            for (id, instance) in &node.agent.instances {
                let oldest = instance.held.values().min();
                let until_us = oldest.map(|since| since + PLACE_TTL_US + LOOK_EVERY_US);
                if until_us.is_some_and(|until| until < self.now_us) {
                    return Err(format!("{id} holds a place since {oldest:?}"));
                }
            }
        }
        Ok(())
    }

    fn demand_is_repeated(&self) -> Verdict {
        for (n, node) in self.nodes.iter().enumerate() {
            let lines = node.gateway.lines.iter();
            for (key, line) in lines.filter(|(_, line)| line.is_starved(self.now_us)) {
                let oldest = line
                    .waiters
                    .iter()
                    .map(|w| self.requests[*w].arrived_us)
                    .min();
                let since_us = oldest.unwrap_or(self.now_us);
                let now_us = self.now_us;
                self.checks.demand.is_repeated(key, n, since_us, now_us)?;
            }
        }
        Ok(())
    }

    /// Each waiting request stands in exactly one line, once.
    fn places_are_one(&self) -> Verdict {
        let mut n_standing: BTreeMap<usize, u32> = BTreeMap::new();
        for node in &self.nodes {
            for line in node.gateway.lines.values() {
                for request in &line.waiters {
                    *n_standing.entry(*request).or_insert(0) += 1;
                }
            }
        }
        for request in &self.open_requests {
            let waits = self.requests[*request].place == super::requests::Place::Waiting;
            let n = n_standing.remove(request).unwrap_or(0);
            if n != u32::from(waits) {
                return Err(format!(
                    "request {request} stands {n} times in lines, waits: {waits}"
                ));
            }
        }
        match n_standing.keys().next() {
            None => Ok(()),
            Some(request) => Err(format!(
                "request {request} has ended and still stands in a line"
            )),
        }
    }
}
