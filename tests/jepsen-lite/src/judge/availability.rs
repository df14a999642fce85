//! What the surviving gateways owe their clients: every idempotent request is answered, and what
//! is not idempotent is refused only around a fault, explicitly.

use nihilo_sim::checker::request_ledger::GatewayGone;
use nihilo_sim::checker::{Evidence, Verdict};

use super::{node_name, verdict};
use crate::record::{Outcome, RequestRecord};

pub(super) const NAME: &str = "D availability";

/// A time in which requests that may not be repeated can be lost with a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub from_ns: u64,
    /// Until nothing of it can be felt any more.
    pub until_ns: u64,
    /// A node that was told to end, and therefore owes everybody an answer.
    pub graceful: bool,
}

/// A time in which a service has nothing to serve with, or too little: each of its requests may be
/// refused, explicitly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strained {
    pub service: String,
    pub from_ns: u64,
    pub until_ns: u64,
}

pub(super) fn check(
    requests: &[RequestRecord],
    gone: &[GatewayGone],
    faults: &[Fault],
    strained: &[Strained],
) -> Verdict {
    let mut found = Vec::new();
    let (mut n_checked, mut n_exempt, mut n_refused, mut n_strained) = (0, 0, 0, 0);
    let mut slowest_ns = 0;
    for request in requests {
        if was_gone(request, gone) {
            n_exempt += 1;
            continue;
        }
        n_checked += 1;
        slowest_ns = slowest_ns.max(request.ended_ns.saturating_sub(request.sent_ns));
        if request.outcome.is_good() {
            continue;
        }
        // Once the head was sent nobody can answer again, however often it might be asked.
        let is_cut = matches!(request.outcome, Outcome::Cut { .. });
        let excused =
            (!request.is_get() || is_cut) && faults.iter().any(|fault| is_around(request, fault));
        if excused && is_explicit(&request.outcome) {
            n_refused += 1;
            continue;
        }
        if is_refused(&request.outcome) && strained.iter().any(|one| is_under(request, one)) {
            n_strained += 1;
            continue;
        }
        let what = match request.is_get() {
            true => "an idempotent request was not answered",
            false if excused => "the outcome is not explicit",
            false => "refused without a fault that could be the cause",
        };
        let text = format!("{what}: {:?}", request.outcome);
        found.push(
            Evidence::new(&request.nonce, text)
                .at(request.sent_ns)
                .witness(shown(request)),
        );
    }
    let notes = vec![
        format!("{n_refused} not idempotent or half answered, explicitly refused around a fault"),
        format!("{n_exempt} through a gateway that was gone"),
        format!("{n_strained} explicitly refused by a service that could not serve"),
        format!("the slowest took {} ms", slowest_ns / 1_000_000),
    ];
    verdict(found, n_checked, notes)
}

fn shown(request: &RequestRecord) -> String {
    let (method, service) = (&request.method, &request.service);
    let gateway = node_name(request.gateway);
    let took_ms = request.ended_ns.saturating_sub(request.sent_ns) / 1_000_000;
    let (bytes, app_ms) = (request.body_bytes, request.app_ms);
    format!("{method} {service} through {gateway}, {bytes} bytes, app {app_ms} ms: {took_ms} ms")
}

/// One outcome that says what it is. A cut after the head is one: there is no other way left.
fn is_explicit(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Answered(answered) => answered.status >= 500 && !answered.reason.is_empty(),
        Outcome::Cut { .. } => true,
        Outcome::Open | Outcome::Refused { .. } | Outcome::Broken { .. } | Outcome::Hung => false,
    }
}

/// Nothing of it was begun.
fn is_refused(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Answered(_)) && is_explicit(outcome)
}

fn is_under(request: &RequestRecord, strained: &Strained) -> bool {
    request.service == strained.service
        && strained.from_ns <= request.ended_ns
        && request.sent_ns <= strained.until_ns
}

