//! Limits where the kernel keeps none: looks at what instances use, and ends those that use too much.
//!
//! Coarse by nature: between two looks a program may take what it likes, memory that processes share
//! counts for each of them, and a process that left its group *and* its environment is not seen.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::thread::Thread;
use std::time::Duration;

use nihilo_types::id::InstanceId;
use parking_lot::Mutex;
use tracing::warn;

use super::leader::{pid_of, signal_group};
use super::mark::Mark;
use crate::logs::Output;

/// Between two looks.
pub(super) const SAMPLE_EVERY: Duration = Duration::from_millis(500);
const MIB: u64 = 1024 * 1024;

/// What the kernel does not bound on this host, and the instance's bounds are; `None` = it does, or
/// there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) memory_bytes: Option<u64>,
    pub(super) tasks: Option<u64>,
}

/// Why an instance was ended from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Memory { used: u64, limit: u64 },
    Tasks { used: u64, limit: u64 },
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Memory { used, limit } => write!(
                f,
                "{} MiB of memory used, {} MiB are the limit (sampled)",
                used.div_ceil(MIB),
                limit / MIB
            ),
            Self::Tasks { used, limit } => {
                write!(
                    f,
                    "{used} processes and threads, {limit} are the limit (sampled)"
                )
            }
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Usage {
    memory_bytes: u64,
    tasks: u64,
}

fn judge(usage: Usage, bounds: Bounds) -> Option<Verdict> {
    let over = |used: u64, limit: Option<u64>| limit.filter(|limit| used > *limit);
    if let Some(limit) = over(usage.memory_bytes, bounds.memory_bytes) {
        let used = usage.memory_bytes;
        return Some(Verdict::Memory { used, limit });
    }
    let limit = over(usage.tasks, bounds.tasks)?;
    let used = usage.tasks;
    Some(Verdict::Tasks { used, limit })
}

#[derive(Debug)]
pub(super) struct Sampler {
    shared: Arc<Shared>,
    /// Runs once there is something to look at.
    thread: Mutex<Option<Thread>>,
}

#[derive(Debug)]
struct Shared {
    mark: Mark,
    watched: Mutex<BTreeMap<InstanceId, Watched>>,
}

#[derive(Debug, Clone)]
struct Watched {
    /// Process group of the program.
    group: u32,
    bounds: Bounds,
    output: Output,
    verdict: Option<Verdict>,
}

impl Sampler {
    pub(super) fn new(mark: Mark) -> Self {
        let watched = Mutex::default();
        Self {
            shared: Arc::new(Shared { mark, watched }),
            thread: Mutex::new(None),
        }
    }

    /// Looks at this instance from now on; `group` is its program's process group.
    pub(super) fn watch(&self, id: &InstanceId, group: u32, bounds: Bounds, output: Output) {
        if bounds == Bounds::default() {
            return;
        }
        let watched = Watched {
            group,
            bounds,
            output,
            verdict: None,
        };
        self.shared.watched.lock().insert(id.clone(), watched);
        let mut thread = self.thread.lock();
        if thread.is_none() {
            *thread = spawn(Arc::downgrade(&self.shared));
        }
    }

    /// Ends the watch; says why the instance was ended from here, if it was.
    pub(super) fn forget(&self, id: &InstanceId) -> Option<Verdict> {
        self.shared.watched.lock().remove(id)?.verdict
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.lock().as_ref() {
            thread.unpark();
        }
    }
}

fn spawn(shared: Weak<Shared>) -> Option<Thread> {
    let looking = move || {
        while let Some(shared) = shared.upgrade() {
            shared.look();
            drop(shared);
            std::thread::park_timeout(SAMPLE_EVERY);
        }
    };
    let thread = std::thread::Builder::new()
        .name("sampler".into())
        .spawn(looking);
    let thread = thread.inspect_err(|error| warn!(%error, "limits are not looked at: no thread"));
    Some(thread.ok()?.thread().clone())
}

impl Shared {
    fn look(&self) {
        let mut watched = self.watched.lock().clone();
        watched.retain(|_, watched| watched.verdict.is_none());
        if watched.is_empty() {
            return;
        }
        let usage = self.usage(&watched);
        for (id, watched) in watched {
            let used = usage.get(&id).copied().unwrap_or_default();
            if let Some(verdict) = judge(used, watched.bounds) {
                self.end(&id, &watched, verdict);
            }
        }
    }

