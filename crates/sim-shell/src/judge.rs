//! The verdict on a run: the shared checkers on what was recorded.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufReader;
use std::sync::Arc;

use nihilo_sim::checker::instance_bound::NodeRecords;
use nihilo_sim::checker::{
    Evidence, Passed, Report, Verdict, Violation, coverage, instance_bound, liveness, monotonic,
    no_lost_ack, register, replica_equality, request_ledger, single_owner, stale_read,
};
use nihilo_sim::history::register::register_operations;
use nihilo_sim::history::{History, Phase, startstop};

use crate::clients::LOADED;
use crate::node::{Site, name};
use crate::observe::Observer;
use crate::panics;

/// What the run itself looks at: nodes start, services deploy, every gateway serves, all rests.
pub(crate) const SEEN: &str = "seen by the run";
/// A healed cluster takes a write within this time.
const WRITE_WITHIN_NS: u64 = 8_000_000_000;
/// The answer's way back after a gateway's own deadline.
const DEADLINE_SLACK_NS: u64 = 2_000_000_000;
/// A full line says so at once, and then the answer has a slow link to cross.
const QUEUE_FULL_WITHIN_NS: u64 = 1_500_000_000;

pub(crate) fn judge(sites: &[Arc<Site>], observer: &Observer, healed_ns: u64) -> Report {
    let book = sites[0].book.clone();
    let mut report = Report::default();
    for what in &*book.harness_faults.lock() {
        report.add("harness", Verdict::harness_fault(what.clone()));
    }
    report.add(panics::NAME, panics::judge());
    report.add(SEEN, seen(&book.findings.lock()));
    let events = book.history.lock().clone();
    let history = History::from_events(events.clone());
    match history.and_then(|history| register_operations(&history)) {
        Ok(operations) => {
            let versions = register::Versions::AlsoHidden;
            let linearizable = register::check(&register::Input::new(&operations, versions));
            report.add(register::NAME, linearizable);
            report.add(stale_read::NAME, stale_read::check(&operations));
        }
        Err(error) => report.add("history", Verdict::harness_fault(error.to_string())),
    }
    report.add(no_lost_ack::NAME, no_lost_ack::check(&kept(sites)));
    report.add(
        monotonic::NAME,
        monotonic::check(&monotonic::Input {
            samples: book.samples.lock().clone(),
            revisions: Vec::new(),
        }),
    );
    let digests = replica_equality::check(&observer.digests);
    report.add(replica_equality::NAME, digests);
    report.add(
        single_owner::NAME,
        single_owner::check(&single_owner::Input {
            commands: book.commands.lock().clone(),
            assignments: Vec::new(),
        }),
    );
    report.add(instance_bound::NAME, bound(sites));
    report.add(request_ledger::NAME, requests(sites));
    let is_write = |op: &str| op != "get";
    let times = |phase| {
        let of = events
            .iter()
            .filter(|event| event.phase == phase && is_write(&event.op));
        of.map(|event| event.at_ns).collect()
    };
    report.add(
        liveness::NAME,
        liveness::check(&liveness::Input {
            healed_ns,
            within_ns: WRITE_WITHIN_NS,
            acked_ns: times(Phase::Ok),
            tried_ns: times(Phase::Invoke),
        }),
    );
    report.add(coverage::NAME, covered(sites));
    report
}

fn seen(findings: &[Evidence]) -> Verdict {
    match findings.is_empty() {
        true => Verdict::Pass(Passed {
            n_checked: 1,
            notes: Vec::new(),
        }),
        false => Verdict::Violation(Violation {
            n_found: findings.len() as u64,
            evidence: findings.iter().take(8).cloned().collect(),
        }),
    }
}

/// What every node holds of what was created, by its own state.
fn kept(sites: &[Arc<Site>]) -> no_lost_ack::Input {
    let mut held = BTreeMap::new();
    for site in sites {
        let Some(view) = site.view.lock().clone() else {
            continue;
        };
        let names: BTreeSet<String> = view.raft.state().read(|state| {
            let names = state
                .services()
                .map(|service| service.metadata.name.clone());
            names.filter(|name| name.starts_with('c')).collect()
        });
        held.insert(site.name(), names);
    }
    no_lost_ack::Input {
        adds: sites[0].book.adds.lock().clone(),
        held,
        removed: BTreeSet::new(),
    }
}

fn bound(sites: &[Arc<Site>]) -> Verdict {
    let mut nodes = Vec::new();
    for site in sites {
        let file = File::open(site.dir.join("agent/startstop.log"));
        let records = match file.map(|file| startstop::read(BufReader::new(file))) {
            Ok(Ok(records)) => records,
            Ok(Err(error)) => return Verdict::harness_fault(error.to_string()),
            Err(error) => return Verdict::harness_fault(error.to_string()),
        };
        nodes.push(NodeRecords {
            node: site.name(),
            records,
        });
    }
    let (book, plan) = (&sites[0].book, &sites[0].plan);
    let revisions = LOADED.map(|service| (format!("{service}-00001"), plan.max_scale));
    instance_bound::check(&instance_bound::Input {
        nodes,
        max_scale: revisions.into(),
        surge: 0,
        declared_down: book.declared_down.lock().clone(),
        seen_empty: book.seen_empty.lock().clone(),
        samples: Vec::new(),
        tolerances: instance_bound::Tolerances::default(),
    })
}

fn requests(sites: &[Arc<Site>]) -> Verdict {
    let book = &sites[0].book;
    request_ledger::check(&request_ledger::Input {
        client: book.client.lock().clone(),
        gateway: None,
        instance: Some(book.instance.lock().clone()),
        gateway_gone: book.gateway_gone.lock().clone(),
        limits: request_ledger::Limits {
            deadline_slack_ns: DEADLINE_SLACK_NS,
            queue_full_within_ns: QUEUE_FULL_WITHIN_NS,
        },
    })
}

/// At least one fault took hold.
fn covered(sites: &[Arc<Site>]) -> Verdict {
    let injected = sites[0].book.injected.lock().clone();
    let kind = |what: coverage::Injected| coverage::Injected {
        fault: "any".into(),
        ..what
    };
    coverage::check(&coverage::Input {
        required: vec![coverage::Required {
            fault: "any".into(),
            at_least: 1,
            must_hit_leader: false,
        }],
        injected: injected.into_iter().map(kind).collect(),
    })
}

/// After rest nothing runs.
pub(crate) fn look_at_rest(sites: &[Arc<Site>], now_ns: u64) {
    let book = &sites[0].book;
    for site in sites {
        let Some(view) = site.view.lock().clone() else {
            continue;
        };
        for (report, _) in view.agent.instances() {
            if report.state.is_counted() {
                let what = format!("{} is {:?} after rest", report.id, report.state);
                let evidence = Evidence::new(name(site.place), what).at(now_ns);
                book.findings.lock().push(evidence);
            }
        }
    }
}
