//! What the order of calls in real time says about the log indexes that they may have seen.

use crate::checker::log_replay::merged::Merged;
use crate::history::register::{Answer, RegisterOperation};

/// Two staircases: the highest index answered by a time, the lowest index begun after a time.
#[derive(Debug)]
pub(super) struct RealTime {
    /// (end of a call, highest index that it or an earlier end shows), ascending.
    answered: Vec<(u64, u64)>,
    /// (begin of a write, lowest index that it or a later begin was given), ascending.
    begun: Vec<(u64, u64)>,
}

impl RealTime {
    pub(super) fn new(operations: &[RegisterOperation], merged: &Merged<'_>) -> Self {
        let mut answered = Vec::new();
        let mut begun = Vec::new();
        for operation in operations {
            if let (Some(ended_ns), Some(index)) = (operation.ended_ns, shown_index(operation)) {
                answered.push((ended_ns, index));
            }
            let applied_at = match merged.effective(operation) {
                [index, ..] => Some(*index),
                [] => operation.acked_version(),
            };
            if let Some(index) = applied_at {
                begun.push((operation.invoked_ns, index));
            }
        }
        answered.sort_unstable();
        let mut highest = 0;
        for (_, index) in &mut answered {
            highest = highest.max(*index);
            *index = highest;
        }
        begun.sort_unstable();
        let mut lowest = u64::MAX;
        for (_, index) in begun.iter_mut().rev() {
            lowest = lowest.min(*index);
            *index = lowest;
        }
        Self { answered, begun }
    }

    /// The highest index that was answered before `invoked_ns`: whoever is called then sees it.
    pub(super) fn floor(&self, invoked_ns: u64) -> u64 {
        let n_before = self
            .answered
            .partition_point(|&(ended_ns, _)| ended_ns < invoked_ns);
        self.answered[..n_before]
            .last()
            .map_or(0, |&(_, index)| index)
    }

    /// The highest index that can have been committed at `ended_ns`: below every write begun
    /// later.
    pub(super) fn ceiling(&self, ended_ns: u64) -> u64 {
        let n_before = self
            .begun
            .partition_point(|&(invoked_ns, _)| invoked_ns <= ended_ns);
        let first_after = self.begun.get(n_before);
        first_after.map_or(u64::MAX, |&(_, index)| index.saturating_sub(1))
    }
}

/// The index that an answer proves to have been committed.
fn shown_index(operation: &RegisterOperation) -> Option<u64> {
    let version = match &operation.answer {
        Answer::Read(Some(seen)) => seen.version,
        Answer::Written { version } => *version,
        Answer::Read(None) | Answer::Conflict | Answer::Failed | Answer::Unknown => None,
    };
    version.max(operation.log_index)
}
