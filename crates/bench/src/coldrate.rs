//! Cold starts per second with a simulated sandbox (P4–P6): every request goes to another service
//! at zero, at a fixed rate, whatever becomes of those before it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nihilo_types::node_config::{BootDelay, DriverKind};

use crate::cluster::{Cluster, host_of, service};
use crate::figures::{Samples, milliseconds};
use crate::http::{Connection, get};
use crate::proc::CpuTimes;
use crate::report::{Report, Table};
use crate::{Common, say};

/// Threads that send; each waits for its answer.
const MAX_SENDERS: usize = 512;
const GOAL_P50_MS: f64 = 1.5;
const GOAL_P99_MS: f64 = 5.0;
const GOAL_CPU_US: f64 = 150.0;

#[derive(Debug, clap::Args)]
pub(crate) struct ColdRateArgs {
    /// Cold requests per second; several are measured one after the other.
    #[arg(long, value_delimiter = ',', default_value = "100")]
    rates: Vec<f64>,
    /// Services: as many cold requests are sent at each rate.
    #[arg(long, default_value_t = 500)]
    services: usize,
    /// Of the simulated sandbox.
    #[arg(long, default_value_t = 40)]
    boot_ms: u32,
}

/// What came of one rate.
#[derive(Debug)]
struct Outcome {
    rate: f64,
    reached: f64,
    n_failed: usize,
    /// Above the sandbox's delay.
    overhead_ms: Samples,
    cpu_us_each: f64,
}

pub(crate) async fn run(common: &Common, args: &ColdRateArgs) -> anyhow::Result<Report> {
    let mut report = Report::new("coldrate");
    report.setting("services", args.services);
    report.setting("boot_ms", args.boot_ms);
    let mut plan = common.plan(3)?;
    plan.driver = Some((
        DriverKind::Fake,
        BootDelay {
            min_ms: args.boot_ms,
            max_ms: args.boot_ms,
        },
    ));
    plan.capacity = u32::try_from(args.services).ok();
    let cluster = Cluster::start(plan).await?;
    let names: Vec<_> = (1..=args.services).map(|n| format!("cold-{n}")).collect();
    let services: Vec<_> = names
        .iter()
        .map(|name| service(name, "demo/hello", &[]))
        .collect();
    say(format!("creating {} services", services.len()));
    cluster.deploy(&services).await?;
    let mut outcomes = Vec::new();
    for rate in &args.rates {
        say("waiting until all are at zero");
        cluster.until_at_zero().await?;
        say(format!("{rate} cold requests per second"));
        let outcome =
            tokio::task::block_in_place(|| measure(&cluster, &names, *rate, args.boot_ms))?;
        outcomes.push(outcome);
    }
    fill(&mut report, &outcomes);
    Ok(report)
}

fn cpu(cluster: &Cluster) -> anyhow::Result<Vec<CpuTimes>> {
    cluster.pids()?.into_iter().map(CpuTimes::of).collect()
}

fn measure(
    cluster: &Cluster,
    names: &[String],
    rate: f64,
    boot_ms: u32,
) -> anyhow::Result<Outcome> {
    let gateways = cluster.gateways()?;
    let before = cpu(cluster)?;
    let next = Arc::new(AtomicUsize::new(0));
    let started = Instant::now();
    let senders = names.len().min(MAX_SENDERS);
    let latencies: Vec<Result<f64, String>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..senders)
            .map(|_| {
                let (next, gateways) = (next.clone(), &gateways);
                scope.spawn(move || {
                    let mut own = Vec::new();
                    loop {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        let Some(name) = names.get(i) else { return own };
                        let due = started + Duration::from_secs_f64(i as f64 / rate);
                        std::thread::park_timeout(due.saturating_duration_since(Instant::now()));
                        let answer = Connection::open(gateways[i % gateways.len()])
                            .and_then(|mut connection| connection.exchange(&get(&host_of(name))));
                        own.push(match answer {
                            // From when it was due: a late sender is part of what a client waits.
                            Ok(answer) if answer.status == 200 => Ok(milliseconds(due.elapsed())),
                            Ok(answer) => Err(format!("{name} answered {}", answer.status)),
                            Err(error) => Err(format!("{name}: {error}")),
                        });
                    }
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap_or_default())
            .collect()
    });
    let took = started.elapsed().as_secs_f64();
    let after = cpu(cluster)?;
    let cpu_us: f64 = after
        .iter()
        .zip(&before)
        .map(|(after, before)| after.us_since(before, None))
        .sum();
    let failed: Vec<_> = latencies.iter().filter_map(|l| l.as_ref().err()).collect();
    if let Some(first) = failed.first() {
        say(format!("{} failed, the first: {first}", failed.len()));
    }
    let good = latencies.iter().filter_map(|l| l.as_ref().ok());
    let n_good = latencies.len() - failed.len();
    Ok(Outcome {
        rate,
        reached: n_good as f64 / took,
        n_failed: failed.len(),
        overhead_ms: Samples::new(good.map(|ms| ms - f64::from(boot_ms))),
        cpu_us_each: cpu_us / latencies.len().max(1) as f64,
    })
}

fn fill(report: &mut Report, outcomes: &[Outcome]) {
    let columns = [
        "asked /s",
        "reached /s",
        "failed",
        "p50 ms",
        "p99 ms",
        "max ms",
        "CPU µs each",
    ];
    let mut table = Table::new("Cold requests: time above the simulated sandbox", &columns);
    for outcome in outcomes {
        let quantile = |q| format!("{:.2}", outcome.overhead_ms.quantile(q));
        table.row([
            format!("{:.0}", outcome.rate),
            format!("{:.0}", outcome.reached),
            outcome.n_failed.to_string(),
            quantile(0.5),
            quantile(0.99),
            quantile(1.0),
            format!("{:.0}", outcome.cpu_us_each),
        ]);
    }
    report.tables.push(table);
    let Some(first) = outcomes.first() else {
        return;
    };
    let (p50, p99) = (
        first.overhead_ms.quantile(0.5),
        first.overhead_ms.quantile(0.99),
    );
    report.figure("p50_ms", p50);
    report.figure("p99_ms", p99);
    report.figure("cpu_us_each", first.cpu_us_each);
    report.figure(
        "reached_per_s",
        outcomes.iter().map(|o| o.reached).fold(0.0, f64::max),
    );
    report.verdict(
        "overhead at the first rate: p50 ≤ 1.5 ms, p99 ≤ 5 ms",
        format!("{p50:.2} / {p99:.2} ms"),
        p50 <= GOAL_P50_MS && p99 <= GOAL_P99_MS,
    );
    report.verdict(
        "CPU per cold start ≤ 150 µs",
        format!("{:.0} µs", first.cpu_us_each),
        first.cpu_us_each <= GOAL_CPU_US,
    );
}
