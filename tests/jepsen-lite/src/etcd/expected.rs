//! What the checkers are known to have to say of etcd.

use std::fmt;

use nihilo_sim::checker::{Class, Report, Verdict};

/// Evidence shown of what had to be found.
const N_SHOWN: usize = 1;
/// First releases whose progress marks never run ahead of their events (etcd-io/etcd#15220).
const MARKS_REPAIRED: [[u32; 3]; 2] = [[3, 4, 25], [3, 5, 8]];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing may be found.
    Sound,
    /// Something must be found.
    Wrong,
}

/// One part of a trial with what its checkers concluded.
#[derive(Debug, Clone)]
pub(super) struct Judged {
    pub(super) what: &'static str,
    pub(super) known: Known,
    pub(super) report: Report,
}

impl Judged {
    /// Passed exactly if the checkers say what is known; a checker that misses what is there is the
    /// violation.
    pub(super) fn class(&self) -> Class {
        match (self.known, self.report.class()) {
            (Known::Wrong, Class::Violation) => Class::Pass,
            (Known::Wrong, Class::Pass) => Class::Violation,
            (_, class) => class,
        }
    }
}

/// What is known of the progress marks that a watcher asks for, by etcd's version.
pub(super) fn of_marks(version: &str) -> Known {
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    let version: [u32; 3] = [next(), next(), next()];
    let repaired = MARKS_REPAIRED
        .iter()
        .rev()
        .find(|first| first[..2] <= version[..2]);
    match repaired {
        Some(first) if version >= *first => Known::Sound,
        _ => Known::Wrong,
    }
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = match (self.known, self.class()) {
            (Known::Sound, Class::Pass) => "nothing found, as expected".to_owned(),
            (Known::Wrong, Class::Pass) => "found as expected".to_owned(),
            (Known::Wrong, Class::Violation) => "MISSED: the checkers found nothing".to_owned(),
            (_, class) => class.to_string(),
        };
        write!(f, "{}: {said}", self.what)?;
        for check in &self.report.checks {
            let mut verdict = check.verdict.clone();
            if let (Known::Wrong, Verdict::Violation(violation)) = (self.known, &mut verdict) {
                violation.evidence.truncate(N_SHOWN);
            }
            write!(f, "\n  {}: {verdict}", check.checker)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use nihilo_sim::checker::Evidence;

    use super::*;
    use crate::judge::verdict;

    fn judged(known: Known, found: &[Evidence], n_checked: u64) -> Judged {
        let mut report = Report::default();
        report.add("C", verdict(found.to_vec(), n_checked, Vec::new()));
        let what = "reads";
        Judged {
            what,
            known,
            report,
        }
    }

    #[test]
    fn what_is_there_must_be_found_and_nothing_else() {
        let found = [Evidence::new("k", "stale"), Evidence::new("k", "again")];
        assert_eq!(judged(Known::Sound, &[], 1).class(), Class::Pass);
        assert_eq!(judged(Known::Sound, &found, 1).class(), Class::Violation);
        assert_eq!(judged(Known::Wrong, &[], 1).class(), Class::Violation);
        assert_eq!(judged(Known::Wrong, &[], 0).class(), Class::Unknown);
        let as_expected = judged(Known::Wrong, &found, 1);
        assert_eq!(as_expected.class(), Class::Pass);
        let text = as_expected.to_string();
        assert!(text.starts_with("reads: found as expected"), "{text}");
        assert!(
            text.contains("2 found") && !text.contains("again"),
            "{text}"
        );
    }

    #[test]
    fn marks_are_wrong_until_the_release_that_repaired_them() {
        for wrong in ["3.4.23", "3.4.24", "3.5.0", "3.5.7", "3.3.25"] {
            assert_eq!(of_marks(wrong), Known::Wrong, "{wrong}");
        }
        for sound in ["3.4.25", "3.4.37", "3.5.8", "3.6.1", "4.0.0"] {
            assert_eq!(of_marks(sound), Known::Sound, "{sound}");
        }
    }
}
