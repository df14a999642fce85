//! A TCP proxy on one link, which delays, stalls, drips, swallows and resets by a seed: what a
//! kernel without `netem` cannot do to a link, and what no packet filter can (an end after byte N).
//!
//! ```text
//! dialer ──► accept ──► connect ──► target
//!            read ─► queue, each chunk with the time at which it is due ─► write   (each way)
//! ```
//!
//! A target that refuses is passed on as a reset right after the connection: the kernel has
//! accepted by then.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::clock::at;
use crate::seed::Random;

/// Read at once; the unit of everything that is done to a stream.
const CHUNK: usize = 16 * 1024;
/// Chunks on their way in one direction: beyond that the sender's window fills, as on a real link.
const MAX_QUEUED: usize = 64;
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// What a link does to what passes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shape {
    /// Each way.
    pub delay: Duration,
    /// Up to so much more, drawn for each chunk; order is kept.
    pub jitter: Duration,
    /// Chunks in a thousand that wait for a retransmission, as TCP shows the loss of a packet.
    pub stalls_permille: u64,
    pub stall: Duration,
    /// Bytes per second each way; 0 = no limit.
    pub bytes_per_second: u64,
    /// Each connection is reset after so many bytes, drawn from 1 to this; 0 = never.
    pub reset_within: u64,
    /// Nothing passes, nothing ends: neither side is told anything.
    pub is_half_open: bool,
}

/// Ends with all its connections when dropped.
#[derive(Debug)]
pub struct Proxy {
    pub address: SocketAddr,
    shape: watch::Sender<Shape>,
    _accepting: JoinSet<()>,
}

impl Proxy {
    /// Listens on `host` and passes on to `target`.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(
        host: std::net::IpAddr,
        target: SocketAddr,
        mut random: Random,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((host, 0)).await.context("a proxy")?;
        let address = listener.local_addr()?;
        let (shape, shaped) = watch::channel(Shape::default());
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut links = JoinSet::new();
            loop {
                // An accept error is of one connection.
                if let Ok((dialer, _)) = listener.accept().await {
                    links.spawn(link(dialer, target, shaped.clone(), random.fork()));
                }
                while links.try_join_next().is_some() {}
            }
        });
        Ok(Self {
            address,
            shape,
            _accepting: accepting,
        })
    }

    /// From now on the link does this, to open connections too.
    pub fn shape(&self, shape: Shape) {
        self.shape.send_replace(shape);
    }
}

async fn link(
    dialer: TcpStream,
    target: SocketAddr,
    shape: watch::Receiver<Shape>,
    mut random: Random,
) {
    let connect = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(target));
    let Ok(Ok(reached)) = connect.await else {
        reset(&dialer);
        return;
    };
    drop((dialer.set_nodelay(true), reached.set_nodelay(true)));
    let within = shape.borrow().reset_within;
    let budget = Arc::new(Budget {
        left: AtomicU64::new(u64::MAX),
        first: random.draw(),
    });
    budget.set(within);
    let (from_dialer, to_dialer) = dialer.into_split();
    let (from_target, to_target) = reached.into_split();
    let mut ways = JoinSet::new();
    for (from, to) in [(from_dialer, to_target), (from_target, to_dialer)] {
        let way = Way {
            shape: shape.clone(),
            budget: budget.clone(),
            random: random.fork(),
        };
        ways.spawn(way.run(from, to));
    }
    // A clean end of one way leaves the other open; a reset ends both.
    while let Some(ended) = ways.join_next().await {
        if !matches!(ended, Ok(Ended::Clean)) {
            return;
        }
    }
}

/// Bytes that a connection has left, both ways together.
#[derive(Debug)]
struct Budget {
    left: AtomicU64,
    /// Drawn once, so that a seed gives the same byte.
    first: u64,
}

impl Budget {
    fn set(&self, within: u64) {
        let left = match within {
            0 => u64::MAX,
            within => 1 + self.first % within,
        };
        self.left.store(left, Ordering::Relaxed);
    }

