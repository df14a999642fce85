//! How the demo shows its figures.

use std::collections::BTreeMap;

const BARS: [char; 9] = ['_', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Columns of a sparkline; longer runs are thinned by their maxima.
const MAX_COLUMNS: usize = 32;

/// Counts over time as bars; `_` is zero, the highest bar is the maximum.
pub(crate) fn sparkline(counts: &[usize]) -> String {
    let max = counts.iter().copied().max().unwrap_or(0).max(1);
    let per_column = counts.len().div_ceil(MAX_COLUMNS).max(1);
    let peaks = counts
        .chunks(per_column)
        .map(|chunk| chunk.iter().copied().max().unwrap_or(0));
    peaks
        .map(|count| BARS[(count * (BARS.len() - 1)).div_ceil(max)])
        .collect()
}

/// The header `nihilo-cold-start`, `placed=1;spawned=3;…` in milliseconds, as `placed 1 · spawned 3`.
pub(crate) fn phases(header: &str) -> String {
    let parts = header
        .split(';')
        .filter_map(|part| part.trim().split_once('='));
    let parts: Vec<_> = parts.map(|(phase, ms)| format!("{phase} {ms}")).collect();
    if parts.is_empty() {
        "no phases given".into()
    } else {
        parts.join(" · ")
    }
}

/// Share of `revision` in percent.
pub(crate) fn share(counts: &BTreeMap<String, u32>, revision: &str) -> f64 {
    let all: u32 = counts.values().sum();
    let mine = counts.get(revision).copied().unwrap_or(0);
    if all == 0 {
        0.0
    } else {
        f64::from(mine) * 100.0 / f64::from(all)
    }
}

/// `9 412`: groups of three digits.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparkline_spans_zero_to_the_maximum() {
        assert_eq!(sparkline(&[0, 1, 4, 9, 9, 2]), "_▁▄██▂");
        assert_eq!(sparkline(&[0, 0]), "__");
        assert_eq!(sparkline(&[]), "");
        assert_eq!(sparkline(&vec![3; 100]).chars().count(), 25);
    }

    #[test]
    fn phases_are_spelled_out() {
        assert_eq!(
            phases("placed=1;spawned=3; ready=26.5"),
            "placed 1 · spawned 3 · ready 26.5"
        );
        assert_eq!(phases(""), "no phases given");
    }

    #[test]
    fn shares_and_numbers() {
        let counts = BTreeMap::from([("a".into(), 900), ("b".into(), 100)]);
        assert!((share(&counts, "b") - 10.0).abs() < 1e-9);
        assert!(share(&counts, "c").abs() < 1e-9 && share(&BTreeMap::new(), "a").abs() < 1e-9);
        assert_eq!(
            [grouped(7), grouped(942), grouped(9_412), grouped(1_234_567)],
            ["7", "942", "9 412", "1 234 567"]
        );
    }
}
