//! The verdicts of many windows as one report.

use std::collections::BTreeMap;

use nihilo_sim::checker::verdict::NOTHING_CHECKED;
use nihilo_sim::checker::{Check, Passed, Report, Verdict};

/// Verdicts kept that are not green; the rest is counted.
const MAX_BAD: usize = 50;

#[derive(Debug, Default)]
pub(super) struct Merged {
    /// Things looked at, and the windows in which they were, by checker.
    passed: BTreeMap<String, (u64, u64)>,
    bad: Vec<Check>,
    n_bad: u64,
    /// What has to be proven altogether, by checker.
    to_prove: BTreeMap<String, u64>,
}

impl Merged {
    pub(super) fn window(&mut self, number: usize, report: Report) {
        for check in report.checks {
            match check.verdict {
                Verdict::Pass(passed) => self.count(check.checker, passed.n_checked),
                // Of one window; of all of them it is not green.
                Verdict::Unknown { reason } if reason == NOTHING_CHECKED => {
                    self.count(check.checker, 0);
                }
                bad => self.add_bad(&format!("window {number}, {}", check.checker), bad),
            }
        }
    }

    pub(super) fn add_bad(&mut self, checker: &str, verdict: Verdict) {
        self.n_bad += 1;
        if self.bad.len() < MAX_BAD {
            self.bad.push(Check {
                checker: checker.to_owned(),
                verdict,
            });
        }
    }

    /// A checker that goes through all windows: what it has looked at, and what it had to.
    pub(super) fn set(&mut self, checker: &str, n_checked: u64, n_to_check: u64) {
        self.passed.insert(checker.to_owned(), (n_checked, 0));
        self.to_prove.insert(checker.to_owned(), n_to_check);
    }

    fn count(&mut self, checker: String, n_checked: u64) {
        let passed = self.passed.entry(checker).or_default();
        passed.0 += n_checked;
        passed.1 += 1;
    }

    pub(super) fn report(&self) -> Report {
        let mut report = Report::default();
        for (checker, (n_checked, n_windows)) in &self.passed {
            let n_to_prove = self.to_prove.get(checker).copied().unwrap_or(0);
            let verdict = if *n_checked < n_to_prove {
                let n = n_to_prove - n_checked;
                Verdict::unknown(format!("{n} were never looked at"))
            } else if *n_checked == 0 {
                Verdict::unknown(NOTHING_CHECKED)
            } else {
                let notes = (*n_windows > 0).then(|| format!("in {n_windows} windows"));
                Verdict::Pass(Passed {
                    n_checked: *n_checked,
                    notes: notes.into_iter().collect(),
                })
            };
            report.add(checker, verdict);
        }
        report.checks.extend(self.bad.iter().cloned());
        let n_left_out = self.n_bad - self.bad.len() as u64;
        if n_left_out > 0 {
            let text = format!("{n_left_out} more verdicts are not green");
            report.add("windows", Verdict::unknown(text));
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use nihilo_sim::checker::verdict::Class;

    use super::*;

    fn window(verdict: Verdict) -> Report {
        let mut report = Report::default();
        report.add("C10", verdict);
        report
    }

    fn pass(n_checked: u64) -> Verdict {
        Verdict::Pass(Passed {
            n_checked,
            notes: Vec::new(),
        })
    }

    #[test]
    fn windows_add_up_and_one_with_nothing_in_it_is_none() {
        let mut merged = Merged::default();
        merged.window(1, window(Verdict::unknown(NOTHING_CHECKED)));
        assert_eq!(merged.report().class(), Class::Unknown);
        merged.window(2, window(pass(3)));
        merged.window(3, window(pass(4)));
        let text = merged.report().to_string();
        assert!(text.contains("PASS, 7 checked; in 3 windows"), "{text}");
    }

    #[test]
    fn one_bad_window_decides() {
        let mut merged = Merged::default();
        merged.window(1, window(pass(3)));
        merged.window(2, window(Verdict::unknown("budget")));
        assert_eq!(merged.report().class(), Class::Unknown);
        merged.window(3, window(Verdict::harness_fault("torn")));
        assert_eq!(merged.report().class(), Class::HarnessFault);
        let text = merged.report().to_string();
        assert!(text.contains("window 3, C10: HARNESS FAULT"), "{text}");
    }

    #[test]
    fn what_was_never_looked_at_is_not_green() {
        let mut merged = Merged::default();
        merged.set("C4", 4, 5);
        assert_eq!(merged.report().class(), Class::Unknown);
        merged.set("C4", 5, 5);
        assert_eq!(merged.report().class(), Class::Pass);
    }
}
