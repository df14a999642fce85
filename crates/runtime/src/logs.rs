//! Output of instances: the newest in memory, more of it in a rotated file, and never more of either
//! than their bounds: what comes faster than [`crate::log_rate`] lets it is dropped and counted.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::sync::broadcast;

use crate::log_rate::Rate;

/// Bytes of output kept in memory per instance.
pub const RING_BYTES: usize = 64 * 1024;
/// Longer lines are split.
pub const MAX_LINE: usize = 16 * 1024;
/// A file grows to this, twice.
pub const MAX_FILE_BYTES: u64 = 5 * 1024 * 1024;
/// What a line costs beside its bytes; without it, empty lines would be free.
const LINE_COST: usize = 32;
/// So much is dropped at once, then the program waits this long: dropping costs the node's time, and
/// a flood must not have all of it.
const DROP_BATCH: u64 = 1024 * 1024;
const DROP_PAUSE: Duration = Duration::from_millis(4);
/// Lines a follower may lag behind.
const FOLLOW_LAG: usize = 1024;

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
    path: PathBuf,
    file: Option<File>,
    file_bytes: u64,
    /// Of the file before this one.
    old_bytes: u64,
    rate: Rate,
    since: Instant,
    followers: broadcast::Sender<LogLine>,
}

impl Output {
    pub fn new(path: PathBuf) -> Self {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .ok();
        Self(Arc::new(Mutex::new(Inner {
            ring: VecDeque::new(),
            n_bytes: 0,
            path,
            file,
            file_bytes: 0,
            old_bytes: 0,
            rate: Rate::new(Duration::ZERO),
            since: Instant::now(),
            followers: broadcast::channel(FOLLOW_LAG).0,
        })))
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

    /// Bytes of it on the disk.
    pub(crate) fn disk_bytes(&self) -> u64 {
        let inner = self.0.lock();
        inner.file_bytes + inner.old_bytes
    }

    /// Removes it from the disk, for good.
    pub(crate) fn discard(&self) {
        let mut inner = self.0.lock();
        inner.file = None;
        for path in [inner.old_path(), inner.path.clone()] {
            let _unless_it_never_was = std::fs::remove_file(path);
        }
    }

    /// Keeps a line, however much there was: for those that the node itself says.
    pub(crate) fn push(&self, stderr: bool, line: Vec<u8>) {
        self.0.lock().keep(stderr, line);
    }

    /// Keeps a line of the program's, or counts it as dropped.
    fn offer(&self, stderr: bool, line: Vec<u8>) {
        let mut inner = self.0.lock();
        let now = inner.since.elapsed();
        let bytes = line.len() as u64;
        if !inner.rate.admit(bytes + LINE_COST as u64, now) {
            return inner.rate.drop_lines(1, bytes);
        }
        inner.tell_dropped(stderr);
        inner.keep(stderr, line);
    }

    fn is_flooded(&self) -> bool {
        let mut inner = self.0.lock();
        let now = inner.since.elapsed();
        inner.rate.is_empty(now)
    }

    /// Reads lines until the stream ends.
    pub async fn read(self, stream: impl AsyncRead + Unpin, stderr: bool) {
        let mut reader = BufReader::with_capacity(MAX_LINE, stream);
        let mut line = Vec::new();
        let mut n_dropped = 0;
        loop {
            let used = match reader.fill_buf().await {
                Ok([]) | Err(_) => break,
                Ok(bytes) if self.is_flooded() => {
                    self.drop_all(&mut line, bytes);
                    n_dropped += bytes.len() as u64;
                    bytes.len()
                }
                Ok(bytes) => self.take_line(&mut line, bytes, stderr),
            };
            reader.consume(used);
            if n_dropped >= DROP_BATCH {
                n_dropped = 0;
                tokio::time::sleep(DROP_PAUSE).await;
            }
        }
        if !line.is_empty() {
            self.offer(stderr, line);
        }
        self.0.lock().tell_dropped(stderr);
    }

    /// Up to the first end of a line in `bytes`; returns how many were used.
    fn take_line(&self, line: &mut Vec<u8>, bytes: &[u8], stderr: bool) -> usize {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        line.extend_from_slice(&bytes[..end.unwrap_or(bytes.len())]);
        while line.len() > MAX_LINE {
            let rest = line.split_off(MAX_LINE);
            self.offer(stderr, std::mem::replace(line, rest));
        }
        if end.is_some() {
            self.offer(stderr, std::mem::take(line));
        }
        end.map_or(bytes.len(), |end| end + 1)
    }

    /// Without looking at each line: a flood of short ones costs as little as any other.
    fn drop_all(&self, line: &mut Vec<u8>, bytes: &[u8]) {
        let n_lines = bytes.iter().filter(|byte| **byte == b'\n').count();
        let n_bytes = line.len() + bytes.len();
        line.clear();
        let mut inner = self.0.lock();
        inner.rate.drop_lines(n_lines as u64, n_bytes as u64);
    }
}

impl Inner {
    fn tell_dropped(&mut self, stderr: bool) {
        if let Some(dropped) = self.rate.take_dropped() {
            self.keep(stderr, dropped.to_string().into_bytes());
        }
    }

