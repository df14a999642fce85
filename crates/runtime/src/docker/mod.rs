//! The Docker driver: container images, each instance a container of the host's engine.
//!
//! create ─> start ─> inspect ─> (output and exit are watched) ─> signal ─> remove
//!
//! An image of the cluster's own is loaded from its archive where the engine lacks it (decision 0100).
//!
//! Nothing is published on the host: an instance is dialled at its own address on the engine's
//! network, where it listens on the port that its image is made for. Nothing is asked of the engine
//! before a service names a container image. Labels say whose a container is (decision 0077).

mod archive;
mod engine;
mod exec;
mod explain;
mod image;
mod images;
mod network;
mod pause;
mod request;
mod watch;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, KillContainerOptionsBuilder, UploadToContainerOptionsBuilder,
};
use nihilo_types::id::InstanceId;
use nihilo_types::image::{Image, Reference};
use nihilo_types::instance::{Exit, InstanceSpec, stage};
use nihilo_types::node_config::DockerSettings;
use nihilo_types::template::PullPolicy;
use tracing::warn;

use crate::bundle::{BundleId, Bundles};
use crate::config::{MountSource, Provided, Reader};
use crate::driver::{CallOff, Driver, Ended, FreezeError, Freezer, StartError, Started, Trace};
use crate::logs::Output;
use crate::process::mark::Mark;
use engine::{Engine, Failed, Left, Ready};
pub use images::{Found, Images, NoImage, NotSaved};
use watch::{Begun, Watched};

/// What the engine sends where the image names no signal of its own.
const DEFAULT_STOP_SIGNAL: &str = "SIGTERM";
const KILL: &str = "SIGKILL";
/// A kill that has had no effect is sent again: the engine may have been away.
const KILL_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// Before an engine that could not say is asked again for a container.
const FIND_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// An engine that is asked to remove what a node has left has done so by then.
const END_LIMIT: Duration = Duration::from_secs(30);
/// Newest lines among which the init's own words are looked for.
const INIT_LINES: usize = 5;

#[derive(Debug)]
pub struct DockerDriver {
    engine: Arc<Engine>,
    node_name: String,
    mark: Mark,
    bundles: Option<Bundles>,
}

/// What a container is made of.
enum Wanted {
    /// As the node's engine understands the name.
    Named(Reference),
    /// What was pushed into the cluster.
    Kept(BundleId),
}

/// A started container.
#[derive(Debug)]
pub struct Container {
    /// The engine's id.
    id: String,
    pid: Option<u32>,
    port: u16,
    stop_signal: String,
    /// That do not go with it.
    volumes: BTreeSet<String>,
    output: Output,
    watched: Watched,
}

/// Removes the containers that a node of this `dir` has left, without an agent; programs are
/// [`crate::process::end_everything`]'s.
///
/// # Errors
/// `dir` cannot be used, or the engine does not answer: they may still run then.
pub async fn end_everything(settings: DockerSettings, dir: &Path) -> std::io::Result<()> {
    let engine = Engine::new(settings, Mark::of(dir)?, dir, BTreeSet::new());
    let ended = tokio::time::timeout(END_LIMIT, engine.end_everything()).await;
    let ended = ended.map_err(|_| format!("the engine takes longer than {END_LIMIT:?}"));
    let why = match ended {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => error.cause,
        Err(late) => late,
    };
    Err(std::io::Error::other(format!(
        "containers of this node may still run: {why}"
    )))
}

impl DockerDriver {
    /// What an earlier process of this `dir` left is removed once the engine answers, where it ever
    /// started a container, but for the instances that are to be `kept`: each of those is
    /// [`Self::adopt`]ed.
    ///
    /// # Errors
    /// `dir` cannot be read or written.
    pub fn new(
        settings: DockerSettings,
        node_name: String,
        dir: &Path,
        kept: BTreeSet<InstanceId>,
    ) -> std::io::Result<Self> {
        let mark = Mark::of(dir)?;
        let engine = Arc::new(Engine::new(settings, mark.clone(), dir, kept));
        engine::sweep_soon(&engine);
        Ok(Self {
            engine,
            node_name,
            mark,
            bundles: None,
        })
    }

