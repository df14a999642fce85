//! What the agent writes down about each instance, so that the node's next process can go on with
//! it: `instances/{id}/handle`, written anew at each step of the instance's life.
//!
//! ```text
//! nihilo-handle 1 8f2e0c41      version, CRC-32C of the rest
//! {"report":{…},"spec":{…}}
//! ```
//!
//! By a temporary name and a rename, without waiting for the disk: what a handle must survive is
//! the death of this process, and the page cache does. A power cut takes the instances along, and
//! a file that it tore fails its checksum.

use std::fs;
use std::path::{Path, PathBuf};

use nihilo_failpoint::{Point, hit};
use nihilo_types::id::InstanceId;
use nihilo_types::instance::{InstanceReport, InstanceSpec};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::driver::Trace;
use crate::ended::End;
use crate::logs::{FILE as OUTPUT_FILE, since_epoch_ms};
use crate::process::remove_pipes;

const MAGIC: &str = "nihilo-handle";
const VERSION: u32 = 1;
const FILE: &str = "handle";
const TEMPORARY: &str = "handle.new";
/// Far above any specification that an owner sends.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// An instance, as far as it had come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) report: InstanceReport,
    pub(crate) spec: InstanceSpec,
    /// `CLOCK_BOOTTIME` when its start was accepted, in nanoseconds.
    pub(crate) accepted_ns: u64,
    /// `None` = about to be started, or just started.
    pub(crate) trace: Option<Trace>,
}

/// Why a handle cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandleError {
    #[error("it cannot be read")]
    Read(#[source] std::io::Error),
    #[error("{n_bytes} bytes, at most {MAX_BYTES} make a handle")]
    TooLong { n_bytes: u64 },
    #[error("it does not begin as a handle")]
    NoHandle,
    #[error("version {0}, this build reads {VERSION}")]
    Version(u32),
    #[error("its checksum is wrong: it was torn")]
    Torn,
    #[error("its content is not a handle's")]
    Content(#[source] serde_json::Error),
}

/// What an earlier process of this node has left.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) id: InstanceId,
    pub(crate) record: Result<Record, HandleError>,
}

/// Of an instance that has ended, beside its output.
const END_FILE: &str = "end";
const END_TEMPORARY: &str = "end.new";

/// The directory of all instances.
#[derive(Debug)]
pub(crate) struct Handles {
    dir: PathBuf,
    /// Instances outlive this process, so that there is something to write down.
    writes: bool,
}

