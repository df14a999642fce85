//! One instance from spawn to destroyed.
//!
//! Starting => Booting => Ready <=> Draining => Stopping => Exited => Destroyed

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nihilo_failpoint::{Bug, Point, hit, planted};
use nihilo_host::Net;
use nihilo_types::instance::{Exit, InstanceSpec, InstanceState};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tracing::warn;

use crate::agent::Inner;
use crate::driver::{Driver, StartError, StartOutcome, Started};

/// Shortest and longest pause between two looks at whether the app listens.
const LOOK_MIN: Duration = Duration::from_micros(100);
const LOOK_MAX: Duration = Duration::from_millis(10);
/// A pause is this part of the time that the boot has taken so far, which bounds what is added to it.
const LOOK_PART: u32 = 10;
/// Looks are this fine only so long: tokio's clock, whose tick is a millisecond, does from then on.
const FINE_LOOKS: Duration = Duration::from_millis(20);
/// Boots that are looked at so closely at once, each by a thread.
pub(crate) const MAX_FINE_LOOKS: usize = 16;
/// A loopback dial is answered at once, unless the app's backlog is full.
const LOOK_LIMIT: Duration = Duration::from_millis(10);
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
    NeverReady,
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
    let started = match driver.start(&spec, &output).await {
        Ok(started) => started,
        Err(error) => return not_started(&inner, driver.as_ref(), &spec, error).await,
    };
    hit(Point::InstanceSpawned);
    inner.log("spawned", &spec.id, started.pid);
    inner.booting(&spec.id, &started);
    to_its_end(inner, driver, spec, started, orders, None).await;
}

/// Leads an instance on that an earlier process of this node has started; `stops` = it was on its
/// way out already.
pub(crate) async fn go_on<D: Driver>(
    inner: Arc<Inner>,
    driver: Arc<D>,
    spec: InstanceSpec,
    started: Started<D::Handle>,
    stops: bool,
    orders: watch::Receiver<Order>,
) {
    let end = stops.then_some(End::Stop);
    to_its_end(inner, driver, spec, started, orders, end).await;
}

/// From booting until nothing is left of it; or from `end` on, if that has come already.
async fn to_its_end<D: Driver>(
    inner: Arc<Inner>,
    driver: Arc<D>,
    spec: InstanceSpec,
    started: Started<D::Handle>,
    mut orders: watch::Receiver<Order>,
    end: Option<End>,
) {
    let Started {
        mut handle,
        address,
        pid,
        trace: _,
    } = started;
    let driver = driver.as_ref();
    let end = match end {
        Some(end) => end,
        None => lead(&inner, driver, &mut handle, &spec, address, &mut orders).await,
    };
    let mut remark = None;
    let exit = match end {
        End::Exited(exit) => exit,
        End::Stop => stop(&inner, driver, &mut handle, &spec, &mut orders).await,
        End::NeverReady => {
            remark = driver.explain_not_ready(&handle);
            stop(&inner, driver, &mut handle, &spec, &mut orders).await;
            Exit::NeverReady {
                after_ms: spec.boot_deadline_ms,
            }
        }
    };
    hit(Point::InstanceExited);
    inner.admission.forget(&spec.id);
    inner.log("exit", &spec.id, pid);
    let output = inner.output(&spec.id);
    let exit = driver.destroy(handle, exit).await;
    let mut lines = output.last_lines(LAST_LINES);
    lines.extend(remark);
    inner.exited(&spec.id, exit, lines);
    inner.enter(&spec.id, InstanceState::Destroyed);
}

async fn not_started<D: Driver>(inner: &Inner, driver: &D, spec: &InstanceSpec, error: StartError) {
    if error.outcome() == StartOutcome::MaybeStarted {
        warn!(instance = %spec.id, %error, "not known to have failed, whatever runs is destroyed");
        driver.destroy_unknown(&spec.id).await;
    }
    inner.log("exit", &spec.id, None);
    let (stage, cause) = (error.stage.to_owned(), error.cause);
    inner.exited(&spec.id, Exit::StartFailed { stage, cause }, Vec::new());
    inner.enter(&spec.id, InstanceState::Destroyed);
}

