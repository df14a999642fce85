//! The steps of a plan, in the order in which each still may what it has to.
//!
//! The standard library has none of these calls, and the launcher has nothing else (decision 0011).

use std::ffi::{c_int, c_long, c_uint, c_ulong};
use std::io::{Error, Result};
use std::os::fd::AsRawFd;
use std::os::unix::process::parent_id;
use std::path::Path;

use super::landlock::Rules;
use super::plan::Plan;
use super::syscalls as nr;
use super::{ISOLATION_MARK, MOUNT_MARK, filter, mounts};

/// `<linux/prctl.h>`
const PR_SET_PDEATHSIG: c_int = 1;
const PR_CAPBSET_DROP: c_int = 24;
const PR_SET_NO_NEW_PRIVS: c_int = 38;
const PR_CAP_AMBIENT: c_int = 47;
const PR_CAP_AMBIENT_CLEAR_ALL: c_ulong = 4;
/// `_LINUX_CAPABILITY_VERSION_3`: two words of each set.
const CAPABILITIES_VERSION: u32 = 0x2008_0522;
/// More than any kernel has.
const MAX_CAPABILITIES: c_ulong = 64;
/// `<linux/seccomp.h>`
const SECCOMP_SET_MODE_FILTER: c_long = 1;
const SIGKILL: c_ulong = 9;
/// `<asm-generic/resource.h>`
const RLIMIT_CORE: c_int = 4;
const RLIMIT_NPROC: c_int = 6;
const RLIMIT_NOFILE: c_int = 7;
/// The same number on every architecture; without it, Linux before 5.9, every descriptor that there
/// could be is closed by itself.
const SYS_CLOSE_RANGE: c_long = 436;
const FIRST_OTHER_FD: c_int = 3;
/// `SD_LISTEN_FDS_START` (sd_listen_fds(3)).
const SOCKET_FD: c_int = 3;
const STDIN_FD: c_int = 0;
const MAX_FDS: c_int = 65_536;
/// Highest number of a signal; some of them cannot be set, which is theirs to say.
const MAX_SIGNAL: c_int = 64;
/// A trial takes milliseconds.
const TRIAL_SECONDS: c_uint = 10;
/// Instances go before the node where the host's memory ends.
const OOM_SCORE_ADJ: i32 = 200;

#[repr(C)]
struct Limit {
    soft: c_ulong,
    hard: c_ulong,
}

#[repr(C)]
struct CapabilitiesHeader {
    version: u32,
    pid: c_int,
}

/// `struct sock_fprog`
#[repr(C)]
struct FilterProgram {
    n_instructions: u16,
    instructions: *const filter::Instruction,
}

#[allow(unsafe_code)]
unsafe extern "C" {
    fn prctl(option: c_int, ...) -> c_int;
    fn setsid() -> c_int;
    fn alarm(seconds: c_uint) -> c_uint;
    fn getrlimit(resource: c_int, limit: *mut Limit) -> c_int;
    fn setrlimit(resource: c_int, limit: *const Limit) -> c_int;
    fn setgroups(n: usize, groups: *const c_uint) -> c_int;
    fn setresgid(real: c_uint, effective: c_uint, saved: c_uint) -> c_int;
    fn setresuid(real: c_uint, effective: c_uint, saved: c_uint) -> c_int;
    fn signal(number: c_int, handler: usize) -> usize;
    fn syscall(number: c_long, ...) -> c_long;
    fn close(fd: c_int) -> c_int;
    fn dup2(from: c_int, to: c_int) -> c_int;
}