impl Handles {
    /// Takes in what is there: instances that may run, and those that have ended. The rest is
    /// removed.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub(crate) fn open(dir: PathBuf, writes: bool) -> std::io::Result<(Self, Vec<Left>, Vec<End>)> {
        fs::create_dir_all(&dir)?;
        let (mut left, mut ended) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let id = path.file_name().and_then(|name| name.to_str());
            let handle = path.join(FILE);
            let end = id.and_then(|id| read_end(&path, id));
            if let Some(end) = end.as_ref().filter(|end| !end.is_of_the_nodes_end()) {
                // An earlier process came as far as writing it, and no further.
                remove_what_ran(&path);
                ended.push(end.clone());
            } else if let Some(id) = id.filter(|_| handle.is_file()) {
                left.push(Left {
                    id: id.into(),
                    record: read(&handle),
                });
            } else if let Some(mut end) = end {
                end.at_ms = last_said_ms(&path);
                ended.push(end);
            } else if path.is_dir() {
                fs::remove_dir_all(path)?;
            } else {
                fs::remove_file(path)?;
            }
        }
        Ok((Self { dir, writes }, left, ended))
    }

    /// The instance's own directory, for its output too.
    pub(crate) fn dir_of(&self, id: &InstanceId) -> PathBuf {
        self.dir.join(id.as_str())
    }

    /// Makes the instance's directory. Without it there is no output to be kept, and the driver
    /// says so.
    pub(crate) fn prepare(&self, id: &InstanceId) -> PathBuf {
        let dir = self.dir_of(id);
        if let Err(error) = fs::create_dir_all(&dir) {
            warn!(instance = %id, %error, "no directory for an instance");
        }
        dir
    }

    /// A disk that takes nothing costs the adoption, never the instance. `false` = what it had before
    /// stays.
    pub(crate) fn write(&self, record: &Record) -> bool {
        if !self.writes {
            return true;
        }
        let id = &record.report.id;
        let dir = self.dir_of(id);
        let temporary = dir.join(TEMPORARY);
        let written = encode(record)
            .map_err(std::io::Error::other)
            .and_then(|bytes| fs::write(&temporary, bytes))
            .and_then(|()| {
                hit(Point::HandleWritten);
                fs::rename(&temporary, dir.join(FILE))
            });
        match &written {
            Ok(()) => hit(Point::HandleNamed),
            Err(error) => {
                warn!(instance = %id, %error, "no handle, so a restart of this node will not adopt it");
            }
        }
        written.is_ok()
    }

    /// The instance has ended: there is nothing to go on with, and nothing more to be read.
    pub(crate) fn ended(&self, id: &InstanceId) {
        remove_what_ran(&self.dir_of(id));
    }

    /// Leaves word of what its output is of, for this node's next process. Without it, that process
    /// removes the output.
    pub(crate) fn write_end(&self, end: &End) {
        let id = &end.report.id;
        let dir = self.dir_of(id);
        let temporary = dir.join(END_TEMPORARY);
        let written = serde_json::to_vec(end)
            .map_err(std::io::Error::other)
            .and_then(|bytes| fs::write(&temporary, bytes))
            .and_then(|()| fs::rename(&temporary, dir.join(END_FILE)));
        if let Err(error) = written {
            warn!(instance = %id, %error, "its output will not outlive this process");
        }
    }

    /// Nobody asks for its output any more.
    pub(crate) fn forget(&self, id: &InstanceId) {
        drop(fs::remove_dir_all(self.dir_of(id)));
    }
}

/// Leaves the output and the word of the end, where there are any.
fn remove_what_ran(dir: &Path) {
    // Under its temporary name too: an earlier process may have come no further.
    for file in [FILE, TEMPORARY] {
        drop(fs::remove_file(dir.join(file)));
    }
    remove_pipes(dir);
}

/// `None`: there is none of this instance, or it cannot be used.
fn read_end(dir: &Path, id: &str) -> Option<End> {
    let file = dir.join(END_FILE);
    let metadata = fs::metadata(&file).ok()?;
    if metadata.len() > MAX_BYTES {
        return None;
    }
    let end: End = serde_json::from_slice(&fs::read(&file).ok()?).ok()?;
    (end.report.id.as_str() == id && end.report.exit.is_some()).then_some(end)
}

/// The nearest that is known to the end of one that ended with its node.
fn last_said_ms(dir: &Path) -> u64 {
    let said = fs::metadata(dir.join(OUTPUT_FILE)).and_then(|said| said.modified());
    said.map_or(0, since_epoch_ms)
}

fn read(file: &Path) -> Result<Record, HandleError> {
    let n_bytes = fs::metadata(file).map_err(HandleError::Read)?.len();
    if n_bytes > MAX_BYTES {
        return Err(HandleError::TooLong { n_bytes });
    }
    decode(&fs::read(file).map_err(HandleError::Read)?)
}

