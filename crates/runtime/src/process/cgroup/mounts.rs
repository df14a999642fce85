//! Where this process stands in each hierarchy of control groups, read from two tables of `/proc`.

use std::path::{Path, PathBuf};

use super::Version;

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) version: Version,
    /// Of a version 1 hierarchy, all that is mounted with it. Version 2 says it in a file.
    pub(super) controllers: Vec<String>,
    /// Directory of the hierarchy's top, as far as it is visible here.
    pub(super) top: PathBuf,
    /// Directory of the group that this process is in.
    pub(super) own: PathBuf,
    pub(super) is_read_only: bool,
}

/// Reads `/proc/self/mountinfo` and `/proc/self/cgroup`; what cannot be understood is left out.
pub(super) fn parse(mountinfo: &str, groups: &str) -> Vec<Mount> {
    let mounts = mountinfo.lines().filter_map(|line| mount(line, groups));
    let mut found: Vec<Mount> = Vec::new();
    for mount in mounts {
        // The same hierarchy may be mounted again elsewhere: once is enough.
        let is_known = |other: &Mount| {
            other.version == mount.version && other.controllers == mount.controllers
        };
        if !found.iter().any(is_known) {
            found.push(mount);
        }
    }
    found
}

/// One line: id, parent, device, root, mount point, options, any number of fields, `-`, type, source,
/// options of the file system (proc(5)).
fn mount(line: &str, groups: &str) -> Option<Mount> {
    let (place, kind) = line.split_once(" - ")?;
    let place: Vec<_> = place.split(' ').collect();
    let kind: Vec<_> = kind.split(' ').collect();
    let (root, top, options) = (place.get(3)?, place.get(4)?, place.get(5)?);
    let super_options = kind.get(2).copied().unwrap_or_default();
    let (version, controllers) = match *kind.first()? {
        "cgroup2" => (Version::Two, Vec::new()),
        "cgroup" => {
            let known = |option: &&str| ["cpu", "memory", "pids", "freezer"].contains(option);
            let mounted = super_options.split(',').filter(known);
            (Version::One, mounted.map(str::to_owned).collect())
        }
        _ => return None,
    };
    if version == Version::One && controllers.is_empty() {
        return None;
    }
    let own = group_in(groups, version, &controllers)?;
    let below_root = Path::new(own).strip_prefix(unescaped(root)).ok()?;
    let top = PathBuf::from(unescaped(top));
    let is_read_only = |options: &str| options.split(',').any(|option| option == "ro");
    Some(Mount {
        version,
        controllers,
        own: top.join(below_root),
        top,
        is_read_only: is_read_only(options) || is_read_only(super_options),
    })
}

/// One line of `groups`: number, controllers, path; version 2 is `0::PATH` (cgroups(7)).
fn group_in<'a>(groups: &'a str, version: Version, controllers: &[String]) -> Option<&'a str> {
    groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, names, path) = (fields.next()?, fields.next()?, fields.next()?);
        let fits = match version {
            Version::Two => names.is_empty(),
            Version::One => names
                .split(',')
                .any(|name| controllers.iter().any(|c| c == name)),
        };
        fits.then_some(path)
    })
}

/// Blanks in paths are written as `\040`, and so on.
fn unescaped(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let code = after
            .get(..3)
            .and_then(|code| u8::from_str_radix(code, 8).ok());
        match code {
            Some(code) if code.is_ascii() => {
                out.push(char::from(code));
                rest = &after[3..];
            }
            _ => {
                out.push('\\');
                rest = after;
            }
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `(version, controllers, own, read only)`.
    fn found(mountinfo: &str, groups: &str) -> Vec<(u8, String, String, bool)> {
        let row = |mount: Mount| {
            let version = match mount.version {
                Version::One => 1,
                Version::Two => 2,
            };
            let own = mount.own.display().to_string();
            (
                version,
                mount.controllers.join(","),
                own,
                mount.is_read_only,
            )
        };
        parse(mountinfo, groups).into_iter().map(row).collect()
    }

    #[test]
    fn a_systemd_host_has_one_hierarchy() {
        let mountinfo = "24 30 0:22 / /proc rw - proc proc rw\n\
             35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        let groups = "0::/system.slice/nihilo.service/node\n";
        let own = "/sys/fs/cgroup/system.slice/nihilo.service/node".to_owned();
        assert_eq!(found(mountinfo, groups), [(2, String::new(), own, false)]);
    }

    #[test]
    fn a_host_of_version_1_has_one_for_each_controller() {
        let mountinfo = "30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
             31 25 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             32 25 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
             33 25 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let groups = "5:memory:/box/a\n4:cpu,cpuacct:/\n1:name=systemd:/init\n0::/\n";
        let wanted = [
            (1, "cpu", "/sys/fs/cgroup/cpu,cpuacct/", false),
            (1, "memory", "/sys/fs/cgroup/memory/box/a", false),
            (2, "", "/sys/fs/cgroup/unified/", false),
        ];
        let wanted = wanted.map(|(v, c, own, ro)| (v, c.to_owned(), own.to_owned(), ro));
        assert_eq!(found(mountinfo, groups), wanted);
    }

    #[test]
    fn a_container_sees_its_own_part_often_without_writing_it() {
        let mountinfo = "700 650 0:26 /docker/c1 /sys/fs/cgroup/pids ro,nosuid - cgroup cgroup rw,pids\n\
             701 650 0:27 /docker/other /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        // The second one's root is not above where this process is: nothing of it is ours.
        let groups = "9:pids:/docker/c1\n4:memory:/docker/c1\n";
        let own = "/sys/fs/cgroup/pids/".to_owned();
        assert_eq!(
            found(mountinfo, groups),
            [(1, "pids".to_owned(), own, true)]
        );
    }

    #[test]
    fn blanks_in_a_path_are_read_and_a_hierarchy_counts_once() {
        let mountinfo = "1 0 0:1 / /mnt/two\\040words rw - cgroup2 none rw\n\
             2 0 0:1 / /again rw - cgroup2 none rw\n\
             nonsense\n3 0 0:1 / /cut - cgroup2\n";
        let own = "/mnt/two words/a".to_owned();
        assert_eq!(found(mountinfo, "0::/a"), [(2, String::new(), own, false)]);
    }
}
