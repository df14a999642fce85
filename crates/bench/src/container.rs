//! A request that wakes a container, beside create and start of the same image by the same API, in
//! turn.
//!
//! The anchor is what `docker create` and `docker start` ask of the engine, to the first 200 at the
//! container's own address. Each cold request goes to another service, as in `cold`.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::RemoveContainerOptionsBuilder;
use bollard::{API_DEFAULT_VERSION, Docker};

use crate::cluster::{Cluster, host_of, service};
use crate::cold::request;
use crate::figures::{Samples, milliseconds, ratios};
use crate::http::{Connection, get};
use crate::report::{Report, Table, spread_text};
use crate::stages::{self, Stages};
use crate::{Common, built, say};

/// Of create and start by hand, at the median of the pairs.
const GOAL: f64 = 1.05;
/// Between two looks at whether the anchor listens: much finer than what is measured.
const LOOK_EVERY: Duration = Duration::from_micros(100);
const START_LIMIT: Duration = Duration::from_secs(30);
const PORT: u16 = 8080;

#[derive(Debug, clap::Args)]
pub(crate) struct ContainerArgs {
    /// Pairs of a start by hand and a cold request.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Services that are woken in turn; between two batches of them all go back to zero.
    #[arg(long, default_value_t = 5)]
    services: usize,
    /// The engine's socket.
    #[arg(long, default_value = "/var/run/docker.sock")]
    socket: String,
}

pub(crate) async fn run(common: &Common, args: &ContainerArgs) -> anyhow::Result<Report> {
    let mut report = Report::new("container");
    report.setting("rounds", args.rounds);
    report.setting("services", args.services);
    let engine = engine(&args.socket).await?;
    let version = engine.version().await?.version.unwrap_or_default();
    report.setting("engine", version);
    let image = Image::pack(&built("nihilo-bench-app")?)?;
    let pairs = measure(common, args, &engine, &image.0).await?;
    fill(&mut report, &pairs);
    Ok(report)
}

async fn engine(socket: &str) -> anyhow::Result<Docker> {
    let engine = Docker::connect_with_unix(socket, START_LIMIT.as_secs(), API_DEFAULT_VERSION)?;
    let engine = engine.negotiate_version().await;
    engine.with_context(|| format!("no Docker engine answers at `{socket}`"))
}

/// Removed when dropped.
#[derive(Debug)]
struct Image(String);

impl Image {
    /// The app as an image's only program, with the libraries that it needs.
    fn pack(app: &Path) -> anyhow::Result<Self> {
        let image = Self(format!("nihilo-bench:{}", std::process::id()));
        let packed = Command::new("cargo")
            .args(["xtask", "image", "--tag", &image.0, "--binary"])
            .arg(app)
            .status();
        if !packed
            .context("`cargo xtask image` does not start")?
            .success()
        {
            bail!("`cargo xtask image` made no image");
        }
        Ok(image)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // What was never made cannot be removed.
        drop(
            Command::new("docker")
                .args(["image", "rm", "--force", &self.0])
                .output(),
        );
    }
}

/// One pair, in milliseconds.
#[derive(Debug)]
struct Pair {
    by_hand: f64,
    cold: f64,
    stages: Stages,
}

async fn measure(
    common: &Common,
    args: &ContainerArgs,
    engine: &Docker,
    image: &str,
) -> anyhow::Result<Vec<Pair>> {
    // One node, so that no other one's work is in the way of either.
    let cluster = Cluster::start(common.plan(1)?).await?;
    let names: Vec<_> = (1..=args.services).map(|n| format!("boxed-{n}")).collect();
    let services: Vec<_> = names.iter().map(|name| service(name, image, &[])).collect();
    cluster.deploy(&services).await?;
    let mut pairs = Vec::new();
    while pairs.len() < args.rounds {
        cluster.until_at_zero().await?;
        for name in names.iter().take(args.rounds - pairs.len()) {
            // First by turns, so that neither always finds the engine as the other left it.
            let hand_first = pairs.len() % 2 == 0;
            let early = match hand_first {
                true => Some(by_hand(engine, image).await?),
                false => None,
            };
            let (cold, stages) = cold(&cluster, name)?;
            let by_hand = match early {
                Some(early) => early,
                None => by_hand(engine, image).await?,
            };
            pairs.push(Pair {
                by_hand,
                cold,
                stages,
            });
        }
        say(format!("{} of {} rounds", pairs.len(), args.rounds));
    }
    Ok(pairs)
}

