//! The engine behind its socket: asked for the first time when there is a container to run or a service
//! names an image, and what its failures mean.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum};
use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListVolumesOptionsBuilder, RemoveContainerOptionsBuilder,
    RemoveVolumeOptionsBuilder,
};
use bollard::{API_DEFAULT_VERSION, ClientVersion, Docker};
use nihilo_types::bundle::Digest;
use nihilo_types::id::InstanceId;
use nihilo_types::instance::stage;
use nihilo_types::node_config::DockerSettings;
use parking_lot::Mutex;
use tokio::net::UnixStream;
use tokio::sync::OnceCell;
use tokio::time::Instant;
use tracing::{info, warn};

use super::network;
use super::request::{self, instance_of, label};
use crate::driver::StartError;
use crate::durable;
use crate::process::mark::Mark;

/// Seconds until a call is given up that the engine has taken and not answered.
const CALL_LIMIT_S: u64 = 60;
/// What every supported engine speaks: Docker 20.10.
const MIN_VERSION: ClientVersion = ClientVersion {
    major_version: 1,
    minor_version: 41,
};
/// What to do about an engine that is not there.
const START_IT: &str =
    "start the engine, or name its socket as `docker: {socket: PATH}` in the node's configuration";
/// Present, also after a power cut, where this directory's node has ever started a container.
const USED_FILE: &str = "docker";
/// Between two tries to reach an engine that may hold containers of ours.
const SWEEP_PAUSE: Duration = Duration::from_secs(5);
/// A removal that fails is tried so often, with a pause that doubles from this one.
const MAX_REMOVALS: u32 = 6;
const REMOVAL_PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(super) struct Engine {
    settings: DockerSettings,
    pub(super) mark: Mark,
    used: PathBuf,
    /// Instances of an earlier process that are gone on with.
    kept: BTreeSet<InstanceId>,
    ready: OnceCell<Ready>,
    /// Archives are loaded one after the other.
    pub(super) loading: tokio::sync::Mutex<()>,
    /// Images that were being loaded and have no name of this node's yet: an engine that fails may have
    /// them all the same, or soon.
    pub(super) unnamed: Mutex<BTreeMap<Digest, Unnamed>>,
}

/// What is known of an image that has no name yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unnamed {
    pub(super) bundle: Digest,
    /// When its load began.
    pub(super) begun_at: Instant,
}

/// What is to be removed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Left<'a> {
    /// By the engine's id, with its named volumes.
    Container(&'a str, &'a BTreeSet<String>),
    /// Whatever there is of it.
    OfInstance(&'a InstanceId),
}

/// An engine that has answered.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) docker: Docker,
    /// Which instances are attached to.
    pub(super) network: String,
}

impl Engine {
    pub(super) fn new(
        settings: DockerSettings,
        mark: Mark,
        dir: &Path,
        kept: BTreeSet<InstanceId>,
    ) -> Self {
        Self {
            settings,
            mark,
            used: dir.join(USED_FILE),
            kept,
            ready: OnceCell::new(),
            loading: tokio::sync::Mutex::default(),
            unnamed: Mutex::default(),
        }
    }

    /// The engine, once it has answered and holds nothing of an earlier process of this node but what
    /// is gone on with.
    ///
    /// # Errors
    /// Nobody answers, or nobody that can be used; the next call tries again.
    pub(super) async fn ready(&self) -> Result<&Ready, StartError> {
        self.ready.get_or_try_init(|| self.connect()).await
    }

    /// The engine, where it was asked for something before.
    pub(super) fn ready_by_now(&self) -> Option<&Ready> {
        self.ready.get()
    }

    /// Whether there is a socket to ask at: an engine that is down, or that this node may not use, has one.
    pub(super) fn is_there(&self) -> bool {
        let socket = std::fs::symlink_metadata(&self.settings.socket);
        !socket.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
    }

    async fn connect(&self) -> Result<Ready, StartError> {
        let docker = self.dial().await?;
        let network = network::choose(&docker, self.settings.network.as_deref()).await;
        // No container has been asked for, whatever failed.
        let failed_in = |stage| move |failed| self.start_error(stage, failed).with_nothing_left();
        let network = network.map_err(failed_in("network"))?;
        self.sweep(&docker)
            .await
            .map_err(failed_in(stage::ENGINE))?;
        info!(
            socket = %self.settings.socket.display(),
            version = %docker.client_version(),
            network,
            "Docker engine in use"
        );
        Ok(Ready { docker, network })
    }

