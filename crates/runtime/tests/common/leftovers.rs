//! What an agent of this host may have left behind: looked for where the kernel shows it, not where the
//! agent says that it was. Of a directory whose agent has come to its end, nothing but the words of ended
//! instances is there.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each test binary uses its part of it")]

use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What was killed is reaped by somebody else, at that one's pace.
const LIMIT: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Hierarchies of groups are no deeper on any host that was seen.
const DEPTH: usize = 6;
/// A listening socket, in the kernel's table.
const LISTEN: &str = "0A";

/// Fails unless nothing is left of the agent in `dir`, whose instances got these ports.
pub(crate) fn assert_none(dir: &Path, ports: Range<u16>) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let found = all(dir, ports.clone());
        if found.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left behind: {found:#?}");
        std::thread::park_timeout(LOOK_EVERY);
    }
}

/// One line for each thing that is there and should not be.
pub(crate) fn all(dir: &Path, ports: Range<u16>) -> Vec<String> {
    // A simulated agent has no mark: nothing of the host is its own.
    let Ok(mark) = fs::read_to_string(dir.join("mark")) else {
        return Vec::new();
    };
    let mark = mark.trim();
    let mut found = processes(mark);
    found.extend(groups(mark));
    found.extend(mounts(dir, mark));
    found.extend(volumes(dir, mark));
    found.extend(of_instances(&dir.join("instances")));
    found.extend(listeners(mark, ports));
    found
}

/// Processes that carry the mark in their environment.
pub(crate) fn processes(mark: &str) -> Vec<String> {
    let is_marked = |pid: &u32| environment_has(*pid, &format!("NIHILO_MARK={mark}."));
    let marked = pids().into_iter().filter(is_marked);
    marked.map(|pid| format!("process {pid}")).collect()
}

fn pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    names.collect()
}

fn environment_has(pid: u32, beginning: &str) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let mut entries = environment.split(|byte| *byte == 0);
    entries.any(|entry| entry.starts_with(beginning.as_bytes()))
}

/// Control groups of instances, in any hierarchy.
pub(crate) fn groups(mark: &str) -> Vec<String> {
    let mounted = fs::read_to_string("/proc/self/mounts").unwrap();
    let tops = mounted.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (_, top, kind) = (fields.next()?, fields.next()?, fields.next()?);
        kind.starts_with("cgroup").then(|| PathBuf::from(top))
    });
    let mut found = Vec::new();
    for top in tops {
        find_groups(&top, &format!("nihilo-{mark}"), DEPTH, &mut found);
    }
    found
}

fn find_groups(dir: &Path, name: &str, depth: usize, found: &mut Vec<String>) {
    for path in directories_in(dir) {
        if path.file_name().is_some_and(|own| own == name) {
            let of_instances = directories_in(&path).into_iter();
            found.extend(of_instances.map(|group| format!("group {}", group.display())));
        } else if depth > 0 {
            find_groups(&path, name, depth - 1, found);
        }
    }
}

/// None where there is no such directory, or no longer.
fn directories_in(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.map(|entry| entry.path()).collect()
}

/// Mounts on, or out of, the agent's own directories. Those that a program alone saw went with it.
fn mounts(dir: &Path, mark: &str) -> Vec<String> {
    let shown = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let dir = dir.display().to_string();
    let ours = |line: &&str| line.contains(&dir) || line.contains(mark);
    shown
        .lines()
        .filter(ours)
        .map(|line| format!("mount {line}"))
        .collect()
}

/// Files that volumes were made of, on the disk and in memory.
fn volumes(dir: &Path, mark: &str) -> Vec<String> {
    let in_memory = Path::new("/dev/shm").join(format!("nihilo-{mark}"));
    let places = [in_memory, dir.join("volume-files"), dir.join("volumes")];
    let left = places.iter().flat_map(|place| directories_in(place));
    left.map(|path| format!("volumes {}", path.display()))
        .collect()
}

/// An instance that has ended may leave what it said, and a word about how it ended; whatever else is in
/// its directory belongs to one that runs.
fn of_instances(dir: &Path) -> Vec<String> {
    let files = directories_in(dir).into_iter().flat_map(|instance| {
        let entries = fs::read_dir(instance).into_iter().flatten().flatten();
        entries.map(|entry| (entry.path(), entry.file_type()))
    });
    let is_in_use = |(path, kind): &(PathBuf, std::io::Result<fs::FileType>)| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_word = name == "end" || name.starts_with("output.log");
        let is_file = kind.as_ref().is_ok_and(fs::FileType::is_file);
        !(is_word && is_file)
    };
    let left = files.filter(is_in_use);
    left.map(|(path, kind)| match kind.is_ok_and(|kind| kind.is_fifo()) {
        true => format!("pipe {}", path.display()),
        false => format!("file {}", path.display()),
    })
    .collect()
}

/// Sockets that listen on an instance's port, unless their holder is known to be another agent's.
fn listeners(mark: &str, ports: Range<u16>) -> Vec<String> {
    let listening = listening(&ports);
    if listening.is_empty() {
        return Vec::new();
    }
    let held = listening
        .into_iter()
        .map(|(port, socket)| (port, holders(&socket)));
    let ours = held.filter(|(_, holders)| !holders.iter().any(|pid| is_of_others(*pid, mark)));
    ours.map(|(port, holders)| format!("port {port}, held by {holders:?}"))
        .collect()
}

/// Ports out of `ports` that somebody listens on, with the kernel's name of the socket.
fn listening(ports: &Range<u16>) -> Vec<(u16, String)> {
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let entry = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let (_, port) = local.rsplit_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let is_it = *state == LISTEN && ports.contains(&port);
        is_it.then(|| (port, format!("socket:[{inode}]")))
    };
    table.lines().skip(1).filter_map(entry).collect()
}

fn holders(socket: &str) -> Vec<u32> {
    let holds = |pid: &u32| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"));
        let mut descriptors = descriptors.into_iter().flatten().flatten();
        descriptors
            .any(|open| fs::read_link(open.path()).is_ok_and(|target| target.as_os_str() == socket))
    };
    pids().into_iter().filter(holds).collect()
}

/// Tests that run at the same time may have been given the same ports.
fn is_of_others(pid: u32, mark: &str) -> bool {
    let is_ours = environment_has(pid, &format!("NIHILO_MARK={mark}."));
    let is_marked = environment_has(pid, "NIHILO_MARK=");
    let program = |pid: &str| fs::read_link(format!("/proc/{pid}/exe")).ok();
    let is_another_test = pid != std::process::id()
        && !is_marked
        && program(&pid.to_string()).is_some_and(|path| Some(path) == program("self"));
    is_another_test || (is_marked && !is_ours)
}
