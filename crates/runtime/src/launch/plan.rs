//! What a launcher is told to do, as words before the program's own.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::str::FromStr;

const CGROUP: &str = "cgroup";
const OPEN_FILES: &str = "open-files";
const PROCESSES: &str = "processes";
const IDS: &str = "ids";
const DIES_WITH: &str = "dies-with";
const SOCKET: &str = "socket";
/// The only descriptor that a socket comes by.
const STDIN: &str = "stdin";
const MOUNT: &str = "mount";
const JOINS: &str = "joins-mounts-of";
const ROOT: &str = "root";
const OWN_USERS: &str = "own-users";
const GRANT: &str = "grant";
const PORT: &str = "port";
const SEALED: &str = "sealed";
const TRIAL: &str = "trial";
/// Of what is or is not.
const YES: &str = "yes";
const END: &str = "--";

/// How a program is confined before it runs; nothing of it can be taken back by the program unless
/// it is root's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Files of the groups it belongs to, to which it writes that it joins.
    pub cgroups: Vec<PathBuf>,
    /// Descriptors at most, where the node's own limit is not lower.
    pub open_files: Option<u64>,
    /// Processes of its *user* on this host, at most: as the kernel counts.
    pub processes: Option<u64>,
    /// Process that it shall not outlive: its parent.
    pub dies_with: Option<u32>,
    /// User and group to become; only root can.
    pub ids: Option<(u32, u32)>,
    /// The standard input is a socket that listens: the program's descriptor 3.
    pub socket: bool,
    /// What it alone sees at a path, in order.
    pub mounts: Vec<PlannedMount>,
    /// Process whose mounts it sees instead of the node's.
    pub joins_mounts_of: Option<u32>,
    /// Empty directory of the host, at which its own tree is put together: it sees `mounts`, devices
    /// that are nobody's, processes, and nothing else.
    pub root: Option<PathBuf>,
    /// Who may not mount does it as somebody of users of its own.
    pub own_users: bool,
    /// It has no capabilities, and some calls are refused to it ([`super::filter`]).
    pub sealed: bool,
    /// All that it gets at of what it sees; everything, where there are none.
    pub grants: Vec<Grant>,
    /// TCP ports that it may listen on; any, where there are none.
    pub ports: Vec<u16>,
    /// Nothing is to run: whether all of this can be done is to be seen.
    pub trial: bool,
}

/// A file, or a directory with everything below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    pub access: Access,
    pub path: PathBuf,
}

/// What may be done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    /// And executed.
    Run,
    /// And changed, in any way that makes no device.
    Write,
}

impl Access {
    const ALL: [(Self, &str); 3] = [
        (Self::Read, "read"),
        (Self::Run, "run"),
        (Self::Write, "write"),
    ];
}

impl Grant {
    /// `read|run|write` and the path, a line each.
    #[allow(dead_code, reason = "written by the node, read by the launcher")]
    fn to_value(&self) -> OsString {
        let word = Access::ALL
            .iter()
            .find(|(access, _)| *access == self.access);
        let mut value = OsString::from(word.map_or("", |(_, word)| word));
        value.push("\n");
        value.push(&self.path);
        value
    }