fn encode(record: &Record) -> serde_json::Result<Vec<u8>> {
    let body = serde_json::to_vec(record)?;
    let checksum = crc32c::crc32c(&body);
    let mut bytes = format!("{MAGIC} {VERSION} {checksum:08x}\n").into_bytes();
    bytes.extend(body);
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Result<Record, HandleError> {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let (head, body) = bytes.split_at(end.ok_or(HandleError::NoHandle)?);
    let head = std::str::from_utf8(head).map_err(|_| HandleError::NoHandle)?;
    let fields: Vec<_> = head.split(' ').collect();
    let [MAGIC, version, checksum] = fields.as_slice() else {
        return Err(HandleError::NoHandle);
    };
    let version = version.parse().map_err(|_| HandleError::NoHandle)?;
    if version != VERSION {
        return Err(HandleError::Version(version));
    }
    let body = &body[1..];
    if u32::from_str_radix(checksum, 16) != Ok(crc32c::crc32c(body)) {
        return Err(HandleError::Torn);
    }
    serde_json::from_slice(body).map_err(HandleError::Content)
}

#[cfg(test)]
pub(crate) fn specification() -> InstanceSpec {
    InstanceSpec {
        id: InstanceId::from("r-1-1"),
        revision: nihilo_types::id::ObjectKey::new("default", "r"),
        revision_uid: "u".into(),
        service: "s".into(),
        configuration: "s".into(),
        image: "demo/hello".into(),
        pull_policy: Default::default(),
        container_port: 8_080,
        limits: Default::default(),
        run_as: Default::default(),
        command: Vec::new(),
        args: vec!["two\nlines".into()],
        env: vec![("KEY".into(), "value".into())],
        working_dir: String::new(),
        h2c: false,
        container_concurrency: 1,
        boot_deadline_ms: 1,
        drain_deadline_ms: 2,
        termination_grace_ms: 3,
        probes: Default::default(),
        socket_activation: false,
        min_isolation: Default::default(),
        config: Default::default(),
    }
}

#[cfg(test)]
mod tests {
    use nihilo_types::id::{Epoch, ShardId};

    use super::*;

    fn record() -> Record {
        let spec = specification();
        Record {
            report: spec.accepted(ShardId(7), Epoch(11)),
            spec,
            accepted_ns: 5,
            trace: Some(Trace {
                pid: 1,
                start_ticks: 2,
                port: 3,
            }),
        }
    }

    #[test]
    fn a_handle_comes_back_as_it_was() {
        let bytes = encode(&record()).unwrap();
        assert_eq!(decode(&bytes).unwrap(), record());
    }

    #[test]
    fn whatever_a_tear_leaves_is_refused() {
        let bytes = encode(&record()).unwrap();
        for n in 0..bytes.len() {
            assert!(decode(&bytes[..n]).is_err(), "first {n} bytes");
        }
        let mut flipped = bytes;
        let last = flipped.len() - 2;
        flipped[last] ^= 1;
        assert!(matches!(decode(&flipped), Err(HandleError::Torn)));
    }

    #[test]
    fn another_version_is_named() {
        let text = String::from_utf8(encode(&record()).unwrap()).unwrap();
        let later = text.replacen(" 1 ", " 2 ", 1);
        assert!(matches!(
            decode(later.as_bytes()),
            Err(HandleError::Version(2))
        ));
    }

    #[test]
    fn what_ended_leaves_its_output_where_its_end_was_written_and_no_handle() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Handles::open(dir.path().into(), true).unwrap();
        let (handles, left, _) = open();
        assert!(left.is_empty());
        let record = record();
        let own = handles.prepare(&record.report.id);
        assert!(handles.write(&record));
        fs::write(own.join("output.log"), "said").unwrap();
        let (handles, left, _) = open();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].record.as_ref().unwrap(), &record);
        let mut end = End::with_the_node(record.report.clone());
        handles.write_end(&end);
        let (_, left, ended) = open();
        assert_eq!((left.len(), ended.len()), (1, 0), "the handle says more");
        // As a process leaves it that has come no further.
        fs::write(own.join(TEMPORARY), "{").unwrap();
        handles.ended(&record.report.id);
        assert!(!own.join(TEMPORARY).exists());
        let (_, left, ended) = open();
        assert!(left.is_empty());
        assert!(ended[0].at_ms > 0, "when it last said something");
        end.at_ms = 7;
        handles.write_end(&end);
        handles.write(&record);
        let (_, left, ended) = open();
        assert_eq!(
            (left.len(), &*ended),
            (0, &[end][..]),
            "it is the last word"
        );
        assert!(own.join("output.log").is_file());
        fs::write(own.join(END_FILE), "{").unwrap();
        assert!(open().2.is_empty());
        assert!(!own.exists());
        assert!(!handles.write(&record), "there is no place for it");
    }
}
