//! The process driver: programs of the host, one session each, confined to their limits and bound to
//! the node's life.
//!
//! Everything is spawned through the launcher ([`crate::launch`]), from one thread that never ends.

mod cgroup;
mod confine;
mod ids;
mod launcher;
mod listening;
mod mark;
mod port;
mod sampler;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nihilo_types::id::InstanceId;
use nihilo_types::image::Image;
use nihilo_types::instance::{Exit, InstanceSpec};
use nihilo_types::node_config::ProcessSettings;
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::warn;

use crate::driver::{Driver, StartError, Started};
use crate::launch::{FAILED, FAILURE_MARK};
use crate::logs::Output;
use confine::{Confined, Confiner};
use launcher::Launcher;
use mark::{MARK_ENV, Mark};
use port::Ports;

/// Spawns that may wait for the thread.
const SPAWN_QUEUE: usize = 256;
/// Output that is still in the pipes is waited for so long after an exit.
const OUTPUT_GRACE: Duration = Duration::from_millis(200);
/// Newest lines among which a launcher's own words are looked for.
const LAUNCHER_LINES: usize = 5;

type Spawn = (Command, oneshot::Sender<std::io::Result<Child>>);

#[derive(Debug)]
pub struct ProcessDriver {
    executable: PathBuf,
    node_name: String,
    launcher: Launcher,
    mark: Mark,
    ports: Mutex<Ports>,
    confiner: Confiner,
    spawner: mpsc::Sender<Spawn>,
}

/// A started program.
#[derive(Debug)]
pub struct Process {
    id: InstanceId,
    child: Child,
    /// Kept for the group, which may outlive its leader.
    pid: Option<u32>,
    address: SocketAddr,
    output: Output,
    readers: Vec<JoinHandle<()>>,
    confined: Confined,
}

impl ProcessDriver {
    /// `executable` is our own binary, which holds the demo apps. What an earlier
    /// process of this `dir` left running is killed first.
    ///
    /// # Errors
    /// `dir` cannot be written, or there is no thread.
    pub fn new(
        executable: PathBuf,
        node_name: String,
        first_port: u16,
        settings: ProcessSettings,
        dir: &Path,
    ) -> std::io::Result<Self> {
        let mark = Mark::of(dir)?;
        let confiner = Confiner::new(settings, mark.clone())?;
        confiner.sweep();
        let n_orphans = mark.kill_everything();
        if n_orphans > 0 {
            warn!(
                n_orphans,
                "killed what an earlier process of this node left running"
            );
        }
        Ok(Self {
            executable,
            node_name,
            launcher: Launcher::new()?,
            mark,
            ports: Mutex::new(Ports::new(first_port)),
            confiner,
            spawner: spawner_thread()?,
        })
    }

    /// What keeps instances within their limits here, in one line.
    pub fn limits(&self) -> String {
        self.confiner.describe()
    }