    /// Takes `n` bytes; false when they are more than are left.
    fn take(&self, n: u64) -> bool {
        let take = |left: u64| left.checked_sub(n);
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        self.left.fetch_update(set, fetch, take).is_ok()
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Clean,
    Reset,
}

#[derive(Debug)]
struct Way {
    shape: watch::Receiver<Shape>,
    budget: Arc<Budget>,
    random: Random,
}

impl Way {
    async fn run(mut self, mut from: OwnedReadHalf, to: OwnedWriteHalf) -> Ended {
        let (queue, queued) = mpsc::channel(MAX_QUEUED);
        let mut writer = JoinSet::new();
        writer.spawn(write(to, queued, self.shape.clone()));
        let mut last_due = Instant::now();
        let mut buffer = vec![0; CHUNK];
        let mut within = self.shape.borrow().reset_within;
        loop {
            let n = match from.read(&mut buffer).await {
                Ok(0) => break,
                Ok(n) => n,
                Err(_) => return Ended::Reset,
            };
            let shape = *self.shape.borrow();
            if shape.reset_within != within {
                within = shape.reset_within;
                self.budget.set(within);
            }
            if !self.budget.take(n as u64) {
                reset(from.as_ref());
                writer.abort_all();
                return Ended::Reset;
            }
            last_due = self.due(&shape, n as u64, last_due);
            if queue.send((last_due, buffer[..n].to_vec())).await.is_err() {
                return Ended::Reset;
            }
        }
        drop(queue);
        match writer.join_next().await {
            Some(Ok(ended)) => ended,
            Some(Err(_)) | None => Ended::Reset,
        }
    }

    /// When a chunk is written: never before the one before it.
    fn due(&mut self, shape: &Shape, n_bytes: u64, last: Instant) -> Instant {
        let mut wait = shape.delay + self.random.within(shape.jitter);
        if self.random.between(0, 1_000) < shape.stalls_permille {
            wait += shape.stall;
        }
        let mut due = (Instant::now() + wait).max(last);
        if let Some(us) = (n_bytes * 1_000_000).checked_div(shape.bytes_per_second) {
            due += Duration::from_micros(us);
        }
        due
    }
}

async fn write(
    mut to: OwnedWriteHalf,
    mut queued: mpsc::Receiver<(Instant, Vec<u8>)>,
    mut shape: watch::Receiver<Shape>,
) -> Ended {
    while let Some((due, bytes)) = queued.recv().await {
        at(due).await;
        if shape.wait_for(|shape| !shape.is_half_open).await.is_err() {
            return Ended::Reset;
        }
        if to.write_all(&bytes).await.is_err() {
            return Ended::Reset;
        }
    }
    match to.shutdown().await {
        Ok(()) => Ended::Clean,
        Err(_) => Ended::Reset,
    }
}

/// The next close is a reset instead of an end.
fn reset(stream: &TcpStream) {
    let _refused = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// An echo behind a proxy, and a connection through it.
    async fn echo() -> (Proxy, TcpStream) {
        let listener = TcpListener::bind((HOST, 0)).await.unwrap();
        let target = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    drop(tokio::io::copy(&mut from, &mut to).await);
                });
            }
        });
        let proxy = Proxy::start(HOST, target, Random::from_seed(1));
        let proxy = proxy.await.unwrap();
        let stream = TcpStream::connect(proxy.address).await.unwrap();
        (proxy, stream)
    }

    async fn ask(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
        stream.write_all(bytes).await?;
        let mut answer = vec![0; bytes.len()];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test]
    async fn an_open_link_passes_everything_in_order() {
        let (_proxy, mut stream) = echo().await;
        let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        for chunk in bytes.chunks(50_000) {
            assert_eq!(ask(&mut stream, chunk).await.unwrap(), chunk);
        }
    }

    #[tokio::test]
    async fn delay_is_felt_both_ways() {
        let (proxy, mut stream) = echo().await;
        proxy.shape(Shape {
            delay: Duration::from_millis(40),
            ..Shape::default()
        });
        let since = Instant::now();
        ask(&mut stream, b"x").await.unwrap();
        assert!(since.elapsed() >= Duration::from_millis(80));
    }

    #[tokio::test]
    async fn a_reset_comes_within_its_bytes() {
        let (proxy, mut stream) = echo().await;
        ask(&mut stream, &[1; 5_000]).await.unwrap();
        proxy.shape(Shape {
            reset_within: 4_000,
            ..Shape::default()
        });
        let error = ask(&mut stream, &[1; 5_000]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_half_open_link_passes_nothing_until_it_is_mended() {
        let (proxy, mut stream) = echo().await;
        let half_open = Shape {
            is_half_open: true,
            ..Shape::default()
        };
        proxy.shape(half_open);
        let silent = Duration::from_millis(100);
        let asked = tokio::time::timeout(silent, ask(&mut stream, b"x")).await;
        assert!(asked.is_err());
        proxy.shape(Shape::default());
        let mut answer = [0];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"x");
    }
}
