//! The verdict on a trial: the shared checkers, and those that only real processes need.

mod availability;
mod drain;
mod logs;
mod owners;
pub(crate) mod sessions;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::Context;
use nihilo_sim::checker::convergence;
use nihilo_sim::checker::coverage;
use nihilo_sim::checker::drain::NodeEnd;
use nihilo_sim::checker::instance_bound::{
    self, DeclaredDown, NodeRecords, ProcessSample, SeenEmpty,
};
use nihilo_sim::checker::orphans;
use nihilo_sim::checker::replica_equality::{self, Digest};
use nihilo_sim::checker::request_ledger::{self, GatewayGone};
use nihilo_sim::checker::verdict::{MAX_EVIDENCE, NOTHING_CHECKED};
use nihilo_sim::checker::{Evidence, Passed, Report, Verdict, Violation};
use nihilo_sim::history::ledger::{ClientOutcome, ClientRecord, Ended, Sent};
use nihilo_sim::history::startstop;

pub use availability::{Fault, Strained};
pub(crate) use owners::{COMMANDS, OWNED};

use crate::backend::log_of;
use crate::instance_ledger::{self, InstanceLine};
use crate::record::{Answered, Outcome, RequestRecord};
use crate::workload::services::TIMEOUT_SECONDS;

/// The answer's way back and a shared machine's noise, on top of a request's deadline.
const DEADLINE_SLACK_NS: u64 = 5_000_000_000;
/// "At once" on a machine that other work shares.
const QUEUE_FULL_WITHIN_NS: u64 = 2_000_000_000;

