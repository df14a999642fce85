//! The Revision actor: turns the number that is wanted into instances, and what happens to them
//! into conditions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nihilo_machine::command::{Fence, RecordRevision};
use nihilo_machine::member::Duty;
use nihilo_machine::{Command, State};
use nihilo_scale::config::RevisionScale;
use nihilo_types::autoscaler::DataPath;
use nihilo_types::condition::{Assertion, ConditionStatus, types};
use nihilo_types::endpoint::{Endpoint, EndpointTable};
use nihilo_types::id::{InstanceId, LogIndex, ObjectKey, SessionId};
use nihilo_types::instance::{DEFAULT_PORT, InstanceSpec, Limits, Probes, RunAs};
use nihilo_types::instance_config::{Holder, InstanceConfig};
use nihilo_types::isolation::Isolation;
use nihilo_types::meta::keys;
use nihilo_types::probe::Probe;
use nihilo_types::quantity::Quantity;
use nihilo_types::revision::Revision;
use nihilo_types::template::{Container, Resources};
use nihilo_types::time::parse_go_duration_ms;

use crate::effect::{Effect, Outputs, StopReason};
use crate::event::Event;
use crate::failures::{AVOID_MS, Failures};
use crate::placement::place;
use crate::plan::{Goal, Row, plan};
use crate::reconcile::Proposing;
use crate::rows::{
    is_counted, is_foreign, is_frozen, is_leaving, is_ready, is_staying, own_rows, waking,
};
use crate::table::{InstanceRow, RowState, View};

/// From SIGTERM to SIGKILL, unless `nihilo.dev/termination-grace-period` says otherwise.
const TERMINATION_GRACE_MS: u64 = 10_000;
/// Bound of one boot, unless the revision names a progress deadline; longer where its probes are
/// more patient, up to upstream's.
const BOOT_DEADLINE_MS: u64 = 60_000;
const MAX_BOOT_DEADLINE_MS: u64 = 600_000;
const BACKOFF: &str = "backoff";
/// Until gateways are told of a revision without instances, while agents are still to answer.
const PUSH_LATER_MS: u64 = 100;
const PUSH_LATER: &str = "push-later";

#[derive(Debug)]
pub struct RevisionActor {
    key: ObjectKey,
    /// The life that all of this is about; empty before the revision was seen.
    uid: Arc<str>,
    desired: u32,
    path: DataPath,
    /// Where requests wait.
    near: Option<SessionId>,
    proposing: Proposing,
    failures: Failures,
    /// The initial scale was ready once.
    was_reached: bool,
    pushed: Option<EndpointTable>,
}

impl RevisionActor {
    pub fn load(key: &ObjectKey, view: View<'_>) -> Self {
        let recorded = view.state.scale(key);
        let revision = view.state.revision(key);
        let revision = revision.as_deref();
        // Until the Autoscaler has spoken: what was wanted, or what is there and meant to stay.
        let n_staying = revision.map_or(0, |revision| {
            let staying = own_rows(view, key, revision).filter(|(_, row)| is_staying(row));
            u32::try_from(staying.count()).unwrap_or(u32::MAX)
        });
        let uid = revision.map_or("", |revision| revision.metadata.uid.as_str());
        Self {
            key: key.clone(),
            uid: uid.into(),
            desired: u32::try_from(recorded.desired).unwrap_or(0).max(n_staying),
            path: recorded.data_path,
            near: None,
            proposing: Proposing::default(),
            failures: Failures::default(),
            was_reached: recorded.initialized,
            pushed: None,
        }
    }

