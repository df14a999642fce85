//! Kill -9 of the leader: how long until a write is acknowledged again, and whether every write
//! that was acknowledged before is still there. etcd is killed in turn with ours; both clusters run
//! all the time, and one is idle while the other is killed.

mod node;
mod side;
mod writer;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use nihilo_raft::Timing;
use nihilo_types::node_config::Profile;
use nihilo_types::service::Service;

use self::side::Side;
use self::writer::Writer;
use crate::cluster::{Cluster, program, service, with_scale};
use crate::figures::{Samples, milliseconds, ratios};
use crate::lease::node::profile;
use crate::peers::ETCD;
use crate::report::{Report, Table, spread_text};
use crate::{Common, built, etcd, say};

/// Begins the name of everything that is written.
const SLOT_PREFIX: &str = "slot-";
/// How long after a kill a second election would belong to it.
const SETTLE: Duration = Duration::from_secs(5);
const GOAL_CALM_MS: (f64, f64) = (1_000.0, 1_500.0);
const GOAL_BALANCED_MS: (f64, f64) = (450.0, 700.0);

#[derive(Debug, clap::Args)]
pub(crate) struct FailoverArgs {
    #[arg(long, default_value_t = 50)]
    kills: usize,
    /// Raft timing: calm, balanced, fast, or auto.
    #[arg(long, default_value = "auto", value_parser = profile)]
    profile: Profile,
    /// With the connection-refused fast path.
    #[arg(long)]
    fast_path: bool,
    /// Seconds of steady writes before each kill.
    #[arg(long, default_value_t = 10)]
    steady_seconds: u64,
}

/// One cluster with its writer, and what its kills showed.
#[derive(Debug)]
struct Contest {
    side: Side,
    writer: Writer,
    kills: Vec<Kill>,
    /// When it was looked at last.
    term: u64,
    /// Elections while every node was left alone: from [`SETTLE`] after a kill, the restart of the
    /// killed node included, until the next kill.
    n_false: u64,
}

/// One kill.
#[derive(Debug)]
struct Kill {
    to_next_ack: Duration,
    n_attempts: u64,
    /// Elections until [`SETTLE`] later; one is needed.
    n_elections: u64,
    /// Acknowledged before, and checked one by one right after.
    n_checked: usize,
}

pub(crate) async fn run(common: &Common, args: &FailoverArgs) -> anyhow::Result<Report> {
    let timing = Timing::of(args.profile);
    let mut report = Report::new("failover");
    report.setting("profile", timing.name);
    report.setting("fast_path", args.fast_path);
    report.setting("kills", args.kills);
    report.setting("steady_seconds", args.steady_seconds);
    let mut contests = vec![Contest::begin(ours(common, args).await?).await?];
    match ETCD.find(common.install)? {
        Some(program) => {
            report.setting("etcd", ETCD.version(&program));
            contests.push(Contest::begin(Side::etcd(&program, common).await?).await?);
        }
        None => report.setting("missing", ETCD.program),
    }
    for n in 1..=args.kills {
        for contest in &mut contests {
            contest.kill(args.steady_seconds).await?;
            say(contest.progress(n, args.kills));
        }
    }
    for contest in &mut contests {
        contest.end().await?;
    }
    fill(&mut report, timing, &contests);
    Ok(report)
}

async fn ours(common: &Common, args: &FailoverArgs) -> anyhow::Result<Side> {
    let mut plan = common.plan(3)?;
    plan.profile = args.profile;
    plan.failover_fast_path = args.fast_path;
    // What is written are services that never run: only the store is measured.
    let no_instances = ("allow-zero-initial-scale".to_owned(), "true".to_owned());
    plan.autoscaler = BTreeMap::from([no_instances]);
    Ok(Side::Ours(Box::new(Cluster::start(plan).await?)))
}

/// The services that are written in turn.
fn slots() -> anyhow::Result<Vec<Service>> {
    let app = built("nihilo-bench-app")?;
    let slot = |n: usize| {
        let idle = service(&format!("{SLOT_PREFIX}{n}"), &program(&app), &[]);
        with_scale(idle, "initial-scale", "0")
    };
    Ok((0..writer::N_SLOTS).map(slot).collect())
}

impl Contest {
    async fn begin(side: Side) -> anyhow::Result<Self> {
        let mut writer = Writer::new(side.nodes()?, slots()?);
        writer.fill().await?;
        Ok(Self {
            term: side.term().await?,
            side,
            writer,
            kills: Vec::new(),
            n_false: 0,
        })
    }

    /// Steady writes, a kill, and what follows until all nodes run again.
    async fn kill(&mut self, steady_seconds: u64) -> anyhow::Result<()> {
        let steady = Duration::from_secs(steady_seconds);
        self.writer.write_for(steady).await?;
        self.n_false += self.elections().await?;
        let killed_at = self.side.kill_leader().await?;
        let n_attempts = self.writer.write_after_kill().await?;
        let to_next_ack = killed_at.elapsed();
        // Before the next round of the slots: no write that was lost can have been written over.
        let n_checked = self.writer.check().await?;
        self.writer.write_for(SETTLE).await?;
        let n_elections = self.elections().await?;
        self.kills.push(Kill {
            to_next_ack,
            n_attempts,
            n_elections,
            n_checked,
        });
        self.side.start_missing().await
    }

    /// Since they were asked for last.
    async fn elections(&mut self) -> anyhow::Result<u64> {
        let term = self.side.term().await?;
        let since = term.checked_sub(self.term).context("the term went back")?;
        self.term = term;
        Ok(since)
    }

    async fn end(&mut self) -> anyhow::Result<()> {
        self.n_false += self.elections().await?;
        self.writer.check_on_every_node().await
    }

