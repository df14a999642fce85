//! The test's side of the chaos build's switchboard: arms points, sees who came by, lets them go on.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use nihilo_failpoint::{DIR_ENV, Point};
use rustix::process::{Pid, Signal, kill_process};

use crate::clock;

const LOOK_EVERY: Duration = Duration::from_millis(1);

/// A directory that all nodes of a trial share.
#[derive(Debug, Clone)]
pub struct Switchboard {
    dir: PathBuf,
}

impl Switchboard {
    /// # Errors
    /// The directory cannot be made.
    pub fn create(dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let dir = dir.canonicalize()?;
        Ok(Self { dir })
    }

    /// What a node's process must find in its environment.
    pub fn variable(&self) -> (String, String) {
        (DIR_ENV.to_owned(), self.dir.display().to_string())
    }

    /// The next that comes by does `what`.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn arm(&self, point: Point, what: &str) -> anyhow::Result<()> {
        // Not seen half written.
        let (draft, armed) = (self.dir.join("draft"), self.dir.join(point.as_str()));
        std::fs::write(&draft, what)?;
        std::fs::rename(&draft, &armed)?;
        Ok(())
    }

    /// The process that came by an armed point.
    ///
    /// # Errors
    /// Nobody did, within `limit`.
    pub async fn taken(&self, point: Point, limit: Duration) -> anyhow::Result<u32> {
        let prefix = format!("{point}.");
        let taken = clock::until(limit, LOOK_EVERY, || {
            let pid = self.names().into_iter().find_map(|name| {
                let pid = name.strip_prefix(&prefix)?;
                pid.parse().ok()
            });
            std::future::ready(pid.ok_or_else(|| format!("nobody came by `{point}`")))
        });
        taken.await.map_err(anyhow::Error::msg)
    }

    /// Lets a process that stopped at `point` go on, if there is one.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn go_on(&self, point: Point, pid: u32) -> anyhow::Result<()> {
        std::fs::write(self.dir.join(format!("{point}.go")), "")?;
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pid = pid.context("no pid")?;
        // It may be the one that was killed.
        let _gone = kill_process(pid, Signal::CONT);
        Ok(())
    }

    /// Every point that any process has passed.
    pub fn seen(&self) -> BTreeSet<Point> {
        let entries = std::fs::read_dir(self.dir.join("seen"));
        let names = entries.into_iter().flatten().flatten();
        names
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect()
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten();
        entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect()
    }
}
