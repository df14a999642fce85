//! `nihilo node list|describe|cordon|uncordon`: what nodes have, and what they are given to do.

use nihilo_types::time;
use nihilo_wire::cluster as pb;
use serde::Serialize;

use super::members::find;
use crate::context::Context;
use crate::failure::Result;
use crate::output::{self, OutputArgs};

const HEAD: [&str; 9] = [
    "NODE",
    "ROLE",
    "DUTY",
    "INSTANCES",
    "CAPACITY",
    "SHARDS",
    "ISOLATION",
    "ADDR",
    "AGE",
];
const INSTANCE_HEAD: [&str; 5] = ["INSTANCE", "STATE", "IN-FLIGHT", "AGE", "WAITS FOR"];
/// Shown where a node is given all work.
const FULL: &str = "full";

#[derive(Debug, Serialize)]
struct Node {
    id: u64,
    name: String,
    role: String,
    duty: String,
    instances: u32,
    capacity: u32,
    shards: u32,
    peer: String,
    gateway: String,
    admin: String,
    age_ms: u64,
    /// Level, and why not a higher one.
    isolation: String,
}

#[derive(Debug, Serialize)]
struct Described {
    node: Node,
    instances: Vec<Instance>,
    /// What a drained node has and should not, beside its instances.
    left: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Instance {
    id: String,
    namespace: String,
    revision: String,
    state: String,
    in_flight: u32,
    age_ms: u64,
    waits_for: String,
}

pub(crate) async fn list(context: &Context, output: OutputArgs) -> Result<()> {
    let nodes: Vec<_> = context.client.nodes().await?;
    let nodes: Vec<_> = nodes.into_iter().map(Node::from).collect();
    output::list(
        output.output,
        &nodes,
        |node| format!("node/{}", node.name),
        |nodes| output::table(&HEAD, &nodes.iter().map(row).collect::<Vec<_>>()),
    )
}

pub(crate) async fn describe(context: &Context, node: &str, output: OutputArgs) -> Result<()> {
    let member = find(context, node).await?;
    let described = context.client.describe_node(member.id).await?;
    let described = Described::from(described);
    output::one(
        output.output,
        &described,
        |described| format!("node/{}", described.node.name),
        text,
    )
}

pub(crate) async fn cordon(context: &Context, node: &str) -> Result<()> {
    let member = find(context, node).await?;
    context.client.cordon(member.id).await?;
    output::data(&format!(
        "{} takes no new instances; what runs there stays",
        member.name
    ));
    warn_if_nobody_works(context).await
}

pub(crate) async fn uncordon(context: &Context, node: &str) -> Result<()> {
    let member = find(context, node).await?;
    context.client.uncordon(member.id).await?;
    output::data(&format!("{} takes instances again", member.name));
    Ok(())
}

/// Each alone may be meant; together they leave nowhere to start anything.
pub(super) async fn warn_if_nobody_works(context: &Context) -> Result<()> {
    let nodes = context.client.nodes().await?;
    if nodes.iter().all(|node| !node.duty.is_empty()) {
        output::note(
            "warning: no node takes new instances now; services at zero stay there\n  hint: nihilo \
             node uncordon NAME",
        );
    }
    Ok(())
}

impl From<pb::NodeStatus> for Node {
    fn from(node: pb::NodeStatus) -> Self {
        let duty = match node.duty.as_str() {
            "" => FULL.into(),
            _ => node.duty,
        };
        Self {
            id: node.id,
            name: node.name,
            role: node.role,
            duty,
            instances: node.n_instances,
            capacity: node.capacity,
            shards: node.n_shards,
            peer: node.peer,
            gateway: node.gateway,
            admin: node.admin,
            age_ms: node.started_ms_ago,
            isolation: node.isolation,
        }
    }
}

impl From<pb::DescribeNodeResponse> for Described {
    fn from(answer: pb::DescribeNodeResponse) -> Self {
        let instance = |instance: pb::NodeInstance| Instance {
            id: instance.id,
            namespace: instance.namespace,
            revision: instance.revision,
            state: instance.state,
            in_flight: instance.in_flight,
            age_ms: instance.age_ms,
            waits_for: instance.waits_for,
        };
        Self {
            node: answer.node.unwrap_or_default().into(),
            instances: answer.instances.into_iter().map(instance).collect(),
            left: answer.left,
        }
    }
}

fn row(node: &Node) -> Vec<String> {
    vec![
        node.name.clone(),
        node.role.clone(),
        node.duty.clone(),
        node.instances.to_string(),
        node.capacity.to_string(),
        node.shards.to_string(),
        level(&node.isolation).to_owned(),
        node.peer.clone(),
        time::age(node.age_ms),
    ]
}

/// Without the reasons.
fn level(isolation: &str) -> &str {
    match isolation.split(' ').next() {
        None | Some("") => "-",
        Some(level) => level,
    }
}

fn text(described: &Described) -> String {
    let node = &described.node;
    let mut lines = vec![
        format!(
            "Name: {}   Id: {}   Role: {}",
            node.name, node.id, node.role
        ),
        format!(
            "Duty: {}   Instances: {} of {}   Shards: {}   Age: {}",
            node.duty,
            node.instances,
            node.capacity,
            node.shards,
            time::age(node.age_ms)
        ),
        format!(
            "Peers: {}   Gateway: {}   Admin: {}",
            node.peer, node.gateway, node.admin
        ),
    ];
    if !node.isolation.is_empty() {
        lines.push(format!("Isolation: {}", output::plain(&node.isolation)));
    }
    lines.extend(described.left.iter().map(|left| format!("Left: {left}")));
    if !described.instances.is_empty() {
        let rows: Vec<_> = described.instances.iter().map(instance_row).collect();
        lines.push(output::table(&INSTANCE_HEAD, &rows));
    }
    lines.join("\n")
}

fn instance_row(instance: &Instance) -> Vec<String> {
    vec![
        format!("{}/{}", instance.namespace, instance.id),
        instance.state.clone(),
        instance.in_flight.to_string(),
        time::age(instance.age_ms),
        instance.waits_for.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_shows_its_duty_and_what_keeps_its_instances() {
        let answer = pb::DescribeNodeResponse {
            node: Some(pb::NodeStatus {
                id: 2,
                name: "node2".into(),
                role: "leader".into(),
                duty: "draining".into(),
                n_instances: 1,
                capacity: 10,
                n_shards: 85,
                peer: "h:7071".into(),
                gateway: "h:8080".into(),
                admin: "h:7070".into(),
                started_ms_ago: 65_000,
                isolation: "landlock (full: no)".into(),
                ..pb::NodeStatus::default()
            }),
            instances: vec![pb::NodeInstance {
                id: "hello-00001-1a".into(),
                namespace: "default".into(),
                revision: "hello-00001".into(),
                state: "Ready".into(),
                in_flight: 3,
                age_ms: 5_000,
                waits_for: "no other node takes it: node1 is cordoned".into(),
            }],
            left: vec!["leadership".into()],
        };
        let want = "\
Name: node2   Id: 2   Role: leader
Duty: draining   Instances: 1 of 10   Shards: 85   Age: 65s
Peers: h:7071   Gateway: h:8080   Admin: h:7070
Isolation: landlock (full: no)
Left: leadership
INSTANCE                STATE  IN-FLIGHT  AGE  WAITS FOR
default/hello-00001-1a  Ready  3          5s   no other node takes it: node1 is cordoned";
        assert_eq!(text(&answer.into()), want);
        let full = Node::from(pb::NodeStatus::default());
        assert_eq!(row(&full)[2], FULL);
        assert_eq!(level("landlock (full: no)"), "landlock");
        assert_eq!(row(&full)[6], "-");
    }
}
