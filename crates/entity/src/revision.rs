//! The Revision actor: turns the number that is wanted into instances, and what happens to them
//! into conditions.

use std::collections::{BTreeMap, BTreeSet};

use nihilo_machine::Command;
use nihilo_machine::command::{Fence, RecordRevision};
use nihilo_scale::config::RevisionScale;
use nihilo_types::autoscaler::DataPath;
use nihilo_types::condition::{Assertion, types};
use nihilo_types::endpoint::{Endpoint, EndpointTable};
use nihilo_types::id::{InstanceId, ObjectKey, SessionId};
use nihilo_types::instance::{Exit, InstanceReport, InstanceSpec, InstanceState};
use nihilo_types::meta::keys;
use nihilo_types::revision::Revision;
use nihilo_types::time::parse_go_duration_ms;

use crate::effect::{Effect, Outputs, StopReason};
use crate::event::Event;
use crate::placement::{is_counted, is_leaving, place, victims};
use crate::reconcile::Proposing;
use crate::table::{InstanceRow, RefusalKind, RowState, View};

/// From SIGTERM to SIGKILL, unless `nihilo.dev/termination-grace-period` says otherwise.
const TERMINATION_GRACE_MS: u64 = 10_000;
/// Bound of one boot; the progress deadline bounds the revision.
const BOOT_DEADLINE_MS: u64 = 60_000;
/// A node that refused is left alone for this.
const AVOID_MS: u64 = 1_000;
/// Pauses after failures in a row: none, then 1 s doubling to a minute (06-runtime §5.3).
const BACKOFF_MIN_MS: u64 = 1_000;
const BACKOFF_MAX_MS: u64 = 60_000;
/// An instance that lived so long was no failure to start.
const HEALTHY_AGE_MS: u64 = 10_000;
const BACKOFF: &str = "backoff";

#[derive(Debug)]
pub struct RevisionActor {
    key: ObjectKey,
    /// The revision's life that everything below belongs to.
    uid: String,
    desired: u32,
    path: DataPath,
    proposing: Proposing,
    /// Ends that were looked at, so that each counts once.
    seen_ends: BTreeSet<InstanceId>,
    /// Nodes that refused, until when.
    avoid: BTreeMap<SessionId, u64>,
    n_failures: u32,
    failure: Option<Failure>,
    start_not_before_ms: u64,
    ever_ready: bool,
    pushed: Option<EndpointTable>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Failure {
    kind: &'static str,
    reason: String,
    message: String,
}

impl RevisionActor {
    pub fn load(key: &ObjectKey, view: View<'_>) -> Self {
        let recorded = view.state.scale(key);
        let revision = view.state.revision(key);
        let uid = revision.map_or_else(String::new, |revision| revision.metadata.uid.clone());
        // Until the Autoscaler has spoken: what was wanted, or what is there.
        let present = view
            .table
            .of_life(key, &uid)
            .filter(|(_, row)| is_counted(row))
            .count();
        let desired = u32::try_from(recorded.desired).unwrap_or(0);
        Self {
            key: key.clone(),
            uid,
            desired: desired.max(u32::try_from(present).unwrap_or(u32::MAX)),
            path: recorded.data_path,
            proposing: Proposing::default(),
            seen_ends: BTreeSet::new(),
            avoid: BTreeMap::new(),
            n_failures: 0,
            failure: None,
            start_not_before_ms: 0,
            ever_ready: recorded.initialized,
            pushed: None,
        }
    }

    pub fn turn(&mut self, view: View<'_>, event: &Event, now_ms: u64) -> Outputs {
        let mut outputs = Outputs::default();
        let uid = view.state.revision(&self.key).map(|r| &r.metadata.uid);
        if uid.is_some_and(|uid| *uid != self.uid) {
            // Deleted and made anew under its name while this actor was awake.
            *self = Self::load(&self.key, view);
        }
        if let Event::Desired { n, path } = event {
            (self.desired, self.path) = (*n, *path);
        }
        let may_propose = self.proposing.may_go_on(event, &mut outputs);
        let Some(revision) = view.state.revision(&self.key) else {
            self.stop_all(view, &mut outputs);
            self.push(view, None, &mut outputs);
            return outputs;
        };
        self.look_at_ends(view, revision, now_ms, &mut outputs);
        self.stop_strangers(view, &mut outputs);
        self.scale(view, revision, now_ms, &mut outputs);
        self.push(view, Some(revision), &mut outputs);
        if may_propose {
            self.record(view, revision, &mut outputs);
        }
        outputs
    }

