//! How far programs are kept from everything that is not theirs: what the node's settings ask for,
//! what this host offers, and what of it goes into a program's plan.
//!
//! What a host offers is tried, not guessed: kernels, containers and policies forbid the parts of it
//! in more ways than can be asked for.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nihilo_types::instance::InstanceSpec;
use nihilo_types::isolation::Isolation;
use nihilo_types::node_config::ProcessSettings;

use super::volumes;
use crate::bundle::Program;
use crate::launch::{Access, FIRST_WITH_SCOPES, Grant, Plan, PlannedMount, PlannedSource};

/// Programs and libraries of a host, wherever its distribution keeps them.
const PROGRAMS: [&str; 10] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/opt",
    "/nix/store",
    "/gnu/store",
];
/// What programs read of a host. Of `/proc` the kernel shows each what is its own.
const FACTS: [&str; 3] = ["/etc", "/proc", "/sys"];
const PROCESSES: &str = "/proc";
/// Of these the host's file is often a link to somewhere else.
const LINKED: [&str; 4] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/localtime",
    "/etc/ssl/certs",
];
/// Where a program with a tree of its own may write.
const TEMPORARY: &str = "/tmp";
const SHARED_MEMORY: &str = "/dev/shm";
/// Of such a directory, in memory, which counts as the instance's own.
const TEMPORARY_BYTES: u64 = 256 * 1024 * 1024;
const SHARED_MEMORY_BYTES: u64 = 64 * 1024 * 1024;
/// What only root reads of a host: a program that is root's, and has no capability, owns it still.
const MASKED: [&str; 5] = [
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/gshadow",
    "/etc/gshadow-",
    "/etc/ssh",
];
const NOTHING: &str = "/dev/null";
/// Of an empty directory that stays empty.
const EMPTY_BYTES: u64 = 4_096;
/// Any of those that the kernel gives to who asks for none.
const ANY_FREE_PORT: u16 = 0;

/// What holds on this host, and what makes it.
#[derive(Debug)]
pub(super) struct Isolating {
    found: Found,
    /// What every program gets at.
    grants: Vec<Grant>,
    /// And what it sees of the host in a tree of its own.
    shown: Vec<PlannedMount>,
    root: PathBuf,
}

/// What a host offers of what is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Found {
    level: Isolation,
    /// Mounts by users of its own.
    own_users: bool,
    /// Some calls are refused, at whatever level.
    sealed: bool,
    /// What is missing, and why.
    missing: Vec<String>,
}

/// One attempt: a level, and whether by users of its own.
type Attempt = (Isolation, bool);

impl Isolating {
    /// `try_plan` has the launcher do everything of a plan, and returns the version of the kernel's
    /// rules. `dir` is the agent's; what is in it and in `private` is no program's business.
    ///
    /// # Errors
    /// `dir` cannot be written.
    pub(super) fn find(
        settings: &ProcessSettings,
        dir: &Path,
        private: &[PathBuf],
        try_plan: impl Fn(&Plan) -> Result<u32, String>,
    ) -> std::io::Result<Self> {
        let mut private: Vec<_> = private.iter().map(|path| real(path)).collect();
        private.push(real(dir));
        let mut isolating = Self {
            found: Found::default(),
            grants: system_grants(settings, &private),
            shown: system_mounts(settings),
            root: dir.join("root"),
        };
        if settings.isolation == Isolation::Full {
            std::fs::create_dir_all(&isolating.root)?;
        }
        let found = choose(settings.isolation, volumes::may_mount(), |found| {
            let mut plan = Plan {
                trial: true,
                ..Plan::default()
            };
            isolating.shape(&mut plan, found);
            try_plan(&plan)
        });
        isolating.found = found;
        Ok(isolating)
    }

    pub(super) fn level(&self) -> Isolation {
        self.found.level
    }

    /// `full`, or `landlock (full: why not)`.
    pub(super) fn describe(&self) -> String {
        let level = self.found.level;
        match self.found.missing.as_slice() {
            [] => level.to_string(),
            missing => format!("{level} ({})", missing.join("; ")),
        }
    }

