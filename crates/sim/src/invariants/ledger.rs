//! Every request ends with exactly one outcome; one that is not idempotent is executed at most once
//! (P8).

use super::Verdict;
use crate::world::{Outcome, Request};

pub(crate) fn executed(number: usize, request: &Request) -> Verdict {
    if !request.is_post || request.n_executions <= 1 {
        return Ok(());
    }
    Err(format!(
        "POST {number} is executed {} times",
        request.n_executions
    ))
}

pub(crate) fn ended(number: usize, request: &Request, outcome: Outcome) -> Verdict {
    if let Some(first) = request.outcome {
        return Err(format!(
            "request {number} ends as {outcome:?} after {first:?}"
        ));
    }
    if outcome == Outcome::Ok && request.n_finished == 0 {
        return Err(format!(
            "request {number} is answered and was never executed to its end"
        ));
    }
    Ok(())
}
