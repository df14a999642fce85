//! Admins who write Services and clients who send requests.

use std::collections::{BTreeMap, BTreeSet};

use nihilo_machine::command::{DeleteService, Expect, InitCluster, PutService, RequestKey, Uids};
use nihilo_machine::{Command, Outcome as Applied, Rejection};
use nihilo_types::id::ObjectKey;
use nihilo_types::meta::{ObjectMeta, keys};
use nihilo_types::route::TrafficTarget;
use nihilo_types::service::{Service, ServiceSpec};
use nihilo_types::template::{Container, EnvVar, RevisionSpec, RevisionTemplate, TemplateMeta};

use super::World;
use super::event::Event;
use super::plan::{MS, SECOND};
use super::raft::Answer;
use super::requests::{Place, Request};
use super::session::Origin;

const WRITE_LIMIT_US: u64 = 5 * SECOND;
const RETRY_US: u64 = 200 * MS;
/// Attempts of one write, all under one request id.
const MAX_TRIES: u32 = 20;
const NAMESPACE: &str = "default";

/// One admin write with its idempotency key.
#[derive(Debug, Clone)]
pub(crate) struct Write {
    command: Command,
    key: RequestKey,
    n_tries: u32,
}

/// What the world knows of its Services.
#[derive(Debug, Default)]
pub(crate) struct Workload {
    pub(crate) services: Vec<String>,
    exists: BTreeSet<usize>,
    /// Services whose revision failed for good, deployed once more after the heal.
    pub(crate) redeployed: BTreeSet<usize>,
    writes: Vec<Write>,
    n_generations: u64,
    /// Arrivals are over.
    pub(crate) is_over: bool,
}

impl World {
    pub(crate) fn begin_workload(&mut self) {
        let names = (0..self.plan.n_services).map(|i| format!("service-{i}"));
        self.workload.services = names.collect();
        self.write(Command::InitCluster(InitCluster {
            cluster_id: "world".into(),
            name: "world".into(),
            domain: "localhost".into(),
            external_port: 80,
            autoscaler: std::collections::BTreeMap::new(),
        }));
        for service in 0..self.plan.n_services {
            self.put_service(service, true);
            let after = self.random.between(500 * MS, 3 * SECOND);
            self.in_world(after, Event::NextArrivals { service });
        }
        let after = self.random.between(3 * SECOND, 8 * SECOND);
        self.in_world(after, Event::NextWrite);
    }

    // Writes.

    fn write(&mut self, command: Command) {
        let number = self.workload.writes.len();
        let id = format!("write-{number}");
        let asked = number.to_be_bytes();
        let key = RequestKey::new(&id, "world", &asked);
        self.workload.writes.push(Write {
            command,
            key,
            n_tries: 0,
        });
        self.try_write(number);
    }

    fn try_write(&mut self, number: usize) {
        let write = &mut self.workload.writes[number];
        write.n_tries += 1;
        if write.n_tries > MAX_TRIES {
            return;
        }
        let (command, key) = (write.command.clone(), write.key.clone());
        let up: Vec<usize> = (0..self.nodes.len())
            .filter(|n| self.nodes[*n].up)
            .collect();
        if up.is_empty() {
            return self.in_world(RETRY_US, Event::RetryWrite { number });
        }
        let n = up[self.random.index(up.len())];
        self.propose(n, command, key, WRITE_LIMIT_US, Origin::Write(number));
        // A node that dies with the proposal answers nobody.
        self.in_world(WRITE_LIMIT_US + RETRY_US, Event::RetryWrite { number });
    }

    pub(crate) fn retry_write(&mut self, number: usize) {
        if self.workload.writes[number].n_tries < MAX_TRIES {
            self.try_write(number);
        }
    }

    pub(crate) fn write_answered(&mut self, _n: usize, number: usize, answer: Answer) {
        match answer {
            Answer::Reply(reply) => {
                self.workload.writes[number].n_tries = MAX_TRIES;
                self.counters.n_writes += 1;
                if let Ok(Applied::Service { .. }) = &reply.result {
                    self.counters.n_service_writes += 1;
                }
                let verdict = match reply.result {
                    Err(Rejection::Invalid(text)) => Err(text),
                    _ => Ok(()),
                };
                self.judge("workload is valid", verdict);
            }
            Answer::NotApplied | Answer::MaybeApplied => {}
        }
    }

    /// A change now and then: a new revision, another split, a delete, a Service made anew.
    pub(crate) fn next_write(&mut self) {
        if self.workload.is_over || !self.plan.faults.churn {
            return;
        }
        let after = self.random.between(SECOND, 8 * SECOND);
        self.in_world(after, Event::NextWrite);
        let service = self.random.index(self.plan.n_services);
        let exists = self.workload.exists.contains(&service);
        match self.random.below(10) {
            0 if exists => {
                self.workload.exists.remove(&service);
                let key = ObjectKey::new(NAMESPACE, self.workload.services[service].as_str());
                let expect = Expect::Any;
                self.write(Command::DeleteService(DeleteService { key, expect }));
            }
            1..=3 if exists => self.put_service(service, false),
            _ => self.put_service(service, true),
        }
    }

