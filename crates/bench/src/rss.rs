//! Memory of nodes whose services all sleep.

use crate::cluster::{Cluster, program, service};
use crate::figures::Samples;
use crate::proc::Memory;
use crate::report::{Report, Table};
use crate::{Common, built, say};

const GOAL_MB: f64 = 80.0;
/// The goal is for this many services.
const GOAL_SERVICES: usize = 10;
const KIB_PER_MB: f64 = 1e6 / 1024.0;

#[derive(Debug, clap::Args)]
pub(crate) struct RssArgs {
    /// Services, each woken once by its creation and then at zero.
    #[arg(long, default_value_t = GOAL_SERVICES)]
    services: usize,
}

pub(crate) async fn run(common: &Common, args: &RssArgs) -> anyhow::Result<Report> {
    let mut report = Report::new("rss");
    report.setting("services", args.services);
    report.setting("nodes", 3);
    let app = built("nihilo-bench-app")?;
    let cluster = Cluster::start(common.plan(3)?).await?;
    let before = measure(&cluster)?;
    say(format!("creating {} services", args.services));
    let services: Vec<_> = (1..=args.services)
        .map(|n| service(&format!("idle-{n}"), &program(&app), &[]))
        .collect();
    cluster.deploy(&services).await?;
    say("waiting until all are at zero");
    cluster.until_at_zero().await?;
    let after = measure(&cluster)?;
    report.tables.push(table(&cluster, &before, &after));
    let rss = Samples::new(after.iter().map(|memory| mb(memory.rss)));
    let worst = rss.quantile(1.0);
    report.figure("rss_mb_max", worst);
    report.figure("kib_empty", serde_json::to_value(&before)?);
    report.figure("kib_idle", serde_json::to_value(&after)?);
    if args.services == GOAL_SERVICES {
        report.verdict(
            "RSS of a node with 10 idle services ≤ 80 MB",
            format!("{worst:.1} MB on the largest node"),
            worst <= GOAL_MB,
        );
    }
    Ok(report)
}

fn measure(cluster: &Cluster) -> anyhow::Result<Vec<Memory>> {
    cluster.pids()?.into_iter().map(Memory::of).collect()
}

fn mb(kib: u64) -> f64 {
    kib as f64 / KIB_PER_MB
}

fn table(cluster: &Cluster, before: &[Memory], after: &[Memory]) -> Table {
    let columns = ["node", "with", "RSS MB", "own pages", "file pages", "PSS"];
    let mut table = Table::new("Memory by node, in MB (10^6 bytes)", &columns);
    for (with, all) in [("no service", before), ("all at zero", after)] {
        for (config, memory) in cluster.configs.iter().zip(all) {
            let kib = [memory.rss, memory.anon, memory.file, memory.pss];
            let cells = kib.map(|kib| format!("{:.1}", mb(kib)));
            table.row([config.name.clone(), with.into()].into_iter().chain(cells));
        }
    }
    table
}
