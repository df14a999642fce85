//! The experiment before everything else: do three stores hold their lease while 256 writers and
//! as many busy loops as there are cores want the same CPUs?

pub(crate) mod group;
pub(crate) mod histogram;
pub(crate) mod node;
mod stress;
mod writer;

use std::time::Duration;

use nihilo_raft::Timing;
use nihilo_types::node_config::Profile;
use tokio::time::Instant;

use self::group::Group;
use self::histogram::Counts;
use self::node::NodeReport;
use self::stress::Stress;
use self::writer::Writes;
use crate::report::{Report, Table};
use crate::{Common, say};

/// Connections are made and caches filled before anything counts.
const WARM_UP: Duration = Duration::from_secs(5);
const SAY_EVERY: Duration = Duration::from_secs(10);
/// Rule of the design (02-store §2.2): the election timeout is at least this many times what an
/// append and a tick may be late.
const TIMEOUT_FACTOR: f64 = 10.0;

#[derive(Debug, clap::Args)]
pub(crate) struct LeaseArgs {
    #[arg(long, default_value_t = 20.0)]
    minutes: f64,
    /// Raft timing: calm, balanced, fast, or auto.
    #[arg(long, default_value = "calm", value_parser = node::profile)]
    profile: Profile,
    /// Writers over all nodes, each with one proposal under way.
    #[arg(long, default_value_t = 256)]
    writers: u64,
    /// Busy loops beside them [default: one per core].
    #[arg(long)]
    stress: Option<usize>,
}

pub(crate) async fn run(common: &Common, args: &LeaseArgs) -> anyhow::Result<Report> {
    let timing = Timing::of(args.profile);
    let n_stress = args
        .stress
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let mut report = Report::new("lease");
    report.setting("profile", timing.name);
    report.setting("minutes", args.minutes);
    report.setting("writers", args.writers);
    report.setting("busy_loops", n_stress);
    let mut group = Group::start(common, args.profile).await?;
    say(format!(
        "leader {:?}; {} writers and {n_stress} busy loops begin",
        group.leader(),
        args.writers
    ));
    let _stress = Stress::start(n_stress);
    group.start_writers(args.writers).await?;
    tokio::time::sleep(WARM_UP).await;
    let before = group.fresh_reports().await?;
    let started = Instant::now();
    follow(&mut group, &before, started, args.minutes).await?;
    let elapsed = started.elapsed();
    let nodes: Vec<_> = group
        .fresh_reports()
        .await?
        .iter()
        .zip(&before)
        .map(|(now, before)| now.since(before))
        .collect();
    group.stop_writers().await?;
    group.stop().await?;
    fill(&mut report, timing, elapsed, &nodes, term(&before));
    Ok(report)
}

async fn follow(
    group: &mut Group,
    before: &[NodeReport],
    started: Instant,
    minutes: f64,
) -> anyhow::Result<()> {
    let end = started + Duration::from_secs_f64(minutes * 60.0);
    let (mut last, mut said) = (before.to_vec(), started);
    while Instant::now() < end {
        tokio::time::sleep_until((said + SAY_EVERY).min(end)).await;
        group.must_run()?;
        let now = group.reports();
        let new: Vec<_> = now.iter().zip(&last).map(|(n, l)| n.since(l)).collect();
        let total = Total::of(&new);
        say(format!(
            "{:6.0} s: {:.0} writes/s, p99 {:.1} ms; fsync p99 {:.1} ms; ticks late p99 {:.1} ms; \
             elections {}, refused tries {}, failed {}",
            started.elapsed().as_secs_f64(),
            total.writes.n_acked as f64 / said.elapsed().as_secs_f64(),
            total.writes.latency.quantile_ms(0.99),
            total.fsync.quantile_ms(0.99),
            total.lateness.quantile_ms(0.99),
            term(&now) - term(before),
            total.n_refused,
            total.writes.n_failed(),
        ));
        (last, said) = (now, Instant::now());
    }
    Ok(())
}

fn term(reports: &[NodeReport]) -> u64 {
    reports.iter().map(|report| report.term).max().unwrap_or(0)
}

impl NodeReport {
    /// What happened since `before`; term and leader are those of now.
    fn since(&self, before: &Self) -> Self {
        let (now, then) = (&self.writes, &before.writes);
        Self {
            id: self.id,
            term: self.term,
            leader: self.leader,
            n_looks: self.n_looks - before.n_looks,
            n_leaderless: self.n_leaderless - before.n_leaderless,
            n_without_quorum: self.n_without_quorum - before.n_without_quorum,
            n_refused: self.n_refused - before.n_refused,
            writes: Writes {
                n_acked: now.n_acked - then.n_acked,
                n_rejected: now.n_rejected - then.n_rejected,
                n_no_leader: now.n_no_leader - then.n_no_leader,
                n_overloaded: now.n_overloaded - then.n_overloaded,
                n_unanswered: now.n_unanswered - then.n_unanswered,
                n_stopped: now.n_stopped - then.n_stopped,
                latency: now.latency.since(&then.latency),
            },
            n_fsyncs: self.n_fsyncs - before.n_fsyncs,
            n_entries_synced: self.n_entries_synced - before.n_entries_synced,
            fsync: self.fsync.since(&before.fsync),
            lateness: self.lateness.since(&before.lateness),
        }
    }
}

