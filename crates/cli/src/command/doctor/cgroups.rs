//! Control groups, which keep the limits of instances.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::finding::Finding;

const CHECK: &str = "control groups";
/// Those that limits need.
const WANTED: [&str; 3] = ["cpu", "memory", "pids"];
/// From this version on, a unit's main process has a group beside those of its instances.
const FIRST_WITH_SUBGROUPS: u32 = 254;
const UNIT: &str = "run the node as the unit of the package (packaging/nihilo.service): it has groups of \
                    its own";

/// What a machine offers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Groups {
    /// Controllers of version 2; `None` = it is not mounted.
    two: Option<BTreeSet<String>>,
    /// Controllers of version 1 that are mounted.
    one: BTreeSet<String>,
    /// This process may make groups beside its own.
    is_writable: bool,
    /// Version of the service manager, where systemd is it.
    systemd: Option<u32>,
}

pub(super) fn examine() -> Finding {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let (mounts, own) = (read("/proc/self/mountinfo"), read("/proc/self/cgroup"));
    let mounts = parse(&mounts, &own);
    let two = mounts.iter().find(|mount| mount.controllers.is_none());
    let may_write = |mount: &Mount| access(&mount.own, Access::WRITE_OK).is_ok();
    judge(&Groups {
        two: two.map(|mount| words(&read_in(&mount.top, "cgroup.controllers"))),
        one: mounts
            .iter()
            .filter_map(|m| m.controllers.clone())
            .flatten()
            .collect(),
        is_writable: !mounts.is_empty() && mounts.iter().all(may_write),
        systemd: systemd(),
    })
}

fn read_in(dir: &Path, file: &str) -> String {
    std::fs::read_to_string(dir.join(file)).unwrap_or_default()
}

fn words(text: &str) -> BTreeSet<String> {
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

/// `None` where another program is this machine's first.
fn systemd() -> Option<u32> {
    if !Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    let said = std::process::Command::new("systemctl")
        .arg("--version")
        .output()
        .ok()?;
    version_in(&String::from_utf8_lossy(&said.stdout))
}

/// Out of `systemd 252 (252.38-1~deb12u1)`.
fn version_in(text: &str) -> Option<u32> {
    text.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    /// `None` = version 2, whose controllers stand in a file.
    controllers: Option<Vec<String>>,
    top: PathBuf,
    /// The group that this process is in.
    own: PathBuf,
}

/// Hierarchies that matter here, of `/proc/self/mountinfo` and `/proc/self/cgroup` (proc(5)).
fn parse(mountinfo: &str, groups: &str) -> Vec<Mount> {
    mountinfo
        .lines()
        .filter_map(|line| mount(line, groups))
        .collect()
}

fn mount(line: &str, groups: &str) -> Option<Mount> {
    let (place, kind) = line.split_once(" - ")?;
    let top = PathBuf::from(place.split(' ').nth(4)?);
    let mut kind = kind.split(' ');
    let controllers = match kind.next()? {
        "cgroup2" => None,
        "cgroup" => {
            let options = kind.nth(1)?.split(',');
            let wanted: Vec<_> = options
                .filter(|o| WANTED.contains(o))
                .map(str::to_owned)
                .collect();
            (!wanted.is_empty()).then_some(Some(wanted))?
        }
        _ => return None,
    };
    let own = groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (names, path) = (fields.next()?, fields.next()?);
        let fits = match &controllers {
            None => names.is_empty(),
            Some(wanted) => names
                .split(',')
                .any(|name| wanted.iter().any(|w| w == name)),
        };
        fits.then_some(path.trim_start_matches('/'))
    })?;
    Some(Mount {
        controllers,
        own: top.join(own),
        top,
    })
}

