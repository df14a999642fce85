//! C13: every request is routed by a committed traffic split, never by one older than the newest
//! that was Ready, and the shares are those of the split within three standard deviations.

use std::collections::BTreeMap;

use crate::checker::verdict::{Evidence, Findings, Verdict};

pub const NAME: &str = "C13 split";

/// Deviations from the binomial's mean that are still luck: 1 in 370 by chance, so a trial of one
/// or two splits is rarely wrong.
pub const MAX_SIGMA: f64 = 3.0;

/// Requests of one split below which its shares are not judged: the normal approximation of the
/// binomial is poor there.
pub const MIN_REQUESTS: u64 = 100;

/// Splits of one Route, and the requests that were routed by them.
#[derive(Debug, Clone, Default)]
pub struct Input {
    pub splits: Vec<Split>,
    pub requests: Vec<Routed>,
}

/// A committed split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Version of the route table that brought it.
    pub version: u64,
    /// Revision → percent, together 100.
    pub shares: BTreeMap<String, u32>,
    /// When the Route was first seen Ready for it.
    pub ready_ns: Option<u64>,
}

/// A request, and the revision that it met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routed {
    /// When the client sent it.
    pub at_ns: u64,
    pub gateway: String,
    pub revision: String,
    /// Route-table version that the gateway used; `None` = the build does not tell.
    pub version: Option<u64>,
    /// The gateway was live: it had an open session with its role. One that is not may serve its
    /// last table.
    pub is_live: bool,
}

/// Judges every request, then the shares of every split.
pub fn check(input: &Input) -> Verdict {
    let mut splits: BTreeMap<u64, &Split> = BTreeMap::new();
    for split in &input.splits {
        let sum: u32 = split.shares.values().sum();
        if sum != 100 {
            let reason = format!("the shares of version {} sum to {sum}", split.version);
            return Verdict::harness_fault(reason);
        }
        splits.insert(split.version, split);
    }
    let mut findings = Findings::default();
    let mut counts: BTreeMap<u64, BTreeMap<&str, u64>> = BTreeMap::new();
    for request in &input.requests {
        let newest_ready = newest_ready(&splits, request.at_ns);
        match request.version {
            Some(version) => {
                let split = in_force(&splits, version);
                if let Some(what) = broken_rule(request, split, version, newest_ready) {
                    findings.add(evidence(request, &what));
                } else if let Some(split) = split {
                    let count = counts.entry(split.version).or_default();
                    *count.entry(&request.revision).or_default() += 1;
                }
            }
            None => {
                let oldest = if request.is_live { newest_ready } else { 0 };
                let mut possible = splits.range(oldest..).map(|(_, split)| split);
                if !possible.any(|split| split.sends_to(&request.revision)) {
                    let what = format!("no split since version {oldest} sends anything there");
                    findings.add(evidence(request, &what));
                }
            }
        }
    }
    let mut n_judged = 0;
    for (version, count) in &counts {
        n_judged += u64::from(shares(splits[version], count, &mut findings));
    }
    findings.note(format!("shares of {n_judged} splits judged"));
    findings.into_verdict(input.requests.len() as u64)
}

impl Split {
    fn sends_to(&self, revision: &str) -> bool {
        self.shares
            .get(revision)
            .is_some_and(|&percent| percent > 0)
    }
}

/// Highest version that was Ready before `at_ns`; 0 = none.
fn newest_ready(splits: &BTreeMap<u64, &Split>, at_ns: u64) -> u64 {
    let is_ready = |split: &&&Split| split.ready_ns.is_some_and(|ready_ns| ready_ns < at_ns);
    let ready = splits.values().rev().find(is_ready);
    ready.map_or(0, |split| split.version)
}

/// The split that a table of this version holds: tables also change for other reasons.
fn in_force<'a>(splits: &BTreeMap<u64, &'a Split>, version: u64) -> Option<&'a Split> {
    splits
        .range(..=version)
        .next_back()
        .map(|(_, split)| *split)
}

fn broken_rule(
    request: &Routed,
    split: Option<&Split>,
    version: u64,
    newest_ready: u64,
) -> Option<String> {
    let Some(split) = split else {
        return Some(format!(
            "routed by version {version}, older than every committed split"
        ));
    };
    if !split.sends_to(&request.revision) {
        return Some(format!(
            "routed by version {version}, whose split {:?} sends nothing there",
            split.shares
        ));
    }
    (request.is_live && split.version < newest_ready).then(|| {
        format!(
            "routed by the split of version {}, and {newest_ready} was Ready before it was sent",
            split.version
        )
    })
}

