//! From an app's `listen()` to the node that sees it, and to the request that waits for it, by how
//! long the app takes to boot. The app itself tells both times.

use std::net::SocketAddr;

use anyhow::Context;

use crate::cluster::{Cluster, host_of, program, service};
use crate::cold::request;
use crate::figures::Samples;
use crate::http::Answer;
use crate::report::{Report, Table};
use crate::{Common, built, say};

/// At the median, of boots shorter than [`SHORT_BOOT_MS`].
const GOAL_MS: f64 = 1.0;
/// Looks are further apart in longer ones, as a part of the boot.
const SHORT_BOOT_MS: u64 = 1_000;

#[derive(Debug, clap::Args)]
pub(crate) struct ReadinessArgs {
    /// Cold requests for each time to boot.
    #[arg(long, default_value_t = 30)]
    rounds: usize,
    /// Milliseconds before the app listens.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 10, 100, 400, 2_000])]
    boot_ms: Vec<u64>,
}

/// Of one cold request, in milliseconds since the app listened.
#[derive(Debug)]
struct Sample {
    dialled: f64,
    served: f64,
}

pub(crate) async fn run(common: &Common, args: &ReadinessArgs) -> anyhow::Result<Report> {
    let mut report = Report::new("readiness");
    report.setting("rounds", args.rounds);
    let app = built("nihilo-bench-app")?;
    let cluster = Cluster::start(common.plan(1)?).await?;
    let name = |boot_ms: &u64| format!("boot-{boot_ms}");
    let services: Vec<_> = (args.boot_ms.iter())
        .map(|boot_ms| {
            let env = [("BOOT_MS", boot_ms.to_string())];
            service(&name(boot_ms), &program(&app), &env)
        })
        .collect();
    cluster.deploy(&services).await?;
    let gateway = cluster.gateway(0)?;
    let mut samples: Vec<Vec<Sample>> = args.boot_ms.iter().map(|_| Vec::new()).collect();
    for round in 1..=args.rounds {
        cluster.until_at_zero().await?;
        for (boot_ms, samples) in args.boot_ms.iter().zip(&mut samples) {
            samples.push(sample(gateway, &host_of(&name(boot_ms)))?);
        }
        say(format!("{round} of {} rounds", args.rounds));
    }
    fill(&mut report, &args.boot_ms, &samples);
    Ok(report)
}

fn sample(gateway: SocketAddr, host: &str) -> anyhow::Result<Sample> {
    let (_, answer) = request(gateway, host)?;
    anyhow::ensure!(
        answer.header("nihilo-start") == "cold",
        "{host} was not at zero"
    );
    Ok(Sample {
        dialled: told(&answer, "x-dialled-us")?,
        served: told(&answer, "x-served-us")?,
    })
}

fn told(answer: &Answer, field: &str) -> anyhow::Result<f64> {
    let text = answer.header(field);
    let us: f64 = text.parse().with_context(|| format!("`{field}: {text}`"))?;
    Ok(us / 1e3)
}

fn fill(report: &mut Report, boots: &[u64], samples: &[Vec<Sample>]) {
    let columns = [
        "boot ms",
        "seen ms p50",
        "p99",
        "first request ms p50",
        "p99",
    ];
    let mut table = Table::new("After the app listens", &columns);
    let mut worst: f64 = 0.0;
    for (boot_ms, samples) in boots.iter().zip(samples) {
        let of = |value: fn(&Sample) -> f64| Samples::new(samples.iter().map(value));
        let (dialled, served) = (of(|sample| sample.dialled), of(|sample| sample.served));
        let figures = [
            dialled.quantile(0.5),
            dialled.quantile(0.99),
            served.quantile(0.5),
            served.quantile(0.99),
        ];
        let cells = figures.map(|figure| format!("{figure:.2}"));
        table.row([boot_ms.to_string()].into_iter().chain(cells));
        let [seen_p50, seen_p99, served_p50, served_p99] = figures;
        let figure = serde_json::json!({
            "seen_p50": seen_p50, "seen_p99": seen_p99,
            "first_request_p50": served_p50, "first_request_p99": served_p99,
        });
        report.figure(&format!("boot_{boot_ms}_ms"), figure);
        if *boot_ms < SHORT_BOOT_MS {
            worst = worst.max(seen_p50);
        }
    }
    report.tables.push(table);
    report.verdict(
        "seen ≤ 1 ms after listen() in the median, of boots below 1 s",
        format!("{worst:.2} ms at the worst"),
        worst <= GOAL_MS,
    );
}
