//! Two of three nodes killed: the third goes on serving what is warm, and starts what it owns (P14).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use futures_util::future::join_all;
use nihilo_client::Client;

use crate::cluster::{Cluster, NAMESPACE, host_of, program, service, with_scale};
use crate::figures::{Samples, milliseconds};
use crate::http::{Connection, get};
use crate::report::{Report, Table};
use crate::steady::{Steady, Window};
use crate::{Common, built, proc, say};

const WEB: &str = "web";
const N_INSTANCES: usize = 3;
/// Load with all three nodes, before the kill.
const CALM: Duration = Duration::from_secs(5);
/// From the kill to the cold requests: the third has missed its leader by then, whatever the
/// profile.
const LOST: Duration = Duration::from_secs(10);
/// The owner answers at once, or is not there.
const ASK_LIMIT: Duration = Duration::from_secs(1);
/// A cold request that nobody can serve is refused within this: a second by 05-gateway §13, and
/// room for a slow machine.
const REFUSAL_LIMIT: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub(crate) struct QuorumLossArgs {
    /// Requests per second through the third node.
    #[arg(long, default_value_t = 1_000.0)]
    rate: f64,
    /// Seconds of load without a quorum.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Services at zero; the third node owns about a third of them.
    #[arg(long, default_value_t = 24)]
    cold_services: usize,
}

/// A request for a service at zero.
#[derive(Debug)]
struct Cold {
    /// Its owner lives on the third node.
    is_owned: bool,
    /// 0 = no answer.
    status: u16,
    was_cold: bool,
    says_when: bool,
    took: Duration,
}

pub(crate) async fn run(common: &Common, args: &QuorumLossArgs) -> anyhow::Result<Report> {
    let lasts = Duration::from_secs(args.seconds);
    if lasts <= LOST {
        bail!("cold requests begin {} s after the kill", LOST.as_secs());
    }
    let mut report = Report::new("quorumloss");
    report.setting("rate", args.rate);
    report.setting("seconds", args.seconds);
    report.setting("cold_services", args.cold_services);
    let cluster = Cluster::start(common.plan(3)?).await?;
    let colds: Vec<_> = (1..=args.cold_services)
        .map(|n| format!("cold-{n}"))
        .collect();
    deploy(&cluster, &colds).await?;
    let third = third(&cluster).await?;
    let gateway = cluster.gateway(third)?;
    let load = Steady::start(&[gateway], &host_of(WEB), args.rate);
    let begun = Instant::now();
    tokio::time::sleep(CALM).await;
    say(format!("only {} stays", cluster.configs[third].name));
    let killed = Instant::now();
    for (node, pid) in cluster.pids()?.into_iter().enumerate() {
        if node != third {
            proc::kill(pid.cast_unsigned())?;
        }
    }
    tokio::time::sleep(LOST).await;
    let cold = ask_cold(&cluster, third, gateway, &colds).await?;
    tokio::time::sleep(lasts.saturating_sub(killed.elapsed())).await;
    let ended = Instant::now();
    let ledger = load.finish()?;
    let windows = [ledger.between(begun, killed), ledger.between(killed, ended)];
    fill_load(&mut report, &windows);
    fill_cold(&mut report, &cold);
    Ok(report)
}

async fn deploy(cluster: &Cluster, colds: &[String]) -> anyhow::Result<()> {
    let app = program(&built("nihilo-bench-app")?);
    let services: Vec<_> = colds.iter().map(|name| service(name, &app, &[])).collect();
    cluster.deploy(&services).await?;
    cluster.until_at_zero().await?;
    let web = service(WEB, &app, &[]);
    let web = with_scale(web, "min-scale", &N_INSTANCES.to_string());
    cluster.deploy(&[web]).await?;
    cluster.until_ready(WEB, N_INSTANCES).await
}

/// A node that runs an instance, if possible one that does not lead: then the leader goes as well.
async fn third(cluster: &Cluster) -> anyhow::Result<usize> {
    let leader = cluster.leader().await?.name;
    let instances = cluster.client.instances(None, WEB).await?.items;
    let name = |node: &usize| &cluster.configs[*node].name;
    let hosts = |node: &usize| {
        let mut ready = instances.iter().filter(|i| i.state == "Ready");
        ready.any(|instance| instance.node == *name(node))
    };
    let hosting = (0..cluster.configs.len()).filter(hosts);
    // False comes before true.
    let third = hosting.min_by_key(|node| *name(node) == leader);
    third.context("no node runs an instance")
}