    async fn dial(&self) -> Result<Docker, StartError> {
        let socket = self.settings.socket.display().to_string();
        if let Err(error) = UnixStream::connect(&self.settings.socket).await {
            return Err(StartError::not_started(
                stage::ENGINE,
                unreachable(&socket, &error),
            ));
        }
        let docker = Docker::connect_with_unix(&socket, CALL_LIMIT_S, API_DEFAULT_VERSION);
        let unusable = |error| {
            let cause = format!("the engine at `{socket}`: {}", Failed::of(error));
            StartError::not_started(stage::ENGINE, cause)
        };
        let docker = docker.map_err(unusable)?;
        let docker = docker.negotiate_version().await.map_err(unusable)?;
        let version = docker.client_version();
        if version < MIN_VERSION {
            let cause = format!(
                "the engine at `{socket}` speaks version {version} of Docker's API, this needs \
                 {MIN_VERSION}: install Docker 20.10 or newer"
            );
            return Err(StartError::not_started(stage::ENGINE, cause));
        }
        Ok(docker)
    }

    /// Removes every container of this directory's node; where it never started one nobody is asked.
    ///
    /// # Errors
    /// The engine does not answer, or does not remove them.
    pub(super) async fn end_everything(&self) -> Result<(), StartError> {
        if std::fs::metadata(&self.used).is_err() {
            return Ok(());
        }
        let docker = self.dial().await?;
        let swept = self.sweep(&docker).await;
        swept.map_err(|failed| self.start_error(stage::ENGINE, failed))
    }

    /// The engine, however long it is away.
    pub(super) async fn ready_at_last(&self) -> &Ready {
        loop {
            match self.ready().await {
                Ok(ready) => return ready,
                Err(_) => tokio::time::sleep(SWEEP_PAUSE).await,
            }
        }
    }

    /// The container of an instance that an earlier process has started, as it is now; `None` = there
    /// is none that ever ran.
    pub(super) async fn find(
        &self,
        ready: &Ready,
        id: &InstanceId,
    ) -> Result<Option<ContainerInspectResponse>, Failed> {
        let labels = self.labels_of(id);
        let Some((found, _)) = list(&ready.docker, labels).await?.into_iter().next() else {
            return Ok(None);
        };
        let inspected = match ready.docker.inspect_container(&found, None).await {
            Ok(inspected) => inspected,
            Err(error) => {
                let failed = Failed::of(error);
                return if failed.is_gone() {
                    Ok(None)
                } else {
                    Err(failed)
                };
            }
        };
        let status = inspected.state.as_ref().and_then(|state| state.status);
        if status == Some(ContainerStateStatusEnum::CREATED) {
            remove(&ready.docker, &found).await?;
            return Ok(None);
        }
        Ok(Some(inspected))
    }

    fn labels_of(&self, id: &InstanceId) -> Vec<String> {
        vec![
            label("mark", self.mark.as_str()),
            label("instance", id.as_str()),
        ]
    }

    /// Removes what an earlier process of this node left and nobody goes on with, and notes that there may be something
    /// from now on.
    async fn sweep(&self, docker: &Docker) -> Result<(), Failed> {
        let noted = self.note_use().await;
        noted.map_err(|error| Failed::Unanswered(error.to_string()))?;
        // Also where nothing was noted before: it costs one call, and an older program's note was not synced.
        let mut left = list(docker, vec![label("mark", self.mark.as_str())]).await?;
        left.retain(|(_, instance)| !self.kept.contains(instance));
        for (id, _) in &left {
            remove(docker, id).await?;
        }
        self.sweep_volumes(docker).await;
        let n_containers = left.len();
        if n_containers > 0 {
            warn!(
                n_containers,
                "removed what an earlier process of this node left running"
            );
        }
        Ok(())
    }

    /// Once for a directory it waits for the disk: containers outlive a power cut.
    async fn note_use(&self) -> std::io::Result<()> {
        if std::fs::metadata(&self.used).is_ok() {
            return Ok(());
        }
        let used = self.used.clone();
        tokio::task::spawn_blocking(move || durable::write(&used, b"")).await?
    }