    fn progress(&self, n: usize, n_kills: usize) -> String {
        let name = self.side.name();
        let last = self.kills.last().map(|kill| {
            format!(
                "next ack after {:.0} ms, {} elections, {} writes checked",
                milliseconds(kill.to_next_ack),
                kill.n_elections,
                kill.n_checked
            )
        });
        let last = last.unwrap_or_default();
        let n_false = self.n_false;
        format!("{name}, kill {n} of {n_kills}: {last}; {n_false} false elections so far")
    }

    fn to_next_ack_ms(&self) -> Vec<f64> {
        let all = self.kills.iter();
        all.map(|kill| milliseconds(kill.to_next_ack)).collect()
    }

    /// More than the one that a kill needs.
    fn n_extra(&self) -> u64 {
        let extra = |kill: &Kill| kill.n_elections.saturating_sub(1);
        self.kills.iter().map(extra).sum()
    }
}

fn fill(report: &mut Report, timing: Timing, contests: &[Contest]) {
    report.tables.push(summary(timing, contests));
    report.tables.push(by_kill(contests));
    for contest in contests {
        figures(report, contest);
    }
    let [ours, beside @ ..] = contests else {
        return;
    };
    judge(report, timing, ours);
    for other in beside {
        let by_pair = ratios(&ours.to_next_ack_ms(), &other.to_next_ack_ms());
        report.figure(
            &format!("ours_by_{}", other.side.name()),
            serde_json::json!(by_pair.spread()),
        );
        report.verdict(
            &format!("sooner than {} with its defaults", other.side.name()),
            format!("{} × its time, by pair", spread_text(by_pair.spread(), 2)),
            by_pair.spread().median <= 1.0,
        );
    }
}

fn summary(timing: Timing, contests: &[Contest]) -> Table {
    let title = format!(
        "Kill of the leader → next acknowledged write, from the signal; nihilo: profile {},          heartbeat {} ms, election {}–{} ms; etcd: {}",
        timing.name,
        timing.heartbeat_ms,
        timing.election_min_ms,
        timing.election_max_ms,
        etcd::TIMING
    );
    let columns = [
        "store",
        "p50 ms",
        "p90 ms",
        "p99 ms",
        "max ms",
        "steady write p50 ms",
        "steady write p99 ms",
        "acknowledged",
        "more elections after kills",
        "false elections",
    ];
    let mut table = Table::new(title, &columns);
    for contest in contests {
        let samples = Samples::new(contest.to_next_ack_ms());
        let steady = contest.writer.steady();
        let mut cells = vec![contest.side.name().to_owned()];
        cells.extend([0.5, 0.9, 0.99, 1.0].map(|q| format!("{:.0}", samples.quantile(q))));
        cells.extend([0.5, 0.99].map(|q| format!("{:.2}", steady.quantile(q))));
        let counts = [contest.writer.n_acked(), contest.n_extra(), contest.n_false];
        cells.extend(counts.map(|count| count.to_string()));
        table.row(cells);
    }
    table
}

fn by_kill(contests: &[Contest]) -> Table {
    let mut table = Table::new("By kill", &["store", "kill", "ms", "attempts", "elections"]);
    for contest in contests {
        for (n, kill) in (1..).zip(&contest.kills) {
            table.row([
                contest.side.name().to_owned(),
                format!("{n}"),
                format!("{:.0}", milliseconds(kill.to_next_ack)),
                kill.n_attempts.to_string(),
                kill.n_elections.to_string(),
            ]);
        }
    }
    table
}

fn figures(report: &mut Report, contest: &Contest) {
    let samples = Samples::new(contest.to_next_ack_ms());
    let steady = contest.writer.steady();
    report.figure(
        contest.side.name(),
        serde_json::json!({
            "to_next_ack_p50_ms": samples.quantile(0.5),
            "to_next_ack_p99_ms": samples.quantile(0.99),
            "to_next_ack_max_ms": samples.quantile(1.0),
            "to_next_ack_ms": contest.to_next_ack_ms(),
            "acked": contest.writer.n_acked(),
            "write_p50_ms": steady.quantile(0.5),
            "write_p99_ms": steady.quantile(0.99),
            "extra_elections": contest.n_extra(),
            "false_elections": contest.n_false,
        }),
    );
}

fn judge(report: &mut Report, timing: Timing, ours: &Contest) {
    let samples = Samples::new(ours.to_next_ack_ms());
    let (p50, p99) = (samples.quantile(0.5), samples.quantile(0.99));
    let (p50_goal, p99_goal) = if timing.name == "calm" {
        GOAL_CALM_MS
    } else {
        GOAL_BALANCED_MS
    };
    let name = timing.name;
    report.verdict(
        &format!("`{name}`: next acknowledged write p50 ≤ {p50_goal:.0} ms (goal P13)"),
        format!("{p50:.0} ms over {} kills", ours.kills.len()),
        p50 <= p50_goal,
    );
    report.verdict(
        &format!("`{name}`: p99 ≤ {p99_goal:.0} ms (goal P13)"),
        format!("{p99:.0} ms"),
        p99 <= p99_goal,
    );
    let seconds = SETTLE.as_secs();
    report.verdict(
        &format!("one election a kill, none again within {seconds} s, none without a kill"),
        format!("{} more, {} false", ours.n_extra(), ours.n_false),
        ours.n_extra() + ours.n_false == 0,
    );
    // A lost one has ended the run with its name before this.
    report.verdict(
        "every acknowledged write is there, on every node",
        format!("{} acknowledged, 0 lost", ours.writer.n_acked()),
        true,
    );
}