    /// In this order, so that whoever sees the end sees why.
    fn end(&self, id: &InstanceId, watched: &Watched, verdict: Verdict) {
        if let Some(watched) = self.watched.lock().get_mut(id) {
            watched.verdict = Some(verdict);
        }
        warn!(instance = %id, %verdict, "ended for its limits");
        let line = format!("nihilo: ended by its node: {verdict}");
        watched.output.push(true, line.into_bytes());
        signal_group(Some(watched.group), rustix::process::Signal::KILL);
        self.mark.kill_instance(id);
    }

    fn usage(&self, watched: &BTreeMap<InstanceId, Watched>) -> BTreeMap<InstanceId, Usage> {
        let by_group: BTreeMap<u32, &InstanceId> = watched
            .iter()
            .map(|(id, watched)| (watched.group, id))
            .collect();
        let tasks = tasks();
        let leaders = tasks.iter().filter(|task| by_group.contains_key(&task.pid));
        // Nobody older than the oldest instance can be of one.
        let oldest = leaders.map(|task| task.started).min().unwrap_or(0);
        let mut usage: BTreeMap<InstanceId, Usage> = BTreeMap::new();
        for task in tasks.iter().filter(|task| task.started >= oldest) {
            let id = by_group.get(&task.group).map(|id| (*id).clone());
            let marked = || self.mark.instance_of(pid_of(task.pid)?);
            let Some(id) = id.or_else(marked) else {
                continue;
            };
            let status = std::fs::read_to_string(format!("/proc/{}/status", task.pid));
            let used = usage_in(&status.unwrap_or_default());
            let sum = usage.entry(id).or_default();
            sum.memory_bytes += used.memory_bytes;
            sum.tasks += used.tasks;
        }
        usage
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Task {
    pid: u32,
    group: u32,
    /// Ticks since the host started.
    started: u64,
}

fn tasks() -> Vec<Task> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let task = |pid: u32| {
        task_in(
            pid,
            &std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?,
        )
    };
    entries
        .filter_map(|entry| task(entry.ok()?.file_name().to_str()?.parse().ok()?))
        .collect()
}

/// Fields 5 and 22 of `stat`; the second, the program's name, may hold spaces and brackets (proc(5)).
fn task_in(pid: u32, stat: &str) -> Option<Task> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(2);
    let group = fields.next()?.parse().ok()?;
    let started = fields.nth(16)?.parse().ok()?;
    Some(Task {
        pid,
        group,
        started,
    })
}

/// A zombie has no memory and still is a task.
fn usage_in(status: &str) -> Usage {
    let number = |key: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(key))?;
        value.split_whitespace().next()?.parse::<u64>().ok()
    };
    Usage {
        memory_bytes: number("VmRSS:").unwrap_or(0) * 1_024,
        tasks: number("Threads:").unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_a_bound_is_a_verdict_and_memory_comes_first() {
        let bounds = Bounds {
            memory_bytes: Some(10 * MIB),
            tasks: Some(5),
        };
        let judged = |memory_bytes, tasks| {
            judge(
                Usage {
                    memory_bytes,
                    tasks,
                },
                bounds,
            )
        };
        assert_eq!(judged(10 * MIB, 5), None);
        assert_eq!(judged(0, 6), Some(Verdict::Tasks { used: 6, limit: 5 }));
        let text = judged(10 * MIB + 1, 6).unwrap().to_string();
        assert_eq!(
            text,
            "11 MiB of memory used, 10 MiB are the limit (sampled)"
        );
        let most = u64::MAX;
        let usage = Usage {
            memory_bytes: most,
            tasks: most,
        };
        assert_eq!(judge(usage, Bounds::default()), None);
    }

    #[test]
    fn the_kernel_s_tables_are_read() {
        let stat =
            "4711 (a ) b) S 1 4700 4600 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 98765 1000 250 0";
        let task = Task {
            pid: 4_711,
            group: 4_700,
            started: 98_765,
        };
        assert_eq!(task_in(4_711, stat), Some(task));
        assert_eq!(task_in(1, "1 (cut) S 1"), None);
        let status = "Name:\tx\nVmPeak:\t  900 kB\nVmRSS:\t  512 kB\nThreads:\t3\n";
        let used = Usage {
            memory_bytes: 512 * 1_024,
            tasks: 3,
        };
        assert_eq!(usage_in(status), used);
        assert_eq!(usage_in("State:\tZ (zombie)\n"), Usage::default());
    }

    #[test]
    fn this_process_is_seen_with_its_memory() {
        let me = std::process::id();
        let task = tasks().into_iter().find(|task| task.pid == me).unwrap();
        let status = std::fs::read_to_string(format!("/proc/{me}/status")).unwrap();
        let used = usage_in(&status);
        assert!(
            task.group > 0 && used.memory_bytes > MIB && used.tasks > 0,
            "{used:?}"
        );
    }
}
