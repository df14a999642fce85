//! C16: after the heal the cluster works again in time, and a quiet cluster keeps its leader.

use crate::checker::verdict::{Evidence, Findings, Verdict};
use crate::history::shown::seconds;

pub const NAME: &str = "C16 liveness";

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
    /// A time without any fault in which the leader was observed throughout.
    pub quiet: Option<Quiet>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quiet {
    pub from_ns: u64,
    pub until_ns: u64,
    /// Times in it at which a new leader was seen.
    pub leader_changes_ns: Vec<u64>,
}

/// Judges the first write after the heal, and the quiet time.
pub fn check(input: &Input) -> Verdict {
    let mut findings = Findings::default();
    let deadline_ns = input.healed_ns + input.within_ns;
    let after_heal = |at_ns: &&u64| **at_ns >= input.healed_ns;
    let first_ack = input.acked_ns.iter().filter(after_heal).min();
    let was_asked = input
        .tried_ns
        .iter()
        .any(|&at_ns| (input.healed_ns..deadline_ns).contains(&at_ns));
    match first_ack {
        Some(&at_ns) if at_ns <= deadline_ns => {
            findings.note(format!(
                "first write {} after the heal",
                seconds(at_ns - input.healed_ns)
            ));
        }
        _ if !was_asked => findings.unknown(format!(
            "no write was tried in the {} after the heal",
            seconds(input.within_ns)
        )),
        first_ack => {
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
        }
    }
    match &input.quiet {
        None => findings.unknown("no quiet time was observed"),
        Some(quiet) if quiet.until_ns.saturating_sub(quiet.from_ns) < QUIET_NS => {
            findings.unknown("the quiet time observed is too short");
        }
        Some(quiet) => {
            for &at_ns in &quiet.leader_changes_ns {
                findings.add(Evidence::new("leader", "changed in a quiet cluster").at(at_ns));
            }
        }
    }
    findings.into_verdict(1 + input.acked_ns.iter().filter(after_heal).count() as u64)
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
            quiet: Some(Quiet {
                from_ns: 110 * SECOND,
                until_ns: 120 * SECOND,
                leader_changes_ns: Vec::new(),
            }),
        }
    }

    #[test]
    fn a_write_in_time_and_a_steady_leader_pass() {
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
    fn planted_election_storm() {
        let mut given = input();
        given
            .quiet
            .as_mut()
            .unwrap()
            .leader_changes_ns
            .push(115 * SECOND);
        assert_eq!(check(&given).class(), Class::Violation);
    }

    #[test]
    fn nobody_asked_or_nobody_looked_is_unknown() {
        let mut unasked = input();
        unasked.tried_ns.clear();
        unasked.acked_ns.clear();
        assert_eq!(check(&unasked).class(), Class::Unknown);
        let mut unobserved = input();
        unobserved.quiet = None;
        assert_eq!(check(&unobserved).class(), Class::Unknown);
        let mut short = input();
        short.quiet.as_mut().unwrap().until_ns = 119 * SECOND;
        assert_eq!(check(&short).class(), Class::Unknown);
    }
}
