//! A hierarchy in which this node may make groups.

use std::path::{Path, PathBuf};

use super::mounts::Mount;
use super::{Controllers, Version, pids_in, write};

/// Where the node itself goes on version 2: a group with processes cannot hand controllers down.
const NODE: &str = "node";

#[derive(Debug)]
pub(super) struct Place {
    pub(super) version: Version,
    pub(super) controllers: Controllers,
    /// Instances' groups are made in here.
    pub(super) dir: PathBuf,
    /// Version 2: `cgroup.kill` ends everything in a group at once (Linux 5.14).
    pub(super) kills: bool,
    /// Everything in a group can be frozen: version 1 with its controller, version 2 since Linux 5.2.
    pub(super) freezes: bool,
}

impl Place {
    /// Makes `name` in the hierarchy; says what of it cannot be used, though it is there.
    ///
    /// # Errors
    /// The hierarchy is of no use, for this reason.
    pub(super) fn open(mount: &Mount, name: &str) -> Result<(Self, Option<String>), String> {
        match mount.version {
            Version::One => Self::open_one(mount, name).map(|place| (place, None)),
            Version::Two => Self::open_two(mount, name),
        }
    }

    /// Whether it can end programs that fork faster than they are found.
    pub(super) fn stops_forks(&self) -> bool {
        self.kills || self.freezes || self.controllers.pids
    }

    fn open_one(mount: &Mount, name: &str) -> Result<Self, String> {
        let dir = make(mount, &mount.own, name)?;
        let has = |controller: &str| mount.controllers.iter().any(|other| other == controller);
        // The files decide: a kernel may be built without bandwidth control, say.
        let file = |controller: &str, file: &str| has(controller) && exists(&dir.join(file));
        Ok(Self {
            version: Version::One,
            controllers: Controllers {
                cpu: file("cpu", "cpu.cfs_quota_us"),
                memory: file("memory", "memory.limit_in_bytes"),
                pids: file("pids", "pids.max"),
            },
            kills: false,
            freezes: has("freezer"),
            dir,
        })
    }

    fn open_two(mount: &Mount, name: &str) -> Result<(Self, Option<String>), String> {
        let root = delegated(&mount.own);
        let handed_down = hand_down(&root);
        let dir = make(mount, &root, name)?;
        let (controllers, mut reason) = match handed_down {
            Ok(controllers) => (controllers, None),
            Err(reason) => (Controllers::default(), Some(reason)),
        };
        let further = enable(&dir, controllers);
        let controllers = match further {
            Ok(()) => controllers,
            Err(cause) => {
                reason = Some(cause);
                Controllers::default()
            }
        };
        let place = Self {
            version: Version::Two,
            controllers,
            kills: exists(&dir.join("cgroup.kill")),
            freezes: exists(&dir.join("cgroup.freeze")),
            dir,
        };
        Ok((place, reason))
    }
}

/// The group whose children are ours to make: the unit's, also after a restart that found the
/// node's own place, or systemd made it (`DelegateSubgroup=node`).
fn delegated(own: &Path) -> PathBuf {
    match (own.file_name(), own.parent()) {
        (Some(name), Some(parent)) if name == NODE => parent.into(),
        _ => own.into(),
    }
}

/// Lets children of `root` have the controllers that it has.
///
/// # Errors
/// Why they cannot, for people. Groups without controllers are possible all the same.
fn hand_down(root: &Path) -> Result<Controllers, String> {
    let available = controllers_in(&root.join("cgroup.controllers"));
    if available == Controllers::default() {
        return Err(format!("`{}` has no controllers", root.display()));
    }
    let enabled = controllers_in(&root.join("cgroup.subtree_control"));
    if enabled == available {
        return Ok(available);
    }
    // The top of all is the one group that may have both processes and controllers to hand down.
    let is_top = !exists(&root.join("cgroup.type"));
    if !is_top {
        leave(root)?;
    }
    enable(root, available).map(|()| available)
}

/// Moves this process out of `root`, which must hold nobody else.
fn leave(root: &Path) -> Result<(), String> {
    let me = i32::try_from(std::process::id()).unwrap_or_default();
    let others = pids_in(root).into_iter().filter(|pid| *pid != me).count();
    if others > 0 {
        return Err(format!(
            "{others} other processes are in `{}`: run the node in a group of its own, as a systemd \
             unit with `Delegate=yes`",
            root.display()
        ));
    }
    let node = root.join(NODE);
    make_dir(&node)?;
    write(&node, "cgroup.procs", &me.to_string())
}

fn enable(dir: &Path, controllers: Controllers) -> Result<(), String> {
    let wanted = [
        (controllers.cpu, "+cpu"),
        (controllers.memory, "+memory"),
        (controllers.pids, "+pids"),
    ];
    let wanted: Vec<_> = wanted
        .iter()
        .filter(|(on, _)| *on)
        .map(|(_, name)| *name)
        .collect();
    match wanted.as_slice() {
        [] => Ok(()),
        wanted => write(dir, "cgroup.subtree_control", &wanted.join(" ")),
    }
}

fn controllers_in(file: &Path) -> Controllers {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let has = |wanted: &str| text.split_whitespace().any(|name| name == wanted);
    Controllers {
        cpu: has("cpu"),
        memory: has("memory"),
        pids: has("pids"),
    }
}

fn make(mount: &Mount, parent: &Path, name: &str) -> Result<PathBuf, String> {
    let dir = parent.join(name);
    make_dir(&dir).map_err(|cause| match mount.is_read_only {
        true => format!("`{}` is mounted read-only", mount.top.display()),
        false => cause,
    })?;
    Ok(dir)
}

fn make_dir(dir: &Path) -> Result<(), String> {
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(format!("no group `{}`: {error}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn exists(path: &Path) -> bool {
    std::fs::metadata(path).is_ok()
}