    fn keep(&mut self, stderr: bool, line: Vec<u8>) {
        self.write(&line);
        let line = LogLine {
            at_ms: wall_ms(),
            stderr,
            line,
        };
        self.n_bytes += line.line.len() + LINE_COST;
        self.ring.push_back(line.clone());
        while self.n_bytes > RING_BYTES {
            let Some(oldest) = self.ring.pop_front() else {
                break;
            };
            self.n_bytes -= oldest.line.len() + LINE_COST;
        }
        // Nobody following is the usual state.
        drop(self.followers.send(line));
    }

    fn old_path(&self) -> PathBuf {
        self.path.with_extension("log.1")
    }

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
            self.file = std::fs::rename(&self.path, self.old_path())
                .and_then(|()| {
                    OpenOptions::new()
                        .create(true)
                        .append(true)
                        .open(&self.path)
                })
                .ok();
            self.old_bytes = std::mem::take(&mut self.file_bytes);
        }
    }
}

pub(crate) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_long_line_is_split_and_loses_nothing_wherever_reads_end() {
        let dir = tempfile::tempdir().unwrap();
        let output = Output::new(dir.path().join("x.log"));
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

    /// Lines of this length, as fast as they are read.
    async fn flooded(dir: &Path, n_bytes: u64, line: &[u8]) -> Output {
        let output = Output::new(dir.join("x.log"));
        let (source, mut sink) = tokio::io::duplex(MAX_LINE);
        let line = line.repeat(MAX_LINE / line.len());
        let writer = tokio::spawn(async move {
            for _ in 0..n_bytes / line.len() as u64 {
                sink.write_all(&line).await.unwrap();
            }
        });
        output.clone().read(source, false).await;
        writer.await.unwrap();
        output
    }

    #[tokio::test]
    async fn a_flood_leaves_what_the_bounds_allow_and_says_what_it_cost() {
        let dir = tempfile::tempdir().unwrap();
        let n_bytes = 64 * 1024 * 1024;
        for line in [&b"\n"[..], b"yes\n", &[b'z'; 1000]] {
            let output = flooded(dir.path(), n_bytes, line).await;
            let (kept, _) = output.follow();
            let memory: usize = kept
                .iter()
                .map(|line| size_of_val(line) + line.line.len())
                .sum();
            assert!(memory <= 4 * RING_BYTES, "{memory} bytes in memory");
            let files = std::fs::read_dir(dir.path()).unwrap();
            let disk: u64 = files
                .map(|file| file.unwrap().metadata().unwrap().len())
                .sum();
            assert!(
                disk <= 2 * MAX_FILE_BYTES + MAX_LINE as u64 + 100,
                "{disk} bytes on disk"
            );
            let told = output.last_lines(1).join("");
            assert!(told.starts_with("(dropped "), "{told}");
            output.discard();
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        }
    }
}
