//! `nihilo-bench`: measures Nihilo, beside its peers where there are any, in one run.
//!
//! `cargo xtask bench NAME` builds and runs it; docs/performance.md says how each is measured.

mod autoscaler;
mod cluster;
mod cold;
mod coldrate;
mod container;
mod etcd;
mod failover;
mod figures;
mod gateway;
mod http;
mod idle;
mod lease;
mod load;
mod peers;
mod prefilled;
mod proc;
mod quorumloss;
mod readiness;
mod report;
mod restart;
mod rollout;
mod rss;
mod stages;
mod steady;
mod store;
mod trace;
mod websocket;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::cluster::Plan;
use crate::report::Report;

#[derive(Debug, Parser)]
#[command(about = "Measures Nihilo and its peers in one run")]
struct Args {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    bench: Bench,
}

/// What all benchmarks share.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Common {
    /// Where the results go as JSON [default: bench/NAME.json in the target directory].
    #[arg(long, global = true, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Where clusters and stores keep their data: a real disk, or fsync costs nothing [default:
    /// bench/ in the target directory].
    #[arg(long, global = true, value_name = "DIR")]
    work_dir: Option<PathBuf>,
    /// Added to every port of a cluster.
    #[arg(long, global = true, value_name = "N", default_value_t = 21_000)]
    port_offset: u16,
    /// Install peers that are missing, as root, by apt-get.
    #[arg(long, global = true)]
    install: bool,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Do three stores hold their lease under writers and CPU stress?
    Lease(lease::LeaseArgs),
    /// A request that wakes a service, beside a bare spawn of the same program.
    Cold(cold::ColdArgs),
    /// A request that wakes a container, beside create and start of the same image.
    Container(container::ContainerArgs),
    /// From an app's `listen()` to the node that sees it, and to the request that waits for it.
    Readiness(readiness::ReadinessArgs),
    /// Cold requests per second to a simulated sandbox.
    Coldrate(coldrate::ColdRateArgs),
    /// Decisions of the autoscaler per core-second.
    Autoscaler(autoscaler::AutoscalerArgs),
    /// What services at zero cost, by their number.
    Idle(idle::IdleArgs),
    /// The Azure Functions trace through the autoscaler, in virtual time.
    Trace(trace::TraceArgs),
    /// Warm requests through the gateway, nginx and HAProxy: HTTP/1.1 and 2, small and large
    /// answers, few and many routes.
    Gateway(gateway::GatewayArgs),
    /// Memory of nodes with services that sleep.
    Rss(rss::RssArgs),
    /// From the death of the leader to the next acknowledged write, beside etcd.
    Failover(failover::FailoverArgs),
    /// Start of a node that holds many services.
    Restart(restart::RestartArgs),
    /// Route switches and restarts of nodes under steady load and open WebSockets.
    Rollout(rollout::RolloutArgs),
    /// Two of three nodes killed under steady load through the third.
    Quorumloss(quorumloss::QuorumLossArgs),
    /// Durable writes and linearizable reads beside etcd.
    Store(store::StoreArgs),
    /// One member of the groups that `lease` and `store` measure.
    #[command(hide = true)]
    StoreNode(lease::node::NodeArgs),
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let report = runtime.block_on(async {
        // What was started is stopped when the benchmark's future is dropped.
        tokio::select! {
            report = run(&args) => report,
            () = told_to_stop() => Err(anyhow::anyhow!("interrupted")),
        }
    })?;
    let Some(report) = report else { return Ok(()) };
    report.print();
    let file = match &args.common.out {
        Some(file) => file.clone(),
        None => args
            .common
            .work_dir()?
            .join(format!("{}.json", report.bench())),
    };
    report.write(&file)?;
    println!("\nwritten to {}", file.display());
    Ok(())
}

async fn run(args: &Args) -> anyhow::Result<Option<Report>> {
    let common = &args.common;
    let report = match &args.bench {
        Bench::Lease(args) => lease::run(common, args).await?,
        Bench::Cold(args) => cold::run(common, args).await?,
        Bench::Container(args) => container::run(common, args).await?,
        Bench::Readiness(args) => readiness::run(common, args).await?,
        Bench::Coldrate(args) => coldrate::run(common, args).await?,
        Bench::Autoscaler(args) => autoscaler::run(common, args)?,
        Bench::Idle(args) => idle::run(common, args).await?,
        Bench::Trace(args) => trace::run(common, args)?,
        Bench::Gateway(args) => gateway::run(common, args).await?,
        Bench::Rss(args) => rss::run(common, args).await?,
        Bench::Failover(args) => failover::run(common, args).await?,
        Bench::Restart(args) => restart::run(common, args).await?,
        Bench::Rollout(args) => rollout::run(common, args).await?,
        Bench::Quorumloss(args) => quorumloss::run(common, args).await?,
        Bench::Store(args) => store::run(common, args).await?,
        Bench::StoreNode(args) => {
            lease::node::run(args).await?;
            return Ok(None);
        }
    };
    Ok(Some(report))
}

async fn told_to_stop() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        drop(tokio::signal::ctrl_c().await);
        return;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

impl Common {
    fn work_dir(&self) -> anyhow::Result<PathBuf> {
        match &self.work_dir {
            Some(dir) => Ok(dir.clone()),
            None => Ok(beside_me("../bench")?),
        }
    }

    /// A cluster of `n_nodes` as `nihilo dev` makes it.
    fn plan(&self, n_nodes: usize) -> anyhow::Result<Plan> {
        Ok(Plan {
            nihilo: built("nihilo")?,
            below: self.work_dir()?,
            n_nodes,
            port_offset: self.port_offset,
            profile: Default::default(),
            failover_fast_path: false,
            autoscaler: Default::default(),
            driver: None,
            capacity: None,
            shutdown_grace: None,
        })
    }
}

/// A program that was built together with this one.
fn built(name: &str) -> anyhow::Result<PathBuf> {
    let file = beside_me(name)?;
    file.canonicalize().with_context(|| {
        let shown = file.display();
        format!("{shown} is missing: `cargo xtask bench` builds it")
    })
}

fn beside_me(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.parent().unwrap_or(Path::new(".")).join(name))
}

/// A line of progress, so that nobody wonders whether it still runs.
fn say(text: impl AsRef<str>) {
    eprintln!("{}", text.as_ref());
}
