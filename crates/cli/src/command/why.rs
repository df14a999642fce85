//! `nihilo why autoscaler REV`: the decisions with their inputs, in sentences.

use std::time::Duration;

use clap::Subcommand;
use nihilo_types::time::age;
use serde_json::Value;

use crate::context::Context;
use crate::failure::Result;
use crate::output::{self, OutputArgs};

/// Between two looks while following.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Subcommand)]
pub(crate) enum WhyCommand {
    /// Why a revision has as many instances as it has.
    Autoscaler {
        revision: String,
        /// Go on with each new decision.
        #[arg(short, long)]
        watch: bool,
        #[command(flatten)]
        output: OutputArgs,
    },
}

pub(crate) async fn run(context: &Context, command: WhyCommand) -> Result<()> {
    let WhyCommand::Autoscaler {
        revision,
        watch,
        output,
    } = command;
    let explain = || context.client.explain(&context.namespace, &revision);
    let report = explain().await?;
    output::one(output.output, &report, |_| revision.clone(), text)?;
    let mut said = sentence(&report["newest"]).to_owned();
    if !watch {
        return Ok(());
    }
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let report = explain().await?;
        let now = sentence(&report["newest"]);
        if now != said {
            said = now.to_owned();
            output::data(&said);
        }
    }
}

fn sentence(told: &Value) -> &str {
    told["says"].as_str().unwrap_or("nothing was decided yet")
}

/// The newest decision, and how it came to it.
fn text(report: &Value) -> String {
    let name = report["revision"].as_str().unwrap_or_default();
    let mut lines = vec![format!("{name} {}", sentence(&report["newest"]))];
    let history = report["history"].as_array().map_or(&[][..], Vec::as_slice);
    if !history.is_empty() {
        lines.push(String::new());
    }
    let rows: Vec<_> = history
        .iter()
        .map(|told| {
            let ago = age(told["ageMs"].as_u64().unwrap_or(0));
            let occasion = told["record"]["occasion"].as_str().unwrap_or_default();
            vec![format!("{ago} ago"), occasion.into(), sentence(told).into()]
        })
        .collect();
    if !rows.is_empty() {
        lines.push(output::table(&["WHEN", "ON", "DECISION"], &rows));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_sentences_newest_first_and_then_the_way_to_it() {
        let told = |age_ms: u64, says: &str| serde_json::json!({"ageMs": age_ms, "says": says, "record": {"occasion": "tick"}});
        let report = serde_json::json!({
            "revision": "default/hello-00001",
            "newest": told(0, "wants 3: panic"),
            "history": [told(5_000, "wants 1: calm"), told(0, "wants 3: panic")],
        });
        let shown = text(&report);
        let mut lines = shown.lines();
        assert_eq!(lines.next(), Some("default/hello-00001 wants 3: panic"));
        assert!(shown.contains("5s ago  tick  wants 1: calm"), "{shown}");
    }
}
