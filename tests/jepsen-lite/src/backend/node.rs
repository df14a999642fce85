//! One node: its configuration, and its process while there is one.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nihilo_types::node_config::{NodeConfig, OnNodeExit};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::Container;
use crate::clock::{self, boottime_ns};

/// A killed process is gone by then, unless the kernel is stuck.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// Children that outlive their node longer are found by the scan and reported.
const CHILDREN_LIMIT: Duration = Duration::from_millis(500);
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// On top of a node's own grace.
const EXTRA_GRACE: Duration = Duration::from_secs(10);

/// A life of a node's process that is over.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Ended {
    pub node: String,
    /// Not later than its end: nothing it ran outlived this by more than a moment.
    pub ended_ns: u64,
    pub how: String,
    /// Whether the trial ended it.
    pub wanted: bool,
}

#[derive(Debug)]
pub struct LocalNode {
    pub config: NodeConfig,
    /// Network namespace of its process; `None` = this program's.
    namespace: Option<String>,
    /// On top of what this program has in its own environment.
    variables: Vec<(String, String)>,
    child: Option<Child>,
    /// It lives in there, and not in a process of this program's.
    container: Option<Container>,
    paused: bool,
}

impl LocalNode {
    /// Writes the node's configuration into its directory.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub(super) fn prepare(
        config: NodeConfig,
        namespace: Option<String>,
        variables: Vec<(String, String)>,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&config.data_dir)?;
        std::fs::write(config_file(&config.data_dir), config.to_yaml())?;
        Ok(Self {
            config,
            namespace,
            variables,
            child: None,
            container: None,
            paused: false,
        })
    }

    /// `config` says how the node is reached from here, and where its state lies.
    pub(super) fn contained(config: NodeConfig, container: Container) -> Self {
        Self {
            config,
            namespace: None,
            variables: Vec::new(),
            child: None,
            container: Some(container),
            paused: false,
        }
    }

    /// # Errors
    /// It is a process of this program's.
    pub fn container(&self) -> anyhow::Result<&Container> {
        let container = self.container.as_ref();
        container.with_context(|| format!("{} is in no container", self.config.name))
    }

    /// Writes what a container has said to where a process writes it by itself.
    ///
    /// # Errors
    /// Docker does not tell.
    pub(super) fn save_output(&self) -> anyhow::Result<()> {
        let container = self.container.as_ref();
        container.map_or(Ok(()), |container| container.save_output(&self.log_file()))
    }

    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Its process, while there is one.
    pub fn pid(&self) -> Option<u32> {
        match &self.container {
            Some(container) => container.pid(),
            None => self.child.as_ref().and_then(Child::id),
        }
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some() || self.container.as_ref().is_some_and(Container::is_running)
    }

    /// Starts the process; it ends with this one, whatever happens.
    ///
    /// # Errors
    /// No process, or it runs already.
    pub fn start(&mut self, binary: &Path) -> anyhow::Result<()> {
        if let Some(container) = &mut self.container {
            return container.start();
        }
        if self.child.is_some() {
            bail!("{} runs already", self.config.name);
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_file())?;
        let child = self
            .command(binary)
            .args(["node", "start", "--config"])
            .arg(config_file(&self.config.data_dir))
            .args(["--parent", &std::process::id().to_string()])
            .envs(self.variables.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn();
        self.child = Some(child.with_context(|| binary.display().to_string())?);
        Ok(())
    }

    /// The process is the binary's in the end, wherever it runs: both keep their pid.
    fn command(&self, binary: &Path) -> Command {
        let Some(namespace) = &self.namespace else {
            return Command::new(binary);
        };
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]).arg(binary);
        command
    }

    pub fn log_file(&self) -> PathBuf {
        log_of(&self.config.data_dir)
    }

    /// kill -9; returns when the process is gone, with the time at which the last of its children
    /// was. Unless they outlive it, they shall die with it, and everything that is judged by that
    /// wants the moment exactly.
    ///
    /// # Errors
    /// It does not run, or cannot be killed.
    pub async fn kill(&mut self) -> anyhow::Result<(Ended, Option<u64>)> {
        if let Some(container) = &mut self.container {
            let (ended, empty_ns) = container.kill().await?;
            return Ok((ended, Some(empty_ns)));
        }
        let outlive = self.config.on_node_exit == Some(OnNodeExit::Adopt);
        let children = if outlive { Vec::new() } else { self.children() };
        self.signal(Signal::KILL)?;
        let childless = clock::until(CHILDREN_LIMIT, LOOK_EVERY, || {
            let left = children.iter().any(|pid| is_alive(*pid));
            std::future::ready(if left {
                Err(String::new())
            } else {
                Ok(boottime_ns())
            })
        });
        let childless_ns = childless.await.ok();
        Ok((self.gone(KILL_LIMIT, true).await?, childless_ns))
    }

    /// Processes that this one has started, instances for the most part.
    fn children(&self) -> Vec<u32> {
        let pid = self.child.as_ref().and_then(Child::id).unwrap_or(0);
        let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
        let threads = threads.into_iter().flatten().flatten();
        let lists = threads
            .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
        let lists: Vec<String> = lists.collect();
        let pids = lists.iter().flat_map(|list| list.split_whitespace());
        pids.filter_map(|pid| pid.parse().ok()).collect()
    }

    /// SIGTERM; returns when the process is gone, which its own grace bounds.
    ///
    /// # Errors
    /// It does not run, or is still there after its grace.
    pub async fn terminate(&mut self) -> anyhow::Result<Ended> {
        let grace = Duration::from_secs(self.config.shutdown_grace.into()) + EXTRA_GRACE;
        if let Some(container) = &mut self.container {
            return container.terminate(grace);
        }
        self.signal(Signal::TERM)?;
        self.gone(grace, true).await
    }

    /// Waits for the end of a process that shall end by itself; its own grace bounds that.
    ///
    /// # Errors
    /// It does not run, or is still there after its grace.
    pub async fn expelled(&mut self) -> anyhow::Result<Ended> {
        let grace = Duration::from_secs(self.config.shutdown_grace.into());
        self.gone(grace + EXTRA_GRACE, true).await
    }

    /// SIGSTOP: the node neither runs nor ends. A container stands still as a whole.
    ///
    /// # Errors
    /// It does not run.
    pub fn pause(&mut self) -> anyhow::Result<()> {
        if let Some(container) = &self.container {
            return container.pause();
        }
        self.signal(Signal::STOP)?;
        self.paused = true;
        Ok(())
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// It does not run.
    pub fn resume(&mut self) -> anyhow::Result<()> {
        if let Some(container) = &self.container {
            return container.resume();
        }
        self.signal(Signal::CONT)?;
        self.paused = false;
        Ok(())
    }

    /// The end of a process that nobody ended.
    pub fn crashed(&mut self) -> Option<Ended> {
        if let Some(container) = &mut self.container {
            return container.crashed();
        }
        let status = self.child.as_mut()?.try_wait().ok()??;
        Some(self.ended(status, false))
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let id = self.child.as_ref().and_then(Child::id);
        // The child is not reaped before `gone`, so its pid is still its own.
        let pid = id.and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let pid = pid.with_context(|| format!("{} does not run", self.config.name))?;
        kill_process(pid, signal)?;
        Ok(())
    }

    async fn gone(&mut self, limit: Duration, wanted: bool) -> anyhow::Result<Ended> {
        let name = self.config.name.clone();
        let child = self.child.as_mut().context("no process")?;
        let status = tokio::time::timeout(limit, child.wait()).await;
        let status = status.with_context(|| format!("{name} does not end"))??;
        Ok(self.ended(status, wanted))
    }

    fn ended(&mut self, status: ExitStatus, wanted: bool) -> Ended {
        self.child = None;
        self.paused = false;
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => status.to_string(),
        };
        Ended {
            node: self.config.name.clone(),
            ended_ns: boottime_ns(),
            how,
            wanted,
        }
    }
}

impl Drop for LocalNode {
    fn drop(&mut self) {
        // A stopped process dies of SIGKILL as well; the child's own drop reaps it.
        if let Some(child) = &mut self.child {
            drop(child.start_kill());
        }
    }
}

/// A zombie runs nothing any more.
pub(super) fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// Output of the node with its state there: beside it, so that it needs nothing of a disk that is
/// hurt.
pub fn log_of(data_dir: &Path) -> PathBuf {
    data_dir.with_extension("log")
}

fn config_file(data_dir: &Path) -> PathBuf {
    data_dir.with_extension("yaml")
}
