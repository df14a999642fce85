//! `nihilo instance list`.

use clap::Subcommand;
use nihilo_types::time;
use nihilo_wire::serving as pb;
use serde::Serialize;

use super::Scope;
use crate::context::Context;
use crate::failure::Result;
use crate::output::{self, OutputArgs};

const HEAD: [&str; 10] = [
    "ID",
    "REVISION",
    "NODE",
    "STATE",
    "ADDRESS",
    "PID",
    "IN-FLIGHT",
    "AGE",
    "ISOLATION",
    "EXIT",
];

#[derive(Debug, Subcommand)]
pub(crate) enum InstanceCommand {
    /// List instances as their nodes report them.
    #[command(visible_alias = "ls")]
    List {
        /// Only those of this service.
        #[arg(short, long, default_value = "", hide_default_value = true)]
        service: String,
        #[command(flatten)]
        scope: Scope,
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// An instance as `-o json` shows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    id: String,
    namespace: String,
    revision: String,
    node: String,
    state: String,
    address: String,
    pid: u32,
    in_flight: u32,
    age_ms: u64,
    exit: String,
    isolation: String,
}

impl From<pb::Instance> for Shown {
    fn from(i: pb::Instance) -> Self {
        Self {
            id: i.id,
            namespace: i.namespace,
            revision: i.revision,
            node: i.node,
            state: i.state,
            address: i.address,
            pid: i.pid,
            in_flight: i.in_flight,
            age_ms: i.age_ms,
            exit: i.exit,
            isolation: i.isolation,
        }
    }
}

pub(crate) async fn run(context: &Context, command: InstanceCommand) -> Result<()> {
    let InstanceCommand::List {
        service,
        scope,
        output,
    } = command;
    let answer = context
        .client
        .instances(scope.namespace(context), &service)
        .await?;
    warn_of_missing(&answer.unreachable);
    let items: Vec<Shown> = answer.items.into_iter().map(Into::into).collect();
    output::list(
        output.output,
        &items,
        |i| format!("instance/{}", i.id),
        |items| {
            let row = |i: &Shown| {
                let row = vec![
                    i.id.clone(),
                    i.revision.clone(),
                    i.node.clone(),
                    i.state.clone(),
                    i.address.clone(),
                    i.pid.to_string(),
                    i.in_flight.to_string(),
                    time::age(i.age_ms),
                    i.isolation.clone(),
                    i.exit.clone(),
                ];
                (i.namespace.clone(), row)
            };
            scope.table(&HEAD, items.iter().map(row).collect())
        },
    )
}

/// Says on stderr whose instances a list lacks.
pub(crate) fn warn_of_missing(unreachable: &[String]) {
    if !unreachable.is_empty() {
        output::note(&format!(
            "warning: no answer from {}; their instances are not listed",
            unreachable.join(", ")
        ));
    }
}
