//! C10 on requests that went well, and on planted bugs.

use super::*;
use crate::checker::verdict::Class;
use crate::history::ledger::{Ended, InstanceStep, Sent};

const MS: u64 = 1_000_000;

fn sent(request: &str, may_repeat: bool) -> ClientRecord {
    ClientRecord::Sent(Sent {
        request: request.to_owned(),
        at_ns: 100 * MS,
        node: "n1".to_owned(),
        may_repeat,
        want_body: Some(format!("body-{request}")),
        deadline_ns: 30_000 * MS,
    })
}

fn ended(request: &str, at_ms: u64, outcome: ClientOutcome) -> ClientRecord {
    ClientRecord::Ended(Ended {
        request: request.to_owned(),
        at_ns: at_ms * MS,
        outcome,
    })
}

fn response(request: &str, instance: &str) -> ClientOutcome {
    ClientOutcome::Response {
        status: 200,
        instance: instance.to_owned(),
        echoed: Some(request.to_owned()),
        body: Some(format!("body-{request}")),
        mistake: String::new(),
    }
}

fn gateway_error(status: u16, cause: &str) -> ClientOutcome {
    ClientOutcome::GatewayError {
        status,
        has_retry_after: true,
        cause: cause.to_owned(),
    }
}

fn executed(request: &str, instance: &str) -> InstanceRecord {
    InstanceRecord {
        request: request.to_owned(),
        at_ns: 110 * MS,
        instance: instance.to_owned(),
        step: InstanceStep::Started,
    }
}

fn at_gateway(request: &str, step: GatewayStep) -> GatewayRecord {
    GatewayRecord {
        request: request.to_owned(),
        at_ns: 105 * MS,
        node: "n1".to_owned(),
        step,
    }
}

/// One POST that goes to instance `i1` and comes back.
fn good() -> Input {
    Input {
        client: vec![sent("r1", false), ended("r1", 120, response("r1", "i1"))],
        instance: Some(vec![executed("r1", "i1")]),
        ..Input::default()
    }
}

fn with_gateway(mut input: Input, steps: Vec<GatewayStep>) -> Input {
    let records = steps.into_iter().map(|step| at_gateway("r1", step));
    input.gateway = Some(records.collect());
    input
}

fn dispatched(instance: &str) -> GatewayStep {
    GatewayStep::Dispatched {
        instance: instance.to_owned(),
    }
}

fn answered() -> GatewayStep {
    GatewayStep::Answered {
        status: 200,
        by_gateway: false,
    }
}

fn outcome(outcome: ClientOutcome) -> Input {
    Input {
        client: vec![sent("r1", false), ended("r1", 120, outcome)],
        instance: Some(Vec::new()),
        ..Input::default()
    }
}

fn gone(from_ms: u64, until_ms: u64) -> GatewayGone {
    GatewayGone {
        node: "n1".to_owned(),
        from_ns: from_ms * MS,
        until_ns: until_ms * MS,
    }
}

#[track_caller]
fn assert_class(input: &Input, want: Class) -> String {
    let verdict = check(input);
    assert_eq!(verdict.class(), want, "{verdict}");
    verdict.to_string()
}

#[track_caller]
fn assert_found(input: &Input, want: &str) {
    let text = assert_class(input, Class::Violation);
    assert!(text.contains(want), "{text}");
}

#[test]
fn one_response_of_the_instance_that_executed_it() {
    assert_class(&good(), Class::Pass);
    let steps = vec![GatewayStep::Received, dispatched("i1"), answered()];
    assert_class(&with_gateway(good(), steps), Class::Pass);
}

#[test]
fn explicit_errors_are_outcomes() {
    for status in [429, 502, 503, 504] {
        assert_class(&outcome(gateway_error(status, "")), Class::Pass);
    }
    assert_class(
        &outcome(ClientOutcome::Cut { head_seen: true }),
        Class::Pass,
    );
    assert_class(&outcome(ClientOutcome::NotAccepted), Class::Pass);
}

#[test]
fn a_request_may_be_cut_while_its_own_gateway_is_killed() {
    let mut input = outcome(ClientOutcome::Cut { head_seen: false });
    input.gateway_gone = vec![gone(110, 500)];
    assert_class(&input, Class::Pass);
    input.gateway_gone = vec![gone(300, 500)];
    assert_found(&input, "dropped silently");
    input.gateway_gone = vec![GatewayGone {
        node: "n2".to_owned(),
        ..gone(110, 500)
    }];
    assert_found(&input, "dropped silently");
}

#[test]
fn planted_queue_drops_on_resize() {
    assert_found(
        &outcome(ClientOutcome::Cut { head_seen: false }),
        "dropped silently",
    );
}