    fn parse(value: &OsStr) -> Result<Self, String> {
        let text = value.to_str().ok_or("a path that is no text")?;
        let (word, path) = text.split_once('\n').unwrap_or_default();
        let access = Access::ALL.iter().find(|(_, known)| *known == word);
        let (access, _) = access.ok_or_else(|| format!("`{text}` grants nothing"))?;
        Ok(Self {
            access: *access,
            path: path.into(),
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedMount {
    pub source: PlannedSource,
    /// Absolute. Made, where there is nothing.
    pub target: PathBuf,
    pub read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlannedSource {
    /// Of the host; a file, where it is one.
    Directory(PathBuf),
    /// What an earlier mount of the same plan shows at this path.
    Earlier(PathBuf),
    /// Empty, of so many bytes at most.
    Memory(Option<u64>),
}

impl PlannedMount {
    /// `ro|rw`, the target and the source, a line each.
    #[allow(dead_code, reason = "written by the node, read by the launcher")]
    fn to_value(&self) -> OsString {
        let mut value = OsString::from(if self.read_only { "ro\n" } else { "rw\n" });
        value.push(&self.target);
        match &self.source {
            PlannedSource::Directory(source) => {
                value.push("\n");
                value.push(source);
            }
            PlannedSource::Earlier(path) => {
                value.push("\nearlier:");
                value.push(path);
            }
            PlannedSource::Memory(Some(max)) => value.push(format!("\nmemory:{max}")),
            PlannedSource::Memory(None) => value.push("\nmemory:"),
        }
        value
    }

    fn parse(value: &OsStr) -> Result<Self, String> {
        let text = value.to_str().ok_or("a path that is no text")?;
        let parts: Vec<&str> = text.split('\n').collect();
        let [mode, target, source] = parts[..] else {
            return Err(format!("`{text}` is no mount"));
        };
        // Paths begin with a slash.
        let source = match source.split_once(':') {
            Some(("memory", "")) => PlannedSource::Memory(None),
            Some(("memory", max)) => PlannedSource::Memory(Some(number(max)?)),
            Some(("earlier", path)) => PlannedSource::Earlier(path.into()),
            _ => PlannedSource::Directory(source.into()),
        };
        Ok(Self {
            source,
            target: target.into(),
            read_only: mode == "ro",
        })
    }
}

impl Plan {
    #[allow(dead_code, reason = "written by the node, read by the launcher")]
    pub fn to_args(&self) -> Vec<OsString> {
        let mut args = Vec::new();
        let mut say = |key: &str, value: OsString| args.extend([key.into(), value]);
        for file in &self.cgroups {
            say(CGROUP, file.into());
        }
        if let Some(n) = self.open_files {
            say(OPEN_FILES, n.to_string().into());
        }
        if let Some(n) = self.processes {
            say(PROCESSES, n.to_string().into());
        }
        if let Some(pid) = self.joins_mounts_of {
            say(JOINS, pid.to_string().into());
        }
        for mount in &self.mounts {
            say(MOUNT, mount.to_value());
        }
        if let Some(at) = &self.root {
            say(ROOT, at.into());
        }
        for grant in &self.grants {
            say(GRANT, grant.to_value());
        }
        for port in &self.ports {
            say(PORT, port.to_string().into());
        }
        for (key, is_so) in [
            (OWN_USERS, self.own_users),
            (SEALED, self.sealed),
            (TRIAL, self.trial),
        ] {
            if is_so {
                say(key, YES.into());
            }
        }
        if let Some((user, group)) = self.ids {
            say(IDS, format!("{user}:{group}").into());
        }
        if let Some(pid) = self.dies_with {
            say(DIES_WITH, pid.to_string().into());
        }
        if self.socket {
            say(SOCKET, STDIN.into());
        }
        args.push(END.into());
        args
    }

    /// Reads a plan and returns what follows it: the program and its arguments.
    ///
    /// # Errors
    /// The word that is none of a plan's.
    pub fn parse(mut args: &[OsString]) -> Result<(Self, &[OsString]), String> {
        let mut plan = Self::default();
        loop {
            args = match args {
                [end, rest @ ..] if end == END => return Ok((plan, rest)),
                [key, value, rest @ ..] => {
                    plan.take(key, value)?;
                    rest
                }
                _ => return Err("a plan without an end".into()),
            };
        }
    }

    fn take(&mut self, key: &OsStr, value: &OsStr) -> Result<(), String> {
        let text = value.to_str().unwrap_or_default();
        match key.to_str() {
            Some(CGROUP) => self.cgroups.push(value.into()),
            Some(OPEN_FILES) => self.open_files = Some(number(text)?),
            Some(PROCESSES) => self.processes = Some(number(text)?),
            Some(SOCKET) if text == STDIN => self.socket = true,
            Some(MOUNT) => self.mounts.push(PlannedMount::parse(value)?),
            Some(JOINS) => self.joins_mounts_of = Some(number(text)?),
            Some(ROOT) => self.root = Some(value.into()),
            Some(OWN_USERS) if text == YES => self.own_users = true,
            Some(SEALED) if text == YES => self.sealed = true,
            Some(TRIAL) if text == YES => self.trial = true,
            Some(GRANT) => self.grants.push(Grant::parse(value)?),
            Some(PORT) => self.ports.push(number(text)?),
            Some(DIES_WITH) => self.dies_with = Some(number(text)?),
            Some(IDS) => {
                let (user, group) = text.split_once(':').unwrap_or_default();
                self.ids = Some((number(user)?, number(group)?));
            }
            _ => return Err(format!("`{}` is no part of a plan", key.display())),
        }
        Ok(())
    }
}

fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("`{text}` is not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_as_it_was_written_and_leaves_the_program() {
        let plan = Plan {
            cgroups: vec!["/sys/fs/cgroup/a b/cgroup.procs".into(), "/x".into()],
            open_files: Some(65_536),
            processes: Some(16_384),
            ids: Some((65_532, 0)),
            dies_with: Some(4_711),
            socket: true,
            mounts: vec![
                PlannedMount {
                    source: PlannedSource::Directory("/a b:c".into()),
                    target: "/etc/db".into(),
                    read_only: true,
                },
                PlannedMount {
                    source: PlannedSource::Earlier("/etc/db".into()),
                    target: "/etc/again".into(),
                    read_only: false,
                },
                PlannedMount {
                    source: PlannedSource::Memory(Some(7)),
                    target: "/cache".into(),
                    read_only: false,
                },
                PlannedMount {
                    source: PlannedSource::Memory(None),
                    target: "/tmp/x".into(),
                    read_only: false,
                },
            ],
            joins_mounts_of: Some(7),
            root: Some("/var/lib/x/agent/root".into()),
            own_users: true,
            sealed: true,
            grants: [Access::Read, Access::Run, Access::Write]
                .map(|access| Grant {
                    access,
                    path: "/a b/c".into(),
                })
                .into(),
            ports: vec![20_000, 0],
            trial: true,
        };
        for plan in [plan, Plan::default()] {
            let mut args = plan.to_args();
            args.extend(["/bin/app".into(), "--".into(), "ids".into()]);
            let (read, program) = Plan::parse(&args).unwrap();
            assert_eq!(read, plan);
            assert_eq!(program, ["/bin/app", "--", "ids"].map(OsString::from));
        }
    }

    #[test]
    fn words_of_no_plan_are_refused() {
        for bad in [
            &["ids", "1", "--"][..],
            &["open-files", "many", "--"],
            &["colour", "blue", "--"],
            &["socket", "stdout", "--"],
            &["cgroup", "/x"],
            &["mount", "ro", "--"],
            &["mount", "ro\n/x\nmemory:much", "--"],
            &["grant", "all\n/x", "--"],
            &["grant", "/x", "--"],
            &["port", "70000", "--"],
            &["sealed", "no", "--"],
            &[],
        ] {
            let args: Vec<_> = bad.iter().map(OsString::from).collect();
            assert!(Plan::parse(&args).is_err(), "{bad:?}");
        }
    }
}
