//! Starts that failed and nodes that refused: which ends count, and how long to pause.
//!
//! Everything follows from the table's rows and their times, so that a reloaded actor, which sees
//! them all at once, arrives where the one before it was.

use std::collections::{BTreeMap, BTreeSet};

use nihilo_types::condition::types;
use nihilo_types::id::{InstanceId, SessionId};
use nihilo_types::instance::{Exit, InstanceReport, stage};
use nihilo_types::revision::Revision;

use crate::rows::{is_frozen, is_leaving, is_ready};
use crate::table::{InstanceRow, Refusal, RefusalKind, RowState};

/// A node that refused is left alone for this.
pub(crate) const AVOID_MS: u64 = 1_000;
/// One that cannot isolate as it is to be can after it was started anew, which is another session;
/// it is asked again all the same.
const UNABLE_MS: u64 = 60_000;
/// One that lacks the image, or an engine for it, is asked last for so long: it may have it by then.
const LACKING_MS: u64 = 60_000;
/// Pauses after failures in a row: none, then 1 s doubling to a minute (06-runtime §5.3).
const BACKOFF_MIN_MS: u64 = 1_000;
const BACKOFF_MAX_MS: u64 = 60_000;
/// An instance that was ready for so long, and since the last failure, has ended the row.
const HEALTHY_MS: u64 = 10_000;
/// So has time without a failure; longer than the longest pause, so that a loop stays slow.
const FORGET_MS: u64 = 2 * BACKOFF_MAX_MS;

/// Why a start failed where programs are isolated too little.
const ISOLATION_REASON: &str = "IsolationUnavailable";
/// Why a start failed that had no program to run.
const IMAGE_REASON: &str = "ContainerMissing";

/// One revision's ends and what follows from them.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    /// Ends that were looked at, so that each counts once.
    seen: BTreeSet<InstanceId>,
    /// Instances that were told to go, or seen going: however they end, it is no failure.
    ordered: BTreeSet<InstanceId>,
    /// Those of them that were seen going, or frozen: they may be called back.
    away: BTreeSet<InstanceId>,
    /// Nodes that isolate too little, until when, and their words.
    unable: BTreeMap<SessionId, (u64, String)>,
    /// Nodes that had no image of it or no engine, until when.
    lacking: BTreeMap<SessionId, u64>,
    /// Nodes that refused, until when.
    avoid: BTreeMap<SessionId, u64>,
    /// Nodes that refused and have not taken a start since: one at a time shows whether they do.
    on_probation: BTreeMap<SessionId, u64>,
    n_in_a_row: u32,
    last_ms: u64,
    start_not_before_ms: u64,
    evidence: Option<Failure>,
}

