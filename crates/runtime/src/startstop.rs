//! `startstop.log`: what was spawned and what ended, in order. Fault tests judge the instance
//! bound by its replay, so it is always written.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use nihilo_host::BootClock;
use nihilo_types::id::{Epoch, InstanceId};
use parking_lot::Mutex;
use serde::Serialize;

/// The file grows to this, twice.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

#[derive(Debug)]
pub(crate) struct StartStopLog {
    file: Mutex<(PathBuf, Option<File>, u64)>,
    clock: BootClock,
}

#[derive(Debug, Serialize)]
struct Line<'a> {
    boottime_ns: u64,
    instance: &'a str,
    epoch: u64,
    event: &'a str,
    pid: Option<u32>,
}

impl StartStopLog {
    pub(crate) fn open(dir: &Path, clock: BootClock) -> std::io::Result<Self> {
        let path = dir.join("startstop.log");
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let size = file.metadata()?.len();
        Ok(Self {
            file: Mutex::new((path, Some(file), size)),
            clock,
        })
    }

    /// `event`: `spawn` before the call, `spawned` after it, `exit` when it has ended.
    pub(crate) fn write(&self, event: &str, id: &InstanceId, epoch: Epoch, pid: Option<u32>) {
        let line = Line {
            boottime_ns: self.clock.now_ns(),
            instance: id.as_str(),
            epoch: epoch.0,
            event,
            pid,
        };
        let Ok(mut text) = serde_json::to_vec(&line) else {
            return;
        };
        text.push(b'\n');
        let mut log = self.file.lock();
        let (path, file, size) = &mut *log;
        if *size + text.len() as u64 > MAX_BYTES {
            *file = std::fs::rename(&*path, path.with_extension("log.1"))
                .and_then(|()| OpenOptions::new().create(true).append(true).open(&*path))
                .ok();
            *size = 0;
        }
        if let Some(file) = file
            && let Err(error) = file.write_all(&text)
        {
            tracing::warn!(%error, "startstop.log");
        }
        *size += text.len() as u64;
    }
}