/// From booting until the instance has to end.
async fn lead<D: Driver>(
    inner: &Inner,
    driver: &D,
    handle: &mut D::Handle,
    spec: &InstanceSpec,
    address: SocketAddr,
    orders: &mut watch::Receiver<Order>,
) -> End {
    let boot = Duration::from_millis(spec.boot_deadline_ms);
    // An exit first: a dead app never becomes ready.
    tokio::select! {
        biased;
        exit = driver.wait(handle) => return End::Exited(exit),
        _ = ordered(orders, |order| order != Order::Run) => return End::Stop,
        ready = tokio::time::timeout(boot, listening(&inner.host.net, &inner.fine_looks, address)) => {
            if ready.is_err() {
                return End::NeverReady;
            }
        }
    }
    hit(Point::InstanceReady);
    inner.admission.open(spec, address);
    loop {
        inner.enter(&spec.id, InstanceState::Ready);
        tokio::select! {
            biased;
            exit = driver.wait(handle) => return End::Exited(exit),
            _ = ordered(orders, |order| order != Order::Run) => {}
        }
        inner.admission.close(&spec.id);
        let deadline = Instant::now() + Duration::from_millis(spec.drain_deadline_ms);
        if *orders.borrow() == Order::Drain {
            inner.enter(&spec.id, InstanceState::Draining);
            hit(Point::InstanceDraining);
            if planted(Bug::DrainCutsRequests) {
                return End::Stop;
            }
            // A call-off before the drain's end: the same moment must not stop what is wanted.
            tokio::select! {
                biased;
                exit = driver.wait(handle) => return End::Exited(exit),
                _ = ordered(orders, |order| order != Order::Drain) => {
                    if *orders.borrow() == Order::Run {
                        hit(Point::InstanceReopened);
                        inner.admission.reopen(&spec.id);
                        continue;
                    }
                }
                () = inner.admission.drained(&spec.id) => return End::Stop,
                () = tokio::time::sleep_until(deadline) => return End::Stop,
            }
        }
        // Seen as on its way out: owners count it, replace it and never open it again.
        inner.enter(&spec.id, InstanceState::Stopping);
        tokio::select! {
            biased;
            exit = driver.wait(handle) => return End::Exited(exit),
            _ = ordered(orders, |order| order == Order::Kill) => return End::Stop,
            () = inner.admission.drained(&spec.id) => return End::Stop,
            () = tokio::time::sleep_until(deadline) => return End::Stop,
        }
    }
}

/// Resolves when what is wanted fits; never if the agent is gone.
async fn ordered(orders: &mut watch::Receiver<Order>, fits: impl Fn(Order) -> bool) {
    if orders.wait_for(|order| fits(*order)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Resolves once something accepts on the port.
async fn listening(net: &Net, fine_looks: &Arc<Semaphore>, address: SocketAddr) {
    let started = Instant::now();
    // Finer than tokio's clock means a thread, and so the system's own network.
    if net.is_system()
        && let Ok(permit) = fine_looks.clone().try_acquire_owned()
    {
        let seen = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            is_listening_soon(address)
        });
        if matches!(seen.await, Ok(true)) {
            return;
        }
    }
    let address = address.to_string();
    while net.dial(&address).await.is_err() {
        tokio::time::sleep(pause_after(started.elapsed())).await;
    }
}

/// Looks closely for [`FINE_LOOKS`]; an asker that is gone leaves it to end by itself.
fn is_listening_soon(address: SocketAddr) -> bool {
    let started = std::time::Instant::now();
    while started.elapsed() < FINE_LOOKS {
        if std::net::TcpStream::connect_timeout(&address, LOOK_LIMIT).is_ok() {
            return true;
        }
        std::thread::sleep(pause_after(started.elapsed()));
    }
    false
}

fn pause_after(elapsed: Duration) -> Duration {
    (elapsed / LOOK_PART).clamp(LOOK_MIN, LOOK_MAX)
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