/// Everything of the plan; what comes after it is done by the program's user.
///
/// # Errors
/// The step that was refused, in words for people.
pub(super) fn take(plan: &Plan, program: &Path) -> std::result::Result<(), String> {
    let step = |name: &str, done: Result<()>| done.map_err(|error| format!("{name}: {error}"));
    if plan.trial {
        end_in_time();
    }
    // A group to be killed by; and where the kernel shares cpu by session, a flood of processes gets
    // the part of one program.
    step("a session of its own", new_session())?;
    // Before anything can be allocated or forked that would not be counted.
    for file in &plan.cgroups {
        step(&format!("joining `{}`", file.display()), join(file))?;
    }
    // In a tree of its own `/proc` is read-only.
    raise_oom_score();
    // While it may, and before its descriptors and its user are the program's.
    let of_mounts = match plan.root {
        Some(_) => ISOLATION_MARK,
        None => MOUNT_MARK,
    };
    mounts::take(plan).map_err(|why| format!("{of_mounts}{why}"))?;
    step("core files", limit(RLIMIT_CORE, 0))?;
    if let Some(n) = plan.open_files {
        step("limit of open files", limit(RLIMIT_NOFILE, n))?;
    }
    if let Some(n) = plan.processes {
        step("limit of processes", limit(RLIMIT_NPROC, n))?;
    }
    if plan.socket {
        step("handing the socket over", move_socket())?;
    }
    close_others(FIRST_OTHER_FD + c_int::from(plan.socket));
    reset_signals();
    // By whoever may look everywhere, of what the program will see.
    let rules = rules(plan, program).map_err(|why| format!("{ISOLATION_MARK}rules: {why}"))?;
    if plan.sealed {
        narrow_capabilities();
    }
    if let Some((user, group)) = plan.ids {
        step(
            &format!("becoming user {user}:{group}"),
            become_user(user, group),
        )?;
    }
    step("no new privileges", no_new_privileges())?;
    if let Some(parent) = plan.dies_with {
        // A change of ids clears it.
        step("parent-death signal", die_with_parent())?;
        // The parent may have died before the signal was set.
        if parent != parent_id() {
            return Err("the node that asked for this is gone".into());
        }
    }
    // Last: after these, little of the above could be done.
    if plan.sealed {
        step(
            &format!("{ISOLATION_MARK}no capabilities"),
            drop_capabilities(),
        )?;
    }
    if let Some(rules) = rules {
        step(&format!("{ISOLATION_MARK}rules"), rules.bind())?;
    }
    if plan.sealed {
        step(&format!("{ISOLATION_MARK}refused calls"), refuse_calls())?;
    }
    Ok(())
}

fn rules(plan: &Plan, program: &Path) -> Result<Option<Rules>> {
    if plan.grants.is_empty() {
        return Ok(None);
    }
    let rules = Rules::new(&plan.grants, &plan.ports)?;
    rules.allow_program(program)?;
    Ok(Some(rules))
}

/// What no program that is started from here can ever have. Refused to who has none anyway.
#[allow(unsafe_code)]
fn narrow_capabilities() {
    let unused: c_ulong = 0;
    for capability in 0..MAX_CAPABILITIES {
        // SAFETY: this option takes a number and touches no memory (prctl(2)).
        unsafe { prctl(PR_CAPBSET_DROP, capability, unused, unused, unused) };
    }
    // SAFETY: as above.
    unsafe {
        prctl(
            PR_CAP_AMBIENT,
            PR_CAP_AMBIENT_CLEAR_ALL,
            unused,
            unused,
            unused,
        )
    };
}

