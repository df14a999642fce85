//! Steady load over three gateways while routes are switched and nodes restarted one after the
//! other, with WebSockets open: nobody may notice (P22).

mod restarts;
mod switches;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nihilo_types::service::Service;

use self::restarts::Restart;
use self::switches::Switch;
use crate::cluster::{Cluster, host_of, program, service, with_scale};
use crate::figures::{Samples, milliseconds};
use crate::report::{Report, Table};
use crate::steady::{Steady, Window};
use crate::{Common, built, say};

/// Answers the load; WebSockets have a service of their own, so that it can be told whose instance
/// made a connection end.
const WEB: &str = "web";
const CHAT: &str = "chat";
/// Instances of each: one per node when they are spread.
const N_INSTANCES: usize = 3;
/// p99 may be so much above the steady one.
const GOAL_ABOVE_MS: f64 = 2.0;
/// A route change has reached every gateway after so long, at the 99th percentile.
const GOAL_SWITCH_MS: f64 = 50.0;

#[derive(Debug, clap::Args)]
pub(crate) struct RolloutArgs {
    /// Requests per second, over all gateways.
    #[arg(long, default_value_t = 1_000.0)]
    rate: f64,
    /// Route switches from one revision to the other and back.
    #[arg(long, default_value_t = 100)]
    switches: usize,
    /// Rounds of restarts; each restarts every node once.
    #[arg(long, default_value_t = 1)]
    restarts: usize,
    /// WebSockets opened through each gateway before each restart.
    #[arg(long, default_value_t = 20)]
    sockets: usize,
    /// `shutdown-grace` of the nodes in seconds: two thirds of it are the drain time.
    #[arg(long, default_value_t = 15)]
    grace: u32,
    /// Seconds of load with nothing else happening.
    #[arg(long, default_value_t = 10)]
    calm_seconds: u64,
}

/// The load in each part of the run.
#[derive(Debug)]
struct Windows {
    calm: Window,
    switches: Window,
    restarts: Window,
}

pub(crate) async fn run(common: &Common, args: &RolloutArgs) -> anyhow::Result<Report> {
    let mut report = Report::new("rollout");
    report.setting("rate", args.rate);
    report.setting("grace_s", args.grace);
    report.setting("sockets_per_gateway", args.sockets);
    let mut plan = common.plan(3)?;
    plan.shutdown_grace = Some(args.grace);
    let cluster = Cluster::start(plan).await?;
    deploy(&cluster).await?;
    let gateways = cluster.gateways()?;
    let load = Steady::start(&gateways, &host_of(WEB), args.rate);
    say("calm");
    let begun = Instant::now();
    tokio::time::sleep(Duration::from_secs(args.calm_seconds)).await;
    let calm_until = Instant::now();
    say(format!("{} route switches", args.switches));
    let switches = switches::run(&cluster, &gateways, args.switches).await?;
    let switches_until = Instant::now();
    let restarts = restart_all(&cluster, &gateways, args).await?;
    let restarts_until = Instant::now();
    let ledger = load.finish()?;
    let windows = Windows {
        calm: ledger.between(begun, calm_until),
        switches: ledger.between(calm_until, switches_until),
        restarts: ledger.between(switches_until, restarts_until),
    };
    fill_load(&mut report, &windows);
    fill_switches(&mut report, &switches);
    restarts::fill(&mut report, &restarts, args.grace);
    Ok(report)
}

async fn deploy(cluster: &Cluster) -> anyhow::Result<()> {
    let app = program(&built("nihilo-bench-app")?);
    let spread = |service: Service| with_scale(service, "min-scale", &N_INSTANCES.to_string());
    let chat = service(CHAT, &app, &[("WEBSOCKET", "1".into())]);
    cluster.deploy(&[spread(chat)]).await?;
    for name in switches::REVISIONS {
        let mut web = spread(service(WEB, &app, &[]));
        web.spec.template.metadata.name = name.into();
        cluster.deploy(&[web]).await?;
    }
    switches::begin(cluster).await?;
    until_spread(cluster).await
}

/// Waits until every service has all its instances again.
async fn until_spread(cluster: &Cluster) -> anyhow::Result<()> {
    // Both revisions of the one service keep theirs.
    let n_web = N_INSTANCES * switches::REVISIONS.len();
    cluster.until_ready(WEB, n_web).await?;
    cluster.until_ready(CHAT, N_INSTANCES).await
}

async fn restart_all(
    cluster: &Cluster,
    gateways: &[SocketAddr],
    args: &RolloutArgs,
) -> anyhow::Result<Vec<Restart>> {
    let mut all = Vec::new();
    for _ in 0..args.restarts {
        for node in 0..gateways.len() {
            let restart = restarts::restart(cluster, gateways, node, args).await?;
            say(restart.progress());
            all.push(restart);
            until_spread(cluster).await?;
        }
    }
    Ok(all)
}

fn fill_load(report: &mut Report, windows: &Windows) {
    let parts = [
        ("nothing else", "calm", &windows.calm),
        ("route switches", "switches", &windows.switches),
        ("rolling restarts", "restarts", &windows.restarts),
    ];
    let mut table = Table::new("The load", &Window::COLUMNS);
    for (what, key, window) in parts {
        table.row(window.row(what));
        let figure = serde_json::json!({
            "requests": window.n,
            "failed": window.n_failed,
            "asked_again": window.n_again,
            "refused_connections": window.n_refused,
            "p50_ms": window.latency_ms.quantile(0.5),
            "p99_ms": window.latency_ms.quantile(0.99),
            "max_ms": window.latency_ms.quantile(1.0),
        });
        report.figure(key, figure);
    }
    report.tables.push(table);
    for (what, _, window) in parts {
        let goal = format!("{what}: 0 failed requests (goals P14 and P22)");
        report.verdict(
            &goal,
            window.failures(),
            window.n > 0 && window.n_failed == 0,
        );
    }
    let calm_p99 = windows.calm.latency_ms.quantile(0.99);
    for (what, _, window) in &parts[1..] {
        let above = window.latency_ms.quantile(0.99) - calm_p99;
        let goal = format!("{what}: p99 ≤ the calm one + {GOAL_ABOVE_MS} ms (goal P22)");
        let measured = format!("{calm_p99:.2} {above:+.2} ms");
        report.verdict(&goal, measured, above <= GOAL_ABOVE_MS);
    }
}

fn fill_switches(report: &mut Report, switches: &[Switch]) {
    let took = Samples::new(switches.iter().map(|switch| milliseconds(switch.to_ready)));
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|q| took.quantile(q));
    let columns = ["switches", "p50 ms", "p99 ms", "max ms"];
    let mut table = Table::new("From asking for a switch to seeing it Ready", &columns);
    let cells = [p50, p99, max].map(|ms| format!("{ms:.1}"));
    table.row([switches.len().to_string()].into_iter().chain(cells));
    report.tables.push(table);
    let figure = serde_json::json!({"p50": p50, "p99": p99, "max": max});
    report.figure("switch_to_ready_ms", figure);
    let n_stale: usize = switches.iter().map(|switch| switch.n_stale).sum();
    report.figure("stale_answers", n_stale);
    report.verdict(
        "once Ready, every gateway serves the new revision",
        format!(
            "{n_stale} answers of the old one over {} switches",
            switches.len()
        ),
        n_stale == 0,
    );
    report.verdict(
        &format!("switch → Ready on every gateway p99 ≤ {GOAL_SWITCH_MS} ms (goal P20)"),
        format!("{p99:.1} ms"),
        p99 <= GOAL_SWITCH_MS,
    );
}