fn cold(cluster: &Cluster, service: &str) -> anyhow::Result<(f64, Stages)> {
    let gateway = cluster.gateway(0)?;
    let (took, answer) = tokio::task::block_in_place(|| request(gateway, &host_of(service)))?;
    if answer.header("nihilo-start") != "cold" {
        bail!("{service} was not at zero");
    }
    let cold = milliseconds(took);
    Ok((cold, Stages::of(&answer, cold)?))
}

/// From before create to the last byte of the first answer.
async fn by_hand(engine: &Docker, image: &str) -> anyhow::Result<f64> {
    let asked = ContainerCreateBody {
        image: Some(image.to_owned()),
        env: Some(vec![format!("PORT={PORT}"), "HOST=0.0.0.0".into()]),
        ..ContainerCreateBody::default()
    };
    let started = Instant::now();
    let id = engine.create_container(None, asked).await?.id;
    let took = answered(engine, &id, started).await;
    let options = RemoveContainerOptionsBuilder::new().force(true).build();
    engine.remove_container(&id, Some(options)).await?;
    Ok(milliseconds(took?))
}

async fn answered(engine: &Docker, id: &str, started: Instant) -> anyhow::Result<Duration> {
    engine.start_container(id, None).await?;
    let inspected = engine.inspect_container(id, None).await?;
    let networks = inspected.network_settings.and_then(|of| of.networks);
    let mut addresses = networks.into_iter().flatten();
    let address = addresses.find_map(|(_, endpoint)| endpoint.ip_address?.parse().ok());
    let address: IpAddr = address.context("the container has no address")?;
    let address = SocketAddr::new(address, PORT);
    tokio::task::block_in_place(|| first_answer(address, started))
}

fn first_answer(address: SocketAddr, started: Instant) -> anyhow::Result<Duration> {
    let request = get("by-hand");
    while started.elapsed() < START_LIMIT {
        if let Ok(mut connection) = Connection::open(address) {
            let answer = connection.exchange(&request)?;
            if answer.status != 200 {
                bail!("the app answered {}", answer.status);
            }
            return Ok(started.elapsed());
        }
        std::thread::sleep(LOOK_EVERY);
    }
    bail!("nothing listens on {address}")
}

fn fill(report: &mut Report, pairs: &[Pair]) {
    let of = |value: fn(&Pair) -> f64| -> Vec<f64> { pairs.iter().map(value).collect() };
    let (by_hand, cold) = (of(|pair| pair.by_hand), of(|pair| pair.cold));
    let ratio = ratios(&cold, &by_hand).spread();
    let columns = ["milliseconds", "p50", "p90", "min–max"];
    let mut table = Table::new("Cold requests beside containers started by hand", &columns);
    let rows = [
        ("create + start → first 200", "by_hand_ms", by_hand),
        ("cold request", "cold_ms", cold),
    ];
    for (what, key, values) in rows {
        let samples = Samples::new(values);
        let (p50, p90) = (samples.quantile(0.5), samples.quantile(0.9));
        let spread = samples.spread();
        let range = format!("{:.1}–{:.1}", spread.min, spread.max);
        table.row([what.into(), format!("{p50:.1}"), format!("{p90:.1}"), range]);
        report.figure(key, serde_json::json!({"p50": p50, "p90": p90}));
    }
    report.tables.push(table);
    report.figure("ratio", ratio.median);
    report.verdict(
        "cold ≤ 1.05 × create + start, by pair",
        format!("{} over {} pairs", spread_text(ratio, 2), pairs.len()),
        ratio.median <= GOAL,
    );
    stages::fill(
        report,
        &pairs.iter().map(|pair| pair.stages).collect::<Vec<_>>(),
    );
}
