//! The process driver: programs of the host, one session each, confined to their limits.
//!
//! Everything is spawned through the launcher ([`crate::launch`]), which confines itself before it
//! becomes the program, from one thread that never ends. What shall become of a program when the
//! node's process dies makes two ways. `kill`: the launcher binds its life to ours, its output is in
//! pipes of ours. `adopt`: it is bound to nobody, its output is in pipes that have a name ([`pipes`]),
//! so that the node's next process finds both.

pub(crate) mod cgroup;
mod confine;
mod exec;
mod freeze;
mod handoff;
mod ids;
mod isolation;
mod launcher;
mod leader;
pub(crate) mod listening;
pub(crate) mod mark;
mod pipes;
mod port;
mod sampler;
mod scratch;
mod stat;
mod volumes;

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nihilo_types::bundle::BundleReference;
use nihilo_types::id::InstanceId;
use nihilo_types::image::Image;
use nihilo_types::instance::{Exit, InstanceSpec, stage};
use nihilo_types::node_config::ProcessSettings;
use parking_lot::Mutex;
use rustix::process::Signal;
use tokio::io::AsyncRead;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::warn;

use crate::bundle::{BundleId, Bundles, HOST_PATH, Program};
use crate::config::{Directories, Provided, Reader};
use crate::driver::{CallOff, Driver, Ended, FreezeError, Freezer, StartError, Started, Trace};
use crate::launch::{FAILED, FAILURE_MARK, ISOLATION_MARK, MOUNT_MARK, Plan};
use crate::logs::Output;
use cgroup::{Cgroups, Group};
use confine::{Confined, Confiner};
use freeze::{Frozen, Members};
use isolation::Isolating;
use launcher::Launcher;
use leader::{Adopted, Leader};
use mark::{MARK_ENV, Mark};
use pipes::Readers;
use port::Ports;
use scratch::Scratch;

/// Spawns that may wait for the thread.
const SPAWN_QUEUE: usize = 256;
/// Output that is still in the pipes is waited for so long after an exit.
const OUTPUT_GRACE: Duration = Duration::from_millis(200);
/// Newest lines among which a launcher's own words are looked for.
const LAUNCHER_LINES: usize = 5;

/// A child, and the readers of its output.
type Spawned = (Child, Vec<JoinHandle<()>>);
type Spawn = (Command, oneshot::Sender<std::io::Result<Child>>);

#[derive(Debug)]
pub struct ProcessDriver {
    executable: PathBuf,
    node_name: String,
    launcher: Launcher,
    /// Programs outlive this process; otherwise they are bound to its life.
    adopts: bool,
    mark: Mark,
    ports: Mutex<Ports>,
    confiner: Confiner,
    bundles: Option<Bundles>,
    spawner: mpsc::Sender<Spawn>,
}

/// A started program.
#[derive(Debug)]
pub struct Process {
    id: InstanceId,
    leader: Leader,
    /// Kept for the group, which may outlive its leader.
    pid: Option<u32>,
    address: SocketAddr,
    output: Output,
    readers: Vec<JoinHandle<()>>,
    confined: Confined,
    /// For commands that are run inside.
    provided: Arc<Provided>,
    /// `None` = it runs.
    frozen: Option<Frozen>,
}

/// Where commands of one instance run.
#[derive(Debug)]
pub struct Inside {
    address: SocketAddr,
    group: Group,
    provided: Arc<Provided>,
    /// Whose mounts a command sees.
    pid: Option<u32>,
}

/// Children of this process: before it has started any, those of the program whose place it has taken.
pub fn children() -> Vec<u32> {
    stat::children_of_ours()
}

pub(crate) use leader::reap;

/// Kills whatever was started from this directory, without an agent.
///
/// # Errors
/// The directory cannot be used.
pub fn end_everything(dir: &Path) -> std::io::Result<()> {
    let mark = Mark::of(dir)?;
    Cgroups::detect(mark.as_str()).end_all();
    mark.kill_everything();
    Scratch::of(&mark).remove_all();
    Directories::new(dir, mark.as_str()).retain(|_| false);
    Ok(())
}

/// Takes the pipes out of the directory of an instance of which nothing runs any more.
pub(crate) fn remove_pipes(dir: &Path) {
    pipes::remove(dir);
}

