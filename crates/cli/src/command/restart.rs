//! `nihilo node restart`: another program in place of a node's, and this waits until it serves.

use std::time::Duration;

use clap::Args;
use nihilo_wire::cluster as pb;
use tokio::time::Instant;

use super::members::find;
use crate::context::Context;
use crate::failure::{Failure, Result, exit};
use crate::output;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A restart that takes longer waits for somebody.
const PATIENCE: Duration = Duration::from_secs(2);
/// After the program before has answered what it had.
const NEXT_SERVES_WITHIN: Duration = Duration::from_secs(30);
/// Of a node whose build does not say how long it answers.
const OF_OLDER: Duration = Duration::from_secs(60);
/// Of a process whose answer was on its way when it was told to restart.
const LATE: Duration = Duration::from_millis(20);

#[derive(Debug, Args)]
pub(crate) struct RestartArgs {
    node: String,
    /// Seconds to wait until it serves again; 0 = do not wait. By default, 30 more than it takes at most to
    /// answer what is under way.
    #[arg(long, value_name = "SECONDS")]
    wait_timeout: Option<u64>,
}

/// # Errors
/// Exit 4: the node refuses, and goes on as it is. Exit 5: it does not serve within the time.
pub(crate) async fn run(context: &Context, args: &RestartArgs) -> Result<()> {
    let member = find(context, &args.node).await?;
    let answers_within = context.client.restart_node(member.id).await?;
    let (asked, limit) = (Instant::now(), limit(args.wait_timeout, answers_within));
    let name = &member.name;
    if limit.is_zero() {
        output::data(&format!("{name} restarts; see: nihilo node list"));
        return Ok(());
    }
    let mut is_told = false;
    while asked.elapsed() < limit {
        tokio::time::sleep(LOOK_EVERY).await;
        if asked.elapsed() > PATIENCE
            && !answers_within.is_zero()
            && !std::mem::replace(&mut is_told, true)
        {
            let within = answers_within.as_secs();
            output::note(&format!(
                "{name} first answers what is under way, for {within} s at most"
            ));
        }
        // Whoever is asked may be the one that restarts, or have lost its leader with it.
        let Ok(nodes) = context.client.nodes().await else {
            continue;
        };
        let found = nodes.iter().find(|node| node.id == member.id);
        if found.is_some_and(|node| is_back(node, asked.elapsed())) {
            let took = asked.elapsed().as_millis();
            output::data(&format!(
                "{name} serves by its next program, {took} ms after it was asked to"
            ));
            return Ok(());
        }
    }
    let text = format!("{name} does not serve within {} s", limit.as_secs());
    Err(Failure::new(exit::STILL_PROGRESSING, text).hint(format!(
        "its log says more: journalctl -u nihilo, on {name}'s host"
    )))
}

/// How long it is waited for: `wanted` seconds, if somebody has said.
fn limit(wanted: Option<u64>, answers_within: Duration) -> Duration {
    match wanted {
        Some(seconds) => Duration::from_secs(seconds),
        None if answers_within.is_zero() => OF_OLDER,
        None => answers_within + NEXT_SERVES_WITHIN,
    }
}

/// Whether the node, which was asked to restart so long ago, has begun anew since, and takes part.
fn is_back(node: &pb::NodeStatus, ago: Duration) -> bool {
    let started = Duration::from_millis(node.started_ms_ago);
    node.session != 0 && started + LATE < ago
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_answers_for_long_is_waited_for_longer() {
        let s = Duration::from_secs;
        assert_eq!(limit(None, s(300)), s(330));
        assert_eq!(limit(None, s(0)), s(60));
        assert_eq!(limit(Some(5), s(300)), s(5));
        assert_eq!(limit(Some(0), s(300)), s(0));
    }

    #[test]
    fn a_node_is_back_once_it_is_younger_than_the_wish_and_takes_part() {
        let ms = Duration::from_millis;
        let seen = |started_ms_ago, session| pb::NodeStatus {
            started_ms_ago,
            session,
            ..pb::NodeStatus::default()
        };
        assert!(!is_back(&seen(90_000, 7), ms(500)), "the one before");
        assert!(!is_back(&seen(300, 0), ms(500)), "not yet in the cluster");
        assert!(is_back(&seen(300, 9), ms(500)));
        // Unreachable: nothing is known of it.
        assert!(!is_back(&pb::NodeStatus::default(), ms(500)));
    }
}
