//! C11: after the last fault the cluster reaches its fixpoint within H and stays there.
//!
//! Fixpoint: every revision runs as many instances as desired, every live gateway serves the
//! store's route table, and no session is open for a process that is gone.

use std::collections::BTreeMap;

use crate::checker::verdict::{Evidence, Findings, Verdict};
use crate::history::shown::seconds;

pub const NAME: &str = "C11 convergence";

/// Snapshots of the cluster, taken from the moment of the heal on.
#[derive(Debug, Clone)]
pub struct Input {
    pub healed_ns: u64,
    /// H: the fixpoint is reached this long after the heal at the latest.
    pub within_ns: u64,
    pub samples: Vec<Sample>,
}

/// One look at the whole cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sample {
    pub at_ns: u64,
    pub desired: BTreeMap<String, u32>,
    /// Counted on the hosts, never taken from our own API.
    pub running: BTreeMap<String, u32>,
    pub store_table_version: u64,
    /// Live gateway → version of the table it serves.
    pub gateway_table_version: BTreeMap<String, u64>,
    /// Open sessions whose process does not exist.
    pub leaked_sessions: Vec<String>,
}

/// How long the fixpoint must hold in a row: longer than any of the loops that could undo it.
pub const HOLDS_NS: u64 = 3_000_000_000;

/// Largest gap between two samples of that time: more would hide a flap.
pub const MAX_GAP_NS: u64 = 500_000_000;

/// Looks for a fixpoint that began in time and held. Unknown where the samples leave room for one
/// without showing it.
pub fn check(input: &Input) -> Verdict {
    let mut samples: Vec<&Sample> = input.samples.iter().collect();
    samples.retain(|sample| sample.at_ns >= input.healed_ns);
    samples.sort_by_key(|sample| sample.at_ns);
    let deadline_ns = input.healed_ns.saturating_add(input.within_ns);
    let mut has_room = false;
    let mut newest_fault: Option<(u64, String)> = None;
    let mut at = 0;
    // Stretches without a fault, each from one faulty sample to the next.
    loop {
        let from_ns = newest_fault
            .as_ref()
            .map_or(input.healed_ns, |&(at_ns, _)| at_ns);
        if from_ns > deadline_ns {
            break;
        }
        let n_good = samples[at..]
            .iter()
            .take_while(|s| differs(s).is_none())
            .count();
        let good = &samples[at..at + n_good];
        if let Some(since_ns) = fixpoint(good, deadline_ns) {
            let mut findings = Findings::default();
            findings.note(format!("after {}", seconds(since_ns - input.healed_ns)));
            return findings.into_verdict(samples.len() as u64);
        }
        at += n_good + 1;
        let Some(faulty) = samples.get(at - 1) else {
            has_room = true;
            break;
        };
        has_room |= faulty.at_ns - from_ns > HOLDS_NS;
        newest_fault = differs(faulty).map(|fault| (faulty.at_ns, fault));
    }
    if has_room {
        return Verdict::unknown(format!(
            "the samples leave room for a fixpoint within {} of the heal and do not show one \
             that holds for {} without a gap",
            seconds(input.within_ns),
            seconds(HOLDS_NS)
        ));
    }
    not_converged(input, newest_fault, samples.len() as u64)
}

/// When the first dense run of good samples begins that is long enough, if that is in time.
fn fixpoint(good: &[&Sample], deadline_ns: u64) -> Option<u64> {
    let mut since_ns = good.first()?.at_ns;
    let mut before_ns = since_ns;
    for sample in good {
        if sample.at_ns - before_ns > MAX_GAP_NS {
            since_ns = sample.at_ns;
        }
        before_ns = sample.at_ns;
        if since_ns <= deadline_ns && before_ns - since_ns >= HOLDS_NS {
            return Some(since_ns);
        }
    }
    None
}

fn not_converged(input: &Input, newest_fault: Option<(u64, String)>, n_samples: u64) -> Verdict {
    let mut findings = Findings::default();
    let what = format!(
        "no fixpoint within {} of the heal",
        seconds(input.within_ns)
    );
    let mut evidence = Evidence::new("cluster", what).at(input.healed_ns);
    if let Some((at_ns, fault)) = newest_fault {
        evidence = evidence.witness(format!("{} {fault}", seconds(at_ns)));
    }
    findings.add(evidence);
    findings.into_verdict(n_samples)
}

