//! What a program gets at: files, ports to listen on, and other processes, by rules that it cannot
//! take back (landlock(7)). Needs no privilege.
//!
//! A kernel knows some version of the rules; what a version does not know is not kept, and not an
//! error.

use std::ffi::{CString, c_int, c_long, c_void};
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use super::plan::{Access, Grant};
use super::syscalls as nr;

/// `<linux/landlock.h>`
const VERSION: c_long = 1;
const PATH_BENEATH: c_long = 1;
const NET_PORT: c_long = 2;
const BIND_TCP: u64 = 1;
const SCOPE_ABSTRACT_SOCKETS: u64 = 1;
const SCOPE_SIGNALS: u64 = 1 << 1;

const EXECUTE: u64 = 1;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const MAKE_CHAR: u64 = 1 << 6;
const MAKE_BLOCK: u64 = 1 << 11;
const TRUNCATE: u64 = 1 << 14;
const IOCTL_DEVICE: u64 = 1 << 15;
/// Those that a file can have.
const OF_FILES: u64 = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEVICE;

/// Rights to files that a version knows: the lowest so many bits.
const N_FILE_RIGHTS: [u32; 6] = [0, 13, 14, 15, 15, 16];
const FIRST_WITH_PORTS: u32 = 4;
/// The first that keeps signals and abstract sockets, the last of what docs/limits.md speaks of.
pub(crate) const FIRST_WITH_SCOPES: u32 = 6;

/// `<fcntl.h>`, the same on both architectures.
const O_PATH: c_int = 0x0020_0000;
const O_CLOEXEC: c_int = 0x0008_0000;

/// Devices that are nobody's.
pub(super) const DEVICES: [&str; 6] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
];

#[repr(C)]
struct RulesetAttributes {
    files: u64,
    ports: u64,
    scopes: u64,
}

#[repr(C, packed)]
struct PathBeneath {
    rights: u64,
    directory: RawFd,
}

#[repr(C)]
struct NetPort {
    rights: u64,
    port: u64,
}

#[allow(unsafe_code)]
unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn open(path: *const std::ffi::c_char, flags: c_int, ...) -> c_int;
}

/// The version that this kernel knows.
///
/// # Errors
/// It knows none, or has them turned off.
#[allow(unsafe_code)]
pub(super) fn version() -> Result<u32> {
    let nothing: *const c_void = std::ptr::null();
    let size: usize = 0;
    // SAFETY: with this flag the kernel reads nothing (landlock_create_ruleset(2)).
    let answer = unsafe { syscall(nr::LANDLOCK_CREATE_RULESET.into(), nothing, size, VERSION) };
    u32::try_from(answer).map_err(|_| Error::last_os_error())
}

/// Rules that are made and bind nobody yet.
pub(super) struct Rules {
    ruleset: OwnedFd,
    known: u64,
}

impl Rules {
    /// Of `grants`, and of everything that any program needs: devices that are nobody's, and its
    /// output by name. What is not there, or out of reach anyway, needs no rule.
    ///
    /// `ports` that it may listen on; any, where there are none.
    ///
    /// # Errors
    /// The kernel has no such rules, or refused one.
    pub(super) fn new(grants: &[Grant], ports: &[u16]) -> Result<Self> {
        let version = version()?;
        let known = file_rights(version);
        let keeps_ports = version >= FIRST_WITH_PORTS && !ports.is_empty();
        let attributes = RulesetAttributes {
            files: known,
            ports: if keeps_ports { BIND_TCP } else { 0 },
            scopes: match version >= FIRST_WITH_SCOPES {
                true => SCOPE_ABSTRACT_SOCKETS | SCOPE_SIGNALS,
                false => 0,
            },
        };
        let rules = Self {
            ruleset: create(&attributes, version)?,
            known,
        };
        for grant in grants {
            rules.open_and_allow(&grant.path, rights(grant.access))?;
        }
        for device in DEVICES {
            let rights = READ_FILE | WRITE_FILE | IOCTL_DEVICE;
            rules.open_and_allow(Path::new(device), rights)?;
        }
        // `/dev/stderr` of a program whose output has a name.
        for stream in [1, 2] {
            rules.allow_output(stream);
        }
        for port in ports.iter().filter(|_| keeps_ports) {
            rules.allow_port(*port)?;
        }
        Ok(rules)
    }

    /// A program that is named by its path, wherever that is.
    pub(super) fn allow_program(&self, program: &Path) -> Result<()> {
        match program.as_os_str().as_bytes().contains(&b'/') {
            true => self.open_and_allow(program, READ_FILE | EXECUTE),
            false => Ok(()),
        }
    }

    /// From here on, for this process and whatever it starts. It must have given up new privileges.
    #[allow(unsafe_code)]
    pub(super) fn bind(self) -> Result<()> {
        let (ruleset, flags): (RawFd, c_long) = (self.ruleset.as_raw_fd(), 0);
        // SAFETY: numbers only; the descriptor is open (landlock_restrict_self(2)).
        done(unsafe { syscall(nr::LANDLOCK_RESTRICT_SELF.into(), ruleset, flags) })
    }

