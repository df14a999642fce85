//! `startstop.log`: what was spawned and what ended, in order. Fault tests judge the instance
//! bound by its replay, so it is always written.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use nihilo_host::BootClock;
use nihilo_types::id::{Epoch, InstanceId};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// The file grows to this, twice.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

#[derive(Debug)]
pub(crate) struct StartStopLog {
    file: Mutex<(PathBuf, Option<File>, u64)>,
    clock: BootClock,
}

/// What is read back of a [`Line`].
#[derive(Debug, Deserialize)]
struct Noted {
    instance: InstanceId,
    event: String,
}

#[derive(Debug, Serialize)]
struct Line<'a> {
    boottime_ns: u64,
    instance: &'a str,
    epoch: u64,
    event: &'a str,
    pid: Option<u32>,
}

const FILE: &str = "startstop.log";
/// The file before it.
const BEFORE: &str = "startstop.log.1";

/// Instances of which an earlier process of this node noted that it would start them, and no end.
pub(crate) fn left_open(dir: &Path) -> BTreeSet<InstanceId> {
    let mut open = BTreeSet::new();
    for file in [BEFORE, FILE] {
        // Where there is none, nothing was noted.
        let text = std::fs::read(dir.join(file)).unwrap_or_default();
        // A line that was torn is one more that was not noted.
        let lines = text.split(|byte| *byte == b'\n');
        for line in lines.filter_map(|line| serde_json::from_slice::<Noted>(line).ok()) {
            match line.event.as_str() {
                "spawn" => drop(open.insert(line.instance)),
                "exit" => drop(open.remove(&line.instance)),
                _ => {}
            }
        }
    }
    open
}

impl StartStopLog {
    pub(crate) fn open(dir: &Path, clock: BootClock) -> std::io::Result<Self> {
        let path = dir.join(FILE);
        let mut options = OpenOptions::new();
        let mut file = options.read(true).create(true).append(true).open(&path)?;
        end_torn_line(&mut file)?;
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
            *file = std::fs::rename(&*path, path.with_file_name(BEFORE))
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

/// What a power cut or a full disk left without its end would take the next line with it.
fn end_torn_line(file: &mut File) -> std::io::Result<()> {
    if file.metadata()?.len() == 0 {
        return Ok(());
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    match last {
        [b'\n'] => Ok(()),
        _ => file.write_all(b"\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_line_takes_no_other_with_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "{\"boottime_ns\":7,\"inst").unwrap();
        for id in ["a", "b"] {
            let log = StartStopLog::open(dir.path(), BootClock::default()).unwrap();
            log.write("spawn", &InstanceId::from(id), Epoch(2), None);
        }
        let open: Vec<_> = left_open(dir.path()).into_iter().collect();
        assert_eq!(open, [InstanceId::from("a"), InstanceId::from("b")]);
        let text = std::fs::read_to_string(dir.path().join(FILE)).unwrap();
        assert_eq!(text.lines().count(), 3, "{text}");
    }

    #[test]
    fn what_began_and_has_no_end_is_open_across_both_files_and_a_torn_line() {
        let dir = tempfile::tempdir().unwrap();
        assert!(left_open(dir.path()).is_empty());
        let line = |event: &str, id: &str| {
            format!(
                "{{\"boottime_ns\":1,\"instance\":\"{id}\",\"epoch\":2,\"event\":\"{event}\",\"pid\":null}}\n"
            )
        };
        let before = [line("spawn", "a"), line("spawn", "b"), line("spawned", "b")].concat();
        std::fs::write(dir.path().join(BEFORE), before).unwrap();
        let now = [
            line("exit", "a"),
            line("spawn", "c"),
            "{\"boottime_ns\":7,\"inst".into(),
        ]
        .concat();
        std::fs::write(dir.path().join(FILE), now).unwrap();
        let open: Vec<_> = left_open(dir.path()).into_iter().collect();
        assert_eq!(open, [InstanceId::from("b"), InstanceId::from("c")]);
    }
}
