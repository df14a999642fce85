//! What sleeping services cost, as their number grows (P16–P18, P23): memory, CPU, a restart.

use std::time::{Duration, Instant};

use anyhow::Context;
use nihilo_types::node_config::{BootDelay, DriverKind};

use crate::cluster::{Cluster, service, with_scale};
use crate::proc::{CpuTimes, Memory};
use crate::report::{Report, Table};
use crate::{Common, say};

const GOAL_BYTES_EACH: f64 = 3_000.0;
/// Of one core, all nodes together.
const GOAL_CPU: f64 = 0.01;

#[derive(Debug, clap::Args)]
pub(crate) struct IdleArgs {
    /// Numbers of services, growing; each is measured on the same cluster.
    #[arg(long, value_delimiter = ',', default_value = "10,100,1000")]
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
        cluster.deploy(&fresh).await?;
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
    crate::proc::kill(u32::try_from(victim)?)?;
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
    let columns = [
        "services",
        "RSS MB",
        "bytes each",
        "CPU of a core",
        "restart s",
    ];
    let mut table = Table::new("Services at zero, the largest of three nodes", &columns);
    let mb = |kib: u64| format!("{:.1}", kib as f64 * 1_024.0 / 1e6);
    table.row([
        "0".into(),
        mb(empty),
        String::new(),
        String::new(),
        String::new(),
    ]);
    for row in rows {
        table.row([
            row.n.to_string(),
            mb(row.rss_kib),
            format!("{:.0}", row.bytes_each),
            format!("{:.2} %", row.cpu * 100.0),
            format!("{:.2}", row.restart.as_secs_f64()),
        ]);
    }
    report.tables.push(table);
    let Some(last) = rows.last() else { return };
    report.figure("bytes_each", last.bytes_each);
    report.figure("cpu", last.cpu);
    report.figure("restart_s", last.restart.as_secs_f64());
    report.verdict(
        "memory per service at zero and node ≤ 3 KB, at the largest number",
        format!("{:.0} B at {}", last.bytes_each, last.n),
        last.bytes_each <= GOAL_BYTES_EACH,
    );
    report.verdict(
        "CPU of all nodes ≤ 1 % of a core, at the largest number",
        format!("{:.2} %", last.cpu * 100.0),
        last.cpu <= GOAL_CPU,
    );
}
