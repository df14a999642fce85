//! One instance from spawn to destroyed.
//!
//! Starting => Booting => Ready <=> Draining => Stopping => Exited => Destroyed

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nihilo_types::instance::{Exit, InstanceSpec, InstanceState};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::agent::Inner;
use crate::launch::{FAILED, FAILURE_MARK};
use crate::logs::Output;
use crate::process::Started;

/// First and longest pause between two looks at whether the app listens.
const POLL_MIN: Duration = Duration::from_millis(1);
const POLL_MAX: Duration = Duration::from_millis(10);
/// Looks at the shortest pause.
const N_FAST_POLLS: u32 = 200;
/// Output that is still in the pipes is waited for so long after an exit.
const OUTPUT_GRACE: Duration = Duration::from_millis(200);
const LAST_LINES: usize = 5;

/// What the owner wants of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Run,
    Drain,
}

/// Why the running part ended.
enum End {
    Exited(Exit),
    /// Stop it now: ordered, drained or overdue.
    Stop,
    NeverReady,
}

pub(crate) async fn run(inner: Arc<Inner>, spec: InstanceSpec, mut orders: watch::Receiver<Order>) {
    inner.enter(&spec.id, InstanceState::Starting);
    inner.log("spawn", &spec.id, None);
    let started = match inner.driver.start(&spec).await {
        Ok(started) => started,
        Err(error) => {
            inner.log("exit", &spec.id, None);
            let (stage, cause) = (error.stage.to_owned(), error.cause);
            inner.exited(&spec.id, Exit::StartFailed { stage, cause }, Vec::new());
            inner.enter(&spec.id, InstanceState::Destroyed);
            return;
        }
    };
    let Started { mut child, address } = started;
    let pid = child.id();
    inner.log("spawned", &spec.id, pid);
    let output = inner.output(&spec.id);
    let readers = read_output(&mut child, &output);
    inner.booting(&spec.id, address, pid);
    let exit = match lead(&inner, &spec, &mut child, address, &mut orders).await {
        End::Exited(exit) => exit,
        End::Stop => stop(&inner, &spec, &mut child).await,
        End::NeverReady => {
            stop(&inner, &spec, &mut child).await;
            Exit::NeverReady {
                after_ms: spec.boot_deadline_ms,
            }
        }
    };
    // Descendants that outlived the program.
    signal_group(pid, Signal::KILL);
    inner.admission.forget(&spec.id);
    inner.log("exit", &spec.id, pid);
    // Only for its last words.
    drop(tokio::time::timeout(OUTPUT_GRACE, readers).await);
    let lines = output.last_lines(LAST_LINES);
    inner.exited(&spec.id, launcher_failure(exit, &lines), lines);
    inner.driver.release(address);
    inner.enter(&spec.id, InstanceState::Destroyed);
}

fn read_output(child: &mut Child, output: &Output) -> impl Future<Output = ()> + use<> {
    let out = child
        .stdout
        .take()
        .map(|stream| tokio::spawn(output.clone().read(stream, false)));
    let err = child
        .stderr
        .take()
        .map(|stream| tokio::spawn(output.clone().read(stream, true)));
    async move {
        for reader in [out, err].into_iter().flatten() {
            drop(reader.await);
        }
    }
}

/// From booting until the instance has to end.
async fn lead(
    inner: &Inner,
    spec: &InstanceSpec,
    child: &mut Child,
    address: SocketAddr,
    orders: &mut watch::Receiver<Order>,
) -> End {
    let boot = Duration::from_millis(spec.boot_deadline_ms);
    // An exit first: a dead app never becomes ready.
    tokio::select! {
        biased;
        exit = child.wait() => return End::Exited(exit_of(exit)),
        _ = ordered(orders, Order::Drain) => return End::Stop,
        ready = tokio::time::timeout(boot, listening(address)) => {
            if ready.is_err() {
                return End::NeverReady;
            }
        }
    }
    inner.admission.open(spec, address);
    loop {
        inner.enter(&spec.id, InstanceState::Ready);
        tokio::select! {
            biased;
            exit = child.wait() => return End::Exited(exit_of(exit)),
            _ = ordered(orders, Order::Drain) => {}
        }
        inner.admission.close(&spec.id);
        inner.enter(&spec.id, InstanceState::Draining);
        let deadline = Instant::now() + Duration::from_millis(spec.drain_deadline_ms);
        // A call-off before the drain's end: the same moment must not stop what is wanted again.
        tokio::select! {
            biased;
            exit = child.wait() => return End::Exited(exit_of(exit)),
            _ = ordered(orders, Order::Run) => inner.admission.reopen(&spec.id),
            () = inner.admission.drained(&spec.id) => return End::Stop,
            () = tokio::time::sleep_until(deadline) => return End::Stop,
        }
    }
}

/// Resolves when the owner wants this; never if the agent is gone.
async fn ordered(orders: &mut watch::Receiver<Order>, wanted: Order) {
    if orders.wait_for(|order| *order == wanted).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Resolves once something accepts on the port.
async fn listening(address: SocketAddr) {
    let mut n_polls = 0;
    while TcpStream::connect(address).await.is_err() {
        n_polls += 1;
        let pause = if n_polls < N_FAST_POLLS {
            POLL_MIN
        } else {
            POLL_MAX
        };
        tokio::time::sleep(pause).await;
    }
}

async fn stop(inner: &Inner, spec: &InstanceSpec, child: &mut Child) -> Exit {
    inner.enter(&spec.id, InstanceState::Stopping);
    signal_group(child.id(), Signal::TERM);
    let grace = Duration::from_millis(spec.termination_grace_ms);
    if let Ok(exit) = tokio::time::timeout(grace, child.wait()).await {
        return exit_of(exit);
    }
    signal_group(child.id(), Signal::KILL);
    exit_of(child.wait().await)
}

fn signal_group(pid: Option<u32>, signal: Signal) {
    let pid = pid
        .and_then(|pid| i32::try_from(pid).ok())
        .and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // An empty group is what is wanted.
        let _ = kill_process_group(pid, signal);
    }
}

fn exit_of(status: std::io::Result<std::process::ExitStatus>) -> Exit {
    use std::os::unix::process::ExitStatusExt;
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, Some(signal)) => Exit::Signal(signal),
            (None, None) => Exit::Unknown,
        },
        Err(_) => Exit::Unknown,
    }
}

/// A launcher that started nothing says so in its own words.
fn launcher_failure(exit: Exit, lines: &[String]) -> Exit {
    let said = lines
        .iter()
        .rev()
        .find_map(|line| line.strip_prefix(FAILURE_MARK));
    match (exit, said) {
        (Exit::Code(FAILED), Some(cause)) => Exit::StartFailed {
            stage: "exec".into(),
            cause: cause.into(),
        },
        (exit, _) => exit,
    }
}