    pub fn turn(&mut self, view: View<'_>, event: &Event, now_ms: u64) -> Outputs {
        let mut outputs = Outputs::default();
        let Some(revision) = view.state.revision(&self.key) else {
            self.desired = 0;
            self.proposing.may_go_on(event, &mut outputs);
            self.stop_foreign(view, "", &mut outputs);
            self.push(view, None, &mut outputs);
            return outputs;
        };
        let revision = revision.as_ref();
        if *self.uid != *revision.metadata.uid {
            // The name was issued anew: nothing of its earlier life holds.
            *self = Self::load(&self.key, view);
        }
        if let Event::Desired { n, path, near } = event {
            (self.desired, self.path, self.near) = (*n, *path, *near);
        }
        let may_propose = self.proposing.may_go_on(event, &mut outputs);
        let rows: Vec<_> = own_rows(view, &self.key, revision).collect();
        self.failures.look(&rows, revision, now_ms);
        let n_ready = rows.iter().filter(|(_, row)| is_ready(row)).count();
        drop(rows);
        self.was_reached |= n_ready >= self.initial_scale(view, revision);
        self.stop_foreign(view, &revision.metadata.uid, &mut outputs);
        self.scale(view, revision, now_ms, &mut outputs);
        self.push(view, Some(revision), &mut outputs);
        if may_propose {
            self.record(view, revision, &mut outputs);
        }
        outputs
    }

    pub fn may_passivate(&self, view: View<'_>) -> bool {
        // A frozen one stays as it is until something is told.
        let mut rows = view.table.of(&self.key);
        let is_at_rest = rows.all(|(_, row)| !is_counted(row) || is_frozen(row));
        is_at_rest && self.desired == 0 && !self.proposing.is_under_way()
    }

    /// Ready instances that make the revision ready for the first time.
    fn initial_scale(&self, view: View<'_>, revision: &Revision) -> usize {
        let settings = self.scale_settings(view, revision);
        let initial = settings.min_scale.max(settings.initial_scale);
        usize::try_from(initial).unwrap_or(0)
    }

    fn scale_settings(&self, view: View<'_>, revision: &Revision) -> RevisionScale {
        let limit = revision.spec.concurrency_limit();
        RevisionScale::resolve(&revision.metadata.annotations, limit, &view.settings.scale)
    }

    /// Compares what counts with what is wanted, and orders the difference.
    fn scale(&mut self, view: View<'_>, revision: &Revision, now_ms: u64, outputs: &mut Outputs) {
        let key = self.key.clone();
        let rows: Vec<_> = own_rows(view, &key, revision).collect();
        let max_scale = self.scale_settings(view, revision).max_scale;
        let goal = Goal {
            wanted: self.desired as usize,
            cap: usize::try_from(max_scale).ok().filter(|cap| *cap > 0),
            is_complete: view.table.complete,
            freezes: revision.idles_frozen(),
        };
        let is_drained = |row: &InstanceRow| view.state.duty_of(row.node) == Duty::Drained;
        let has_place = || {
            let avoid = self.avoided(view, revision);
            self.place(view, &BTreeMap::new(), &avoid).is_some()
        };
        let plan = plan(goal, &rows, is_drained, has_place);
        for (row, reason) in plan.stops {
            self.stop(row, reason, outputs);
        }
        for (id, row) in plan.reopens {
            let (session, instance) = (row.session, id.clone());
            outputs.effect(Effect::Reopen { session, instance });
        }
        if let Some((id, row)) = plan.freeze {
            let (session, instance) = (row.session, id.clone());
            outputs.effect(Effect::Freeze { session, instance });
        }
        for (id, row) in plan.thaws {
            let (session, instance) = (row.session, id.clone());
            outputs.effect(Effect::Thaw { session, instance });
        }
        if plan.waits_for_place {
            outputs.timer(BACKOFF, AVOID_MS);
        }
        if plan.n_starts == 0 && plan.given_up.is_none() {
            return;
        }
        if let Some(pause_ms) = self.failures.pause_ms(now_ms) {
            return outputs.timer(BACKOFF, pause_ms);
        }
        if let Some(row) = plan.given_up {
            self.stop(row, StopReason::Drain, outputs);
        }
        self.start(view, revision, plan.n_starts, outputs);
    }

    fn stop(&mut self, (id, row): Row<'_>, reason: StopReason, outputs: &mut Outputs) {
        self.failures.ordered(id);
        outputs.effect(Effect::Stop {
            session: row.session,
            instance: id.clone(),
            reason,
        });
    }

