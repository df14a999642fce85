//! Output of instances: the newest in memory, more of it in a rotated file that outlives this process,
//! and never more of either than their bounds: what comes faster than [`crate::log_rate`] lets it is dropped and counted.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
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
pub(crate) const FILE: &str = "output.log";
const OLD_FILE: &str = "output.log.1";
/// What both are called while all of it comes again.
const KEPT: &str = ".kept";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Wall clock; 0 = not known: files hold the lines alone.
    pub at_ms: u64,
    /// `false` of a line out of a file, whatever it was.
    pub stderr: bool,
    /// Its place among the lines that this process has read of the instance, from 1; 0 = said before, and
    /// kept by somebody else meanwhile.
    pub number: u64,
    pub line: Vec<u8>,
}

/// Where one instance's output goes.
#[derive(Debug, Clone)]
pub struct Output(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    ring: VecDeque<LogLine>,
    n_bytes: usize,
    /// Lines that this process has read.
    n_lines: u64,
    dir: PathBuf,
    file: Option<File>,
    file_bytes: u64,
    /// Of the file before this one.
    old_bytes: u64,
    /// A write has failed: the files do not hold what is in memory.
    is_torn: bool,
    rate: Rate,
    since: Instant,
    followers: broadcast::Sender<LogLine>,
}

impl Output {
    /// `dir` is the instance's own; a file of it that is there is gone on with, and its last lines are in
    /// memory as they were before.
    pub fn new(dir: PathBuf) -> Self {
        put_back(&dir);
        let last = last_lines_in(&dir);
        let file = open(&dir).ok();
        let output = Self::of(dir, file);
        let mut inner = output.0.lock();
        for line in last {
            inner.remember(line);
        }
        drop(inner);
        output
    }

    /// Of an instance that has ended: nothing is added any more.
    pub(crate) fn ended(dir: PathBuf) -> Self {
        put_back(&dir);
        Self::of(dir, None)
    }

