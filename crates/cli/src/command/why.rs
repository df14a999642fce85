//! `nihilo why autoscaler REV`: the last decision with its inputs.

use clap::Subcommand;
use serde_json::Value;

use crate::context::Context;
use crate::failure::Result;
use crate::output::{self, OutputArgs};

#[derive(Debug, Subcommand)]
pub(crate) enum WhyCommand {
    /// Why a revision has as many instances as it has.
    Autoscaler {
        revision: String,
        #[command(flatten)]
        output: OutputArgs,
    },
}

pub(crate) async fn run(context: &Context, command: WhyCommand) -> Result<()> {
    let WhyCommand::Autoscaler { revision, output } = command;
    let report = context
        .client
        .explain(&context.namespace, &revision)
        .await?;
    output::one(output.output, &report, |_| revision.clone(), text)
}

fn text(report: &Value) -> String {
    let mut rows = Vec::new();
    flatten("", report, &mut rows);
    output::table(&["WHAT", "VALUE"], &rows)
}

/// One row per leaf, named by its path.
fn flatten(path: &str, value: &Value, rows: &mut Vec<Vec<String>>) {
    let below = |key: &str| {
        if path.is_empty() {
            key.to_owned()
        } else {
            format!("{path}.{key}")
        }
    };
    match value {
        Value::Object(map) => map
            .iter()
            .for_each(|(key, v)| flatten(&below(key), v, rows)),
        Value::Array(list) => {
            list.iter()
                .enumerate()
                .for_each(|(i, v)| flatten(&below(&i.to_string()), v, rows));
        }
        Value::String(text) => rows.push(vec![path.into(), text.clone()]),
        leaf => rows.push(vec![path.into(), leaf.to_string()]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_one_line_per_value() {
        let report = serde_json::json!({"decision": {"want": 3, "rule": "panic"}, "ready": [1]});
        let want = "WHAT           VALUE\ndecision.rule  panic\ndecision.want  3\nready.0        1";
        assert_eq!(text(&report), want);
    }
}