    /// Nodes that get no start now.
    fn avoided(&self, view: View<'_>, revision: &Revision) -> BTreeSet<SessionId> {
        let mut avoid = self.failures.avoided();
        avoid.extend(&view.table.by_relay);
        let asked = own_rows(view, &self.key, revision)
            .filter(|(_, row)| row.state == RowState::Requested)
            .map(|(_, row)| row.session);
        avoid.extend(asked.filter(|session| self.failures.is_on_probation(*session)));
        avoid
    }

    fn start(&self, view: View<'_>, revision: &Revision, n: usize, outputs: &mut Outputs) {
        let mut avoid = self.avoided(view, revision);
        let mut planned = BTreeMap::new();
        for k in 0..n {
            let Some(session) = self.place(view, &planned, &avoid) else {
                // All full or refusing: look again when that may have changed.
                outputs.timer(BACKOFF, AVOID_MS);
                return;
            };
            *planned.entry(session).or_insert(0) += 1;
            if self.failures.is_on_probation(session) {
                avoid.insert(session);
            }
            let id = view.table.instance_id(&self.key, k as u64);
            let mut spec = Box::new(instance_spec(id, revision));
            spec.config.min_index = min_index(&spec.config, view.state, revision);
            outputs.effect(Effect::Start { session, spec });
        }
    }

    /// Elsewhere than where its image was missing, if anywhere.
    fn place(
        &self,
        view: View<'_>,
        planned: &BTreeMap<SessionId, u32>,
        avoid: &BTreeSet<SessionId>,
    ) -> Option<SessionId> {
        let mut first_avoid = avoid.clone();
        first_avoid.extend(self.failures.lacking());
        let first = place(view, &self.key, planned, &first_avoid, self.near);
        first.or_else(|| place(view, &self.key, planned, avoid, self.near))
    }

    /// Stops what belongs to another life of the name; with an empty uid, everything.
    fn stop_foreign(&self, view: View<'_>, uid: &str, outputs: &mut Outputs) {
        let reported = |row: &InstanceRow| matches!(row.state, RowState::Reported(_));
        for (id, row) in view.table.of(&self.key) {
            let is_another = uid.is_empty() || is_foreign(row, uid);
            if is_another && reported(row) && is_counted(row) && !is_leaving(row) {
                let (session, instance) = (row.session, id.clone());
                outputs.effect(Effect::Stop {
                    session,
                    instance,
                    reason: StopReason::Deleted,
                });
            }
        }
    }

    /// Tells the gateways, when something they must know has changed.
    fn push(&mut self, view: View<'_>, revision: Option<&Revision>, outputs: &mut Outputs) {
        let uid = match (revision, &self.pushed) {
            (Some(revision), _) => revision.metadata.uid.as_str().into(),
            (None, Some(pushed)) => pushed.revision_uid.clone(),
            (None, None) => return,
        };
        let limit = revision.map_or(0, |revision| revision.spec.concurrency_limit());
        let instances = match revision {
            Some(revision) => endpoints(view, &self.key, revision, limit),
            None => Vec::new(),
        };
        // What gateways still know is better than nothing: an agent that runs some may not have
        // answered this owner yet.
        let is_first = self.pushed.is_none();
        if is_first && instances.is_empty() && revision.is_some() && !view.table.complete {
            return outputs.timer(PUSH_LATER, PUSH_LATER_MS);
        }
        let table = EndpointTable {
            revision: self.key.clone(),
            revision_uid: uid,
            epoch: view.table.epoch,
            seq: 0,
            data_path: self.path,
            instances,
            last_failure: self
                .failures
                .evidence()
                .map(|failure| failure.message.clone())
                .unwrap_or_default(),
        };
        if self.pushed.as_ref() != Some(&table) {
            self.pushed = Some(table.clone());
            outputs.effect(Effect::PushEndpoints(Box::new(table)));
        }
    }