/// Groups first: what is in them cannot get away meanwhile.
fn end_left(confiner: &Confiner, mark: &Mark) {
    let (n_groups, n_orphans) = (confiner.sweep(), mark.kill_everything());
    confiner.sweep_files();
    if n_groups + n_orphans > 0 {
        warn!(
            n_groups,
            n_orphans, "killed what an earlier process of this node left running"
        );
    }
}

impl ProcessDriver {
    /// `executable` is our own binary, which holds the demo apps. Unless programs outlive this
    /// process (`adopts`), what an earlier one of this `dir` left running is killed first. What is in
    /// `dir` and in `private` is kept from isolated programs.
    ///
    /// # Errors
    /// `dir` cannot be written, or there is no thread.
    pub fn new(
        executable: PathBuf,
        node_name: String,
        first_port: u16,
        settings: ProcessSettings,
        (dir, private): (&Path, &[PathBuf]),
        adopts: bool,
    ) -> std::io::Result<Self> {
        let mark = Mark::of(dir)?;
        let launcher = Launcher::new()?;
        let try_plan = |plan: &Plan| launcher.try_plan(plan);
        let isolating = Isolating::find(&settings, dir, private, try_plan)?;
        let confiner = Confiner::new(settings, isolating, mark.clone(), adopts)?;
        if !adopts {
            end_left(&confiner, &mark);
        }
        Ok(Self {
            executable,
            node_name,
            launcher,
            adopts,
            mark,
            ports: Mutex::new(Ports::new(first_port)),
            confiner,
            bundles: None,
            spawner: spawner_thread()?,
        })
    }

    /// The same, running `bundle/…` images too.
    #[must_use]
    pub fn with_bundles(self, bundles: Option<Bundles>) -> Self {
        Self { bundles, ..self }
    }

    /// Instances of this node's directory that have a process or a group, whoever started them.
    pub(crate) fn found(&self) -> BTreeSet<InstanceId> {
        let mut found = self.mark.instances();
        found.extend(self.confiner.instances());
        found
    }

    /// What keeps instances within their limits here, in one line.
    pub fn limits(&self) -> String {
        self.confiner.describe()
    }

    /// How far programs are isolated here, and why not further, in one line.
    pub fn isolation(&self) -> String {
        self.confiner.isolation()
    }

    async fn program(&self, spec: &InstanceSpec, output: &Output) -> Result<Program, StartError> {
        let failed = |cause: String| StartError::not_started(stage::IMAGE, cause);
        let program = match Image::parse(&spec.image).map_err(failed)? {
            Image::Demo(name) => {
                let own = self.executable.to_string_lossy().into_owned();
                vec![own, "demo-app".into(), name]
            }
            Image::File(path) => {
                if std::fs::metadata(&path).is_err() {
                    return Err(failed(format!("no such file `{path}`")));
                }
                vec![path]
            }
            Image::Bundle(bundle) => {
                let say = |text: &str| output.push(true, text.as_bytes().to_vec());
                return self.of_bundle(bundle, spec, say).await;
            }
            Image::Container(reference) => {
                return Err(failed(format!(
                    "`{reference}` is a container image, no program"
                )));
            }
        };
        let mut argv = if spec.command.is_empty() {
            program
        } else {
            spec.command.clone()
        };
        argv.extend(spec.args.iter().cloned());
        Ok(Program::at(argv, &spec.working_dir))
    }

    /// Fetched first, where it is not here.
    async fn of_bundle(
        &self,
        bundle: BundleReference,
        spec: &InstanceSpec,
        say: impl Fn(&str),
    ) -> Result<Program, StartError> {
        let failed = |cause: String| StartError::not_started(stage::BUNDLE, cause);
        let bundles = self.bundles.as_ref();
        let bundles = bundles.ok_or_else(|| failed("this node keeps no bundles".into()))?;
        let id = BundleId::of(spec, &bundle).map_err(failed)?;
        let prepared = bundles.prepare(&id, spec, say).await;
        prepared.map_err(|error| failed(error.to_string()))
    }

    /// Thaws what an earlier process of this node has frozen, where its handle says that it runs.
    pub(crate) fn let_run(&self, handle: &Process) {
        self.members(handle).let_run(handle.pid);
    }

    fn members(&self, handle: &Process) -> Members {
        Members {
            id: handle.id.clone(),
            group: handle.confined.group(),
            mark: self.mark.clone(),
        }
    }

