//! One instance's directories: who is in them, what ended there, and how they go.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nihilo_types::id::InstanceId;
use nihilo_types::instance::Limits;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::place::Place;
use super::writes::writes;
use super::{Controllers, Version, pids_in, subdirs, warn_of, write};

/// Until killed processes have left, and until an empty group can be removed; then the next start of
/// this node tries again.
const EMPTY_LIMIT: Duration = Duration::from_secs(2);
/// Between two looks at that.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Descriptors held at once while a group is killed.
const KILL_BATCH: usize = 256;
/// A program with rights of its own here may nest groups; deeper ones are left to the next start.
const MAX_DEPTH: usize = 8;

#[derive(Debug, Clone, Default)]
pub(in crate::process) struct Group {
    pub(super) parts: Vec<Part>,
}

/// The instance's directory in one hierarchy.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) dir: PathBuf,
    pub(super) version: Version,
    controllers: Controllers,
    kills: bool,
    pub(super) freezes: bool,
}

impl Group {
    /// # Errors
    /// What was refused. A directory may have been made: see [`Self::remove`].
    pub(super) fn add(
        &mut self,
        place: &Place,
        id: &InstanceId,
        limits: &Limits,
        max_processes: u64,
    ) -> Result<(), String> {
        let dir = place.dir.join(id.as_str());
        std::fs::create_dir(&dir)
            .map_err(|error| format!("no group `{}`: {error}", dir.display()))?;
        self.parts.push(part(place, dir.clone()));
        for line in writes(place.version, place.controllers, limits, max_processes) {
            let written = write(&dir, line.file, &line.value);
            if line.is_needed {
                written?;
            }
        }
        Ok(())
    }

    /// Takes what is there already.
    pub(super) fn adopt(&mut self, place: &Place, id: &InstanceId) {
        let dir = place.dir.join(id.as_str());
        if std::fs::metadata(&dir).is_ok() {
            self.parts.push(part(place, dir));
        }
    }

    /// Files by which a process of one thread joins: see [`crate::launch::Plan`].
    pub(in crate::process) fn doors(&self) -> Vec<PathBuf> {
        let doors = self.parts.iter().map(|part| match part.version {
            // A thread that moves itself waits for nobody; to move a process takes the kernel a grace
            // period, 6 to 12 ms on an idle host (`cgroup_procs_write_start`).
            Version::One => part.dir.join("tasks"),
            Version::Two => part.dir.join("cgroup.procs"),
        });
        doors.collect()
    }

    /// What the kernel bounds and counts of those in it.
    pub(in crate::process) fn controllers(&self) -> Controllers {
        let has = |wanted: fn(&Controllers) -> bool| {
            let mut parts = self.parts.iter();
            parts.any(|part| wanted(&part.controllers))
        };
        Controllers {
            cpu: has(|c| c.cpu),
            memory: has(|c| c.memory),
            pids: has(|c| c.pids),
        }
    }

    /// Whether anything that was in it was killed for want of memory.
    pub(in crate::process) fn ran_out_of_memory(&self) -> bool {
        let mut with_memory = self.parts.iter().filter(|part| part.controllers.memory);
        with_memory.any(|part| {
            let file = match part.version {
                Version::One => "memory.oom_control",
                Version::Two => "memory.events",
            };
            let text = std::fs::read_to_string(part.dir.join(file)).unwrap_or_default();
            n_oom_kills(&text) > 0
        })
    }

    /// Processes that are in it now; `None` where there is no group.
    pub(in crate::process) fn pids(&self) -> Option<BTreeSet<i32>> {
        // All parts hold the same processes.
        let part = self.parts.first()?;
        let dirs = tree(&part.dir, MAX_DEPTH);
        Some(dirs.iter().flat_map(|dir| pids_in(dir)).collect())
    }

