//! What a checker concludes, and how the conclusions of a trial add up to one exit code.
//!
//! Four classes that never mix: the product broke a promise, the harness broke, nobody can tell,
//! nothing was found. Only the last is green, and only if something was looked at.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::history::HistoryError;
use crate::history::shown::seconds;

/// Evidence kept per verdict: enough to see a pattern, few enough to read. The rest is counted.
pub const MAX_EVIDENCE: usize = 20;

/// Witnesses shown per piece of evidence, so that one broken object does not print a history.
pub const MAX_WITNESSES: usize = 12;

/// The reason of a verdict on no input at all.
pub const NOTHING_CHECKED: &str = "there was nothing to check";

/// What one checker found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "verdict")]
pub enum Verdict {
    Pass(Passed),
    Violation(Violation),
    /// The checker could not decide: too little was recorded, or its budget ran out.
    Unknown {
        reason: String,
    },
    /// The records contradict themselves: the harness is broken, not the product.
    HarnessFault {
        reason: String,
    },
}

/// Nothing was found among `n_checked` things looked at; never 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    pub n_checked: u64,
    /// Numbers that are reported beside the verdict and fail nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A promise was broken `n_found` times; the first [`MAX_EVIDENCE`] are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    pub n_found: u64,
    pub evidence: Vec<Evidence>,
}

/// One broken promise, in terms of what was recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The object, request, instance or node it is about.
    pub object: String,
    /// When it showed, in nanoseconds of the record's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_ns: Option<u64>,
    /// What was seen and what should have been.
    pub what: String,
    /// The records that prove it, in time order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub witnesses: Vec<String>,
}

impl Evidence {
    pub fn new(object: impl fmt::Display, what: impl Into<String>) -> Self {
        Self {
            object: object.to_string(),
            at_ns: None,
            what: what.into(),
            witnesses: Vec::new(),
        }
    }

    pub fn at(mut self, at_ns: u64) -> Self {
        self.at_ns = Some(at_ns);
        self
    }

    /// Adds a record that proves it; past [`MAX_WITNESSES`] they are left out.
    pub fn witness(mut self, record: impl fmt::Display) -> Self {
        if self.witnesses.len() < MAX_WITNESSES {
            self.witnesses.push(record.to_string());
        }
        self
    }
}

/// Collects what a checker finds and turns it into a verdict.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    n_found: u64,
    evidence: Vec<Evidence>,
    unknown: Option<String>,
    notes: Vec<String>,
}

impl Findings {
    pub(crate) fn add(&mut self, evidence: Evidence) {
        self.n_found += 1;
        if self.evidence.len() < MAX_EVIDENCE {
            self.evidence.push(evidence);
        }
    }

    /// Part of the input cannot be judged; the first reason is kept.
    pub(crate) fn unknown(&mut self, reason: impl Into<String>) {
        self.unknown.get_or_insert_with(|| reason.into());
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// `n_checked` = things looked at. Nothing looked at is unknown: a check that judged nothing
    /// must not be green.
    pub(crate) fn into_verdict(self, n_checked: u64) -> Verdict {
        if self.n_found > 0 {
            return Verdict::Violation(Violation {
                n_found: self.n_found,
                evidence: self.evidence,
            });
        }
        if let Some(reason) = self.unknown {
            return Verdict::Unknown { reason };
        }
        if n_checked == 0 {
            return Verdict::unknown(NOTHING_CHECKED);
        }
        Verdict::Pass(Passed {
            n_checked,
            notes: self.notes,
        })
    }
}

impl Verdict {
    pub fn unknown(reason: impl Into<String>) -> Self {
        Verdict::Unknown {
            reason: reason.into(),
        }
    }

    pub fn harness_fault(reason: impl Into<String>) -> Self {
        Verdict::HarnessFault {
            reason: reason.into(),
        }
    }

    pub fn class(&self) -> Class {
        match self {
            Verdict::Pass(_) => Class::Pass,
            Verdict::Violation(_) => Class::Violation,
            Verdict::Unknown { .. } => Class::Unknown,
            Verdict::HarnessFault { .. } => Class::HarnessFault,
        }
    }
}

impl From<HistoryError> for Verdict {
    fn from(error: HistoryError) -> Self {
        Verdict::harness_fault(error.to_string())
    }
}

/// Worst last, so that the maximum of several verdicts is the trial's.
///
/// A violation outranks a harness fault: what was recorded stays recorded, whatever broke later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    Pass,
    Unknown,
    HarnessFault,
    Violation,
}