    /// Starts the program, confined; nothing of that is left where it fails.
    async fn spawn_confined(
        &self,
        program: &Program,
        spec: &InstanceSpec,
        address: SocketAddr,
        provided: &Provided,
        output: &Output,
    ) -> Result<(Spawned, Confined), StartError> {
        let mounts = volumes::planned(&provided.mounts, self.confiner.may_mount())?;
        // Before the program: whoever dials from now on waits for it instead of being refused.
        let stdin = match spec.socket_activation {
            true => handoff::listening(address)?,
            false => Stdio::null(),
        };
        let port = address.port();
        let confined = self.confiner.prepare(spec, program, port, mounts);
        let confined = confined.await?;
        let plan = &confined.plan;
        let spawned = match self.command(program, spec, address, provided, plan) {
            Ok(mut command) => {
                command.stdin(stdin);
                self.spawn(command, output).await
            }
            Err(error) => Err(error),
        };
        match spawned {
            Ok(spawned) => Ok((spawned, confined)),
            Err(error) => {
                let confined = Some(confined);
                self.confiner.end(&spec.id, confined, Exit::Unknown).await;
                Err(error)
            }
        }
    }

    fn command(
        &self,
        program: &Program,
        spec: &InstanceSpec,
        address: SocketAddr,
        provided: &Provided,
        plan: &Plan,
    ) -> Result<Command, StartError> {
        let mut command = self.launcher.command(plan, &program.argv);
        command
            .env_clear()
            .envs(self.environment(spec, address, provided))
            .stdin(Stdio::null())
            .kill_on_drop(!self.adopts);
        let home = self.confiner.home(&spec.id);
        if let Some(dir) = &program.dir {
            if !std::fs::metadata(dir).is_ok_and(|found| found.is_dir()) {
                let cause = format!("no such directory `{}`", dir.display());
                return Err(StartError::not_started("working-dir", cause));
            }
            command.current_dir(dir);
        } else if let Some(home) = home.filter(|home| home.is_dir()) {
            // One that was adopted from under other settings has none.
            command.current_dir(home);
        }
        Ok(command)
    }

    /// Starts the program; returns its readers too.
    async fn spawn(&self, mut command: Command, output: &Output) -> Result<Spawned, StartError> {
        if self.adopts {
            let (ends, readers) = pipes::create(&output.dir()).map_err(|error| {
                StartError::not_started("output", format!("no pipes for its output: {error}"))
            })?;
            command.stdout(ends.out).stderr(ends.err);
            let child = self.spawned(command).await?;
            return Ok((child, read_both(readers, output)));
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.spawned(command).await?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let readers = out.map(|out| read(out, output, false)).into_iter();
        let readers = readers.chain(err.map(|err| read(err, output, true)));
        Ok((child, readers.collect()))
    }

    async fn spawned(&self, command: Command) -> Result<Child, StartError> {
        let (answer, spawned) = oneshot::channel();
        let ending = "the node is shutting down";
        self.spawner
            .send((command, answer))
            .await
            .map_err(|_| StartError::not_started("spawn", ending))?;
        // The thread took it and did not answer: it may be anywhere in the call.
        let child = spawned
            .await
            .map_err(|_| StartError::maybe_started("spawn", ending))?;
        child.map_err(|error| StartError::not_started("spawn", error.to_string()))
    }

    /// Built from nothing, so that no secret of the node's leaks (06-runtime §2.2).
    fn environment(
        &self,
        spec: &InstanceSpec,
        address: SocketAddr,
        provided: &Provided,
    ) -> Vec<(String, OsString)> {
        let own = [
            ("PATH", HOST_PATH.join(":")),
            ("PORT", address.port().to_string()),
            ("HOST", address.ip().to_string()),
            ("K_SERVICE", spec.service.to_string()),
            ("K_CONFIGURATION", spec.configuration.to_string()),
            ("K_REVISION", spec.revision.name.to_string()),
            ("NIHILO_INSTANCE", spec.id.to_string()),
            ("NIHILO_NODE", self.node_name.clone()),
        ];
        let home = self.confiner.home(&spec.id);
        // Programs that have one to themselves need not be told that it is `/tmp`.
        let temporary = home.clone().map(|home| ("TMPDIR".to_owned(), home.into()));
        let home = home.unwrap_or_else(|| "/tmp".into());
        let home = [("HOME".to_owned(), home.into())];
        // After the user's: without it the instance could get away.
        let ours = [(MARK_ENV, self.mark.of_instance(&spec.id))];
        let named = |(key, value): (&str, String)| (key.to_owned(), value.into());
        let written = spec.env.iter();
        let written = written.map(|(key, value)| (key.clone(), value.into()));
        let looked_up = provided.env.iter().map(|(key, value)| {
            let value = OsStr::from_bytes(value.expose()).to_owned();
            (key.clone(), value)
        });
        own.into_iter()
            .map(named)
            .chain(home)
            .chain(temporary)
            .chain(volumes::variables(&provided.mounts))
            .chain(written)
            .chain(looked_up)
            .chain(ours.into_iter().map(named))
            .collect()
    }
}

impl Driver for ProcessDriver {
    type Handle = Process;
    type Inside = Inside;