#[allow(unsafe_code)]
fn drop_capabilities() -> Result<()> {
    let header = CapabilitiesHeader {
        version: CAPABILITIES_VERSION,
        pid: 0,
    };
    // Effective, permitted, inheritable, twice.
    let none = [0_u32; 6];
    let (header, none) = (&raw const header, &raw const none);
    // SAFETY: the kernel reads a header and two words of each of three sets, which outlive the call
    // (capset(2)).
    match unsafe { syscall(nr::CAPSET.into(), header, none) } {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}

#[allow(unsafe_code)]
fn refuse_calls() -> Result<()> {
    let instructions = filter::program();
    let program = FilterProgram {
        n_instructions: u16::try_from(instructions.len()).map_err(Error::other)?,
        instructions: instructions.as_ptr(),
    };
    let (flags, program): (c_ulong, *const FilterProgram) = (0, &raw const program);
    // SAFETY: the kernel copies so many instructions, which outlive the call (seccomp(2)).
    let set = unsafe { syscall(nr::SECCOMP.into(), SECCOMP_SET_MODE_FILTER, flags, program) };
    match set {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}

/// Whoever tries waits for the end.
#[allow(unsafe_code)]
fn end_in_time() {
    // SAFETY: a number; the signal's default ends this process (alarm(2)).
    unsafe { alarm(TRIAL_SECONDS) };
}

#[allow(unsafe_code)]
fn new_session() -> Result<()> {
    // SAFETY: it takes and touches nothing (setsid(2)).
    match unsafe { setsid() } {
        -1 => Err(Error::last_os_error()),
        _ => Ok(()),
    }
}

fn join(procs: &Path) -> Result<()> {
    // `0` is whoever writes.
    std::fs::write(procs, "0")
}

/// Soft and hard; never above what this process may have.
#[allow(unsafe_code)]
fn limit(resource: c_int, wanted: u64) -> Result<()> {
    let mut now = Limit { soft: 0, hard: 0 };
    // SAFETY: it writes one structure of this layout, which outlives the call (getrlimit(2)).
    check(unsafe { getrlimit(resource, &raw mut now) })?;
    let wanted = c_ulong::try_from(wanted).unwrap_or(c_ulong::MAX);
    let wanted = wanted.min(now.hard);
    let new = Limit {
        soft: wanted,
        hard: wanted,
    };
    // SAFETY: it reads one structure of this layout, which outlives the call (setrlimit(2)).
    check(unsafe { setrlimit(resource, &raw const new) })
}

/// Never lowered, which would need a privilege; where it cannot be written the host decides.
fn raise_oom_score() {
    const FILE: &str = "/proc/self/oom_score_adj";
    let now = std::fs::read_to_string(FILE).ok();
    let now: Option<i32> = now.and_then(|text| text.trim().parse().ok());
    if now.is_some_and(|now| now < OOM_SCORE_ADJ) {
        drop(std::fs::write(FILE, OOM_SCORE_ADJ.to_string()));
    }
}

/// From the standard input, which reads nothing afterwards, as that of every instance.
#[allow(unsafe_code)]
fn move_socket() -> Result<()> {
    // SAFETY: two numbers; whatever was the second one is of no use to this program (dup2(2)).
    let moved = unsafe { dup2(STDIN_FD, SOCKET_FD) };
    if moved != SOCKET_FD {
        return Err(Error::last_os_error());
    }
    // After it: this takes the lowest number that is free.
    let nothing = std::fs::File::open("/dev/null")?;
    // SAFETY: as above.
    match unsafe { dup2(nothing.as_raw_fd(), STDIN_FD) } {
        STDIN_FD => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}

/// Whatever the node had open without saying that it closes.
#[allow(unsafe_code)]
fn close_others(first: c_int) {
    // SAFETY: three numbers; no descriptor from the first on is used by this program any more
    // (close_range(2)).
    if unsafe { syscall(SYS_CLOSE_RANGE, first, c_uint::MAX, 0) } == 0 {
        return;
    }
    for fd in first..MAX_FDS {
        // SAFETY: as above; one that is not open is refused (close(2)).
        unsafe { close(fd) };
    }
}

/// A signal that is ignored stays so in the program, which does not expect it.
#[allow(unsafe_code)]
fn reset_signals() {
    const DEFAULT: usize = 0;
    for number in 1..=MAX_SIGNAL {
        // SAFETY: the default needs no handler, and this program has none (signal(2)).
        unsafe { signal(number, DEFAULT) };
    }
}

/// Groups first: a user that is not root may change none.
#[allow(unsafe_code)]
fn become_user(user: u32, group: u32) -> Result<()> {
    // SAFETY: no groups, so nothing is read (setgroups(2)).
    check(unsafe { setgroups(0, std::ptr::null()) })?;
    // SAFETY: numbers only; this process has one thread (setresgid(2), setresuid(2)).
    check(unsafe { setresgid(group, group, group) })?;
    // SAFETY: as above.
    check(unsafe { setresuid(user, user, user) })
}

/// No program of another owner lends its rights to an instance (setuid, file capabilities).
#[allow(unsafe_code)]
fn no_new_privileges() -> Result<()> {
    let (yes, unused): (c_ulong, c_ulong) = (1, 0);
    // SAFETY: this option takes numbers and touches no memory (prctl(2)).
    check(unsafe { prctl(PR_SET_NO_NEW_PRIVS, yes, unused, unused, unused) })
}

#[allow(unsafe_code)]
fn die_with_parent() -> Result<()> {
    // SAFETY: this option takes one number and touches no memory (prctl(2)).
    check(unsafe { prctl(PR_SET_PDEATHSIG, SIGKILL) })
}

fn check(answer: c_int) -> Result<()> {
    match answer {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}
