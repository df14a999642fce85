//! `nihilo ps`: what runs, by revision.

use std::collections::{BTreeMap, BTreeSet};

use nihilo_types::meta::keys;
use nihilo_types::revision::Revision;
use nihilo_types::time;
use nihilo_wire::serving as pb;
use serde::Serialize;

use super::Scope;
use super::instance::warn_of_missing;
use crate::context::Context;
use crate::failure::Result;
use crate::output::{self, OutputArgs};

const HEAD: [&str; 7] = [
    "SERVICE",
    "REVISION",
    "READY",
    "INSTANCES",
    "IN-FLIGHT",
    "NODES",
    "OLDEST",
];

#[derive(Debug, clap::Args)]
pub(crate) struct PsArgs {
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    output: OutputArgs,
}

/// All instances of one revision together.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    namespace: String,
    service: String,
    revision: String,
    ready: u32,
    instances: u32,
    in_flight: u32,
    nodes: BTreeSet<String>,
    oldest_ms: u64,
}

pub(crate) async fn run(context: &Context, args: &PsArgs) -> Result<()> {
    let namespace = args.scope.namespace(context);
    let revisions = context.client.revisions(namespace, "").await?.items;
    let answer = context.client.instances(namespace, "").await?;
    warn_of_missing(&answer.unreachable);
    let lines = group(&answer.items, &revisions);
    output::list(
        args.output.output,
        &lines,
        |line| line.revision.clone(),
        |lines| {
            let rows = lines.iter().map(|line| (line.namespace.clone(), row(line)));
            args.scope.table(&HEAD, rows.collect())
        },
    )
}

/// Instances that are over are left out.
fn group(instances: &[pb::Instance], revisions: &[Revision]) -> Vec<Line> {
    let service_of: BTreeMap<_, _> = revisions
        .iter()
        .map(|r| {
            let key = (r.metadata.namespace.as_str(), r.metadata.name.as_str());
            (key, r.metadata.label(keys::SERVICE).unwrap_or_default())
        })
        .collect();
    let mut lines: BTreeMap<(&str, &str), Line> = BTreeMap::new();
    for instance in instances.iter().filter(|instance| is_running(instance)) {
        let key = (instance.namespace.as_str(), instance.revision.as_str());
        let line = lines.entry(key).or_insert_with(|| Line {
            namespace: instance.namespace.clone(),
            service: service_of.get(&key).copied().unwrap_or_default().into(),
            revision: instance.revision.clone(),
            ..Line::default()
        });
        line.instances += 1;
        line.ready += u32::from(is_ready(instance));
        line.in_flight += instance.in_flight;
        line.nodes.insert(instance.node.clone());
        line.oldest_ms = line.oldest_ms.max(instance.age_ms);
    }
    lines.into_values().collect()
}

pub(crate) fn is_ready(instance: &pb::Instance) -> bool {
    instance.state.eq_ignore_ascii_case("ready")
}

/// Whether there is still a process, or may be one.
pub(crate) fn is_running(instance: &pb::Instance) -> bool {
    !["exited", "destroyed"]
        .iter()
        .any(|state| instance.state.eq_ignore_ascii_case(state))
}

fn row(line: &Line) -> Vec<String> {
    let nodes: Vec<_> = line.nodes.iter().map(String::as_str).collect();
    vec![
        line.service.clone(),
        line.revision.clone(),
        line.ready.to_string(),
        line.instances.to_string(),
        line.in_flight.to_string(),
        nodes.join(","),
        time::age(line.oldest_ms),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(state: &str, node: &str) -> pb::Instance {
        pb::Instance {
            namespace: "default".into(),
            revision: "hello-00001".into(),
            state: state.into(),
            node: node.into(),
            in_flight: 2,
            age_ms: 5_000,
            ..Default::default()
        }
    }

    #[test]
    fn instances_are_counted_by_revision() {
        let mut revision = Revision::default();
        revision.metadata.namespace = "default".into();
        revision.metadata.name = "hello-00001".into();
        revision
            .metadata
            .labels
            .insert(keys::SERVICE.into(), "hello".into());
        let instances = [
            instance("Ready", "node1"),
            instance("Booting", "node3"),
            instance("Exited", "node2"),
        ];
        let lines = group(&instances, &[revision]);
        let rows: Vec<_> = lines.iter().map(row).collect();
        assert_eq!(
            rows,
            [["hello", "hello-00001", "1", "2", "4", "node1,node3", "5s"]]
        );
    }
}
