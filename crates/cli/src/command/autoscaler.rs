//! `nihilo autoscaler simulate`: what an autoscaler would have done with a trace of load, by the
//! code that decides for live revisions.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use nihilo_entity::Settings;
use nihilo_entity::simulate::{self, Boot, Scenario, Timeline};
use nihilo_scale::config::{ScaleConfig, validate_annotations};
use nihilo_types::time::parse_go_duration_ms;

use crate::failure::{Failure, Result};
use crate::output;

/// Largest trace that is read.
const MAX_TRACE_BYTES: u64 = 256 * 1024 * 1024;

#[derive(Debug, Subcommand)]
pub(crate) enum AutoscalerCommand {
    /// Replay a trace and print the scale timeline.
    Simulate(Box<SimulateArgs>),
}

#[derive(Debug, clap::Args)]
pub(crate) struct SimulateArgs {
    /// One JSON object a line: `{"t_ms":…,"start":n,"duration_ms":…}` or
    /// `{"t_ms":…,"concurrency":x,"rps":y}`.
    #[arg(long, value_name = "FILE")]
    trace: PathBuf,
    /// A cluster setting as in `config-autoscaler`, or an annotation with its full key.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The same trace once more with this changed, for comparison.
    #[arg(long, value_name = "KEY=VALUE")]
    compare: Option<String>,
    /// From a start to readiness: `300ms`, or `lognormal(300ms,0.4)`.
    #[arg(long, default_value = "300ms", value_parser = parse_boot)]
    boot: Boot,
    /// Requests that an instance takes at a time; 0 = any number.
    #[arg(long, default_value_t = 0)]
    cc: u32,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seconds to go on after the trace has ended.
    #[arg(long, default_value_t = 120)]
    tail: u64,
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
    Csv,
}

pub(crate) fn run(command: &AutoscalerCommand) -> Result<()> {
    let AutoscalerCommand::Simulate(args) = command;
    let shown = args.trace.display();
    let size = std::fs::metadata(&args.trace).map(|meta| meta.len());
    if size.is_ok_and(|size| size > MAX_TRACE_BYTES) {
        return Err(Failure::usage(format!(
            "{shown}: more than {MAX_TRACE_BYTES} bytes"
        )));
    }
    let text = std::fs::read_to_string(&args.trace)
        .map_err(|error| Failure::usage(format!("cannot read {shown}: {error}")))?;
    let trace = simulate::parse_trace(&text)
        .map_err(|error| Failure::usage(format!("{shown}: {error}")))?;
    let mut settings: Vec<&str> = args.set.iter().map(String::as_str).collect();
    let first = simulate::run(&scenario(args, &settings, trace.clone())?);
    print(&first, args.output)?;
    if let Some(change) = &args.compare {
        settings.push(change);
        let second = simulate::run(&scenario(args, &settings, trace)?);
        output::data(&format!("\nwith {change}:\n"));
        print(&second, args.output)?;
    }
    Ok(())
}

/// What has a slash is an annotation, the rest are the cluster's settings.
fn scenario(args: &SimulateArgs, set: &[&str], trace: Vec<simulate::Load>) -> Result<Scenario> {
    let (mut config, mut annotations) = (BTreeMap::new(), BTreeMap::new());
    for pair in set {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| Failure::usage(format!("`{pair}` is not KEY=VALUE")))?;
        let into = if key.contains('/') {
            &mut annotations
        } else {
            &mut config
        };
        into.insert(key.to_owned(), value.to_owned());
    }
    let scale = ScaleConfig::from_known(&config).map_err(|error| Failure::usage(error.0))?;
    let problems = validate_annotations(&annotations, &scale);
    if let Some(problem) = problems.first() {
        return Err(Failure::usage(problem.to_string()));
    }
    Ok(Scenario {
        settings: Settings {
            scale,
            ..Settings::default()
        },
        annotations,
        container_concurrency: args.cc,
        boot: args.boot,
        seed: args.seed,
        tail_s: args.tail,
        trace,
    })
}

fn print(timeline: &Timeline, format: Format) -> Result<()> {
    match format {
        Format::Json => {
            let json = serde_json::to_string(timeline)
                .map_err(|error| Failure::usage(error.to_string()))?;
            output::data(&json);
        }
        Format::Csv => {
            output::data("t_s,desired,instances,ready,in_flight,queued,panic");
            for row in &timeline.rows {
                output::data(&format!(
                    "{},{},{},{},{},{},{}",
                    row.t_s,
                    row.desired,
                    row.instances,
                    row.ready,
                    row.in_flight,
                    row.queued,
                    row.panic
                ));
            }
        }
        Format::Table => output::data(&table(timeline)),
    }
    Ok(())
}

/// The seconds in which something changed, and the sums.
fn table(timeline: &Timeline) -> String {
    let mut rows = Vec::new();
    let mut before = None;
    for row in &timeline.rows {
        let state = (row.desired, row.instances, row.ready, row.panic);
        if before == Some(state) {
            continue;
        }
        before = Some(state);
        rows.push(vec![
            format!("{} s", row.t_s),
            row.desired.to_string(),
            row.instances.to_string(),
            row.ready.to_string(),
            row.in_flight.to_string(),
            row.queued.to_string(),
            if row.panic { "panic" } else { "" }.into(),
        ]);
    }
    let head = [
        "TIME",
        "DESIRED",
        "INSTANCES",
        "READY",
        "IN FLIGHT",
        "QUEUED",
        "",
    ];
    let panics = timeline
        .panics
        .iter()
        .map(|(from, to)| to - from)
        .sum::<u64>()
        / 1_000;
    format!(
        "{}\n\n{} requests, {} instances started, {:.0} instance-seconds\nwaits p50 {} ms, p99 {} \
         ms, at most {} ms\n{} times in panic, {panics} s in all",
        output::table(&head, &rows),
        timeline.n_requests,
        timeline.cold_starts,
        timeline.instance_seconds,
        timeline.wait_p50_ms,
        timeline.wait_p99_ms,
        timeline.wait_max_ms,
        timeline.panics.len(),
    )
}

fn parse_boot(text: &str) -> std::result::Result<Boot, String> {
    let wrong = || format!("`{text}` is neither a duration such as 300ms nor lognormal(300ms,0.4)");
    let inner = text
        .strip_prefix("lognormal(")
        .and_then(|rest| rest.strip_suffix(')'));
    let Some(inner) = inner else {
        let ms = parse_go_duration_ms(text).ok_or_else(wrong)?;
        return Ok(Boot::Fixed { ms });
    };
    let (median, sigma) = inner.split_once(',').ok_or_else(wrong)?;
    let median_ms = parse_go_duration_ms(median.trim()).ok_or_else(wrong)?;
    let sigma = sigma.trim().parse().map_err(|_| wrong())?;
    match (0.0..=3.0).contains(&sigma) {
        true => Ok(Boot::LogNormal { median_ms, sigma }),
        false => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boots_are_fixed_or_drawn() {
        assert_eq!(parse_boot("300ms"), Ok(Boot::Fixed { ms: 300 }));
        let drawn = Boot::LogNormal {
            median_ms: 300,
            sigma: 0.4,
        };
        assert_eq!(parse_boot("lognormal(300ms, 0.4)"), Ok(drawn));
        assert!(parse_boot("soon").is_err() && parse_boot("lognormal(1s,9)").is_err());
    }
}
