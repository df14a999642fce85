//! A tree of files of one's own: what the plan shows, devices that are nobody's, processes, and
//! nothing else of the host.
//!
//! Everything that is shown is taken hold of in the host's tree and put where it belongs in the new
//! one, after that is all there is: no link in it leads back.

use std::ffi::{CString, OsStr, c_char, c_int, c_long, c_uint};
use std::fs::{self, File};
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::landlock::DEVICES;
use super::mounts::{
    CLONE_NEWIPC, CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWUTS, MS_NODEV, MS_NOSUID, MS_RDONLY, call,
    check, memory, own,
};
use super::plan::{Plan, PlannedMount, PlannedSource};
use super::syscalls as nr;

/// `<linux/mount.h>`, `<fcntl.h>`
const OPEN_TREE_CLONE: c_uint = 1;
const O_CLOEXEC: c_uint = 0x0008_0000;
const AT_FDCWD: c_int = -100;
const AT_EMPTY_PATH: c_uint = 0x1000;
const AT_RECURSIVE: c_uint = 0x8000;
const MOVE_MOUNT_F_EMPTY_PATH: c_uint = 4;
const ATTR_RDONLY: u64 = 1;
const ATTR_NOSUID: u64 = 1 << 1;
const ATTR_NODEV: u64 = 1 << 2;
const MNT_DETACH: c_int = 2;
const MS_NOEXEC: std::ffi::c_ulong = 1 << 3;

const OPEN_TO_ALL: c_uint = 0o022;

/// The top holds directories, links and places for mounts.
const TOP: &str = "mode=0755,size=1m";
/// Of processes only those that it might trace: its own (proc(5), Linux 5.8).
const HIDES_OTHERS: &str = "hidepid=ptraceable";
const PROCESSES: &str = "/proc";
/// Where programs look for their own streams.
const LINKS: [(&str, &str); 4] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

/// `struct mount_attr`
#[repr(C)]
struct Attributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

#[allow(unsafe_code)]
unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn umount2(target: *const c_char, flags: c_int) -> c_int;
    fn umask(mode: c_uint) -> c_uint;
    fn getuid() -> c_uint;
    fn getgid() -> c_uint;
}

/// Something that is to be seen, taken hold of.
enum Held {
    Tree {
        tree: OwnedFd,
        is_dir: bool,
    },
    /// As the host has `/bin`.
    Link(PathBuf),
    /// Made where it belongs.
    Later,
}

/// Leaves the host's tree for one that is put together at `at`, an empty directory.
///
/// # Errors
/// The step that was refused, in words for people.
#[allow(unsafe_code)]
pub(super) fn enter(plan: &Plan, at: &Path) -> std::result::Result<(), String> {
    // SAFETY: it takes a number and cannot fail (umask(2)). Whoever the program runs as gets through
    // what is made here, whatever the node takes away of its own files.
    let before = unsafe { umask(OPEN_TO_ALL) };
    let entered = enter_new(plan, at);
    // SAFETY: as above.
    unsafe { umask(before) };
    entered
}

fn enter_new(plan: &Plan, at: &Path) -> std::result::Result<(), String> {
    let step = |name: &str, done: Result<()>| done.map_err(|error| format!("{name}: {error}"));
    step("namespaces of its own", leave(plan.own_users))?;
    for one in &plan.mounts {
        make_on_host(one, &plan.mounts);
    }
    let of = |path: &Path| {
        let held = hold(path).map_err(|error| format!("`{}`: {error}", path.display()));
        held.map(|held| (path.to_path_buf(), held))
    };
    let devices = DEVICES.iter().map(Path::new).filter(|path| is_there(path));
    let devices: Vec<_> = devices.map(of).collect::<std::result::Result<_, _>>()?;
    let (_, processes) = of(Path::new(PROCESSES))?;
    let shown: Vec<_> = plan
        .mounts
        .iter()
        .map(|one| match &one.source {
            PlannedSource::Directory(source) => Ok((one, of(source)?.1)),
            PlannedSource::Earlier(_) | PlannedSource::Memory(_) => Ok((one, Held::Later)),
        })
        .collect::<std::result::Result<_, String>>()?;
    step("a tree of its own", turn_to(at))?;
    for (path, held) in devices {
        let put = put(&held, &path, ATTR_NOSUID);
        step(&format!("`{}`", path.display()), put)?;
    }
    for (link, to) in LINKS {
        step(&format!("`{link}`"), symlink(to, link))?;
    }
    step(PROCESSES, show_processes(&processes))?;
    for (one, held) in shown {
        step(&format!("`{}`", one.target.display()), show(one, &held))?;
    }
    step("a top that nobody changes", set(None, "/", 0, ATTR_RDONLY))
}

/// With users of its own it may do the rest, whoever it was.
#[allow(unsafe_code)]
fn leave(own_users: bool) -> Result<()> {
    let namespaces = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS;
    if !own_users {
        return own(namespaces);
    }
    // SAFETY: they take nothing and cannot fail (getuid(2), getgid(2)).
    let (user, group) = unsafe { (getuid(), getgid()) };
    own(namespaces | CLONE_NEWUSER)?;
    // Without this nobody else's group could be mapped, its own neither (user_namespaces(7)).
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("{group} {group} 1"))
}

/// Places for volumes within what is shown, which is read-only from there on.
fn make_on_host(one: &PlannedMount, all: &[PlannedMount]) {
    let is_within = |other: &PlannedMount| {
        let is_shown =
            matches!(&other.source, PlannedSource::Directory(from) if *from == other.target);
        is_shown && other.target != one.target && one.target.starts_with(&other.target)
    };
    if all.iter().any(is_within) && !is_there(&one.target) {
        // Missed where it is mounted, and told there.
        drop(fs::create_dir_all(&one.target));
    }
}

fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

fn hold(path: &Path) -> Result<Held> {
    let is_top = path.parent() == Some(Path::new("/"));
    if is_top && fs::symlink_metadata(path)?.is_symlink() {
        return fs::read_link(path).map(Held::Link);
    }
    let is_dir = fs::metadata(path)?.is_dir();
    let tree = open_tree(path)?;
    Ok(Held::Tree { tree, is_dir })
}

/// From here on everything is below `at`, which is empty.
#[allow(unsafe_code)]
fn turn_to(at: &Path) -> Result<()> {
    let tmpfs = Some(OsStr::new("tmpfs"));
    call(tmpfs, at, tmpfs, MS_NOSUID | MS_NODEV, Some(TOP))?;
    std::env::set_current_dir(at)?;
    let here: *const c_char = c".".as_ptr();
    // SAFETY: two texts that end with a zero byte and outlive the call. The old root is stacked on
    // the new one, and taken away by the next call (pivot_root(2)).
    if unsafe { syscall(nr::PIVOT_ROOT.into(), here, here) } != 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: a text that ends with a zero byte and outlives the call (umount2(2)).
    check(unsafe { umount2(here, MNT_DETACH) })?;
    std::env::set_current_dir("/")?;
    fs::create_dir("/dev")?;
    fs::create_dir(PROCESSES)
}

/// Other processes are hidden where that can be done without a namespace of processes.
fn show_processes(of_host: &Held) -> Result<()> {
    let proc = Some(OsStr::new("proc"));
    let flags = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY;
    let own = call(proc, Path::new(PROCESSES), proc, flags, Some(HIDES_OTHERS));
    match own {
        Ok(()) => Ok(()),
        Err(_) => put(of_host, Path::new(PROCESSES), ATTR_NOSUID | ATTR_RDONLY),
    }
}

fn show(one: &PlannedMount, held: &Held) -> Result<()> {
    let read_only = if one.read_only { ATTR_RDONLY } else { 0 };
    let attributes = ATTR_NOSUID | ATTR_NODEV | read_only;
    match (&one.source, held) {
        (PlannedSource::Memory(max_bytes), _) => {
            make(&one.target, true)?;
            memory(&one.target, *max_bytes, one.read_only)
        }
        (PlannedSource::Earlier(path), _) => put(&hold(path)?, &one.target, attributes),
        (PlannedSource::Directory(_), held) => put(held, &one.target, attributes),
    }
}

fn put(held: &Held, target: &Path, attributes: u64) -> Result<()> {
    match held {
        Held::Link(to) => symlink(to, target),
        Held::Tree { tree, is_dir } => {
            make(target, *is_dir)?;
            set(
                Some(tree.as_raw_fd()),
                "",
                AT_EMPTY_PATH | AT_RECURSIVE,
                attributes,
            )?;
            move_tree(tree, target)
        }
        Held::Later => Ok(()),
    }
}

/// A place to mount something at.
fn make(target: &Path, is_dir: bool) -> Result<()> {
    if fs::metadata(target).is_ok() {
        return Ok(());
    }
    if is_dir {
        return fs::create_dir_all(target);
    }
    let parent = target.parent().ok_or(ErrorKind::InvalidInput)?;
    fs::create_dir_all(parent)?;
    File::create(target).map(drop)
}

/// A copy of the mounts at and below a path, which are nowhere yet.
#[allow(unsafe_code)]
fn open_tree(path: &Path) -> Result<OwnedFd> {
    let path = text(path)?;
    let (pointer, flags) = (path.as_ptr(), OPEN_TREE_CLONE | O_CLOEXEC | AT_RECURSIVE);
    // SAFETY: a text that ends with a zero byte and outlives the call (open_tree(2)).
    let opened = unsafe { syscall(nr::OPEN_TREE.into(), AT_FDCWD, pointer, flags) };
    let opened = RawFd::try_from(opened).unwrap_or(-1);
    if opened < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: the kernel has just opened it, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(opened) })
}

/// Adds attributes to a mount, and with that flag to all below it.
#[allow(unsafe_code)]
fn set(from: Option<RawFd>, path: &str, flags: c_uint, attributes: u64) -> Result<()> {
    let path = text(Path::new(path))?;
    let attributes = Attributes {
        set: attributes,
        clear: 0,
        propagation: 0,
        user_namespace: 0,
    };
    let (pointer, attributes) = (path.as_ptr(), &raw const attributes);
    // SAFETY: a text that ends with a zero byte and a structure of this size, which outlive the call
    // (mount_setattr(2)).
    let answer = unsafe {
        syscall(
            nr::MOUNT_SETATTR.into(),
            from.unwrap_or(AT_FDCWD),
            pointer,
            flags,
            attributes,
            size_of::<Attributes>(),
        )
    };
    match answer {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}

#[allow(unsafe_code)]
fn move_tree(tree: &OwnedFd, target: &Path) -> Result<()> {
    let target = text(target)?;
    let (nothing, pointer): (*const c_char, _) = (c"".as_ptr(), target.as_ptr());
    let (from, flags) = (tree.as_raw_fd(), MOVE_MOUNT_F_EMPTY_PATH);
    // SAFETY: two texts that end with a zero byte and outlive the call (move_mount(2)).
    match unsafe {
        syscall(
            nr::MOVE_MOUNT.into(),
            from,
            nothing,
            AT_FDCWD,
            pointer,
            flags,
        )
    } {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}

fn text(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(Error::other)
}
