//! The launcher's program (`crate::launch`), held in memory and started from there.

use std::ffi::OsStr;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use tokio::process::Command;

use crate::launch::{FAILURE_MARK, ISOLATION_MARK, Plan, TRIAL_MARK};

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

    /// Whether a plan can be carried out here: the version of the kernel's rules, or why not.
    pub(super) fn try_plan(&self, plan: &Plan) -> Result<u32, String> {
        let mut command = std::process::Command::new(self.path());
        // There is one in every tree.
        command.args(plan.to_args()).arg("trial").current_dir("/");
        command.env_clear().stdin(std::process::Stdio::null());
        let ended = command.output().map_err(|error| error.to_string())?;
        let said = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
        let (out, err) = (said(ended.stdout), said(ended.stderr));
        if let Some(version) = out.strip_prefix(TRIAL_MARK) {
            return version.parse().map_err(|_| out.clone());
        }
        let why = err.strip_prefix(FAILURE_MARK).unwrap_or(&err);
        let why = why.strip_prefix(ISOLATION_MARK).unwrap_or(why);
        match why {
            "" => Err(format!("the launcher ended by itself ({})", ended.status)),
            why => Err(why.into()),
        }
    }

    fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.0.as_raw_fd())
    }

    /// A command that becomes `argv`, confined by `plan`.
    pub(super) fn command(&self, plan: &Plan, argv: &[impl AsRef<OsStr>]) -> Command {
        // Looked up by the child, which has the descriptor until it has become the launcher.
        let mut command = Command::new(self.path());
        command.args(plan.to_args()).args(argv);
        command
    }
}
