//! Where the time of cold requests went, as the gateway tells with each answer, beside what their client
//! measured.

use anyhow::Context;
use serde_json::{Value, json};

use crate::figures::Samples;
use crate::http::Answer;
use crate::report::{Report, Table};

/// The gateway's names for the parts of a cold start, in their order.
const PARTS: [&str; 4] = ["placed", "spawned", "ready", "first-byte"];
/// Of what the client measured, at the median: more or less than that is time that nobody accounts for.
const TOLERANCE: f64 = 0.05;

/// One cold request, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stages {
    parts: [f64; PARTS.len()],
    /// What the client measured, from before the connect to the last byte.
    measured: f64,
}

impl Stages {
    /// # Errors
    /// The answer does not tell one of them.
    pub(crate) fn of(answer: &Answer, measured: f64) -> anyhow::Result<Self> {
        let header = answer.header("nihilo-cold-start");
        let mut parts = [0.0; PARTS.len()];
        for (part, name) in parts.iter_mut().zip(PARTS) {
            *part = part_in(header, name)?;
        }
        Ok(Self { parts, measured })
    }

    pub(crate) fn sum(&self) -> f64 {
        self.parts.iter().sum()
    }
}

/// A value of the header `placed=0.7;spawned=0.9;…`.
fn part_in(header: &str, name: &str) -> anyhow::Result<f64> {
    let mut parts = header.split(';').filter_map(|part| part.split_once('='));
    let value = parts.find(|(key, _)| *key == name).map(|(_, value)| value);
    let value = value.with_context(|| format!("`{header}` has no `{name}`"))?;
    value.parse().with_context(|| header.to_owned())
}

/// A table of them, their figures, and whether they account for what was measured.
pub(crate) fn fill(report: &mut Report, all: &[Stages]) {
    let columns = ["milliseconds", "p50", "p90", "p99", "mean"];
    let mut table = Table::new("Where a cold request's time went", &columns);
    let mut figures = serde_json::Map::new();
    let mut row = |name: &str, values: Vec<f64>| {
        let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
        let samples = Samples::new(values);
        let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|q| samples.quantile(q));
        let shown = [p50, p90, p99, mean].map(|value| format!("{value:.2}"));
        table.row([name.to_owned()].into_iter().chain(shown));
        figures.insert(
            name.into(),
            json!({"p50": p50, "p90": p90, "p99": p99, "mean": mean}),
        );
    };
    for (i, name) in PARTS.into_iter().enumerate() {
        row(name, all.iter().map(|stages| stages.parts[i]).collect());
    }
    row("sum of them", all.iter().map(Stages::sum).collect());
    row(
        "measured by the client",
        all.iter().map(|stages| stages.measured).collect(),
    );
    report.tables.push(table);
    report.figure("stages_ms", Value::Object(figures));
    let shares = all.iter().map(|stages| stages.sum() / stages.measured);
    let share = Samples::new(shares).quantile(0.5);
    report.figure("stages_of_measured", share);
    report.verdict(
        "stages sum to what the client measured ± 5 %",
        format!(
            "{:.1} % at the median of {} requests",
            share * 100.0,
            all.len()
        ),
        (share - 1.0).abs() <= TOLERANCE,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_read_from_the_gateways_header() {
        let header = "placed=0.5;spawned=1.25;ready=2;first-byte=0.3;total=4.05";
        assert_eq!(part_in(header, "first-byte").unwrap(), 0.3);
        assert!(part_in(header, "queued").is_err());
        assert!(part_in("", "placed").is_err());
    }
}
