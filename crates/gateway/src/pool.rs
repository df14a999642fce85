//! Connections to one instance: idle HTTP/1 ones, and shared HTTP/2 ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::body::RequestBody;
use crate::limiter::LocalInstance;

/// Idle HTTP/1 connections kept per instance.
const MAX_IDLE: usize = 64;
/// An idle connection is not used again after this: apps close theirs after 5 s and more.
const IDLE_LIMIT: Duration = Duration::from_millis(3_500);
/// HTTP/2 connections per instance.
const MAX_SHARED: usize = 4;
/// Streams after which another connection is made: four fifths of the least that RFC 9113 §6.5.2
/// recommends to allow.
const FULL: usize = 80;

pub(crate) type H1 = http1::SendRequest<RequestBody>;
pub(crate) type H2 = http2::SendRequest<RequestBody>;

/// An instance's connections.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    idle: Mutex<Vec<(H1, Instant)>>,
    shared: Mutex<Vec<Shared>>,
}

#[derive(Debug, Clone)]
struct Shared {
    sender: H2,
    n_streams: Arc<AtomicUsize>,
}

/// A connection in use by one exchange.
#[derive(Debug)]
pub enum Lease {
    Own(Arc<LocalInstance>, H1),
    Shared(StreamLease),
}

/// One stream of a shared connection.
#[derive(Debug)]
pub struct StreamLease(Arc<AtomicUsize>);

impl Drop for StreamLease {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lease {
    /// The exchange ended exactly: the next may use the connection.
    pub fn give_back(self) {
        match self {
            Lease::Own(instance, sender) => instance.pool.give_back(sender),
            Lease::Shared(stream) => drop(stream),
        }
    }
}

impl Pool {
    /// The newest idle connection that is still open.
    pub(crate) fn take_idle(&self) -> Option<H1> {
        let mut idle = self.idle.lock();
        while let Some((sender, since)) = idle.pop() {
            if since.elapsed() < IDLE_LIMIT && !sender.is_closed() && sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    fn give_back(&self, sender: H1) {
        let mut idle = self.idle.lock();
        if !sender.is_closed() && idle.len() < MAX_IDLE {
            idle.push((sender, Instant::now()));
        }
    }

    /// A shared connection with room, the fullest first; `None` = make another.
    pub(crate) fn take_shared(&self) -> Option<(H2, StreamLease)> {
        let mut shared = self.shared.lock();
        shared.retain(|connection| !connection.sender.is_closed());
        let is_full = shared.len() >= MAX_SHARED;
        let load = |connection: &&Shared| connection.n_streams.load(Ordering::Relaxed);
        let has_room = |connection: &&Shared| load(connection) < FULL;
        let with_room = shared.iter().filter(has_room).max_by_key(load);
        let least = || shared.iter().min_by_key(load).filter(|_| is_full);
        with_room.or_else(least).map(Shared::lease)
    }

    pub(crate) fn share(&self, sender: H2) -> (H2, StreamLease) {
        let connection = Shared {
            sender,
            n_streams: Arc::default(),
        };
        let lease = connection.lease();
        self.shared.lock().push(connection);
        lease
    }

    pub(crate) fn clear(&self) {
        self.idle.lock().clear();
        self.shared.lock().clear();
    }
}

impl Shared {
    fn lease(&self) -> (H2, StreamLease) {
        self.n_streams.fetch_add(1, Ordering::Relaxed);
        (self.sender.clone(), StreamLease(self.n_streams.clone()))
    }
}
