//! A Docker engine beside the host's: with images, containers and a network of its own.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each test binary uses its part of it")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::common::wait_up_to;
use crate::engine::docker;

/// An engine opens its databases, and starts a containerd of its own.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Stopped when dropped, with everything of it.
#[derive(Debug)]
pub(crate) struct SecondEngine {
    child: Child,
    dir: tempfile::TempDir,
    _bridge: Bridge,
}

/// A bridge of its own: an engine without one (`--bridge=none`) would remove the host's `docker0`.
#[derive(Debug)]
struct Bridge(String);

impl Bridge {
    fn make() -> Result<Self, String> {
        let pid = std::process::id();
        let bridge = Self(format!("nih{pid}"));
        // Addresses that are nobody's: a process tells its own from those of its siblings.
        let address = format!("10.{}.{}.1/24", 200 + pid % 50, pid % 250);
        for args in [
            &["link", "add", &bridge.0, "type", "bridge"][..],
            &["addr", "add", &address, "dev", &bridge.0],
            &["link", "set", &bridge.0, "up"],
        ] {
            let done = Command::new("ip").args(args).output();
            let done = done.map_err(|error| format!("ip: {error}"))?;
            if !done.status.success() {
                return Err(String::from_utf8_lossy(&done.stderr).into_owned());
            }
        }
        Ok(bridge)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        drop(Command::new("ip").args(["link", "del", &self.0]).output());
    }
}

impl SecondEngine {
    /// `None`, with a printed reason, where none can run.
    pub(crate) fn start() -> Option<Self> {
        let skip = |why: &str| {
            eprintln!("skipped: no second Docker engine: {why}");
            None
        };
        if !rustix::process::geteuid().is_root() {
            return skip("it needs root");
        }
        let storage = match docker(&["info", "--format", "{{.Driver}}"]) {
            Ok(storage) => storage,
            Err(why) => return skip(&why),
        };
        let dir = tempfile::tempdir().unwrap();
        // Of its own, beside the host's, which names a directory.
        std::fs::write(dir.path().join("daemon.json"), "{}").unwrap();
        let bridge = match Bridge::make() {
            Ok(bridge) => bridge,
            Err(why) => return skip(&why),
        };
        let child = match daemon(dir.path(), storage.trim(), &bridge.0).spawn() {
            Ok(child) => child,
            Err(error) => return skip(&format!("dockerd: {error}")),
        };
        let mut engine = Self {
            child,
            dir,
            _bridge: bridge,
        };
        let answered = wait_up_to(START_LIMIT, "answer of the second engine", || {
            if engine.child.try_wait().unwrap().is_some() {
                return Some(false);
            }
            engine.docker(&["version"]).is_ok().then_some(true)
        });
        if !answered {
            let log = std::fs::read_to_string(engine.dir.path().join("log")).unwrap();
            let last = log.lines().last().unwrap_or("it said nothing").to_owned();
            return skip(&last);
        }
        Some(engine)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("docker.sock")
    }

    /// What a node's configuration says to use it.
    pub(crate) fn settings(&self) -> String {
        format!("docker:\n  socket: {}\n", self.socket().display())
    }

    pub(crate) fn docker(&self, args: &[&str]) -> Result<String, String> {
        let host = format!("unix://{}", self.socket().display());
        docker(&[&["--host", &host], args].concat())
    }
}

fn daemon(dir: &Path, storage: &str, bridge: &str) -> Command {
    let log = std::fs::File::create(dir.join("log")).unwrap();
    let at = |name: &str| dir.join(name).display().to_string();
    let mut daemon = Command::new("dockerd");
    daemon
        .args(["--config-file", &at("daemon.json")])
        .args(["--data-root", &at("data"), "--exec-root", &at("exec")])
        .args(["--pidfile", &at("pid"), "--storage-driver", storage])
        .arg(format!("--host=unix://{}", at("docker.sock")))
        // The host's packet filter and its bridge stay as they are.
        .args(["--iptables=false", "--ip6tables=false"])
        .args(["--bridge", bridge])
        .args([
            "--ip-forward=false",
            "--ip-masq=false",
            "--userland-proxy=false",
        ])
        .arg(format!(
            "--containerd-namespace=nihilo-test-{}",
            std::process::id()
        ))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    daemon
}

impl Drop for SecondEngine {
    fn drop(&mut self) {
        for id in self
            .docker(&["ps", "--all", "--quiet"])
            .unwrap_or_default()
            .lines()
        {
            drop(self.docker(&["rm", "--force", "--volumes", id]));
        }
        let pid = i32::try_from(self.child.id()).unwrap();
        if kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).is_err() {
            eprintln!("the second engine had ended before");
        }
        drop(self.child.wait());
        let dir = self.dir.path().display().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        for point in points.filter(|point| point.starts_with(&dir)) {
            drop(Command::new("umount").args(["-l", point]).output());
        }
    }
}
