//! One instance from spawn to destroyed.
//!
//! Starting => Booting => Ready <=> Draining => Stopping => Exited => Destroyed
//!
//! One that is not ready any more is Booting again, with its admission closed, until it is.

use std::sync::Arc;
use std::time::Duration;

use nihilo_failpoint::{Bug, Point, hit, planted};
use nihilo_types::instance::{Exit, InstanceSpec, InstanceState};
use nihilo_types::probe::ProbeKind;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::agent::Inner;
use crate::driver::{Driver, StartError, StartOutcome, Started};
use crate::probe::{Prober, Subject, Turn};

const LAST_LINES: usize = 5;

/// What the owner, or the node's end, wants of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Run,
    Drain,
    /// As a drain, but nobody can call it off: the node ends.
    Leave,
    /// The node's time is up: at once, whatever is in flight.
    Kill,
}

/// Why the running part ended.
enum End {
    Exited(Exit),
    /// Stop it now: ordered, drained or overdue.
    Stop,
    /// Not in time; what is known about why.
    NeverReady(Vec<String>),
    /// Stop it now: it failed a probe for good.
    Unhealthy {
        probe: ProbeKind,
        cause: String,
    },
}

/// How far an instance had come when this process of the node began to lead it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Started,
    /// By an earlier process, and never seen ready.
    Booting,
    /// By an earlier process, which has seen it ready.
    WasReady,
    /// By an earlier process, and on its way out.
    Stopping,
}

/// Leads one instance through its whole life.
pub(crate) async fn run<D: Driver>(
    inner: Arc<Inner>,
    driver: Arc<D>,
    spec: InstanceSpec,
    orders: watch::Receiver<Order>,
) {
    inner.log("spawn", &spec.id, None);
    // Its handle too is there before the process can be.
    inner.enter(&spec.id, InstanceState::Starting);
    let output = inner.output(&spec.id);
    let started = match inner.provide(&spec, driver.reader(&spec)).await {
        Ok(provided) => driver.start(&spec, provided, &output).await,
        Err(error) => Err(error),
    };
    let started = match started {
        Ok(started) => started,
        Err(error) => return not_started(&inner, driver.as_ref(), &spec, error).await,
    };
    hit(Point::InstanceSpawned);
    inner.log("spawned", &spec.id, started.pid);
    inner.booting(&spec.id, &started);
    go_on(inner, driver, spec, started, Found::Started, orders).await;
}

/// Leads an instance on from how it was found, until nothing is left of it.
pub(crate) async fn go_on<D: Driver>(
    inner: Arc<Inner>,
    driver: Arc<D>,
    spec: InstanceSpec,
    started: Started<D::Handle>,
    found: Found,
    mut orders: watch::Receiver<Order>,
) {
    let Started {
        mut handle,
        address,
        pid,
        trace: _,
        isolation: _,
    } = started;
    let driver = driver.as_ref();
    let end = match found {
        Found::Stopping => End::Stop,
        Found::Started | Found::Booting | Found::WasReady => {
            let inside = driver.inside(&handle);
            let subject = Subject {
                inner: &inner,
                driver,
                inside: &inside,
                spec: &spec,
                address,
            };
            let prober = Prober::new(subject, found == Found::WasReady);
            lead(subject, prober, &mut handle, &mut orders).await
        }
    };
    let (exit, remarks) = ended(&inner, driver, &mut handle, &spec, &mut orders, end).await;
    hit(Point::InstanceExited);
    inner.admission.forget(&spec.id);
    inner.log("exit", &spec.id, pid);
    let output = inner.output(&spec.id);
    let exit = driver.destroy(handle, exit).await;
    inner.take_back(&spec.id).await;
    let mut lines = output.last_lines(LAST_LINES);
    lines.extend(remarks);
    inner.exited(&spec.id, exit, lines);
    inner.enter(&spec.id, InstanceState::Destroyed);
}