    /// Why a node has no higher level than this.
    pub(super) fn missing(&self, settings: &ProcessSettings) -> String {
        match self.found.missing.as_slice() {
            [] => format!("its `process: isolation` is `{}`", settings.isolation),
            missing => missing.join("; "),
        }
    }

    /// Whether mounts are made without being root.
    pub(super) fn may_mount(&self) -> bool {
        self.found.level == Isolation::Full
    }

    /// Everything but what is the instance's own.
    fn shape(&self, plan: &mut Plan, found: &Found) {
        plan.sealed = found.sealed;
        if found.level >= Isolation::Landlock {
            plan.grants.clone_from(&self.grants);
        }
        if found.level == Isolation::Full {
            plan.root = Some(self.root.clone());
            plan.own_users = found.own_users;
            plan.mounts.clone_from(&self.shown);
            for at in [TEMPORARY, SHARED_MEMORY] {
                plan.grants.push(grant(Access::Write, at));
            }
        }
    }

    /// Puts this level into the plan of an instance's program. `plan.mounts` are its volumes;
    /// `scratch` is what it may fill where it has no tree of its own.
    pub(super) fn isolate(&self, plan: &mut Plan, program: &Program, port: u16, scratch: &Path) {
        self.isolate_as(&self.found, plan, program, port, scratch);
    }

    fn isolate_as(
        &self,
        found: &Found,
        plan: &mut Plan,
        program: &Program,
        port: u16,
        scratch: &Path,
    ) {
        let volumes = std::mem::take(&mut plan.mounts);
        self.shape(plan, found);
        if found.level >= Isolation::Landlock {
            plan.grants.extend(own_grants(program, &volumes));
        }
        match found.level {
            Isolation::None => {}
            Isolation::Landlock => plan.grants.push(grant(Access::Write, scratch)),
            Isolation::Full => {
                plan.ports = vec![port, ANY_FREE_PORT];
                let own = own_mounts(program, &plan.mounts);
                plan.mounts.extend(own);
            }
        }
        plan.mounts.extend(volumes);
    }

    /// The same for a command inside, which sees the mounts of the instance's process `pid`.
    ///
    /// # Errors
    /// It has none of its own, where it should: what is called as a volume of it is the host's. Or how
    /// it is isolated cannot be seen.
    pub(super) fn isolate_command(
        &self,
        plan: &mut Plan,
        spec: &InstanceSpec,
        program: &Program,
        pid: Option<u32>,
        scratch: &Path,
    ) -> Result<(), String> {
        let pid = pid.ok_or("the instance has ended")?;
        let found = self.found_of(pid)?;
        plan.mounts = places(spec);
        self.isolate_as(&found, plan, program, ANY_FREE_PORT, scratch);
        plan.mounts.clear();
        if plan.root.take().is_some() || !spec.config.volumes.is_empty() {
            if !has_own_mounts(pid) {
                return Err("the instance has no mounts of its own yet, or has ended".into());
            }
            plan.joins_mounts_of = Some(pid);
        }
        Ok(())
    }

    /// What was given to an instance that runs: an earlier process of this node may have started it
    /// under other settings.
    ///
    /// # Errors
    /// It cannot be seen: a command would be less isolated than what it is inside of.
    fn found_of(&self, pid: u32) -> Result<Found, String> {
        if !has_own_tree(pid)? {
            return Ok(Found {
                level: self.found.level.min(Isolation::Landlock),
                own_users: false,
                ..self.found.clone()
            });
        }
        Ok(Found {
            level: Isolation::Full,
            own_users: match self.found.level {
                Isolation::Full => self.found.own_users,
                Isolation::None | Isolation::Landlock => !volumes::may_mount(),
            },
            sealed: true,
            missing: Vec::new(),
        })
    }

    /// What a program finds as its home, and for its temporary files.
    pub(super) fn home(&self, scratch: &Path) -> Option<PathBuf> {
        match self.found.level {
            Isolation::None => None,
            Isolation::Landlock => Some(scratch.into()),
            Isolation::Full => Some(TEMPORARY.into()),
        }
    }
}

