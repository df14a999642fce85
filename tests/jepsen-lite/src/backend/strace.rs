//! System calls of a running process that fail or take long: `strace` with an injection, attached
//! from outside, so that the shipped binary is the one that is hurt.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::clock;

/// Calls by which a store makes sure that its writes are on the disk.
const SYNCS: &str = "fsync,fdatasync";
const ATTACH_LIMIT: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What is done to every sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncFault {
    /// It is not made, and answers that the disk is broken.
    Fails,
    Slow(Duration),
}

/// Lets go when dropped.
#[derive(Debug)]
pub struct Injection {
    tracer: Child,
}

impl Injection {
    /// Attaches to `pid` with all its threads; returns once all are.
    ///
    /// # Errors
    /// No `strace` (Debian's package of that name), or the kernel does not let it attach.
    pub async fn start(pid: u32, fault: SyncFault) -> anyhow::Result<Self> {
        let inject = match fault {
            SyncFault::Fails => format!("inject={SYNCS}:error=EIO"),
            SyncFault::Slow(by) => format!("inject={SYNCS}:delay_enter={}", by.as_micros()),
        };
        let tracer = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e", &inject])
            .args(["-e", &format!("trace={SYNCS}")])
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut injection = Self {
            tracer: tracer.context("`strace`: apt-get install strace")?,
        };
        let attached = clock::until(ATTACH_LIMIT, LOOK_EVERY, || {
            let n_free = n_free_threads(pid);
            let is_over = injection.is_over();
            std::future::ready(match n_free {
                _ if is_over => Ok(false),
                0 => Ok(true),
                n => Err(format!("{n} threads are not traced")),
            })
        });
        if attached.await.map_err(anyhow::Error::msg)? {
            return Ok(injection);
        }
        let mut said = String::new();
        if let Some(mut stderr) = injection.tracer.stderr.take() {
            std::io::Read::read_to_string(&mut stderr, &mut said)?;
        }
        bail!("strace does not attach: {}", said.trim())
    }

    fn is_over(&mut self) -> bool {
        matches!(self.tracer.try_wait(), Ok(Some(_)) | Err(_))
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        if self.is_over() {
            return;
        }
        // Asked to end it lets go of its process; killed it would leave calls half injected.
        let pid = i32::try_from(self.tracer.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _gone = kill_process(pid, Signal::TERM);
        }
        drop(self.tracer.wait());
    }
}

/// Threads of a process that nobody traces.
fn n_free_threads(pid: u32) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    let tasks = tasks.into_iter().flatten().flatten();
    tasks
        .filter(|task| {
            let status = std::fs::read_to_string(task.path().join("status"));
            status.is_ok_and(|status| status.contains("TracerPid:\t0\n"))
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_process_whose_syncs_fail_sees_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        // Goes on when it is told to, which is after the tracer is there.
        let script = format!(
            "read go; dd if=/dev/zero of={} bs=1 count=1 conv=fsync",
            file.display()
        );
        let mut child = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let injection = match Injection::start(child.id(), SyncFault::Fails).await {
            Ok(injection) => injection,
            Err(error) => {
                eprintln!("skipped: {error:#}");
                drop((child.kill(), child.wait()));
                return;
            }
        };
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"go\n").unwrap();
        let status = tokio::task::spawn_blocking(move || child.wait());
        assert!(!status.await.unwrap().unwrap().success());
        drop(injection);
    }
}