    fn inside(&self, handle: &Process) -> Inside {
        Inside {
            address: handle.address,
            group: handle.confined.group(),
            provided: handle.provided.clone(),
            pid: handle.pid,
        }
    }

    fn reader(&self, spec: &InstanceSpec) -> Reader {
        match self.confiner.ids(spec) {
            Some((user, group)) => Reader::User(user, group),
            None => Reader::Node,
        }
    }

    async fn exec(
        &self,
        inside: &Inside,
        spec: &InstanceSpec,
        command: &[String],
    ) -> Result<Ended, String> {
        self.run_inside(inside, spec, command).await
    }

    async fn start(
        &self,
        spec: &InstanceSpec,
        provided: Provided,
        output: &Output,
        called_off: &mut CallOff,
    ) -> Result<Started<Process>, StartError> {
        self.confiner.check_isolation(spec, &self.node_name)?;
        let program = called_off.or(self.program(spec, output)).await?;
        let address = self.ports.lock().take()?;
        let confined = self.spawn_confined(&program, spec, address, &provided, output);
        let spawned = confined.await;
        let ((child, readers), confined) = match spawned {
            Ok(spawned) => spawned,
            Err(error) => {
                self.ports.lock().give_back(address.port());
                return Err(error);
            }
        };
        let pid = child.id();
        if let Some(pid) = pid.filter(|_| spec.socket_activation) {
            handoff::until_it_runs(pid).await;
        }
        self.confiner.watch(spec, pid, &confined, output);
        let outlives = pid.filter(|_| self.adopts);
        let trace = outlives.and_then(|pid| {
            Some(Trace {
                pid,
                start_ticks: stat::start_ticks(pid)?,
                port: address.port(),
            })
        });
        let handle = Process {
            id: spec.id.clone(),
            leader: Leader::Child(Box::new(child)),
            pid,
            address,
            output: output.clone(),
            readers,
            confined,
            provided: Arc::new(provided),
            frozen: None,
        };
        Ok(Started {
            handle,
            address,
            pid,
            trace,
            isolation: Some(self.confiner.level()),
        })
    }

    async fn wait(&self, handle: &mut Process) -> Exit {
        handle.leader.wait().await
    }

    async fn freeze(&self, handle: &mut Process) -> Result<Freezer, FreezeError> {
        let members = self.members(handle);
        let frozen = tokio::task::spawn_blocking(move || members.freeze()).await;
        let frozen = frozen.map_err(|error| FreezeError(error.to_string()))??;
        let by = frozen.by();
        handle.frozen = Some(frozen);
        Ok(by)
    }

    /// A few writes, or a few signals: no thread is waited for.
    async fn thaw(&self, handle: &mut Process) -> Result<(), FreezeError> {
        if let Some(frozen) = handle.frozen.take() {
            self.members(handle).thaw(&frozen);
        }
        Ok(())
    }

    async fn stop(&self, handle: &mut Process, grace: Duration) -> Exit {
        handle.leader.signal_group(Signal::TERM);
        if let Ok(exit) = tokio::time::timeout(grace, handle.leader.wait()).await {
            return exit;
        }
        handle.leader.signal_group(Signal::KILL);
        handle.leader.wait().await
    }

