//! Durable writes beside etcd: the same clients, the same size, the same file system, one after
//! the other in interleaved pairs, with the fsyncs of both counted.

mod clients;
mod etcd;

use std::time::Duration;

use anyhow::bail;
use nihilo_types::node_config::Profile;

use self::clients::{Target, Written};
use self::etcd::Etcd;
use crate::figures::{Samples, ratios};
use crate::lease::group::Group;
use crate::lease::node::profile;
use crate::peers::ETCD;
use crate::report::{Report, Table, spread_text};
use crate::{Common, say};

const WARM_UP: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub(crate) struct StoreArgs {
    /// Pairs for each number of clients.
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,256")]
    clients: Vec<usize>,
    /// Raft timing of ours: calm, balanced, fast, or auto. etcd keeps its defaults.
    #[arg(long, default_value = "balanced", value_parser = profile)]
    profile: Profile,
}

/// All measurements with one number of clients.
#[derive(Debug, Default)]
struct Row {
    n_clients: usize,
    ours: Vec<Written>,
    etcd: Vec<Written>,
}

pub(crate) async fn run(common: &Common, args: &StoreArgs) -> anyhow::Result<Report> {
    let mut report = Report::new("store");
    report.setting("pairs", args.pairs);
    report.setting("seconds", args.seconds);
    report.setting("value_bytes", clients::VALUE_BYTES);
    report.setting("profile", serde_json::to_value(args.profile)?);
    let etcd = ETCD.find(common.install)?;
    match &etcd {
        Some(program) => report.setting("etcd", ETCD.version(program)),
        None => report.setting("missing", ETCD.program),
    }
    let lasts = Duration::from_secs(args.seconds);
    let mut rows = Vec::new();
    for n_clients in &args.clients {
        let mut row = Row {
            n_clients: *n_clients,
            ..Row::default()
        };
        for pair in 1..=args.pairs {
            row.ours.push(ours(common, args, *n_clients, lasts).await?);
            if let Some(program) = &etcd {
                let etcd = Etcd::start(program, common)?;
                let target = Target::Etcd(etcd.leader().await?);
                let before = etcd.n_fsyncs()?;
                let mut written = measure(&target, *n_clients, lasts).await?;
                written.n_fsyncs = etcd.n_fsyncs()? - before;
                row.etcd.push(written);
            }
            say(row.progress(pair, args.pairs));
        }
        rows.push(row);
    }
    fill(&mut report, &rows);
    Ok(report)
}

/// A new group for every measurement: both begin with an empty store.
async fn ours(
    common: &Common,
    args: &StoreArgs,
    n_clients: usize,
    lasts: Duration,
) -> anyhow::Result<Written> {
    let mut group = Group::start(common, args.profile).await?;
    let Some(leader) = group.leader() else {
        bail!("the group has lost its leader");
    };
    let target = Target::Ours {
        address: group.addresses[&leader].clone(),
        leader,
    };
    let n_fsyncs = |reports: &[crate::lease::node::NodeReport]| -> u64 {
        reports.iter().map(|report| report.n_fsyncs).sum()
    };
    let before = n_fsyncs(&group.fresh_reports().await?);
    let mut written = measure(&target, n_clients, lasts).await?;
    written.n_fsyncs = n_fsyncs(&group.fresh_reports().await?) - before;
    group.stop().await?;
    Ok(written)
}

async fn measure(target: &Target, n_clients: usize, lasts: Duration) -> anyhow::Result<Written> {
    let warm_up = clients::write(target, n_clients, WARM_UP).await?;
    let mut written = clients::write(target, n_clients, lasts).await?;
    // Its fsyncs are in the count as well.
    written.n_with_warm_up = written.n_acked() + warm_up.n_acked();
    Ok(written)
}

impl Row {
    fn progress(&self, pair: usize, pairs: usize) -> String {
        let rate = |all: &[Written]| all.last().map_or(f64::NAN, Written::rate);
        let (n, ours, etcd) = (self.n_clients, rate(&self.ours), rate(&self.etcd));
        format!("{n} clients, pair {pair} of {pairs}: nihilo {ours:.0}/s, etcd {etcd:.0}/s")
    }
}

fn fill(report: &mut Report, rows: &[Row]) {
    let columns = [
        "clients",
        "store",
        "writes/s",
        "p50 ms",
        "p99 ms",
        "acks per fsync, all nodes",
        "ours ÷ etcd, writes/s",
    ];
    let mut table = Table::new("Durable writes, medians (min–max)", &columns);
    for row in rows {
        let rates = |all: &[Written]| all.iter().map(Written::rate).collect::<Vec<_>>();
        let ratio = ratios(&rates(&row.ours), &rates(&row.etcd));
        for (name, all) in [("nihilo", &row.ours), ("etcd", &row.etcd)] {
            if all.is_empty() {
                continue;
            }
            let spread = |of: fn(&Written) -> f64| Samples::new(all.iter().map(of)).spread();
            let ratio = match name {
                "nihilo" if ratio.len() > 0 => spread_text(ratio.spread(), 2),
                _ => String::new(),
            };
            table.row([
                row.n_clients.to_string(),
                name.into(),
                spread_text(spread(Written::rate), 0),
                spread_text(spread(|w| w.latency_ms(0.5)), 2),
                spread_text(spread(|w| w.latency_ms(0.99)), 2),
                spread_text(spread(Written::acks_per_fsync), 2),
                ratio,
            ]);
            let key = format!("{name}_{}_clients", row.n_clients);
            report.figure(
                &key,
                serde_json::json!({
                    "writes_per_s": spread(Written::rate),
                    "p50_ms": spread(|w| w.latency_ms(0.5)),
                    "p99_ms": spread(|w| w.latency_ms(0.99)),
                    "n_fsyncs": all.iter().map(|w| w.n_fsyncs).collect::<Vec<_>>(),
                }),
            );
        }
        if let Some(goal) = goal(row.n_clients).filter(|_| ratio.len() > 0) {
            let spread = ratio.spread();
            report.verdict(
                &format!(
                    "writes/s ≥ {goal} × etcd at {} clients (goal P12)",
                    row.n_clients
                ),
                format!("{} ×", spread_text(spread, 2)),
                spread.median >= goal,
            );
        }
    }
    report.tables.push(table);
    let all = rows.iter().flat_map(|row| row.ours.iter().chain(&row.etcd));
    let n_unsynced = all.filter(|written| written.n_fsyncs == 0).count();
    report.verdict(
        "fsync is on in every measurement",
        format!("{n_unsynced} without an fsync"),
        n_unsynced == 0,
    );
}

fn goal(n_clients: usize) -> Option<f64> {
    match n_clients {
        1 => Some(1.0),
        64 => Some(1.5),
        256 => Some(2.0),
        _ => None,
    }
}
