//! Autoscaler decisions per core-second (P21): the maths alone, and whole turns of the actor.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nihilo_entity::Settings;
use nihilo_entity::simulate::{self, Boot, Load, Scenario};
use nihilo_scale::burst;
use nihilo_scale::config::{RevisionScale, ScaleConfig};
use nihilo_scale::decider::{Decider, Observed};
use nihilo_scale::to_zero::{self, Active, Question, Reachability};
use nihilo_scale::window::Window;
use nihilo_types::condition::ConditionStatus;

use crate::report::{Report, Table};
use crate::{Common, say};

const GOAL_PER_SECOND: f64 = 500_000.0;

#[derive(Debug, clap::Args)]
pub(crate) struct AutoscalerArgs {
    /// Revisions that are decided in turn, each with its own windows.
    #[arg(long, default_value_t = 10_000)]
    revisions: usize,
    /// Seconds that each part runs.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

/// One revision's share of an owner's state.
struct One {
    stable: Window,
    panic: Window,
    decider: Decider,
}

pub(crate) fn run(_: &Common, args: &AutoscalerArgs) -> anyhow::Result<Report> {
    let mut report = Report::new("autoscaler");
    report.setting("revisions", args.revisions);
    report.setting("seconds", args.seconds);
    let limit = Duration::from_secs(args.seconds);
    say("the maths");
    let maths = maths(args.revisions, limit);
    say("turns of the actor");
    let turns = turns(limit);
    let mut table = Table::new(
        "Decisions per core-second",
        &["what", "per second", "ns each"],
    );
    for (what, per_second) in [
        (
            "a second into the windows, averages, decision, bounds",
            maths,
        ),
        ("a turn of the actor, record of it included", turns),
    ] {
        let each = 1e9 / per_second;
        table.row([
            what.to_owned(),
            format!("{per_second:.0}"),
            format!("{each:.0}"),
        ]);
    }
    report.tables.push(table);
    report.figure("maths_per_second", maths);
    report.figure("turns_per_second", turns);
    report.verdict(
        "decisions per core-second ≥ 500,000",
        format!("{maths:.0}"),
        maths >= GOAL_PER_SECOND,
    );
    Ok(report)
}

fn maths(n: usize, limit: Duration) -> f64 {
    let scale = RevisionScale::resolve(&BTreeMap::new(), 10, &ScaleConfig::default());
    let mut all: Vec<One> = (0..n)
        .map(|_| One {
            stable: Window::new(scale.stable_seconds(), scale.aggregation),
            panic: Window::new(scale.panic_seconds(), scale.aggregation),
            decider: Decider::new(&scale, 0, 1),
        })
        .collect();
    let (started, mut second, mut n_decided, mut sum) = (Instant::now(), 0u64, 0u64, 0i64);
    while started.elapsed() < limit {
        second += 1;
        for (i, one) in all.iter_mut().enumerate() {
            let load = ((i as u64 + second) % 40) as f64;
            one.stable.record(second, load);
            one.panic.record(second, load);
            let decision = one.decider.decide(
                &scale,
                Observed {
                    now_ms: second * 1_000,
                    stable: one.stable.average(second),
                    panic: one.panic.average(second),
                    n_ready: Some(3),
                    reachable: true,
                },
            );
            let decided = decision.map_or(-1, |decision| decision.desired);
            let wanted = to_zero::wanted(&scale, question(decided, second * 1_000));
            let excess = decision.map_or(0, |decision| decision.excess_burst);
            sum += i64::from(wanted.n) + i64::from(burst::data_path(wanted.n, excess) as u8);
            n_decided += 1;
        }
    }
    // What nobody looks at, the compiler may leave out.
    say(format!("checksum {sum}"));
    n_decided as f64 / started.elapsed().as_secs_f64()
}

fn question(decided: i32, now_ms: u64) -> Question {
    Question {
        now_ms,
        decided,
        active: Active {
            status: ConditionStatus::True,
            reason: "",
            since_ms: 0,
        },
        initialized: true,
        reachability: Reachability::Reachable,
        proxy_since_ms: None,
        path_safe: true,
    }
}

/// Simulated hours of measured load, by the decisions that they took.
fn turns(limit: Duration) -> f64 {
    let measured = |t_s: u64| Load::Measured {
        t_ms: t_s * 1_000,
        concurrency: (t_s % 40) as f64,
        rps: 10.0,
    };
    let scenario = Scenario {
        settings: Settings::default(),
        annotations: BTreeMap::new(),
        container_concurrency: 10,
        boot: Boot::Fixed { ms: 300 },
        seed: 1,
        tail_s: 0,
        trace: (1..3_600).map(measured).collect(),
    };
    let (started, mut n) = (Instant::now(), 0);
    while started.elapsed() < limit {
        n += simulate::run(&scenario).decisions.len();
    }
    n as f64 / started.elapsed().as_secs_f64()
}
