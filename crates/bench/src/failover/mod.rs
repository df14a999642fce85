//! Kill -9 of the leader: how long until a write is acknowledged again, and whether every write
//! that was acknowledged before is still there.

mod writer;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail};
use nihilo_raft::Timing;
use nihilo_types::node_config::Profile;
use tokio::time::Instant;

use self::writer::Writer;
use crate::cluster::{Cluster, program, service, with_scale};
use crate::figures::{Samples, milliseconds};
use crate::lease::node::profile;
use crate::report::{Report, Table};
use crate::{Common, built, proc, say};

/// How long after a kill a second election would belong to it.
const SETTLE: Duration = Duration::from_secs(5);
const GOAL_CALM_MS: (f64, f64) = (1_000.0, 1_500.0);
const GOAL_BALANCED_MS: (f64, f64) = (450.0, 700.0);

#[derive(Debug, clap::Args)]
pub(crate) struct FailoverArgs {
    #[arg(long, default_value_t = 10)]
    kills: usize,
    /// Raft timing: calm, balanced, fast, or auto.
    #[arg(long, default_value = "auto", value_parser = profile)]
    profile: Profile,
    /// Seconds of steady writes before each kill.
    #[arg(long, default_value_t = 10)]
    steady_seconds: u64,
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
    report.setting("kills", args.kills);
    report.setting("steady_seconds", args.steady_seconds);
    let mut plan = common.plan(3)?;
    plan.profile = args.profile;
    // What is written are services that never run: only the store is measured.
    let no_instances = ("allow-zero-initial-scale".to_owned(), "true".to_owned());
    plan.autoscaler = BTreeMap::from([no_instances]);
    let cluster = Cluster::start(plan).await?;
    let mut writer = Writer::new(&cluster, slots()?)?;
    writer.fill().await?;
    let mut kills = Vec::new();
    for n in 1..=args.kills {
        writer
            .write_for(Duration::from_secs(args.steady_seconds))
            .await?;
        let kill = kill_leader(&cluster, &mut writer).await?;
        say(format!(
            "kill {n} of {}: next ack after {:.0} ms, {} elections, {} writes checked",
            args.kills,
            milliseconds(kill.to_next_ack),
            kill.n_elections,
            kill.n_checked
        ));
        kills.push(kill);
        cluster.start_missing()?;
    }
    writer.check_on_every_node().await?;
    fill(&mut report, timing, &kills, &writer);
    Ok(report)
}

/// The services that are written in turn.
fn slots() -> anyhow::Result<Vec<nihilo_types::service::Service>> {
    let app = built("nihilo-bench-app")?;
    let slot = |n: usize| {
        let idle = service(&format!("slot-{n}"), &program(&app), &[]);
        with_scale(idle, "initial-scale", "0")
    };
    Ok((0..writer::N_SLOTS).map(slot).collect())
}

async fn kill_leader(cluster: &Cluster, writer: &mut Writer) -> anyhow::Result<Kill> {
    let leader = cluster.leader().await?;
    let pid = leader.pid.cast_signed();
    if !cluster.pids()?.contains(&pid) {
        bail!("{} is no node of this cluster", leader.name);
    }
    let term = cluster.status().await?.term;
    let killed_at = Instant::now();
    proc::kill(leader.pid)?;
    let n_attempts = writer.write_after_kill().await?;
    let to_next_ack = killed_at.elapsed();
    // Before the next round of the slots: no write that was lost can have been written over.
    let n_checked = writer.check().await?;
    writer.write_for(SETTLE).await?;
    let settled = cluster.status().await?;
    let n_elections = settled.term.checked_sub(term);
    Ok(Kill {
        to_next_ack,
        n_attempts,
        n_elections: n_elections.context("the term went back")?,
        n_checked,
    })
}

fn fill(report: &mut Report, timing: Timing, kills: &[Kill], writer: &Writer) {
    let samples = Samples::of_ms(kills.iter().map(|kill| kill.to_next_ack));
    let [p50, p90, p99, max] = [0.5, 0.9, 0.99, 1.0].map(|q| samples.quantile(q));
    let columns = ["milliseconds", "p50", "p90", "p99", "max"];
    let title = format!(
        "Kill of the leader → next acknowledged write, profile {}: heartbeat {} ms, election \
         {}–{} ms",
        timing.name, timing.heartbeat_ms, timing.election_min_ms, timing.election_max_ms
    );
    let mut table = Table::new(title, &columns);
    let cells = [p50, p90, p99, max].map(|ms| format!("{ms:.0}"));
    table.row(["from the signal".to_owned()].into_iter().chain(cells));
    report.tables.push(table);
    let mut table = Table::new("By kill", &["kill", "ms", "attempts", "elections"]);
    for (n, kill) in (1..).zip(kills) {
        table.row([
            format!("{n}"),
            format!("{:.0}", milliseconds(kill.to_next_ack)),
            kill.n_attempts.to_string(),
            kill.n_elections.to_string(),
        ]);
    }
    report.tables.push(table);
    report.figure("to_next_ack_p50_ms", p50);
    report.figure("to_next_ack_p99_ms", p99);
    report.figure("to_next_ack_max_ms", max);
    let all: Vec<_> = kills.iter().map(|k| milliseconds(k.to_next_ack)).collect();
    report.figure("to_next_ack_ms", all);
    report.figure("acked", writer.n_acked());
    let steady = writer.steady();
    report.figure("write_p50_ms", steady.quantile(0.5));
    report.figure("write_p99_ms", steady.quantile(0.99));
    let (p50_goal, p99_goal) = if timing.name == "calm" {
        GOAL_CALM_MS
    } else {
        GOAL_BALANCED_MS
    };
    let name = timing.name;
    report.verdict(
        &format!("`{name}`: next acknowledged write p50 ≤ {p50_goal:.0} ms"),
        format!("{p50:.0} ms over {} kills", kills.len()),
        p50 <= p50_goal,
    );
    report.verdict(
        &format!("`{name}`: p99 ≤ {p99_goal:.0} ms (goal P13)"),
        format!("{p99:.0} ms"),
        p99 <= p99_goal,
    );
    let n_extra: u64 = kills.iter().map(|k| k.n_elections.saturating_sub(1)).sum();
    let seconds = SETTLE.as_secs();
    report.verdict(
        &format!("one election a kill, none again within {seconds} s"),
        format!("{n_extra} more"),
        n_extra == 0,
    );
    // A lost one has ended the run with its name before this.
    report.verdict(
        "every acknowledged write is there, on every node",
        format!("{} acknowledged, 0 lost", writer.n_acked()),
        true,
    );
}