/// What keeps a sample from the fixpoint.
fn differs(sample: &Sample) -> Option<String> {
    let revisions = sample.desired.keys().chain(sample.running.keys());
    for revision in revisions {
        let of = |map: &BTreeMap<String, u32>| map.get(revision).copied().unwrap_or(0);
        let (desired, running) = (of(&sample.desired), of(&sample.running));
        if desired != running {
            return Some(format!(
                "`{revision}` runs {running}, desired are {desired}"
            ));
        }
    }
    for (gateway, version) in &sample.gateway_table_version {
        if *version != sample.store_table_version {
            return Some(format!(
                "gateway `{gateway}` serves table {version}, the store has {}",
                sample.store_table_version
            ));
        }
    }
    let leaked = sample.leaked_sessions.first()?;
    Some(format!(
        "session `{leaked}` is open, and its process is gone"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::verdict::Class;

    const SECOND: u64 = 1_000_000_000;

    fn at_fixpoint(at_ns: u64) -> Sample {
        Sample {
            at_ns,
            desired: BTreeMap::from([("hello-00001".to_owned(), 2)]),
            running: BTreeMap::from([("hello-00001".to_owned(), 2)]),
            store_table_version: 7,
            gateway_table_version: BTreeMap::from([("n1".to_owned(), 7)]),
            leaked_sessions: Vec::new(),
        }
    }

    /// A sample every 0.2 s after a heal at 1 s; `broken` says what is wrong in tenths of seconds.
    fn verdict(until_tenths: u64, broken: impl Fn(u64, &mut Sample)) -> Verdict {
        let samples = (10..=until_tenths).step_by(2).map(|tenths| {
            let mut sample = at_fixpoint(tenths * SECOND / 10);
            broken(tenths, &mut sample);
            sample
        });
        check(&Input {
            healed_ns: SECOND,
            within_ns: 5 * SECOND,
            samples: samples.collect(),
        })
    }

    #[track_caller]
    fn assert_found(verdict: &Verdict, want: &str) {
        assert_eq!(verdict.class(), Class::Violation, "{verdict}");
        assert!(verdict.to_string().contains(want), "{verdict}");
    }

    #[test]
    fn a_fixpoint_that_holds_passes_with_its_time() {
        let late = verdict(120, |tenths, sample| {
            if tenths < 40 {
                sample.running.clear();
            }
        });
        assert_eq!(late.class(), Class::Pass, "{late}");
        assert!(late.to_string().contains("after 3.000000000 s"), "{late}");
    }

    #[test]
    fn planted_scale_is_never_reached() {
        let stuck = verdict(120, |_, sample| {
            sample.running.insert("hello-00001".to_owned(), 1);
        });
        assert_found(&stuck, "`hello-00001` runs 1, desired are 2");
    }

    #[test]
    fn planted_instance_of_a_forgotten_revision() {
        let surplus = verdict(120, |_, sample| {
            sample.running.insert("old-00001".to_owned(), 1);
        });
        assert_found(&surplus, "`old-00001` runs 1, desired are 0");
    }

    #[test]
    fn planted_gateway_misses_the_last_table() {
        let late = verdict(120, |_, sample| {
            sample.gateway_table_version.insert("n2".to_owned(), 6);
        });
        assert_found(&late, "gateway `n2` serves table 6, the store has 7");
    }

    #[test]
    fn planted_session_is_leaked() {
        let leaked = verdict(120, |_, sample| {
            sample.leaked_sessions.push("41".to_owned())
        });
        assert_found(&leaked, "session `41` is open");
    }

    #[test]
    fn planted_scale_flaps() {
        let flapping = verdict(120, |tenths, sample| {
            if tenths % 20 == 0 {
                sample.running.clear();
            }
        });
        assert_found(&flapping, "no fixpoint within 5.0");
    }

    #[test]
    fn samples_that_end_too_early_or_have_gaps_are_unknown() {
        assert_eq!(verdict(30, |_, _| ()).class(), Class::Unknown);
        let began_in_time = verdict(80, |tenths, sample| {
            if tenths < 56 {
                sample.running.clear();
            }
        });
        assert_eq!(began_in_time.class(), Class::Unknown, "{began_in_time}");
        assert_eq!(verdict(0, |_, _| ()).class(), Class::Unknown);
        let sparse = Input {
            healed_ns: SECOND,
            within_ns: 5 * SECOND,
            samples: (1..12).map(|at| at_fixpoint(at * SECOND)).collect(),
        };
        assert_eq!(check(&sparse).class(), Class::Unknown);
    }
}