#[test]
fn planted_waiter_is_never_woken() {
    let mut input = good();
    input.client.pop();
    assert_found(&input, "has no outcome");
    assert_found(&outcome(ClientOutcome::GaveUp), "got no answer at all");
}

#[test]
fn planted_post_retried_after_bytes_were_sent() {
    let mut input = good();
    input.instance = Some(vec![executed("r1", "i2"), executed("r1", "i1")]);
    assert_found(&input, "executed 2 times");
    input.client[0] = sent("r1", true);
    assert_class(&input, Class::Pass);
}

#[test]
fn planted_response_to_the_wrong_waiter() {
    let mut input = good();
    input.client = vec![
        sent("r1", false),
        sent("r2", false),
        ended("r1", 120, response("r2", "i1")),
        ended("r2", 120, response("r1", "i1")),
    ];
    input.instance = Some(vec![executed("r1", "i1"), executed("r2", "i1")]);
    let text = assert_class(&input, Class::Violation);
    assert!(text.contains("was given the response to `r2`"), "{text}");
    assert!(
        text.contains("was given the body `body-r2` instead of `body-r1`"),
        "{text}"
    );
}

#[test]
fn planted_answer_without_an_execution() {
    let mut input = good();
    input.instance = Some(vec![executed("r1", "i2")]);
    assert_found(&input, "in the name of `i1`, which never executed it");
}

#[test]
fn what_the_client_found_wrong_is_a_violation() {
    let mut input = good();
    let ClientRecord::Ended(end) = &mut input.client[1] else {
        panic!("the end");
    };
    let ClientOutcome::Response { mistake, .. } = &mut end.outcome else {
        panic!("a response");
    };
    "body is 3 bytes short".clone_into(mistake);
    assert_found(&input, "3 bytes short");
}

#[test]
fn planted_executed_although_refused() {
    let mut input = outcome(ClientOutcome::NotAccepted);
    input.instance = Some(vec![executed("r1", "i1")]);
    assert_found(&input, "although the connection was refused");
}

#[test]
fn planted_request_held_past_its_deadline() {
    let mut input = good();
    input.client[1] = ended("r1", 40_000, gateway_error(504, "deadline"));
    assert_found(&input, "with a deadline of 30.0");
}

#[test]
fn planted_full_queue_answers_late_or_without_a_hint() {
    let mut input = good();
    input.client[1] = ended("r1", 150, gateway_error(503, QUEUE_FULL));
    assert_class(&input, Class::Pass);
    input.client[1] = ended("r1", 300, gateway_error(503, QUEUE_FULL));
    assert_found(&input, "a full queue said so after 0.2");
    input.client[1] = ended(
        "r1",
        150,
        ClientOutcome::GatewayError {
            status: 503,
            has_retry_after: false,
            cause: QUEUE_FULL.to_owned(),
        },
    );
    assert_found(&input, "without `Retry-After`");
}

#[test]
fn planted_gateway_books_do_not_add_up() {
    let open = with_gateway(good(), vec![GatewayStep::Received, dispatched("i1")]);
    assert_found(&open, "left open");
    let killed = Input {
        gateway_gone: vec![gone(110, 500)],
        ..open
    };
    assert_class(&killed, Class::Pass);
    let steps = vec![
        GatewayStep::Received,
        dispatched("i1"),
        answered(),
        answered(),
    ];
    assert_found(&with_gateway(good(), steps), "answered 2 times");
    let steps = vec![GatewayStep::Received, dispatched("i2"), answered()];
    assert_found(&with_gateway(good(), steps), "to which no gateway sent it");
}

#[test]
fn contradictory_books_are_a_harness_fault() {
    let mut twice = good();
    twice.client.push(sent("r1", false));
    assert_class(&twice, Class::HarnessFault);
    let mut ended_twice = good();
    ended_twice
        .client
        .push(ended("r1", 130, gateway_error(502, "")));
    assert_class(&ended_twice, Class::HarnessFault);
    let mut unknown = good();
    unknown.instance = Some(vec![executed("r1", "i1"), executed("r9", "i1")]);
    assert_class(&unknown, Class::HarnessFault);
    let mut before = good();
    before.client[1] = ended("r1", 50, response("r1", "i1"));
    assert_class(&before, Class::HarnessFault);
    assert_class(&Input::default(), Class::Unknown);
}

#[test]
fn evidence_shows_the_request_over_all_ledgers() {
    let mut input = good();
    input.instance = Some(vec![executed("r1", "i2"), executed("r1", "i1")]);
    let text = check(&input).to_string();
    assert!(
        text.contains("0.100000000 s client sent it to node `n1`"),
        "{text}"
    );
    assert!(
        text.contains("0.110000000 s instance `i2`: Started"),
        "{text}"
    );
}
