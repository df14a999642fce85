//! Durable writes, and linearizable reads, beside etcd: the same clients, the same size, the same file system, one after
//! the other in interleaved pairs, with the fsyncs of both counted.

mod clients;

use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use nihilo_types::node_config::Profile;

use self::clients::{Done, Target, Work};
use crate::etcd::Etcd;
use crate::figures::{Samples, Spread, ratios};
use crate::lease::group::Group;
use crate::lease::node::{NodeReport, profile};
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
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,256,1000")]
    clients: Vec<usize>,
    /// Clients that read, in measurements of their own.
    #[arg(long, value_delimiter = ',', default_value = "1,64")]
    readers: Vec<usize>,
    /// Raft timing of ours: calm, balanced, fast, or auto. etcd keeps its defaults.
    #[arg(long, default_value = "balanced", value_parser = profile)]
    profile: Profile,
}

/// All measurements of one kind with one number of clients.
#[derive(Debug)]
struct Row {
    work: Work,
    n_clients: usize,
    ours: Vec<Done>,
    etcd: Vec<Done>,
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
    let writes = args.clients.iter().map(|n| (Work::Write, *n));
    let reads = args.readers.iter().map(|n| (Work::Read, *n));
    let mut rows = Vec::new();
    for (work, n_clients) in writes.chain(reads) {
        let mut row = Row {
            work,
            n_clients,
            ours: Vec::new(),
            etcd: Vec::new(),
        };
        for pair in 1..=args.pairs {
            row.ours.push(row.measure_ours(common, args).await?);
            if let Some(program) = &etcd {
                row.etcd
                    .push(row.measure_etcd(program, common, args).await?);
            }
            say(row.progress(pair, args.pairs));
        }
        rows.push(row);
    }
    fill(&mut report, &rows);
    Ok(report)
}

impl Row {
    /// A new group for every measurement: both begin with an empty store.
    async fn measure_ours(&self, common: &Common, args: &StoreArgs) -> anyhow::Result<Done> {
        let mut group = Group::start(common, args.profile).await?;
        let Some(leader) = group.leader() else {
            bail!("the group has lost its leader");
        };
        let target = Target::Ours {
            address: group.addresses[&leader].clone(),
            leader,
        };
        let n_fsyncs =
            |reports: &[NodeReport]| -> u64 { reports.iter().map(|report| report.n_fsyncs).sum() };
        let before = n_fsyncs(&group.fresh_reports().await?);
        let mut done = self.measure(&target, args).await?;
        done.n_fsyncs = n_fsyncs(&group.fresh_reports().await?) - before;
        group.stop().await?;
        Ok(done)
    }

    async fn measure_etcd(
        &self,
        program: &Path,
        common: &Common,
        args: &StoreArgs,
    ) -> anyhow::Result<Done> {
        let etcd = Etcd::start(program, common)?;
        let target = Target::Etcd(etcd.leader().await?);
        let before = etcd.n_fsyncs()?;
        let mut done = self.measure(&target, args).await?;
        done.n_fsyncs = etcd.n_fsyncs()? - before;
        Ok(done)
    }

    async fn measure(&self, target: &Target, args: &StoreArgs) -> anyhow::Result<Done> {
        let warm_up = clients::call(target, self.work, self.n_clients, WARM_UP).await?;
        let lasts = Duration::from_secs(args.seconds);
        let mut done = clients::call(target, self.work, self.n_clients, lasts).await?;
        // Its fsyncs are in the count as well.
        done.n_with_warm_up = done.n_acked() + warm_up.n_acked();
        Ok(done)
    }

    fn progress(&self, pair: usize, pairs: usize) -> String {
        let rate = |all: &[Done]| all.last().map_or(f64::NAN, Done::rate);
        let (n, ours, etcd) = (self.n_clients, rate(&self.ours), rate(&self.etcd));
        let calls = self.work.calls();
        format!("{n} clients, pair {pair} of {pairs}: {calls}/s: nihilo {ours:.0}, etcd {etcd:.0}")
    }

