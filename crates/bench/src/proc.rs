//! What the kernel knows of processes: their CPU time by thread, their memory, the time stolen
//! from this machine; and the cores they may use.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::Serialize;

use crate::say;

/// A process that was asked to end is killed after this.
const END_LIMIT: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// How late the kernel may wake a generator's thread, in nanoseconds.
const TIMER_SLACK_NS: NonZeroU64 = NonZeroU64::MIN;
/// The kernel may have to write back what the process had under way.
const KILL_LIMIT: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};

/// CPU time of one process at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct CpuTimes {
    /// Nanoseconds by thread id, with the thread's name.
    threads: BTreeMap<i32, (String, u64)>,
}

/// Memory of one process, in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Memory {
    pub(crate) rss: u64,
    /// Of the rss: its own pages, and pages of files (mostly the program's text).
    pub(crate) anon: u64,
    pub(crate) file: u64,
    /// Shared pages counted by their share; what another such process really costs.
    pub(crate) pss: u64,
}

impl CpuTimes {
    pub(crate) fn of(pid: i32) -> anyhow::Result<Self> {
        let mut threads = BTreeMap::new();
        for (tid, task) in tasks(pid)? {
            // A thread may end while it is looked at.
            let Ok(text) = std::fs::read_to_string(task.join("schedstat")) else {
                continue;
            };
            let ns = text.split(' ').next().and_then(|ns| ns.parse().ok());
            let name = std::fs::read_to_string(task.join("comm")).unwrap_or_default();
            threads.insert(tid, (name.trim().to_owned(), ns.unwrap_or(0)));
        }
        Ok(Self { threads })
    }

    /// Microseconds since `before`, of all threads or of those called `name`.
    pub(crate) fn us_since(&self, before: &Self, name: Option<&str>) -> f64 {
        let ns = self.threads.iter().map(|(tid, (comm, ns))| {
            if name.is_some_and(|name| name != comm) {
                return 0;
            }
            let old = before.threads.get(tid).map_or(0, |(_, ns)| *ns);
            ns.saturating_sub(old)
        });
        ns.sum::<u64>() as f64 / 1e3
    }
}

impl Memory {
    pub(crate) fn of(pid: i32) -> anyhow::Result<Self> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            std::fs::read_to_string(&path).with_context(|| path.clone())
        };
        Ok(Self::parse(&read("status")?, &read("smaps_rollup")?))
    }

    fn parse(status: &str, smaps_rollup: &str) -> Self {
        let kib = |text: &str, key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            let number = line.and_then(|line| line.split_whitespace().next());
            number.and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        Self {
            rss: kib(status, "VmRSS:"),
            anon: kib(status, "RssAnon:"),
            file: kib(status, "RssFile:"),
            pss: kib(smaps_rollup, "Pss:"),
        }
    }
}

/// Jiffies of all cores since boot: all of them, and those that the hypervisor took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stolen {
    all: u64,
    stolen: u64,
}

impl Stolen {
    pub(crate) fn now() -> anyhow::Result<Self> {
        let text = std::fs::read_to_string("/proc/stat").context("/proc/stat")?;
        Self::parse(&text).ok_or_else(|| anyhow!("/proc/stat has no cpu line"))
    }

    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let jiffies: Vec<u64> = line
            .split_whitespace()
            .filter_map(|number| number.parse().ok())
            .collect();
        // user nice system idle iowait irq softirq steal; guest times are in user already.
        Some(Self {
            all: jiffies.get(..8)?.iter().sum(),
            stolen: *jiffies.get(7)?,
        })
    }

    /// Share of the time since `before` that was taken, 0 to 1.
    pub(crate) fn share_since(self, before: Self) -> f64 {
        let all = self.all.saturating_sub(before.all).max(1);
        self.stolen.saturating_sub(before.stolen) as f64 / all as f64
    }
}

/// A process that ends with this value.
#[derive(Debug)]
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn spawn(command: &mut Command) -> anyhow::Result<Self> {
        // Whoever reads the tables must not wait for what a peer's helpers hold open.
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let name = || command.get_program().to_string_lossy().into_owned();
        Ok(Self(child.with_context(|| format!("start `{}`", name()))?))
    }

    /// Starts it on one core only.
    pub(crate) fn spawn_on(core: usize, command: &mut Command) -> anyhow::Result<Self> {
        // A child inherits the cores of the thread that starts it.
        std::thread::scope(|scope| {
            let spawned = scope.spawn(|| {
                pin_this_thread(core)?;
                Self::spawn(command)
            });
            spawned
                .join()
                .map_err(|_| anyhow!("the starting thread panicked"))?
        })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Asked first: nginx's master ends its worker then, and only then. The pid of one that has
        // ended may be somebody else's.
        if let Some(pid) = Pid::from_raw(self.pid()).filter(|_| !self.has_ended()) {
            let _gone_already = kill_process(pid, Signal::TERM);
        }
        let deadline = Instant::now() + END_LIMIT;
        while !self.has_ended() && Instant::now() < deadline {
            std::thread::sleep(LOOK_EVERY);
        }
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

pub(crate) fn pin_this_thread(core: usize) -> anyhow::Result<()> {
    pin(None, core)
}

/// Sleeps of this thread end when they should; without it some 50 µs later.
pub(crate) fn wake_this_thread_on_time() {
    if let Err(error) = rustix::thread::set_current_timer_slack(Some(TIMER_SLACK_NS)) {
        say(format!("latencies are some 50 µs too long: {error}"));
    }
}

/// Pins every thread of a running process; threads made later inherit it from theirs.
pub(crate) fn pin_process(pid: i32, core: usize) -> anyhow::Result<()> {
    for (tid, _) in tasks(pid)? {
        pin(Pid::from_raw(tid), core)?;
    }
    Ok(())
}

fn pin(thread: Option<Pid>, core: usize) -> anyhow::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(thread, &cores).with_context(|| format!("pin to core {core}"))
}