    /// The same, running images that the cluster keeps too.
    #[must_use]
    pub fn with_bundles(self, bundles: Option<Bundles>) -> Self {
        Self { bundles, ..self }
    }

    /// What its engine has.
    pub fn images(&self) -> Images {
        Images(self.engine.clone())
    }

    /// Finds the container of an instance that an earlier process of this node has started, once the
    /// engine answers, however long that takes; `None` = there is none.
    ///
    /// One that has ended is found too: its exit is the engine's word.
    pub(crate) async fn adopt(
        &self,
        spec: &InstanceSpec,
        output: &Output,
    ) -> Option<Started<Container>> {
        loop {
            let ready = self.engine.ready_at_last().await;
            let inspected = match self.engine.find(ready, &spec.id).await {
                Ok(found) => found?,
                Err(failed) => {
                    warn!(instance = %spec.id, %failed, "its container cannot be looked for now");
                    tokio::time::sleep(FIND_AGAIN_AFTER).await;
                    continue;
                }
            };
            let id = inspected.id.clone()?;
            let watched = Watched::begin(&ready.docker, &id, &inspected, output, Begun::Before);
            return Some(started(ready, id, spec, &inspected, (output, watched)));
        }
    }

    /// Returns once nothing of it is left: with the engine away it may still run.
    pub(crate) async fn swept(&self, id: &InstanceId) {
        self.engine.ready_at_last().await;
        self.destroy_unknown(id).await;
    }

    async fn create_named(
        &self,
        ready: &Ready,
        spec: &InstanceSpec,
        provided: &Provided,
        image: &Reference,
        (output, called_off): (&Output, &mut CallOff),
    ) -> Result<String, StartError> {
        if spec.pull_policy == PullPolicy::Always {
            called_off
                .or(image::pull(&ready.docker, image, output))
                .await?;
        }
        let name = image.to_string();
        let first = match self.try_create(ready, spec, provided, &name).await {
            Err(failed) if failed.is_missing_image() => failed,
            created => return created.map_err(|failed| self.engine.start_error("create", failed)),
        };
        if spec.pull_policy == PullPolicy::Never {
            return Err(image::not_here(image, &first));
        }
        called_off
            .or(image::pull(&ready.docker, image, output))
            .await?;
        let created = self.try_create(ready, spec, provided, &name).await;
        created.map_err(|failed| self.engine.start_error("create", failed))
    }

    /// By its id, so that no name of this engine's matters.
    async fn create_kept(
        &self,
        ready: &Ready,
        spec: &InstanceSpec,
        provided: &Provided,
        bundle: BundleId,
        (output, called_off): (&Output, &mut CallOff),
    ) -> Result<String, StartError> {
        let failed = |cause: String| StartError::not_started(stage::BUNDLE, cause);
        let bundles = self.bundles.clone();
        let bundles = bundles.ok_or_else(|| failed("this node keeps no bundles".into()))?;
        let known = async {
            bundles
                .image(&bundle)
                .await
                .map_err(|e| failed(e.to_string()))
        };
        let image = called_off.or(known).await?;
        let id = image.to_string();
        match self.try_create(ready, spec, provided, &id).await {
            Err(failed) if failed.is_missing_image() => {}
            created => {
                let created =
                    created.map_err(|failed| self.engine.start_error("create", failed))?;
                // No start waits for it.
                let engine = self.engine.clone();
                tokio::spawn(archive::name_where_none(engine, image, bundle.digest));
                return Ok(created);
            }
        }
        let (engine, output) = (self.engine.clone(), output.clone());
        // Not given up in the middle when it is called off: the engine would go on with it.
        let brought = tokio::spawn(archive::bring(engine, bundles, bundle, image, output));
        let brought = async { brought.await.unwrap_or_else(|e| Err(failed(e.to_string()))) };
        called_off.or(brought).await?;
        let created = self.try_create(ready, spec, provided, &id).await;
        created.map_err(|failed| self.engine.start_error("create", failed))
    }

