//! Control groups, versions 1 and 2: one group for each instance, below one of this node's own.
//!
//! What a host does not allow is left out and said ([`Cgroups::offer`]); only a limit that was asked
//! for and cannot be set where the host said it could fails a start.
//!
//! ```text
//! version 2:  {delegated}/node            the node, which moves there
//!             {delegated}/nihilo-{mark}/{instance}
//! version 1:  {own group, per controller}/nihilo-{mark}/{instance}
//! ```

mod freezer;
mod group;
mod mounts;
mod place;
mod writes;

use std::path::{Path, PathBuf};

use nihilo_types::id::InstanceId;
use nihilo_types::instance::Limits;
use tracing::warn;

pub(super) use group::Group;
use place::Place;
pub(crate) use writes::{CPU_PERIOD_US, quota_us, shares};

/// Begins the name of a node's own directory.
const PREFIX: &str = "nihilo-";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

/// What a hierarchy counts and bounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Controllers {
    pub(super) cpu: bool,
    pub(super) memory: bool,
    pub(super) pids: bool,
}

/// Which limits the kernel keeps on this host, and why not the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) cpu: Option<Version>,
    pub(super) memory: Option<Version>,
    pub(super) pids: Option<Version>,
    /// What freezes an instance; `None` = signals to each of its processes.
    pub(super) freeze: Option<Version>,
    pub(super) reasons: Vec<String>,
}

/// This node's part of the host's groups; empty where it has none.
#[derive(Debug, Default)]
pub(super) struct Cgroups {
    places: Vec<Place>,
    reasons: Vec<String>,
}

impl Cgroups {
    /// Looks at what the host has and makes this node's directories in it. `mark` tells nodes on one
    /// host apart and is the same after a restart.
    pub(super) fn detect(mark: &str) -> Self {
        let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
        let mounts = mounts::parse(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"));
        let name = format!("{PREFIX}{mark}");
        let mut found = Self::default();
        if mounts.is_empty() {
            found.reasons.push("no control groups are mounted".into());
        }
        for mount in mounts {
            match Place::open(&mount, &name) {
                Ok((place, reason)) => {
                    found.places.push(place);
                    found.reasons.extend(reason);
                }
                Err(reason) => found.reasons.push(reason),
            }
        }
        found
    }

    pub(super) fn none(reason: &str) -> Self {
        Self {
            places: Vec::new(),
            reasons: vec![reason.into()],
        }
    }

    pub(super) fn offer(&self) -> Offer {
        let has = |wanted: fn(&Controllers) -> bool| {
            let mut places = self.places.iter();
            places
                .find(|place| wanted(&place.controllers))
                .map(|place| place.version)
        };
        Offer {
            cpu: has(|c| c.cpu),
            memory: has(|c| c.memory),
            pids: has(|c| c.pids),
            freeze: self
                .place_of_all()
                .and_then(|place| self.places.get(place))
                .filter(|place| place.freezes)
                .map(|place| place.version),
            reasons: self.reasons.clone(),
        }
    }

    /// Makes an instance's group with its limits set and nobody in it. Empty on a host without
    /// groups.
    ///
    /// # Errors
    /// The file that was refused; nothing of the group is left then.
    pub(super) fn make(
        &self,
        id: &InstanceId,
        limits: &Limits,
        max_processes: u64,
    ) -> Result<Group, String> {
        let mut group = Group::default();
        for place in self.wanted_places(limits) {
            if let Err(cause) = group.add(place, id, limits, max_processes) {
                group.remove();
                return Err(cause);
            }
        }
        Ok(group)
    }

    /// The group of an instance that was made by an earlier process of this node, or by this one.
    pub(super) fn find(&self, id: &InstanceId) -> Group {
        let mut group = Group::default();
        for place in &self.places {
            group.adopt(place, id);
        }
        group
    }

    /// Names of all groups there are, of instances that nobody may know any more.
    pub(super) fn list(&self) -> Vec<InstanceId> {
        let mut names: Vec<_> = self
            .places
            .iter()
            .flat_map(|place| subdirs(&place.dir))
            .collect();
        names.sort();
        names.dedup();
        names
            .into_iter()
            .map(|name| InstanceId::from(name.as_str()))
            .collect()
    }

    /// Ends whatever is in any group of this node; returns how many groups there were.
    pub(super) fn end_all(&self) -> usize {
        let ids = self.list();
        for id in &ids {
            let group = self.find(id);
            group.kill();
            group.remove();
        }
        ids.len()
    }

    /// The hierarchy that every instance joins, whatever its limits.
    fn place_of_all(&self) -> Option<usize> {
        let mut places = self.places.iter();
        let counts = places.position(|place| place.controllers.pids);
        counts.or_else(|| self.places.iter().position(Place::stops_forks))
    }

    /// A hierarchy costs a start most of a millisecond (decision 0081), so only those are joined
    /// that do something for this instance: something counts its processes and finds them all, and
    /// each of its limits is kept.
    fn wanted_places(&self, limits: &Limits) -> Vec<&Place> {
        let finds_all = self.place_of_all();
        let keeps = |place: &Place| {
            let has = place.controllers;
            let wants_cpu = limits.cpu_milli.is_some() || limits.cpu_request_milli.is_some();
            has.memory && limits.memory_bytes.is_some() || has.cpu && wants_cpu
        };
        let places = self.places.iter().enumerate();
        places
            .filter(|(i, place)| Some(*i) == finds_all || keeps(place))
            .map(|(_, place)| place)
            .collect()
    }
}

impl Drop for Cgroups {
    /// Empty directories go with the node that made them; one that is in use stays.
    fn drop(&mut self) {
        for place in &self.places {
            let _unless_in_use = std::fs::remove_dir(&place.dir);
        }
    }
}

fn subdirs(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// Writes without ever making a file: what is not there is a limit that the kernel does not have.
fn write(dir: &Path, file: &str, value: &str) -> Result<(), String> {
    use std::io::Write;
    let path: PathBuf = dir.join(file);
    let open = std::fs::OpenOptions::new().write(true).open(&path);
    open.and_then(|mut open| open.write_all(value.as_bytes()))
        .map_err(|error| format!("`{value}` into `{}`: {error}", path.display()))
}

fn pids_in(dir: &Path) -> Vec<i32> {
    let procs = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    procs.lines().filter_map(|line| line.parse().ok()).collect()
}

fn warn_of(what: &str, dir: &Path) {
    warn!(group = %dir.display(), "{what}");
}

#[cfg(test)]
#[path = "cgroup_test.rs"]
mod tests;
