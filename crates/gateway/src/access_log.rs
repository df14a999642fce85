//! One JSON line per request, in the shape of Knative's request log and with ours beside
//! (07-cli-api-observability §5.3). Written by a thread of its own; the data plane never waits.

mod line;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use http::{HeaderValue, Method, Version};
use nihilo_types::id::InstanceId;
use nihilo_types::route_table::RevisionTarget;
use tokio::time::Instant;
use tracing::warn;

use self::line::Line;
use crate::metrics::Metrics;

/// Lines that wait for the disk; further ones are dropped and counted.
const MAX_QUEUED: usize = 4_096;
/// Warm, good requests beyond this are not logged.
const LINES_PER_SECOND: u64 = 1_000;
/// A file is put aside at this size; one older one is kept.
const MAX_BYTES: u64 = 64 * 1024 * 1024;
/// From the first line that waits to its being written: far less than [`MAX_QUEUED`] lines.
const GATHER: Duration = Duration::from_millis(50);

/// Where lines go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Destination {
    #[default]
    Off,
    Stdout,
    File(PathBuf),
}

/// One request, as it ended.
#[derive(Debug)]
pub struct Entry {
    pub method: Method,
    /// Without the query.
    pub path: String,
    pub version: Version,
    pub status: u16,
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub user_agent: Option<HeaderValue>,
    pub referer: Option<HeaderValue>,
    pub remote: IpAddr,
    pub server: Option<SocketAddr>,
    pub latency: Duration,
    pub trace: Option<HeaderValue>,
    pub request_id: Option<HeaderValue>,
    pub target: Option<Arc<RevisionTarget>>,
    pub instance: Option<InstanceId>,
    pub is_cold: bool,
    pub queued: Duration,
    pub upstream: Duration,
    pub n_attempts: u32,
    pub reason: &'static str,
}

/// The gateway's end of the log.
#[derive(Debug)]
pub struct AccessLog {
    lines: Option<SyncSender<Entry>>,
    started: Instant,
    second: AtomicU64,
    n_this_second: AtomicU64,
    metrics: Metrics,
}

impl AccessLog {
    /// # Errors
    /// The file cannot be opened, or no thread be made.
    pub fn open(to: &Destination, node: &str, metrics: Metrics) -> std::io::Result<Self> {
        let sink = match to {
            Destination::Off => None,
            Destination::Stdout => Some(Sink::Stdout),
            Destination::File(path) => Some(Sink::file(path)?),
        };
        let lines = match sink {
            None => None,
            Some(sink) => {
                let (sender, receiver) = sync_channel(MAX_QUEUED);
                let node = node.to_owned();
                std::thread::Builder::new()
                    .name("access-log".into())
                    .spawn(move || write_lines(sink, &receiver, &node))?;
                Some(sender)
            }
        };
        Ok(Self {
            lines,
            started: Instant::now(),
            second: AtomicU64::new(0),
            n_this_second: AtomicU64::new(0),
            metrics,
        })
    }

    pub fn is_on(&self) -> bool {
        self.lines.is_some()
    }

    /// Whether a line may be written now. Errors and cold starts always may.
    pub fn admits(&self, is_notable: bool) -> bool {
        if self.lines.is_none() {
            return false;
        }
        let second = self.started.elapsed().as_secs();
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.n_this_second.store(0, Ordering::Relaxed);
        }
        let n = self.n_this_second.fetch_add(1, Ordering::Relaxed);
        let admits = is_notable || n < LINES_PER_SECOND;
        if !admits {
            self.metrics.line_dropped();
        }
        admits
    }

    pub fn write(&self, entry: Entry) {
        let Some(lines) = &self.lines else { return };
        match lines.try_send(entry) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.metrics.line_dropped();
            }
        }
    }
}

enum Sink {
    Stdout,
    File {
        path: PathBuf,
        file: File,
        size: u64,
    },
}