/// Sends SIGKILL.
pub(crate) fn kill(pid: u32) -> anyhow::Result<()> {
    signal(i32::try_from(pid)?, Signal::KILL)
}

/// Sends SIGTERM.
pub(crate) fn terminate(pid: i32) -> anyhow::Result<()> {
    signal(pid, Signal::TERM)
}

fn signal(pid: i32, signal: Signal) -> anyhow::Result<()> {
    let pid = Pid::from_raw(pid).context("no process to signal")?;
    kill_process(pid, signal).with_context(|| format!("{signal:?}"))
}

/// Whether the process has ended; nobody may have asked how.
pub(crate) fn is_gone(pid: i32) -> bool {
    // What waits to be asked has no command line any more.
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.is_empty())
        || !Path::new(&format!("/proc/{pid}")).exists()
}

/// Sends SIGKILL and waits until the process has given back what it held, its ports among that.
///
/// # Errors
/// It is not there, or does not end.
pub(crate) fn kill_and_wait(pid: u32) -> anyhow::Result<()> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let raw = raw.context("no process to kill")?;
    let process = pidfd_open(raw, PidfdFlags::empty()).context("no process to kill")?;
    kill(pid)?;
    // Readable once the last thread has ended.
    let mut ended = [PollFd::new(&process, PollFlags::IN)];
    match poll(&mut ended, Some(&KILL_LIMIT))? {
        0 => bail!("a killed process does not end"),
        _ => Ok(()),
    }
}

/// Processes whose parent is `pid`.
pub(crate) fn children(pid: i32) -> anyhow::Result<Vec<i32>> {
    let entries = std::fs::read_dir("/proc").context("/proc")?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let is_child = |child: &i32| {
        // It may end while it is looked at.
        let stat = std::fs::read_to_string(format!("/proc/{child}/stat"));
        stat.is_ok_and(|stat| parent_in(&stat) == Some(pid))
    };
    Ok(pids.filter(is_child).collect())
}

/// The name before it is in parentheses and may hold anything.
fn parent_in(stat: &str) -> Option<i32> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split(' ').nth(1)?.parse().ok()
}

fn tasks(pid: i32) -> anyhow::Result<Vec<(i32, PathBuf)>> {
    let dir = format!("/proc/{pid}/task");
    let entries = std::fs::read_dir(&dir).with_context(|| dir.clone())?;
    let tid = |path: &Path| path.file_name()?.to_str()?.parse().ok();
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(paths.filter_map(|path| Some((tid(&path)?, path))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_by_its_names() {
        let status =
            "VmPeak:\t 9 kB\nVmRSS:\t    5120 kB\nRssAnon:\t 4096 kB\nRssFile:\t 1024 kB\n";
        let memory = Memory::parse(status, "Rss: 5120 kB\nPss:  4500 kB\nPss_Anon: 1 kB\n");
        let parts = (memory.rss, memory.anon, memory.file, memory.pss);
        assert_eq!(parts, (5120, 4096, 1024, 4500));
    }

    #[test]
    fn a_process_that_was_killed_has_ended_when_that_returns() {
        let mut running = Running::spawn(Command::new("cat").arg("/dev/zero")).unwrap();
        assert!(!running.has_ended());
        kill_and_wait(running.pid().cast_unsigned()).unwrap();
        assert!(running.has_ended());
    }

    #[test]
    fn the_parent_stands_behind_a_name_that_may_look_like_anything() {
        assert_eq!(parent_in("7 (a) 1 2) S 42 7 7 0 -1"), Some(42));
        assert_eq!(parent_in("7 a"), None);
    }

    #[test]
    fn stolen_time_is_a_share_of_all_time() {
        let before = Stolen::parse("cpu  10 0 10 80 0 0 0 0 0 0\ncpu0 1\n").unwrap();
        let after = Stolen::parse("cpu  50 0 20 120 0 0 0 10 5 0\n").unwrap();
        assert!((after.share_since(before) - 0.1).abs() < 1e-9);
    }

    #[test]
    fn work_on_a_thread_shows_under_its_name() {
        let before = CpuTimes::of(std::process::id().cast_signed()).unwrap();
        let worker = std::thread::Builder::new().name("bench-worker".into());
        let (finished, done) = std::sync::mpsc::channel();
        let (until, release) = std::sync::mpsc::channel::<()>();
        let worker = worker.spawn(move || {
            let end = std::time::Instant::now() + std::time::Duration::from_millis(20);
            let mut n = 0_u64;
            while std::time::Instant::now() < end {
                n = std::hint::black_box(n + 1);
            }
            finished.send(n).unwrap();
            // Its time is forgotten with the thread, so it must still be there to be counted.
            assert!(release.recv().is_err());
        });
        done.recv().unwrap();
        let after = CpuTimes::of(std::process::id().cast_signed()).unwrap();
        assert!(after.us_since(&before, Some("bench-worker")) > 1_000.0);
        assert_eq!(after.us_since(&before, Some("nobody")), 0.0);
        drop(until);
        worker.unwrap().join().unwrap();
    }
}
