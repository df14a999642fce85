//! What is said about one cell of the matrix.

use super::cell::{Body, Cell};
use super::{Contestant, Measurement, NIHILO, Sample};
use crate::figures::{Samples, Spread, ratios};
use crate::load::Protocol;
use crate::report::{Report, Table, spread_text};

/// Of its own rate with the fewest routes.
const GOAL_MANY_ROUTES: f64 = 0.97;
/// The goals are for this cell; in the others they are looked at as well.
const GOAL_CELL: Cell = Cell {
    protocol: Protocol::H1,
    body: Body::K1,
};

/// A column of the tables: its name, its key in the JSON, its decimals, and where it comes from.
type Column = (&'static str, &'static str, usize, fn(&Sample) -> f64);

const COLUMNS: [Column; 9] = [
    ("CPU-µs, light", "light_cpu_us", 1, |s| s.light.cpu_us),
    ("data threads", "light_data_cpu_us", 1, |s| {
        s.light.data_cpu_us
    }),
    ("p50 µs", "light_p50_us", 0, |s| s.light.p50_us),
    ("p99 µs", "light_p99_us", 0, |s| s.light.p99_us),
    ("CPU-µs, heavy", "heavy_cpu_us", 1, |s| s.heavy.cpu_us),
    ("p50 µs", "heavy_p50_us", 0, |s| s.heavy.p50_us),
    ("p99 µs", "heavy_p99_us", 0, |s| s.heavy.p99_us),
    ("peak req/s", "peak_rate", 0, |s| s.peak.rate),
    ("CPU-µs, peak", "peak_cpu_us", 1, |s| s.peak.cpu_us),
];

pub(super) fn fill(report: &mut Report, measurement: &Measurement<'_>) {
    let key = measurement.cell.key();
    let heavy = measurement.heavy_rate.round();
    report.setting(&format!("{key}_heavy_rate"), heavy);
    let n_dropped = measurement.n_dropped;
    report.setting(&format!("{key}_rounds_dropped_for_steal"), n_dropped);
    let figures = figures(report, measurement);
    report.tables.push(figures);
    let ratios = ratios_by_round(report, measurement);
    report.tables.push(ratios);
    many_routes(report, measurement);
}

fn heads() -> Vec<&'static str> {
    let columns = COLUMNS.map(|column| column.0);
    [""].into_iter().chain(columns).collect()
}

impl Measurement<'_> {
    fn values(&self, who: usize, of: fn(&Sample) -> f64) -> Vec<f64> {
        self.rounds.iter().map(|round| of(&round[who])).collect()
    }

    fn ratio(&self, ours: usize, theirs: usize, of: fn(&Sample) -> f64) -> Spread {
        ratios(&self.values(ours, of), &self.values(theirs, of)).spread()
    }

    fn position(&self, is_it: impl Fn(&Contestant) -> bool) -> Option<usize> {
        self.all.iter().position(|who| is_it(who))
    }
}

fn figures(report: &mut Report, measurement: &Measurement<'_>) -> Table {
    let label = measurement.cell.label();
    let title = format!("{label}: medians over the rounds (min–max)");
    let mut table = Table::new(title, &heads());
    for (i, who) in measurement.all.iter().enumerate() {
        let cells = COLUMNS.map(|(_, key, decimals, of)| {
            let spread = Samples::new(measurement.values(i, of)).spread();
            let key = format!("{}_{}_{key}", measurement.cell.key(), who.key());
            report.figure(&key, serde_json::json!(spread));
            spread_text(spread, decimals)
        });
        table.row([who.label()].into_iter().chain(cells));
    }
    table
}

/// Ours beside each other proxy with as many routes.
fn ratios_by_round(report: &mut Report, measurement: &Measurement<'_>) -> Table {
    let label = measurement.cell.label();
    let title = format!("{label}: Nihilo ÷ other, by round: medians (min–max)");
    let mut table = Table::new(title, &heads());
    for (i, who) in measurement.all.iter().enumerate() {
        let ours = measurement.position(|own| own.name == NIHILO && own.n_routes == who.n_routes);
        let Some(ours) = ours.filter(|ours| *ours != i) else {
            continue;
        };
        let cells = COLUMNS.map(|(_, _, _, of)| spread_text(measurement.ratio(ours, i, of), 2));
        table.row([who.label()].into_iter().chain(cells));
        let cpu = measurement.ratio(ours, i, |s| s.light.cpu_us);
        let p99 = measurement.ratio(ours, i, |s| s.heavy.p99_us);
        let key = format!("{}_{}", measurement.cell.key(), who.key());
        report.figure(&format!("{key}_cpu_ratio"), serde_json::json!(cpu));
        report.figure(&format!("{key}_p99_ratio"), serde_json::json!(p99));
        let is_goals = measurement.cell == GOAL_CELL;
        let place = format!("{label}, {} routes", who.n_routes);
        let (goal, name, spread, limit) = match who.name {
            "nginx" => ("CPU per request ≤ 1.0 × nginx", "P9", cpu, 1.0),
            _ => (
                "p99 at 70 % of the slowest peak ≤ 1.1 × HAProxy",
                "P10",
                p99,
                1.1,
            ),
        };
        let name = format!("{} {name}", if is_goals { "goal" } else { "as goal" });
        let goal = format!("{place}: {goal} ({name})");
        let reached = spread.median <= limit;
        report.verdict(&goal, format!("{} ×", spread_text(spread, 2)), reached);
    }
    table
}

/// Ours with more routes beside itself with the fewest.
fn many_routes(report: &mut Report, measurement: &Measurement<'_>) {
    let all = measurement.all.iter().enumerate();
    let mut ours: Vec<_> = all.filter(|(_, who)| who.name == NIHILO).collect();
    ours.sort_by_key(|(_, who)| who.n_routes);
    let Some(((few, with_few), more)) = ours.split_first() else {
        return;
    };
    for (many, with_many) in more {
        let rate = measurement.ratio(*many, *few, |s| s.peak.rate);
        let cpu = measurement.ratio(*many, *few, |s| s.light.cpu_us);
        let key = format!("{}_{}", measurement.cell.key(), with_many.n_routes);
        report.figure(&format!("{key}_peak_over_few"), serde_json::json!(rate));
        report.figure(&format!("{key}_cpu_over_few"), serde_json::json!(cpu));
        let goal = format!(
            "{}: with {} routes ≥ {GOAL_MANY_ROUTES} × its own rate with {} (goal P11)",
            measurement.cell.label(),
            with_many.n_routes,
            with_few.n_routes
        );
        let measured = format!(
            "{} × at the peak; CPU per request {} ×",
            spread_text(rate, 2),
            spread_text(cpu, 2)
        );
        report.verdict(&goal, measured, rate.median >= GOAL_MANY_ROUTES);
    }
}
