//! Instances as agents report them: soft state, never in the log.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::{Epoch, InstanceId, ObjectKey, ShardId};
use crate::instance_config::InstanceConfig;
use crate::isolation::Isolation;
use crate::probe::{Probe, ProbeKind};
use crate::service::is_default;
use crate::template::PullPolicy;

/// Life of an instance (06-runtime §1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum InstanceState {
    Preparing,
    Starting,
    /// Its process is up and not ready: not yet, or, with `ready_after_ms` set, not any more.
    Booting,
    Ready,
    /// Keeps its memory and takes no cpu; admits nothing until it is thawed and was seen ready again.
    Frozen,
    /// Admits nothing new, requests finish; back to `Ready` by a re-open until SIGTERM is sent,
    /// and on to `Frozen` where it is to be kept.
    Draining,
    /// SIGTERM was sent; no way back.
    Stopping,
    Exited,
    /// Nothing left on the host.
    Destroyed,
    /// The driver cannot tell: counted as running, never routed to.
    Lost,
}

impl InstanceState {
    /// Whether the instance counts against max-scale.
    pub fn is_counted(self) -> bool {
        !matches!(self, InstanceState::Exited | InstanceState::Destroyed)
    }
}

/// How an instance ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    Code(i32),
    Signal(i32),
    OutOfMemory,
    /// The process was adopted, so its status went to somebody else.
    Unknown,
    /// It never ran: the driver's words.
    StartFailed {
        stage: String,
        cause: String,
    },
    /// It ran but never became ready within the boot deadline.
    NeverReady {
        after_ms: u64,
    },
    /// It failed a probe so often that it was stopped; only of those that the template has.
    Unhealthy {
        probe: ProbeKind,
        cause: String,
    },
}

/// One instance as its agent sees it now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceReport {
    pub id: InstanceId,
    pub revision: ObjectKey,
    pub revision_uid: Arc<str>,
    pub shard: ShardId,
    /// Epoch of the owner that created it.
    pub epoch: Epoch,
    pub state: InstanceState,
    /// Address that its own node reaches it by: loopback, or a container's; present from `Booting` on.
    pub address: Option<SocketAddr>,
    pub pid: Option<u32>,
    pub in_flight: u32,
    /// Milliseconds since the start was accepted.
    pub age_ms: u64,
    /// Milliseconds from accepting the start to spawned, and to ready (0 = not yet).
    pub spawned_after_ms: u64,
    pub ready_after_ms: u64,
    pub exit: Option<Exit>,
    /// Newest output lines, oldest first, at most 5 of at most 1 KiB; filled when it has exited.
    pub last_output: Vec<String>,
    /// How far it is isolated; `None` of what is no program of the host, and of older agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// Older agents tell none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub waking: Waking,
}

/// How long a node needed to make an instance ready the last time, from its owner's order on: a start, or
/// a thaw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waking {
    /// Microseconds from the order to its process being up; 0 of one that was thawed.
    pub spawned_us: u64,
    /// Microseconds from the order to ready; 0 = not yet, or not known.
    pub ready_us: u64,
}

/// What an owner asks an agent to run. Everything the agent needs, but for what stands in Secrets and
/// ConfigMaps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceSpec {
    pub id: InstanceId,
    pub revision: ObjectKey,
    pub revision_uid: Arc<str>,
    pub service: Arc<str>,
    pub configuration: Arc<str>,
    pub image: String,
    pub command: Vec<String>,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub working_dir: String,
    /// `true` when the container port is named `h2c`.
    pub h2c: bool,
    pub container_concurrency: u32,
    /// Bound from spawn to ready; then the start has failed.
    pub boot_deadline_ms: u64,
    /// Bound of a drain: the revision's `timeoutSeconds`.
    pub drain_deadline_ms: u64,
    /// From SIGTERM to SIGKILL.
    pub termination_grace_ms: u64,
    /// Older owners send none.
    #[serde(default)]
    pub pull_policy: PullPolicy,
    /// Where a container is to listen; programs of the host get a port of their own.
    #[serde(default = "default_port")]
    pub container_port: u16,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub run_as: RunAs,
    #[serde(default, skip_serializing_if = "is_default")]
    pub probes: Probes,
    /// It begins with a socket that listens already (`nihilo.dev/socket-activation`).
    #[serde(default, skip_serializing_if = "is_default")]
    pub socket_activation: bool,
    /// Where less can be had it does not run (`nihilo.dev/min-isolation`).
    #[serde(default, skip_serializing_if = "is_default")]
    pub min_isolation: Isolation,
    /// What its node looks up for it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub config: InstanceConfig,
}

/// The template's probes, with every default filled in. Without one for readiness an instance is
/// ready as soon as something listens on its port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probes {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Box<Probe>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness: Option<Box<Probe>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup: Option<Box<Probe>>,
}

/// Knative's, where the template names none.
pub const DEFAULT_PORT: u16 = 8080;

fn default_port() -> u16 {
    DEFAULT_PORT
}

/// Stages of a start that owners tell by a reason of their own; of the others it is the image's.
pub mod stage {
    /// It lacks what it refers to, or cannot open it.
    pub const CONFIG: &str = "config";
    /// The node cannot show its volumes to it.
    pub const VOLUMES: &str = "volumes";
    /// There is no image or program to start from.
    pub const IMAGE: &str = "image";
    /// No container engine answers.
    pub const ENGINE: &str = "engine";
    /// There is no bundle to start from.
    pub const BUNDLE: &str = "bundle";
    /// The archive of its image gave another image.
    pub const IMAGE_ID: &str = "image-id";
    /// For whom it was to run as.
    pub const RUN_AS: &str = "run-as";
    /// It cannot be isolated as it is to be.
    pub const ISOLATION: &str = "isolation";
    /// No socket can be handed to it.
    pub const SOCKET: &str = "socket";
}

/// What an instance may use of its host; `None` = as much as there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Thousandths of a core.
    pub cpu_milli: Option<u64>,
    /// Thousandths of a core that it is weighed by where cpu is short.
    pub cpu_request_milli: Option<u64>,
    pub memory_bytes: Option<u64>,
}

/// As whom an instance runs; `None` = the node's choice, and for a group the user's own number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunAs {
    pub user: Option<u32>,
    pub group: Option<u32>,
}

impl InstanceSpec {
    /// The report of a start that has just been accepted, under an owner's `epoch`.
    pub fn accepted(&self, shard: ShardId, epoch: Epoch) -> InstanceReport {
        InstanceReport {
            id: self.id.clone(),
            revision: self.revision.clone(),
            revision_uid: self.revision_uid.clone(),
            shard,
            epoch,
            state: InstanceState::Preparing,
            address: None,
            pid: None,
            in_flight: 0,
            age_ms: 0,
            spawned_after_ms: 0,
            ready_after_ms: 0,
            exit: None,
            last_output: Vec::new(),
            isolation: None,
            waking: Waking::default(),
        }
    }
}