    fn of(dir: PathBuf, file: Option<File>) -> Self {
        let bytes = |file| std::fs::metadata(dir.join(file)).map_or(0, |found| found.len());
        let (file_bytes, old_bytes) = (bytes(FILE), bytes(OLD_FILE));
        Self(Arc::new(Mutex::new(Inner {
            ring: VecDeque::new(),
            n_bytes: 0,
            n_lines: 0,
            dir,
            file,
            file_bytes,
            old_bytes,
            is_torn: false,
            rate: Rate::new(Duration::ZERO),
            since: Instant::now(),
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

    /// Everything that is kept of it, oldest first; what memory does not hold is read from the files
    /// as it is asked for, on the caller's thread. For one that has ended: what is added meanwhile
    /// may be missing.
    pub fn everything(&self) -> impl Iterator<Item = LogLine> + Send + use<> {
        let inner = self.0.lock();
        let ring: Vec<_> = inner.ring.iter().cloned().collect();
        let in_ring: u64 = ring.iter().map(|line| line.line.len() as u64 + 1).sum();
        let before = (inner.file_bytes + inner.old_bytes).saturating_sub(in_ring);
        let before = match inner.is_torn {
            true => 0,
            false => before,
        };
        FileLines::of(&inner.dir, before).chain(ring)
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
            lines.rest().await;
        }
        lines.end();
    }

    /// For what comes in pieces, wherever they end.
    pub(crate) fn lines(&self, stderr: bool) -> Lines {
        Lines {
            output: self.clone(),
            stderr,
            is_bounded: true,
            line: Vec::new(),
            n_dropped: 0,
        }
    }

    /// For what was said before and is kept by somebody who bounds it: however fast it comes.
    pub(crate) fn lines_again(&self, stderr: bool) -> Lines {
        Lines {
            is_bounded: false,
            ..self.lines(stderr)
        }
    }

    /// Begins with nothing: everything comes again. What there was is put aside until it has.
    pub(crate) fn begin_again(&self) -> Again {
        let mut inner = self.0.lock();
        for file in [FILE, OLD_FILE] {
            // Where none is there is nothing to keep.
            drop(std::fs::rename(
                inner.dir.join(file),
                kept(&inner.dir, file),
            ));
        }
        let fresh = Kept {
            ring: VecDeque::new(),
            n_bytes: 0,
            file_bytes: 0,
            old_bytes: 0,
            is_torn: false,
        };
        let before = inner.exchange(fresh);
        Again {
            output: self.clone(),
            before: Some(before),
        }
    }
}

/// What an [`Output`] had before it began again.
#[derive(Debug)]
struct Kept {
    ring: VecDeque<LogLine>,
    n_bytes: usize,
    file_bytes: u64,
    old_bytes: u64,
    is_torn: bool,
}

/// An output that comes again. Dropped before it is [`Again::done`], what there was is back.
#[derive(Debug)]
pub(crate) struct Again {
    output: Output,
    before: Option<Kept>,
}

impl Again {
    /// All of it has come: what there was is not needed any more.
    pub(crate) fn done(mut self) {
        self.before = None;
        let inner = self.output.0.lock();
        for file in [FILE, OLD_FILE] {
            drop(std::fs::remove_file(kept(&inner.dir, file)));
        }
    }
}

impl Drop for Again {
    fn drop(&mut self) {
        let Some(before) = self.before.take() else {
            return;
        };
        let mut inner = self.output.0.lock();
        inner.file = None;
        put_back(&inner.dir);
        inner.exchange(before);
    }
}

fn kept(dir: &Path, file: &str) -> PathBuf {
    dir.join(format!("{file}{KEPT}"))
}

/// Where an output was coming again and did not come to its end, by an earlier process included.
fn put_back(dir: &Path) {
    let is_there = |file| std::fs::symlink_metadata(kept(dir, file)).is_ok();
    if ![FILE, OLD_FILE].into_iter().any(is_there) {
        return;
    }
    for file in [FILE, OLD_FILE] {
        // Either may have been missing then.
        drop(std::fs::remove_file(dir.join(file)));
        drop(std::fs::rename(kept(dir, file), dir.join(file)));
    }
}

/// Cuts one stream of bytes into lines of an [`Output`], and drops what comes too fast.
#[derive(Debug)]
pub(crate) struct Lines {
    output: Output,
    stderr: bool,
    is_bounded: bool,
    /// Begun, at most [`MAX_LINE`] of it.
    line: Vec<u8>,
    /// Bytes dropped since the last rest.
    n_dropped: u64,
}

impl Lines {
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.is_bounded && self.output.is_flooded() {
                return self.drop_all(bytes);
            }
            let used = self.take_line(bytes);
            bytes = &bytes[used..];
        }
    }

    /// To be waited for after each piece: where much was dropped, whoever printed it waits too.
    pub(crate) async fn rest(&mut self) {
        if self.n_dropped >= DROP_BATCH {
            self.n_dropped = 0;
            tokio::time::sleep(DROP_PAUSE).await;
        }
    }

    /// The stream has ended: a line without an end is one too.
    pub(crate) fn end(mut self) {
        if !self.line.is_empty() {
            let line = std::mem::take(&mut self.line);
            self.offer(line);
        }
        self.output.0.lock().tell_dropped(self.stderr);
    }

    /// Up to the first end of a line in `bytes`; returns how many were used.
    fn take_line(&mut self, bytes: &[u8]) -> usize {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        self.line
            .extend_from_slice(&bytes[..end.unwrap_or(bytes.len())]);
        while self.line.len() > MAX_LINE {
            let rest = self.line.split_off(MAX_LINE);
            let full = std::mem::replace(&mut self.line, rest);
            self.offer(full);
        }
        let Some(end) = end else { return bytes.len() };
        let line = std::mem::take(&mut self.line);
        self.offer(line);
        end + 1
    }

    fn offer(&self, line: Vec<u8>) {
        match self.is_bounded {
            true => self.output.offer(self.stderr, line),
            false => self.output.0.lock().keep_again(self.stderr, line),
        }
    }

    /// Without looking at each line: a flood of short ones costs as little as any other.
    fn drop_all(&mut self, bytes: &[u8]) {
        let n_lines = bytes.iter().filter(|byte| **byte == b'\n').count();
        let n_bytes = (self.line.len() + bytes.len()) as u64;
        self.line.clear();
        self.n_dropped += n_bytes;
        let mut inner = self.output.0.lock();
        inner.rate.drop_lines(n_lines as u64, n_bytes);
    }
}

impl Inner {
    /// Goes on with other lines, and with the files as they are now.
    fn exchange(&mut self, with: Kept) -> Kept {
        self.file = open(&self.dir).ok();
        Kept {
            ring: std::mem::replace(&mut self.ring, with.ring),
            n_bytes: std::mem::replace(&mut self.n_bytes, with.n_bytes),
            file_bytes: std::mem::replace(&mut self.file_bytes, with.file_bytes),
            old_bytes: std::mem::replace(&mut self.old_bytes, with.old_bytes),
            is_torn: std::mem::replace(&mut self.is_torn, with.is_torn),
        }
    }

    fn tell_dropped(&mut self, stderr: bool) {
        if let Some(dropped) = self.rate.take_dropped() {
            self.keep(stderr, dropped.to_string().into_bytes());
        }
    }

    fn keep(&mut self, stderr: bool, line: Vec<u8>) {
        self.n_lines += 1;
        let line = LogLine {
            at_ms: wall_ms(),
            stderr,
            number: self.n_lines,
            line,
        };
        self.write(&line.line);
        self.remember(line.clone());
        // Nobody following is the usual state.
        drop(self.followers.send(line));
    }

    /// One that was said before: followers have seen it, or were not there.
    fn keep_again(&mut self, stderr: bool, line: Vec<u8>) {
        self.write(&line);
        self.remember(LogLine {
            at_ms: wall_ms(),
            stderr,
            number: 0,
            line,
        });
    }

    fn remember(&mut self, line: LogLine) {
        self.n_bytes += line.line.len() + LINE_COST;
        self.ring.push_back(line);
        while self.n_bytes > RING_BYTES {
            let Some(oldest) = self.ring.pop_front() else {
                break;
            };
            self.n_bytes -= oldest.line.len() + LINE_COST;
        }
    }

    /// The file is a convenience: a full disk costs output, never the instance.
    fn write(&mut self, line: &[u8]) {
        let Some(file) = &mut self.file else { return };
        if file
            .write_all(line)
            .and_then(|()| file.write_all(b"\n"))
            .is_err()
        {
            (self.file, self.is_torn) = (None, true);
            return;
        }
        self.file_bytes += line.len() as u64 + 1;
        if self.file_bytes >= MAX_FILE_BYTES {
            let rotated = std::fs::rename(self.dir.join(FILE), self.dir.join(OLD_FILE));
            self.file = rotated.and_then(|()| open(&self.dir)).ok();
            self.old_bytes = std::mem::take(&mut self.file_bytes);
        }
    }
}

/// The first lines that an instance's files hold, oldest first.
struct FileLines(Box<dyn BufRead + Send>);

impl FileLines {
    /// Those of the first `n_bytes`. A file that cannot be read holds nothing.
    fn of(dir: &Path, n_bytes: u64) -> Self {
        use io::Read;
        let open = |name| File::open(dir.join(name)).ok();
        let all: Box<dyn Read + Send> = match (open(OLD_FILE), open(FILE)) {
            (Some(old), Some(file)) => Box::new(old.chain(file)),
            (Some(one), None) | (None, Some(one)) => Box::new(one),
            (None, None) => Box::new(io::empty()),
        };
        Self(Box::new(io::BufReader::with_capacity(
            MAX_LINE,
            all.take(n_bytes),
        )))
    }
}

impl Iterator for FileLines {
    type Item = LogLine;

    fn next(&mut self) -> Option<LogLine> {
        use io::Read;
        let mut line = Vec::new();
        // Files that the agent did not write itself have no bound of their lines.
        let mut bounded = (&mut self.0).take(MAX_LINE as u64 + 1);
        let n_read = bounded.read_until(b'\n', &mut line).ok()?;
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        (n_read > 0).then_some(LogLine {
            at_ms: 0,
            stderr: false,
            number: 0,
            line,
        })
    }
}

/// Whole lines at the end of an instance's file, no more than memory keeps. None where the file does not end
/// with a whole one: what it would take from the file could not be told from the rest.
fn last_lines_in(dir: &Path) -> Vec<LogLine> {
    use io::{Read, Seek, SeekFrom};
    let tail = || -> io::Result<Vec<u8>> {
        let mut file = File::open(dir.join(FILE))?;
        let length = file.metadata()?.len();
        // One byte more, which says whether the first line is whole.
        let begin = length.saturating_sub(RING_BYTES as u64 + 1);
        file.seek(SeekFrom::Start(begin))?;
        let mut bytes = Vec::new();
        file.take(length - begin).read_to_end(&mut bytes)?;
        if begin > 0 {
            let first = bytes.iter().position(|byte| *byte == b'\n');
            // None where it is all one line, or was cut meanwhile.
            bytes.drain(..first.map_or(bytes.len(), |end| end + 1));
        }
        Ok(bytes)
    };
    let bytes = tail().unwrap_or_default();
    let Some(lines) = bytes.strip_suffix(b"\n") else {
        return Vec::new();
    };
    let line = |line: &[u8]| LogLine {
        at_ms: 0,
        stderr: false,
        number: 0,
        line: line.to_vec(),
    };
    lines.split(|byte| *byte == b'\n').map(line).collect()
}

fn open(dir: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).open(dir.join(FILE))
}

pub(crate) fn wall_ms() -> u64 {
    since_epoch_ms(SystemTime::now())
}

pub(crate) fn since_epoch_ms(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH);
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

