//! C16: after the heal the cluster works again in time, and a quiet cluster keeps its leader.

use crate::checker::verdict::{Evidence, Findings, Verdict};
use crate::history::shown::seconds;

pub const NAME: &str = "C16 liveness";
pub const QUIET_NAME: &str = "C16 quiet leader";

/// How long a cluster without faults is watched for needless elections.
pub const QUIET_NS: u64 = 10_000_000_000;

/// What happened after the last fault.
#[derive(Debug, Clone, Default)]
pub struct Input {
    pub healed_ns: u64,
    /// T: some write is acknowledged this long after the heal at the latest.
    pub within_ns: u64,
    /// Times at which writes were acknowledged.
    pub acked_ns: Vec<u64>,
    /// Times at which writes were sent; without any the cluster was not asked.
    pub tried_ns: Vec<u64>,
}

/// A time without any fault in which the leader was observed throughout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quiet {
    pub from_ns: u64,
    pub until_ns: u64,
    /// Times in it at which a new leader was seen.
    pub leader_changes_ns: Vec<u64>,
}

/// Judges the first write after the heal.
pub fn check(input: &Input) -> Verdict {
    let mut findings = Findings::default();
    let deadline_ns = input.healed_ns.saturating_add(input.within_ns);
    let in_time = |at_ns: &&u64| (input.healed_ns..=deadline_ns).contains(*at_ns);
    let after_heal = input
        .acked_ns
        .iter()
        .filter(|&&at_ns| at_ns >= input.healed_ns);
    let n_acked = after_heal.clone().count() as u64;
    let first_ack = after_heal.min();
    if let Some(at_ns) = first_ack.filter(in_time) {
        let took = seconds(at_ns - input.healed_ns);
        findings.note(format!("first write {took} after the heal"));
    } else if input.tried_ns.iter().any(|at_ns| in_time(&at_ns)) {
        let what = format!(
            "no write was acknowledged within {}",
            seconds(input.within_ns)
        );
        let late = first_ack.map_or("never".to_owned(), |&at_ns| seconds(at_ns));
        findings.add(
            Evidence::new("cluster", what)
                .at(input.healed_ns)
                .witness(format!("first one afterwards: {late}")),
        );
    } else {
        let within = seconds(input.within_ns);
        findings.unknown(format!("no write was tried in the {within} after the heal"));
    }
    findings.into_verdict(n_acked)
}

/// Judges a quiet time: no leader changes in it.
pub fn check_quiet(quiet: &Quiet) -> Verdict {
    let mut findings = Findings::default();
    for &at_ns in &quiet.leader_changes_ns {
        findings.add(Evidence::new("leader", "changed in a quiet cluster").at(at_ns));
    }
    let observed_ns = quiet.until_ns.saturating_sub(quiet.from_ns);
    if observed_ns < QUIET_NS {
        let (observed, want) = (seconds(observed_ns), seconds(QUIET_NS));
        findings.unknown(format!("observed for {observed}, {want} are needed"));
    }
    findings.into_verdict(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::verdict::Class;

    const SECOND: u64 = 1_000_000_000;

    fn input() -> Input {
        Input {
            healed_ns: 100 * SECOND,
            within_ns: 5 * SECOND,
            acked_ns: vec![90 * SECOND, 103 * SECOND],
            tried_ns: vec![101 * SECOND],
        }
    }

    fn quiet(until_s: u64, leader_changes_ns: Vec<u64>) -> Class {
        let quiet = Quiet {
            from_ns: 110 * SECOND,
            until_ns: until_s * SECOND,
            leader_changes_ns,
        };
        check_quiet(&quiet).class()
    }

    #[test]
    fn a_write_in_time_passes_with_its_time() {
        let verdict = check(&input());
        assert_eq!(verdict.class(), Class::Pass, "{verdict}");
        assert!(verdict.to_string().contains("first write 3.0"), "{verdict}");
    }

    #[test]
    fn planted_no_leader_after_the_heal() {
        let mut given = input();
        given.acked_ns = vec![90 * SECOND, 106 * SECOND];
        let verdict = check(&given);
        assert_eq!(verdict.class(), Class::Violation);
        assert!(verdict.to_string().contains("106.0"), "{verdict}");
        given.acked_ns.clear();
        assert_eq!(check(&given).class(), Class::Violation);
    }

    #[test]
    fn a_steady_leader_passes() {
        assert_eq!(quiet(120, Vec::new()), Class::Pass);
    }

    #[test]
    fn planted_election_storm() {
        assert_eq!(quiet(120, vec![115 * SECOND]), Class::Violation);
    }

    #[test]
    fn nobody_asked_or_nobody_looked_is_unknown() {
        let mut unasked = input();
        unasked.tried_ns.clear();
        unasked.acked_ns.clear();
        assert_eq!(check(&unasked).class(), Class::Unknown);
        assert_eq!(quiet(119, Vec::new()), Class::Unknown);
    }
}