/// Returns whether there were enough requests to judge.
fn shares(split: &Split, count: &BTreeMap<&str, u64>, findings: &mut Findings) -> bool {
    let n: u64 = count.values().sum();
    if n < MIN_REQUESTS {
        return false;
    }
    for (revision, &percent) in &split.shares {
        let seen = count.get(revision.as_str()).copied().unwrap_or(0);
        let (n, p) = (n as f64, f64::from(percent) / 100.0);
        let sigma = (n * p * (1.0 - p)).sqrt();
        // Half a request of continuity: counts are whole, the bound is not.
        let is_luck = (seen as f64 - n * p).abs() <= MAX_SIGMA * sigma + 0.5;
        if !is_luck {
            let object = format!("{revision} in version {}", split.version);
            let what = format!(
                "got {seen} of {n} requests, {:.1} ± {:.1} were due",
                n * p,
                MAX_SIGMA * sigma
            );
            findings.add(Evidence::new(object, what).witness(format!("{:?}", split.shares)));
        }
    }
    true
}

fn evidence(request: &Routed, what: &str) -> Evidence {
    Evidence::new(&request.revision, what)
        .at(request.at_ns)
        .witness(format!(
            "gateway `{}`, live: {}",
            request.gateway, request.is_live
        ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::verdict::Class;

    fn split(version: u64, shares: &[(&str, u32)], ready_ns: u64) -> Split {
        let shares = shares
            .iter()
            .map(|&(revision, percent)| (revision.to_owned(), percent));
        Split {
            version,
            shares: shares.collect(),
            ready_ns: Some(ready_ns),
        }
    }

    fn routed(at_ns: u64, revision: &str, version: Option<u64>) -> Routed {
        Routed {
            at_ns,
            gateway: "n1".to_owned(),
            revision: revision.to_owned(),
            version,
            is_live: true,
        }
    }

    /// `n` requests of which every tenth meets `b`.
    fn ninety_ten(n: u64, version: u64) -> Vec<Routed> {
        let revision = |at| if at % 10 == 0 { "b" } else { "a" };
        (0..n)
            .map(|at| routed(at, revision(at), Some(version)))
            .collect()
    }

    fn verdict(requests: Vec<Routed>) -> Verdict {
        check(&Input {
            splits: vec![
                split(5, &[("a", 100)], 0),
                split(8, &[("a", 90), ("b", 10)], 10_000),
            ],
            requests,
        })
    }

    #[track_caller]
    fn assert_found(verdict: &Verdict, want: &str) {
        assert_eq!(verdict.class(), Class::Violation, "{verdict}");
        assert!(verdict.to_string().contains(want), "{verdict}");
    }

    #[test]
    fn shares_of_the_split_pass() {
        let verdict = verdict(ninety_ten(1000, 8));
        assert_eq!(verdict.class(), Class::Pass, "{verdict}");
        assert!(
            verdict.to_string().contains("shares of 1 splits judged"),
            "{verdict}"
        );
    }

    #[test]
    fn a_later_table_that_did_not_touch_the_split_is_the_split() {
        assert_eq!(verdict(ninety_ten(1000, 9)).class(), Class::Pass);
    }

    #[test]
    fn planted_shares_are_off() {
        let mut requests = ninety_ten(1000, 8);
        for request in requests.iter_mut().take(400) {
            "a".clone_into(&mut request.revision);
        }
        assert_found(
            &verdict(requests),
            "got 60 of 1000 requests, 100.0 ± 28.5 were due",
        );
    }

    #[test]
    fn planted_split_applied_in_two_steps() {
        let requests = vec![routed(1, "b", Some(5))];
        assert_found(&verdict(requests), "sends nothing there");
        let requests = vec![routed(1, "c", None)];
        assert_found(
            &verdict(requests),
            "no split since version 5 sends anything there",
        );
    }

    #[test]
    fn planted_gateway_opens_before_it_caught_up() {
        assert_found(
            &verdict(vec![routed(10_001, "a", Some(5))]),
            "8 was Ready before",
        );
        let mut not_live = routed(10_001, "a", Some(5));
        not_live.is_live = false;
        assert_eq!(verdict(vec![not_live]).class(), Class::Pass);
        assert_eq!(
            verdict(vec![routed(9_999, "a", Some(5))]).class(),
            Class::Pass
        );
    }

    #[test]
    fn planted_uncommitted_split() {
        assert_found(
            &verdict(vec![routed(1, "a", Some(3))]),
            "older than every committed split",
        );
    }

    #[test]
    fn wrong_sums_are_the_harness_and_no_request_is_unknown() {
        let broken = Input {
            splits: vec![split(1, &[("a", 90)], 0)],
            requests: Vec::new(),
        };
        assert_eq!(check(&broken).class(), Class::HarnessFault);
        assert_eq!(verdict(Vec::new()).class(), Class::Unknown);
    }
}