    /// As far as it goes: one that somebody else uses keeps no instance from starting. The node's next start
    /// tries again.
    async fn sweep_volumes(&self, docker: &Docker) {
        let found = volumes(docker, vec![label("mark", self.mark.as_str())]).await;
        let found = found.unwrap_or_else(|failed| {
            warn!(%failed, "volumes that an earlier process of this node left are not looked for");
            Vec::new()
        });
        for (volume, instance) in found {
            if !self.kept.contains(&instance)
                && let Err(failed) = remove_volume(docker, &volume).await
            {
                warn!(volume, %failed, "left behind");
            }
        }
    }

    /// A container, and its named volumes.
    pub(super) async fn remove(
        &self,
        ready: &Ready,
        id: &str,
        volumes: &BTreeSet<String>,
    ) -> Result<(), Failed> {
        remove(&ready.docker, id).await?;
        self.remove_volumes(ready, volumes).await
    }

    pub(super) async fn remove_volumes(
        &self,
        ready: &Ready,
        volumes: &BTreeSet<String>,
    ) -> Result<(), Failed> {
        for volume in volumes {
            remove_volume(&ready.docker, volume).await?;
        }
        Ok(())
    }

    /// Tries until it is gone, or a bound of tries: then it is left to the next start of this node.
    pub(super) async fn remove_surely(&self, left: Left<'_>) {
        let mut pause = REMOVAL_PAUSE;
        for attempt in 1.. {
            let Err(failed) = self.try_remove(left).await else {
                return;
            };
            if attempt == MAX_REMOVALS {
                warn!(?left, %failed, "not removed; the node's next start does it");
                return;
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    async fn try_remove(&self, left: Left<'_>) -> Result<(), Failed> {
        let ready = self.ready().await;
        let ready = ready.map_err(|error| Failed::Unanswered(error.cause))?;
        match left {
            Left::Container(id, volumes) => self.remove(ready, id, volumes).await,
            Left::OfInstance(id) => {
                for (found, _) in list(&ready.docker, self.labels_of(id)).await? {
                    remove(&ready.docker, &found).await?;
                }
                for (volume, _) in volumes(&ready.docker, self.labels_of(id)).await? {
                    remove_volume(&ready.docker, &volume).await?;
                }
                Ok(())
            }
        }
    }

    /// What a failure in `stage` of a start says to people. An engine that took a call and did not
    /// answer may have done it.
    pub(super) fn start_error(&self, stage: &'static str, failed: Failed) -> StartError {
        match failed {
            Failed::Refused { text, .. } => StartError::not_started(stage, text),
            Failed::Unreached(why) => {
                let socket = self.settings.socket.display();
                let cause = format!("no Docker engine answers at `{socket}`: {why}; {START_IT}");
                StartError::not_started(stage::ENGINE, cause)
            }
            Failed::Unanswered(why) => {
                let socket = self.settings.socket.display();
                let cause = format!("the Docker engine at `{socket}` did not answer: {why}");
                StartError::maybe_started(stage::ENGINE, cause)
            }
        }
    }
}

/// Where containers may be left, they are removed once the engine answers; until then it is tried
/// again, as long as there is a driver.
pub(super) fn sweep_soon(engine: &Arc<Engine>) {
    if std::fs::metadata(&engine.used).is_err() {
        return;
    }
    let engine = Arc::downgrade(engine);
    tokio::spawn(async move {
        while let Some(engine) = engine.upgrade() {
            if engine.ready().await.is_ok() {
                return;
            }
            drop(engine);
            tokio::time::sleep(SWEEP_PAUSE).await;
        }
    });
}

/// The containers that carry all of these labels, running or not: the engine's id of each, and the
/// instance that it is.
async fn list(docker: &Docker, labels: Vec<String>) -> Result<Vec<(String, InstanceId)>, Failed> {
    let filters = HashMap::from([("label", labels)]);
    let options = ListContainersOptionsBuilder::new()
        .all(true)
        .filters(&filters)
        .build();
    let found = docker.list_containers(Some(options)).await;
    let found = found.map_err(Failed::of)?.into_iter();
    let found = found.filter_map(|container| {
        let instance = instance_of(&container.labels.unwrap_or_default());
        Some((container.id?, instance))
    });
    Ok(found.collect())
}

/// By force and with its anonymous volumes; one that is gone, or going, is removed.
async fn remove(docker: &Docker, id: &str) -> Result<(), Failed> {
    let options = RemoveContainerOptionsBuilder::new()
        .force(true)
        .v(true)
        .build();
    match docker.remove_container(id, Some(options)).await {
        Ok(()) => Ok(()),
        Err(error) => match Failed::of(error) {
            failed if failed.is_gone() => Ok(()),
            failed => Err(failed),
        },
    }
}

/// The named volumes that carry all of these labels, and the instance that each is of.
async fn volumes(
    docker: &Docker,
    labels: Vec<String>,
) -> Result<Vec<(String, InstanceId)>, Failed> {
    let filters = HashMap::from([("label", labels)]);
    let options = ListVolumesOptionsBuilder::new().filters(&filters).build();
    let found = docker.list_volumes(Some(options)).await;
    let found = found.map_err(Failed::of)?.volumes.unwrap_or_default();
    // One without a name of ours goes with its container.
    let found = found
        .into_iter()
        .filter(|volume| volume.name.starts_with(request::NAMES));
    Ok(found
        .map(|volume| (volume.name, instance_of(&volume.labels)))
        .collect())
}

/// One that is gone is removed.
async fn remove_volume(docker: &Docker, name: &str) -> Result<(), Failed> {
    let options = RemoveVolumeOptionsBuilder::new().force(true).build();
    match docker
        .remove_volume(name, Some(options))
        .await
        .map_err(Failed::of)
    {
        Err(Failed::Refused { status: 404, .. }) | Ok(()) => Ok(()),
        Err(failed) => Err(failed),
    }
}

fn unreachable(socket: &str, error: &std::io::Error) -> String {
    let next = match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            "add the user of this node to the socket's group, which is usually `docker`"
        }
        _ => START_IT,
    };
    format!("no Docker engine answers at `{socket}`: {error}; {next}")
}

/// Why a call had no success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failed {
    /// The engine's own answer: nothing was done.
    Refused { status: u16, text: String },
    /// Nobody was there to ask: nothing was done.
    Unreached(String),
    /// Nobody knows what was done.
    Unanswered(String),
}

