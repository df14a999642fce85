//! A program without cpu: by its group where the kernel freezes one, otherwise by a signal to each of
//! its processes, which their parents can see.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nihilo_types::id::InstanceId;
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::cgroup::{Group, Version};
use super::leader::pid_of;
use super::mark::Mark;
use super::stat;
use crate::driver::{FreezeError, Freezer};

/// Until everything of it is stopped that was told to; then it is let run again.
const STOP_LIMIT: Duration = Duration::from_millis(100);
/// Between two looks at that.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Processes by number, with when each began: what tells it from a later one of its number.
type Stopped = BTreeMap<u32, u64>;

/// By what an instance is frozen, and so what thaws it.
#[derive(Debug)]
pub(super) enum Frozen {
    Group(Version),
    Signal(Stopped),
}

impl Frozen {
    pub(super) fn by(&self) -> Freezer {
        match self {
            Frozen::Group(Version::One) => Freezer::Cgroup1,
            Frozen::Group(Version::Two) => Freezer::Cgroup2,
            Frozen::Signal(_) => Freezer::Signal,
        }
    }
}

/// What is known of an instance's processes.
#[derive(Debug)]
pub(super) struct Members {
    pub(super) id: InstanceId,
    pub(super) group: Group,
    pub(super) mark: Mark,
}

impl Members {
    /// Blocks until nothing of it runs.
    ///
    /// # Errors
    /// It runs on.
    pub(super) fn freeze(&self) -> Result<Frozen, FreezeError> {
        match self.group.freeze() {
            Ok(Some(version)) => Ok(Frozen::Group(version)),
            Ok(None) => self.stop().map(Frozen::Signal),
            Err(cause) => Err(FreezeError(cause)),
        }
    }

    pub(super) fn thaw(&self, frozen: &Frozen) {
        match frozen {
            Frozen::Group(_) => self.group.thaw(),
            Frozen::Signal(stopped) => signal_all(stopped, Signal::CONT),
        }
    }

    /// Whatever an earlier process of this node has frozen of it runs again. A signal was to all of it,
    /// its `leader` too: others are looked for only where that is stopped.
    pub(super) fn let_run(&self, leader: Option<u32>) {
        self.group.thaw();
        if leader.is_some_and(stat::is_stopped) {
            signal_all(&self.find(), Signal::CONT);
        }
    }

    /// Everything that is in its group, or carries its mark where it has none. Again until nothing
    /// else is found that runs: a fork may have been under way.
    fn stop(&self) -> Result<Stopped, FreezeError> {
        let deadline = Instant::now() + STOP_LIMIT;
        loop {
            let found = self.find();
            let mut running = found.clone();
            running.retain(|pid, _| !stat::is_stopped(*pid));
            if running.is_empty() {
                return Ok(found);
            }
            if Instant::now() >= deadline {
                signal_all(&found, Signal::CONT);
                let n = running.len();
                let cause = format!("{n} of its processes do not stop within {STOP_LIMIT:?}");
                return Err(FreezeError(cause));
            }
            signal_all(&running, Signal::STOP);
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn find(&self) -> Stopped {
        let pids = self.group.pids();
        let pids = pids.unwrap_or_else(|| self.mark.pids_of(&self.id));
        let begun = |pid: i32| {
            let pid = u32::try_from(pid).ok()?;
            Some((pid, stat::start_ticks(pid)?))
        };
        pids.into_iter().filter_map(begun).collect()
    }
}

/// By descriptor, and looked at again behind it: the number may be another process's by now.
fn signal_all(processes: &Stopped, signal: Signal) {
    for (pid, start_ticks) in processes {
        let descriptor = pid_of(*pid).map(|pid| pidfd_open(pid, PidfdFlags::empty()));
        if let Some(Ok(descriptor)) = descriptor
            && stat::start_ticks(*pid) == Some(*start_ticks)
        {
            // One that is gone needs none.
            let _or_gone = pidfd_send_signal(&descriptor, signal);
        }
    }
}

#[cfg(test)]
#[path = "freeze_test.rs"]
mod tests;