    fn record(&mut self, view: View<'_>, revision: &Revision, outputs: &mut Outputs) {
        let class_is_served = self.scale_settings(view, revision).class_is_served;
        let mut assertions = self.conditions(class_is_served, revision);
        assertions.extend(self.restarting(revision));
        let observed = revision.status.observed_generation == revision.metadata.generation;
        if observed && revision.status.conditions.holds(&assertions) {
            return;
        }
        self.proposing.begin();
        outputs.effect(Effect::Propose(Box::new(Command::RecordRevision(
            RecordRevision {
                fence: Fence {
                    shard: view.table.shard,
                    epoch: view.table.epoch,
                },
                key: self.key.clone(),
                version: revision.metadata.version(),
                assertions,
            },
        ))));
    }

    /// A loop of crashes with what the container last said: shown beside conditions that have
    /// been true once, and part of none.
    fn restarting(&self, revision: &Revision) -> Option<Assertion> {
        let kind = types::RESTARTING;
        match self
            .failures
            .evidence()
            .filter(|_| self.failures.is_looping())
        {
            Some(failure) => {
                let message = format!("{}: {}", failure.reason, failure.message);
                let status = ConditionStatus::True;
                Some(Assertion::new(kind, status, "CrashLoopBackOff", message).as_info())
            }
            None => revision
                .status
                .conditions
                .get(kind)
                .map(|_| Assertion::falsity(kind, "", "").as_info()),
        }
    }

    /// True for ever once the initial scale was reached; a failure before that is False with its
    /// evidence, and may recover.
    fn conditions(&self, class_is_served: bool, revision: &Revision) -> Vec<Assertion> {
        if !class_is_served {
            let text = "no controller here serves the autoscaler class of this revision";
            return vec![
                Assertion::falsity(
                    types::RESOURCES_AVAILABLE,
                    "UnsupportedAutoscalerClass",
                    text,
                ),
                Assertion::unknown(types::CONTAINER_HEALTHY, "Deploying", ""),
            ];
        }
        let was_ready = revision.status.conditions.is_true(types::READY);
        let (available, healthy) = (types::RESOURCES_AVAILABLE, types::CONTAINER_HEALTHY);
        let failure = self.failures.evidence();
        if was_ready || (self.was_reached && failure.is_none()) {
            return vec![Assertion::truth(available), Assertion::truth(healthy)];
        }
        match failure {
            Some(failure) => {
                let other = if failure.kind == available {
                    healthy
                } else {
                    available
                };
                vec![
                    Assertion::falsity(failure.kind, &failure.reason, failure.message.clone()),
                    Assertion::unknown(other, "Deploying", ""),
                ]
            }
            None => vec![
                Assertion::unknown(available, "Deploying", ""),
                Assertion::unknown(healthy, "Deploying", ""),
            ],
        }
    }
}

fn endpoints(view: View<'_>, key: &ObjectKey, revision: &Revision, limit: u32) -> Vec<Endpoint> {
    own_rows(view, key, revision)
        .filter(|(_, row)| is_ready(row))
        .filter_map(|(id, row)| {
            let session = view.state.session(row.session)?;
            Some(Endpoint {
                id: id.clone(),
                node: row.node,
                session: row.session,
                peer_address: session.opened.peer_address.as_str().into(),
                container_concurrency: limit,
                waking: waking(row),
            })
        })
        .collect()
}