impl Sink {
    fn file(path: &Path) -> std::io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let size = file.metadata()?.len();
        let path = path.to_owned();
        Ok(Sink::File { path, file, size })
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Sink::Stdout => std::io::stdout().lock().write_all(bytes),
            Sink::File { path, file, size } => {
                if *size + bytes.len() as u64 > MAX_BYTES {
                    let mut old = path.clone().into_os_string();
                    old.push(".1");
                    std::fs::rename(&*path, old)?;
                    *file = OpenOptions::new().create(true).append(true).open(&*path)?;
                    *size = 0;
                }
                *size += bytes.len() as u64;
                file.write_all(bytes)
            }
        }
    }
}

/// Writes what has come every [`GATHER`]: the data plane's core is not to change threads, nor a file to
/// be written, once for each line.
fn write_lines(mut sink: Sink, lines: &Receiver<Entry>, node: &str) {
    let mut batch = Vec::new();
    let mut has_warned = false;
    while let Ok(entry) = lines.recv() {
        std::thread::park_timeout(GATHER);
        batch.clear();
        push(&mut batch, &entry, node);
        while let Ok(entry) = lines.try_recv() {
            push(&mut batch, &entry, node);
        }
        if let Err(error) = sink.write(&batch)
            && !has_warned
        {
            has_warned = true;
            warn!(%error, "access log");
        }
    }
}

fn push(batch: &mut Vec<u8>, entry: &Entry, node: &str) {
    let begin = batch.len();
    match serde_json::to_writer(&mut *batch, &Line::of(entry, node)) {
        Ok(()) => batch.push(b'\n'),
        Err(_) => batch.truncate(begin),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(status: u16) -> Entry {
        Entry {
            method: Method::GET,
            path: "/a\"b".into(),
            version: Version::HTTP_11,
            status,
            request_bytes: 0,
            response_bytes: 13,
            user_agent: Some(HeaderValue::from_static("curl/8")),
            referer: None,
            remote: [127, 0, 0, 1].into(),
            server: None,
            latency: Duration::from_millis(38),
            trace: Some(HeaderValue::from_static(
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            )),
            request_id: None,
            target: None,
            instance: None,
            is_cold: false,
            queued: Duration::ZERO,
            upstream: Duration::from_micros(1_400),
            n_attempts: 1,
            reason: "",
        }
    }

    #[test]
    fn a_line_has_knatives_shape_and_is_escaped() {
        let mut batch = Vec::new();
        push(&mut batch, &entry(200), "node3");
        let text = String::from_utf8(batch).unwrap();
        assert!(text.contains(r#""requestUrl":"/a\"b""#), "{text}");
        assert!(text.ends_with("}\n") && text.lines().count() == 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["httpRequest"]["status"], 200);
        assert_eq!(line["httpRequest"]["responseSize"], "13");
        assert_eq!(line["httpRequest"]["userAgent"], "curl/8");
        assert_eq!(line["httpRequest"]["referer"], "");
        assert_eq!(line["httpRequest"]["remoteIp"], "127.0.0.1");
        assert_eq!(line["httpRequest"]["serverIp"], "");
        assert_eq!(line["httpRequest"]["latency"], "0.038000s");
        assert_eq!(line["httpRequest"]["protocol"], "HTTP/1.1");
        assert_eq!(line["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(line["upstream_ms"], 1.4);
        assert_eq!(line["node"], "node3");
    }

    #[test]
    fn lines_go_to_the_file_and_it_is_put_aside_when_large() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let mut sink = Sink::file(&path).unwrap();
        sink.write(b"first\n").unwrap();
        if let Sink::File { size, .. } = &mut sink {
            *size = MAX_BYTES;
        }
        sink.write(b"second\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second\n");
        let old = std::fs::read(dir.path().join("access.log.1")).unwrap();
        assert_eq!(old, b"first\n");
    }

    #[test]
    fn beyond_the_rate_only_what_is_notable_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let to = Destination::File(dir.path().join("a"));
        let log = AccessLog::open(&to, "n", Metrics::default()).unwrap();
        // More than two seconds' worth, whatever the clock does meanwhile.
        let n_admitted = (0..5 * LINES_PER_SECOND)
            .filter(|_| log.admits(false))
            .count();
        assert!(n_admitted < 5 * LINES_PER_SECOND as usize);
        assert!(log.admits(true));
    }
}