impl Failed {
    pub(super) fn of(error: bollard::errors::Error) -> Self {
        use bollard::errors::Error;
        match error {
            Error::DockerResponseServerError {
                status_code,
                message,
            } => Self::Refused {
                status: status_code,
                text: message,
            },
            Error::DockerStreamError { error } => Self::Refused {
                status: 500,
                text: error,
            },
            Error::SocketNotFoundError(_) => Self::Unreached(chain(&error)),
            Error::HyperLegacyError { ref err } if err.is_connect() => {
                Self::Unreached(chain(&error))
            }
            other => Self::Unanswered(chain(&other)),
        }
    }

    /// No such container, or one that is not in the state to be stopped or removed again.
    pub(super) fn is_gone(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                status: 404 | 409,
                ..
            }
        )
    }

    /// Told from a missing network, which has the same status.
    pub(super) fn is_missing_image(&self) -> bool {
        matches!(self, Self::Refused { status: 404, text } if text.to_ascii_lowercase().contains("no such image"))
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { text, .. } | Self::Unreached(text) | Self::Unanswered(text) => {
                f.write_str(text)
            }
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Many of them repeat their cause.
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text += ": ";
            text += &cause_text;
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_image_is_told_from_what_else_is_missing() {
        let refused = |status, text: &str| Failed::Refused {
            status,
            text: text.into(),
        };
        assert!(refused(404, "No such image: nginx:latest").is_missing_image());
        assert!(!refused(404, "network nihilo not found").is_missing_image());
        assert!(!refused(409, "No such image: nginx:latest").is_missing_image());
        assert!(refused(409, "is not running").is_gone());
        assert!(!refused(500, "disk full").is_gone());
    }

    #[tokio::test]
    async fn a_socket_that_nobody_listens_on_is_named_with_the_next_step() {
        let dir = tempfile::tempdir().unwrap();
        let settings = DockerSettings {
            socket: dir.path().join("none.sock"),
            ..DockerSettings::default()
        };
        let engine = Engine::new(
            settings,
            Mark::of(dir.path()).unwrap(),
            dir.path(),
            BTreeSet::new(),
        );
        assert!(!engine.is_there());
        let error = engine.ready().await.unwrap_err();
        assert_eq!(error.stage, "engine");
        let wanted = ["none.sock", "No such file", "start the engine"];
        for part in wanted {
            assert!(error.cause.contains(part), "{}", error.cause);
        }
    }
}