impl Class {
    /// Exit code of a process that ends with this conclusion; 2 stays free for wrong usage.
    pub fn exit_code(self) -> u8 {
        match self {
            Class::Pass => 0,
            Class::Violation => 1,
            Class::Unknown => 3,
            Class::HarnessFault => 4,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Class::Pass => "PASS",
            Class::Unknown => "UNKNOWN",
            Class::HarnessFault => "HARNESS FAULT",
            Class::Violation => "VIOLATION",
        })
    }
}

/// The verdicts of one trial, in the order they were reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub checks: Vec<Check>,
}

/// One checker's verdict under its name, e.g. `C1 linearizable`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub checker: String,
    #[serde(flatten)]
    pub verdict: Verdict,
}

impl Report {
    pub fn add(&mut self, checker: impl Into<String>, verdict: Verdict) {
        self.checks.push(Check {
            checker: checker.into(),
            verdict,
        });
    }

    /// The worst verdict; a trial that ran no checker is unknown.
    pub fn class(&self) -> Class {
        let worst = self.checks.iter().map(|check| check.verdict.class()).max();
        worst.unwrap_or(Class::Unknown)
    }

    pub fn exit_code(&self) -> u8 {
        self.class().exit_code()
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.object)?;
        if let Some(at_ns) = self.at_ns {
            write!(f, " at {}", seconds(at_ns))?;
        }
        write!(f, ": {}", self.what)?;
        for witness in &self.witnesses {
            write!(f, "\n       {witness}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.class())?;
        match self {
            Verdict::Pass(passed) => {
                write!(f, ", {} checked", passed.n_checked)?;
                for note in &passed.notes {
                    write!(f, "; {note}")?;
                }
            }
            Verdict::Unknown { reason } | Verdict::HarnessFault { reason } => {
                write!(f, ": {reason}")?;
            }
            Verdict::Violation(violation) => {
                let n_shown = violation.evidence.len();
                write!(f, ", {} found, {n_shown} shown", violation.n_found)?;
                for (number, evidence) in violation.evidence.iter().enumerate() {
                    write!(f, "\n  {}. {evidence}", number + 1)?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for check in &self.checks {
            writeln!(f, "{}: {}", check.checker, check.verdict)?;
        }
        write!(f, "{}", self.class())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violation() -> Verdict {
        let mut findings = Findings::default();
        findings.add(Evidence::new("default/a", "gone").at(1_500_000_000));
        findings.into_verdict(1)
    }

    fn pass() -> Verdict {
        Findings::default().into_verdict(3)
    }

    #[test]
    fn the_worst_class_decides_and_has_its_own_exit_code() {
        let worst_first = [
            (violation(), 1),
            (Verdict::harness_fault("torn"), 4),
            (Verdict::unknown("budget"), 3),
            (pass(), 0),
        ];
        for first in 0..worst_first.len() {
            let mut report = Report::default();
            for (verdict, _) in worst_first[first..].iter().rev() {
                report.add("C0", verdict.clone());
            }
            assert_eq!(report.exit_code(), worst_first[first].1);
        }
    }

    #[test]
    fn nothing_checked_is_never_green() {
        assert_eq!(Findings::default().into_verdict(0).class(), Class::Unknown);
        assert_eq!(Report::default().class(), Class::Unknown);
    }

    #[test]
    fn a_verdict_names_object_time_and_reason() {
        let text = violation().to_string();
        assert_eq!(
            text,
            "VIOLATION, 1 found, 1 shown\n  1. `default/a` at 1.500000000 s: gone"
        );
    }

    #[test]
    fn evidence_is_bounded_and_the_rest_is_counted() {
        let mut findings = Findings::default();
        for _ in 0..MAX_EVIDENCE + 5 {
            findings.add(Evidence::new("x", "y"));
        }
        let Verdict::Violation(violation) = findings.into_verdict(1) else {
            panic!("findings were added");
        };
        assert_eq!(violation.evidence.len(), MAX_EVIDENCE);
        assert_eq!(violation.n_found, MAX_EVIDENCE as u64 + 5);
    }

    #[test]
    fn a_report_survives_its_file() {
        let mut report = Report::default();
        report.add("C1 linearizable", violation());
        report.add("C4 no lost ack", pass());
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }
}
