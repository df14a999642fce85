//! C14: no instance is told to stop while a request is in flight at it, within the bounds that the
//! contract sets to a drain; and once told, it is gone within its grace.

use std::collections::BTreeMap;

use crate::checker::verdict::{Evidence, Findings, Verdict};
use crate::history::shown::seconds;

pub const NAME: &str = "C14 drain";

/// What instances served, and when they were told to stop.
#[derive(Debug, Clone, Default)]
pub struct Input {
    pub terminations: Vec<Termination>,
    pub served: Vec<Served>,
    pub drains: Vec<Drain>,
    /// Nodes that were shutting down: their own grace bounds every drain.
    pub node_ends: Vec<NodeEnd>,
    pub limits: Limits,
}

/// SIGTERM reached an instance, by its own record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Termination {
    pub instance: String,
    pub node: String,
    pub at_ns: u64,
    /// When its process was gone; `None` = still there at the end of the trial.
    pub gone_ns: Option<u64>,
}

/// A request in flight at an instance, by the instance's ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    pub request: String,
    pub instance: String,
    pub from_ns: u64,
    /// `None` = it never ended there: the instance was killed.
    pub until_ns: Option<u64>,
}

/// An agent closed an instance's admission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    pub instance: String,
    pub at_ns: u64,
    /// Admission was opened again, for a request that came in between.
    pub reopened_ns: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEnd {
    pub node: String,
    pub at_ns: u64,
    pub shutdown_grace_ns: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The revision's `timeoutSeconds`: a drain waits no longer for a request.
    pub request_timeout_ns: u64,
    /// From SIGTERM to SIGKILL.
    pub termination_grace_ns: u64,
    /// For the kernel and the scan that saw it gone.
    pub slack_ns: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_timeout_ns: 300_000_000_000,
            termination_grace_ns: 30_000_000_000,
            slack_ns: 1_000_000_000,
        }
    }
}

/// Judges every termination. Drains are judged only where the trial recorded any.
pub fn check(input: &Input) -> Verdict {
    let mut served: BTreeMap<&str, Vec<&Served>> = BTreeMap::new();
    for request in &input.served {
        if request
            .until_ns
            .is_some_and(|until_ns| until_ns < request.from_ns)
        {
            let reason = format!("request `{}` ends before it starts", request.request);
            return Verdict::harness_fault(reason);
        }
        served.entry(&request.instance).or_default().push(request);
    }
    let mut findings = Findings::default();
    for termination in &input.terminations {
        let at_it = served.get(termination.instance.as_str());
        in_flight(
            input,
            termination,
            at_it.map_or(&[], Vec::as_slice),
            &mut findings,
        );
        if !input.drains.is_empty() {
            drained_first(input, termination, &mut findings);
        }
        gone_in_time(input, termination, &mut findings);
    }
    findings.into_verdict(input.terminations.len() as u64)
}

fn in_flight(
    input: &Input,
    termination: &Termination,
    served: &[&Served],
    findings: &mut Findings,
) {
    let is_cut = |request: &&&Served| {
        request.from_ns < termination.at_ns
            && request
                .until_ns
                .is_none_or(|until_ns| termination.at_ns < until_ns)
    };
    for request in served.iter().filter(is_cut) {
        let waited_ns = termination.at_ns - request.from_ns;
        if waited_ns >= input.limits.request_timeout_ns || node_grace_is_over(input, termination) {
            continue;
        }
        let what = format!("told to stop with request `{}` in flight", request.request);
        let until = request.until_ns.map_or("it was cut".to_owned(), seconds);
        findings.add(
            Evidence::new(&termination.instance, what)
                .at(termination.at_ns)
                .witness(format!(
                    "in flight from {} until {until}",
                    seconds(request.from_ns)
                )),
        );
    }
}

/// A node that ends waits for its requests no longer than its own grace.
fn node_grace_is_over(input: &Input, termination: &Termination) -> bool {
    input.node_ends.iter().any(|end| {
        end.node == termination.node
            && termination.at_ns + input.limits.slack_ns >= end.at_ns + end.shutdown_grace_ns
    })
}

/// The newest drain before a SIGTERM was not called off again.
fn drained_first(input: &Input, termination: &Termination, findings: &mut Findings) {
    let of_instance =
        |drain: &&Drain| drain.instance == termination.instance && drain.at_ns <= termination.at_ns;
    let newest = input
        .drains
        .iter()
        .filter(of_instance)
        .max_by_key(|drain| drain.at_ns);
    let what = match newest.map(|drain| (drain, drain.reopened_ns)) {
        None => "told to stop without a drain",
        Some((_, Some(reopened_ns))) if reopened_ns <= termination.at_ns => {
            "told to stop after its admission was opened again"
        }
        Some(_) => return,
    };
    let mut evidence = Evidence::new(&termination.instance, what).at(termination.at_ns);
    if let Some(drain) = newest {
        let reopened = drain.reopened_ns.map_or("never".to_owned(), seconds);
        let drained = seconds(drain.at_ns);
        evidence = evidence.witness(format!("drained at {drained}, opened again: {reopened}"));
    }
    findings.add(evidence);
}

