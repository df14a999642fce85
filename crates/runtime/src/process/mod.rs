//! The process driver: spawns programs through the launcher, from one thread that never ends.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nihilo_types::image::Image;
use nihilo_types::instance::InstanceSpec;
use parking_lot::Mutex;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};

use crate::launch::PARENT_ENV;

/// A port is not given out again for this long.
const QUARANTINE: Duration = Duration::from_secs(5);
/// Ports of a node, from its first one.
const N_PORTS: u16 = 1_000;
/// Spawns that may wait for the thread.
const SPAWN_QUEUE: usize = 256;

/// Nothing was started, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{cause}")]
pub struct StartError {
    pub stage: &'static str,
    pub cause: String,
}

impl StartError {
    fn new(stage: &'static str, cause: impl Into<String>) -> Self {
        Self {
            stage,
            cause: cause.into(),
        }
    }
}

#[derive(Debug)]
pub(crate) struct ProcessDriver {
    executable: PathBuf,
    node_name: String,
    ports: Mutex<Ports>,
    spawner: mpsc::Sender<(Command, oneshot::Sender<std::io::Result<Child>>)>,
}

/// A started process, its output not yet read.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
}

impl ProcessDriver {
    /// `executable` is our own binary: it launches, and holds the demo apps.
    pub(crate) fn new(
        executable: PathBuf,
        node_name: String,
        first_port: u16,
    ) -> std::io::Result<Self> {
        let (spawner, mut queue) =
            mpsc::channel::<(Command, oneshot::Sender<std::io::Result<Child>>)>(SPAWN_QUEUE);
        let runtime = tokio::runtime::Handle::current();
        // The parent-death signal fires when the *thread* that spawned ends, so this one must
        // live as long as the process.
        std::thread::Builder::new()
            .name("spawner".into())
            .spawn(move || {
                let _context = runtime.enter();
                while let Some((mut command, answer)) = queue.blocking_recv() {
                    // An asker that is gone has its child killed on drop.
                    drop(answer.send(command.spawn()));
                }
            })?;
        let ports = Mutex::new(Ports::new(first_port));
        Ok(Self {
            executable,
            node_name,
            ports,
            spawner,
        })
    }

    pub(crate) async fn start(&self, spec: &InstanceSpec) -> Result<Started, StartError> {
        let argv = self.argv(spec)?;
        let address = self.ports.lock().take()?;
        let started = self.spawn(&argv, spec, address).await;
        if started.is_err() {
            self.ports.lock().give_back(address.port());
        }
        started
    }

    pub(crate) fn release(&self, address: SocketAddr) {
        self.ports.lock().give_back(address.port());
    }

    fn argv(&self, spec: &InstanceSpec) -> Result<Vec<String>, StartError> {
        let image = Image::parse(&spec.image).map_err(|why| StartError::new("image", why))?;
        let program = match image {
            Image::Demo(name) => {
                let own = self.executable.to_string_lossy().into_owned();
                vec![own, "demo-app".into(), name]
            }
            Image::File(path) => {
                if std::fs::metadata(&path).is_err() {
                    return Err(StartError::new("image", format!("no such file `{path}`")));
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

    async fn spawn(
        &self,
        argv: &[String],
        spec: &InstanceSpec,
        address: SocketAddr,
    ) -> Result<Started, StartError> {
        let mut command = Command::new(&self.executable);
        command
            .args(["internal", "launch", "--"])
            .args(argv)
            .env_clear()
            .envs(self.environment(spec, address))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if !spec.working_dir.is_empty() {
            if std::fs::metadata(&spec.working_dir).is_err() {
                let cause = format!("no such directory `{}`", spec.working_dir);
                return Err(StartError::new("working-dir", cause));
            }
            command.current_dir(&spec.working_dir);
        }
        let (answer, spawned) = oneshot::channel();
        let busy = |_| StartError::new("spawn", "the node is shutting down");
        self.spawner
            .send((command, answer))
            .await
            .map_err(|_| busy(()))?;
        let child = spawned.await.map_err(|_| busy(()))?;
        let child = child.map_err(|error| StartError::new("spawn", error.to_string()))?;
        Ok(Started { child, address })
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
            (PARENT_ENV, std::process::id().to_string()),
        ];
        let own = own.into_iter().map(|(key, value)| (key.to_owned(), value));
        own.chain(spec.env.iter().cloned()).collect()
    }
}

#[derive(Debug)]
struct Ports {
    first: u16,
    next: u16,
    /// In use (`None`), or free again since.
    taken: BTreeMap<u16, Option<Instant>>,
}

impl Ports {
    fn new(first: u16) -> Self {
        Self {
            first,
            next: 0,
            taken: BTreeMap::new(),
        }
    }

    fn take(&mut self) -> Result<SocketAddr, StartError> {
        self.taken
            .retain(|_, freed| freed.is_none_or(|at| at.elapsed() < QUARANTINE));
        for _ in 0..N_PORTS {
            let port = self.first.saturating_add(self.next);
            self.next = (self.next + 1) % N_PORTS;
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            // Somebody else on the host may listen there.
            if !self.taken.contains_key(&port) && TcpListener::bind(address).is_ok() {
                self.taken.insert(port, None);
                return Ok(address);
            }
        }
        Err(StartError::new(
            "port",
            format!("no free port in {}+{N_PORTS}", self.first),
        ))
    }

    fn give_back(&mut self, port: u16) {
        self.taken.insert(port, Some(Instant::now()));
    }
}
