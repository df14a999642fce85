//! SIGTERM of one node and its start, with WebSockets open through every gateway.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};

use super::{CHAT, RolloutArgs};
use crate::cluster::{Cluster, host_of};
use crate::proc;
use crate::report::{Report, Table};
use crate::websocket::{End, Socket};

/// What RFC 6455 has a server say that goes away.
const GOING_AWAY: u16 = 1_001;
/// Sockets talk so long before the signal, and after the node is gone.
const SETTLE: Duration = Duration::from_secs(1);
/// On top of its grace.
const STOP_LIMIT: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(super) struct Restart {
    node: String,
    /// From the signal to the end of the process.
    stopped: Duration,
    /// Through the node's own gateway.
    own: Vec<Ended>,
    /// Through the others.
    others: Vec<Ended>,
}

#[derive(Debug)]
struct Ended {
    end: End,
    /// Since the signal; `None` = before it.
    after: Option<Duration>,
}

/// Sockets through one gateway, each held by a thread.
struct Held {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<(End, Instant)>>,
}

impl Held {
    fn open(gateway: SocketAddr, n: usize) -> anyhow::Result<Self> {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for _ in 0..n {
            let socket = Socket::open(gateway, &host_of(CHAT))?;
            let is_over = is_over.clone();
            threads.push(std::thread::spawn(move || socket.hold(&is_over)));
        }
        Ok(Self { is_over, threads })
    }

    fn finish(self, signal: Instant) -> anyhow::Result<Vec<Ended>> {
        self.is_over.store(true, Ordering::Relaxed);
        let ended = self.threads.into_iter().map(|thread| {
            let (end, at) = thread.join().map_err(|_| anyhow!("a socket panicked"))?;
            let after = at.checked_duration_since(signal);
            Ok(Ended { end, after })
        });
        ended.collect()
    }
}

pub(super) async fn restart(
    cluster: &Cluster,
    gateways: &[SocketAddr],
    node: usize,
    args: &RolloutArgs,
) -> anyhow::Result<Restart> {
    let held = gateways
        .iter()
        .map(|gateway| Held::open(*gateway, args.sockets));
    let held = held.collect::<anyhow::Result<Vec<_>>>()?;
    tokio::time::sleep(SETTLE).await;
    let pid = cluster.pids()?[node];
    let signal = Instant::now();
    proc::terminate(pid)?;
    let limit = Duration::from_secs(args.grace.into()) + STOP_LIMIT;
    while !proc::is_gone(pid) {
        if signal.elapsed() > limit {
            bail!("the node does not stop within {limit:?}");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let stopped = signal.elapsed();
    tokio::time::sleep(SETTLE).await;
    let (mut own, mut others) = (Vec::new(), Vec::new());
    for (gateway, held) in held.into_iter().enumerate() {
        let ended = if gateway == node {
            &mut own
        } else {
            &mut others
        };
        ended.extend(held.finish(signal)?);
    }
    tokio::task::block_in_place(|| cluster.start_missing())?;
    Ok(Restart {
        node: cluster.configs[node].name.clone(),
        stopped,
        own,
        others,
    })
}

impl Ended {
    fn is_farewell(&self) -> bool {
        self.end == End::Closed(GOING_AWAY) && self.after.is_some()
    }
}

fn farewells(sockets: &[Ended]) -> impl Iterator<Item = Duration> {
    let farewells = sockets.iter().filter(|socket| socket.is_farewell());
    farewells.filter_map(|socket| socket.after)
}

/// The first that neither lived on nor was told to go.
fn first_broken<'a>(sockets: impl Iterator<Item = &'a Ended>) -> Option<String> {
    let mut broken = sockets.filter(|s| s.end != End::StillOpen && !s.is_farewell());
    broken.next().map(|socket| {
        let after = socket.after.map_or(0.0, |after| after.as_secs_f64());
        format!(", the first after {after:.1} s: {:?}", socket.end)
    })
}

fn count(sockets: &[Ended], is_it: impl Fn(&Ended) -> bool) -> usize {
    sockets.iter().filter(|socket| is_it(socket)).count()
}

impl Restart {
    pub(super) fn progress(&self) -> String {
        format!(
            "{} stopped after {:.1} s; of its {} sockets {} were told, of {} others {} broke",
            self.node,
            self.stopped.as_secs_f64(),
            self.own.len(),
            farewells(&self.own).count(),
            self.others.len(),
            count(&self.others, |s| s.end != End::StillOpen
                && !s.is_farewell()),
        )
    }
}

pub(super) fn fill(report: &mut Report, restarts: &[Restart], grace_s: u32) {
    let columns = [
        "node",
        "stopped after s",
        "its sockets",
        "told 1001",
        "first–last told after s",
        "sockets of other gateways",
        "still open",
        "told 1001",
    ];
    let mut table = Table::new("Restarts", &columns);
    for restart in restarts {
        let seconds = farewells(&restart.own).map(|after| after.as_secs_f64());
        let (first, last) = seconds.fold((f64::INFINITY, 0.0_f64), |(first, last), after| {
            (first.min(after), last.max(after))
        });
        table.row([
            restart.node.clone(),
            format!("{:.1}", restart.stopped.as_secs_f64()),
            restart.own.len().to_string(),
            farewells(&restart.own).count().to_string(),
            format!("{first:.1}–{last:.1}"),
            restart.others.len().to_string(),
            count(&restart.others, |s| s.end == End::StillOpen).to_string(),
            farewells(&restart.others).count().to_string(),
        ]);
    }
    report.tables.push(table);
    let drain = Duration::from_secs(grace_s.into()) / 3 * 2;
    let own = || restarts.iter().flat_map(|restart| &restart.own);
    let n_told = own().filter(|s| s.is_farewell() && s.after <= Some(drain));
    let (n_told, n_own) = (n_told.count(), own().count());
    let first = first_broken(own()).unwrap_or_default();
    report.figure("sockets_told", n_told);
    report.figure("sockets", n_own);
    report.verdict(
        &format!(
            "WebSockets of a gateway that stops get 1001 within its drain time, {} s, and none \
             breaks earlier",
            drain.as_secs()
        ),
        format!("{n_told} of {n_own}{first}"),
        n_own > 0 && n_told == n_own,
    );
    let others = || restarts.iter().flat_map(|restart| &restart.others);
    let n_broken = others().filter(|s| s.end != End::StillOpen && !s.is_farewell());
    let (n_broken, n_others) = (n_broken.count(), others().count());
    let first = first_broken(others()).unwrap_or_default();
    report.figure("other_sockets_broken", n_broken);
    report.verdict(
        "WebSockets of the other gateways live on or get 1001, also those of an instance that ends",
        format!("{n_broken} of {n_others} broke{first}"),
        n_others > 0 && n_broken == 0,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_close_frame_1001_after_the_signal_is_a_farewell() {
        let after = Some(Duration::from_secs(3));
        let ended = |end, after| Ended { end, after };
        let sockets = [
            ended(End::Closed(GOING_AWAY), after),
            ended(End::Closed(GOING_AWAY), None),
            ended(End::Closed(1_000), after),
            ended(End::Broken("x".into()), after),
            ended(End::StillOpen, after),
        ];
        assert_eq!(farewells(&sockets).count(), 1);
        let first = first_broken(sockets.iter()).unwrap();
        assert!(first.contains("1001"), "{first}");
        assert!(first_broken(sockets[4..].iter()).is_none());
    }
}