    /// Kills everything in it, however fast it forks. Blocks until nothing is left, or says what is.
    pub(in crate::process) fn kill(&self) {
        // All parts hold the same processes: one that lets nothing get away is enough.
        let best = self
            .parts
            .iter()
            .max_by_key(|part| (part.kills, part.controllers.pids, part.freezes));
        let Some(part) = best else { return };
        let deadline = Instant::now() + EMPTY_LIMIT;
        part.kill_once();
        // What another hierarchy holds frozen does not die.
        self.thaw();
        while part.is_populated() {
            if Instant::now() >= deadline {
                return warn_of("processes do not go, though they were killed", &part.dir);
            }
            std::thread::sleep(LOOK_EVERY);
            part.kill_once();
        }
    }

    /// Removes the directories of an empty group. Blocks until they are gone, or says what is left.
    pub(in crate::process) fn remove(&self) {
        let deadline = Instant::now() + EMPTY_LIMIT;
        for part in &self.parts {
            while let Err(error) = remove_tree(&part.dir, MAX_DEPTH) {
                if Instant::now() >= deadline {
                    warn_of(&format!("an instance's group stays: {error}"), &part.dir);
                    break;
                }
                std::thread::sleep(LOOK_EVERY);
            }
        }
    }
}

fn part(place: &Place, dir: PathBuf) -> Part {
    Part {
        dir,
        version: place.version,
        controllers: place.controllers,
        kills: place.kills,
        freezes: place.freezes,
    }
}

impl Part {
    fn kill_once(&self) {
        if self.kills && write(&self.dir, "cgroup.kill", "1").is_ok() {
            return;
        }
        // Nothing new comes while those that are there are killed.
        if self.controllers.pids {
            let _or_not = write(&self.dir, "pids.max", "0");
        }
        let _or_not = self.set_frozen(true);
        for dir in tree(&self.dir, MAX_DEPTH) {
            kill_in(&dir);
        }
        // What is frozen by version 1 does not die.
        let _or_not = self.set_frozen(false);
    }

    fn is_populated(&self) -> bool {
        tree(&self.dir, MAX_DEPTH)
            .iter()
            .any(|dir| !pids_in(dir).is_empty())
    }
}

/// By descriptor, and looked at again behind it: the number may be another process's by now.
fn kill_in(dir: &Path) {
    for pids in pids_in(dir).chunks(KILL_BATCH) {
        let open = |pid: &i32| {
            let descriptor = pidfd_open(Pid::from_raw(*pid)?, PidfdFlags::empty());
            Some((*pid, descriptor.ok()?))
        };
        let opened: Vec<_> = pids.iter().filter_map(open).collect();
        let still: BTreeSet<_> = pids_in(dir).into_iter().collect();
        for (_, descriptor) in opened.iter().filter(|(pid, _)| still.contains(pid)) {
            // One that is gone is what is wanted.
            let _or_gone = pidfd_send_signal(descriptor, Signal::KILL);
        }
    }
}

/// `dir` and the groups in it, the outer ones first.
fn tree(dir: &Path, depth: usize) -> Vec<PathBuf> {
    let mut all = vec![dir.to_path_buf()];
    if depth > 0 {
        for name in subdirs(dir) {
            all.extend(tree(&dir.join(name), depth - 1));
        }
    }
    all
}

fn remove_tree(dir: &Path, depth: usize) -> std::io::Result<()> {
    for dir in tree(dir, depth).iter().rev() {
        match std::fs::remove_dir(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Both versions have a line `oom_kill N`.
fn n_oom_kills(text: &str) -> u64 {
    let count = |line: &str| line.strip_prefix("oom_kill ")?.trim().parse().ok();
    text.lines().find_map(count).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_for_want_of_memory_are_counted_in_both_versions() {
        let one = "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n";
        let two = "low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\noom_group_kill 1\n";
        assert_eq!((n_oom_kills(one), n_oom_kills(two)), (2, 1));
        assert_eq!(n_oom_kills("oom_kill_disable 1\n"), 0);
    }
}
