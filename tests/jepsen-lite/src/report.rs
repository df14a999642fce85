//! A page about one trial: the verdict, the command that repeats it, and a picture over time.

use std::path::Path;

use nihilo_sim::checker::{Report, Verdict};

use crate::instance_ledger::InstanceLine;
use crate::judge::{Evidences, node_name};
use crate::record::{FaultRecord, Outcome, RequestRecord};

const WIDTH: f64 = 1_400.0;
const LEFT: f64 = 70.0;
const LANE: f64 = 130.0;
/// The picture's longest time of a request, at the top of a lane; 1 ms is its bottom.
const LONGEST_MS: f64 = 40_000.0;
/// Requests drawn, good ones left out first.
const MAX_DOTS: usize = 20_000;

/// Writes `report.html` and `verdict.json` into a trial's folder.
///
/// # Errors
/// The folder cannot be written.
pub fn write(
    folder: &Path,
    report: &Report,
    evidences: &Evidences,
    faults: &[FaultRecord],
    instances: &[InstanceLine],
    command: &str,
) -> std::io::Result<()> {
    std::fs::write(
        folder.join("verdict.json"),
        serde_json::to_string_pretty(report)?,
    )?;
    let page = page(report, evidences, faults, instances, command);
    std::fs::write(folder.join("report.html"), page)
}

fn page(
    report: &Report,
    evidences: &Evidences,
    faults: &[FaultRecord],
    instances: &[InstanceLine],
    command: &str,
) -> String {
    let mut page = String::from(
        "<!doctype html><meta charset=utf-8><title>trial</title><style>body{font:14px sans-serif;\
         margin:2em}pre{background:#f4f4f4;padding:1em;overflow:auto}svg text{font:11px \
         sans-serif}</style>",
    );
    let class = report.class();
    page.push_str(&format!(
        "<h1>{class}</h1><p>Again: <code>{}</code></p>",
        escaped(command)
    ));
    page.push_str(&picture(&evidences.requests, faults, instances));
    for check in &report.checks {
        let open = if matches!(check.verdict, Verdict::Pass(_)) {
            ""
        } else {
            " open"
        };
        let (name, text) = (escaped(&check.checker), escaped(&check.verdict.to_string()));
        let class = check.verdict.class();
        page.push_str(&format!(
            "<details{open}><summary>{name}: {class}</summary><pre>{text}</pre></details>"
        ));
    }
    page
}

/// A lane per gateway: requests by the time of their end and how long they took; below, the lives
/// of instances; through all, the faults.
fn picture(
    requests: &[RequestRecord],
    faults: &[FaultRecord],
    instances: &[InstanceLine],
) -> String {
    let times = requests.iter().flat_map(|r| [r.sent_ns, r.ended_ns]);
    let times = times.chain(faults.iter().map(|fault| fault.boottime_ns));
    let times: Vec<_> = times.filter(|time| *time > 0).collect();
    let (Some(first), Some(last)) = (times.iter().min(), times.iter().max()) else {
        return String::new();
    };
    let span = (last - first).max(1) as f64;
    let x = |at: u64| LEFT + at.saturating_sub(*first) as f64 / span * (WIDTH - LEFT - 10.0);
    let n_lanes = requests.iter().map(|r| r.gateway + 1).max().unwrap_or(1);
    let lives = lives(instances);
    let bottom = LANE * n_lanes as f64 + 20.0;
    let height = bottom + 6.0 * lives.len() as f64 + 30.0;
    let mut svg = format!("<svg width={WIDTH} height={height} style='background:#fff'>");
    for lane in 0..n_lanes {
        let y = LANE * (lane + 1) as f64;
        let name = node_name(lane);
        svg.push_str(&format!(
            "<line x1={LEFT} x2={WIDTH} y1={y} y2={y} stroke='#ccc'/><text x=2 y={y}>{name}</text>"
        ));
    }
    svg.push_str(&dots(requests, &x));
    for (row, (instance, from, until)) in lives.iter().enumerate() {
        let (y, from_x, width) = (bottom + 6.0 * row as f64, x(*from), x(*until) - x(*from));
        let name = escaped(instance);
        svg.push_str(&format!("<rect x={from_x:.1} y={y} width={:.1} height=4 fill='#7a9'><title>{name}</title></rect>",
            width.max(1.0)));
    }
    for fault in faults {
        let at = x(fault.boottime_ns);
        let whom = fault.node.map(node_name).unwrap_or_default();
        let text = escaped(&format!("{} {whom}", fault.what));
        svg.push_str(&format!("<line x1={at:.1} x2={at:.1} y1=0 y2={height} stroke='#c008'><title>{text}</title>\
             </line><text x={at:.1} y=10 transform='rotate(20 {at:.1} 10)' fill='#a00'>{text}</text>"));
    }
    svg.push_str("</svg>");
    svg
}