    /// By pair; none where etcd is missing.
    fn ratios(&self) -> Samples {
        let rates = |all: &[Done]| all.iter().map(Done::rate).collect::<Vec<_>>();
        ratios(&rates(&self.ours), &rates(&self.etcd))
    }

    fn stores(&self) -> impl Iterator<Item = (&'static str, &Vec<Done>)> {
        let both = [("nihilo", &self.ours), ("etcd", &self.etcd)];
        both.into_iter().filter(|(_, all)| !all.is_empty())
    }
}

impl Work {
    fn calls(self) -> &'static str {
        match self {
            Work::Write => "writes",
            Work::Read => "reads",
        }
    }
}

fn fill(report: &mut Report, rows: &[Row]) {
    for work in [Work::Write, Work::Read] {
        let rows: Vec<_> = rows.iter().filter(|row| row.work == work).collect();
        if !rows.is_empty() {
            report.tables.push(table(work, &rows));
        }
    }
    for row in rows {
        for (store, all) in row.stores() {
            let key = format!("{store}_{}_clients_{}", row.n_clients, row.work.calls());
            report.figure(&key, figures(all));
        }
        judge(report, row);
    }
    let writes = rows.iter().filter(|row| row.work == Work::Write);
    let all = writes.flat_map(|row| row.ours.iter().chain(&row.etcd));
    let n_unsynced = all.filter(|done| done.n_fsyncs == 0).count();
    report.verdict(
        "fsync is on in every measurement of writes",
        format!("{n_unsynced} without an fsync"),
        n_unsynced == 0,
    );
}

fn table(work: Work, rows: &[&Row]) -> Table {
    let (title, rate, ratio) = match work {
        Work::Write => (
            "Durable writes, medians (min–max)",
            "writes/s",
            "ours ÷ etcd, writes/s",
        ),
        Work::Read => (
            "Linearizable reads, medians (min–max)",
            "reads/s",
            "ours ÷ etcd, reads/s",
        ),
    };
    let per_fsync = "acks per fsync, all nodes";
    let columns = [
        "clients", "store", rate, "p50 ms", "p99 ms", per_fsync, ratio,
    ];
    let mut table = Table::new(title, &columns);
    for row in rows {
        let ratios = row.ratios();
        for (store, all) in row.stores() {
            let text = |of: fn(&Done) -> f64, decimals| spread_text(spread(all, of), decimals);
            let ratio = match store {
                "nihilo" if ratios.len() > 0 => spread_text(ratios.spread(), 2),
                _ => String::new(),
            };
            let per_fsync = match work {
                Work::Write => text(Done::acks_per_fsync, 2),
                Work::Read => "–".into(),
            };
            table.row([
                row.n_clients.to_string(),
                store.into(),
                text(Done::rate, 0),
                text(|done| done.latency_ms(0.5), 2),
                text(|done| done.latency_ms(0.99), 2),
                per_fsync,
                ratio,
            ]);
        }
    }
    table
}

fn spread(all: &[Done], of: fn(&Done) -> f64) -> Spread {
    Samples::new(all.iter().map(of)).spread()
}

fn figures(all: &[Done]) -> serde_json::Value {
    serde_json::json!({
        "per_s": spread(all, Done::rate),
        "p50_ms": spread(all, |done| done.latency_ms(0.5)),
        "p99_ms": spread(all, |done| done.latency_ms(0.99)),
        "n_fsyncs": all.iter().map(|done| done.n_fsyncs).collect::<Vec<_>>(),
    })
}

fn judge(report: &mut Report, row: &Row) {
    let ratios = row.ratios();
    let goal = goal(row.n_clients).filter(|_| row.work == Work::Write && ratios.len() > 0);
    if let Some(goal) = goal {
        let spread = ratios.spread();
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

fn goal(n_clients: usize) -> Option<f64> {
    match n_clients {
        1 => Some(1.0),
        64 => Some(1.5),
        256 => Some(2.0),
        // The stretch.
        1_000 => Some(4.0),
        _ => None,
    }
}