fn has_own_tree(pid: u32) -> Result<bool, String> {
    let place = |path: String| match std::fs::metadata(&path) {
        Ok(found) => Ok((found.dev(), found.ino())),
        Err(error) => Err(format!("how the instance is isolated: `{path}`: {error}")),
    };
    Ok(place(format!("/proc/{pid}/root/"))? != place("/".into())?)
}

fn has_own_mounts(pid: u32) -> bool {
    let namespace = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/mnt")).ok();
    let own = namespace(&pid.to_string());
    own.is_some() && own != namespace("self")
}

/// The highest level not above `wanted` that can be had, and what stands against the ones above it.
fn choose(
    wanted: Isolation,
    may_mount: bool,
    try_it: impl Fn(&Found) -> Result<u32, String>,
) -> Found {
    let attempts: &[Attempt] = match (wanted, may_mount) {
        (Isolation::None, _) => return Found::default(),
        (Isolation::Landlock, _) => &[(Isolation::Landlock, false)],
        (Isolation::Full, true) => &[
            (Isolation::Full, false),
            (Isolation::Full, true),
            (Isolation::Landlock, false),
        ],
        (Isolation::Full, false) => &[(Isolation::Full, true), (Isolation::Landlock, false)],
    };
    let mut missing = Vec::new();
    for (level, own_users) in attempts {
        let mut found = Found {
            level: *level,
            own_users: *own_users,
            sealed: true,
            missing: missing.clone(),
        };
        match try_it(&found) {
            Ok(version) => {
                if version < FIRST_WITH_SCOPES {
                    found.missing.push(format!(
                        "the kernel's rules are of version {version}: signals and abstract sockets \
                         need {FIRST_WITH_SCOPES}"
                    ));
                }
                return found;
            }
            Err(why) => missing.push(format!("{level}: {why}")),
        }
    }
    // What is left is worth having, and no level of its own.
    let sealed = Found {
        sealed: true,
        missing: missing.clone(),
        ..Found::default()
    };
    match try_it(&sealed) {
        Ok(_) => sealed,
        Err(why) => {
            missing.push(why);
            Found {
                missing,
                ..Found::default()
            }
        }
    }
}

fn grant(access: Access, path: impl Into<PathBuf>) -> Grant {
    let path = path.into();
    Grant { access, path }
}

/// As the kernel names it, where it is there.
fn real(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.into())
}

/// Paths with what may be done there, before anything is taken out of them.
fn system(settings: &ProcessSettings) -> Vec<(PathBuf, Access)> {
    let programs = PROGRAMS.map(|path| (path.into(), Access::Run));
    let facts = FACTS.map(|path| (path.into(), Access::Read));
    let linked = LINKED
        .iter()
        .filter_map(|link| leads_to(Path::new(link)))
        .map(|path| (path, Access::Read));
    let readable = settings.readable.iter().cloned();
    let writable = settings.writable.iter().cloned();
    let all = programs.into_iter().chain(facts).chain(linked);
    let all = all.chain(readable.map(|path| (path, Access::Run)));
    let all = all.chain(writable.map(|path| (path, Access::Write)));
    all.filter(|(path, _)| std::fs::metadata(path).is_ok())
        .collect()
}

/// The directory behind a link that leads out of what programs read anyway: the file in it may be
/// another one tomorrow.
fn leads_to(link: &Path) -> Option<PathBuf> {
    let real = std::fs::canonicalize(link).ok()?;
    let is_read = |known: &str| real.starts_with(known);
    if PROGRAMS.iter().chain(&FACTS).any(|known| is_read(known)) {
        return None;
    }
    let dir = match real.is_dir() {
        true => real,
        false => real.parent()?.into(),
    };
    // Never half of the host.
    (dir.components().count() > 2).then_some(dir)
}