fn dots(requests: &[RequestRecord], x: &impl Fn(u64) -> f64) -> String {
    let mut drawn: Vec<_> = requests.iter().collect();
    drawn.sort_by_key(|request| color(&request.outcome) == GOOD);
    drawn.truncate(MAX_DOTS);
    let mut svg = String::new();
    for request in drawn {
        let took_ms = request.ended_ns.saturating_sub(request.sent_ns) as f64 / 1e6;
        let share = took_ms.max(1.0).ln() / LONGEST_MS.ln();
        let y = LANE * (request.gateway + 1) as f64 - share * (LANE - 25.0);
        let text = escaped(&format!(
            "{} {} {} {took_ms:.0} ms {:?}",
            request.nonce, request.method, request.service, request.outcome
        ));
        let (cx, color) = (x(request.ended_ns), color(&request.outcome));
        svg.push_str(&format!(
            "<circle cx={cx:.1} cy={y:.1} r=2 fill='{color}'><title>{text}</title></circle>"
        ));
    }
    svg
}

const GOOD: &str = "#2a72";

fn color(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Answered(answered) if answered.status < 300 && answered.mistake.is_empty() => GOOD,
        Outcome::Answered(_) => "#e80",
        Outcome::Cut { .. } => "#a0a",
        Outcome::Refused { .. } => "#999",
        Outcome::Broken { .. } => "#555",
        Outcome::Open | Outcome::Hung => "#f00",
    }
}

/// From the first to the last line of each instance.
fn lives(instances: &[InstanceLine]) -> Vec<(String, u64, u64)> {
    let mut lives: std::collections::BTreeMap<&str, (u64, u64)> = std::collections::BTreeMap::new();
    for line in instances {
        let life = lives
            .entry(&line.instance)
            .or_insert((line.at_ns, line.at_ns));
        life.1 = life.1.max(line.at_ns);
    }
    let mut lives: Vec<_> = lives
        .into_iter()
        .map(|(instance, (from, until))| (instance.to_owned(), from, until))
        .collect();
    lives.sort_by_key(|life| life.1);
    lives
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use nihilo_sim::checker::Evidence;

    use super::*;

    #[test]
    fn the_page_names_the_command_the_violation_and_the_fault() {
        let mut report = Report::default();
        let evidence = Evidence::new("n-1", "executed <twice>");
        let violation = nihilo_sim::checker::Violation {
            n_found: 1,
            evidence: vec![evidence],
        };
        report.add("C10", Verdict::Violation(violation));
        let faults = [FaultRecord {
            boottime_ns: 5,
            what: "kill -9".into(),
            node: Some(1),
        }];
        let page = page(
            &report,
            &Evidences::default(),
            &faults,
            &[],
            "again --seed 7",
        );
        for part in [
            "VIOLATION",
            "executed &lt;twice&gt;",
            "kill -9 node2",
            "again --seed 7",
        ] {
            assert!(page.contains(part), "{part} is not in {page}");
        }
    }
}
