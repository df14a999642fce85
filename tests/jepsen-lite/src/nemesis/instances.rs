//! Faults of instances: the nodes live, what they run does not.

use std::fmt;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

use crate::backend::{N_NODES, NodeIndex};
use crate::clock::pause;
use crate::judge::node_name;
use crate::nemesis::apps;
use crate::proc_scan::{self, Process};
use crate::seed::Random;
use crate::trial::Trial;

const HANG_MIN_MS: u64 = 300;
const HANG_MAX_MS: u64 = 4_000;
/// For an instance to be there.
const LOOKS: usize = 50;
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstanceFault {
    /// N32: SIGKILL.
    Kill,
    /// N33: SIGSTOP, and SIGCONT after a while.
    Hang,
    /// N34: what a service of its own starts never listens.
    NeverReady,
    /// N36: whoever is told to end goes on, and has to be killed.
    IgnoreTerm,
}

impl InstanceFault {
    pub const ALL: [Self; 4] = [Self::Kill, Self::Hang, Self::NeverReady, Self::IgnoreTerm];

    /// # Errors
    /// No instance runs, or the cluster is not whole afterwards.
    pub(super) async fn strike(self, trial: &mut Trial, random: &mut Random) -> anyhow::Result<()> {
        match self {
            InstanceFault::Kill => self.strike_one(trial, random).await,
            InstanceFault::Hang => self.strike_one(trial, random).await,
            InstanceFault::NeverReady => apps::never_ready(trial).await,
            InstanceFault::IgnoreTerm => apps::ignore_term(trial).await,
        }
    }

    async fn strike_one(self, trial: &mut Trial, random: &mut Random) -> anyhow::Result<()> {
        let victim = victim(trial, random).await?;
        let node = node_of(&victim).context("an instance on one of the nodes")?;
        trial.say(&format!("{self} {}", victim.instance));
        trial.hurt(node, &format!("{self} {}", victim.instance));
        let pid = i32::try_from(victim.pid).ok().and_then(Pid::from_raw);
        let pid = pid.context("a process id")?;
        // It may have ended by itself just now.
        let send = |signal| kill_process(pid, signal).unwrap_or(());
        match self {
            InstanceFault::Hang => {
                send(Signal::STOP);
                pause(Duration::from_millis(
                    random.between(HANG_MIN_MS, HANG_MAX_MS),
                ))
                .await;
                send(Signal::CONT);
            }
            _ => send(Signal::KILL),
        }
        trial.unhurt(node, "the instance is gone or goes on").await
    }
}

async fn victim(trial: &Trial, random: &mut Random) -> anyhow::Result<Process> {
    for _ in 0..LOOKS {
        let mut running = proc_scan::instances(&trial.ledger);
        if !running.is_empty() {
            running.sort_by_key(|process| process.pid);
            let n = random.between(0, running.len() as u64);
            return Ok(running.swap_remove(usize::try_from(n).unwrap_or(0)));
        }
        pause(LOOK_EVERY).await;
    }
    anyhow::bail!("no instance came up in {:?}", LOOK_EVERY * LOOKS as u32)
}

fn node_of(process: &Process) -> Option<NodeIndex> {
    (0..N_NODES).find(|node| node_name(*node) == process.node)
}

impl fmt::Display for InstanceFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            InstanceFault::Kill => "kill-instance",
            InstanceFault::Hang => "hang-instance",
            InstanceFault::NeverReady => "never-ready",
            InstanceFault::IgnoreTerm => "ignores-sigterm",
        })
    }
}
