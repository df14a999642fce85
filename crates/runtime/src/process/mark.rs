//! Finding what belongs to an instance, wherever it went: by a mark in its environment.
//!
//! A process group is left by `setsid`; the environment that a program was started with is not.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use nihilo_types::id::InstanceId;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tracing::warn;

use crate::durable;

/// Carried by every process of an instance: `{mark of the node's directory}.{instance id}`.
pub(super) const MARK_ENV: &str = "NIHILO_MARK";
/// A program that forks faster than it is killed is given up after so many passes.
const MAX_PASSES: usize = 10;
/// Lets those that were killed go, before the next look.
const PASS_PAUSE: Duration = Duration::from_millis(2);
const MARK_FILE: &str = "mark";

/// This node directory's own mark, so that nodes on one host leave each other's instances alone.
#[derive(Debug, Clone)]
pub(crate) struct Mark(String);

impl Mark {
    /// Reads the mark of `dir`, or makes one. It is on the disk before anything can carry it: containers and
    /// temporary files outlive a power cut, and are found by it alone.
    pub(crate) fn of(dir: &Path) -> std::io::Result<Self> {
        let file = dir.join(MARK_FILE);
        if let Ok(text) = std::fs::read_to_string(&file)
            && !text.trim().is_empty()
        {
            return Ok(Self(text.trim().into()));
        }
        // The kernel's own random id: no generator is needed for one word.
        let random = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        durable::write(&file, random.trim().as_bytes())?;
        Ok(Self(random.trim().into()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn of_instance(&self, id: &InstanceId) -> String {
        format!("{}.{id}", self.0)
    }

    /// Kills every process of one instance.
    pub(super) fn kill_instance(&self, id: &InstanceId) -> usize {
        kill_all(&self.entry_of(id), Match::Whole)
    }

    /// Whether a process was started for this instance.
    pub(super) fn is_on(&self, pid: Pid, id: &InstanceId) -> bool {
        is_marked(pid, &self.entry_of(id), Match::Whole)
    }

    /// Processes of one instance. Looks at every process of the host.
    pub(super) fn pids_of(&self, id: &InstanceId) -> BTreeSet<i32> {
        let wanted = self.entry_of(id);
        all_pids()
            .filter(|pid| is_marked(*pid, &wanted, Match::Whole))
            .map(|pid| pid.as_raw_nonzero().get())
            .collect()
    }

    /// Instances started from this directory that have a process.
    pub(super) fn instances(&self) -> BTreeSet<InstanceId> {
        all_pids().filter_map(|pid| self.instance_of(pid)).collect()
    }

    /// The instance of this directory that a process carries the mark of.
    pub(super) fn instance_of(&self, pid: Pid) -> Option<InstanceId> {
        let environment = environment(pid)?;
        let wanted = format!("{MARK_ENV}={}.", self.0);
        let mut entries = environment.split(|byte| *byte == 0);
        let id = entries.find_map(|entry| entry.strip_prefix(wanted.as_bytes()))?;
        Some(InstanceId::from(std::str::from_utf8(id).ok()?))
    }

    fn entry_of(&self, id: &InstanceId) -> String {
        format!("{MARK_ENV}={}", self.of_instance(id))
    }

    /// Kills every process of any instance that was ever started from this directory.
    pub(super) fn kill_everything(&self) -> usize {
        kill_all(&format!("{MARK_ENV}={}.", self.0), Match::Prefix)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Match {
    Whole,
    Prefix,
}

/// Returns how many were killed.
fn kill_all(wanted: &str, how: Match) -> usize {
    let mut n_killed = 0;
    for pass in 0..MAX_PASSES {
        if pass > 0 {
            std::thread::sleep(PASS_PAUSE);
        }
        let n = kill_found(wanted, how);
        if n == 0 {
            return n_killed;
        }
        n_killed += n;
    }
    warn!(
        wanted,
        "an instance's processes multiply faster than they can be killed"
    );
    n_killed
}

/// Kills as it finds: the kernel lists by rising number, so that the children which a program makes
/// meanwhile are found by the same pass.
fn kill_found(wanted: &str, how: Match) -> usize {
    all_pids()
        .filter(|pid| is_marked(*pid, wanted, how) && kill(*pid, wanted, how))
        .count()
}

fn all_pids() -> impl Iterator<Item = Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten();
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(Pid::from_raw)
}

/// `None` = gone, a zombie or somebody else's: not one of ours.
fn environment(pid: Pid) -> Option<Vec<u8>> {
    std::fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).ok()
}

fn is_marked(pid: Pid, wanted: &str, how: Match) -> bool {
    let Some(environment) = environment(pid) else {
        return false;
    };
    environment.split(|byte| *byte == 0).any(|entry| match how {
        Match::Whole => entry == wanted.as_bytes(),
        Match::Prefix => entry.starts_with(wanted.as_bytes()),
    })
}

/// By descriptor, and looked at again behind it: the number may be another process's by now.
fn kill(pid: Pid, wanted: &str, how: Match) -> bool {
    let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) else {
        return false;
    };
    is_marked(pid, wanted, how) && pidfd_send_signal(&descriptor, Signal::KILL).is_ok()
}