    fn argv(&self, spec: &InstanceSpec) -> Result<Vec<String>, StartError> {
        let failed = |cause: String| StartError::not_started("image", cause);
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
        };
        let mut argv = if spec.command.is_empty() {
            program
        } else {
            spec.command.clone()
        };
        argv.extend(spec.args.iter().cloned());
        Ok(argv)
    }

    /// As [`Self::spawn`]; nothing of the confinement is left where that fails.
    async fn spawn_confined(
        &self,
        argv: &[String],
        spec: &InstanceSpec,
        address: SocketAddr,
    ) -> Result<(Child, Confined), StartError> {
        let confined = self.confiner.prepare(spec).await?;
        match self.spawn(argv, spec, address, &confined).await {
            Ok(child) => Ok((child, confined)),
            Err(error) => {
                let confined = Some(confined);
                self.confiner.end(&spec.id, confined, Exit::Unknown).await;
                Err(error)
            }
        }
    }

    async fn spawn(
        &self,
        argv: &[String],
        spec: &InstanceSpec,
        address: SocketAddr,
        confined: &Confined,
    ) -> Result<Child, StartError> {
        let mut command = self.launcher.command(&confined.plan, argv);
        command
            .env_clear()
            .envs(self.environment(spec, address))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if !spec.working_dir.is_empty() {
            if !std::fs::metadata(&spec.working_dir).is_ok_and(|found| found.is_dir()) {
                let cause = format!("no such directory `{}`", spec.working_dir);
                return Err(StartError::not_started("working-dir", cause));
            }
            command.current_dir(&spec.working_dir);
        }
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
    fn environment(&self, spec: &InstanceSpec, address: SocketAddr) -> Vec<(String, String)> {
        let own = [
            ("PATH", "/usr/local/bin:/usr/bin:/bin".to_owned()),
            ("HOME", "/tmp".into()),
            ("PORT", address.port().to_string()),
            ("HOST", address.ip().to_string()),
            ("K_SERVICE", spec.service.to_string()),
            ("K_CONFIGURATION", spec.configuration.to_string()),
            ("K_REVISION", spec.revision.name.to_string()),
            ("NIHILO_INSTANCE", spec.id.to_string()),
            ("NIHILO_NODE", self.node_name.clone()),
        ];
        // After the user's: without it the instance could get away.
        let ours = [(MARK_ENV, self.mark.of_instance(&spec.id))];
        let named = |(key, value): (&str, String)| (key.to_owned(), value);
        own.into_iter()
            .map(named)
            .chain(spec.env.iter().cloned())
            .chain(ours.into_iter().map(named))
            .collect()
    }
}

impl Driver for ProcessDriver {
    type Handle = Process;

    async fn start(
        &self,
        spec: &InstanceSpec,
        output: &Output,
    ) -> Result<Started<Process>, StartError> {
        let argv = self.argv(spec)?;
        let address = self.ports.lock().take()?;
        let (mut child, confined) = match self.spawn_confined(&argv, spec, address).await {
            Ok(spawned) => spawned,
            Err(error) => {
                self.ports.lock().give_back(address.port());
                return Err(error);
            }
        };
        let pid = child.id();
        self.confiner.watch(spec, pid, output);
        let readers = read_output(&mut child, output);
        let handle = Process {
            id: spec.id.clone(),
            child,
            pid,
            address,
            output: output.clone(),
            readers,
            confined,
        };
        Ok(Started {
            handle,
            address,
            pid,
        })
    }

    async fn wait(&self, handle: &mut Process) -> Exit {
        exit_of(handle.child.wait().await)
    }

    async fn stop(&self, handle: &mut Process, grace: Duration) -> Exit {
        signal_child(&handle.child, Signal::TERM);
        if let Ok(exit) = tokio::time::timeout(grace, handle.child.wait()).await {
            return exit_of(exit);
        }
        signal_child(&handle.child, Signal::KILL);
        exit_of(handle.child.wait().await)
    }

    async fn destroy(&self, handle: Process, exit: Exit) -> Exit {
        // What outlived the program: in its group at once, then wherever it went.
        signal_group(handle.pid, Signal::KILL);
        let confined = Some(handle.confined);
        let exit = self.confiner.end(&handle.id, confined, exit).await;
        let read = futures_util::future::join_all(handle.readers);
        drop(tokio::time::timeout(OUTPUT_GRACE, read).await);
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

fn read_output(child: &mut Child, output: &Output) -> Vec<JoinHandle<()>> {
    let out = child
        .stdout
        .take()
        .map(|stream| tokio::spawn(output.clone().read(stream, false)));
    let err = child
        .stderr
        .take()
        .map(|stream| tokio::spawn(output.clone().read(stream, true)));
    out.into_iter().chain(err).collect()
}

/// The whole group of a child that was not reaped, or itself while its launcher has made none.
fn signal_child(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    if let Some(pid) = pid.and_then(Pid::from_raw)
        && kill_process_group(pid, signal).is_err()
    {
        let _or_gone = kill_process(pid, signal);
    }
}

/// A number that was reaped stays taken while its group has members; an empty group is what is
/// wanted.
fn signal_group(pid: Option<u32>, signal: Signal) {
    let pid = pid
        .and_then(|pid| i32::try_from(pid).ok())
        .and_then(Pid::from_raw);
    if let Some(pid) = pid {
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
