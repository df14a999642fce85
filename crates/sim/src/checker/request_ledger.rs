//! C10: each accepted request has exactly one outcome, and is executed at most once unless its
//! method allows a repeat.
//!
//! ```text
//! client    sent ─────────────────────────────────► ended      exactly one, within the deadline
//! gateway        received ─► dispatched … ─► answered          optional: one answer per receipt
//! instance                     started ─► finished             0 or 1; more if it may repeat
//! ```

use std::collections::{BTreeMap, BTreeSet};

use crate::checker::request_ledger::joined::{Joined, join};
use crate::checker::verdict::{Evidence, Findings, Verdict};
use crate::history::ledger::{
    ClientOutcome, ClientRecord, GatewayRecord, GatewayStep, InstanceRecord,
};
use crate::history::shown::seconds;

mod joined;

pub const NAME: &str = "C10 request ledger";

/// The ledgers of a trial that has ended: every client had time to see its request's end.
#[derive(Debug, Clone, Default)]
pub struct Input {
    pub client: Vec<ClientRecord>,
    /// `None` when the build under test writes none.
    pub gateway: Option<Vec<GatewayRecord>>,
    /// `None` when no app kept one; then nothing is said about executions.
    pub instance: Option<Vec<InstanceRecord>>,
    pub gateway_gone: Vec<GatewayGone>,
    pub limits: Limits,
}

/// While this lasts, connections to a gateway may end without a word: its process was killed, or
/// the trial cut the link to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayGone {
    pub node: String,
    pub from_ns: u64,
    /// Until it listens again.
    pub until_ns: u64,
}

/// Bounds that the contract names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Beyond a request's deadline, for the answer's way back.
    pub deadline_slack_ns: u64,
    /// A full queue says so within this time (P9).
    pub queue_full_within_ns: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            deadline_slack_ns: 1_000_000_000,
            queue_full_within_ns: 100_000_000,
        }
    }
}

/// The gateway's word for a queue without room.
pub const QUEUE_FULL: &str = "queue-full";

/// Joins the ledgers and judges every request.
pub fn check(input: &Input) -> Verdict {
    let requests = match join(input) {
        Ok(requests) => requests,
        Err(reason) => return Verdict::harness_fault(reason),
    };
    let mut findings = Findings::default();
    let mut count: BTreeMap<&str, u64> = BTreeMap::new();
    for request in requests.values() {
        let judge = Judge { input, request };
        *count.entry(judge.kind()).or_default() += 1;
        for what in judge.broken_rules() {
            findings.add(judge.evidence(what));
        }
    }
    for (kind, n) in &count {
        findings.note(format!("{n} {kind}"));
    }
    if input.instance.is_none() {
        findings.note("executions not judged: no instance ledger");
    }
    if input.gateway.is_none() {
        findings.note("joined without a gateway ledger");
    }
    findings.into_verdict(requests.len() as u64)
}

struct Judge<'a> {
    input: &'a Input,
    request: &'a Joined<'a>,
}