/// The last failure, as the condition and waiting clients are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: &'static str,
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl Failures {
    /// Takes in what the revision's rows show now.
    pub(crate) fn look(
        &mut self,
        rows: &[(&InstanceId, &InstanceRow)],
        revision: &Revision,
        now_ms: u64,
    ) {
        let exists = |id: &InstanceId| rows.iter().any(|(other, _)| *other == id);
        self.seen.retain(exists);
        self.ordered.retain(exists);
        self.away.retain(exists);
        let mut by_time = rows.to_vec();
        by_time.sort_by_key(|(_, row)| row.since_ms);
        for (id, row) in by_time {
            if is_leaving(row) || is_frozen(row) {
                self.ordered.insert(id.clone());
                self.away.insert(id.clone());
            } else if is_ready(row) && self.away.remove(id) {
                // Called back: its end is its own again.
                self.ordered.remove(id);
            }
            match &row.state {
                RowState::Refused(refusal) => self.look_at_refusal(id, row, refusal),
                RowState::Reported(report) => {
                    let taken = |refused_ms: &u64| row.since_ms > *refused_ms;
                    if self.on_probation.get(&row.session).is_some_and(taken) {
                        self.on_probation.remove(&row.session);
                    }
                    self.look_at_exit(id, row, report, revision);
                }
                RowState::Requested | RowState::Stranded { .. } => {}
            }
        }
        self.avoid.retain(|_, until| *until > now_ms);
        self.unable.retain(|_, (until, _)| *until > now_ms);
        self.lacking.retain(|_, until| *until > now_ms);
        self.forget(rows, now_ms);
    }

    fn look_at_refusal(&mut self, id: &InstanceId, row: &InstanceRow, refusal: &Refusal) {
        if !self.seen.insert(id.clone()) {
            return;
        }
        self.avoid.insert(row.session, row.since_ms + AVOID_MS);
        self.on_probation.insert(row.session, row.since_ms);
        match refusal.kind {
            RefusalKind::Failed => {
                let failure = Failure {
                    kind: types::CONTAINER_HEALTHY,
                    reason: IMAGE_REASON.into(),
                    message: refusal.text.clone(),
                };
                self.failed(failure, row.since_ms);
            }
            RefusalKind::NoCapacity | RefusalKind::Busy | RefusalKind::NotReady => {}
        }
    }

    /// An end that nobody asked for is a failure.
    fn look_at_exit(
        &mut self,
        id: &InstanceId,
        row: &InstanceRow,
        report: &InstanceReport,
        revision: &Revision,
    ) {
        let Some(exit) = &report.exit else { return };
        if !self.seen.insert(id.clone()) {
            return;
        }
        let was_ordered = self.ordered.contains(id) && !gave_up(exit);
        if !was_ordered && !ended_well(exit, report) {
            let image = revision.spec.container().map_or("", |c| c.image.as_str());
            let mut failure = failure_of_exit(exit, report, image);
            if failure.reason == ISOLATION_REASON {
                failure.message = self.unable(row, failure.message);
            }
            if is_lacking(exit) {
                self.lacking.insert(row.session, row.since_ms + LACKING_MS);
            }
            self.failed(failure, row.since_ms);
        }
    }

    /// The next start is elsewhere. What is missing where, so far.
    fn unable(&mut self, row: &InstanceRow, words: String) -> String {
        let until = row.since_ms + UNABLE_MS;
        self.unable.insert(row.session, (until, words));
        let words = self.unable.values().map(|(_, words)| words.as_str());
        words
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
            .join("; ")
    }

    fn failed(&mut self, mut failure: Failure, at_ms: u64) {
        self.n_in_a_row += 1;
        self.last_ms = self.last_ms.max(at_ms);
        if self.n_in_a_row > 1 {
            let doublings = (self.n_in_a_row - 2).min(16);
            let pause_ms = (BACKOFF_MIN_MS << doublings).min(BACKOFF_MAX_MS);
            self.start_not_before_ms = self.start_not_before_ms.max(at_ms + pause_ms);
            // Where people look: why it is down is one half, when it is tried again the other.
            failure.message.push_str(&format!(
                "\nfailed {} times in a row, not started again for {} s",
                self.n_in_a_row,
                pause_ms / 1_000
            ));
        }
        self.evidence = Some(failure);
    }

    fn forget(&mut self, rows: &[(&InstanceId, &InstanceRow)], now_ms: u64) {
        let is_healthy =
            |row: &InstanceRow| row.since_ms >= self.last_ms && row.since_ms + HEALTHY_MS <= now_ms;
        let mut ready = rows.iter().filter(|(_, row)| is_ready(row)).peekable();
        if ready.peek().is_some() {
            self.evidence = None;
        }
        if ready.any(|(_, row)| is_healthy(row)) || self.last_ms + FORGET_MS <= now_ms {
            self.n_in_a_row = 0;
        }
    }

    /// A stop was ordered.
    pub(crate) fn ordered(&mut self, id: &InstanceId) {
        self.ordered.insert(id.clone());
    }

    /// The next start, if it must wait: so many milliseconds from now.
    pub(crate) fn pause_ms(&self, now_ms: u64) -> Option<u64> {
        (self.start_not_before_ms > now_ms).then(|| self.start_not_before_ms - now_ms)
    }

    pub(crate) fn avoided(&self) -> BTreeSet<SessionId> {
        let refused = self.avoid.keys();
        refused.chain(self.unable.keys()).copied().collect()
    }

    /// Nodes that get a start only where no other one can have it.
    pub(crate) fn lacking(&self) -> impl Iterator<Item = SessionId> + use<'_> {
        self.lacking.keys().copied()
    }

    /// Whether the node gets one start at a time.
    pub(crate) fn is_on_probation(&self, session: SessionId) -> bool {
        self.on_probation.contains_key(&session)
    }

    /// It ends again and again, and is started with pauses.
    pub(crate) fn is_looping(&self) -> bool {
        self.n_in_a_row > 1 && self.evidence.is_some()
    }

    pub(crate) fn evidence(&self) -> Option<&Failure> {
        self.evidence.as_ref()
    }
}