    async fn try_create(
        &self,
        ready: &Ready,
        spec: &InstanceSpec,
        provided: &Provided,
        image: &str,
    ) -> Result<String, Failed> {
        let name = request::name(&self.mark, &spec.id);
        let options = CreateContainerOptionsBuilder::new().name(&name).build();
        let (node, network) = (self.node_name.as_str(), ready.network.as_str());
        let asked = request::container(spec, provided, image, node, &self.mark, network);
        let created = ready.docker.create_container(Some(options), asked).await;
        let failed = match created.map_err(Failed::of) {
            Ok(created) => return Ok(created.id),
            Err(failed) => failed,
        };
        // Without an image nothing is made. Else volumes may be there, which no container is to take along.
        let volumes = request::shared_volumes(&self.mark, &spec.id, &provided.mounts);
        if !failed.is_missing_image()
            && let Err(why) = self.engine.remove_volumes(ready, &volumes).await
        {
            warn!(instance = %spec.id, %why, "volumes of a container that was refused stay");
        }
        Err(failed)
    }

    /// Lets whoever the image runs as write to the engine's volumes.
    async fn open_volumes(
        &self,
        ready: &Ready,
        id: &str,
        provided: &Provided,
    ) -> Result<(), StartError> {
        let Some(archive) = request::opened_volumes(&provided.mounts) else {
            return Ok(());
        };
        let options = UploadToContainerOptionsBuilder::new().path("/").build();
        let archive = bollard::body_full(archive.into());
        let opened = ready
            .docker
            .upload_to_container(id, Some(options), archive)
            .await;
        opened.map_err(|error| self.engine.start_error(stage::VOLUMES, Failed::of(error)))
    }

    /// From created to what is known of it running.
    async fn launch(
        &self,
        ready: &Ready,
        id: &str,
    ) -> Result<ContainerInspectResponse, StartError> {
        let started = ready.docker.start_container(id, None).await;
        started.map_err(|error| self.engine.start_error("exec", Failed::of(error)))?;
        let inspected = ready.docker.inspect_container(id, None).await;
        inspected.map_err(|error| {
            // It runs, as far as anybody knows.
            StartError::maybe_started(stage::ENGINE, Failed::of(error).to_string())
        })
    }

    async fn signal(&self, handle: &Container, signal: &str) {
        let Ok(ready) = self.engine.ready().await else {
            return;
        };
        let options = KillContainerOptionsBuilder::new().signal(signal).build();
        let sent = ready.docker.kill_container(&handle.id, Some(options)).await;
        if let Err(failed) = sent.map_err(Failed::of)
            // Not running or not there: what was wanted.
            && !failed.is_gone()
        {
            warn!(container = handle.id, signal, %failed, "signal not sent");
        }
    }
}

impl Driver for DockerDriver {
    type Handle = Container;
    /// The engine's id of it.
    type Inside = String;

    fn inside(&self, handle: &Container) -> String {
        handle.id.clone()
    }

    async fn exec(
        &self,
        inside: &String,
        _: &InstanceSpec,
        command: &[String],
    ) -> Result<Ended, String> {
        let ready = self.engine.ready().await.map_err(|error| error.cause)?;
        let ended = exec::run(&ready.docker, inside, command).await;
        ended.map_err(|failed| failed.to_string())
    }

    async fn start(
        &self,
        spec: &InstanceSpec,
        provided: Provided,
        output: &Output,
        called_off: &mut CallOff,
    ) -> Result<Started<Container>, StartError> {
        let wanted = wanted(spec)?;
        if spec.socket_activation {
            return Err(no_socket());
        }
        let ready = self.engine.ready().await?;
        may_mount(ready, &provided).await?;
        let along = (output, called_off);
        let id = match wanted {
            Wanted::Named(image) => {
                self.create_named(ready, spec, &provided, &image, along)
                    .await?
            }
            Wanted::Kept(bundle) => {
                self.create_kept(ready, spec, &provided, bundle, along)
                    .await?
            }
        };
        let launched = match self.open_volumes(ready, &id, &provided).await {
            Ok(()) => self.launch(ready, &id).await,
            Err(error) => Err(error),
        };
        let inspected = match launched {
            Ok(inspected) => inspected,
            Err(error) => {
                // Where even this fails the agent asks for it again, by the instance's own id.
                let volumes = request::shared_volumes(&self.mark, &spec.id, &provided.mounts);
                return match self.engine.remove(ready, &id, &volumes).await {
                    Ok(()) => Err(error.with_nothing_left()),
                    Err(_) => Err(error.with_something_left()),
                };
            }
        };
        let watched = Watched::begin(&ready.docker, &id, &inspected, output, Begun::Now);
        Ok(started(ready, id, spec, &inspected, (output, watched)))
    }

