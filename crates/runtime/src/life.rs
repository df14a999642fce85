//! One instance from spawn to destroyed.
//!
//! Starting => Booting => Ready <=> Draining => Stopping => Exited => Destroyed
//!                ^                    |           ^
//!                └──────── Frozen <───┘           |
//!                             └───────────────────┘
//!
//! One that is not ready any more is Booting again, with its admission closed, until it is; so is one
//! that was thawed.

use std::sync::Arc;
use std::time::Duration;

use nihilo_failpoint::{Bug, Point, hit, planted};
use nihilo_types::instance::{Exit, InstanceSpec, InstanceState};
use nihilo_types::probe::ProbeKind;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::agent::Inner;
use crate::driver::{CallOff, Driver, StartError, StartOutcome, Started};
use crate::probe::{Prober, Subject, Turn};

const LAST_LINES: usize = 5;
const SIGTERM: i32 = 15;

/// What the owner, or the node's end, wants of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Run,
    Drain,
    /// As a drain, and what is left then keeps its memory and takes no cpu.
    Freeze,
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
    /// Part of it may be frozen, and so deaf.
    Stuck,
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
    /// By an earlier process, which froze it, or was about to.
    Frozen,
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
        Ok(provided) => {
            let mut called_off = CallOff::of(&orders);
            driver
                .start(&spec, provided, &output, &mut called_off)
                .await
        }
        Err(error) => Err(error),
    };
    let started = match started {
        Ok(started) => started,
        Err(error) if error.is_called_off() => return called_off(&inner, &spec, error).await,
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
        Found::Started | Found::Booting | Found::WasReady | Found::Frozen => {
            let inside = driver.inside(&handle);
            let subject = Subject {
                inner: &inner,
                driver,
                inside: &inside,
                spec: &spec,
                address,
            };
            let prober = Prober::new(subject, found == Found::WasReady);
            let life = Life {
                subject,
                prober,
                handle: &mut handle,
                orders: &mut orders,
            };
            life.lead(found).await
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
        End::Stuck => {
            inner.enter(&spec.id, InstanceState::Stopping);
            (driver.stop(handle, Duration::ZERO).await, Vec::new())
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

/// Ended as it would have been by its stop, had it run by then: whoever ordered that sees no failure.
async fn called_off(inner: &Inner, spec: &InstanceSpec, error: StartError) {
    info!(instance = %spec.id, "start called off");
    inner.enter(&spec.id, InstanceState::Stopping);
    inner.log("exit", &spec.id, None);
    inner.take_back(&spec.id).await;
    inner.exited(&spec.id, Exit::Signal(SIGTERM), vec![error.cause]);
    inner.enter(&spec.id, InstanceState::Destroyed);
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

/// An instance between its start and its end: what is done in its states.
struct Life<'a, 'h, D: Driver> {
    subject: Subject<'a, D>,
    prober: Prober<'a, D>,
    handle: &'h mut D::Handle,
    orders: &'h mut watch::Receiver<Order>,
}

impl<D: Driver> Life<'_, '_, D> {
    /// From booting until the instance has to end.
    async fn lead(mut self, found: Found) -> End {
        let Subject { inner, spec, .. } = self.subject;
        if found == Found::Frozen {
            if let Some(end) = self.frozen().await {
                return end;
            }
            self.readmit();
        } else {
            if let Some(end) = self.boot().await {
                return end;
            }
            hit(Point::InstanceReady);
            inner.admission.open(spec, self.subject.address);
        }
        loop {
            if let Some(end) = self.serve().await {
                return end;
            }
            inner.admission.close(&spec.id);
            if let Some(end) = self.drain().await {
                return end;
            }
            hit(Point::InstanceReopened);
            self.readmit();
        }
    }

    fn readmit(&self) {
        let Subject { inner, spec, .. } = self.subject;
        if self.prober.is_ready() {
            inner.admission.reopen(&spec.id);
        }
    }

    /// Until it is ready for the first time; otherwise how it ends.
    async fn boot(&mut self) -> Option<End> {
        match self.until_ready().await {
            Ok(()) => None,
            Err(end) => Some(end.unwrap_or(End::Stop)),
        }
    }

    /// # Errors
    /// How it ends before; `None` where something else is ordered.
    async fn until_ready(&mut self) -> Result<(), Option<End>> {
        let Subject { driver, spec, .. } = self.subject;
        let limit = Duration::from_millis(spec.boot_deadline_ms);
        // An exit first: a dead app never becomes ready.
        let turn = tokio::select! {
            biased;
            exit = driver.wait(self.handle) => return Err(Some(End::Exited(exit))),
            _ = ordered(self.orders, |order| order != Order::Run) => return Err(None),
            turn = tokio::time::timeout(limit, self.prober.next()) => turn,
        };
        match turn {
            // Nothing is not ready any more that has never been.
            Ok(Turn::Ready | Turn::NotReady) => Ok(()),
            Ok(Turn::Restart(probe)) => Err(Some(self.unhealthy(probe))),
            Err(_) => {
                let seen = driver.explain_not_ready(self.handle);
                Err(Some(End::NeverReady(self.prober.explain(seen))))
            }
        }
    }

    /// In and out of routing as its probes say, until something else is ordered (`None`).
    // Ready => (Booting | Draining | Stopping), Booting => (Ready | Draining | Stopping)
    async fn serve(&mut self) -> Option<End> {
        let Subject {
            inner,
            driver,
            spec,
            ..
        } = self.subject;
        loop {
            let state = match self.prober.is_ready() {
                true => InstanceState::Ready,
                false => InstanceState::Booting,
            };
            inner.enter(&spec.id, state);
            let turn = tokio::select! {
                biased;
                exit = driver.wait(self.handle) => return Some(End::Exited(exit)),
                _ = ordered(self.orders, |order| order != Order::Run) => return None,
                turn = self.prober.next() => turn,
            };
            match turn {
                Turn::Ready => {
                    info!(instance = %spec.id, "ready again");
                    inner.admission.reopen(&spec.id);
                }
                Turn::NotReady => {
                    // Before anybody is told: what comes meanwhile is sent elsewhere, or waits.
                    inner.admission.close(&spec.id);
                    let why = self
                        .prober
                        .said_of(ProbeKind::Readiness)
                        .unwrap_or_default();
                    info!(instance = %spec.id, why, "not ready any more");
                }
                Turn::Restart(probe) => return Some(self.unhealthy(probe)),
            }
        }
    }

    fn unhealthy(&self, probe: ProbeKind) -> End {
        let cause = self.prober.said_of(probe).unwrap_or_default();
        End::Unhealthy { probe, cause }
    }

    /// With its admission closed, until nothing is in flight or the drain is overdue, and frozen from
    /// then on where that is ordered; `None` = called off, or thawed.
    async fn drain(&mut self) -> Option<End> {
        let Subject { inner, spec, .. } = self.subject;
        let deadline = Instant::now() + Duration::from_millis(spec.drain_deadline_ms);
        loop {
            let order = *self.orders.borrow();
            match order {
                Order::Run => {
                    self.prober.resume();
                    return None;
                }
                Order::Leave | Order::Kill => return Some(self.leave(deadline).await),
                Order::Drain | Order::Freeze => {}
            }
            inner.enter(&spec.id, InstanceState::Draining);
            hit(Point::InstanceDraining);
            if planted(Bug::DrainCutsRequests) {
                return Some(End::Stop);
            }
            match self.drained(order, deadline).await {
                Drained::ToItsEnd if order == Order::Freeze => return self.frozen().await,
                Drained::ToItsEnd => return Some(End::Stop),
                Drained::OrderedOtherwise => {}
                Drained::Ended(end) => return Some(end),
            }
        }
    }

    async fn drained(&mut self, order: Order, deadline: Instant) -> Drained {
        let Subject {
            inner,
            driver,
            spec,
            ..
        } = self.subject;
        // A call-off before the drain's end: the same moment must not stop what is wanted.
        tokio::select! {
            biased;
            exit = driver.wait(self.handle) => Drained::Ended(End::Exited(exit)),
            _ = ordered(self.orders, |other| other != order) => Drained::OrderedOtherwise,
            () = inner.admission.drained(&spec.id) => Drained::ToItsEnd,
            () = tokio::time::sleep_until(deadline) => Drained::Ended(End::Stop),
        }
    }

    /// The node ends: as a drain that nobody calls off.
    async fn leave(&mut self, deadline: Instant) -> End {
        let Subject {
            inner,
            driver,
            spec,
            ..
        } = self.subject;
        // Seen as on its way out: owners count it, replace it and never open it again.
        inner.enter(&spec.id, InstanceState::Stopping);
        tokio::select! {
            biased;
            exit = driver.wait(self.handle) => End::Exited(exit),
            _ = ordered(self.orders, |order| order == Order::Kill) => End::Stop,
            () = inner.admission.drained(&spec.id) => End::Stop,
            () = tokio::time::sleep_until(deadline) => End::Stop,
        }
    }

    /// Without cpu until something else is ordered; `None` = it was to run again, and does.
    // Draining => Frozen => (Booting | Stopping)
    async fn frozen(&mut self) -> Option<End> {
        let Subject {
            inner,
            driver,
            spec,
            ..
        } = self.subject;
        self.prober.rest();
        inner.admission.hold(spec, self.subject.address);
        // First, so that no later process of the node takes one that is deaf for one that serves.
        if !inner.write_down_as(&spec.id, InstanceState::Frozen) {
            warn!(instance = %spec.id, "not frozen but stopped: it cannot be written down");
            return Some(End::Stop);
        }
        match driver.freeze(self.handle).await {
            Ok(by) => info!(instance = %spec.id, by = by.as_str(), "frozen"),
            Err(error) => {
                warn!(instance = %spec.id, %error, "not frozen, stopped instead");
                return Some(End::Stop);
            }
        }
        inner.enter(&spec.id, InstanceState::Frozen);
        let exit = tokio::select! {
            biased;
            exit = driver.wait(self.handle) => Some(exit),
            _ = ordered(self.orders, |order| order != Order::Freeze) => None,
        };
        if let Some(exit) = exit {
            return Some(End::Exited(exit));
        }
        // Before it is stopped too: it is to hear of that.
        if let Err(error) = driver.thaw(self.handle).await {
            warn!(instance = %spec.id, %error, "not thawed, killed instead");
            return Some(End::Stuck);
        }
        let is_wanted = *self.orders.borrow() == Order::Run;
        match is_wanted {
            true => self.wake().await,
            false => Some(End::Stop),
        }
    }

    /// One good look, within the time of a boot, before anything is sent to it.
    async fn wake(&mut self) -> Option<End> {
        let Subject { inner, spec, .. } = self.subject;
        self.prober.begin_anew();
        inner.enter(&spec.id, InstanceState::Booting);
        inner.write_down(&spec.id);
        match self.until_ready().await {
            // Also where something else is ordered: that is seen to next.
            Ok(()) | Err(None) => None,
            Err(end) => end,
        }
    }
}

/// How a drain went.
enum Drained {
    ToItsEnd,
    OrderedOtherwise,
    Ended(End),
}

/// Resolves when what is wanted fits; never if the agent is gone.
pub(crate) async fn ordered(orders: &mut watch::Receiver<Order>, fits: impl Fn(Order) -> bool) {
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
