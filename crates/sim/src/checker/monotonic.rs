//! C5: what only grows never goes back: versions, terms, log indexes; revision numbers come in
//! commit order, without gaps, and are never issued again.

use std::collections::BTreeMap;

use crate::checker::verdict::{Evidence, Findings, Verdict};

pub const NAME: &str = "C5 monotonic";

/// Samples and issued revisions of a trial.
#[derive(Debug, Clone, Default)]
pub struct Input {
    pub samples: Vec<Sample>,
    pub revisions: Vec<IssuedRevision>,
}

/// A number that a source showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    pub at_ns: u64,
    /// Who showed it: a node, or a client's session. Sources are not compared with each other.
    pub source: String,
    /// What it counts, e.g. `term`, `applied index`, `version of default/hello`.
    pub subject: String,
    pub value: u64,
}

/// A revision as some answer named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedRevision {
    /// Uid of its Configuration: numbers start anew with a new one.
    pub configuration_uid: String,
    pub name: String,
    pub number: u64,
    /// Log index of the entry that created it.
    pub log_index: u64,
    /// Hash of its spec.
    pub spec: String,
}

/// Judges every series and every Configuration.
pub fn check(input: &Input) -> Verdict {
    let mut findings = Findings::default();
    series(&input.samples, &mut findings);
    let mut by_configuration: BTreeMap<&str, Vec<&IssuedRevision>> = BTreeMap::new();
    for revision in &input.revisions {
        let issued = by_configuration
            .entry(&revision.configuration_uid)
            .or_default();
        issued.push(revision);
    }
    for (configuration, issued) in by_configuration {
        revisions(configuration, issued, &mut findings);
    }
    findings.into_verdict((input.samples.len() + input.revisions.len()) as u64)
}

fn series(samples: &[Sample], findings: &mut Findings) {
    let mut in_time: Vec<&Sample> = samples.iter().collect();
    in_time.sort_by_key(|sample| sample.at_ns);
    let mut newest: BTreeMap<(&str, &str), &Sample> = BTreeMap::new();
    for sample in in_time {
        let before = newest.insert((&sample.source, &sample.subject), sample);
        if let Some(before) = before
            && sample.value < before.value
        {
            let what = format!("goes back from {} to {}", before.value, sample.value);
            let object = format!("{} at {}", sample.subject, sample.source);
            findings.add(
                Evidence::new(object, what)
                    .at(sample.at_ns)
                    .witness(format!("{before:?}"))
                    .witness(format!("{sample:?}")),
            );
        }
    }
}

fn revisions(configuration: &str, mut issued: Vec<&IssuedRevision>, findings: &mut Findings) {
    issued.sort_by_key(|revision| (revision.log_index, revision.number));
    issued.dedup();
    let mut by_name: BTreeMap<&str, &IssuedRevision> = BTreeMap::new();
    for revision in &issued {
        if let Some(other) = by_name.insert(&revision.name, revision)
            && other != *revision
        {
            let what = if other.spec == revision.spec {
                "one name was issued twice"
            } else {
                "one name stands for two specs"
            };
            findings.add(pair(what, other, revision));
        }
    }
    for (at, revision) in issued.iter().enumerate() {
        let want = issued[0].number + at as u64;
        if revision.number != want {
            let what = format!(
                "number {} comes {} in commit order of Configuration {configuration}, \
                 {want} was due",
                revision.number,
                at + 1
            );
            let before = issued[at.saturating_sub(1)];
            findings.add(pair(&what, before, revision));
            return;
        }
    }
}

fn pair(what: &str, before: &IssuedRevision, revision: &IssuedRevision) -> Evidence {
    Evidence::new(&revision.name, what)
        .witness(format!("{before:?}"))
        .witness(format!("{revision:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::verdict::Class;

    fn sample(at_ns: u64, source: &str, subject: &str, value: u64) -> Sample {
        Sample {
            at_ns,
            source: source.to_owned(),
            subject: subject.to_owned(),
            value,
        }
    }

    fn issued(number: u64, log_index: u64, spec: &str) -> IssuedRevision {
        IssuedRevision {
            configuration_uid: "c1".to_owned(),
            name: format!("hello-{number:05}"),
            number,
            log_index,
            spec: spec.to_owned(),
        }
    }

    #[track_caller]
    fn assert_revisions(revisions: Vec<IssuedRevision>, want: Class) -> String {
        let verdict = check(&Input {
            revisions,
            samples: Vec::new(),
        });
        assert_eq!(verdict.class(), want, "{verdict}");
        verdict.to_string()
    }

    fn class(samples: Vec<Sample>) -> Class {
        check(&Input {
            samples,
            revisions: Vec::new(),
        })
        .class()
    }

    #[test]
    fn each_source_is_judged_by_itself() {
        let given = vec![
            sample(1, "n1", "term", 3),
            sample(2, "n2", "term", 2),
            sample(3, "n1", "term", 3),
            sample(4, "n1", "applied index", 1),
        ];
        assert_eq!(class(given), Class::Pass);
    }

    #[test]
    fn planted_vote_not_synced_so_the_term_goes_back() {
        assert_eq!(
            class(vec![sample(1, "n1", "term", 3), sample(2, "n1", "term", 2)]),
            Class::Violation
        );
    }

    #[test]
    fn samples_are_judged_in_time_order_not_in_file_order() {
        assert_eq!(
            class(vec![sample(2, "n1", "term", 3), sample(1, "n1", "term", 2)]),
            Class::Pass
        );
    }

    #[test]
    fn numbers_in_commit_order_pass_seen_twice_too() {
        let given = vec![
            issued(2, 20, "s2"),
            issued(1, 10, "s1"),
            issued(2, 20, "s2"),
        ];
        assert_revisions(given, Class::Pass);
    }

    #[test]
    fn planted_revision_counter_in_memory() {
        let given = vec![
            issued(1, 10, "s1"),
            issued(2, 20, "s2"),
            issued(1, 30, "s3"),
        ];
        let text = assert_revisions(given, Class::Violation);
        assert!(text.contains("one name stands for two specs"), "{text}");
    }

    #[test]
    fn planted_number_is_skipped() {
        let given = vec![issued(1, 10, "s1"), issued(3, 20, "s3")];
        let text = assert_revisions(given, Class::Violation);
        assert!(text.contains("number 3 comes 2 in commit order"), "{text}");
    }

    #[test]
    fn planted_numbers_against_commit_order() {
        let given = vec![issued(2, 10, "s2"), issued(1, 20, "s1")];
        assert_revisions(given, Class::Violation);
    }

    #[test]
    fn a_new_configuration_starts_anew() {
        let again = IssuedRevision {
            configuration_uid: "c2".to_owned(),
            ..issued(1, 40, "other")
        };
        assert_revisions(vec![issued(1, 10, "s1"), again], Class::Pass);
        assert_revisions(Vec::new(), Class::Unknown);
    }
}
