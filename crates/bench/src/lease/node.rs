//! One member of the group, in a process of its own: consensus and its store, nothing else.
//!
//! It is told what to do by lines on stdin (`writers N`, `stop`) and says how it fares by one JSON
//! document a second on stdout. When stdin ends, so does it: none outlives the benchmark.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use nihilo_raft::{Identity, RaftConfig, RaftNode, Role};
use nihilo_types::node_config::Profile;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::transport::server::TcpIncoming;

use super::histogram::Counts;
use super::writer::{self, Writes};

pub(crate) const CLUSTER: &str = "bench";
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// How often leadership is looked at: finer than any timing profile.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Orders that may wait; a benchmark gives two.
const MAX_ORDERS: usize = 16;

#[derive(Debug, clap::Args)]
pub(crate) struct NodeArgs {
    #[arg(long)]
    id: u64,
    #[arg(long)]
    dir: PathBuf,
    #[arg(long, value_parser = profile)]
    profile: Profile,
    /// `ID=HOST:PORT` of every member.
    #[arg(long, value_delimiter = ',', value_parser = member)]
    members: Vec<(u64, String)>,
}

pub(crate) fn profile(text: &str) -> Result<Profile, String> {
    let known = serde_json::from_value(text.into());
    known.map_err(|_| "one of auto, calm, balanced, fast".into())
}

fn member(text: &str) -> Result<(u64, String), String> {
    let (id, address) = text.split_once('=').ok_or("ID=HOST:PORT")?;
    let id = id.parse().map_err(|_| "the id is a number")?;
    Ok((id, address.to_owned()))
}

/// Everything since the process began.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct NodeReport {
    pub(crate) id: u64,
    pub(crate) term: u64,
    /// 0 = none known.
    pub(crate) leader: u64,
    /// Looks at leadership: without a leader, and as one without a recent answer of a quorum.
    pub(crate) n_looks: u64,
    pub(crate) n_leaderless: u64,
    pub(crate) n_without_quorum: u64,
    /// Tries turned away by consensus, most of them tried again unseen.
    pub(crate) n_refused: u64,
    pub(crate) writes: Writes,
    pub(crate) n_fsyncs: u64,
    pub(crate) n_entries_synced: u64,
    /// Microseconds each.
    pub(crate) fsync: Counts,
    pub(crate) lateness: Counts,
}

pub(crate) async fn run(args: &NodeArgs) -> anyhow::Result<()> {
    let members: BTreeMap<u64, String> = args.members.iter().cloned().collect();
    let address = members.get(&args.id).context("not a member")?;
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| address.clone())?;
    let node = RaftNode::start(RaftConfig {
        identity: Identity {
            cluster_id: CLUSTER.into(),
            node_id: args.id,
        },
        data_dir: args.dir.clone(),
        members: members.clone(),
        profile: args.profile,
        failover_fast_path: false,
        founders: Vec::new(),
        digest_every: None,
        snapshot_every: None,
    })
    .await?;
    // The builder's own `tcp_nodelay` is for listeners that it makes.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = tonic::transport::Server::builder()
        .add_service(node.peer_server().into_service())
        .serve_with_incoming(incoming);
    let server = tokio::spawn(server);
    node.introduce().await?;
    if members.keys().next() == Some(&args.id) {
        node.initialize().await?;
    }
    let writers = Arc::new(Writers::default());
    let reporter = tokio::spawn(report(node.clone(), writers.clone()));
    // The order does not matter: the first that ends is the end.
    let ended = tokio::select! {
        obeyed = obey(&node, &writers) => obeyed,
        ended = server => Err(anyhow!("the peer server ended: {ended:?}")),
    };
    reporter.abort();
    node.shutdown().await;
    ended
}

/// Writers run until told to stop.
#[derive(Debug, Default)]
struct Writers {
    stop: AtomicBool,
    next_id: AtomicU64,
    writes: Mutex<Writes>,
}

impl Writers {
    fn writes(&self) -> MutexGuard<'_, Writes> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lines of stdin; the channel ends with it.
fn orders() -> mpsc::Receiver<String> {
    let (sender, orders) = mpsc::channel(MAX_ORDERS);
    // A read of stdin cannot be called off, so it has a thread that ends with the process.
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    orders
}

async fn obey(node: &RaftNode, writers: &Arc<Writers>) -> anyhow::Result<()> {
    let mut orders = orders();
    while let Some(line) = orders.recv().await {
        match line.split_once(' ') {
            Some(("writers", n)) => {
                let n: u64 = n.parse().with_context(|| line.clone())?;
                writers.stop.store(false, Ordering::Relaxed);
                for _ in 0..n {
                    tokio::spawn(write_on(node.clone(), writers.clone()));
                }
            }
            _ if line == "stop" => writers.stop.store(true, Ordering::Relaxed),
            _ => return Err(anyhow!("`{line}` is no order")),
        }
    }
    Ok(())
}

async fn write_on(node: RaftNode, writers: Arc<Writers>) {
    let me = node.identity().node_id;
    let id = writers.next_id.fetch_add(1, Ordering::Relaxed);
    let mut n_written = 0;
    while !writers.stop.load(Ordering::Relaxed) {
        let command = writer::command(me, id, n_written);
        let (took, result) = writer::propose(&node, command).await;
        n_written += 1;
        let failed = result.is_err();
        writers.writes().count(took, result);
        if failed {
            tokio::time::sleep(writer::PAUSE_AFTER_FAILURE).await;
        }
    }
}

/// Prints a report a second; looks at leadership and the probes in between.
async fn report(node: RaftNode, writers: Arc<Writers>) {
    let mut report = NodeReport {
        id: node.identity().node_id,
        ..NodeReport::default()
    };
    let mut n_ticks = 0;
    let mut look = tokio::time::interval(LOOK_EVERY);
    let mut printed = Instant::now();
    loop {
        look.tick().await;
        let status = node.status();
        report.term = status.term;
        report.leader = status.leader.unwrap_or(0);
        report.n_looks += 1;
        report.n_leaderless += u64::from(status.leader.is_none());
        let unheard = status.role == Role::Leader && !node.leads_with_quorum();
        report.n_without_quorum += u64::from(unheard);
        if printed.elapsed() < REPORT_EVERY {
            continue;
        }
        printed = Instant::now();
        report.n_refused = node.n_refused();
        report.writes = writers.writes().clone();
        let (now, late) = node.tick_lateness_since(n_ticks);
        n_ticks = now;
        report.lateness.add_all(&late);
        take_fsyncs(&node, &mut report);
        let line = serde_json::to_string(&report).unwrap_or_default();
        println!("{line}");
    }
}

fn take_fsyncs(node: &RaftNode, report: &mut NodeReport) {
    let stats = node.io_stats();
    let stats = stats.lock();
    let n_new = usize::try_from(stats.n_fsyncs - report.n_fsyncs).unwrap_or(usize::MAX);
    let first = stats.fsyncs.len().saturating_sub(n_new);
    report.fsync.add_all(&stats.fsyncs[first..]);
    report.n_fsyncs = stats.n_fsyncs;
    report.n_entries_synced = stats.n_entries;
}
