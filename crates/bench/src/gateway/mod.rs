//! Warm requests through the gateway, nginx and HAProxy, all in one run.
//!
//! Generator and upstream on core 0, the proxy under test alone on core 1. What counts is the CPU
//! time of the proxy per request, by the kernel's own account; latency comes from open loops. The
//! matrix has HTTP/1.1 and HTTP/2 towards the client, small and large answers, few and many routes;
//! towards the app all speak HTTP/1.1.

mod cell;
mod contestant;
mod nihilo;
mod proxies;
mod tables;

use std::time::Duration;

use anyhow::bail;

use self::cell::{Body, Cell};
use self::contestant::{Contestant, contestants};
use crate::load::{self, Load, Outcome, Protocol};
use crate::proc::Stolen;
use crate::report::Report;
use crate::{Common, say};

const GENERATOR_CORE: usize = 0;
const PROXY_CORE: usize = 1;
/// A round in which the hypervisor took more than this is measured again.
const MAX_STOLEN: f64 = 0.01;
/// Of the slowest contestant's peak: the load under which latencies are compared.
const HEAVY: f64 = 0.7;
const WARM_UP: Duration = Duration::from_secs(1);
/// Fewer would leave the services of the apps without a route.
const MIN_ROUTES: usize = Body::ALL.len();
const NIHILO: &str = "nihilo";

#[derive(Debug, clap::Args)]
pub(crate) struct GatewayArgs {
    /// Between the client and the proxy.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "h1,h2")]
    protocol: Vec<Protocol>,
    /// How long an answer is.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "1k,64k")]
    body: Vec<Body>,
    /// Hosts that a proxy knows; with several numbers each proxy runs once with each.
    #[arg(long, value_delimiter = ',', default_value = "10,100000")]
    routes: Vec<usize>,
    /// Rounds; each measures every contestant once.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each measurement; a contestant has three in a round.
    #[arg(long, default_value_t = 1)]
    seconds: u64,
    /// Requests under way at most.
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Requests per second of the light load.
    #[arg(long, default_value_t = 2_000.0)]
    rate: f64,
}

/// What one cell of the matrix has given.
#[derive(Debug)]
struct Measurement<'a> {
    cell: Cell,
    all: Vec<&'a Contestant>,
    heavy_rate: f64,
    /// By round, then as `all`.
    rounds: Vec<Vec<Sample>>,
    n_dropped: usize,
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
    if args.routes.iter().any(|n| *n < MIN_ROUTES) {
        bail!("at least {MIN_ROUTES} routes are needed");
    }
    let mut report = Report::new("gateway");
    report.setting("rounds", args.rounds);
    report.setting("seconds", args.seconds);
    report.setting("connections", args.connections);
    report.setting("light_rate", args.rate);
    let all = contestants(common, &args.routes, &mut report).await?;
    for contestant in &all {
        let ms = contestant.idle_cpu_ms(WARM_UP)?;
        report.figure(&format!("{}_idle_cpu_ms_per_s", contestant.key()), ms);
    }
    for cell in Cell::all(&args.protocol, &args.body) {
        say(cell.label());
        let measurement = measure(&all, cell, args)?;
        tables::fill(&mut report, &measurement);
    }
    Ok(report)
}

fn measure<'a>(
    all: &'a [Contestant],
    cell: Cell,
    args: &GatewayArgs,
) -> anyhow::Result<Measurement<'a>> {
    let lasts = Duration::from_secs(args.seconds);
    let loads: Vec<_> = all
        .iter()
        .filter_map(|who| Some((who, who.load(cell, args.connections, lasts)?)))
        .collect();
    let heavy_rate = HEAVY * slowest_peak(&loads)?;
    let (rounds, n_dropped) = measure_rounds(&loads, args, heavy_rate)?;
    Ok(Measurement {
        cell,
        all: loads.iter().map(|(who, _)| *who).collect(),
        heavy_rate,
        rounds,
        n_dropped,
    })
}

/// Also warms every one of them up.
fn slowest_peak(all: &[(&Contestant, Load)]) -> anyhow::Result<f64> {
    let mut slowest = f64::INFINITY;
    for (contestant, load) in all {
        let lasts = WARM_UP;
        let outcome = load::closed(&Load {
            lasts,
            ..load.clone()
        })?;
        let label = contestant.label();
        let rate = outcome.must_be_whole(&label)?.rate();
        say(format!("{label}: about {rate:.0} requests/s"));
        if contestant.is_proxy() {
            slowest = slowest.min(rate);
        }
    }
    Ok(slowest)
}

/// Every contestant once a round, each round beginning with another one.
fn measure_rounds(
    all: &[(&Contestant, Load)],
    args: &GatewayArgs,
    heavy_rate: f64,
) -> anyhow::Result<(Vec<Vec<Sample>>, usize)> {
    let (mut rounds, mut n_dropped) = (Vec::new(), 0);
    // A machine that is stolen from all the time gets its rounds all the same, marked as such.
    while rounds.len() < args.rounds {
        let mut samples = vec![None; all.len()];
        for k in 0..all.len() {
            let turn = (k + rounds.len() + n_dropped) % all.len();
            let (who, load) = &all[turn];
            samples[turn] = Some(sample(who, load, args.rate, heavy_rate)?);
        }
        let samples: Vec<Sample> = samples.into_iter().flatten().collect();
        let stolen = samples.iter().map(Sample::stolen).fold(0.0, f64::max);
        if stolen > MAX_STOLEN && n_dropped < args.rounds {
            n_dropped += 1;
            say(format!("round dropped: {:.1} % stolen", stolen * 100.0));
            continue;
        }
        say(progress(all, &samples, rounds.len() + 1, args.rounds));
        rounds.push(samples);
    }
    Ok((rounds, n_dropped))
}

fn progress(all: &[(&Contestant, Load)], samples: &[Sample], n: usize, rounds: usize) -> String {
    let cpu = all.iter().zip(samples);
    let cpu = cpu.map(|((who, _), s)| format!("{} {:.1}", who.label(), s.light.cpu_us));
    let cpu = cpu.collect::<Vec<_>>().join("; ");
    format!("round {n} of {rounds}: CPU-µs {cpu}")
}

fn sample(
    who: &Contestant,
    load: &Load,
    light_rate: f64,
    heavy_rate: f64,
) -> anyhow::Result<Sample> {
    Ok(Sample {
        light: measured(who, || load::open(load, light_rate))?,
        heavy: measured(who, || load::open(load, heavy_rate))?,
        peak: measured(who, || load::closed(load))?,
    })
}

fn measured(
    who: &Contestant,
    load: impl FnOnce() -> anyhow::Result<Outcome>,
) -> anyhow::Result<Measured> {
    let (cpu, stolen) = (who.cpu()?, Stolen::now()?);
    let outcome = load()?.must_be_whole(&who.label())?;
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