    #[tokio::test]
    async fn what_memory_lost_comes_from_the_files_and_no_line_twice() {
        let dir = tempfile::tempdir().unwrap();
        let output = Output::new(dir.path().into());
        let n_lines = 3 * MAX_FILE_BYTES / 1_000 / 2;
        for n in 0..n_lines {
            output.push(n % 2 == 0, format!("{n:0999}").into_bytes());
        }
        let numbers = |output: &Output| {
            let text = |line: LogLine| String::from_utf8(line.line).unwrap();
            let lines = output.everything().map(text);
            lines
                .map(|line| line.parse::<u64>().unwrap())
                .collect::<Vec<_>>()
        };
        // Rotated once: all of it is there still.
        let all: Vec<_> = (0..n_lines).collect();
        assert!(output.follow().0.len() < all.len());
        assert_eq!(numbers(&output), all);
        assert_eq!(
            numbers(&Output::new(dir.path().into())),
            all,
            "after a restart"
        );
        assert_eq!(numbers(&Output::ended(dir.path().into())), all);
        let nothing = Output::ended(dir.path().join("none"));
        assert_eq!(nothing.everything().count(), 0);
    }

    #[test]
    fn the_last_lines_are_in_memory_again_after_a_restart_and_are_told_from_new_ones() {
        let dir = tempfile::tempdir().unwrap();
        let shown = |output: &Output| {
            let (kept, _) = output.follow();
            let shown = |line: LogLine| (line.number, String::from_utf8(line.line).unwrap());
            kept.into_iter().map(shown).collect::<Vec<_>>()
        };
        let output = Output::new(dir.path().into());
        assert!(shown(&output).is_empty());
        for line in ["one", "", "three"] {
            output.push(false, line.into());
        }
        let next = Output::new(dir.path().into());
        next.push(false, b"four".to_vec());
        let line = |number, line: &str| (number, line.to_owned());
        let all = [
            line(0, "one"),
            line(0, ""),
            line(0, "three"),
            line(1, "four"),
        ];
        assert_eq!(shown(&next), all);
        assert_eq!(all_of(&next), ["one", "", "three", "four"]);
        // Memory's bound holds, and the first line is a whole one.
        for _ in 0..100 {
            next.push(false, vec![b'x'; 1_500]);
        }
        let kept = shown(&Output::new(dir.path().into()));
        assert!(kept.len() > RING_BYTES / 1_600 && kept.len() < RING_BYTES / 1_500 + 1);
        assert!(kept.iter().all(|(_, line)| line.len() == 1_500));
        // A write that a crash has cut: what follows is one line with it, and none is in memory twice.
        std::fs::write(dir.path().join(FILE), "whole\ncut").unwrap();
        let next = Output::new(dir.path().into());
        next.push(false, b" off".to_vec());
        assert_eq!(shown(&next), [line(1, " off")]);
    }