    fn reader(&self, spec: &InstanceSpec) -> Reader {
        match (spec.run_as.user, spec.run_as.group) {
            (None, None) => Reader::OfImage,
            // Only root gives files away, and whoever it is can read those.
            _ if !rustix::process::geteuid().is_root() => Reader::OfImage,
            (user, group) => {
                let user = user.unwrap_or(0);
                Reader::User(user, group.unwrap_or(user))
            }
        }
    }

    /// Never: what finds a container is its label, and the engine may be away ([`Self::adopt`]).
    fn recover(&self, _: &InstanceSpec, _: &Trace, _: &Output) -> Option<Started<Container>> {
        None
    }

    async fn wait(&self, handle: &mut Container) -> Exit {
        handle.watched.exit().await
    }

    async fn freeze(&self, handle: &mut Container) -> Result<Freezer, FreezeError> {
        self.pause(handle).await.map(|()| Freezer::Engine)
    }

    async fn thaw(&self, handle: &mut Container) -> Result<(), FreezeError> {
        self.unpause(handle).await
    }

    async fn stop(&self, handle: &mut Container, grace: Duration) -> Exit {
        if !grace.is_zero() {
            self.signal(&*handle, &handle.stop_signal).await;
            if let Ok(exit) = tokio::time::timeout(grace, handle.watched.exit()).await {
                return exit;
            }
        }
        // Ends when the engine says that it has ended, or that it knows no such container.
        loop {
            self.signal(&*handle, KILL).await;
            let ended = tokio::time::timeout(KILL_AGAIN_AFTER, handle.watched.exit()).await;
            if let Ok(exit) = ended {
                return exit;
            }
        }
    }

    async fn destroy(&self, mut handle: Container, exit: Exit) -> Exit {
        handle.watched.output_read().await;
        let left = Left::Container(&handle.id, &handle.volumes);
        self.engine.remove_surely(left).await;
        init_failure(exit, &handle.output.last_lines(INIT_LINES))
    }

    async fn destroy_unknown(&self, id: &InstanceId) {
        self.engine.remove_surely(Left::OfInstance(id)).await;
    }

    fn explain_not_ready(&self, handle: &Container) -> Option<String> {
        explain::not_ready(&handle.id, handle.pid?, handle.port)
    }
}

fn no_socket() -> StartError {
    let why = "an engine hands no socket to a container; leave `nihilo.dev/socket-activation` out";
    StartError::not_started(stage::SOCKET, why)
}

/// What is known of a container that was started.
fn started(
    ready: &Ready,
    id: String,
    spec: &InstanceSpec,
    inspected: &ContainerInspectResponse,
    (output, watched): (&Output, Watched),
) -> Started<Container> {
    let (port, pid) = (spec.container_port, pid_of(inspected));
    let config = inspected.config.as_ref();
    let stop_signal = config.and_then(|config| config.stop_signal.clone());
    let handle = Container {
        volumes: named_volumes(inspected),
        id,
        pid,
        port,
        stop_signal: stop_signal.unwrap_or_else(|| DEFAULT_STOP_SIGNAL.into()),
        output: output.clone(),
        watched,
    };
    Started {
        handle,
        address: address_of(inspected, &ready.network, port),
        pid,
        trace: None,
        isolation: None,
    }
}