fn judge(groups: &Groups) -> Finding {
    let empty = BTreeSet::new();
    let two = groups.two.as_ref().unwrap_or(&empty);
    let has = |name: &&str| two.contains(*name) || groups.one.contains(*name);
    let missing: Vec<_> = WANTED.iter().filter(|name| !has(name)).copied().collect();
    if !missing.is_empty() {
        let found = format!(
            "no {}: limits of those are looked after, or not kept",
            missing.join(", ")
        );
        return Finding::warn(
            CHECK,
            found,
            "start the kernel with control groups of version 2",
        );
    }
    let version = match (two.is_empty(), groups.one.is_empty()) {
        (false, true) => "version 2",
        (true, _) => "version 1",
        (false, false) => "versions 1 and 2",
    };
    let none = || format!("{version}, and this user may make none");
    match groups.systemd {
        // A unit hands groups of version 2 to its user, of version 1 to nobody.
        _ if !groups.is_writable && !groups.one.is_empty() => Finding::warn(
            CHECK,
            none(),
            "start the kernel with control groups of version 2, or run the node as root",
        ),
        None if !groups.is_writable => Finding::warn(CHECK, none(), UNIT),
        Some(systemd) if systemd < FIRST_WITH_SUBGROUPS && groups.one.is_empty() => Finding::warn(
            CHECK,
            format!("{version}, but systemd {systemd} restarts no node beside instances in groups"),
            format!(
                "use systemd {FIRST_WITH_SUBGROUPS} or newer, or `process: {{cgroups: false}}` in node.yaml"
            ),
        ),
        None | Some(_) => Finding::ok(CHECK, format!("{}; {version}", WANTED.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::doctor::finding::State;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn limits_need_all_controllers_and_a_place_for_groups() {
        let two = || Groups {
            two: Some(set(&["cpu", "memory", "pids", "io"])),
            is_writable: true,
            ..Groups::default()
        };
        let cases = [
            ("version 2", two(), State::Ok, "version 2"),
            (
                "nothing mounted",
                Groups::default(),
                State::Warn,
                "no cpu, memory, pids",
            ),
            (
                "version 1",
                Groups {
                    two: None,
                    one: set(&WANTED),
                    ..two()
                },
                State::Ok,
                "version 1",
            ),
            (
                "mixed, an empty version 2 among it",
                Groups {
                    two: Some(set(&[])),
                    one: set(&WANTED),
                    ..two()
                },
                State::Ok,
                "version 1",
            ),
            (
                "some of each",
                Groups {
                    two: Some(set(&["cpu"])),
                    one: set(&["memory", "pids"]),
                    ..two()
                },
                State::Ok,
                "versions 1 and 2",
            ),
            (
                "no memory controller",
                Groups {
                    two: Some(set(&["cpu", "pids"])),
                    ..two()
                },
                State::Warn,
                "no memory",
            ),
            (
                "a container",
                Groups {
                    is_writable: false,
                    ..two()
                },
                State::Warn,
                "may make none",
            ),
            (
                "a shell beside systemd: its unit may",
                Groups {
                    is_writable: false,
                    systemd: Some(255),
                    ..two()
                },
                State::Ok,
                "version 2",
            ),
            (
                "version 1 beside systemd, for a user",
                Groups {
                    two: None,
                    one: set(&WANTED),
                    is_writable: false,
                    systemd: Some(252),
                },
                State::Warn,
                "may make none",
            ),
            (
                "an older systemd",
                Groups {
                    systemd: Some(252),
                    ..two()
                },
                State::Warn,
                "systemd 252",
            ),
            (
                "an older systemd with version 1",
                Groups {
                    two: None,
                    one: set(&WANTED),
                    systemd: Some(252),
                    ..two()
                },
                State::Ok,
                "version 1",
            ),
        ];
        for (name, groups, state, found) in cases {
            let finding = judge(&groups);
            assert_eq!(finding.state, state, "{name}: {finding:?}");
            assert!(finding.found.contains(found), "{name}: {finding:?}");
            assert_eq!(finding.fix.is_some(), state == State::Warn, "{name}");
        }
    }

    #[test]
    fn mounts_of_both_versions_are_told_apart() {
        let mounts = "30 1 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n31 1 0:27 / \
                      /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n32 1 0:28 / \
                      /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n33 1 0:29 / /x rw - ext4 \
                      /dev/x rw\n";
        let groups = "3:cpu,cpuacct:/a\n0::/user.slice/b\n2:freezer:/\n";
        let found = parse(mounts, groups);
        let wanted = [
            Mount {
                controllers: Some(vec!["cpu".into()]),
                top: "/sys/fs/cgroup/cpu".into(),
                own: "/sys/fs/cgroup/cpu/a".into(),
            },
            Mount {
                controllers: None,
                top: "/sys/fs/cgroup/unified".into(),
                own: "/sys/fs/cgroup/unified/user.slice/b".into(),
            },
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn systemd_says_its_version_first() {
        assert_eq!(
            version_in("systemd 252 (252.38-1~deb12u1)\n+PAM"),
            Some(252)
        );
        assert_eq!(version_in(""), None);
    }
}
