//! Start of a node whose store holds many services, until it answers a linearizable read.
//!
//! A node has served from the store before, so that it holds what a node leaves behind, a snapshot
//! too. It is copied for each start: what a node does once it serves changes nothing for the next one.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::bail;
use nihilo_types::node_config::NodeConfig;
use nihilo_wire::serving::GetRequest;
use nihilo_wire::serving::serving_service_client::ServingServiceClient;
use tokio::time::Instant;

use crate::cluster::{NAMESPACE, program};
use crate::figures::Samples;
use crate::prefilled::Filling;
use crate::proc::{Memory, Running};
use crate::report::{Report, Table, spread_text};
use crate::{Common, built, say};

const GOAL_MS: f64 = 3_000.0;
const GOAL_KIB_PER_SERVICE: f64 = 3.0;
/// The goals are for this many services.
const GOAL_SERVICES: usize = 100_000;
const START_LIMIT: Duration = Duration::from_secs(120);
/// What a node does once it serves is done by then, where there is nothing to do.
const REST: Duration = Duration::from_secs(5);
/// Between two tries to read from a node that starts.
const LOOK_EVERY: Duration = Duration::from_millis(5);

#[derive(Debug, clap::Args)]
pub(crate) struct RestartArgs {
    #[arg(long, default_value_t = GOAL_SERVICES)]
    services: usize,
    #[arg(long, default_value_t = 5)]
    starts: usize,
    /// Services that are Ready, each with its host; else nobody has looked at them yet.
    #[arg(long)]
    ready: bool,
}

/// One start.
struct Start {
    lasted: Duration,
    /// Resident memory at the first answer, and after [`REST`], in KiB.
    kib: [u64; 2],
}

pub(crate) async fn run(common: &Common, args: &RestartArgs) -> anyhow::Result<Report> {
    let mut report = Report::new("restart");
    report.setting("services", args.services);
    report.setting("starts", args.starts);
    report.setting("ready", args.ready);
    let below = common.work_dir()?;
    std::fs::create_dir_all(&below)?;
    let dir = tempfile::Builder::new()
        .prefix("restart-")
        .tempdir_in(below)?;
    let nihilo = built("nihilo")?;
    let (full, empty) = (dir.path().join("full"), dir.path().join("empty"));
    let config = prepare(&full, common, args.services, args.ready)?;
    let config_empty = prepare(&empty, common, 0, args.ready)?;
    serve_once(&nihilo, &full, &config).await?;
    serve_once(&nihilo, &empty, &config_empty).await?;
    let mut starts = Vec::new();
    for n in 1..=args.starts {
        let with = start(&nihilo, &full, dir.path(), &config).await?;
        let without = start(&nihilo, &empty, dir.path(), &config_empty).await?;
        let (lasted, kib) = (with.lasted, with.kib);
        let n_starts = args.starts;
        say(format!("start {n} of {n_starts}: {lasted:?}, {kib:?} KiB"));
        starts.push((with, without));
    }
    fill(&mut report, args, &starts);
    Ok(report)
}

fn fill(report: &mut Report, args: &RestartArgs, measured: &[(Start, Start)]) {
    let starts = Samples::of_ms(measured.iter().map(|(with, _)| with.lasted));
    let per_service = |at: usize| {
        let each = measured.iter().map(|(with, without)| {
            let kib = with.kib[at].saturating_sub(without.kib[at]) as f64;
            kib / (args.services.max(1) as f64)
        });
        Samples::new(each)
    };
    let (per_service, rested) = (per_service(0), per_service(1));
    let columns = [
        "services",
        "start → read, ms",
        "resident KiB a service",
        "after 5 s",
    ];
    let mut table = Table::new("Start of one node, medians (min–max)", &columns);
    table.row([
        args.services.to_string(),
        spread_text(starts.spread(), 0),
        spread_text(per_service.spread(), 2),
        spread_text(rested.spread(), 2),
    ]);
    report.tables.push(table);
    report.figure("start_ms", serde_json::json!(starts.spread()));
    report.figure("kib_per_service", serde_json::json!(per_service.spread()));
    report.figure("kib_per_service_rested", serde_json::json!(rested.spread()));
    if args.services != GOAL_SERVICES {
        return;
    }
    let median = starts.spread().median;
    report.verdict(
        "restart with 100,000 services ≤ 3 s (goal P23)",
        format!("{median:.0} ms"),
        median <= GOAL_MS,
    );
    let median = per_service.spread().median;
    report.verdict(
        "≤ 3 KiB resident a service, right after the start (goal P16)",
        format!("{median:.2} KiB"),
        median <= GOAL_KIB_PER_SERVICE,
    );
}

/// Writes the store of one node with so many services.
fn prepare(
    dir: &Path,
    common: &Common,
    n_services: usize,
    ready: bool,
) -> anyhow::Result<NodeConfig> {
    let mut filling = Filling::begin()?;
    let app = program(&built("nihilo-bench-app")?);
    match ready {
        true => filling.add_routes(n_services, &app)?,
        false => filling.add_services(n_services, &app)?,
    }
    filling.write(dir, (common.port_offset, 0))
}

/// Starts a node on a copy of `from`.
async fn start(
    nihilo: &Path,
    from: &Path,
    below: &Path,
    config: &NodeConfig,
) -> anyhow::Result<Start> {
    let dir = tempfile::Builder::new().prefix("node-").tempdir_in(below)?;
    let copied = Command::new("cp")
        .arg("-a")
        .arg(from.join("."))
        .arg(dir.path())
        .status()?;
    if !copied.success() {
        bail!("cannot copy {}", from.display());
    }
    let (running, lasted) = first_read(nihilo, dir.path(), config).await?;
    let at_once = Memory::of(running.pid())?.rss;
    tokio::time::sleep(REST).await;
    let rested = Memory::of(running.pid())?.rss;
    let kib = [at_once, rested];
    Ok(Start { lasted, kib })
}

/// A first start from a store that was made makes a snapshot of it, as after `restore`: no later one does.
async fn serve_once(nihilo: &Path, dir: &Path, config: &NodeConfig) -> anyhow::Result<()> {
    let (running, lasted) = first_read(nihilo, dir, config).await?;
    say(format!("first start of all: {lasted:?}"));
    drop(running);
    Ok(())
}

/// Starts a node, and waits until it answers a read; the time until then.
async fn first_read(
    nihilo: &Path,
    dir: &Path,
    config: &NodeConfig,
) -> anyhow::Result<(Running, Duration)> {
    let config = NodeConfig {
        data_dir: dir.to_owned(),
        ..config.clone()
    };
    let file = dir.join("node.yaml");
    std::fs::write(&file, config.to_yaml())?;
    let mut command = Command::new(nihilo);
    command.args(["node", "start", "--config"]).arg(&file);
    let started = Instant::now();
    let mut running = Running::spawn(&mut command)?;
    let address = format!("http://{}", config.admin_address());
    loop {
        if read(&address).await {
            return Ok((running, started.elapsed()));
        }
        if running.has_ended() {
            bail!("the node has ended; its words are above");
        }
        if started.elapsed() > START_LIMIT {
            bail!("no answer in {START_LIMIT:?}");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Any answer that a linearizable read gives: that there is no such service is one.
async fn read(address: &str) -> bool {
    let Ok(mut client) = ServingServiceClient::connect(address.to_owned()).await else {
        return false;
    };
    let name = format!("namespaces/{NAMESPACE}/services/nobody");
    match client.get_service(GetRequest { name }).await {
        Ok(_) => true,
        Err(status) => status.code() == tonic::Code::NotFound,
    }
}