fn was_gone(request: &RequestRecord, gone: &[GatewayGone]) -> bool {
    let name = node_name(request.gateway);
    gone.iter().any(|gone| {
        gone.node == name && gone.from_ns <= request.ended_ns && request.sent_ns <= gone.until_ns
    })
}

fn is_around(request: &RequestRecord, fault: &Fault) -> bool {
    !fault.graceful && fault.from_ns <= request.ended_ns && request.sent_ns <= fault.until_ns
}

#[cfg(test)]
mod tests {
    use nihilo_sim::checker::verdict::Class;

    use super::*;
    use crate::record::Answered;

    fn request(method: &str, gateway: usize, outcome: Outcome) -> RequestRecord {
        RequestRecord {
            nonce: "n".into(),
            method: method.into(),
            service: "s".into(),
            gateway,
            body_bytes: 0,
            app_ms: 0,
            sent_ns: 100,
            ended_ns: 200,
            outcome,
        }
    }

    fn status(status: u16, reason: &str) -> Outcome {
        Outcome::Answered(Answered {
            status,
            reason: reason.into(),
            ..Answered::default()
        })
    }

    fn class(request: RequestRecord) -> Class {
        let gone = [GatewayGone {
            node: "node3".into(),
            from_ns: 150,
            until_ns: 900,
        }];
        let faults = [Fault {
            from_ns: 150,
            until_ns: 900,
            graceful: false,
        }];
        check(&[request], &gone, &faults, &[]).class()
    }

    #[test]
    fn a_get_must_be_answered_and_a_post_may_be_refused_only_explicitly() {
        assert_eq!(class(request("GET", 0, status(200, ""))), Class::Pass);
        let refused = || status(502, "instance_terminated");
        assert_eq!(class(request("GET", 0, refused())), Class::Violation);
        assert_eq!(class(request("POST", 0, refused())), Class::Pass);
        assert_eq!(class(request("POST", 0, Outcome::Hung)), Class::Violation);
        assert_eq!(class(request("POST", 0, status(502, ""))), Class::Violation);
        let broken = || Outcome::Broken { why: "eof".into() };
        assert_eq!(class(request("POST", 0, broken())), Class::Violation);
    }

    #[test]
    fn half_an_answer_is_excused_by_a_fault_only() {
        let cut = || Outcome::Cut {
            status: 200,
            instance: "i".into(),
            why: "reset".into(),
        };
        assert_eq!(class(request("GET", 0, cut())), Class::Pass);
        let alone = check(&[request("GET", 0, cut())], &[], &[], &[]);
        assert_eq!(alone.class(), Class::Violation);
    }

    #[test]
    fn a_gateway_that_was_gone_owes_nothing_and_alone_proves_nothing() {
        let broken = Outcome::Broken { why: "eof".into() };
        assert_eq!(class(request("GET", 2, broken)), Class::Unknown);
    }

    #[test]
    fn without_a_fault_nothing_may_be_refused() {
        let refused = request("POST", 0, status(503, "queue_deadline"));
        assert_eq!(check(&[refused], &[], &[], &[]).class(), Class::Violation);
    }

    #[test]
    fn a_service_that_cannot_serve_refuses_explicitly_and_only_then() {
        let class = |outcome, service: &str, from_ns| {
            let strained = Strained {
                service: service.into(),
                from_ns,
                until_ns: from_ns + 50,
            };
            check(&[request("GET", 0, outcome)], &[], &[], &[strained]).class()
        };
        let full = || status(503, "queue_full");
        assert_eq!(class(full(), "s", 120), Class::Pass);
        assert_eq!(class(full(), "another", 120), Class::Violation);
        assert_eq!(class(full(), "s", 201), Class::Violation);
        assert_eq!(class(full(), "s", 49), Class::Violation);
        let broken = Outcome::Broken { why: "eof".into() };
        assert_eq!(class(broken, "s", 120), Class::Violation);
        assert_eq!(class(Outcome::Hung, "s", 120), Class::Violation);
    }
}
