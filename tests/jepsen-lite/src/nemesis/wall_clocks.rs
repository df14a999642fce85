//! N24: one node's time of day jumps. Nothing but what it tells its reader may depend on that, so
//! nothing is excused.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;

use crate::backend::{NodeIndex, log_of};
use crate::clock::{self, pause};
use crate::judge::sessions::{plain, unix_ns};
use crate::nemesis::target::follower;
use crate::seed::Random;
use crate::trial::Trial;

/// Seconds.
const JUMPS: [i64; 4] = [10, -10, 3_600, -3_600];
const HOLD_MIN_MS: u64 = 4_000;
const HOLD_MAX_MS: u64 = 15_000;
/// The library looks once a second; the machine is shared.
const SEEN_LIMIT: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Between a line of the log and the look at it: less than half of the smallest jump.
const SLACK_SECONDS: i64 = 4;
/// A line that a node writes when it has sent a backup.
const BACKUP_SENT: &str = "backup sent";
const FAULT: &str = "clock-jumps";

/// # Errors
/// The nodes have no clocks of their own, a jump is not seen, or the cluster is not whole.
pub(super) async fn strike(trial: &mut Trial, random: &mut Random) -> anyhow::Result<()> {
    trial.expect_fault(FAULT.to_owned());
    let leader = trial.cluster.leader().await?;
    let node = match random.chance(50) {
        true => leader,
        false => follower(leader, random),
    };
    let by = *random.pick(&JUMPS).context("a jump")?;
    let pid = trial.cluster.nodes[node].pid().context("a process")?;
    trial.cluster.wall_clock(node)?.check_loaded(pid)?;
    let (number, leads) = (node + 1, leader + 1);
    trial.say(&format!("node{number} is {by} s off, node{leads} leads"));
    trial
        .recorder
        .fault(format!("clock off by {by} s"), Some(node));
    trial.cluster.wall_clock(node)?.set(by)?;
    until_off_by(trial, node, by).await?;
    trial.fault_happened(FAULT.to_owned(), node == leader);
    pause(Duration::from_millis(
        random.between(HOLD_MIN_MS, HOLD_MAX_MS),
    ))
    .await;
    trial.recorder.fault("clock is right", Some(node));
    trial.cluster.wall_clock(node)?.set(0)?;
    until_off_by(trial, node, 0).await?;
    trial.calm("clocks are right").await
}

/// Waits until the node's own log is that much off the host's time.
async fn until_off_by(trial: &Trial, node: NodeIndex, by: i64) -> anyhow::Result<()> {
    let seen = clock::until(SEEN_LIMIT, LOOK_EVERY, || async {
        let off = off_by(trial, node).await;
        match off.map_err(|error| format!("{error:#}"))? {
            off if (off - by).abs() <= SLACK_SECONDS => Ok(()),
            off => Err(format!("node{} is {off} s off, not {by} s", node + 1)),
        }
    });
    seen.await.map_err(anyhow::Error::msg)
}

/// Seconds by which a line that the node writes just now is off.
async fn off_by(trial: &Trial, node: NodeIndex) -> anyhow::Result<i64> {
    let mut backup = trial.cluster.client(&[node])?.backup().await?;
    while backup.next().await?.is_some() {}
    let log = std::fs::read(log_of(&trial.cluster.nodes[node].config.data_dir))?;
    let told = newest(&String::from_utf8_lossy(&log)).context("no line of a backup")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    Ok(told - i64::try_from(now)?)
}

/// The time of the newest line about a backup, in seconds since 1970.
fn newest(log: &str) -> Option<i64> {
    let mut lines = log.lines().rev();
    let line = plain(lines.find(|line| line.contains(BACKUP_SENT))?);
    let ns = unix_ns(line.split_whitespace().next()?)?;
    i64::try_from(ns / 1_000_000_000).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_line_of_a_backup_tells_the_time() {
        let log = "2026-11-26T05:50:47.4Z  INFO nihilo: backup sent index=3\n\
                   \u{1b}[2m2026-11-26T06:50:48.5Z\u{1b}[0m  INFO nihilo: backup sent index=4\n\
                   2026-11-26T05:50:49.1Z  INFO nihilo: something else\n";
        assert_eq!(newest(log), Some(1_795_675_848));
        assert_eq!(newest("2026-11-26T05:50:49.1Z  INFO other\n"), None);
    }
}