/// Volumes are directories of this node's host, which the engine must see at the same paths.
async fn may_mount(ready: &Ready, provided: &Provided) -> Result<(), StartError> {
    let sources = || provided.mounts.iter().map(|mount| &mount.source);
    let refused = |cause: &str| Err(StartError::not_started(stage::VOLUMES, cause));
    if sources().any(|source| matches!(source, MountSource::Earlier(_))) {
        return refused(
            "a volume of `medium: Memory` can be mounted once in a container: mount it at one \
             path, or leave out the medium",
        );
    }
    let mut directories = sources().filter(|source| matches!(source, MountSource::Directory(_)));
    if directories.next().is_some() && network::is_container_of(&ready.docker).await {
        return refused(
            "this node runs in a container of the engine that it uses, which does not see its \
             files: give the app variables instead, or run the node on the engine's host",
        );
    }
    Ok(())
}

fn wanted(spec: &InstanceSpec) -> Result<Wanted, StartError> {
    let failed = |why: String| StartError::not_started(stage::IMAGE, why);
    match Image::parse(&spec.image).map_err(failed)? {
        Image::Container(image) => Ok(Wanted::Named(image)),
        Image::Bundle(bundle) if bundle.is_image() => BundleId::of(spec, &bundle)
            .map(Wanted::Kept)
            .map_err(failed),
        Image::Demo(_) | Image::File(_) | Image::Bundle(_) => {
            Err(failed(format!("`{}` is no container image", spec.image)))
        }
    }
}

/// A container that has ended already has no address, and its exit is known: nobody dials.
fn address_of(inspected: &ContainerInspectResponse, network: &str, port: u16) -> SocketAddr {
    let networks = inspected.network_settings.as_ref();
    let attached = networks.and_then(|settings| settings.networks.as_ref());
    let endpoint = attached.and_then(|all| all.get(network).or_else(|| all.values().next()));
    let address = endpoint.and_then(|endpoint| endpoint.ip_address.as_ref()?.parse().ok());
    SocketAddr::new(address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), port)
}

/// Those of its volumes that were given names.
fn named_volumes(inspected: &ContainerInspectResponse) -> BTreeSet<String> {
    let mounts = inspected.mounts.iter().flatten();
    let volumes = mounts.filter_map(|mount| mount.name.clone());
    volumes
        .filter(|name| name.starts_with(request::NAMES))
        .collect()
}

fn pid_of(inspected: &ContainerInspectResponse) -> Option<u32> {
    let pid = inspected.state.as_ref()?.pid?;
    u32::try_from(pid).ok().filter(|pid| *pid != 0)
}

/// The engine's init runs the program: where it cannot, the container has started all the same, and
/// only the init's words tell (`tini`: exit 127 or 126, one line on stderr).
fn init_failure(exit: Exit, lines: &[String]) -> Exit {
    let (Exit::Code(126 | 127), Some(said)) = (
        &exit,
        lines
            .iter()
            .rev()
            .find(|line| line.starts_with("[FATAL tini")),
    ) else {
        return exit;
    };
    let words = said
        .split_once("exec ")
        .and_then(|(_, rest)| rest.split_once(" failed: "));
    let Some((program, why)) = words else {
        return exit;
    };
    let cause = match why.starts_with("No such file") {
        true => format!("no such file `{program}` in the image"),
        false => format!("`{program}`: {why}"),
    };
    Exit::StartFailed {
        stage: "exec".into(),
        cause,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_the_init_could_not_run_is_named() {
        let said = "[FATAL tini (7)] exec /no/such failed: No such file or directory".to_owned();
        let exit = init_failure(Exit::Code(127), &["starting".into(), said.clone()]);
        let Exit::StartFailed { stage, cause } = exit else {
            panic!("{exit:?}");
        };
        assert_eq!(stage, "exec");
        assert_eq!(cause, "no such file `/no/such` in the image");
        // The app's own 127, and the same words with another end.
        assert_eq!(init_failure(Exit::Code(127), &[]), Exit::Code(127));
        assert_eq!(init_failure(Exit::Code(1), &[said]), Exit::Code(1));
    }
}
