//! Warm requests through the gateway, nginx and HAProxy, all in one run.
//!
//! Generator and upstream on core 0, the proxy under test alone on core 1. What counts is the CPU
//! time of the proxy per request, by the kernel's own account; latency comes from open loops.

mod contestant;

use std::time::Duration;

use anyhow::bail;

use self::contestant::{Contestant, contestants};
use crate::Common;
use crate::figures::{Samples, ratios};
use crate::load::{self, Load, Outcome};
use crate::proc::Stolen;
use crate::report::{Report, Table, spread_text};
use crate::say;

const GENERATOR_CORE: usize = 0;
const PROXY_CORE: usize = 1;
/// A round in which the hypervisor took more than this is measured again.
const MAX_STOLEN: f64 = 0.01;
/// Of the slowest contestant's peak: the load under which latencies are compared.
const HEAVY: f64 = 0.7;
const WARM_UP: Duration = Duration::from_secs(2);
const NIHILO: &str = "nihilo";

#[derive(Debug, clap::Args)]
pub(crate) struct GatewayArgs {
    /// Rounds; each measures every contestant once.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Seconds of each measurement; a contestant has three in a round.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Requests per second of the light load.
    #[arg(long, default_value_t = 2_000.0)]
    rate: f64,
    #[arg(long, default_value_t = 1_024)]
    body_bytes: u16,
}

/// One contestant in one round.
#[derive(Debug, Clone)]
struct Sample {
    light: Measured,
    heavy: Measured,
    peak: Measured,
}

#[derive(Debug, Clone, Copy)]
struct Measured {
    rate: f64,
    p50_us: f64,
    p99_us: f64,
    /// Of all threads of the proxy, and of those that carry requests.
    cpu_us: f64,
    data_cpu_us: f64,
    stolen: f64,
}

pub(crate) async fn run(common: &Common, args: &GatewayArgs) -> anyhow::Result<Report> {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        bail!("one core is for the generator and one for the proxy: this machine has only one");
    }
    let mut report = Report::new("gateway");
    report.setting("rounds", args.rounds);
    report.setting("seconds", args.seconds);
    report.setting("connections", args.connections);
    report.setting("light_rate", args.rate);
    report.setting("body_bytes", args.body_bytes);
    let all = contestants(common, args.body_bytes, &mut report).await?;
    for contestant in &all {
        let (name, ms) = (contestant.name, contestant.idle_cpu_ms(WARM_UP)?);
        report.figure(&format!("{name}_idle_cpu_ms_per_s"), ms);
    }
    let heavy_rate = HEAVY * slowest_peak(&all, args)?;
    report.setting("heavy_rate", heavy_rate.round());
    let (rounds, n_dropped) = measure_rounds(&all, args, heavy_rate)?;
    report.setting("rounds_dropped_for_steal", n_dropped);
    fill(&mut report, &all, &rounds);
    Ok(report)
}

/// Also warms every one of them up.
fn slowest_peak(all: &[Contestant], args: &GatewayArgs) -> anyhow::Result<f64> {
    let mut slowest = f64::INFINITY;
    for contestant in all {
        let outcome = load::closed(&contestant.load(args.connections, WARM_UP))?;
        let rate = outcome.must_be_whole(contestant.name)?.rate();
        say(format!("{}: about {rate:.0} requests/s", contestant.name));
        if contestant.is_proxy() {
            slowest = slowest.min(rate);
        }
    }
    Ok(slowest)
}

/// Every contestant once a round, each round beginning with another one.
fn measure_rounds(
    all: &[Contestant],
    args: &GatewayArgs,
    heavy_rate: f64,
) -> anyhow::Result<(Vec<Vec<Sample>>, usize)> {
    let (mut rounds, mut n_dropped) = (Vec::new(), 0);
    // A machine that is stolen from all the time gets its rounds all the same, marked as such.
    while rounds.len() < args.rounds {
        let mut samples = vec![None; all.len()];
        for k in 0..all.len() {
            let turn = (k + rounds.len() + n_dropped) % all.len();
            samples[turn] = Some(sample(&all[turn], args, heavy_rate)?);
        }
        let samples: Vec<Sample> = samples.into_iter().flatten().collect();
        let stolen = samples.iter().map(Sample::stolen).fold(0.0, f64::max);
        if stolen > MAX_STOLEN && n_dropped < args.rounds {
            n_dropped += 1;
            say(format!("round dropped: {:.1} % stolen", stolen * 100.0));
            continue;
        }
        rounds.push(samples);
        let cpu = all.iter().zip(&rounds[rounds.len() - 1]);
        let cpu = cpu.map(|(who, s)| format!("{} {:.1}", who.name, s.light.cpu_us));
        let cpu = cpu.collect::<Vec<_>>().join(", ");
        say(format!(
            "round {} of {}: CPU-µs {cpu}",
            rounds.len(),
            args.rounds
        ));
    }
    Ok((rounds, n_dropped))
}

