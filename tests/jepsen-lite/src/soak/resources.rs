//! C17: what the nodes use stays flat, however long they are worked.

use nihilo_sim::checker::Verdict;
use nihilo_sim::checker::verdict::{Evidence, Passed, Violation};

use super::observe::Usage;

pub(super) const NAME: &str = "C17 resources";

/// Of three nodes together. With the writes of a soak the log that is kept in memory, the newest
/// changes and the replies to request ids are full after some minutes.
const MAX_RSS_KIB: u64 = 3 * 1024 * 1024;
const MAX_THREADS: u64 = 3 * 64;
const MAX_FDS: u64 = 3 * 512;
/// From the middle to the end: more than this is growth, not noise.
const MAX_GROWTH_PERCENT: u64 = 130;
/// Fewer windows do not show whether something grows.
const MIN_WINDOWS: usize = 8;

/// Name, the most that is allowed, and where it stands.
type Resource = (&'static str, u64, fn(&Usage) -> u64);

const RESOURCES: [Resource; 3] = [
    ("resident memory in KiB", MAX_RSS_KIB, |usage| usage.rss_kib),
    ("threads", MAX_THREADS, |usage| usage.n_threads),
    ("open files", MAX_FDS, |usage| usage.n_fds),
];

pub(super) fn judged(usage: &[Usage]) -> Verdict {
    let mut evidence = Vec::new();
    for (name, most, of) in RESOURCES {
        let seen: Vec<u64> = usage.iter().map(of).collect();
        let largest = seen.iter().copied().max().unwrap_or(0);
        if largest > most {
            let what = format!("three nodes used {largest}, {most} allowed");
            evidence.push(Evidence::new(name, what));
        }
        if let Some((middle, end)) = halves(&seen)
            && end * 100 > middle * MAX_GROWTH_PERCENT
        {
            let what = format!("grew from {middle} in the middle to {end} at the end");
            evidence.push(Evidence::new(name, what));
        }
    }
    if !evidence.is_empty() {
        return Verdict::Violation(Violation {
            n_found: evidence.len() as u64,
            evidence,
        });
    }
    if usage.is_empty() {
        return Verdict::unknown("no window came to its end");
    }
    let is_short = usage.len() < MIN_WINDOWS;
    let notes = is_short.then(|| "too short to show growth".to_owned());
    Verdict::Pass(Passed {
        n_checked: usage.len() as u64,
        notes: notes.into_iter().collect(),
    })
}

/// Medians of the second quarter and of the last one; the first is for warming up.
fn halves(seen: &[u64]) -> Option<(u64, u64)> {
    let n = seen.len();
    if n < MIN_WINDOWS {
        return None;
    }
    let median = |part: &[u64]| {
        let mut part = part.to_vec();
        part.sort_unstable();
        part[part.len() / 2]
    };
    Some((median(&seen[n / 4..n / 2]), median(&seen[n - n / 4..])))
}

#[cfg(test)]
mod tests {
    use nihilo_sim::checker::verdict::Class;

    use super::*;

    fn class(rss_mib: impl IntoIterator<Item = u64>) -> Class {
        let usage = rss_mib.into_iter().map(|mib| Usage {
            rss_kib: mib * 1024,
            n_threads: 45,
            n_fds: 300,
            disk_kib: 0,
        });
        judged(&usage.collect::<Vec<_>>()).class()
    }

    #[test]
    fn planted_growth_and_excess_are_found_and_warming_up_is_neither() {
        assert_eq!(class([]), Class::Unknown);
        assert_eq!(class([900, 1_000]), Class::Pass);
        assert_eq!(class([900, 4_000]), Class::Violation);
        assert_eq!(class((0..40).map(|n| 300 + 40 * n)), Class::Violation);
        assert_eq!(
            class((0..40).map(|n| (300 + 100 * n).min(1_000))),
            Class::Pass
        );
    }
}