/// Everything a trial knows when it is over.
#[derive(Debug, Default)]
pub struct Evidences {
    pub requests: Vec<RequestRecord>,
    /// Times in which a gateway may end connections without a word.
    pub gateway_gone: Vec<GatewayGone>,
    pub faults: Vec<Fault>,
    /// Services that may refuse everything, and when.
    pub strained: Vec<Strained>,
    pub max_scale: BTreeMap<String, u32>,
    pub seen_empty: Vec<SeenEmpty>,
    /// Nodes that were removed while they served.
    pub removed: Vec<DeclaredDown>,
    pub samples: Vec<ProcessSample>,
    /// Nodes that were told to end.
    pub node_ends: Vec<NodeEnd>,
    /// What the trial itself saw and a promise forbids, with the checker it belongs to.
    pub findings: Vec<(&'static str, Evidence)>,
    /// Things that the trial looked at and that were as promised, by checker.
    pub n_confirmed: BTreeMap<&'static str, u64>,
    /// What the nodes' states came to, at moments of rest.
    pub digests: Vec<Digest>,
    /// Ends of processes that nobody ended.
    pub crashes: Vec<String>,
    /// Records of agents whose disks lost them later.
    pub saved_records: Vec<NodeRecords>,
    /// Where command ledgers stand that a disk has lost, with the node they are of.
    pub saved_ledgers: Vec<(String, PathBuf)>,
    /// Instances outlive their nodes.
    pub adopts: bool,
    /// What is older in the agents' records is not judged.
    pub since_ns: u64,
    /// Bytes of each node's output that are not judged, by its directory.
    pub log_from: BTreeMap<PathBuf, u64>,
    /// Looks at the cluster after the load, until it had been at rest for long enough.
    pub settled: Vec<convergence::Input>,
    /// Scans of the host beside what the agents list.
    pub host_scans: Vec<orphans::Input>,
    /// What was to happen, and what did.
    pub coverage: coverage::Input,
    /// Texts of panics that the trial caused.
    pub expected_panics: Vec<String>,
}

/// What the trial itself looks at: after load nothing runs, by the kernel's and all nodes' word.
pub const AT_ZERO: &str = "at zero after load";
/// A killed node's instances are gone with it.
pub const DIED: &str = "died with its node";
/// A change by an operator that a fault met on its way succeeded.
pub const CHANGE: &str = "change under way";
/// A store that has failed says so, and does not come back in its process.
pub const STORE_FAILED: &str = "a failed store stays failed";
/// A healed cluster is whole again in time.
pub const WHOLE: &str = "whole again";
/// A service that could not serve, or not all, serves again once it can.
pub const SERVES_AGAIN: &str = "serves again";
/// Who joins, votes, leads or is removed does so in time, and who was removed stays out.
pub const MEMBERSHIP: &str = "membership changes";

const SEEN: [&str; 7] = [
    WHOLE,
    CHANGE,
    AT_ZERO,
    DIED,
    STORE_FAILED,
    SERVES_AGAIN,
    MEMBERSHIP,
];

/// Judges a trial by its evidences and the files below its folder.
pub fn judge(evidences: &Evidences, ledger: &Path, nodes: &[(String, PathBuf)]) -> Report {
    let mut report = Report::default();
    let (lines, records) = match (
        instance_ledger::read(ledger),
        node_records(nodes, evidences),
    ) {
        (Ok(lines), Ok(records)) => (lines, records),
        (Err(error), _) | (_, Err(error)) => {
            report.add("records", Verdict::harness_fault(format!("{error:#}")));
            return report;
        }
    };
    report.add(request_ledger::NAME, requests(evidences, &lines));
    report.add(
        drain::NAME,
        drain::check(
            &lines,
            &evidences.requests,
            &records,
            &evidences.seen_empty,
            &evidences.node_ends,
        ),
    );
    let available = availability::check(
        &evidences.requests,
        &evidences.gateway_gone,
        &evidences.faults,
        &evidences.strained,
    );
    report.add(availability::NAME, available);
    report.add(instance_bound::NAME, bound(evidences, records, nodes));
    report.add(
        replica_equality::NAME,
        replica_equality::check(&evidences.digests),
    );
    let logs = logs::check(
        nodes,
        &evidences.log_from,
        &evidences.crashes,
        &evidences.expected_panics,
    );
    report.add(logs::NAME, logs);
    let ledgers = [nodes, &evidences.saved_ledgers].concat();
    if let Some(owners) = owners::check(&ledgers, evidences.since_ns) {
        report.add(owners::NAME, owners);
    }
    for settled in &evidences.settled {
        report.add(convergence::NAME, convergence::check(settled));
    }
    for scan in &evidences.host_scans {
        report.add(orphans::NAME, orphans::check(scan));
    }
    if !evidences.coverage.required.is_empty() {
        report.add(coverage::NAME, coverage::check(&evidences.coverage));
    }
    seen_by_the_trial(evidences, &mut report);
    report
}

fn seen_by_the_trial(evidences: &Evidences, report: &mut Report) {
    for name in SEEN {
        let of =
            |(checker, evidence): &(&str, Evidence)| (*checker == name).then(|| evidence.clone());
        let found: Vec<_> = evidences.findings.iter().filter_map(of).collect();
        let n_confirmed = evidences.n_confirmed.get(name).copied().unwrap_or(0);
        if !found.is_empty() || n_confirmed > 0 {
            report.add(name, verdict(found, n_confirmed, Vec::new()));
        }
    }
}

/// A violation if anything was found; unknown if nothing was looked at.
pub(crate) fn verdict(found: Vec<Evidence>, n_checked: u64, notes: Vec<String>) -> Verdict {
    if found.is_empty() {
        if n_checked == 0 {
            return Verdict::unknown(NOTHING_CHECKED);
        }
        return Verdict::Pass(Passed { n_checked, notes });
    }
    Verdict::Violation(Violation {
        n_found: found.len() as u64,
        evidence: found.into_iter().take(MAX_EVIDENCE).collect(),
    })
}

fn requests(evidences: &Evidences, lines: &[InstanceLine]) -> Verdict {
    let input = request_ledger::Input {
        client: evidences.requests.iter().flat_map(client_records).collect(),
        gateway: None,
        instance: Some(lines.iter().filter_map(InstanceLine::record).collect()),
        gateway_gone: evidences.gateway_gone.clone(),
        limits: request_ledger::Limits {
            deadline_slack_ns: DEADLINE_SLACK_NS,
            queue_full_within_ns: QUEUE_FULL_WITHIN_NS,
        },
    };
    request_ledger::check(&input)
}

fn client_records(request: &RequestRecord) -> Vec<ClientRecord> {
    let sent = Sent {
        request: request.nonce.clone(),
        at_ns: request.sent_ns,
        node: node_name(request.gateway),
        may_repeat: request.is_get(),
        want_body: None,
        deadline_ns: u64::from(TIMEOUT_SECONDS) * 1_000_000_000,
    };
    let mut records = vec![ClientRecord::Sent(sent)];
    if let Some(outcome) = client_outcome(&request.outcome) {
        records.push(ClientRecord::Ended(Ended {
            request: request.nonce.clone(),
            at_ns: request.ended_ns,
            outcome,
        }));
    }
    records
}

fn client_outcome(outcome: &Outcome) -> Option<ClientOutcome> {
    Some(match outcome {
        Outcome::Open => return None,
        Outcome::Answered(answered) => answer(answered),
        Outcome::Cut { .. } => ClientOutcome::Cut { head_seen: true },
        Outcome::Broken { .. } => ClientOutcome::Cut { head_seen: false },
        Outcome::Refused { .. } => ClientOutcome::NotAccepted,
        Outcome::Hung => ClientOutcome::GaveUp,
    })
}

fn answer(answered: &Answered) -> ClientOutcome {
    let status = answered.status;
    if !answered.reason.is_empty() {
        return ClientOutcome::GatewayError {
            status,
            has_retry_after: answered.has_retry_after,
            cause: answered.reason.replace('_', "-"),
        };
    }
    ClientOutcome::Response {
        status,
        instance: answered.instance.clone(),
        echoed: None,
        body: None,
        mistake: answered.mistake.clone(),
    }
}

fn bound(evidences: &Evidences, records: Vec<NodeRecords>, nodes: &[(String, PathBuf)]) -> Verdict {
    if evidences.max_scale.is_empty() {
        return Verdict::unknown("no revision has a max-scale");
    }
    let logs = nodes.iter().map(|(node, dir)| (node.clone(), log_of(dir)));
    let Some(mut declared_down) =
        sessions::declared_down(&logs.collect::<Vec<_>>(), evidences.adopts)
    else {
        return Verdict::harness_fault("the output of a node cannot be read");
    };
    declared_down.extend(evidences.removed.iter().cloned());
    instance_bound::check(&instance_bound::Input {
        nodes: records,
        max_scale: evidences.max_scale.clone(),
        surge: 0,
        declared_down,
        seen_empty: evidences.seen_empty.clone(),
        samples: evidences.samples.clone(),
        tolerances: instance_bound::Tolerances {
            // A scan of a busy host takes its time, and so does the line that follows an exit.
            scan_lag_ns: 2_000_000_000,
            ..instance_bound::Tolerances::default()
        },
    })
}

fn node_records(
    nodes: &[(String, PathBuf)],
    evidences: &Evidences,
) -> anyhow::Result<Vec<NodeRecords>> {
    let of_node = |(node, data_dir): &(String, PathBuf)| {
        let mut records = start_stop_records(data_dir)?;
        let saved = evidences.saved_records.iter();
        for saved in saved.filter(|saved| saved.node == *node) {
            let lost = |record: &&startstop::StartStopRecord| !records.contains(record);
            let lost: Vec<_> = saved.records.iter().filter(lost).cloned().collect();
            records.extend(lost);
        }
        records.retain(|record| record.boottime_ns >= evidences.since_ns);
        records.sort_by_key(|record| record.boottime_ns);
        Ok(NodeRecords {
            node: node.clone(),
            records,
        })
    };
    nodes.iter().map(of_node).collect()
}

/// What a node's agent has written down, the part in memory only included.
///
/// # Errors
/// It cannot be read.
pub fn start_stop_records(data_dir: &Path) -> anyhow::Result<Vec<startstop::StartStopRecord>> {
    let dir = data_dir.join("agent");
    let mut records = Vec::new();
    let rotated = dir.join("startstop.log.1");
    if rotated.is_file() {
        records.extend(startstop::read(BufReader::new(File::open(rotated)?))?);
    }
    let newest = dir.join("startstop.log");
    let file = File::open(&newest).with_context(|| newest.display().to_string())?;
    records.extend(startstop::read(BufReader::new(file))?);
    Ok(records)
}

/// Name of a node by its place.
pub fn node_name(node: usize) -> String {
    format!("node{}", node + 1)
}
