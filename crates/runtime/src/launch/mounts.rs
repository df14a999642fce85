//! Volumes: mounts that the program sees, and nobody else.

use std::ffi::{CString, OsStr, c_char, c_int, c_ulong, c_void};
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use super::plan::{Plan, PlannedMount, PlannedSource};
use super::root;

/// `<sched.h>`
pub(super) const CLONE_NEWNS: c_int = 0x0002_0000;
pub(super) const CLONE_NEWUTS: c_int = 0x0400_0000;
pub(super) const CLONE_NEWIPC: c_int = 0x0800_0000;
pub(super) const CLONE_NEWUSER: c_int = 0x1000_0000;
/// `<sys/mount.h>`
pub(super) const MS_RDONLY: c_ulong = 1;
pub(super) const MS_NOSUID: c_ulong = 1 << 1;
pub(super) const MS_NODEV: c_ulong = 1 << 2;
const MS_REMOUNT: c_ulong = 1 << 5;
const MS_BIND: c_ulong = 1 << 12;
const MS_REC: c_ulong = 1 << 14;
const MS_PRIVATE: c_ulong = 1 << 18;

const PAGE_BYTES: u64 = 4_096;
/// Files that are empty, and directories, beside those that fill what is there.
const SPARE_FILES: u64 = 64;

#[allow(unsafe_code)]
unsafe extern "C" {
    fn unshare(flags: c_int) -> c_int;
    fn setns(fd: RawFd, kind: c_int) -> c_int;
    fn mount(
        source: *const c_char,
        target: *const c_char,
        kind: *const c_char,
        flags: c_ulong,
        data: *const c_void,
    ) -> c_int;
}

/// Joins another process's mounts, or has its own; leaves everything alone where the plan says
/// neither.
///
/// # Errors
/// The step that was refused, in words for people.
pub(super) fn take(plan: &Plan) -> std::result::Result<(), String> {
    if plan.joins_mounts_of.is_none() && plan.root.is_none() && plan.mounts.is_empty() {
        return Ok(());
    }
    // The directory is the same by name, and another one behind the mounts.
    let here = std::env::current_dir();
    if let Some(pid) = plan.joins_mounts_of {
        join(pid, plan.own_users)
            .map_err(|error| format!("the mounts of process {pid}: {error}"))?;
    }
    if let Some(at) = &plan.root {
        root::enter(plan, at)?;
    } else if !plan.mounts.is_empty() {
        own(CLONE_NEWNS).map_err(|error| format!("no mounts of its own: {error}"))?;
        for one in &plan.mounts {
            let shown = one.target.display();
            make(&one.target).map_err(|error| format!("`{shown}` cannot be made: {error}"))?;
            show(one).map_err(|error| format!("`{shown}`: {error}"))?;
        }
    }
    match here {
        Ok(here) => std::env::set_current_dir(&here)
            .map_err(|error| format!("working directory `{}`: {error}", here.display())),
        Err(_) => Ok(()),
    }
}

/// Everything that [`root::enter`] makes of its own, so that a command inside finds it.
fn join(pid: u32, own_users: bool) -> Result<()> {
    // Users first: what may be done with the rest follows from them.
    let users = own_users.then_some(("user", CLONE_NEWUSER));
    let others = [
        ("ipc", CLONE_NEWIPC),
        ("uts", CLONE_NEWUTS),
        ("mnt", CLONE_NEWNS),
    ];
    let all = users.into_iter().chain(others);
    // All of them are opened by the host's `/proc`.
    let opened: Vec<_> = all
        .map(|(name, kind)| Ok((std::fs::File::open(format!("/proc/{pid}/ns/{name}"))?, kind)))
        .collect::<Result<_>>()?;
    opened
        .iter()
        .try_for_each(|(namespace, kind)| join_one(namespace, *kind))
}

#[allow(unsafe_code)]
fn join_one(namespace: &std::fs::File, kind: c_int) -> Result<()> {
    // SAFETY: two numbers; the descriptor is open, and this process has one thread (setns(2)).
    check(unsafe { setns(namespace.as_raw_fd(), kind) })
}

/// Namespaces of its own, mounts among them: from here on nothing that is mounted is seen outside,
/// nor the other way round.
#[allow(unsafe_code)]
pub(super) fn own(namespaces: c_int) -> Result<()> {
    // SAFETY: a number; this process has one thread (unshare(2)).
    check(unsafe { unshare(namespaces) })?;
    call(None, Path::new("/"), None, MS_REC | MS_PRIVATE, None)
}

fn make(target: &Path) -> Result<()> {
    match target.is_dir() {
        true => Ok(()),
        false => std::fs::create_dir_all(target),
    }
}

fn show(one: &PlannedMount) -> Result<()> {
    match &one.source {
        PlannedSource::Directory(source) | PlannedSource::Earlier(source) => {
            call(Some(source.as_os_str()), &one.target, None, MS_BIND, None)?;
            // The kernel takes the rest of the flags only of a mount that is there.
            let read_only = if one.read_only { MS_RDONLY } else { 0 };
            let flags = MS_BIND | MS_REMOUNT | MS_NOSUID | MS_NODEV | read_only;
            call(None, &one.target, None, flags, None)
        }
        PlannedSource::Memory(max_bytes) => memory(&one.target, *max_bytes, one.read_only),
    }
}

/// Everybody's, as `/tmp` is, and nobody may remove what is somebody else's.
pub(super) fn memory(target: &Path, max_bytes: Option<u64>, read_only: bool) -> Result<()> {
    let mut options = "mode=1777".to_owned();
    if let Some(max) = max_bytes {
        // A file that has anything has a page.
        let n_files = max / PAGE_BYTES + SPARE_FILES;
        options.push_str(&format!(",size={max},nr_inodes={n_files}"));
    }
    let tmpfs = Some(OsStr::new("tmpfs"));
    let read_only = if read_only { MS_RDONLY } else { 0 };
    let flags = MS_NOSUID | MS_NODEV | read_only;
    call(tmpfs, target, tmpfs, flags, Some(&options))
}

#[allow(unsafe_code)]
pub(super) fn call(
    source: Option<&OsStr>,
    target: &Path,
    kind: Option<&OsStr>,
    flags: c_ulong,
    options: Option<&str>,
) -> Result<()> {
    let text = |bytes: &[u8]| CString::new(bytes).map_err(Error::other);
    let source = source.map(|source| text(source.as_bytes())).transpose()?;
    let kind = kind.map(|kind| text(kind.as_bytes())).transpose()?;
    let options = options
        .map(|options| text(options.as_bytes()))
        .transpose()?;
    let target = text(target.as_os_str().as_bytes())?;
    let pointer = |text: &Option<CString>| text.as_ref().map_or(ptr::null(), |text| text.as_ptr());
    // SAFETY: every pointer is null or a text that ends with a zero byte and outlives the call
    // (mount(2)).
    check(unsafe {
        mount(
            pointer(&source),
            target.as_ptr(),
            pointer(&kind),
            flags,
            pointer(&options).cast(),
        )
    })
}

pub(super) fn check(answer: c_int) -> Result<()> {
    match answer {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}
