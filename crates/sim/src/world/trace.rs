//! What happened, as a rolling hash of everything and, on demand, as text.

use std::collections::VecDeque;

/// Lines kept for the report of a violation when nothing is printed.
const KEPT_LINES: usize = 60;

/// How much of the trace is made readable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Detail {
    /// Only the hash: the fast way.
    #[default]
    Hash,
    /// The last lines are kept for a report.
    Recent,
    /// Every line goes to standard error.
    Print,
}

#[derive(Debug, Default)]
pub(crate) struct Trace {
    hash: u64,
    n_events: u64,
    detail: Detail,
    lines: VecDeque<String>,
}

impl Trace {
    pub(crate) fn new(detail: Detail) -> Self {
        Self {
            detail,
            ..Self::default()
        }
    }

    /// Adds one fact. `numbers` go into the hash, `text` is made only when somebody reads it.
    pub(crate) fn add(&mut self, now_us: u64, numbers: &[u64], text: impl FnOnce() -> String) {
        self.n_events += 1;
        self.mix(now_us);
        for number in numbers {
            self.mix(*number);
        }
        if self.detail == Detail::Hash {
            return;
        }
        let line = format!("{:>12.6} {}", now_us as f64 / 1e6, text());
        if self.detail == Detail::Print {
            eprintln!("{line}");
        }
        if self.lines.len() >= KEPT_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    fn mix(&mut self, number: u64) {
        let mixed = (self.hash ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.hash = mixed ^ (mixed >> 29);
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn n_events(&self) -> u64 {
        self.n_events
    }

    pub(crate) fn lines(&self) -> impl Iterator<Item = &String> {
        self.lines.iter()
    }
}
