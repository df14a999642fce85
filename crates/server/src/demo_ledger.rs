//! What a demo app really did, one line each, for tests that must know it from the instance and
//! not from the platform that they judge.
//!
//! Off unless `NIHILO_DEMO_LEDGER` names a directory; then every instance appends to a file of its
//! own there. An append is in the page cache when it returns, so a killed instance loses nothing.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

const DIRECTORY: &str = "NIHILO_DEMO_LEDGER";
/// The field by which a client names its request; echoed, so that answers cannot be mixed up.
pub(crate) const NONCE: &str = "x-demo-nonce";
/// Names the instance that answered, in its own words.
pub(crate) const ANSWERED_BY: &str = "x-demo-instance";

/// The file of this instance.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) instance: String,
    revision: String,
    file: Mutex<File>,
    in_flight: AtomicU32,
}

/// One line: a request `started` or `finished`, or the instance was told to stop (`terminating`).
#[derive(Debug, Serialize)]
struct Line<'a> {
    /// `CLOCK_BOOTTIME` in nanoseconds, the clock of `startstop.log`.
    t: i128,
    /// The request's name; empty when the line is about none.
    rid: &'a str,
    instance: &'a str,
    ph: &'a str,
    revision: &'a str,
    /// Requests in flight after this event.
    in_flight: u32,
}

impl Ledger {
    pub(crate) fn from_env() -> Option<Arc<Self>> {
        let directory = std::env::var_os(DIRECTORY)?;
        let instance = std::env::var("NIHILO_INSTANCE").ok()?;
        let file = Path::new(&directory).join(format!("{instance}.jsonl"));
        let file = OpenOptions::new().create(true).append(true).open(file);
        Some(Arc::new(Self {
            instance,
            revision: std::env::var("K_REVISION").unwrap_or_default(),
            file: Mutex::new(file.ok()?),
            in_flight: AtomicU32::new(0),
        }))
    }

    /// Notes that a request is being executed; its end is noted when the answer is dropped.
    pub(crate) fn begin(self: &Arc<Self>, nonce: &str) -> Running {
        let in_flight = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        self.append("started", nonce, in_flight);
        Running {
            ledger: self.clone(),
            nonce: nonce.to_owned(),
        }
    }

    pub(crate) fn terminating(&self) {
        self.append("terminating", "", self.in_flight.load(Ordering::Relaxed));
    }

    fn append(&self, ph: &str, rid: &str, in_flight: u32) {
        let now = clock_gettime(ClockId::Boottime);
        let line = Line {
            t: i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec),
            rid,
            instance: &self.instance,
            ph,
            revision: &self.revision,
            in_flight,
        };
        let Ok(mut text) = serde_json::to_vec(&line) else {
            return;
        };
        text.push(b'\n');
        // One call, so that a kill leaves a whole line or none. A full disk is the test's to see:
        // a missing line contradicts the client's record.
        drop(self.file.lock().write_all(&text));
    }
}

/// A request in execution.
#[derive(Debug)]
pub(crate) struct Running {
    ledger: Arc<Ledger>,
    nonce: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        let before = self.ledger.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.ledger.append("finished", &self.nonce, before - 1);
    }
}

/// An answer's body that ends its request when it is dropped.
#[derive(Debug)]
pub(crate) struct Noted<B> {
    pub(crate) body: B,
    pub(crate) running: Option<Running>,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Noted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
