//! `nihilo node drain`: everything a node has goes elsewhere, and this waits for it.

use std::time::Duration;

use clap::Args;
use nihilo_wire::cluster as pb;
use tokio::time::Instant;

use super::members::find;
use super::nodes::warn_if_nobody_works;
use crate::context::Context;
use crate::failure::{Failure, Result, exit};
use crate::output;
use crate::wait::Progress;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Nothing was left so many times in a row: a start that was ordered before the mark was seen may
/// still have been on its way at the first.
const N_LOOKS: u32 = 2;
/// Instances that are named when it takes too long.
const MAX_NAMED: usize = 20;

#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    node: String,
    /// Seconds to wait until nothing is left there; 0 = do not wait. The cluster goes on by itself.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    wait_timeout: u64,
}

pub(crate) async fn run(context: &Context, args: &DrainArgs) -> Result<()> {
    let member = find(context, &args.node).await?;
    context.client.drain(member.id).await?;
    warn_if_nobody_works(context).await?;
    let name = &member.name;
    let limit = Duration::from_secs(args.wait_timeout);
    if limit.is_zero() {
        output::data(&format!("{name} drains; see: nihilo node describe {name}"));
        return Ok(());
    }
    until_drained(context, &member, limit).await?;
    output::data(&format!(
        "{name} is drained: nothing runs there, its gateway serves on. It may be stopped; back to \
         work: nihilo node uncordon {name}"
    ));
    Ok(())
}

/// Waits until a node that is to be drained has nothing left.
///
/// # Errors
/// Exit 5: something is, after `limit`; each with what keeps it. Exit 130: interrupted.
pub(super) async fn until_drained(
    context: &Context,
    member: &pb::Member,
    limit: Duration,
) -> Result<()> {
    let deadline = Instant::now() + limit;
    let progress = Progress::start();
    let mut said = String::new();
    let mut n_looks = 0;
    loop {
        let seen = context.client.describe_node(member.id).await?;
        n_looks = match what_is_left(&seen) {
            None => n_looks + 1,
            Some(left) => {
                if left != said {
                    progress.say(&format!("{}: {left}", member.name));
                    said = left;
                }
                0
            }
        };
        if n_looks >= N_LOOKS {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(too_long(&member.name, &seen, limit));
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            _ = tokio::signal::ctrl_c() => {
                let text = format!("still draining {}", member.name);
                let hint = format!("nihilo node describe {}", member.name);
                return Err(Failure::new(exit::INTERRUPTED, text).hint(hint));
            }
        }
    }
}

/// In one line; `None` = nothing.
fn what_is_left(seen: &pb::DescribeNodeResponse) -> Option<String> {
    let mut left = seen.left.clone();
    match seen.instances.len() {
        0 => {}
        1 => left.insert(0, "1 instance".into()),
        n => left.insert(0, format!("{n} instances")),
    }
    (!left.is_empty()).then(|| format!("{} left", left.join(", ")))
}

fn too_long(name: &str, seen: &pb::DescribeNodeResponse, limit: Duration) -> Failure {
    let text = format!("{name} is not drained after {} s", limit.as_secs());
    let mut failure = Failure::new(exit::STILL_PROGRESSING, text);
    for instance in seen.instances.iter().take(MAX_NAMED) {
        let (id, waits_for) = (&instance.id, &instance.waits_for);
        failure = failure.because(format!("{}/{id}: {waits_for}", instance.namespace));
    }
    let n_more = seen.instances.len().saturating_sub(MAX_NAMED);
    if n_more > 0 {
        failure = failure.because(format!("and {n_more} more"));
    }
    for left in &seen.left {
        failure = failure.because(left.clone());
    }
    failure.hint(format!(
        "it goes on by itself: nihilo node describe {name}; to call it off: nihilo node uncordon \
         {name}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_one_line_and_each_reason_another() {
        let instance = |id: &str, waits_for: &str| pb::NodeInstance {
            id: id.into(),
            namespace: "default".into(),
            waits_for: waits_for.into(),
            ..pb::NodeInstance::default()
        };
        let mut seen = pb::DescribeNodeResponse::default();
        assert_eq!(what_is_left(&seen), None);
        seen.left = vec!["7 shards".into()];
        assert_eq!(what_is_left(&seen).unwrap(), "7 shards left");
        seen.instances = vec![
            instance("a-1", "finishes 2 requests"),
            instance("b-1", "there is no other node"),
        ];
        assert_eq!(what_is_left(&seen).unwrap(), "2 instances, 7 shards left");
        let failure = too_long("node1", &seen, Duration::from_secs(3));
        let text = failure.to_string();
        assert_eq!(failure.code, exit::STILL_PROGRESSING);
        for part in [
            "node1 is not drained after 3 s",
            "default/a-1: finishes 2 requests",
            "default/b-1: there is no other node",
            "7 shards",
            "nihilo node uncordon node1",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
