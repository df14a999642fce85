//! What a node still has, and what keeps it there while the node is drained. Pure: who asks brings
//! what the nodes say of themselves and of their instances.

use std::collections::BTreeMap;

use nihilo_machine::member::Duty;
use nihilo_raft::Role;
use nihilo_types::id::NodeId;
use nihilo_types::instance::{InstanceReport, InstanceState};
use nihilo_types::time;
use nihilo_wire::cluster as pb;

use super::observe::state_for_people;

pub(super) const CORDONED: &str = "cordoned";
pub(super) const DRAINING: &str = "draining";
pub(super) const DRAINED: &str = "drained";

/// What each node runs; one that does not answer is absent.
pub(super) type Reports = BTreeMap<NodeId, Vec<InstanceReport>>;

/// As `NodeStatus.duty` has it: by what the cluster wants, and what the node says it has. Of one that
/// says nothing nobody knows that it has nothing.
pub(super) fn duty_word(duty: Duty, status: &pb::NodeStatus) -> &'static str {
    match duty {
        Duty::Full => "",
        Duty::Cordoned => CORDONED,
        Duty::Drained if has_nothing(status) => DRAINED,
        Duty::Drained => DRAINING,
    }
}

fn has_nothing(status: &pb::NodeStatus) -> bool {
    answers(status) && status.n_instances == 0 && status.n_shards == 0 && !leads(status)
}

fn leads(status: &pb::NodeStatus) -> bool {
    status.role == Role::Leader.as_str()
}

fn answers(status: &pb::NodeStatus) -> bool {
    status.role != Role::Stopped.as_str()
}

/// `None`: no such node.
pub(super) fn describe(
    node: NodeId,
    nodes: &[pb::NodeStatus],
    reports: &Reports,
) -> Option<pb::DescribeNodeResponse> {
    let status = nodes.iter().find(|status| status.id == node.0)?;
    let is_drained = matches!(status.duty.as_str(), DRAINING | DRAINED);
    let running = reports.get(&node).into_iter().flatten();
    let running = running.filter(|report| report.state.is_counted());
    let shown = |report: &InstanceReport| pb::NodeInstance {
        id: report.id.to_string(),
        namespace: report.revision.namespace.to_string(),
        revision: report.revision.name.to_string(),
        state: state_for_people(report),
        in_flight: report.in_flight,
        age_ms: report.age_ms,
        waits_for: match is_drained {
            true => waits_for(report, node, nodes, reports),
            false => String::new(),
        },
    };
    let left = match is_drained {
        true => left(status, nodes),
        false => Vec::new(),
    };
    Some(pb::DescribeNodeResponse {
        node: Some(status.clone()),
        instances: running.map(shown).collect(),
        left,
    })
}

/// What else a drained node has and should not.
fn left(status: &pb::NodeStatus, nodes: &[pb::NodeStatus]) -> Vec<String> {
    if !answers(status) {
        return vec!["it does not answer, so nobody can say what it has".into()];
    }
    let mut left = Vec::new();
    let mut others = nodes.iter().filter(|other| other.id != status.id);
    let has_others = others.any(|other| answers(other) && is_at_work(other));
    let stays = match has_others {
        true => "",
        false => ", and no other node that is not drained answers",
    };
    if status.n_shards > 0 {
        left.push(format!("{} shards{stays}", status.n_shards));
    }
    if leads(status) {
        left.push(format!("leadership{stays}"));
    }
    left
}

fn is_at_work(status: &pb::NodeStatus) -> bool {
    !matches!(status.duty.as_str(), DRAINING | DRAINED)
}

/// Why an instance of a drained node is still there.
fn waits_for(
    report: &InstanceReport,
    node: NodeId,
    nodes: &[pb::NodeStatus],
    reports: &Reports,
) -> String {
    match report.state {
        InstanceState::Draining if report.in_flight > 0 => {
            return format!("finishes {} requests", report.in_flight);
        }
        InstanceState::Frozen => return "is frozen, and told to end".into(),
        InstanceState::Draining | InstanceState::Stopping => return "is told to end".into(),
        InstanceState::Preparing
        | InstanceState::Starting
        | InstanceState::Booting
        | InstanceState::Ready
        | InstanceState::Exited
        | InstanceState::Destroyed
        | InstanceState::Lost => {}
    }
    let name_of = |id: NodeId| {
        let status = nodes.iter().find(|status| status.id == id.0);
        status.map_or("?", |status| status.name.as_str())
    };
    let is_away = |id: NodeId| {
        let mut others = nodes.iter().filter(|status| status.id == id.0);
        id != node && others.any(is_at_work)
    };
    let elsewhere: Vec<_> = (reports.iter())
        .filter(|(id, _)| is_away(**id))
        .flat_map(|(id, reports)| reports.iter().map(|other| (*id, other)))
        .filter(|(_, other)| other.revision_uid == report.revision_uid)
        .collect();
    let running = || elsewhere.iter().filter(|(_, r)| r.state.is_counted());
    let boots = running().filter(|(_, other)| other.state < InstanceState::Ready);
    if let Some((at, other)) = boots.min_by_key(|(_, other)| other.age_ms) {
        let (state, age) = (state_for_people(other), time::age(other.age_ms));
        let name = name_of(*at);
        return format!("{} on {name} is to replace it: {state} for {age}", other.id);
    }
    if let Some(full) = nobody_takes_it(node, nodes) {
        return full;
    }
    // Those that the agents remember: the newest one says most.
    let ended = elsewhere.iter().filter(|(_, other)| other.exit.is_some());
    match ended.min_by_key(|(_, other)| other.age_ms) {
        Some((at, other)) if running().next().is_none() => {
            let exit = other.exit.as_ref().map(|exit| format!("{exit:?}"));
            let (exit, name) = (exit.unwrap_or_default(), name_of(*at));
            format!("{} on {name} was to replace it and ended: {exit}", other.id)
        }
        _ => "waits for an instance that replaces it".into(),
    }
}

/// Why no other node takes an instance; `None` = one does.
fn nobody_takes_it(node: NodeId, nodes: &[pb::NodeStatus]) -> Option<String> {
    let others = nodes.iter().filter(|status| status.id != node.0);
    let whys: Option<Vec<_>> = others.map(why_not).collect();
    let whys = whys?;
    Some(match whys.is_empty() {
        true => "there is no other node".into(),
        false => format!("no other node takes it: {}", whys.join(", ")),
    })
}

/// `None`: it takes instances.
fn why_not(status: &pb::NodeStatus) -> Option<String> {
    let name = &status.name;
    if !answers(status) {
        return Some(format!("{name} does not answer"));
    }
    if !status.duty.is_empty() {
        return Some(format!("{name} is {}", status.duty));
    }
    let (n, most) = (status.n_instances, status.capacity);
    (n >= most).then(|| format!("{name} runs {n} of {most}"))
}

#[cfg(test)]
#[path = "drain_test.rs"]
mod tests;