    pub fn may_passivate(&self, view: View<'_>) -> bool {
        let empty = view.table.of(&self.key).all(|(_, row)| !is_counted(row));
        let is_gone = view.state.revision(&self.key).is_none();
        empty && (self.desired == 0 || is_gone) && !self.proposing.is_under_way()
    }

    fn scale_settings(&self, view: View<'_>, revision: &Revision) -> RevisionScale {
        let limit = revision.spec.concurrency_limit();
        RevisionScale::resolve(&revision.metadata.annotations, limit, &view.settings.scale)
    }

    /// Each end of an instance that nobody asked for is a failure, once.
    fn look_at_ends(
        &mut self,
        view: View<'_>,
        revision: &Revision,
        now_ms: u64,
        outputs: &mut Outputs,
    ) {
        let (key, uid) = (self.key.clone(), self.uid.clone());
        let rows: Vec<_> = view.table.of_life(&key, &uid).collect();
        self.seen_ends
            .retain(|id| rows.iter().any(|(other, _)| *other == id));
        for (id, row) in rows {
            match &row.state {
                RowState::Refused(refusal) if self.seen_ends.insert(id.clone()) => {
                    self.avoid.insert(row.session, now_ms + AVOID_MS);
                    outputs.timer(BACKOFF, AVOID_MS);
                    if refusal.kind == RefusalKind::Failed {
                        self.failed(failure_of_refusal(&refusal.text), now_ms, outputs);
                    }
                }
                RowState::Reported(report) => {
                    self.look_at_report(id, report, revision, now_ms, outputs)
                }
                _ => {}
            }
        }
        self.avoid.retain(|_, until| *until > now_ms);
    }

    fn look_at_report(
        &mut self,
        id: &InstanceId,
        report: &InstanceReport,
        revision: &Revision,
        now_ms: u64,
        outputs: &mut Outputs,
    ) {
        if report.state == InstanceState::Ready {
            self.ever_ready = true;
            if report.age_ms >= HEALTHY_AGE_MS || self.failure.is_some() {
                self.n_failures = 0;
                self.failure = None;
            }
        }
        let Some(exit) = &report.exit else { return };
        if !self.seen_ends.insert(id.clone()) {
            return;
        }
        // A stop that was ordered ends by the signal or by the app's own clean exit.
        let ordered =
            matches!(exit, Exit::Signal(9 | 15) | Exit::Code(0)) && report.ready_after_ms > 0;
        if !ordered {
            let image = revision
                .spec
                .container()
                .map_or("", |container| &container.image);
            self.failed(failure_of_exit(exit, report, image), now_ms, outputs);
        }
    }

    fn failed(&mut self, failure: Failure, now_ms: u64, outputs: &mut Outputs) {
        self.n_failures += 1;
        self.failure = Some(failure);
        if self.n_failures > 1 {
            let doublings = (self.n_failures - 2).min(16);
            let pause_ms = (BACKOFF_MIN_MS << doublings).min(BACKOFF_MAX_MS);
            self.start_not_before_ms = now_ms + pause_ms;
            outputs.timer(BACKOFF, pause_ms);
        }
    }

    /// Compares what counts with what is wanted, and orders the difference.
    fn scale(&self, view: View<'_>, revision: &Revision, now_ms: u64, outputs: &mut Outputs) {
        let counted: Vec<_> = view
            .table
            .of_life(&self.key, &self.uid)
            .filter(|(_, row)| is_counted(row))
            .collect();
        let (leaving, staying): (Vec<_>, Vec<_>) = counted
            .iter()
            .copied()
            .partition(|(_, row)| is_leaving(row));
        let wanted = self.desired as usize;
        if staying.len() > wanted {
            self.stop_surplus(staying, wanted, outputs);
            return;
        }
        let mut missing = wanted - staying.len();
        for (id, row) in leaving
            .iter()
            .filter(|(_, row)| is_draining(row))
            .take(missing)
        {
            let (session, instance) = (row.session, (*id).clone());
            outputs.effect(Effect::Reopen { session, instance });
            missing -= 1;
        }
        let max_scale = self.scale_settings(view, revision).max_scale;
        if let Ok(cap) = usize::try_from(max_scale)
            && cap > 0
        {
            // Everything that may still run counts, in the turn that orders.
            missing = missing.min(cap.saturating_sub(counted.len()));
            if !view.table.complete {
                return;
            }
        }
        if now_ms >= self.start_not_before_ms {
            self.start(view, revision, missing, outputs);
        }
    }

