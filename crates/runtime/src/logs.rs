//! Output of instances: the newest in memory, more of it in a rotated file.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::sync::broadcast;

/// Bytes of output kept in memory per instance.
pub const RING_BYTES: usize = 64 * 1024;
/// Longer lines are split.
pub const MAX_LINE: usize = 16 * 1024;
/// A file grows to this, twice.
pub const MAX_FILE_BYTES: u64 = 5 * 1024 * 1024;
/// Lines a follower may lag behind.
const FOLLOW_LAG: usize = 1024;
const FILE: &str = "output.log";
const OLD_FILE: &str = "output.log.1";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    pub at_ms: u64,
    pub stderr: bool,
    pub line: Vec<u8>,
}

/// Where one instance's output goes.
#[derive(Debug, Clone)]
pub struct Output(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    ring: VecDeque<LogLine>,
    n_bytes: usize,
    dir: PathBuf,
    file: Option<File>,
    file_bytes: u64,
    followers: broadcast::Sender<LogLine>,
}

impl Output {
    /// `dir` is the instance's own; a file of it that is there is gone on with.
    pub fn new(dir: PathBuf) -> Self {
        let file = open(&dir).ok();
        let metadata = file.as_ref().and_then(|file| file.metadata().ok());
        Self(Arc::new(Mutex::new(Inner {
            ring: VecDeque::new(),
            n_bytes: 0,
            dir,
            file,
            file_bytes: metadata.map_or(0, |metadata| metadata.len()),
            followers: broadcast::channel(FOLLOW_LAG).0,
        })))
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.0.lock().dir.clone()
    }

    /// Everything kept, and what comes after it.
    pub fn follow(&self) -> (Vec<LogLine>, broadcast::Receiver<LogLine>) {
        let inner = self.0.lock();
        (
            inner.ring.iter().cloned().collect(),
            inner.followers.subscribe(),
        )
    }

    /// The last lines as text, each at most 1 KiB.
    pub fn last_lines(&self, n: usize) -> Vec<String> {
        let inner = self.0.lock();
        let skip = inner.ring.len().saturating_sub(n);
        let text = |line: &LogLine| {
            let text = String::from_utf8_lossy(&line.line);
            text.chars()
                .take(1024)
                .filter(|c| !c.is_control())
                .collect()
        };
        inner.ring.iter().skip(skip).map(text).collect()
    }

    pub(crate) fn push(&self, stderr: bool, line: Vec<u8>) {
        let mut inner = self.0.lock();
        inner.write(&line);
        let line = LogLine {
            at_ms: wall_ms(),
            stderr,
            line,
        };
        inner.n_bytes += line.line.len();
        inner.ring.push_back(line.clone());
        while inner.n_bytes > RING_BYTES {
            let Some(oldest) = inner.ring.pop_front() else {
                break;
            };
            inner.n_bytes -= oldest.line.len();
        }
        // Nobody following is the usual state.
        drop(inner.followers.send(line));
    }

    /// Reads lines until the stream ends.
    pub async fn read(self, stream: impl AsyncRead + Unpin, stderr: bool) {
        let mut reader = BufReader::with_capacity(MAX_LINE, stream);
        let mut lines = self.lines(stderr);
        loop {
            let used = match reader.fill_buf().await {
                Ok([]) | Err(_) => break,
                Ok(bytes) => {
                    lines.feed(bytes);
                    bytes.len()
                }
            };
            reader.consume(used);
        }
        lines.end();
    }

    /// For what comes in pieces, wherever they end.
    pub(crate) fn lines(&self, stderr: bool) -> Lines {
        Lines {
            output: self.clone(),
            stderr,
            line: Vec::new(),
        }
    }
}

/// Cuts one stream of bytes into lines of an [`Output`].
#[derive(Debug)]
pub(crate) struct Lines {
    output: Output,
    stderr: bool,
    /// Begun, at most [`MAX_LINE`] of it.
    line: Vec<u8>,
}

impl Lines {
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.extend(&bytes[..end]);
            self.output
                .push(self.stderr, std::mem::take(&mut self.line));
            bytes = &bytes[end + 1..];
        }
        self.extend(bytes);
    }

    /// The stream has ended: a line without an end is one too.
    pub(crate) fn end(self) {
        if !self.line.is_empty() {
            self.output.push(self.stderr, self.line);
        }
    }

    fn extend(&mut self, bytes: &[u8]) {
        self.line.extend_from_slice(bytes);
        while self.line.len() > MAX_LINE {
            let rest = self.line.split_off(MAX_LINE);
            let full = std::mem::replace(&mut self.line, rest);
            self.output.push(self.stderr, full);
        }
    }
}

impl Inner {
    /// The file is a convenience: a full disk costs output, never the instance.
    fn write(&mut self, line: &[u8]) {
        let Some(file) = &mut self.file else { return };
        if file
            .write_all(line)
            .and_then(|()| file.write_all(b"\n"))
            .is_err()
        {
            self.file = None;
            return;
        }
        self.file_bytes += line.len() as u64 + 1;
        if self.file_bytes >= MAX_FILE_BYTES {
            let rotated = std::fs::rename(self.dir.join(FILE), self.dir.join(OLD_FILE));
            self.file = rotated.and_then(|()| open(&self.dir)).ok();
            self.file_bytes = 0;
        }
    }
}

fn open(dir: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).open(dir.join(FILE))
}

pub(crate) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn a_long_line_is_split_and_loses_nothing_wherever_reads_end() {
        let dir = tempfile::tempdir().unwrap();
        let output = Output::new(dir.path().into());
        let (head, tail) = (vec![b'a'; 100], vec![b'a'; 2 * MAX_LINE]);
        let end: &[u8] = b"\nshort\nlast";
        let stream = head.as_slice().chain(tail.as_slice()).chain(end);
        output.clone().read(stream, false).await;
        let lengths: Vec<_> = output
            .follow()
            .0
            .iter()
            .map(|line| line.line.len())
            .collect();
        assert_eq!(lengths, [MAX_LINE, MAX_LINE, 100, 5, 4]);
    }
}