/// All members together.
#[derive(Debug, Default)]
struct Total {
    writes: Writes,
    fsync: Counts,
    lateness: Counts,
    n_refused: u64,
}

impl Total {
    fn of(nodes: &[NodeReport]) -> Self {
        let mut total = Self::default();
        for node in nodes {
            total.writes.merge(&node.writes);
            total.fsync.merge(&node.fsync);
            total.lateness.merge(&node.lateness);
            total.n_refused += node.n_refused;
        }
        total
    }
}

fn fill(
    report: &mut Report,
    timing: Timing,
    elapsed: Duration,
    nodes: &[NodeReport],
    first_term: u64,
) {
    let total = Total::of(nodes);
    let elections = term(nodes) - first_term;
    let failed = total.writes.n_failed();
    let rate = total.writes.n_acked as f64 / elapsed.as_secs_f64();
    report.tables.push(counts(nodes, elections, &total));
    report.tables.push(durations(nodes, &total));
    for (key, value) in [
        ("elections", elections),
        ("acked", total.writes.n_acked),
        ("failed", failed),
        ("no_leader", total.writes.n_no_leader),
        ("unanswered", total.writes.n_unanswered),
        ("overloaded", total.writes.n_overloaded),
        ("refused_tries", total.n_refused),
    ] {
        report.figure(key, value);
    }
    report.figure("writes_per_s", rate);
    let lateness = total.lateness.quantile_ms(0.99);
    let fsync = total.fsync.quantile_ms(0.99);
    report.figure("tick_lateness_p99_ms", lateness);
    report.figure("tick_lateness_max_ms", total.lateness.max_ms());
    report.figure("fsync_p99_ms", fsync);
    report.figure("fsync_p999_ms", total.fsync.quantile_ms(0.999));
    report.figure("write_p99_ms", total.writes.latency.quantile_ms(0.99));
    report.verdict(
        &format!("the profile `{}` holds its lease here", timing.name),
        format!(
            "{elections} elections, {} refused tries, {failed} failed of {} writes ({rate:.0}/s) \
             in {:.1} min",
            total.n_refused,
            total.writes.n_acked,
            elapsed.as_secs_f64() / 60.0
        ),
        elections == 0 && total.n_refused == 0 && failed == 0,
    );
    let needed = TIMEOUT_FACTOR * (fsync + lateness);
    report.verdict(
        "election timeout ≥ 10 × (p99 fsync + p99 tick lateness)",
        format!("{} ms against {needed:.0} ms", timing.election_min_ms),
        timing.election_min_ms as f64 >= needed,
    );
}

fn counts(nodes: &[NodeReport], elections: u64, total: &Total) -> Table {
    let columns = [
        "node",
        "acked",
        "no leader",
        "unanswered",
        "overloaded",
        "rejected",
        "refused tries",
        "time leaderless",
        "leading unheard",
        "fsyncs",
        "entries per fsync",
    ];
    let mut table = Table::new(format!("Counts; {elections} elections in all"), &columns);
    for node in nodes {
        let share = |n: u64| format!("{:.2} %", n as f64 * 100.0 / node.n_looks.max(1) as f64);
        let mut cells = writes(&node.id.to_string(), &node.writes, node.n_refused);
        let per_fsync = node.n_entries_synced as f64 / node.n_fsyncs.max(1) as f64;
        cells.extend([
            share(node.n_leaderless),
            share(node.n_without_quorum),
            node.n_fsyncs.to_string(),
            format!("{per_fsync:.1}"),
        ]);
        table.row(cells);
    }
    table.row(writes("all", &total.writes, total.n_refused));
    table
}

fn writes(name: &str, writes: &Writes, n_refused: u64) -> Vec<String> {
    let counts = [
        writes.n_acked,
        writes.n_no_leader,
        writes.n_unanswered,
        writes.n_overloaded,
        writes.n_rejected,
        n_refused,
    ];
    let cells = counts.map(|count| count.to_string());
    [name.to_owned()].into_iter().chain(cells).collect()
}

fn durations(nodes: &[NodeReport], total: &Total) -> Table {
    let columns = ["milliseconds", "count", "p50", "p99", "p99.9", "max"];
    let mut table = Table::new("Durations", &columns);
    let mut row = |name: String, counts: &Counts| {
        let quantiles = [0.5, 0.99, 0.999].map(|q| format!("{:.2}", counts.quantile_ms(q)));
        let max = format!("{:.2}", counts.max_ms());
        let cells = [name, counts.len().to_string()];
        table.row(cells.into_iter().chain(quantiles).chain([max]));
    };
    row("write, all".into(), &total.writes.latency);
    for node in nodes {
        row(format!("fsync, node {}", node.id), &node.fsync);
    }
    for node in nodes {
        row(format!("tick lateness, node {}", node.id), &node.lateness);
    }
    table
}
