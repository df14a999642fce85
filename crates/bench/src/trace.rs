//! The Azure Functions trace through the autoscaler's own code, in virtual time (P7): what each
//! function's requests wait for an instance, how many are started, how long they live.
//!
//! The control plane's decisions only: no gateway, no network, a sandbox of a fixed delay.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nihilo_entity::Settings;
use nihilo_entity::simulate::{self, Boot, Load, Scenario, Timeline};
use nihilo_scale::config::ScaleConfig;

use crate::figures::Samples;
use crate::report::{Report, Table};
use crate::{Common, say};

/// Columns before the first minute.
const FIXED_COLUMNS: usize = 4;
const MINUTE_MS: u64 = 60_000;
/// After the last request: it boots, it runs (the longest takes 147 s), and its instance ends.
const TAIL_S: u64 = 300;

#[derive(Debug, clap::Args)]
pub(crate) struct TraceArgs {
    /// Directory with `invocations.csv` and `durations.csv`.
    #[arg(long, value_name = "DIR")]
    trace: PathBuf,
    #[arg(long, default_value_t = 30)]
    minutes: usize,
    /// From a start to readiness, in milliseconds.
    #[arg(long, default_value_t = 100)]
    boot_ms: u64,
    /// A setting of `config-autoscaler`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// One function of the trace.
#[derive(Debug)]
struct Function {
    name: String,
    per_minute: Vec<u32>,
    duration_ms: u64,
}

pub(crate) fn run(_: &Common, args: &TraceArgs) -> anyhow::Result<Report> {
    let mut report = Report::new("trace");
    report.setting("minutes", args.minutes);
    report.setting("boot_ms", args.boot_ms);
    report.setting("set", args.set.join(" "));
    let functions = read(&args.trace, args.minutes)?;
    let n: u64 = functions
        .iter()
        .flat_map(|f| &f.per_minute)
        .map(|n| u64::from(*n))
        .sum();
    say(format!("{} functions, {n} invocations", functions.len()));
    let settings = settings(&args.set)?;
    let mut answers = Vec::new();
    for function in &functions {
        let timeline = simulate::run(&scenario(function, &settings, args));
        answers.push((function, timeline));
    }
    fill(&mut report, &answers, args);
    Ok(report)
}

fn settings(set: &[String]) -> anyhow::Result<Settings> {
    // Or each function would begin with an instance that nobody has asked for.
    let from_zero = [("allow-zero-initial-scale", "true"), ("initial-scale", "0")];
    let owned = from_zero.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let mut map = BTreeMap::from(owned);
    for pair in set {
        let (key, value) = pair
            .split_once('=')
            .with_context(|| format!("`{pair}` is not KEY=VALUE"))?;
        map.insert(key.to_owned(), value.to_owned());
    }
    Ok(Settings {
        scale: ScaleConfig::from_map(&map)?,
        ..Settings::default()
    })
}

fn read(dir: &Path, minutes: usize) -> anyhow::Result<Vec<Function>> {
    let durations = averages(&dir.join("durations.csv"))?;
    let file = dir.join("invocations.csv");
    let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let mut functions = Vec::new();
    for line in text.lines().skip(1) {
        let cells: Vec<&str> = line.split(',').collect();
        let Some(name) = cells.get(2) else {
            bail!("{}: no function in `{line}`", file.display());
        };
        let counts = cells.iter().skip(FIXED_COLUMNS).take(minutes);
        let per_minute: Vec<u32> = counts
            .map(|cell| cell.trim().parse().unwrap_or(0))
            .collect();
        functions.push(Function {
            name: (*name).to_owned(),
            per_minute,
            duration_ms: durations.get(*name).copied().unwrap_or(1).max(1),
        });
    }
    Ok(functions)
}

/// Average run time by function; the columns are found by their names.
fn averages(file: &Path) -> anyhow::Result<BTreeMap<String, u64>> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let mut lines = text.lines();
    let head: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let column = |name: &str| {
        let at = head.iter().position(|cell| cell.trim() == name);
        at.with_context(|| format!("{}: no column {name}", file.display()))
    };
    let (function, average) = (column("HashFunction")?, column("Average")?);
    let mut all = BTreeMap::new();
    for line in lines {
        let cells: Vec<&str> = line.split(',').collect();
        if let (Some(name), Some(ms)) = (cells.get(function), cells.get(average)) {
            let ms: f64 = ms.trim().parse().unwrap_or(0.0);
            all.insert((*name).to_owned(), ms.round() as u64);
        }
    }
    Ok(all)
}