async fn ask_cold(
    cluster: &Cluster,
    third: usize,
    gateway: SocketAddr,
    colds: &[String],
) -> anyhow::Result<Vec<Cold>> {
    let admin = cluster.configs[third].admin_address();
    let client = Client::connect_lazy(vec![admin])?.with_timeout(ASK_LIMIT);
    let is_owned = join_all(colds.iter().map(|name| has_owner(&client, name))).await;
    let n_owned = is_owned.iter().filter(|is_owned| **is_owned).count();
    say(format!(
        "{n_owned} of {} services have an owner",
        colds.len()
    ));
    let asked = colds.iter().zip(is_owned);
    // All at once: one that is never answered must not keep the others from their turn.
    tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            let asking: Vec<_> = asked
                .map(|(name, is_owned)| scope.spawn(move || ask(gateway, name, is_owned)))
                .collect();
            let answers = asking.into_iter().map(|asking| asking.join());
            let answers = answers.map(|cold| cold.map_err(|_| anyhow!("a client panicked")));
            answers.collect()
        })
    })
}

/// The owner of a revision answers why it wants what it wants, or that it has not decided anything;
/// no quorum is needed for that.
async fn has_owner(client: &Client, service: &str) -> bool {
    // The first of each service, as its Configuration names them.
    let revision = format!("{service}-00001");
    match client.explain(NAMESPACE, &revision).await {
        Ok(_) => true,
        Err(error) => error.is_not_found(),
    }
}

fn ask(gateway: SocketAddr, name: &str, is_owned: bool) -> Cold {
    let started = Instant::now();
    let answer = Connection::open(gateway)
        .and_then(|mut connection| connection.exchange(&get(&host_of(name))));
    let took = started.elapsed();
    match answer {
        Ok(answer) => Cold {
            is_owned,
            status: answer.status,
            was_cold: answer.header("nihilo-start") == "cold",
            says_when: !answer.header("retry-after").is_empty(),
            took,
        },
        Err(error) => {
            say(format!("{name}: {error}"));
            Cold {
                is_owned,
                status: 0,
                was_cold: false,
                says_when: false,
                took,
            }
        }
    }
}

fn fill_load(report: &mut Report, windows: &[Window; 2]) {
    let [before, after] = windows;
    let title = "Warm requests through the third node";
    let mut table = Table::new(title, &Window::COLUMNS);
    table.row(before.row("three nodes"));
    table.row(after.row("two of them killed"));
    report.tables.push(table);
    report.figure("requests", after.n);
    report.figure("failed", after.n_failed);
    report.figure("asked_again", after.n_again);
    report.figure("p99_ms", after.latency_ms.quantile(0.99));
    report.figure("max_ms", after.latency_ms.quantile(1.0));
    report.verdict(
        "two nodes killed: 0 failed warm requests through the third (goal P14)",
        after.failures(),
        after.n > 0 && after.n_failed == 0,
    );
}

fn fill_cold(report: &mut Report, all: &[Cold]) {
    let columns = [
        "owner", "requests", "200 cold", "503", "else", "p50 ms", "max ms",
    ];
    let mut table = Table::new("Cold requests without a quorum", &columns);
    for (owner, is_owned) in [("on the third node", true), ("dead", false)] {
        let these = || all.iter().filter(move |cold| cold.is_owned == is_owned);
        let n_served = these().filter(|cold| cold.is_served()).count();
        let n_refused = these().filter(|cold| cold.status == 503).count();
        let took = Samples::new(these().map(|cold| milliseconds(cold.took)));
        table.row([
            owner.into(),
            these().count().to_string(),
            n_served.to_string(),
            n_refused.to_string(),
            (these().count() - n_served - n_refused).to_string(),
            format!("{:.1}", took.quantile(0.5)),
            format!("{:.1}", took.quantile(1.0)),
        ]);
    }
    report.tables.push(table);
    let owned = || all.iter().filter(|cold| cold.is_owned);
    let (n_owned, n_served) = (
        owned().count(),
        owned().filter(|cold| cold.is_served()).count(),
    );
    report.figure("cold_owned", n_owned);
    report.figure("cold_served", n_served);
    report.verdict(
        "cold starts work for revisions whose owner lives on the third node",
        format!("{n_served} of {n_owned}"),
        n_owned > 0 && n_served == n_owned,
    );
    let rest = || all.iter().filter(|cold| !cold.is_owned);
    let n_told = rest().filter(|cold| cold.is_refused_in_time()).count();
    report.verdict(
        "the others get 503 with Retry-After within 2 s",
        format!("{n_told} of {}", rest().count()),
        n_told == rest().count(),
    );
}

impl Cold {
    fn is_served(&self) -> bool {
        self.status == 200 && self.was_cold
    }

    fn is_refused_in_time(&self) -> bool {
        self.status == 503 && self.says_when && self.took <= REFUSAL_LIMIT
    }
}