/// As a stop ends that was ordered before this actor was loaded: by the signal, by the app's own
/// clean exit, or by a shell's or a JVM's way to pass the signal on.
/// The agent itself stops what never became ready, and what failed a probe for good.
fn gave_up(exit: &Exit) -> bool {
    matches!(
        exit,
        Exit::NeverReady { .. } | Exit::StartFailed { .. } | Exit::Unhealthy { .. }
    )
}

/// Another node may have what this one neither has nor can get.
fn is_lacking(exit: &Exit) -> bool {
    let Exit::StartFailed { stage: of, .. } = exit else {
        return false;
    };
    [stage::IMAGE, stage::ENGINE].contains(&of.as_str())
}

fn ended_well(exit: &Exit, report: &InstanceReport) -> bool {
    let by_signal = matches!(exit, Exit::Signal(9 | 15) | Exit::Code(0 | 137 | 143));
    by_signal && report.ready_after_ms > 0
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
            after(format!("ended by {}", signal_name(*signal)), &output),
        ),
        Exit::OutOfMemory => healthy(
            "OOMKilled".into(),
            after(
                "killed for want of memory, see `resources.limits.memory`",
                &output,
            ),
        ),
        Exit::Unknown => healthy("ExitUnknown".into(), after("nobody saw how", &output)),
        Exit::StartFailed { stage, cause } => {
            let (kind, reason) = reason_of_stage(stage);
            let message = match reason {
                IMAGE_REASON => format!("Unable to fetch image {image:?}: {cause}"),
                _ => cause.clone(),
            };
            Failure {
                kind,
                reason: reason.into(),
                message,
            }
        }
        Exit::Unhealthy { cause, .. } => healthy("ProbeFailed".into(), after(cause, &output)),
        Exit::NeverReady { after_ms } => Failure {
            kind: types::RESOURCES_AVAILABLE,
            reason: "ProgressDeadlineExceeded".into(),
            message: format!("not ready after {} s\n{output}", after_ms / 1_000),
        },
    }
}

/// The condition that a refused start makes false, and why.
fn reason_of_stage(of: &str) -> (&'static str, &'static str) {
    match of {
        stage::CONFIG => (types::RESOURCES_AVAILABLE, "CreateContainerConfigError"),
        stage::VOLUMES => (types::RESOURCES_AVAILABLE, "VolumeNeedsMountNamespace"),
        stage::RUN_AS => (types::CONTAINER_HEALTHY, "RunAsUserForbidden"),
        stage::BUNDLE => (types::CONTAINER_HEALTHY, "ArtefactUnavailable"),
        stage::IMAGE_ID => (types::CONTAINER_HEALTHY, "ImageIdMismatch"),
        stage::ISOLATION => (types::RESOURCES_AVAILABLE, ISOLATION_REASON),
        stage::SOCKET => (types::CONTAINER_HEALTHY, "SocketActivationRefused"),
        _ => (types::CONTAINER_HEALTHY, IMAGE_REASON),
    }
}

/// Upstream's words, then what happened, then the evidence.
fn after(what: impl std::fmt::Display, output: &str) -> String {
    match output {
        "" => format!("Container failed with: {what}; no output"),
        output => format!("Container failed with: {what}\n{output}"),
    }
}

/// As people know it, where it is one that ends programs by itself.
fn signal_name(signal: i32) -> String {
    let name = match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        other => return format!("signal {other}"),
    };
    format!("{name} (signal {signal})")
}