    #[test]
    fn what_comes_again_is_not_told_to_followers() {
        let dir = tempfile::tempdir().unwrap();
        let output = Output::new(dir.path().into());
        let (_, mut later) = output.follow();
        let mut again = output.lines_again(false);
        again.feed(b"before\n");
        output.push(false, b"new".to_vec());
        assert_eq!(later.try_recv().unwrap().line, b"new");
        assert_eq!(all_of(&output), ["before", "new"]);
    }

    fn all_of(output: &Output) -> Vec<String> {
        let text = |line: LogLine| String::from_utf8(line.line).unwrap();
        output.everything().map(text).collect()
    }

    #[test]
    fn what_comes_again_replaces_what_there_was_once_all_of_it_has_come() {
        let dir = tempfile::tempdir().unwrap();
        let output = Output::new(dir.path().into());
        for line in ["one", "two"] {
            output.push(false, line.into());
        }
        let again = output.begin_again();
        output.push(false, b"one".to_vec());
        // It broke off.
        drop(again);
        assert_eq!(all_of(&output), ["one", "two"]);
        output.push(false, b"three".to_vec());
        let again = output.begin_again();
        output.push(false, b"all".to_vec());
        again.done();
        assert_eq!(all_of(&output), ["all"]);
        assert_eq!(all_of(&Output::new(dir.path().into())), ["all"]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_process_that_ends_while_it_comes_again_costs_nothing_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let output = Output::new(dir.path().into());
        output.push(false, b"all".to_vec());
        let again = output.begin_again();
        output.push(false, b"some".to_vec());
        let next = Output::new(dir.path().into());
        assert_eq!(all_of(&next), ["all"]);
        assert_eq!(all_of(&Output::ended(dir.path().into())), ["all"]);
        again.done();
    }

    /// Lines of this length, as fast as they are read.
    async fn flooded(dir: &Path, n_bytes: u64, line: &[u8]) -> Output {
        let output = Output::new(dir.into());
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
        let n_bytes = 64 * 1024 * 1024;
        for line in [&b"\n"[..], b"yes\n", &[b'z'; 1000]] {
            let dir = tempfile::tempdir().unwrap();
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
            let noted = output.disk_bytes();
            assert_eq!(noted, disk);
            let next = Output::new(dir.path().into());
            assert_eq!(next.disk_bytes(), disk, "by the node's next process");
            let told = output.last_lines(1).join("");
            assert!(told.starts_with("(dropped "), "{told}");
        }
    }
}