    fn open_and_allow(&self, path: &Path, rights: u64) -> Result<()> {
        let opened = match open_path(path) {
            Err(error) => {
                let is_nothing = matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::NotADirectory
                );
                return if is_nothing { Ok(()) } else { Err(error) };
            }
            Ok(opened) => std::fs::File::from(opened),
        };
        let is_dir = opened.metadata()?.is_dir();
        let possible = if is_dir { u64::MAX } else { OF_FILES };
        self.allow(opened.as_raw_fd(), rights & possible)
    }

    /// Pipes without a name are out of the reach of rules, and refused by them.
    fn allow_output(&self, stream: RawFd) {
        let named = std::fs::metadata(format!("/proc/self/fd/{stream}"));
        if named.is_ok_and(|found| found.file_type().is_fifo()) {
            let _unless_without_name = self.allow(stream, READ_FILE | WRITE_FILE);
        }
    }

    #[allow(unsafe_code)]
    fn allow(&self, beneath: RawFd, rights: u64) -> Result<()> {
        let rule = PathBeneath {
            rights: rights & self.known,
            directory: beneath,
        };
        let (pointer, flags): (*const PathBeneath, c_long) = (&raw const rule, 0);
        // SAFETY: the kernel reads one rule of this layout, which outlives the call
        // (landlock_add_rule(2)).
        done(unsafe {
            syscall(
                nr::LANDLOCK_ADD_RULE.into(),
                self.ruleset.as_raw_fd(),
                PATH_BENEATH,
                pointer,
                flags,
            )
        })
    }

    #[allow(unsafe_code)]
    fn allow_port(&self, port: u16) -> Result<()> {
        let rule = NetPort {
            rights: BIND_TCP,
            port: port.into(),
        };
        let (pointer, flags): (*const NetPort, c_long) = (&raw const rule, 0);
        // SAFETY: as above.
        done(unsafe {
            syscall(
                nr::LANDLOCK_ADD_RULE.into(),
                self.ruleset.as_raw_fd(),
                NET_PORT,
                pointer,
                flags,
            )
        })
    }
}

#[allow(unsafe_code)]
fn create(attributes: &RulesetAttributes, version: u32) -> Result<OwnedFd> {
    // An older kernel wants no more than it knows.
    let n_known: usize = match version {
        0..FIRST_WITH_PORTS => 1,
        FIRST_WITH_PORTS..FIRST_WITH_SCOPES => 2,
        _ => 3,
    };
    let (pointer, flags): (*const RulesetAttributes, c_long) = (attributes, 0);
    // SAFETY: the kernel reads so many bytes of a structure that has them
    // (landlock_create_ruleset(2)).
    let made = unsafe {
        syscall(
            nr::LANDLOCK_CREATE_RULESET.into(),
            pointer,
            n_known * size_of::<u64>(),
            flags,
        )
    };
    let made = RawFd::try_from(made).unwrap_or(-1);
    if made < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: the kernel has just opened it, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(made) })
}

#[allow(unsafe_code)]
fn open_path(path: &Path) -> Result<OwnedFd> {
    let text = CString::new(path.as_os_str().as_bytes()).map_err(Error::other)?;
    // SAFETY: a text that ends with a zero byte and outlives the call (open(2)).
    let opened = unsafe { open(text.as_ptr(), O_PATH | O_CLOEXEC) };
    if opened < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(opened) })
}

fn done(answer: c_long) -> Result<()> {
    match answer {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}

/// Those that rules of this version can be about: what no rule allows of them is refused.
fn file_rights(version: u32) -> u64 {
    let newest = N_FILE_RIGHTS.len() - 1;
    let version = usize::try_from(version).unwrap_or(newest).min(newest);
    (1 << N_FILE_RIGHTS[version]) - 1
}

fn rights(access: Access) -> u64 {
    match access {
        Access::Read => READ_FILE | READ_DIR,
        Access::Run => READ_FILE | READ_DIR | EXECUTE,
        Access::Write => !(MAKE_CHAR | MAKE_BLOCK),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_keeps_what_it_knows() {
        let cases = [
            (1, 0x1fff),
            (2, 0x3fff),
            (3, 0x7fff),
            (4, 0x7fff),
            (5, 0xffff),
            (6, 0xffff),
            (70, 0xffff),
        ];
        for (version, want) in cases {
            assert_eq!(file_rights(version), want, "{version}");
        }
    }

    #[test]
    fn who_may_read_changes_nothing_and_nobody_makes_devices() {
        let changes = !(READ_FILE | READ_DIR | EXECUTE);
        assert_eq!(rights(Access::Read) & (changes | EXECUTE), 0);
        assert_eq!(rights(Access::Run) & changes, 0);
        assert_eq!(rights(Access::Write) & (MAKE_CHAR | MAKE_BLOCK), 0);
        assert_ne!(rights(Access::Write) & EXECUTE, 0);
    }
}
