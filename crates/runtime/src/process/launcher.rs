//! The launcher's program (`crate::launch`), held in memory and started from there.

use std::ffi::OsStr;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use tokio::process::Command;

use crate::launch::Plan;

/// What the build script made of `launcher/main.rs`.
static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/launcher"));

/// Of the file, for people who look at processes.
const NAME: &str = "nihilo-launch";

/// A file without a name, so that no directory has to allow programs.
#[derive(Debug)]
pub(super) struct Launcher(OwnedFd);

impl Launcher {
    /// # Errors
    /// The kernel has no memory for it, or forbids programs in such files.
    pub(super) fn new() -> std::io::Result<Self> {
        Self::in_memory().map_err(|error| std::io::Error::other(format!("the launcher: {error}")))
    }

    fn in_memory() -> std::io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let create = |flags| memfd_create(NAME, flags);
        let file = match create(flags | MemfdFlags::EXEC) {
            // Before Linux 6.3 every such file may hold a program, and none needs to say so.
            Err(Errno::INVAL) => create(flags),
            other => other,
        }?;
        let mut file = std::fs::File::from(file);
        file.write_all(PROGRAM)?;
        // What runs from here on is what was built.
        fcntl_add_seals(
            &file,
            SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW,
        )?;
        Ok(Self(file.into()))
    }

    /// Whether this is what `/proc/PID/exe` of a launcher leads to (memfd_create(2)).
    pub(super) fn is_at(path: &Path) -> bool {
        path.to_string_lossy()
            .starts_with(&format!("/memfd:{NAME}"))
    }

    /// A command that becomes `argv`, confined by `plan`.
    pub(super) fn command(&self, plan: &Plan, argv: &[impl AsRef<OsStr>]) -> Command {
        // Looked up by the child, which has the descriptor until it has become the launcher.
        let mut command = Command::new(format!("/proc/self/fd/{}", self.0.as_raw_fd()));
        command.args(plan.to_args()).args(argv);
        command
    }
}