impl Judge<'_> {
    fn kind(&self) -> &'static str {
        match self.request.ended.map(|ended| &ended.outcome) {
            None => "without an end",
            Some(ClientOutcome::Response { .. }) => "answered by an instance",
            Some(ClientOutcome::GatewayError { .. }) => "refused by a gateway",
            Some(ClientOutcome::Cut { .. }) => "cut",
            Some(ClientOutcome::NotAccepted) => "not accepted",
            Some(ClientOutcome::GaveUp) => "given up",
        }
    }

    fn broken_rules(&self) -> Vec<String> {
        let mut broken = Vec::new();
        self.executions(&mut broken);
        self.gateway_books(&mut broken);
        let Some(ended) = self.request.ended else {
            broken.push("has no outcome: the client still waits".to_owned());
            return broken;
        };
        let took_ns = ended.at_ns.saturating_sub(self.request.sent.at_ns);
        match &ended.outcome {
            ClientOutcome::Response { .. } => self.response(&ended.outcome, &mut broken),
            ClientOutcome::GatewayError {
                status,
                has_retry_after,
                cause,
            } => {
                if *status == 503 && !has_retry_after {
                    broken.push("503 without `Retry-After`".to_owned());
                }
                if cause == QUEUE_FULL && took_ns > self.input.limits.queue_full_within_ns {
                    broken.push(format!("a full queue said so after {}", seconds(took_ns)));
                }
            }
            ClientOutcome::Cut { head_seen } => {
                if !head_seen && !self.gateway_was_gone(ended.at_ns) {
                    broken.push(
                        "dropped silently: the connection ended without a response, and its \
                         gateway was there"
                            .to_owned(),
                    );
                }
            }
            ClientOutcome::NotAccepted => {
                if self.n_executed() > 0 {
                    broken.push("executed although the connection was refused".to_owned());
                }
            }
            ClientOutcome::GaveUp => broken.push("got no answer at all".to_owned()),
        }
        let limit_ns = self
            .request
            .sent
            .deadline_ns
            .saturating_add(self.input.limits.deadline_slack_ns);
        if took_ns > limit_ns && !matches!(ended.outcome, ClientOutcome::GaveUp) {
            broken.push(format!(
                "waited {} with a deadline of {}",
                seconds(took_ns),
                seconds(self.request.sent.deadline_ns)
            ));
        }
        broken
    }

    fn response(&self, outcome: &ClientOutcome, broken: &mut Vec<String>) {
        let ClientOutcome::Response {
            instance,
            echoed,
            body,
            mistake,
            ..
        } = outcome
        else {
            return;
        };
        let sent = self.request.sent;
        if let Some(echoed) = echoed
            && *echoed != sent.request
        {
            broken.push(format!("was given the response to `{echoed}`"));
        }
        if let (Some(want), Some(body)) = (&sent.want_body, body)
            && want != body
        {
            broken.push(format!("was given the body `{body}` instead of `{want}`"));
        }
        if !mistake.is_empty() {
            broken.push(format!("was given a wrong response: {mistake}"));
        }
        let by_it = |execution: &&InstanceRecord| execution.instance == *instance;
        if self.input.instance.is_some() && !self.request.started.iter().any(by_it) {
            broken.push(format!(
                "was answered in the name of `{instance}`, which never executed it"
            ));
        }
    }

    fn n_executed(&self) -> usize {
        self.request.started.len()
    }

    fn executions(&self, broken: &mut Vec<String>) {
        let n_executed = self.n_executed();
        if n_executed > 1 && !self.request.sent.may_repeat {
            broken.push(format!("executed {n_executed} times, may be executed once"));
        }
    }

    /// The gateways' own books: one answer for each receipt, and no execution behind their back.
    fn gateway_books(&self, broken: &mut Vec<String>) {
        if self.input.gateway.is_none() {
            return;
        }
        let of = |is_it: fn(&GatewayStep) -> bool| -> BTreeMap<&str, usize> {
            let mut per_node = BTreeMap::new();
            for record in self.request.gateway.iter().filter(|r| is_it(&r.step)) {
                *per_node.entry(record.node.as_str()).or_default() += 1;
            }
            per_node
        };
        let received = of(|step| matches!(step, GatewayStep::Received));
        let answered = of(|step| matches!(step, GatewayStep::Answered { .. }));
        for (node, n_answers) in &answered {
            if *n_answers > received.get(node).copied().unwrap_or(0) {
                broken.push(format!(
                    "answered {n_answers} times by the gateway of `{node}`"
                ));
            }
        }
        for node in received.keys().filter(|node| !answered.contains_key(*node)) {
            if !self.was_gone_after_receipt(node) {
                broken.push(format!("received by the gateway of `{node}` and left open"));
            }
        }
        let dispatched: BTreeSet<&str> = self
            .request
            .gateway
            .iter()
            .filter_map(|record| match &record.step {
                GatewayStep::Dispatched { instance } => Some(instance.as_str()),
                GatewayStep::Received | GatewayStep::Answered { .. } => None,
            })
            .collect();
        for execution in &self.request.started {
            if !dispatched.contains(execution.instance.as_str()) {
                broken.push(format!(
                    "executed by `{}`, to which no gateway sent it",
                    execution.instance
                ));
            }
        }
    }

    /// Whether the gateway that the client asked was gone at some time while the request was
    /// under way; its own connections may then end without a word.
    fn gateway_was_gone(&self, ended_ns: u64) -> bool {
        let sent = self.request.sent;
        self.gone(&sent.node)
            .any(|gone| gone.from_ns <= ended_ns && sent.at_ns <= gone.until_ns)
    }

    fn was_gone_after_receipt(&self, node: &str) -> bool {
        let since_ns = self.request.sent.at_ns;
        self.gone(node).any(|gone| since_ns <= gone.until_ns)
    }

    fn gone<'b>(&'b self, node: &'b str) -> impl Iterator<Item = &'b GatewayGone> {
        self.input
            .gateway_gone
            .iter()
            .filter(move |gone| gone.node == node)
    }

    fn evidence(&self, what: String) -> Evidence {
        let request = self.request;
        let mut evidence = Evidence::new(&request.sent.request, what).at(request.sent.at_ns);
        for line in request.lines() {
            evidence = evidence.witness(line);
        }
        evidence
    }
}

#[cfg(test)]
#[path = "request_ledger_test.rs"]
mod tests;
