//! A request that wakes a service, beside a bare spawn of the very same program, in turn.
//!
//! Pairs are interleaved: bare, cold, bare, cold … Each cold request goes to another service, so
//! that the wait for zero is shared by a batch of them.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::bail;
use nihilo_types::meta::keys;
use nihilo_types::service::Service;

use crate::cluster::{Cluster, host_of, program, service};
use crate::figures::{Samples, milliseconds};
use crate::http::{Answer, Connection, get};
use crate::proc::Running;
use crate::report::{Report, Table, spread_text};
use crate::stages::{self, Stages};
use crate::{Common, built, say};

/// Above a bare spawn, at the median.
const GOAL_MS: f64 = 5.0;
/// Between two looks at whether the bare program listens: much finer than what is measured.
const LOOK_EVERY: Duration = Duration::from_micros(100);
const BARE_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(crate) struct ColdArgs {
    /// Pairs of a bare spawn and a cold request.
    #[arg(long, default_value_t = 50)]
    rounds: usize,
    /// Services that are woken in turn; between two batches of them all go back to zero.
    #[arg(long, default_value_t = 10)]
    services: usize,
    /// Services keep their last instance frozen, so that a request has it thawed.
    #[arg(long)]
    frozen: bool,
}

/// One pair, in milliseconds.
#[derive(Debug)]
struct Pair {
    bare: f64,
    cold: f64,
    /// The same request again, on a new connection.
    warm: f64,
    stages: Stages,
    /// The instance ran on the gateway's own node.
    is_local: bool,
}

pub(crate) async fn run(common: &Common, args: &ColdArgs) -> anyhow::Result<Report> {
    let mut report = Report::new("cold");
    report.setting("rounds", args.rounds);
    report.setting("services", args.services);
    report.setting("frozen", args.frozen);
    let app = built("nihilo-bench-app")?;
    let cluster = Cluster::start(common.plan(3)?).await?;
    let names: Vec<_> = (1..=args.services).map(|n| format!("cold-{n}")).collect();
    let services: Vec<_> = names
        .iter()
        .map(|name| idle(service(name, &program(&app), &[]), args.frozen))
        .collect();
    say(format!("creating {} services", services.len()));
    cluster.deploy(&services).await?;
    let mut pairs = Vec::new();
    while pairs.len() < args.rounds {
        cluster.until_at_zero().await?;
        for name in names.iter().take(args.rounds - pairs.len()) {
            let gateway = pairs.len() % cluster.configs.len();
            pairs.push(pair(&cluster, gateway, name, &app)?);
        }
        say(progress(&pairs, args.rounds));
    }
    fill(&mut report, &pairs);
    Ok(report)
}

fn idle(mut service: Service, frozen: bool) -> Service {
    if frozen {
        let annotations = &mut service.spec.template.metadata.annotations;
        annotations.insert(keys::IDLE.into(), "freeze".into());
    }
    service
}

fn progress(pairs: &[Pair], rounds: usize) -> String {
    let median = |value: fn(&Pair) -> f64| Samples::new(pairs.iter().map(value)).quantile(0.5);
    format!(
        "{} of {rounds} rounds: bare {:.2} ms, cold {:.2} ms at the median",
        pairs.len(),
        median(|pair| pair.bare),
        median(|pair| pair.cold)
    )
}

fn pair(cluster: &Cluster, gateway: usize, service: &str, app: &Path) -> anyhow::Result<Pair> {
    let bare = milliseconds(bare_spawn(app)?);
    let address = cluster.gateway(gateway)?;
    let (cold, answer) = request(address, &host_of(service))?;
    if answer.header("nihilo-start") != "cold" {
        bail!("{service} was not at zero");
    }
    let (warm, _) = request(address, &host_of(service))?;
    Ok(Pair {
        bare,
        cold: milliseconds(cold),
        warm: milliseconds(warm),
        stages: Stages::of(&answer, milliseconds(cold))?,
        is_local: answer.header("nihilo-node") == cluster.configs[gateway].name,
    })
}