    async fn destroy(&self, handle: Process, exit: Exit) -> Exit {
        // What outlived the program: in its group at once, then wherever it went.
        handle.leader.kill_group_of_ended(handle.pid);
        let confined = Some(handle.confined);
        let exit = self.confiner.end(&handle.id, confined, exit).await;
        let read = futures_util::future::join_all(handle.readers);
        drop(tokio::time::timeout(OUTPUT_GRACE, read).await);
        if self.adopts {
            pipes::remove(&handle.output.dir());
        }
        self.ports.lock().give_back(handle.address.port());
        launcher_failure(exit, &handle.output.last_lines(LAUNCHER_LINES))
    }

    async fn destroy_unknown(&self, id: &InstanceId) {
        self.confiner.end(id, None, Exit::Unknown).await;
    }

    fn explain_not_ready(&self, handle: &Process) -> Option<String> {
        let wanted = handle.address.port();
        let ports = listening::ports_of_group(handle.pid?);
        Some(match ports.as_slice() {
            [] => format!("nothing listens on $PORT ({wanted})"),
            [one] => format!("the app listens on port {one}, not on $PORT ({wanted})"),
            [first, ..] => {
                format!("the app listens on port {first} and others, not on $PORT ({wanted})")
            }
        })
    }

    fn recover(
        &self,
        spec: &InstanceSpec,
        trace: &Trace,
        output: &Output,
    ) -> Option<Started<Process>> {
        let id = &spec.id;
        let adopted = Adopted::find(*trace, |pid| self.mark.is_on(pid, id))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, trace.port));
        self.ports.lock().taken(trace.port);
        let readers = match pipes::open(&output.dir()) {
            Ok(readers) => read_both(readers, output),
            Err(error) => {
                warn!(instance = %id, %error, "the output of an adopted instance cannot be read");
                Vec::new()
            }
        };
        let handle = Process {
            id: id.clone(),
            leader: Leader::Adopted(adopted),
            pid: Some(trace.pid),
            address,
            output: output.clone(),
            readers,
            confined: self.confiner.adopt(spec, trace.pid, output),
            provided: Arc::new(volumes::of_adopted(spec, trace.pid)),
            frozen: None,
        };
        Some(Started {
            handle,
            address,
            pid: Some(trace.pid),
            trace: Some(*trace),
            isolation: None,
        })
    }
}

fn spawner_thread() -> std::io::Result<mpsc::Sender<Spawn>> {
    let (spawner, mut queue) = mpsc::channel::<Spawn>(SPAWN_QUEUE);
    let runtime = tokio::runtime::Handle::current();
    // The parent-death signal fires when the *thread* that spawned ends, so this one must live as
    // long as the process.
    std::thread::Builder::new()
        .name("spawner".into())
        .spawn(move || {
            let _context = runtime.enter();
            while let Some((mut command, answer)) = queue.blocking_recv() {
                // An asker that is gone has its child killed on drop.
                drop(answer.send(command.spawn()));
            }
        })?;
    Ok(spawner)
}

fn read_both(readers: Readers, output: &Output) -> Vec<JoinHandle<()>> {
    vec![
        read(readers.out, output, false),
        read(readers.err, output, true),
    ]
}

fn read(
    stream: impl AsyncRead + Unpin + Send + 'static,
    output: &Output,
    is_stderr: bool,
) -> JoinHandle<()> {
    tokio::spawn(output.clone().read(stream, is_stderr))
}

/// A launcher that started nothing says so in its own words.
fn launcher_failure(exit: Exit, lines: &[String]) -> Exit {
    let said = lines
        .iter()
        .rev()
        .find_map(|line| line.strip_prefix(FAILURE_MARK));
    match (exit, said) {
        (Exit::Code(FAILED), Some(cause)) => {
            let (stage, cause) = stage_of(cause);
            Exit::StartFailed {
                stage: stage.into(),
                cause,
            }
        }
        (exit, _) => exit,
    }
}

fn stage_of(cause: &str) -> (&'static str, String) {
    if let Some(why) = cause.strip_prefix(MOUNT_MARK) {
        let cause = format!("its volumes cannot be mounted: {why}");
        return (stage::VOLUMES, cause);
    }
    if let Some(why) = cause.strip_prefix(ISOLATION_MARK) {
        return (stage::ISOLATION, format!("it cannot be isolated: {why}"));
    }
    ("exec", cause.into())
}
