//! What the agent needs of a way to run instances. `process` runs programs, `docker` container
//! images, `fake` simulates them; one conformance suite holds for all.
//!
//! A driver knows nothing of epochs, states or drains: the agent decides, the driver does. Whether
//! an instance is ready is seen by the agent alone ([`crate::probe`]), whatever runs it.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nihilo_types::id::InstanceId;
use nihilo_types::instance::{Exit, InstanceSpec};
use nihilo_types::isolation::Isolation;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::config::{Provided, Reader};
use crate::docker::DockerDriver;
use crate::fake::FakeDriver;
use crate::life::{Order, ordered};
use crate::logs::Output;
use crate::process::ProcessDriver;

/// One way to run instances.
///
/// Dispatch is static: the agent matches [`AnyDriver`] once per instance.
pub trait Driver: Send + Sync + 'static {
    /// What the driver needs to go on with a started instance.
    type Handle: Send + Sync + 'static;

    /// What it needs to run a command inside one, while somebody waits for its end.
    type Inside: Send + Sync + 'static;

    /// Starts an instance with what was `provided` for it, whose output goes to `output`; returns
    /// before it is ready. What it is started from may have to come first: only that is `called_off`.
    ///
    /// # Errors
    /// See [`StartError::outcome`] for what is certain then.
    fn start(
        &self,
        spec: &InstanceSpec,
        provided: Provided,
        output: &Output,
        called_off: &mut CallOff,
    ) -> impl Future<Output = Result<Started<Self::Handle>, StartError>> + Send;

    /// As whom the instance reads the files of its volumes.
    fn reader(&self, spec: &InstanceSpec) -> Reader;

    /// Returns how the instance ended, once it has. May be dropped and called again.
    fn wait(&self, handle: &mut Self::Handle) -> impl Future<Output = Exit> + Send;

    fn inside(&self, handle: &Self::Handle) -> Self::Inside;

    /// Runs a command inside a running instance, under its limits, to its end. One that is not
    /// waited for any more is ended, where the driver can.
    ///
    /// # Errors
    /// Why it was not run, in words for people.
    fn exec(
        &self,
        inside: &Self::Inside,
        spec: &InstanceSpec,
        command: &[String],
    ) -> impl Future<Output = Result<Ended, String>> + Send;

    /// Takes the cpu from everything of a running instance, which keeps its memory, until it is thawed.
    /// One that is frozen by an earlier process of this node stays so.
    ///
    /// # Errors
    /// Why it is not frozen; it runs on.
    fn freeze(
        &self,
        handle: &mut Self::Handle,
    ) -> impl Future<Output = Result<Freezer, FreezeError>> + Send;

    /// Lets a frozen instance run on; nothing happens to one that is not frozen.
    ///
    /// # Errors
    /// Something of it may stay frozen: it has to be killed.
    fn thaw(
        &self,
        handle: &mut Self::Handle,
    ) -> impl Future<Output = Result<(), FreezeError>> + Send;

    /// Asks the instance to end, and kills it when it has not after `grace`.
    fn stop(&self, handle: &mut Self::Handle, grace: Duration)
    -> impl Future<Output = Exit> + Send;

    /// Leaves nothing of an ended instance on the host: descendants are killed, its last output is
    /// read, its port is free. Returns `exit`, told better where its last words say more.
    fn destroy(&self, handle: Self::Handle, exit: Exit) -> impl Future<Output = Exit> + Send;

    /// Kills whatever may run of an instance that has no handle; needed after
    /// [`StartOutcome::MaybeStarted`].
    fn destroy_unknown(&self, id: &InstanceId) -> impl Future<Output = ()> + Send;

    /// Says why an instance that runs is not ready, where the driver can tell.
    fn explain_not_ready(&self, handle: &Self::Handle) -> Option<String>;

    /// Finds an instance that an earlier process of this node has started; `None` when it is gone,
    /// its pid being another's by now included.
    fn recover(
        &self,
        spec: &InstanceSpec,
        trace: &Trace,
        output: &Output,
    ) -> Option<Started<Self::Handle>>;
}

/// How a command inside an instance ended, and the first [`MAX_SAID`] bytes of what it printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub exit: Exit,
    pub said: String,
}

const CALLED_OFF: &str = "called-off";