    fn stop_surplus(
        &self,
        mut staying: Vec<(&InstanceId, &InstanceRow)>,
        wanted: usize,
        outputs: &mut Outputs,
    ) {
        victims(&mut staying);
        let surplus = staying.len() - wanted;
        let reported = |row: &InstanceRow| matches!(row.state, RowState::Reported(_));
        for (id, row) in staying
            .into_iter()
            .take(surplus)
            .filter(|(_, row)| reported(row))
        {
            let (session, instance) = (row.session, id.clone());
            outputs.effect(Effect::Stop {
                session,
                instance,
                reason: StopReason::ScaleDown,
            });
        }
    }

    fn start(&self, view: View<'_>, revision: &Revision, n: usize, outputs: &mut Outputs) {
        let avoid: BTreeSet<_> = self.avoid.keys().copied().collect();
        let mut planned = BTreeMap::new();
        for k in 0..n {
            let Some(session) = place(view, &self.key, &planned, &avoid) else {
                // All full or refusing: look again when that may have changed.
                outputs.timer(BACKOFF, AVOID_MS);
                return;
            };
            *planned.entry(session).or_insert(0) += 1;
            let id = view.table.instance_id(&self.key, k as u64);
            let spec = Box::new(instance_spec(id, revision));
            outputs.effect(Effect::Start { session, spec });
        }
    }

    /// The revision is gone.
    fn stop_all(&self, view: View<'_>, outputs: &mut Outputs) {
        self.stop_those(view, outputs, |_| true);
    }

    /// Instances of an earlier revision of this name: other code.
    fn stop_strangers(&self, view: View<'_>, outputs: &mut Outputs) {
        self.stop_those(view, outputs, |row| !row.is_of(&self.uid));
    }