/// Stops it where it has not ended by itself; how it ended, and what is to be said beside its own
/// last words.
async fn ended<D: Driver>(
    inner: &Inner,
    driver: &D,
    handle: &mut D::Handle,
    spec: &InstanceSpec,
    orders: &mut watch::Receiver<Order>,
    end: End,
) -> (Exit, Vec<String>) {
    let after_ms = spec.boot_deadline_ms;
    match end {
        End::Exited(exit) => (exit, Vec::new()),
        End::Stop => {
            let exit = stop(inner, driver, handle, spec, orders).await;
            (exit, Vec::new())
        }
        End::NeverReady(remarks) => {
            stop(inner, driver, handle, spec, orders).await;
            (Exit::NeverReady { after_ms }, remarks)
        }
        End::Unhealthy { probe, cause } => {
            warn!(instance = %spec.id, probe = probe.as_str(), cause, "stopped, and to be replaced");
            // Nothing new is sent to it while it goes.
            inner.admission.close(&spec.id);
            stop(inner, driver, handle, spec, orders).await;
            (Exit::Unhealthy { probe, cause }, Vec::new())
        }
    }
}

async fn not_started<D: Driver>(inner: &Inner, driver: &D, spec: &InstanceSpec, error: StartError) {
    if error.outcome() == StartOutcome::MaybeStarted {
        warn!(instance = %spec.id, %error, "not known to have failed, whatever runs is destroyed");
        driver.destroy_unknown(&spec.id).await;
    }
    inner.log("exit", &spec.id, None);
    inner.take_back(&spec.id).await;
    let (stage, cause) = (error.stage.to_owned(), error.cause);
    inner.exited(&spec.id, Exit::StartFailed { stage, cause }, Vec::new());
    inner.enter(&spec.id, InstanceState::Destroyed);
}

/// From booting until the instance has to end.
async fn lead<D: Driver>(
    subject: Subject<'_, D>,
    mut prober: Prober<'_, D>,
    handle: &mut D::Handle,
    orders: &mut watch::Receiver<Order>,
) -> End {
    let Subject { inner, spec, .. } = subject;
    if let Some(end) = boot(subject, &mut prober, handle, orders).await {
        return end;
    }
    hit(Point::InstanceReady);
    inner.admission.open(spec, subject.address);
    loop {
        if let Some(end) = serve(subject, &mut prober, handle, orders).await {
            return end;
        }
        inner.admission.close(&spec.id);
        if let Some(end) = drain(subject, handle, orders).await {
            return end;
        }
        hit(Point::InstanceReopened);
        prober.resume();
        if prober.is_ready() {
            inner.admission.reopen(&spec.id);
        }
    }
}

/// Until it is ready for the first time; otherwise how it ends.
async fn boot<D: Driver>(
    subject: Subject<'_, D>,
    prober: &mut Prober<'_, D>,
    handle: &mut D::Handle,
    orders: &mut watch::Receiver<Order>,
) -> Option<End> {
    let Subject { driver, spec, .. } = subject;
    let limit = Duration::from_millis(spec.boot_deadline_ms);
    // An exit first: a dead app never becomes ready.
    let turn = tokio::select! {
        biased;
        exit = driver.wait(handle) => return Some(End::Exited(exit)),
        _ = ordered(orders, |order| order != Order::Run) => return Some(End::Stop),
        turn = tokio::time::timeout(limit, prober.next()) => turn,
    };
    match turn {
        // Nothing is not ready any more that has never been.
        Ok(Turn::Ready | Turn::NotReady) => None,
        Ok(Turn::Restart(probe)) => Some(unhealthy(prober, probe)),
        Err(_) => {
            let seen = driver.explain_not_ready(handle);
            Some(End::NeverReady(prober.explain(seen)))
        }
    }
}