fn gone_in_time(input: &Input, termination: &Termination, findings: &mut Findings) {
    let limit_ns = input.limits.termination_grace_ns + input.limits.slack_ns;
    let Some(gone_ns) = termination.gone_ns else {
        findings.add(
            Evidence::new(&termination.instance, "told to stop, and never gone")
                .at(termination.at_ns),
        );
        return;
    };
    let took_ns = gone_ns.saturating_sub(termination.at_ns);
    if took_ns > limit_ns {
        let what = format!(
            "gone {} after SIGTERM, its grace is {}",
            seconds(took_ns),
            seconds(input.limits.termination_grace_ns)
        );
        findings.add(Evidence::new(&termination.instance, what).at(termination.at_ns));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::verdict::Class;

    const SECOND: u64 = 1_000_000_000;

    fn served(from: u64, until: u64) -> Served {
        Served {
            request: "r1".to_owned(),
            instance: "i1".to_owned(),
            from_ns: from * SECOND,
            until_ns: Some(until * SECOND),
        }
    }

    /// Drained at 10 s, told to stop at 20 s, gone at 21 s.
    fn clean() -> Input {
        Input {
            terminations: vec![Termination {
                instance: "i1".to_owned(),
                node: "n1".to_owned(),
                at_ns: 20 * SECOND,
                gone_ns: Some(21 * SECOND),
            }],
            served: vec![served(5, 20)],
            drains: vec![Drain {
                instance: "i1".to_owned(),
                at_ns: 10 * SECOND,
                reopened_ns: None,
            }],
            ..Input::default()
        }
    }

    #[track_caller]
    fn assert_found(input: &Input, want: &str) {
        let verdict = check(input);
        assert_eq!(verdict.class(), Class::Violation, "{verdict}");
        assert!(verdict.to_string().contains(want), "{verdict}");
    }

    #[test]
    fn an_idle_instance_that_was_drained_may_stop() {
        assert_eq!(check(&clean()).class(), Class::Pass);
    }

    #[test]
    fn planted_scale_down_ignores_in_flight() {
        let mut input = clean();
        input.served.push(served(19, 22));
        assert_found(&input, "told to stop with request `r1` in flight");
        input.served = vec![Served {
            until_ns: None,
            ..served(19, 0)
        }];
        assert_found(&input, "until it was cut");
    }

    #[test]
    fn a_request_past_its_timeout_or_a_node_past_its_grace_may_be_cut() {
        let mut input = clean();
        input.served.push(served(1, 30));
        assert_eq!(check(&input).class(), Class::Violation);
        input.limits.request_timeout_ns = 15 * SECOND;
        assert_eq!(check(&input).class(), Class::Pass);
        let mut ending = clean();
        ending.served.push(served(19, 22));
        ending.node_ends = vec![NodeEnd {
            node: "n1".to_owned(),
            at_ns: 0,
            shutdown_grace_ns: 20 * SECOND,
        }];
        assert_eq!(check(&ending).class(), Class::Pass);
        ending.node_ends[0].shutdown_grace_ns = 25 * SECOND;
        assert_eq!(check(&ending).class(), Class::Violation);
    }

    #[test]
    fn planted_re_open_after_the_decision_to_stop() {
        let mut input = clean();
        input.drains[0].reopened_ns = Some(15 * SECOND);
        assert_found(&input, "after its admission was opened again");
        input.drains[0].at_ns = 25 * SECOND;
        assert_found(&input, "without a drain");
    }

    #[test]
    fn planted_sigterm_is_ignored_and_nobody_kills() {
        let mut input = clean();
        input.terminations[0].gone_ns = Some(60 * SECOND);
        assert_found(&input, "gone 40.000000000 s after SIGTERM");
        input.terminations[0].gone_ns = None;
        assert_found(&input, "never gone");
    }

    #[test]
    fn nothing_stopped_is_unknown_and_impossible_times_are_the_harness() {
        assert_eq!(check(&Input::default()).class(), Class::Unknown);
        let mut input = clean();
        input.served.push(served(9, 8));
        assert_eq!(check(&input).class(), Class::HarnessFault);
    }
}