fn system_grants(settings: &ProcessSettings, private: &[PathBuf]) -> Vec<Grant> {
    let entries = |dir: &Path| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    let mut grants = Vec::new();
    let mut granted: Vec<(PathBuf, Access)> = Vec::new();
    for (path, access) in system(settings) {
        let real = real(&path);
        // Most hosts have `/bin` in `/usr`.
        let is_known =
            |(other, known): &(PathBuf, Access)| *known == access && real.starts_with(other);
        if granted.iter().any(is_known) {
            continue;
        }
        let left = without(&real, private, &entries);
        match left.as_slice() {
            // By the name that is asked for: in a tree of its own there may be no other.
            [whole] if *whole == real => grants.push(grant(access, path)),
            _ => grants.extend(left.into_iter().map(|path| grant(access, path))),
        }
        granted.push((real, access));
    }
    grants
}

/// A directory less what is `private`, as the largest directories and files that have nothing of it.
fn without(
    path: &Path,
    private: &[PathBuf],
    entries: &impl Fn(&Path) -> Vec<PathBuf>,
) -> Vec<PathBuf> {
    if private.iter().any(|private| path.starts_with(private)) {
        return Vec::new();
    }
    if !private.iter().any(|private| private.starts_with(path)) {
        return vec![path.into()];
    }
    let below = entries(path).into_iter();
    below
        .flat_map(|path| without(&path, private, entries))
        .collect()
}

fn system_mounts(settings: &ProcessSettings) -> Vec<PlannedMount> {
    let of_host = system(settings)
        .into_iter()
        // Made anew.
        .filter(|(path, _)| path != Path::new(PROCESSES))
        .map(|(path, access)| shown(&path, access != Access::Write));
    // First, so that what a node's settings name is seen within them.
    let memory = [
        (TEMPORARY, TEMPORARY_BYTES),
        (SHARED_MEMORY, SHARED_MEMORY_BYTES),
    ];
    let memory = memory.map(|(at, bytes)| PlannedMount {
        source: PlannedSource::Memory(Some(bytes)),
        target: at.into(),
        read_only: false,
    });
    let mut all: Vec<_> = memory.into_iter().chain(of_host).collect();
    all.sort_by_key(|mount| mount.target.components().count());
    all.extend(MASKED.iter().filter_map(|path| masked(Path::new(path))));
    all
}

/// Something of which nothing is to be seen.
fn masked(path: &Path) -> Option<PlannedMount> {
    let is_dir = std::fs::symlink_metadata(path).ok()?.is_dir();
    Some(PlannedMount {
        source: match is_dir {
            true => PlannedSource::Memory(Some(EMPTY_BYTES)),
            false => PlannedSource::Directory(NOTHING.into()),
        },
        target: path.into(),
        read_only: true,
    })
}

fn shown(path: &Path, read_only: bool) -> PlannedMount {
    PlannedMount {
        source: PlannedSource::Directory(path.into()),
        target: path.into(),
        read_only,
    }
}

/// What an instance gets at beside the system's: its bundle, and its volumes. The launcher adds the
/// program.
fn own_grants(program: &Program, volumes: &[PlannedMount]) -> Vec<Grant> {
    let tree = program.tree.iter().map(|tree| grant(Access::Run, tree));
    let volumes = volumes.iter().map(|mount| match mount.read_only {
        true => grant(Access::Run, &mount.target),
        false => grant(Access::Write, &mount.target),
    });
    tree.chain(volumes).collect()
}

/// Where an instance has its volumes.
fn places(spec: &InstanceSpec) -> Vec<PlannedMount> {
    let mounts = spec.config.volumes.iter().flat_map(|volume| &volume.mounts);
    mounts
        .map(|mount| PlannedMount {
            source: PlannedSource::Earlier(mount.path.clone().into()),
            target: mount.path.clone().into(),
            read_only: mount.read_only,
        })
        .collect()
}

