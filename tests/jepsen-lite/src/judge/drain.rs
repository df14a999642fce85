//! What the shared drain checker needs, out of the instances' ledgers and the agents' records.

use std::collections::BTreeMap;

use nihilo_sim::checker::Verdict;
use nihilo_sim::checker::drain::{self, Input, Limits, NodeEnd, Served, Termination};
use nihilo_sim::checker::instance_bound::{NodeRecords, SeenEmpty};
use nihilo_sim::history::startstop::StartStopEvent;

use crate::instance_ledger::{InstanceLine, Step};
use crate::record::RequestRecord;
use crate::workload::services::{TERMINATION_GRACE_SECONDS, TIMEOUT_SECONDS};

pub(super) use nihilo_sim::checker::drain::NAME;

/// The kernel, the agent's record, and a machine that other work shares.
const SLACK_NS: u64 = 5_000_000_000;

pub(super) fn check(
    lines: &[InstanceLine],
    requests: &[RequestRecord],
    records: &[NodeRecords],
    seen_empty: &[SeenEmpty],
    node_ends: &[NodeEnd],
) -> Verdict {
    drain::check(&Input {
        terminations: terminations(lines, records, seen_empty),
        served: served(lines, &ended(requests)),
        drains: Vec::new(),
        node_ends: node_ends.to_vec(),
        limits: Limits {
            request_timeout_ns: u64::from(TIMEOUT_SECONDS) * 1_000_000_000,
            termination_grace_ns: u64::from(TERMINATION_GRACE_SECONDS) * 1_000_000_000,
            slack_ns: SLACK_NS,
        },
    })
}

fn terminations(
    lines: &[InstanceLine],
    records: &[NodeRecords],
    seen_empty: &[SeenEmpty],
) -> Vec<Termination> {
    let told = lines.iter().filter(|line| line.step == Step::Terminating);
    told.filter_map(|line| {
        // In nobody's record: the instance bound's checker reports that.
        let (node, spawned) = records.iter().find_map(|of_node| {
            let mut events = of_node.records.iter();
            let spawned = events.find(|record| record.instance == line.instance)?;
            Some((of_node, spawned.boottime_ns))
        })?;
        let is_end = |event| event == StartStopEvent::Exit;
        let exit = node
            .records
            .iter()
            .find(|record| record.instance == line.instance && is_end(record.event));
        let empty = seen_empty
            .iter()
            .filter(|seen| seen.node == node.node && seen.at_ns > spawned);
        let gone_ns = exit.map(|record| record.boottime_ns);
        Some(Termination {
            instance: line.instance.clone(),
            node: node.node.clone(),
            at_ns: line.at_ns,
            gone_ns: gone_ns.or(empty.map(|seen| seen.at_ns).min()),
        })
    })
    .collect()
}

/// When each request's client had its outcome.
fn ended(requests: &[RequestRecord]) -> BTreeMap<&str, u64> {
    let over = requests.iter().filter(|request| request.ended_ns > 0);
    over.map(|request| (request.nonce.as_str(), request.ended_ns))
        .collect()
}

/// What instances worked on, as long as somebody waited for it: of a request whose node was declared
/// down the client has been told so, and the instance may go on when its node is heard again.
fn served(lines: &[InstanceLine], ended: &BTreeMap<&str, u64>) -> Vec<Served> {
    let mut open: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let mut served = Vec::new();
    for line in lines {
        let key = (line.instance.as_str(), line.request.as_str());
        match line.step {
            Step::Started => {
                open.insert(key, line.at_ns);
            }
            Step::Finished => {
                if let Some(from_ns) = open.remove(&key) {
                    served.push(one(key, from_ns, Some(line.at_ns)));
                }
            }
            Step::Terminating => {}
        }
    }
    served.extend(
        open.into_iter()
            .map(|(key, from_ns)| one(key, from_ns, None)),
    );
    for one in &mut served {
        if let Some(ended_ns) = ended.get(one.request.as_str()) {
            let until_ns = one
                .until_ns
                .map_or(*ended_ns, |until_ns| until_ns.min(*ended_ns));
            one.until_ns = Some(until_ns.max(one.from_ns));
        }
    }
    served
}

fn one((instance, request): (&str, &str), from_ns: u64, until_ns: Option<u64>) -> Served {
    Served {
        request: request.to_owned(),
        instance: instance.to_owned(),
        from_ns,
        until_ns,
    }
}

#[cfg(test)]
mod tests {
    use nihilo_sim::checker::verdict::Class;
    use nihilo_sim::history::startstop::StartStopRecord;

    use super::*;
    use crate::record::Outcome;

    fn line(at_ns: u64, step: Step) -> InstanceLine {
        InstanceLine {
            at_ns,
            request: "r".into(),
            instance: "i".into(),
            step,
            revision: "a-1".into(),
            in_flight: 0,
        }
    }

    fn record(boottime_ns: u64, event: StartStopEvent) -> StartStopRecord {
        StartStopRecord {
            boottime_ns,
            instance: "i".into(),
            epoch: 1,
            event,
            pid: None,
        }
    }

    fn class_of(lines: &[InstanceLine], requests: &[RequestRecord]) -> Class {
        class_with_exit(100, lines, requests)
    }

    fn class_with_exit(exit: u64, lines: &[InstanceLine], requests: &[RequestRecord]) -> Class {
        let records = [NodeRecords {
            node: "node1".into(),
            records: vec![
                record(1, StartStopEvent::Spawn),
                record(exit, StartStopEvent::Exit),
            ],
        }];
        check(lines, requests, &records, &[], &[]).class()
    }

    fn class(lines: &[InstanceLine]) -> Class {
        class_of(lines, &[])
    }

    #[test]
    fn one_that_ignores_its_stop_is_gone_with_its_grace() {
        let told = [line(10, Step::Terminating)];
        let grace_ns = u64::from(TERMINATION_GRACE_SECONDS) * 1_000_000_000;
        let class = |exit| class_with_exit(exit, &told, &[]);
        assert_eq!(class(10 + grace_ns + SLACK_NS), Class::Pass);
        assert_eq!(class(11 + grace_ns + SLACK_NS), Class::Violation);
    }

    #[test]
    fn what_its_client_waits_for_no_more_may_be_stopped() {
        let lines = [10, 30, 40].map(|at_ns| match at_ns {
            10 => line(at_ns, Step::Started),
            30 => line(at_ns, Step::Terminating),
            _ => line(at_ns, Step::Finished),
        });
        let answered = |ended_ns| RequestRecord {
            nonce: "r".into(),
            method: "POST".into(),
            service: "a".into(),
            gateway: 0,
            body_bytes: 0,
            app_ms: 0,
            sent_ns: 1,
            ended_ns,
            outcome: Outcome::Open,
        };
        for (ended_ns, expected) in [
            (5, Class::Pass),
            (20, Class::Pass),
            (35, Class::Violation),
            (0, Class::Violation),
        ] {
            assert_eq!(
                class_of(&lines, &[answered(ended_ns)]),
                expected,
                "{ended_ns}"
            );
        }
    }

    #[test]
    fn a_stop_in_the_middle_of_a_request_is_found() {
        let (started, finished) = (line(10, Step::Started), line(20, Step::Finished));
        let told = |at_ns| line(at_ns, Step::Terminating);
        let after = [started.clone(), finished.clone(), told(30)];
        assert_eq!(class(&after), Class::Pass);
        assert_eq!(
            class(&[started.clone(), told(15), finished]),
            Class::Violation
        );
        assert_eq!(class(&[started, told(15)]), Class::Violation);
    }
}
