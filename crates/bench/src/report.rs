//! What a benchmark leaves behind: tables for people, JSON with the same figures, and the machine
//! that they belong to.

use std::path::Path;
use std::process::Command;

use anyhow::Context;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::figures::Spread;

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    bench: &'static str,
    at: String,
    commit: String,
    machine: Machine,
    /// What was asked for, and what had to be left out.
    pub(crate) settings: Map<String, Value>,
    pub(crate) tables: Vec<Table>,
    /// The figures of the tables, unrounded.
    pub(crate) figures: Map<String, Value>,
    pub(crate) verdicts: Vec<Verdict>,
}

#[derive(Debug, Serialize)]
struct Machine {
    cores: usize,
    cpu: String,
    memory_gib: u64,
    kernel: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct Table {
    title: String,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// One goal, and whether this run reached it.
#[derive(Debug, Serialize)]
pub(crate) struct Verdict {
    goal: String,
    measured: String,
    reached: bool,
}

impl Report {
    pub(crate) fn new(bench: &'static str) -> Self {
        Self {
            bench,
            at: jiff::Timestamp::now()
                .strftime("%Y-%m-%dT%H:%M:%SZ")
                .to_string(),
            commit: commit(),
            machine: Machine::this(),
            settings: Map::new(),
            tables: Vec::new(),
            figures: Map::new(),
            verdicts: Vec::new(),
        }
    }

    pub(crate) fn bench(&self) -> &'static str {
        self.bench
    }

    pub(crate) fn setting(&mut self, key: &str, value: impl Into<Value>) {
        self.settings.insert(key.into(), value.into());
    }

    pub(crate) fn figure(&mut self, key: &str, value: impl Into<Value>) {
        self.figures.insert(key.into(), value.into());
    }

    pub(crate) fn verdict(&mut self, goal: &str, measured: impl Into<String>, reached: bool) {
        self.verdicts.push(Verdict {
            goal: goal.into(),
            measured: measured.into(),
            reached,
        });
    }

    pub(crate) fn print(&self) {
        let Machine {
            cores,
            cpu,
            memory_gib,
            kernel,
        } = &self.machine;
        println!();
        println!("{} · {} · commit {}", self.bench, self.at, self.commit);
        println!("{cores} cores · {cpu} · {memory_gib} GiB · Linux {kernel}");
        let settings = self.settings.iter().map(|(key, value)| match value {
            Value::String(text) => format!("{key} {text}"),
            other => format!("{key} {other}"),
        });
        println!("{}", settings.collect::<Vec<_>>().join(" · "));
        for table in &self.tables {
            println!("\n{}", table.render());
        }
        if !self.verdicts.is_empty() {
            println!();
        }
        for verdict in &self.verdicts {
            let sign = if verdict.reached {
                "reached"
            } else {
                "NOT reached"
            };
            println!("{sign}: {} — {}", verdict.goal, verdict.measured);
        }
    }

    pub(crate) fn write(&self, file: &Path) -> anyhow::Result<()> {
        if let Some(parent) = file.parent() {
            std::fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
        }
        let json = serde_json::to_string_pretty(self)?;
        std::fs::write(file, json + "\n").with_context(|| file.display().to_string())
    }
}

impl Table {
    pub(crate) fn new(title: impl Into<String>, columns: &[&str]) -> Self {
        Self {
            title: title.into(),
            columns: columns.iter().map(|column| (*column).into()).collect(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Markdown: readable as it is, and ready for the document.
    fn render(&self) -> String {
        let widths: Vec<_> = (0..self.columns.len())
            .map(|i| {
                let cells = self.rows.iter().filter_map(|row| row.get(i));
                let all = cells.chain([&self.columns[i]]);
                all.map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        let line = |cells: &[String]| {
            let padded = cells.iter().zip(&widths).map(|(cell, width)| {
                let fill = " ".repeat(width - cell.chars().count());
                format!(" {cell}{fill} ")
            });
            format!("|{}|", padded.collect::<Vec<_>>().join("|"))
        };
        let rule: Vec<_> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
        let mut lines = vec![
            self.title.clone(),
            String::new(),
            line(&self.columns),
            format!("|{}|", rule.join("|")),
        ];
        lines.extend(self.rows.iter().map(|row| line(row)));
        lines.join("\n")
    }
}

impl Machine {
    fn this() -> Self {
        let of = |file: &str, key: &str| {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(key));
            let value = line.and_then(|line| line.split_once(':'));
            value.map_or("unknown".into(), |(_, value)| value.trim().to_owned())
        };
        let kib = of("/proc/meminfo", "MemTotal");
        let kib = kib
            .split(' ')
            .next()
            .and_then(|kib| kib.parse::<u64>().ok());
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: of("/proc/cpuinfo", "model name"),
            memory_gib: kib.unwrap_or(0).div_ceil(1024 * 1024),
            kernel: kernel.trim().to_owned(),
        }
    }
}

/// What is measured; `-dirty` when the tree holds more than that commit.
fn commit() -> String {
    let git = Command::new("git")
        .args(["describe", "--always", "--dirty", "--exclude=*"])
        .output();
    match git {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => "unknown".into(),
    }
}

/// `1.2 (0.9–1.4)`: median and range.
pub(crate) fn spread_text(spread: Spread, decimals: usize) -> String {
    let Spread { median, min, max } = spread;
    format!("{median:.decimals$} ({min:.decimals$}–{max:.decimals$})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_markdown_with_even_columns() {
        let mut table = Table::new("Cold", &["what", "p50 µs"]);
        table.row(["bare".into(), "1".into()]);
        let text = table.render();
        assert_eq!(
            text,
            "Cold\n\n| what | p50 µs |\n|------|--------|\n| bare | 1      |"
        );
    }

    #[test]
    fn a_report_is_written_with_its_machine() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("deep/cold.json");
        let mut report = Report::new("cold");
        report.figure("p50_ms", 1.5);
        report.verdict("p50 ≤ 1 ms", "1.5 ms", false);
        report.write(&file).unwrap();
        let json: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        assert_eq!(json["figures"]["p50_ms"], 1.5);
        assert!(json["machine"]["cores"].as_u64().unwrap() >= 1);
        assert_eq!(json["verdicts"][0]["reached"], false);
    }
}