/// A minute's invocations spread evenly over it, one at a time in an instance.
fn scenario(function: &Function, settings: &Settings, args: &TraceArgs) -> Scenario {
    let mut trace = Vec::new();
    for (minute, n) in function.per_minute.iter().enumerate() {
        for i in 0..u64::from(*n) {
            trace.push(Load::Arrivals {
                t_ms: minute as u64 * MINUTE_MS + i * MINUTE_MS / u64::from(*n),
                start: 1,
                duration_ms: function.duration_ms,
            });
        }
    }
    Scenario {
        settings: settings.clone(),
        annotations: BTreeMap::new(),
        container_concurrency: 1,
        boot: Boot::Fixed { ms: args.boot_ms },
        seed: 1,
        tail_s: TAIL_S,
        trace,
    }
}

fn fill(report: &mut Report, answers: &[(&Function, Timeline)], args: &TraceArgs) {
    let asked: Vec<_> = answers.iter().filter(|(_, t)| t.n_requests > 0).collect();
    let means = Samples::new(asked.iter().map(|(_, t)| t.wait_mean_ms));
    let starts: u64 = answers.iter().map(|(_, t)| t.cold_starts).sum();
    let alive: f64 = answers.iter().map(|(_, t)| t.instance_seconds).sum();
    let busy: f64 = answers
        .iter()
        .map(|(f, t)| t.n_requests as f64 * f.duration_ms as f64 / 1e3)
        .sum();
    let worst = asked
        .iter()
        .max_by(|a, b| a.1.wait_mean_ms.total_cmp(&b.1.wait_mean_ms));
    let mut table = Table::new(
        "Per-function average scheduling latency, virtual time",
        &["what", "value"],
    );
    let rows = [
        ("functions with requests", asked.len().to_string()),
        ("p50 ms", format!("{:.1}", means.quantile(0.5))),
        ("p99 ms", format!("{:.1}", means.quantile(0.99))),
        ("worst ms", format!("{:.1}", means.quantile(1.0))),
        (
            "worst function",
            worst.map_or(String::new(), |(f, _)| f.name.chars().take(12).collect()),
        ),
        ("instances started", starts.to_string()),
        ("instance-seconds alive", format!("{alive:.0}")),
        ("instance-seconds busy", format!("{busy:.0}")),
        ("alive / busy", format!("{:.2}", alive / busy.max(1e-9))),
    ];
    for (what, value) in rows {
        table.row([what.to_owned(), value]);
    }
    report.tables.push(table);
    report.figure("p50_ms", means.quantile(0.5));
    report.figure("p99_ms", means.quantile(0.99));
    report.figure("worst_ms", means.quantile(1.0));
    report.figure("cold_starts", starts);
    report.figure("alive_s", alive);
    report.figure("busy_s", busy);
    let boot = args.boot_ms as f64;
    report.verdict(
        "per-function average: p50 ≤ delay + 5 ms, p99 ≤ 2 delays, worst ≤ 1 s (decisions only)",
        format!(
            "{:.1} / {:.1} / {:.1} ms",
            means.quantile(0.5),
            means.quantile(0.99),
            means.quantile(1.0)
        ),
        means.quantile(0.5) <= boot + 5.0
            && means.quantile(0.99) <= 2.0 * boot
            && means.quantile(1.0) <= 1_000.0,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_of_a_trace_is_served_the_last_one_too() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let head = "HashOwner,HashApp,HashFunction,Trigger,480,481,482";
        let asked = "o,a,once,timer,0,1,0\no,a,busy,http,6,6,6\no,a,never,http,0,0,0";
        write("invocations.csv", &format!("{head}\n{asked}\n"));
        let head = "HashOwner,HashApp,HashFunction,Average,Count";
        write("durations.csv", &format!("{head}\no,a,busy,250,9\n"));
        let args = TraceArgs {
            trace: dir.path().to_owned(),
            minutes: 2,
            boot_ms: 100,
            set: Vec::new(),
        };
        let functions = read(&args.trace, args.minutes).unwrap();
        let settings = settings(&args.set).unwrap();
        let answer = |f: &Function| simulate::run(&scenario(f, &settings, &args));
        let [once, busy, never] = [0, 1, 2].map(|i| answer(&functions[i]));
        let asked = [&once, &busy, &never].map(|timeline| timeline.n_requests);
        assert_eq!(asked, [1, 12, 0]);
        // Nothing comes after it, and yet it has waited for its boot.
        assert_eq!(once.wait_mean_ms, 100.0);
        assert_eq!(never.cold_starts, 0);
        assert!(busy.wait_max_ms >= 100 && busy.wait_mean_ms < 100.0);
        // Alive until it is scaled to zero, not until the trace ends.
        assert!((10.0..TAIL_S as f64 - 1.0).contains(&once.instance_seconds));
    }
}