    fn stop_those(
        &self,
        view: View<'_>,
        outputs: &mut Outputs,
        concerned: impl Fn(&InstanceRow) -> bool,
    ) {
        for (id, row) in view.table.of(&self.key).filter(|(_, row)| concerned(row)) {
            if is_counted(row) && !is_leaving(row) && matches!(row.state, RowState::Reported(_)) {
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
    fn push(
        &mut self,
        view: View<'_>,
        revision: Option<&std::sync::Arc<Revision>>,
        outputs: &mut Outputs,
    ) {
        let uid = match (revision, &self.pushed) {
            (Some(revision), _) => revision.metadata.uid.as_str().into(),
            (None, Some(pushed)) => pushed.revision_uid.clone(),
            (None, None) => return,
        };
        let limit = revision.map_or(0, |revision| revision.spec.concurrency_limit());
        let instances = match revision {
            Some(_) => endpoints(view, &self.key, &self.uid, limit),
            None => Vec::new(),
        };
        let table = EndpointTable {
            revision: self.key.clone(),
            revision_uid: uid,
            epoch: view.table.epoch,
            seq: 0,
            data_path: self.path,
            instances,
            last_failure: self
                .failure
                .as_ref()
                .map(|f| f.message.clone())
                .unwrap_or_default(),
        };
        if self.pushed.as_ref() != Some(&table) {
            self.pushed = Some(table.clone());
            outputs.effect(Effect::PushEndpoints(Box::new(table)));
        }
    }

    fn record(&mut self, view: View<'_>, revision: &Revision, outputs: &mut Outputs) {
        let assertions = self.conditions(view, revision);
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

    /// True for ever once the initial scale was reached; a failure before that is False with its
    /// evidence, and may recover.
    fn conditions(&self, view: View<'_>, revision: &Revision) -> Vec<Assertion> {
        let settings = self.scale_settings(view, revision);
        let initial = settings.min_scale.max(settings.initial_scale).max(0);
        let n_ready = view
            .table
            .of_life(&self.key, &self.uid)
            .filter(|(_, row)| is_ready(row))
            .count();
        let was_ready = revision.status.conditions.is_true(types::READY);
        let reached = i64::try_from(n_ready).unwrap_or(i64::MAX) >= i64::from(initial);
        let (available, healthy) = (types::RESOURCES_AVAILABLE, types::CONTAINER_HEALTHY);
        if was_ready || reached || (self.ever_ready && self.failure.is_none()) {
            return vec![Assertion::truth(available), Assertion::truth(healthy)];
        }
        match &self.failure {
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

fn is_ready(row: &InstanceRow) -> bool {
    matches!(&row.state, RowState::Reported(report) if report.state == InstanceState::Ready)
}

fn is_draining(row: &InstanceRow) -> bool {
    matches!(&row.state, RowState::Reported(report) if report.state == InstanceState::Draining)
}

fn endpoints(view: View<'_>, key: &ObjectKey, uid: &str, limit: u32) -> Vec<Endpoint> {
    view.table
        .of_life(key, uid)
        .filter(|(_, row)| is_ready(row))
        .filter_map(|(id, row)| {
            let session = view.state.session(row.session)?;
            Some(Endpoint {
                id: id.clone(),
                node: row.node,
                session: row.session,
                peer_address: session.opened.peer_address.as_str().into(),
                container_concurrency: limit,
            })
        })
        .collect()
}

fn instance_spec(id: InstanceId, revision: &Revision) -> InstanceSpec {
    let container = revision.spec.container().cloned().unwrap_or_default();
    let label = |key| revision.metadata.label(key).unwrap_or_default();
    let grace = revision
        .metadata
        .annotation("nihilo.dev/termination-grace-period")
        .and_then(parse_go_duration_ms);
    InstanceSpec {
        id,
        revision: revision.metadata.key(),
        revision_uid: revision.metadata.uid.as_str().into(),
        service: label(keys::SERVICE).into(),
        configuration: label(keys::CONFIGURATION).into(),
        image: container.image,
        command: container.command,
        args: container.args,
        env: container
            .env
            .into_iter()
            .map(|variable| (variable.name, variable.value))
            .collect(),
        working_dir: container.working_dir,
        h2c: container.ports.iter().any(|port| port.name == "h2c"),
        container_concurrency: revision.spec.concurrency_limit(),
        boot_deadline_ms: BOOT_DEADLINE_MS,
        drain_deadline_ms: u64::from(revision.spec.timeout()) * 1000,
        termination_grace_ms: grace.unwrap_or(TERMINATION_GRACE_MS),
    }
}

fn failure_of_refusal(text: &str) -> Failure {
    Failure {
        kind: types::CONTAINER_HEALTHY,
        reason: "ContainerMissing".into(),
        message: text.into(),
    }
}

fn failure_of_exit(exit: &Exit, report: &InstanceReport, image: &str) -> Failure {
    let output = report.last_output.join("\n");
    let healthy = |reason: String, message: String| Failure {
        kind: types::CONTAINER_HEALTHY,
        reason,
        message,
    };
    match exit {
        Exit::Code(code) => {
            let said = match (code, output.is_empty()) {
                (0, true) => "container exited with no error".into(),
                (_, true) => "no output".into(),
                (_, false) => output,
            };
            healthy(
                format!("ExitCode{code}"),
                format!("Container failed with: {said}"),
            )
        }
        Exit::Signal(signal) => healthy(
            format!("Signal{signal}"),
            format!("Container failed with: {output}"),
        ),
        Exit::OutOfMemory => healthy("OOMKilled".into(), output),
        Exit::Unknown => healthy("ExitUnknown".into(), output),
        Exit::StartFailed { cause, .. } => healthy(
            "ContainerMissing".into(),
            format!("Unable to fetch image {image:?}: {cause}"),
        ),
        Exit::NeverReady { after_ms } => Failure {
            kind: types::RESOURCES_AVAILABLE,
            reason: "ProgressDeadlineExceeded".into(),
            message: format!("not listening on $PORT after {after_ms} ms\n{output}"),
        },
    }
}