/// Its bundle and its program, where they are not seen already.
fn own_mounts(program: &Program, seen: &[PlannedMount]) -> Vec<PlannedMount> {
    let is_seen = |path: &Path, seen: &[PlannedMount]| {
        let is_of_host = |one: &&PlannedMount| matches!(one.source, PlannedSource::Directory(_));
        let mut of_host = seen.iter().filter(is_of_host);
        of_host.any(|one| path.starts_with(&one.target))
    };
    let mut own: Vec<PlannedMount> = Vec::new();
    for path in program.tree.iter().cloned().chain(program.file()) {
        let is_there = std::fs::metadata(&path).is_ok();
        if is_there && !is_seen(&path, seen) && !is_seen(&path, &own) {
            own.push(shown(&path, true));
        }
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(all: &[&str]) -> Vec<PathBuf> {
        all.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn what_is_private_is_left_out_with_as_little_else_as_can_be() {
        let entries = |dir: &Path| match dir.to_str().unwrap() {
            "/etc" => paths(&["/etc/hosts", "/etc/nihilo", "/etc/ssl"]),
            "/etc/nihilo" => paths(&["/etc/nihilo/node.yaml", "/etc/nihilo/secrets.key"]),
            other => panic!("{other} is read for nothing"),
        };
        let left = |private: &[&str]| without(Path::new("/etc"), &paths(private), &entries);
        assert_eq!(left(&["/var/lib/nihilo", "/etcetera"]), paths(&["/etc"]));
        assert_eq!(
            left(&["/etc/nihilo/secrets.key"]),
            paths(&["/etc/hosts", "/etc/nihilo/node.yaml", "/etc/ssl"])
        );
        assert_eq!(left(&["/etc/nihilo"]), paths(&["/etc/hosts", "/etc/ssl"]));
        assert_eq!(left(&["/"]), paths(&[]));
    }

    /// What a host answers to the attempts, in their order.
    fn chosen(
        wanted: Isolation,
        may_mount: bool,
        works: impl Fn(Isolation, bool) -> bool,
    ) -> (Isolation, bool, bool, usize) {
        let found = choose(wanted, may_mount, |found| {
            let version = 7;
            match works(found.level, found.own_users) {
                true => Ok(version),
                false => Err("not permitted".into()),
            }
        });
        let n_missing = found.missing.len();
        (found.level, found.own_users, found.sealed, n_missing)
    }

    #[test]
    fn the_highest_level_that_works_is_taken_and_the_others_are_told() {
        use Isolation::{Full, Landlock, None};
        type Host = fn(Isolation, bool) -> bool;
        let all: Host = |_, _| true;
        let nothing: Host = |_, _| false;
        let no_mounts: Host = |level, _| level < Full;
        let only_users: Host = |level, own_users| level < Full || own_users;
        let no_rules: Host = |level, _| level == None;
        let cases = [
            (None, true, all, (None, false, false, 0)),
            (Landlock, true, all, (Landlock, false, true, 0)),
            (Full, true, all, (Full, false, true, 0)),
            (Full, false, all, (Full, true, true, 0)),
            (Full, true, only_users, (Full, true, true, 1)),
            (Full, true, no_mounts, (Landlock, false, true, 2)),
            (Full, false, no_mounts, (Landlock, false, true, 1)),
            (Landlock, false, no_rules, (None, false, true, 1)),
            (Full, false, nothing, (None, false, false, 3)),
        ];
        for (wanted, may_mount, host, want) in cases {
            let got = chosen(wanted, may_mount, host);
            assert_eq!(got, want, "{wanted} {may_mount}");
        }
    }

    #[test]
    fn what_cannot_be_seen_is_no_tree_of_the_hosts() {
        assert_eq!(has_own_tree(std::process::id()), Ok(false));
        // Above every number that a kernel gives.
        let refused = has_own_tree(u32::MAX).unwrap_err();
        assert!(refused.contains("isolated"), "{refused}");
    }

    #[test]
    fn a_kernel_with_older_rules_says_what_they_do_not_keep() {
        let found = choose(Isolation::Landlock, false, |_| Ok(3));
        assert_eq!(found.level, Isolation::Landlock);
        assert!(found.missing[0].contains("version 3"), "{found:?}");
    }
}