/// One request over a connection of its own, from before the connect to the last byte.
pub(crate) fn request(gateway: SocketAddr, host: &str) -> anyhow::Result<(Duration, Answer)> {
    let started = Instant::now();
    let answer = Connection::open(gateway)?.exchange(&get(host))?;
    let took = started.elapsed();
    if answer.status != 200 {
        bail!("{host} answered {}", answer.status);
    }
    Ok((took, answer))
}

/// From before the spawn to the last byte of the first answer.
fn bare_spawn(app: &Path) -> anyhow::Result<Duration> {
    let address = free_address()?;
    let mut command = Command::new(app);
    command
        .env_clear()
        .env("PORT", address.port().to_string())
        .env("HOST", address.ip().to_string())
        .stderr(Stdio::null());
    let request = get("bare");
    let started = Instant::now();
    let _process = Running::spawn(&mut command)?;
    loop {
        if let Ok(mut connection) = Connection::open(address) {
            let answer = connection.exchange(&request)?;
            let took = started.elapsed();
            if answer.status != 200 {
                bail!("the app answered {}", answer.status);
            }
            return Ok(took);
        }
        if started.elapsed() > BARE_LIMIT {
            bail!("`{}` does not listen", app.display());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Free now; nobody else on this machine is expected to take it within milliseconds.
fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?)
}

/// What is shown of pairs: its name, its key in the JSON, and where it comes from.
type Row = (&'static str, &'static str, fn(&Pair) -> f64);

const ROWS: [Row; 4] = [
    ("bare spawn → first 200", "bare_ms", |pair| pair.bare),
    ("cold request", "cold_ms", |pair| pair.cold),
    ("cold − bare, by pair", "difference_ms", |pair| {
        pair.cold - pair.bare
    }),
    ("warm request, new connection", "warm_ms", |pair| pair.warm),
];

fn fill(report: &mut Report, pairs: &[Pair]) {
    let samples = |value: fn(&Pair) -> f64| Samples::new(pairs.iter().map(value));
    let columns = ["milliseconds", "p50", "p90", "p99", "min–max"];
    let mut table = Table::new("Cold requests beside bare spawns", &columns);
    for (what, key, value) in ROWS {
        let all = samples(value);
        let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|q| all.quantile(q));
        let spread = all.spread();
        table.row([
            what.into(),
            format!("{p50:.2}"),
            format!("{p90:.2}"),
            format!("{p99:.2}"),
            format!("{:.2}–{:.2}", spread.min, spread.max),
        ]);
        report.figure(key, serde_json::json!({"p50": p50, "p90": p90, "p99": p99}));
    }
    report.tables.push(table);
    report.tables.push(by_place(pairs));
    stages::fill(
        report,
        &pairs.iter().map(|pair| pair.stages).collect::<Vec<_>>(),
    );
    let (bare, cold) = (samples(|pair| pair.bare), samples(|pair| pair.cold));
    let above = cold.quantile(0.5) - bare.quantile(0.5);
    report.figure("p50_above_bare_ms", above);
    report.verdict(
        "cold p50 ≤ bare p50 + 5 ms",
        format!("+ {above:.2} ms over {} pairs", pairs.len()),
        above <= GOAL_MS,
    );
}

fn by_place(pairs: &[Pair]) -> Table {
    let columns = [
        "instance on",
        "requests",
        "cold − bare ms, median (min–max)",
    ];
    let mut table = Table::new("By where the instance was placed", &columns);
    for (place, is_local) in [("the gateway's node", true), ("another node", false)] {
        let there = pairs.iter().filter(|pair| pair.is_local == is_local);
        let above = Samples::new(there.map(|pair| pair.cold - pair.bare));
        if above.len() > 0 {
            let spread = spread_text(above.spread(), 2);
            table.row([place.into(), above.len().to_string(), spread]);
        }
    }
    table
}