    /// Puts the Service with a new template, or with another traffic split.
    pub(crate) fn put_service(&mut self, service: usize, new_template: bool) {
        let name = self.workload.services[service].clone();
        let key = ObjectKey::new(NAMESPACE, name.as_str());
        let stored = self.newest_state().and_then(|n| {
            let state = &self.nodes[n].replica.state;
            state.service(&key).map(|stored| stored.spec.clone())
        });
        self.workload.n_generations += 1;
        let spec = match stored {
            Some(stored) if !new_template => ServiceSpec {
                traffic: self.draw_split(&key),
                template: stored.template,
            },
            _ => ServiceSpec {
                template: self.draw_template(),
                traffic: Vec::new(),
            },
        };
        self.workload.exists.insert(service);
        let number = self.workload.n_generations;
        let uid = |kind: &str| format!("{kind}-{number}");
        self.write(Command::PutService(Box::new(PutService {
            service: Service {
                metadata: ObjectMeta {
                    name,
                    namespace: NAMESPACE.into(),
                    ..ObjectMeta::default()
                },
                spec,
                ..Service::default()
            },
            expect: Expect::Any,
            uids: Uids {
                service: uid("service"),
                configuration: uid("configuration"),
                route: uid("route"),
                revision: uid("revision"),
            },
            user: "world".into(),
        })));
    }

    /// Some node that runs, for reading.
    pub(crate) fn newest_state(&self) -> Option<usize> {
        let up = (0..self.nodes.len()).filter(|n| self.nodes[*n].up);
        up.max_by_key(|n| self.nodes[*n].replica.applied)
    }

    fn draw_split(&mut self, service: &ObjectKey) -> Vec<TrafficTarget> {
        let Some(n) = self.newest_state() else {
            return Vec::new();
        };
        let state = &self.nodes[n].replica.state;
        let names: Vec<String> = state
            .revisions_of(service)
            .filter(|revision| revision.status.conditions.is_true("Ready"))
            .map(|revision| revision.metadata.name.clone())
            .collect();
        if names.is_empty() || self.random.chance(300) {
            return Vec::new();
        }
        let old = names[self.random.index(names.len())].clone();
        let percent = u32::try_from(self.random.between(1, 99)).unwrap_or(50);
        vec![
            TrafficTarget::revision(&old, percent),
            TrafficTarget::latest(100 - percent),
        ]
    }

    fn draw_template(&mut self) -> RevisionTemplate {
        let random = &mut self.random;
        let max = match random.below(4) {
            0 => 1,
            1 => 2,
            2 => random.between(3, 10),
            _ => 0,
        };
        let min = u64::from(random.chance(150)).min(if max == 0 { 1 } else { max });
        let limit = [0, 0, 1, 2, 10][random.index(5)];
        let mut annotations = BTreeMap::new();
        let mut set = |key: &str, value: u64| {
            let key = format!("autoscaling.knative.dev/{key}");
            annotations.insert(key, value.to_string());
        };
        if max > 0 {
            set("max-scale", max);
        }
        if min > 0 {
            set("min-scale", min);
        }
        if random.chance(200) {
            set("activation-scale", 2);
        }
        if random.chance(200) && (max == 0 || max >= 2) {
            set("initial-scale", 2);
        }
        if self.plan.idles_frozen && random.chance(700) {
            annotations.insert(keys::IDLE.into(), keys::IDLE_FREEZE.into());
        }
        // The shortest there is: a revision that never starts is given up within the run.
        annotations.insert(keys::PROGRESS_DEADLINE.into(), "10s".into());
        let timeout = u32::try_from(random.between(3, 12)).unwrap_or(3);
        RevisionTemplate {
            metadata: TemplateMeta {
                annotations,
                ..TemplateMeta::default()
            },
            spec: RevisionSpec {
                container_concurrency: Some(limit),
                timeout_seconds: Some(timeout),
                containers: vec![Container {
                    image: "demo/hello".into(),
                    env: vec![EnvVar {
                        name: "GENERATION".into(),
                        value: self.workload.n_generations.to_string(),
                        ..EnvVar::default()
                    }],
                    ..Container::default()
                }],
                ..RevisionSpec::default()
            },
        }
    }

    // Requests.

    /// A few requests at once, then a pause: short inside a burst, long between two.
    pub(crate) fn next_arrivals(&mut self, service: usize) {
        if self.workload.is_over {
            return;
        }
        for _ in 0..self.random.skewed(1, 12) {
            let spread = self.random.below(20 * MS);
            self.send_client_request(service, spread);
        }
        let pause = match self.random.chance(950) {
            true => self.random.skewed(5 * MS, 1_500 * MS),
            false => self.random.between(3 * SECOND, 14 * SECOND),
        };
        self.in_world(pause, Event::NextArrivals { service });
    }

    pub(crate) fn send_client_request(&mut self, service: usize, after_us: u64) -> usize {
        let n = self.random.index(self.nodes.len());
        let duration_us = match self.random.chance(950) {
            true => self.random.skewed(MS, 400 * MS),
            false => self.random.between(SECOND, 5 * SECOND),
        };
        let is_post = self.random.chance(400);
        let has_body = is_post && self.random.chance(750);
        let request = Request {
            host: format!("{}.{NAMESPACE}.localhost", self.workload.services[service]),
            gateway: self.address(n),
            is_post,
            has_body,
            arrived_us: self.now_us + after_us,
            duration_us,
            target: None,
            place: Place::Between,
            attempt: 0,
            sent_us: 0,
            n_lost: 0,
            unsent_since_us: None,
            is_reserving: false,
            n_executions: 0,
            n_finished: 0,
            outcome: None,
        };
        let number = self.requests.len();
        self.requests.push(request);
        self.open_requests.insert(number);
        if self.nodes[n].up {
            self.at_node(n, after_us, Event::Arrives { request: number });
        } else {
            self.end_request(number, super::requests::Outcome::NotAccepted);
        }
        number
    }
}
