//! Probes: whether an instance serves, and whether it is well.
//!
//! ```text
//! specification ─ plan ─> rhythms ─ schedule (pure) ─> asks ─ check ─> answers ─ schedule ─> turns
//! ```
//!
//! Questions go to the instance itself, past its limiter and never anywhere else. What a turn means
//! for the instance is [`crate::life`]'s.

mod check;
mod grpc;
mod http;
pub(crate) mod look;
mod plan;
mod schedule;

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use nihilo_types::instance::InstanceSpec;
use nihilo_types::probe::ProbeKind;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::agent::Inner;
use crate::driver::Driver;
use check::Failure;
use plan::{Plan, Question};
use schedule::{Ask, Schedule};

pub(crate) use schedule::Turn;

/// Whom the questions go to, and by what.
pub(crate) struct Subject<'a, D: Driver> {
    pub(crate) inner: &'a Inner,
    pub(crate) driver: &'a D,
    pub(crate) inside: &'a D::Inside,
    pub(crate) spec: &'a InstanceSpec,
    pub(crate) address: SocketAddr,
}

impl<D: Driver> Clone for Subject<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D: Driver> Copy for Subject<'_, D> {}

/// Asks one instance's questions, from its start to its end.
pub(crate) struct Prober<'a, D: Driver> {
    subject: Subject<'a, D>,
    plan: Plan,
    schedule: Schedule,
    since: Instant,
    /// At most one of each kind.
    under_way: FuturesUnordered<BoxFuture<'a, (Ask, Result<(), Failure>)>>,
    failures: Failures,
}

/// The last failure of each kind, oldest first.
#[derive(Debug, Clone, Default)]
struct Failures(Arc<Mutex<Vec<(ProbeKind, Failure)>>>);

impl Failures {
    fn set(&self, kind: ProbeKind, failure: Failure) {
        let mut failures = self.0.lock();
        failures.retain(|(of, _)| *of != kind);
        failures.push((kind, failure));
    }

    fn of(&self, kind: ProbeKind) -> Option<Failure> {
        let failures = self.0.lock();
        let found = failures.iter().find(|(of, _)| *of == kind);
        found.map(|(_, failure)| failure.clone())
    }
}

impl<'a, D: Driver> Prober<'a, D> {
    /// `was_ready`: before this process of the node led it.
    pub(crate) fn new(subject: Subject<'a, D>, was_ready: bool) -> Self {
        let plan = Plan::of(subject.spec);
        let schedule = match was_ready {
            true => Schedule::resumed(plan.rhythms()),
            false => Schedule::new(plan.rhythms()),
        };
        Self {
            subject,
            plan,
            schedule,
            since: Instant::now(),
            under_way: FuturesUnordered::new(),
            failures: Failures::default(),
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.schedule.is_ready()
    }

    /// What the probes change next. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> Turn {
        loop {
            self.ask_what_is_due();
            let next_at = self.schedule.next_at();
            let due = async {
                match next_at {
                    Some(at) => tokio::time::sleep_until(self.since + at).await,
                    None => std::future::pending().await,
                }
            };
            // Answers first: a question that has waited can wait on.
            tokio::select! {
                biased;
                Some((ask, answer)) = self.under_way.next() => {
                    if let Some(turn) = self.take(ask, answer) {
                        return turn;
                    }
                }
                () = due => {}
            }
        }
    }

    fn ask_what_is_due(&mut self) {
        let now = self.since.elapsed();
        while let Some(ask) = self.schedule.due(now) {
            let question = self.plan.question(kind_of(ask)).clone();
            let (subject, failures) = (self.subject, self.failures.clone());
            let answer = answer(subject, question, ask, failures);
            self.under_way.push(Box::pin(answer));
        }
    }

    fn take(&mut self, ask: Ask, answer: Result<(), Failure>) -> Option<Turn> {
        let now = self.since.elapsed();
        let passed = answer.is_ok();
        if let Err(failure) = answer {
            self.failures.set(kind_of(ask), failure);
        }
        match ask {
            Ask::UntilReady { .. } => self.schedule.passed_until_ready(now),
            Ask::Once(kind) => self.schedule.answered(kind, passed, now),
        }
    }

    /// Nobody has looked at the answers for a while: what was under way is asked anew.
    pub(crate) fn resume(&mut self) {
        self.under_way.clear();
        self.schedule.interrupted(self.since.elapsed());
    }

    /// Nothing is asked any more: what is under way is broken off.
    pub(crate) fn rest(&mut self) {
        self.under_way.clear();
    }

    /// As of one that was ready before this process of the node led it: it is not ready until one
    /// good look.
    pub(crate) fn begin_anew(&mut self) {
        self.under_way.clear();
        self.schedule = Schedule::woken(self.plan.rhythms());
        self.since = Instant::now();
    }

    /// What a probe of the template failed with, in words for people.
    pub(crate) fn said_of(&self, kind: ProbeKind) -> Option<String> {
        if !self.plan.is_written(kind) {
            return None;
        }
        let failure = self.failures.of(kind)?;
        Some(format!("{} probe: {failure}", kind.as_str()))
    }

    /// Why it is not ready: what the probe that holds it up has failed with, and what its driver
    /// sees where nothing answers.
    pub(crate) fn explain(&self, seen_by_driver: Option<String>) -> Vec<String> {
        let kinds = [ProbeKind::Startup, ProbeKind::Readiness];
        let said: Vec<_> = kinds
            .iter()
            .filter_map(|kind| self.said_of(*kind))
            .collect();
        let answers = |kind: &ProbeKind| {
            let failure = self.failures.of(*kind);
            failure.is_some_and(|failure| !failure.is_unreached)
        };
        let is_reached = kinds.iter().any(answers);
        let seen = seen_by_driver.filter(|_| !is_reached);
        said.into_iter().chain(seen).collect()
    }
}

fn kind_of(ask: Ask) -> ProbeKind {
    match ask {
        Ask::Once(kind) => kind,
        Ask::UntilReady { .. } => ProbeKind::Readiness,
    }
}

async fn answer<D: Driver>(
    subject: Subject<'_, D>,
    question: Question,
    ask: Ask,
    failures: Failures,
) -> (Ask, Result<(), Failure>) {
    let answer = match ask {
        Ask::Once(_) => check::once(subject, &question.check, question.timeout).await,
        Ask::UntilReady { n_successes } => {
            let note = |failure| failures.set(ProbeKind::Readiness, failure);
            look::until_it_passes(subject, &question.check, n_successes, note).await;
            Ok(())
        }
    };
    (ask, answer)
}