/// Bytes of a command's output that are kept.
pub(crate) const MAX_SAID: usize = 4096;

/// A started instance, not yet ready.
#[derive(Debug)]
pub struct Started<H> {
    pub handle: H,
    /// Where it will listen: on loopback, or at a container's own address.
    pub address: SocketAddr,
    pub pid: Option<u32>,
    /// How a later process of this node finds it; `None` when it does not outlive this one.
    pub trace: Option<Trace>,
    /// As it was started; `None` of one that was found, and where the level is another's to keep.
    pub isolation: Option<Isolation>,
}

/// What tells one process from every other that ever has its pid, and where it listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trace {
    pub pid: u32,
    /// Clock ticks from the host's boot to the process's start (`proc(5)`, field 22 of `stat`).
    pub start_ticks: u64,
    pub port: u16,
}

/// Tells a start that the instance is not wanted any more, while it waits for what it starts from: that
/// takes minutes, and nothing runs yet.
#[derive(Debug)]
pub struct CallOff(watch::Receiver<Order>);

impl CallOff {
    pub(crate) fn of(orders: &watch::Receiver<Order>) -> Self {
        Self(orders.clone())
    }

    /// For a start that nobody calls off.
    pub fn never() -> Self {
        Self(watch::channel(Order::Run).1)
    }

    /// What `work` comes to. Where the start is called off first, it is dropped: nothing of it may need
    /// an end.
    pub(crate) async fn or<T>(
        &mut self,
        work: impl Future<Output = Result<T, StartError>>,
    ) -> Result<T, StartError> {
        tokio::select! {
            biased;
            () = ordered(&mut self.0, |order| order != Order::Run) => Err(StartError::called_off()),
            done = work => done,
        }
    }
}

/// What is certain after a failed start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartOutcome {
    NotStarted,
    /// Something may run: it has to be destroyed before another start is tried.
    MaybeStarted,
}

/// Why an instance was not started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{cause}")]
pub struct StartError {
    /// The step that failed: `config`, `volumes`, `image`, `bundle`, `run-as`, `cgroup`, `isolation`,
    /// `working-dir`, `port`, `output`, `spawn`; of
    /// a container `image`, `image-id`, `engine`, `run-as`, `create`, `network`, `exec`.
    pub stage: &'static str,
    pub cause: String,
    outcome: StartOutcome,
}

impl StartError {
    pub(crate) fn not_started(stage: &'static str, cause: impl Into<String>) -> Self {
        Self {
            stage,
            cause: cause.into(),
            outcome: StartOutcome::NotStarted,
        }
    }

    pub(crate) fn maybe_started(stage: &'static str, cause: impl Into<String>) -> Self {
        Self {
            stage,
            cause: cause.into(),
            outcome: StartOutcome::MaybeStarted,
        }
    }

    fn called_off() -> Self {
        Self::not_started(CALLED_OFF, "called off before it was started")
    }

    /// Somebody ordered it, so it is no failure.
    pub(crate) fn is_called_off(&self) -> bool {
        self.stage == CALLED_OFF
    }

    pub fn outcome(&self) -> StartOutcome {
        self.outcome
    }

    /// For what had begun and was taken back.
    pub(crate) fn with_nothing_left(self) -> Self {
        Self::not_started(self.stage, self.cause)
    }

    pub(crate) fn with_something_left(self) -> Self {
        Self::maybe_started(self.stage, self.cause)
    }
}

/// By what an instance is frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freezer {
    Cgroup2,
    Cgroup1,
    /// SIGSTOP to each of its processes: a program that waits for its children sees it.
    Signal,
    /// The container engine's pause.
    Engine,
    Simulated,
}

impl Freezer {
    pub fn as_str(self) -> &'static str {
        match self {
            Freezer::Cgroup2 => "cgroup2",
            Freezer::Cgroup1 => "cgroup1",
            Freezer::Signal => "signal",
            Freezer::Engine => "engine",
            Freezer::Simulated => "simulated",
        }
    }
}

/// Why an instance was not frozen, or not thawed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FreezeError(pub String);

/// The driver that runs an instance.
#[derive(Debug, Clone)]
pub enum AnyDriver {
    Process(Arc<ProcessDriver>),
    Docker(Arc<DockerDriver>),
    Fake(Arc<FakeDriver>),
}
