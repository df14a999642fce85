//! The programs that Nihilo is measured beside, from Debian's packages. Nothing is downloaded
//! unless `--install` says so.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::say;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) program: &'static str,
    package: &'static str,
    /// Prints its version.
    version_flag: &'static str,
}

pub(crate) const NGINX: Peer = Peer {
    program: "nginx",
    package: "nginx",
    version_flag: "-v",
};
pub(crate) const HAPROXY: Peer = Peer {
    program: "haproxy",
    package: "haproxy",
    version_flag: "-v",
};
pub(crate) const ETCD: Peer = Peer {
    program: "etcd",
    package: "etcd-server",
    version_flag: "--version",
};

/// Debian puts servers where a user's PATH may not lead.
const ALSO: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/sbin"];

impl Peer {
    /// Finds the program, or installs it if that was asked for; `None` and a word about it
    /// otherwise.
    ///
    /// # Errors
    /// The installation failed.
    pub(crate) fn find(self, install: bool) -> anyhow::Result<Option<PathBuf>> {
        if let Some(found) = self.on_this_machine() {
            return Ok(Some(found));
        }
        if install {
            self.install()?;
            let found = self.on_this_machine();
            let missing = || format!("{} installs no `{}`", self.package, self.program);
            return found.with_context(missing).map(Some);
        }
        say(format!(
            "{} is missing and left out: apt-get install {}, or --install",
            self.program, self.package
        ));
        Ok(None)
    }

    fn on_this_machine(self) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let dirs = std::env::split_paths(&path).chain(ALSO.map(PathBuf::from));
        dirs.map(|dir| dir.join(self.program))
            .find(|file| file.is_file())
    }

    fn install(self) -> anyhow::Result<()> {
        say(format!("installing {}", self.package));
        for args in [
            &["update", "-qq"][..],
            &[
                "install",
                "-y",
                "-qq",
                "--no-install-recommends",
                self.package,
            ],
        ] {
            let status = Command::new("apt-get")
                .args(args)
                .env("DEBIAN_FRONTEND", "noninteractive")
                // Debian starts what it installs; in this run level it does not.
                .env("RUNLEVEL", "1")
                .stdout(Stdio::null())
                .status()
                .context("apt-get")?;
            if !status.success() {
                bail!("`apt-get {}` failed; it needs root", args.join(" "));
            }
        }
        Ok(())
    }

    /// The first line of what the program says about itself.
    pub(crate) fn version(self, program: &Path) -> String {
        let output = Command::new(program).arg(self.version_flag).output();
        let Ok(output) = output else {
            return "unknown".into();
        };
        // nginx says it on stderr.
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        text.lines().next().unwrap_or("unknown").trim().to_owned()
    }
}