/// In and out of routing as its probes say, until something else is ordered (`None`).
// Ready => (Booting | Draining | Stopping), Booting => (Ready | Draining | Stopping)
async fn serve<D: Driver>(
    subject: Subject<'_, D>,
    prober: &mut Prober<'_, D>,
    handle: &mut D::Handle,
    orders: &mut watch::Receiver<Order>,
) -> Option<End> {
    let Subject {
        inner,
        driver,
        spec,
        ..
    } = subject;
    loop {
        let state = match prober.is_ready() {
            true => InstanceState::Ready,
            false => InstanceState::Booting,
        };
        inner.enter(&spec.id, state);
        let turn = tokio::select! {
            biased;
            exit = driver.wait(handle) => return Some(End::Exited(exit)),
            _ = ordered(orders, |order| order != Order::Run) => return None,
            turn = prober.next() => turn,
        };
        match turn {
            Turn::Ready => {
                info!(instance = %spec.id, "ready again");
                inner.admission.reopen(&spec.id);
            }
            Turn::NotReady => {
                // Before anybody is told: what comes meanwhile is sent elsewhere, or waits.
                inner.admission.close(&spec.id);
                let why = prober.said_of(ProbeKind::Readiness).unwrap_or_default();
                info!(instance = %spec.id, why, "not ready any more");
            }
            Turn::Restart(probe) => return Some(unhealthy(prober, probe)),
        }
    }
}

fn unhealthy<D: Driver>(prober: &Prober<'_, D>, probe: ProbeKind) -> End {
    let cause = prober.said_of(probe).unwrap_or_default();
    End::Unhealthy { probe, cause }
}

/// With its admission closed, until nothing is in flight or the drain is overdue; `None` = called
/// off.
async fn drain<D: Driver>(
    subject: Subject<'_, D>,
    handle: &mut D::Handle,
    orders: &mut watch::Receiver<Order>,
) -> Option<End> {
    let Subject {
        inner,
        driver,
        spec,
        ..
    } = subject;
    let deadline = Instant::now() + Duration::from_millis(spec.drain_deadline_ms);
    let order = *orders.borrow();
    if order == Order::Run {
        return None;
    }
    if order == Order::Drain {
        inner.enter(&spec.id, InstanceState::Draining);
        hit(Point::InstanceDraining);
        if planted(Bug::DrainCutsRequests) {
            return Some(End::Stop);
        }
        // A call-off before the drain's end: the same moment must not stop what is wanted.
        tokio::select! {
            biased;
            exit = driver.wait(handle) => return Some(End::Exited(exit)),
            _ = ordered(orders, |order| order != Order::Drain) => {
                if *orders.borrow() == Order::Run {
                    return None;
                }
            }
            () = inner.admission.drained(&spec.id) => return Some(End::Stop),
            () = tokio::time::sleep_until(deadline) => return Some(End::Stop),
        }
    }
    // Seen as on its way out: owners count it, replace it and never open it again.
    inner.enter(&spec.id, InstanceState::Stopping);
    Some(tokio::select! {
        biased;
        exit = driver.wait(handle) => End::Exited(exit),
        _ = ordered(orders, |order| order == Order::Kill) => End::Stop,
        () = inner.admission.drained(&spec.id) => End::Stop,
        () = tokio::time::sleep_until(deadline) => End::Stop,
    })
}

/// Resolves when what is wanted fits; never if the agent is gone.
async fn ordered(orders: &mut watch::Receiver<Order>, fits: impl Fn(Order) -> bool) {
    if orders.wait_for(|order| fits(*order)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn stop<D: Driver>(
    inner: &Inner,
    driver: &D,
    handle: &mut D::Handle,
    spec: &InstanceSpec,
    orders: &mut watch::Receiver<Order>,
) -> Exit {
    hit(Point::InstanceStops);
    inner.enter(&spec.id, InstanceState::Stopping);
    let grace = Duration::from_millis(spec.termination_grace_ms);
    tokio::select! {
        biased;
        _ = ordered(orders, |order| order == Order::Kill) => {}
        exit = driver.stop(handle, grace) => return exit,
    }
    driver.stop(handle, Duration::ZERO).await
}
