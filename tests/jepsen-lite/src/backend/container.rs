//! One node's container: its life by the word of Docker, the moment of its end by the kernel's.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::process::Command as AsyncCommand;

use super::node::{Ended, is_alive};
use crate::clock::{self, boottime_ns};

/// A killed container is gone by then, on a machine that other work shares.
const KILL_LIMIT: Duration = Duration::from_secs(20);
/// The last moment of a process is wanted exactly.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// A container as Docker shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    /// Of its first process, as this host knows it; 0 = none runs.
    pid: u32,
    exit_code: i32,
}

#[derive(Debug)]
pub struct Container {
    id: String,
    /// The service's name, by which the other nodes find it.
    service: String,
    /// The network of the project.
    network: String,
    /// Of its first process while it runs. All others of the container die with it.
    pid: Option<u32>,
}

impl Container {
    pub(super) fn new(id: String, service: String, network: String) -> Self {
        Self {
            id,
            service,
            network,
            pid: None,
        }
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.pid
    }

    pub(super) fn is_running(&self) -> bool {
        self.pid.is_some()
    }

    /// # Errors
    /// It does not start, or on another host.
    pub(super) fn start(&mut self) -> anyhow::Result<()> {
        ensure!(self.pid.is_none(), "{} runs already", self.service);
        docker(&["start", &self.id])?;
        let pid = self.state()?.pid;
        ensure!(
            is_alive(pid),
            "{} is no process of this host: it ended at once, or the engine is elsewhere",
            self.service
        );
        self.pid = Some(pid);
        Ok(())
    }

    /// `docker kill -s KILL`; also returns when the last process in it was gone.
    ///
    /// # Errors
    /// It does not run, or cannot be killed.
    pub(super) async fn kill(&mut self) -> anyhow::Result<(Ended, u64)> {
        let pid = self.running()?;
        let mut kill = AsyncCommand::new("docker");
        kill.args(["kill", "--signal", "KILL", &self.id]);
        let gone = clock::until(KILL_LIMIT, LOOK_EVERY, || {
            std::future::ready(match is_alive(pid) {
                true => Err("its process is there".to_owned()),
                false => Ok(boottime_ns()),
            })
        });
        let (killed, gone) = tokio::join!(kill.output(), gone);
        let killed = killed.context("`docker` does not start")?;
        let why = String::from_utf8_lossy(&killed.stderr).into_owned();
        ensure!(killed.status.success(), "docker kill: {}", why.trim());
        let gone_ns = gone.map_err(anyhow::Error::msg)?;
        Ok((self.ended(gone_ns, true)?, gone_ns))
    }

    /// `docker stop`: SIGTERM, and SIGKILL after `grace`.
    ///
    /// # Errors
    /// It does not run, or needed SIGKILL.
    pub(super) fn terminate(&mut self, grace: Duration) -> anyhow::Result<Ended> {
        self.running()?;
        let seconds = grace.as_secs().to_string();
        docker(&["stop", "-t", &seconds, &self.id])?;
        let ended = self.ended(boottime_ns(), true)?;
        ensure!(
            ended.how != KILLED,
            "{} does not end by itself",
            self.service
        );
        Ok(ended)
    }

    /// Freezes all of it, instances included.
    ///
    /// # Errors
    /// It does not run.
    pub(super) fn pause(&self) -> anyhow::Result<()> {
        docker(&["pause", &self.id]).map(drop)
    }

    /// # Errors
    /// It is not frozen.
    pub(super) fn resume(&self) -> anyhow::Result<()> {
        docker(&["unpause", &self.id]).map(drop)
    }

    /// Takes it out of the project's network: neither nodes nor clients reach it.
    ///
    /// # Errors
    /// It is not in it.
    pub fn disconnect(&self) -> anyhow::Result<()> {
        docker(&["network", "disconnect", &self.network, &self.id]).map(drop)
    }