fn sample(who: &Contestant, args: &GatewayArgs, heavy_rate: f64) -> anyhow::Result<Sample> {
    let load = who.load(args.connections, Duration::from_secs(args.seconds));
    Ok(Sample {
        light: measured(who, || load::open(&load, args.rate))?,
        heavy: measured(who, || load::open(&load, heavy_rate))?,
        peak: measured(who, || load::closed(&load))?,
    })
}

fn measured(
    who: &Contestant,
    load: impl FnOnce() -> anyhow::Result<Outcome>,
) -> anyhow::Result<Measured> {
    let (cpu, stolen) = (who.cpu()?, Stolen::now()?);
    let outcome = load()?.must_be_whole(who.name)?;
    let (cpu_after, stolen_after) = (who.cpu()?, Stolen::now()?);
    let per_request = |us: f64| us / outcome.n_answered.max(1) as f64;
    Ok(Measured {
        rate: outcome.rate(),
        p50_us: outcome.latency_us(0.5),
        p99_us: outcome.latency_us(0.99),
        cpu_us: per_request(who.cpu_us(&cpu, &cpu_after, None)),
        data_cpu_us: per_request(who.cpu_us(&cpu, &cpu_after, who.data_thread)),
        stolen: stolen_after.share_since(stolen),
    })
}

impl Sample {
    fn stolen(&self) -> f64 {
        let all = [self.light, self.heavy, self.peak];
        all.iter().map(|m| m.stolen).fold(0.0, f64::max)
    }
}

impl Contestant {
    fn load(&self, n_connections: usize, lasts: Duration) -> Load {
        Load {
            address: self.address,
            host: self.host.clone(),
            n_connections,
            lasts,
            core: GENERATOR_CORE,
        }
    }
}

/// A column of the tables: its name, its key in the JSON, its decimals, and where it comes from.
type Column = (&'static str, &'static str, usize, fn(&Sample) -> f64);

const COLUMNS: [Column; 9] = [
    ("CPU-µs, light", "light_cpu_us", 1, |s| s.light.cpu_us),
    ("data threads", "light_data_cpu_us", 1, |s| {
        s.light.data_cpu_us
    }),
    ("p50 µs", "light_p50_us", 0, |s| s.light.p50_us),
    ("p99 µs", "light_p99_us", 0, |s| s.light.p99_us),
    ("CPU-µs, heavy", "heavy_cpu_us", 1, |s| s.heavy.cpu_us),
    ("p50 µs", "heavy_p50_us", 0, |s| s.heavy.p50_us),
    ("p99 µs", "heavy_p99_us", 0, |s| s.heavy.p99_us),
    ("peak req/s", "peak_rate", 0, |s| s.peak.rate),
    ("CPU-µs, peak", "peak_cpu_us", 1, |s| s.peak.cpu_us),
];

fn fill(report: &mut Report, all: &[Contestant], rounds: &[Vec<Sample>]) {
    let values = |who: usize, of: fn(&Sample) -> f64| -> Vec<f64> {
        rounds.iter().map(|round| of(&round[who])).collect()
    };
    let heads: Vec<_> = [""]
        .into_iter()
        .chain(COLUMNS.map(|column| column.0))
        .collect();
    let mut table = Table::new("Medians over the rounds (min–max)", &heads);
    for (i, who) in all.iter().enumerate() {
        let cells = COLUMNS.map(|(_, key, decimals, of)| {
            let samples = Samples::new(values(i, of));
            let key = format!("{}_{key}", who.name);
            report.figure(&key, serde_json::json!(samples.spread()));
            spread_text(samples.spread(), decimals)
        });
        table.row([who.name.to_owned()].into_iter().chain(cells));
    }
    report.tables.push(table);
    let Some(ours) = all.iter().position(|who| who.name == NIHILO) else {
        return;
    };
    let mut table = Table::new("Nihilo ÷ other, by round: medians (min–max)", &heads);
    for (i, who) in all.iter().enumerate().filter(|(_, who)| who.is_proxy()) {
        if i == ours {
            continue;
        }
        let ratio = |of| ratios(&values(ours, of), &values(i, of)).spread();
        let cells = COLUMNS.map(|(_, _, _, of)| spread_text(ratio(of), 2));
        table.row([who.name.to_owned()].into_iter().chain(cells));
        let (cpu, p99) = (ratio(|s| s.light.cpu_us), ratio(|s| s.heavy.p99_us));
        report.figure(&format!("cpu_over_{}", who.name), serde_json::json!(cpu));
        report.figure(&format!("p99_over_{}", who.name), serde_json::json!(p99));
        let (goal, spread, limit) = match who.name {
            "nginx" => ("CPU per request ≤ 1.0 × nginx (goal P9)", cpu, 1.0),
            _ => (
                "p99 at 70 % of the slowest peak ≤ 1.1 × HAProxy (goal P10)",
                p99,
                1.1,
            ),
        };
        let reached = spread.median <= limit;
        report.verdict(goal, format!("{} ×", spread_text(spread, 2)), reached);
    }
    report.tables.push(table);
}
