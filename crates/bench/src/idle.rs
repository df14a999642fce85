//! What sleeping services cost, as their number grows (P16–P18, P23): memory, CPU, a restart.

use std::time::{Duration, Instant};

use anyhow::Context;
use nihilo_types::node_config::{BootDelay, DriverKind};

use crate::cluster::{Cluster, service, with_scale};
use crate::proc::{CpuTimes, Memory};
use crate::report::{Report, Table};
use crate::{Common, say};

/// For ten services.
const GOAL_RSS_KIB: u64 = 40_000_000 / 1_024;
const GOAL_RSS_SERVICES: usize = 10;
/// For 100,000 services.
const GOAL_RESTART: Duration = Duration::from_secs(3);
const GOAL_RESTART_SERVICES: usize = 100_000;
const GOAL_BYTES_EACH: f64 = 3_000.0;
/// Of one core, all nodes together.
const GOAL_CPU: f64 = 0.01;

#[derive(Debug, clap::Args)]
pub(crate) struct IdleArgs {
    /// Numbers of services, growing; each is measured on the same cluster.
    #[arg(long, value_delimiter = ',', default_value = "10,1000,10000,100000")]
    services: Vec<usize>,
    /// How long CPU is watched.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
}

#[derive(Debug)]
struct Row {
    n: usize,
    rss_kib: u64,
    bytes_each: f64,
    cpu: f64,
    restart: Duration,
}

pub(crate) async fn run(common: &Common, args: &IdleArgs) -> anyhow::Result<Report> {
    let mut report = Report::new("idle");
    report.setting("seconds", args.seconds);
    let mut plan = common.plan(3)?;
    plan.driver = Some((
        DriverKind::Fake,
        BootDelay {
            min_ms: 20,
            max_ms: 20,
        },
    ));
    plan.autoscaler
        .insert("allow-zero-initial-scale".into(), "true".into());
    let cluster = Cluster::start(plan).await?;
    let empty = largest(&cluster)?;
    let (mut rows, mut have) = (Vec::new(), 0);
    for n in &args.services {
        say(format!("{n} services"));
        let fresh: Vec<_> = (have + 1..=*n)
            .map(|i| {
                let one = service(&format!("idle-{i}"), "demo/hello", &[]);
                with_scale(one, "initial-scale", "0")
            })
            .collect();
        let started = Instant::now();
        cluster.deploy(&fresh).await?;
        say(format!(
            "{} more are ready after {:?}",
            fresh.len(),
            started.elapsed()
        ));
        have = (*n).max(have);
        cluster.until_at_zero().await?;
        rows.push(measure(&cluster, *n, empty, args.seconds).await?);
    }
    fill(&mut report, empty, &rows);
    Ok(report)
}

fn largest(cluster: &Cluster) -> anyhow::Result<u64> {
    let all: Vec<Memory> = cluster
        .pids()?
        .into_iter()
        .map(Memory::of)
        .collect::<Result<_, _>>()?;
    all.iter().map(|memory| memory.rss).max().context("no node")
}

async fn measure(cluster: &Cluster, n: usize, empty: u64, seconds: u64) -> anyhow::Result<Row> {
    let rss_kib = largest(cluster)?;
    let pids = cluster.pids()?;
    let times = || {
        pids.iter()
            .map(|pid| CpuTimes::of(*pid))
            .collect::<Result<Vec<_>, _>>()
    };
    let (before, started) = (times()?, Instant::now());
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let after = times()?;
    let us: f64 = after
        .iter()
        .zip(&before)
        .map(|(a, b)| a.us_since(b, None))
        .sum();
    let cpu = us / started.elapsed().as_micros() as f64;
    let victim = *pids.first().context("no node")?;
    // Before its last thread has ended its ports are in use.
    crate::proc::kill_and_wait(u32::try_from(victim)?)?;
    let restarted = Instant::now();
    cluster.start_missing()?;
    Ok(Row {
        n,
        rss_kib,
        bytes_each: (rss_kib.saturating_sub(empty) * 1_024) as f64 / n as f64,
        cpu,
        restart: restarted.elapsed(),
    })
}

fn fill(report: &mut Report, empty: u64, rows: &[Row]) {
    report.tables.push(table(empty, rows));
    for row in rows {
        report.figure(
            &format!("services_{}", row.n),
            serde_json::json!({
                "rss_kib": row.rss_kib,
                "bytes_each": row.bytes_each,
                "cpu": row.cpu,
                "restart_s": row.restart.as_secs_f64(),
            }),
        );
    }
    if let Some(few) = rows.iter().find(|row| row.n == GOAL_RSS_SERVICES) {
        report.verdict(
            "RSS of a node with 10 services ≤ 40 MB (goal P17)",
            format!("{} MB", mb(few.rss_kib)),
            few.rss_kib <= GOAL_RSS_KIB,
        );
    }
    let Some(last) = rows.last() else { return };
    report.verdict(
        "memory per service at zero and node ≤ 3 KB, at the largest number (goal P16)",
        format!("{:.0} B at {}", last.bytes_each, last.n),
        last.bytes_each <= GOAL_BYTES_EACH,
    );
    report.verdict(
        "CPU of all nodes ≤ 1 % of a core, at the largest number (goal P18)",
        format!("{:.2} %", last.cpu * 100.0),
        last.cpu <= GOAL_CPU,
    );
    if last.n == GOAL_RESTART_SERVICES {
        report.verdict(
            "restart of a node among 100,000 services ≤ 3 s (goal P23)",
            format!("{:.2} s", last.restart.as_secs_f64()),
            last.restart <= GOAL_RESTART,
        );
    }
}

fn table(empty: u64, rows: &[Row]) -> Table {
    let columns = [
        "services",
        "RSS MB",
        "bytes each",
        "CPU of a core",
        "restart s",
    ];
    let mut table = Table::new("Services at zero, the largest of three nodes", &columns);
    let nothing = String::new;
    table.row(["0".into(), mb(empty), nothing(), nothing(), nothing()]);
    for row in rows {
        table.row([
            row.n.to_string(),
            mb(row.rss_kib),
            format!("{:.0}", row.bytes_each),
            format!("{:.2} %", row.cpu * 100.0),
            format!("{:.2}", row.restart.as_secs_f64()),
        ]);
    }
    table
}

fn mb(kib: u64) -> String {
    format!("{:.1}", kib as f64 * 1_024.0 / 1e6)
}