fn instance_spec(id: InstanceId, revision: &Revision) -> InstanceSpec {
    let container = revision.spec.container().cloned().unwrap_or_default();
    let (config, env) = InstanceConfig::of(&revision.spec);
    let label = |key| revision.metadata.label(key).unwrap_or_default();
    let grace = revision
        .metadata
        .annotation("nihilo.dev/termination-grace-period")
        .and_then(parse_go_duration_ms);
    let progress = revision
        .metadata
        .annotation(keys::PROGRESS_DEADLINE)
        .and_then(parse_go_duration_ms);
    let port = container.ports.first().and_then(|port| port.container_port);
    let boot_deadline_ms = progress.unwrap_or_else(|| boot_deadline_ms(&container));
    InstanceSpec {
        id,
        revision: revision.metadata.key(),
        revision_uid: revision.metadata.uid.as_str().into(),
        service: label(keys::SERVICE).into(),
        configuration: label(keys::CONFIGURATION).into(),
        image: container.image,
        command: container.command,
        args: container.args,
        env,
        working_dir: container.working_dir,
        h2c: container.ports.iter().any(|port| port.name == "h2c"),
        container_concurrency: revision.spec.concurrency_limit(),
        boot_deadline_ms,
        drain_deadline_ms: u64::from(revision.spec.timeout()) * 1000,
        termination_grace_ms: grace.unwrap_or(TERMINATION_GRACE_MS),
        pull_policy: container.image_pull_policy,
        container_port: port.unwrap_or(DEFAULT_PORT),
        limits: limits(&container.resources),
        run_as: RunAs {
            user: container.security_context.run_as_user,
            group: container.security_context.run_as_group,
        },
        probes: Probes {
            readiness: container.readiness_probe,
            liveness: container.liveness_probe,
            startup: container.startup_probe,
        },
        socket_activation: revision
            .metadata
            .annotation(keys::SOCKET_ACTIVATION)
            .is_some_and(|text| text == "true"),
        min_isolation: min_isolation(revision),
        config,
    }
}

/// Validation has seen that it is one.
fn min_isolation(revision: &Revision) -> Isolation {
    let asked = revision.metadata.annotation(keys::MIN_ISOLATION);
    asked.and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// The node that looks up what an instance refers to must have seen what its owner has: the newest
/// version of all that, and the revision itself.
fn min_index(config: &InstanceConfig, state: &State, revision: &Revision) -> LogIndex {
    if config.is_empty() {
        return LogIndex(0);
    }
    let version = |(holder, name): (Holder, &str)| {
        let key = ObjectKey::new(revision.metadata.namespace.as_str(), name);
        match holder {
            Holder::Secret => Some(state.secret(&key)?.metadata.version()),
            Holder::ConfigMap => Some(state.config_map(&key)?.metadata.version()),
        }
    };
    let versions = config.references().filter_map(version);
    versions.fold(revision.metadata.version(), LogIndex::max)
}

/// One that waits for its probes is not given up before they have: as long as startup may fail, and
/// then as long as readiness waits and may fail.
fn boot_deadline_ms(container: &Container) -> u64 {
    let patience = |probe: &Option<Box<Probe>>| {
        let probe = probe.as_deref();
        probe.map_or(0, Probe::patience_seconds)
    };
    let seconds = patience(&container.startup_probe) + patience(&container.readiness_probe);
    let ms = seconds.saturating_mul(1_000);
    BOOT_DEADLINE_MS.max(ms.min(MAX_BOOT_DEADLINE_MS))
}

/// Validation has seen that each is a quantity.
fn limits(resources: &Resources) -> Limits {
    let milli = |cpu: &Option<Quantity>| cpu.as_ref().and_then(Quantity::milli);
    Limits {
        cpu_milli: milli(&resources.limits.cpu),
        cpu_request_milli: milli(&resources.requests.cpu),
        memory_bytes: resources.limits.memory.as_ref().and_then(Quantity::units),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_is_given_the_time_that_its_probes_may_fail() {
        let probe = |initial, period, n_failures| {
            Some(Box::new(Probe {
                initial_delay_seconds: Some(initial),
                period_seconds: Some(period),
                timeout_seconds: Some(1),
                failure_threshold: Some(n_failures),
                ..Probe::default()
            }))
        };
        for (startup, readiness, want_ms) in [
            (None, None, 60_000),
            (None, Some(Box::default()), 60_000),
            (probe(0, 10, 3), None, 60_000),
            (probe(0, 10, 30), None, 300_000),
            (probe(10, 5, 20), probe(20, 10, 3), 160_000),
            (probe(0, 100, 100), None, 600_000),
        ] {
            let container = Container {
                startup_probe: startup,
                readiness_probe: readiness,
                ..Container::default()
            };
            assert_eq!(boot_deadline_ms(&container), want_ms, "{container:?}");
        }
    }
}