    /// Puts it back under its name; the address may be another one.
    ///
    /// # Errors
    /// It is in it.
    pub fn connect(&self) -> anyhow::Result<()> {
        let alias = ["network", "connect", "--alias", &self.service];
        docker(&[&alias[..], &[&self.network, &self.id]].concat()).map(drop)
    }

    /// The end of a container that nobody ended. What Docker starts then is not looked at: the
    /// trial is lost.
    pub(super) fn crashed(&mut self) -> Option<Ended> {
        let pid = self.pid?;
        let gone = !is_alive(pid);
        gone.then(|| self.ended(boottime_ns(), false).ok())?
    }

    /// Writes everything that it has said since it was made.
    ///
    /// # Errors
    /// Docker does not tell, or the file cannot be written.
    pub(super) fn save_output(&self, to: &Path) -> anyhow::Result<()> {
        let file = File::create(to).with_context(|| to.display().to_string())?;
        let mut logs = Command::new("docker");
        logs.args(["logs", &self.id]).stdout(file.try_clone()?);
        let status = logs.stderr(file).status();
        let status = status.context("`docker` does not start")?;
        ensure!(
            status.success(),
            "docker logs of {}: {status}",
            self.service
        );
        Ok(())
    }

    pub(super) fn remove(&self) {
        // One that is frozen too. What is left, if anything, the project's end removes.
        drop(docker(&["rm", "--force", &self.id]));
    }

    fn running(&self) -> anyhow::Result<u32> {
        let pid = self.pid;
        pid.with_context(|| format!("{} does not run", self.service))
    }

    fn ended(&mut self, ended_ns: u64, wanted: bool) -> anyhow::Result<Ended> {
        self.pid = None;
        let code = self.state()?.exit_code;
        Ok(Ended {
            node: self.service.clone(),
            ended_ns,
            how: format!("exit code {code}"),
            wanted,
        })
    }

    fn state(&self) -> anyhow::Result<State> {
        let format = "{{.State.Pid}} {{.State.ExitCode}}";
        let text = docker(&["inspect", "--format", format, &self.id])?;
        parse_state(&text).with_context(|| format!("docker inspect says `{text}`"))
    }
}

/// What Docker calls the end by its SIGKILL.
const KILLED: &str = "exit code 137";

fn parse_state(text: &str) -> Option<State> {
    let (pid, exit_code) = text.trim().split_once(' ')?;
    Some(State {
        pid: pid.parse().ok()?,
        exit_code: exit_code.parse().ok()?,
    })
}

/// Output of a `docker` command.
///
/// # Errors
/// Docker is missing, or what it says.
pub(super) fn docker(args: &[&str]) -> anyhow::Result<String> {
    output(Command::new("docker").args(args))
}

/// What a command prints, without the line's end.
///
/// # Errors
/// It does not start, or what it says when it fails.
pub(super) fn output(command: &mut Command) -> anyhow::Result<String> {
    let shown = format!("{command:?}").replace('"', "");
    // It takes its time, and others have work meanwhile.
    let output = tokio::task::block_in_place(|| command.output());
    let output = output.with_context(|| format!("`{shown}` does not start"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{shown}`: {}", said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_word_on_a_container_is_read() {
        let state = |pid, exit_code| Some(State { pid, exit_code });
        assert_eq!(parse_state("4711 0\n"), state(4711, 0));
        assert_eq!(parse_state("0 137"), state(0, 137));
        assert_eq!(parse_state("<no value> 0"), None);
        assert_eq!(parse_state(""), None);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_program_that_is_missing_or_fails_is_named() {
        let missing = output(&mut Command::new("no-such-program"));
        let text = format!("{:#}", missing.unwrap_err());
        assert!(text.contains("`no-such-program` does not start"), "{text}");
        let failed = output(Command::new("sh").args(["-c", "echo why >&2; exit 3"]));
        let text = format!("{:#}", failed.unwrap_err());
        assert!(text.ends_with(": why"), "{text}");
    }
}
